"""A run's settings, trained in this process: what a training is made of, and what it leaves."""

from __future__ import annotations

import json
import math
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from bioplaus_lite.checks import one_of
from bioplaus_lite.data import Dataset, load
from bioplaus_lite.measures import MEASURES, Dynamics, Probe
from bioplaus_lite.rules import LearningRule
from bioplaus_lite.runs.catalogue import DEFAULTS, OPTIONAL, Run, check_settings
from bioplaus_lite.runs.recipe import build_network, build_rule, optimizer_from, scheduler_from, split_of, turns_of
from bioplaus_lite.runs.records import provenance
from bioplaus_lite.training import History, fit

__all__ = [
    "MIME", "Measures", "Outcome", "Training", "complete", "curves_of", "other_accuracies", "prepare",
    "report_progress", "train",
]  # fmt: skip

#: The type under which a notebook hands its result to the runner; no reader shows it.
MIME = "application/vnd.bioplaus-lite.run+json"
#: Set by the runner in the kernel of a run, to the run's parameters; without it a training publishes nothing and tells
#: nobody how far it is.
UNDER_RUNNER = "BIOPLAUS_RUN"
PROGRESS = "progress "


# ------------------------------------------------------------------------------------------------- what is recorded


class Measures:
    """What a training records beside loss and accuracy, on one fixed batch. For each layer ``l``:

    - the measures of :data:`~bioplaus_lite.measures.named.MEASURES` that are always taken: ``update_angle_l`` between
      the rule's update and the negative gradient, in degrees; ``gradient_noise_l`` and ``snr_l``, how the update varies
      over ten parts of the batch, at the same weights; below the output, on the first 200 examples, ``error_angle_l``
      between the rule's errors and those of backprop, and ``inverse_angle_l`` between them and those of the
      pseudo-inverse of the Jacobian; nothing where a rule has no such signal; and those that are named;
    - ``weight_norm_l``, ``update_norm_l``, ``gradient_change_l``: see
      :class:`~bioplaus_lite.measures.changes.Dynamics`.

    A rule that has other ways to answer, a test with spikes for instance, is tested by them too: ``spiking_accuracy``.

    Args:
        rule: before its training.
        x, y: the batch, at least 20 examples.
        test: the test set.
        more: names of further measures.

    Raises:
        ValueError: there is no such measure.
    """

    PARTS, FEW = 10, 200

    def __init__(
        self, rule: LearningRule, x: Tensor, y: Tensor, test: tuple[Tensor, Tensor], more: Sequence[str] = ()
    ) -> None:
        named = [one_of("measure", name, MEASURES) for name in more]
        self.asked = [m for m in MEASURES.values() if m.always or m.name in named]
        self.batch, self.test, self.dynamics = (x, y), test, Dynamics(rule)

    def __call__(self, rule: LearningRule) -> dict[str, float]:
        probe = Probe(rule, *self.batch, parts=self.PARTS, few=self.FEW)
        values: dict[str, float] = {}
        for measure in self.asked:
            values |= {name: value for name, value in measure(probe).items() if value is not None}
        values |= self.dynamics.since_last(probe)
        return values | other_accuracies(rule, *self.test)


def other_accuracies(rule: LearningRule, x: Tensor, y: Tensor) -> dict[str, float]:
    """``{"spiking_accuracy": …}``: what is right in a rule's other ways to answer; nothing if it has none."""
    return {
        f"{name}_accuracy": (answer(x).argmax(1) == y).double().mean().item()
        for name, answer in rule.other_answers().items()
    }


_last_reported = 0.0


def report_progress(examples: int, total: int) -> None:
    """Tell the runner how far a training is, at most once a second; does nothing where there is no runner."""
    global _last_reported
    now = time.monotonic()
    if UNDER_RUNNER in os.environ and (now - _last_reported >= 1 or examples >= total):
        _last_reported = now
        print(f"{PROGRESS}{examples} {total}", file=sys.stderr, flush=True)


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 6)


def _peak_mebibytes() -> int | None:
    """The largest memory of this process so far; ``None`` where the system does not say."""
    try:
        import resource
    except ImportError:  # not a Unix
        return None
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10))


def _plain(value: float) -> float | None:
    """A number that JSON can hold, with seven significant digits."""
    return float(f"{value:.7g}") if math.isfinite(value) else None


def curves_of(history: History, passes: int = 1) -> dict[str, dict[str, list]]:
    """``{split: {"epoch": […], "examples": […], "seconds": […], metric: […], …}}``: a history as lists.

    Args:
        history: of a training.
        passes: over the data in an epoch: 2 where inverse and forward weights learn by turns.
    """
    curves: dict[str, dict[str, list]] = {}
    for split, frame in history.frame.groupby("split", sort=False):
        table = frame.pivot(index="examples", columns="metric", values="value")
        at = frame.drop_duplicates("examples").set_index("examples").loc[table.index]
        curves[split] = {
            "epoch": [_plain(e / passes) for e in at.epoch],
            "examples": table.index.tolist(),
            "seconds": [_plain(s) for s in at.seconds],
        }
        curves[split] |= {metric: [_plain(v) for v in table[metric]] for metric in table}
    return curves


