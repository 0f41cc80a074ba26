"""Target propagation on MNIST at the settings of Bartunov et al. (2018), recorded in ``data/runs/``.

784-5×256-10 tanh, Glorot, batches of 100, all 60,000 training images, 50 epochs (of forward and of inverse training
each). ``published`` takes learning rates, Adam's β and ε and the noise from the paper's Table 5, which has no row for
AO-SDTP: that takes the row of SDTP. The paper ran 60 configurations for up to 500 epochs and reports the best. Its α
is read as the step for the loss of *one* example; ``mean-loss`` reads it as the step for the mean loss of the batch.
The other names say what is changed: ``adam`` takes Adam's own β and ε, ``step`` sets targets a tenth of the way to the
label, ``narrow`` gives 64 auxiliary units instead of 512. ``collapse-…`` are the first two epochs of SDTP, measured
every 10,000 examples. Nothing is chosen on the test set. A run that is on record is not repeated. A table for people,
then one line of JSON: ``{"<id>": test error after the last epoch, …}``.

    python -m bioplaus_lite.data fetch mnist
    python benchmarks/target_propagation_runs.py [ID …] [--threads 1]
"""

from __future__ import annotations

import argparse
import json
import math
import resource
import time

import torch

from bioplaus_lite.data import load
from bioplaus_lite.measures import gauss_newton_angles, participation_ratio, target_steps, update_angles
from bioplaus_lite.networks import MLP
from bioplaus_lite.rules import TARGET, TargetRule, alternate, make_rule
from bioplaus_lite.runs import provenance, save_run
from bioplaus_lite.runs.records import recorded
from bioplaus_lite.training import fit

SIZES, EPOCHS, BATCH = (784, *[256] * 5, 10), 50, 100


def adam(lr: float, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8) -> dict:
    return {"lr": lr, "betas": betas, "eps": eps}


#: Table 5: Adam of the forward and of the inverse weights, standard deviation of the noise, step α.
PUBLISHED = {
    "dtp-par": (adam(7.57e-4, (0.99, 0.95), 1e-3), adam(7.68e-4, (0.99, 0.999), 1e-4), 0.361, 0.150),
    "dtp-alt": (adam(3.08e-4, (0.99, 0.99), 1e-4), adam(4.593e-3, (0.99, 0.999), 1e-4), 0.220, 0.232),
    "sdtp-par": (adam(4.02e-4, (0.99, 0.999), 1e-8), adam(1.101e-3, (0.99, 0.95), 1e-6), 0.214, None),
    "sdtp-alt": (adam(3.01e-4, (0.9, 0.95), 1e-4), adam(9.572e-3, (0.9, 0.95), 1e-3), 0.118, None),
}

#: what is changed in addition to the published settings, by the words in a run's name
CHANGES = {
    "dtp": ("published", "adam", "mean-loss"),
    "sdtp": ("published", "step", "adam", "adam-step"),
    "ao_sdtp": ("published", "step", "adam-step", "adam-step-narrow"),
}
SEEDS = (0, 1, 2)

#: id: (rule, turns, change, seed, epochs, examples between two measurements)
CATALOGUE = (
    {
        f"bartunov-{rule}-{turns}-{change}-s{seed}": (rule, turns, change, seed, EPOCHS, 60_000)
        for seed in SEEDS
        for rule, changes in CHANGES.items()
        for change in changes
        for turns in ("par", "alt")
    }
    | {f"bartunov-backprop-adam-s{seed}": ("backprop", "par", "adam", seed, EPOCHS, 60_000) for seed in SEEDS}
    | {
        f"collapse-sdtp-par-{change}-s{seed}": ("sdtp", "par", change, seed, 2, 10_000)
        for change in CHANGES["sdtp"]
        for seed in SEEDS
    }
)


