"""Feedback alignment with larger feedback weights, recorded in ``data/runs/``.

The network of Lillicrap et al. (2016) as the catalogue has it (``paper-lillicrap``): 784-1000-10, logistic units, SGD
with batches of ten and weight decay 1e-6, 20 epochs, the same 5,000 validation images. There ``B`` comes from the
range of ``W``; here it is 32 times that, about ±1, at a learning rate of 0.1. Factor and rate are the better of two
trainings with seed 0, 32 at 0.1 and 16 at 0.3, by the last 5,000 training images, after five of three epochs with
factors of 1 to 16. These are not on record, and the two also printed their test errors. ``weight_norm_2`` is ‖W2‖
itself, where records of the catalogue divide it by its first value. A run that is on record is not repeated. A table
for people, then one line of JSON: ``{"<id>": test error after the last epoch, …}``.

    python -m bioplaus_lite.data fetch mnist
    python benchmarks/feedback_size.py [--seeds 0 1 2] [--threads 1]
"""

from __future__ import annotations

import argparse
import json
import time

import torch

from bioplaus_lite.data import Dataset, load
from bioplaus_lite.measures import error_angles
from bioplaus_lite.networks import MLP
from bioplaus_lite.rules import make_rule
from bioplaus_lite.runs import provenance, save_run
from bioplaus_lite.runs.records import recorded
from bioplaus_lite.training import fit

FACTOR, RATE, DECAY, EPOCHS, BATCH = 32, 0.1, 1e-6, 20, 10


def run(name: str, seed: int, data: Dataset, origin: dict) -> dict:
    start = time.perf_counter()
    x, y, x_val, y_val = data.split_validation(5000, 0)
    rule = make_rule("fa", MLP((784, 1000, 10), activation="sigmoid", seed=seed), seed=1000 + seed)
    rule.B2.mul_(FACTOR)

    def measure(rule) -> dict[str, float]:
        angle = error_angles(rule, x_val[:1000], y_val[:1000])[1]
        return {"error_angle_1": angle, "weight_norm_2": rule.network.W2.norm().item()}

    history = fit(
        rule, (x, y), {"validation": (x_val, y_val), "test": (data.x_test, data.y_test)}, epochs=EPOCHS,
        batch_size=BATCH, seed=seed, measure=measure, progress=True,
        optimizer=lambda given: torch.optim.SGD(given, lr=RATE, weight_decay=DECAY),
    )  # fmt: skip
    curves = {m: [round(v, 4) for v in history.curve(m, "rule")[1]] for m in ("error_angle_1", "weight_norm_2")}
    for split in ("validation", "test"):
        curves[f"{split}_error"] = [round(1 - a, 6) for a in history.curve("accuracy", split)[1]]
    return {
        "id": name, "group": "feedback-size", "rule": "fa", "dataset": "mnist", "sizes": (784, 1000, 10),
        "seed": seed, "epochs": EPOCHS, "factor": FACTOR, "test_error": curves["test_error"][-1], "curves": curves,
        "optimizer": {"name": "SGD", "lr": RATE, "weight_decay": DECAY, "batch_size": BATCH},
        "wall_seconds": round(time.perf_counter() - start, 1), **origin,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    origin = provenance()  # one for all seeds: a commit in between must not set them apart
    data, errors = load("mnist", "full"), {}
    for seed in args.seeds:
        name = f"feedback-size-{FACTOR}-s{seed}"
        record = recorded().get(name) or run(name, seed, data, origin)
        save_run(record)
        errors[name] = record["test_error"]
        print(f"{name:<24}{100 * errors[name]:>8.2f}%{record['wall_seconds']:>9.0f} s", flush=True)
    print(json.dumps(errors))


if __name__ == "__main__":
    main()