class Outcome:
    """The end of a training. Shown in a notebook it is a sentence; for the runner it also holds what goes on record.

    Args:
        rule: as trained.
        history: of the training.
        origin: what ``provenance`` said before the training.
        passes: over the data in an epoch: 2 where inverse and forward weights learn by turns.
        diverged: whether the training ended because the loss was no longer finite.
    """

    def __init__(
        self,
        rule: LearningRule,
        history: History,
        origin: Mapping[str, Any],
        *,
        passes: int = 1,
        diverged: bool = False,
    ) -> None:
        self.sizes, self.history, self.origin, self.diverged = rule.network.sizes, history, origin, diverged
        self.curves = curves_of(history, passes)

    @property
    def test_error(self) -> float:
        """Fraction of the test set that is wrong after the last epoch; of a spiking rule, in a test with spikes."""
        spiking = self.curves.get("rule", {}).get("spiking_accuracy")
        return 1 - (spiking or self.curves["test"]["accuracy"])[-1]

    @property
    def validation_error(self) -> float | None:
        """Fraction of the validation set that is wrong after the last epoch; ``None`` if nothing was held out."""
        return 1 - self.curves["validation"]["accuracy"][-1] if "validation" in self.curves else None

    def __repr__(self) -> str:
        if self.diverged:
            return f"diverged after {self.curves['test']['examples'][-1]:,} examples or soon after"
        held_out = self.validation_error
        validation = "nothing held out" if held_out is None else f"validation error {100 * held_out:.2f} %"
        return f"test error {100 * self.test_error:.2f} %, {validation}"

    def record(self) -> dict[str, Any]:
        """What a run puts on record of its result. A training that diverged has an error of 1."""
        return {
            "sizes": list(self.sizes),
            "test_error": 1.0 if self.diverged else round(self.test_error, 6),
            "validation_error": 1.0 if self.diverged else _rounded(self.validation_error),
            "diverged": self.diverged,
            "seconds": round(float(self.history.frame.seconds.max()), 2),
            "peak_MiB": _peak_mebibytes(),
            "metrics": self.curves,
            **self.origin,
        }

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        bundle = {"text/plain": repr(self)}
        if parameters := os.environ.get(UNDER_RUNNER):
            from bioplaus_lite.runs.fingerprints import fingerprint  # which prepares its trainings with this module

            record = self.record() | {"fingerprint": fingerprint(json.loads(parameters))}
            bundle[MIME] = json.dumps(record, allow_nan=False)
        return bundle


# ------------------------------------------------------------------------------------------------- from the settings

Batch = tuple[Tensor, Tensor]


@dataclass(eq=False)
class Training:
    """All that a training needs, made of its settings and ready to start.

    Attributes:
        settings: all of them, also those that were left at their defaults.
        data: the data set; its test images are measured.
        batch: ``(x, y)``, what is learned from, in the network's precision.
        sets: what is measured, by name: ``train_sample``, a part of what is learned from that is as large as the
            validation set, or 5,000; ``validation``, if anything is held out; ``test``.
        rule: untrained, with its network.
        measure: what is recorded beside loss and accuracy, on the first 1,000 images of the validation set, or of the
            test set where nothing is held out.
        optimizer, scheduler, turns: what :func:`~bioplaus_lite.training.fit` takes under these names.
        started: whether :func:`train` was given it; the weights are no longer those that were drawn.
    """

    settings: Mapping[str, Any]
    data: Dataset
    batch: Batch
    sets: Mapping[str, Batch]
    rule: LearningRule
    measure: Callable[[LearningRule], dict[str, float]]
    optimizer: Callable[[list[dict]], torch.optim.Optimizer]
    scheduler: Callable[[torch.optim.Optimizer], Any] | None
    turns: tuple[str, ...]
    started: bool = field(default=False, init=False)

    def __repr__(self) -> str:
        on = f"{type(self.rule).__name__} on {type(self.rule.network).__name__}"
        return f"Training({on}, {len(self.batch[0]):,} images of {self.data.name})"

    @property
    def passes(self) -> int:
        """How often an epoch goes over the data; twice where inverse and forward weights learn by turns."""
        return len(self.turns) or 1


