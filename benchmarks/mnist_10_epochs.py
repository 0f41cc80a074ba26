"""Test accuracy of every rule after 10 epochs of full MNIST, 784-500-10, recorded in ``data/runs/``.

Every rule trains the same network, from the same seeds, with the same optimiser: SGD at rate 0.05, momentum 0.9,
batches of 100. Nothing is tuned for a rule, and nothing is chosen on the test set. A run that is on record is not
repeated. A table for people, then one line of JSON: ``{"<rule>": [accuracy of each seed, …], …}``.

    python -m bioplaus_lite.data fetch mnist
    python benchmarks/mnist_10_epochs.py [--rules fa dfa …] [--seeds 0 1 2]
"""

from __future__ import annotations

import argparse
import json

import torch

from bioplaus_lite.data import load
from bioplaus_lite.diagnostics import update_angles, weight_angles
from bioplaus_lite.networks import MLP
from bioplaus_lite.rules import LAYERED, make_rule
from bioplaus_lite.runs import RUNS, provenance, save_run
from bioplaus_lite.training import fit

SIZES, EPOCHS, RATE, MOMENTUM, BATCH = (784, 500, 10), 10, 0.05, 0.9, 100


def run(name: str, seed: int, data) -> dict:
    network = MLP(SIZES, seed=seed)
    rule = make_rule(name, network) if name == "backprop" else make_rule(name, network, seed=1000 + seed)
    history = fit(
        rule,
        (data.x_train, data.y_train),
        (data.x_test, data.y_test),
        epochs=EPOCHS,
        batch_size=BATCH,
        optimizer=lambda groups: torch.optim.SGD(groups, lr=RATE, momentum=MOMENTUM),
        seed=seed,
        progress=True,
    )
    batch = data.x_test[:1000], data.y_test[:1000]
    curve = history.curve("accuracy")[1]
    return {
        "id": f"mnist10-{name}-s{seed}",
        "rule": name,
        "dataset": "mnist",
        "sizes": SIZES,
        "seed": seed,
        "epochs": EPOCHS,
        "test_error": round(1 - curve[-1], 6),
        "test_accuracy": [round(a, 6) for a in curve],
        "train_loss": [round(v, 6) for v in history.curve("loss", "train")[1]],
        "update_angle": {str(k): round(v, 2) for k, v in update_angles(rule, *batch).items()},
        "weight_angle": {str(k): round(v, 2) for k, v in weight_angles(rule).items()},
        "optimizer": {"name": "SGD", "lr": RATE, "momentum": MOMENTUM, "batch_size": BATCH},
        "seconds": round(history.frame.seconds.max(), 1),
        **provenance(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rules", nargs="+", default=list(LAYERED), choices=LAYERED)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    args = parser.parse_args()
    torch.set_num_threads(1)
    data = load("mnist", "full")
    accuracies: dict[str, list[float]] = {}
    print(f"{'rule':<16}{'seed':>5}{'accuracy':>10}{'angle of ΔW1':>14}{'seconds':>9}")
    for name in args.rules:
        for seed in args.seeds:
            path = RUNS / f"mnist10-{name}-s{seed}.json"
            record = json.loads(path.read_text("utf-8")) if path.exists() else run(name, seed, data)
            save_run(record)
            accuracy = round(1 - record["test_error"], 4)
            accuracies.setdefault(name, []).append(accuracy)
            angle = record["update_angle"]["1"]
            print(f"{name:<16}{seed:>5}{accuracy:>10.4f}{angle:>14.1f}{record['seconds']:>9}", flush=True)
    print(json.dumps(accuracies))


if __name__ == "__main__":
    main()