def settings(rule: str, turns: str, change: str) -> tuple[dict, dict]:
    """Options of the rule, and Adam's settings for the groups of its parameters."""
    if rule not in TARGET:
        return {}, {"forward": adam(1e-3)}
    words = change.split("-")
    forward, inverse, noise, alpha = PUBLISHED[f"{'dtp' if rule == 'dtp' else 'sdtp'}-{turns}"]
    options = {"noise": noise}
    if alpha:
        options["alpha"] = alpha if change == "mean-loss" else alpha * BATCH
    if "step" in words:
        options["step"] = 0.1
    if "narrow" in words:
        options["auxiliary"] = 64
    if "adam" in words:
        forward, inverse = adam(forward["lr"]), adam(inverse["lr"])
    return options, {"forward": forward, "feedback": inverse}


def run(name: str, data) -> dict:
    kind, turns, change, seed, epochs, every = CATALOGUE[name]
    start = time.perf_counter()
    options, groups = settings(kind, turns, change)
    network = MLP(SIZES, activation="tanh", init="glorot", seed=seed)
    rule = make_rule(kind, network, **options, **({} if kind == "backprop" else {"seed": 1000 + seed}))
    x, y = data.x_test[:1000], data.y_test[:1000]

    def measure(rule) -> dict[str, float]:
        values = {f"update_angle_{l}": angle for l, angle in update_angles(rule, x, y).items()}
        h = [a.detach() for a in rule.network.activities(x)]
        top = rule.network.depth - 1
        values |= {"dimension_top": participation_ratio(h[top]), "saturated_top": (h[top].abs() > 0.95).double().mean()}
        if isinstance(rule, TargetRule):
            values |= {f"step_{l}": step for l, step in target_steps(rule, x, y).items()}
            angles = gauss_newton_angles(rule, x[:20], y[:20], damping=0.01)
            values |= {f"gauss_newton_{l}": angle for l, angle in angles.items()}
            spread = {l: (h[l - 1] - h[l - 1].mean(0)).square().sum(1).mean().item() for l in rule.inverses}
            values |= {f"missed_{l}": miss / spread[l] for l, miss in rule.reconstruction(x, noise=0).items()}
            s = torch.linalg.svdvals(rule._parameters[f"B{rule.inverses[-1]}"].detach())
            values |= {"inverse_largest": s[0], "inverse_smallest": s[-1]}
        return values

    by_turns = kind in TARGET and turns == "alt"
    curves: dict[str, list[float]] = {}
    passes = 2 * epochs if by_turns else epochs
    history = fit(
        rule, (data.x_train, data.y_train), (data.x_test, data.y_test), epochs=passes, batch_size=BATCH, seed=seed,
        optimizer=lambda given: torch.optim.Adam([g | groups[g["name"]] for g in given], fused=True),
        scheduler=alternate(rule) if by_turns else None, measure=measure, progress=True,
        every=every * (2 if by_turns else 1),
    )  # fmt: skip
    frame = history.frame
    for metric in frame[frame.split == "rule"].metric.unique():
        # An angle to a gradient that has vanished is no number, and JSON has none.
        curves[metric] = [round(v, 5) if math.isfinite(v) else None for v in history.curve(metric, "rule")[1]]
    curves["test_error"] = [round(1 - a, 6) for a in history.curve("accuracy")[1]]
    curves["train_loss"] = [round(v, 6) for v in history.curve("loss", "train")[1]]
    return {
        "id": name, "group": "targets", "rule": kind, "turns": turns, "change": change, "dataset": "mnist",
        "sizes": SIZES, "seed": seed, "epochs": epochs, "test_error": curves["test_error"][-1], "curves": curves,
        "options": options,
        "optimizer": {"name": "Adam", "batch_size": BATCH, **groups}, "training_seconds": round(frame.seconds.max(), 1),
        "wall_seconds": round(time.perf_counter() - start, 1),
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
    print(f"{'id':<40}{'test error':>12}{'seconds':>9}")
    for name in args.ids or CATALOGUE:
        record = recorded().get(name) or run(name, data)
        save_run(record)
        errors[name] = record["test_error"]
        print(f"{name:<40}{100 * errors[name]:>11.2f}%{record['training_seconds']:>9}", flush=True)
    print(json.dumps(errors))


if __name__ == "__main__":
    main()