def prepare(run: Run | Mapping[str, Any], data: Dataset | None = None) -> Training:
    """Make what a training needs: data and their split, network, rule, optimiser, schedule, turns and measures.

    The seed ``s`` of the settings draws the weights of the network and the order of the examples. The seed
    ``1000 + s`` draws feedback weights and whatever else the rule draws.

    Args:
        run: of the catalogue, or its settings: the keys of :data:`~bioplaus_lite.runs.catalogue.DEFAULTS`, and
            ``measures``, the names of further ones.
        data: the data set if it is loaded already, or a fold of it, instead of that which ``dataset`` and ``subset``
            name.

    Raises:
        TypeError: ``run`` is neither a run nor settings.
        ValueError: a setting is unknown, missing, left to a search or out of range; or ``data`` is another set than
            they name.
    """
    p = complete(run)
    if data is None:
        data = load(p["dataset"], p["subset"])
    elif data.name != p["dataset"]:
        raise ValueError(f"data must be the dataset of the settings, {p['dataset']!r}, not {data.name!r}")
    x, y, x_val, y_val = split_of(data, p["validation"])
    x, y = x[: p["examples"]], y[: p["examples"]]
    network = build_network(p["network"], data.image_shape, len(data.classes), seed=p["seed"])
    rule = build_rule(p["rule"], network, seed=1000 + p["seed"], **p["options"])
    dtype = network.weight(1).dtype
    size = len(x_val) or 5000
    sets = {"train_sample": (x[:size].to(dtype), y[:size])}
    if len(x_val):
        sets["validation"] = x_val.to(dtype), y_val
    sets["test"] = data.x_test.to(dtype), data.y_test
    probe = sets.get("validation", sets["test"])
    return Training(
        settings=p, data=data, batch=(x.to(dtype), y), sets=sets, rule=rule,
        measure=Measures(rule, probe[0][:1000], probe[1][:1000], sets["test"], p["measures"]),
        optimizer=optimizer_from(p["optimizer"]), scheduler=scheduler_from(p["schedule"]),
        turns=turns_of(rule, p["turns"]),
    )  # fmt: skip


def complete(run: Run | Mapping[str, Any]) -> dict[str, Any]:
    """All settings of a run, also those that were left at their defaults, each checked.

    Raises:
        TypeError: ``run`` is neither a run nor settings.
        ValueError: a setting is unknown, missing, left to a search or out of range.
    """
    if isinstance(run, Run) and run.search:
        try:
            run.at(run.search.key)
        except KeyError:
            said = f"{run.id}: a search chooses {run.search.key}; give it a value with run.set({run.search.key!r}, …)"
            raise ValueError(said) from None
    given = run.parameters if isinstance(run, Run) else run
    if not isinstance(given, Mapping):
        raise TypeError(f"run must be a Run or its settings, a table by name, not {given!r}")
    known = {**DEFAULTS, **{name: [] for name in OPTIONAL}}
    for name in given:
        one_of("setting", name, known)
    p = {**known, **given}
    required = ("rule", "dataset", "network", "optimizer", "epochs", "seed")
    if missing := [name for name in required if p[name] is None]:
        raise ValueError(f"settings: {', '.join(missing)} must be given")
    check_settings(p)
    return p


# ------------------------------------------------------------------------------------------------------ the training


def train(
    run: Run | Mapping[str, Any] | Training,
    data: Dataset | None = None,
    *,
    progress: bool | Callable[[int, int], None] = report_progress,
) -> Outcome:
    """Train a run in this process; write nothing.

    The template of the recorded trainings calls this, and so gives the same numbers, bit for bit, on the same machine
    with as many threads. All sets are evaluated before the first step, after each epoch or ``every`` so many examples,
    and at the ``marks``.

    Args:
        run: of the catalogue, its settings, or what :func:`prepare` made of them. A run or its settings are left as
            they are, so that a second call gives the same; what was prepared is trained in place, once.
        data: see :func:`prepare`, which has it if ``run`` is prepared.
        progress: told ``(examples, all examples)`` after every batch; see :func:`~bioplaus_lite.training.fit`.

    Returns:
        The outcome; ``train(run).record()`` is what goes on record of it, the fingerprint apart. A trial of a search
        may diverge: then the history ends there, ``diverged`` is true, and the error on record is 1.

    Raises:
        FloatingPointError: the training diverged, and its ``purpose`` is ``result``.
        TypeError, ValueError: as :func:`prepare` and :func:`~bioplaus_lite.training.fit`; or what was prepared has been
            trained before, or comes with ``data``.
    """
    origin = provenance()  # before the training, as files may change while it runs
    if not isinstance(run, Training):
        run = prepare(run, data)
    elif data is not None:
        raise ValueError("a training that is prepared has its data; give them to prepare")
    if run.started:
        raise ValueError(f"{run!r} has been trained before, and its weights are no longer those drawn; prepare it anew")
    run.started, p, diverged = True, run.settings, False
    try:
        history = fit(
            run.rule, run.batch, run.sets, epochs=run.passes * p["epochs"], batch_size=p["batch_size"], seed=p["seed"],
            optimizer=run.optimizer, scheduler=run.scheduler, turns=run.turns, measure=run.measure,
            every=run.passes * len(run.batch[0]) if p["every"] is None else p["every"], marks=p["marks"],
            progress=progress,
        )  # fmt: skip
    except FloatingPointError as error:
        if p["purpose"] != "search":
            raise
        history, diverged = error.history, True  # type: ignore[attr-defined]  # `fit` puts it there
    return Outcome(run.rule, history, origin, passes=run.passes, diverged=diverged)
