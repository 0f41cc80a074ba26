"""From the settings of a run, plain numbers and names, to the objects that a training needs."""

from __future__ import annotations

import inspect
import json
import math
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from bioplaus_lite import checks
from bioplaus_lite.checks import one_of
from bioplaus_lite.data import Dataset
from bioplaus_lite.measures import MEASURES, Dynamics, Probe
from bioplaus_lite.models.microcircuits import PyramidalNetwork
from bioplaus_lite.models.segregated import RateNetwork, SegregatedParameters
from bioplaus_lite.networks import CNN, MLP, Network
from bioplaus_lite.rules import LearningRule, card_of
from bioplaus_lite.training import History

__all__ = [
    "MIME", "NETWORKS", "OPTIMIZERS", "SCHEDULES", "Measures", "Outcome", "build_network", "build_rule", "curves_of",
    "optimizer_from", "report_progress", "scheduler_from", "split_of", "turns_of",
]  # fmt: skip

#: The type under which a notebook hands its result to the runner; no reader shows it.
MIME = "application/vnd.bioplaus-lite.run+json"
#: Set by the runner in the kernel of a run, to the run's parameters; without it a training publishes nothing and tells
#: nobody how far it is.
UNDER_RUNNER = "BIOPLAUS_RUN"
PROGRESS = "progress "

#: The optimisers of ``torch.optim`` that a run can name.
OPTIMIZERS = {name: getattr(torch.optim, name) for name in ("SGD", "RMSprop", "Adam", "AdamW")}
#: The schedules of ``torch.optim.lr_scheduler`` that a run can name.
SCHEDULES = {
    name: getattr(torch.optim.lr_scheduler, name)
    for name in ("StepLR", "MultiStepLR", "ExponentialLR", "CosineAnnealingLR")
}


def check_options(what: str, given: Mapping[str, Any], function: Callable, but: Sequence[str] = ()) -> None:
    """Raise ``ValueError`` if ``function`` takes no option called so, or if ``given`` lacks one that it needs."""
    parameters = {name: p for name, p in inspect.signature(function).parameters.items() if name not in but}
    for name in given:
        if name not in parameters:
            raise ValueError(f"{what}: unknown option {name!r}; allowed are {', '.join(parameters) or 'none'}")


# ------------------------------------------------------------------------------------------------------ the network


MOST_WEIGHTS = 10**8  # 0.4 GB in float32; a number with too many zeros should be said before memory is asked for


def _sizes(image_shape: Sequence[int], hidden: Sequence[int], classes: int) -> tuple[int, ...]:
    sizes = (math.prod(image_shape), *checks.wholes("hidden", hidden), classes)
    if (n := sum(below * above for below, above in pairwise(sizes))) > MOST_WEIGHTS:
        raise ValueError(f"hidden {list(hidden)!r} makes {n:,} weights; at most {MOST_WEIGHTS:,} are allowed")
    return sizes


def _mlp(image_shape: Sequence[int], classes: int, *, hidden: Sequence[int] = (), **options: Any) -> MLP:
    check_options("network MLP", options, MLP, ("sizes",))
    return MLP(_sizes(image_shape, hidden, classes), **options)


def _cnn(image_shape: Sequence[int], classes: int, **options: Any) -> CNN:
    check_options("network CNN", options, CNN, ("image_shape", "classes"))
    channels = checks.wholes("channels", options.get("channels", (16, 32)))
    area = checks.whole("kernel", options.get("kernel", 5)) ** 2
    n = area * sum(below * above for below, above in pairwise((image_shape[0], *channels)))
    if n > MOST_WEIGHTS:
        raise ValueError(f"channels {list(channels)!r} make {n:,} weights; at most {MOST_WEIGHTS:,} are allowed")
    return CNN(image_shape, classes=classes, **options)


def _rate(
    image_shape: Sequence[int], classes: int, *, hidden: Sequence[int] = (), constants: Mapping[str, Any] | None = None,
    **options: Any,
) -> RateNetwork:
    check_options("network RateNetwork", options, RateNetwork, ("sizes", "constants"))
    constants = {name: tuple(v) if isinstance(v, list) else v for name, v in dict(constants or {}).items()}
    check_options("network constants", constants, SegregatedParameters)
    return RateNetwork(_sizes(image_shape, hidden, classes), SegregatedParameters(**constants), **options)


def _pyramidal(
    image_shape: Sequence[int], classes: int, *, hidden: Sequence[int] = (), **options: Any
) -> PyramidalNetwork:
    check_options("network PyramidalNetwork", options, PyramidalNetwork, ("sizes",))
    return PyramidalNetwork(_sizes(image_shape, hidden, classes), **options)


#: The networks by the ``type`` of a run's settings: functions of the shape of an image, the number of classes, options.
NETWORKS: dict[str, Callable[..., Network]] = {
    "MLP": _mlp,
    "CNN": _cnn,
    "RateNetwork": _rate,
    "PyramidalNetwork": _pyramidal,
}


def build_network(settings: Mapping[str, Any], image_shape: Sequence[int], classes: int, *, seed: int) -> Network:
    """The network of a run.

    Args:
        settings: ``type``, one of :data:`NETWORKS`, and its options: ``hidden`` (units of the hidden layers) for an
            MLP or a RateNetwork, ``channels`` for a CNN, ``activation``, ``init``, ``dtype``, ``constants`` …; and
            ``held``, the layers whose weights and biases stay as they are drawn.
        image_shape: ``(C, H, W)``.
        classes: units of the output layer.
        seed: of the weights.

    Raises:
        ValueError: an option is unknown or out of range.
    """
    options = dict(settings)
    make = NETWORKS[one_of("network type", options.pop("type", None), NETWORKS)]
    if "seed" in options:
        raise ValueError("network: the seed of the weights is the seed of the run; leave 'seed' out")
    if "dtype" in options:
        options["dtype"] = getattr(torch, one_of("dtype", options["dtype"], ("float32", "float64")))
    held = options.pop("held", [])
    network = make(image_shape, classes, seed=seed, **options)
    if held and isinstance(network, RateNetwork):
        raise ValueError(f"network RateNetwork: held {held!r} is not possible; set the eta of these layers to 0")
    for layer in held:
        if layer not in range(1, network.depth + 1):
            raise ValueError(f"network: held names layer {layer!r}; there are layers 1 to {network.depth}")
        network.weight(layer).requires_grad_(False)
        if (bias := network.bias(layer)) is not None:
            bias.requires_grad_(False)
    return network


def build_rule(name: str, network: Network, *, seed: int, **options: Any) -> LearningRule:
    """``make_rule``, with a seed for the rules that draw something.

    Raises:
        ValueError: the name or an option is unknown, or an option is out of range.
    """
    card = card_of(name)
    takes = card.takes
    for option in options:
        if option not in takes or option == "seed":
            allowed = [o for o in takes if o != "seed"]
            raise ValueError(f"rule {name}: unknown option {option!r}; allowed are {', '.join(allowed) or 'none'}")
    return card.make(network, **options, **({"seed": seed} if "seed" in takes else {}))


def split_of(data: Dataset, validation: Mapping[str, int]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """``(x, y, x_val, y_val)``: what a run learns from, and what it holds out; nothing with a ``size`` of 0."""
    if validation["size"]:
        return data.split_validation(validation["size"], validation["seed"])
    return data.x_train, data.y_train, data.x_train[:0], data.y_train[:0]


# ---------------------------------------------------------------------------------------------------- the optimiser


def optimizer_from(settings: Mapping[str, Any]) -> Callable[[list[dict]], torch.optim.Optimizer]:
    """A function that makes an optimiser of parameter groups: what ``fit`` takes.

    Args:
        settings: ``name``, one of :data:`OPTIMIZERS`, and its options (``lr``, ``momentum``, ``betas``, ``eps``,
            ``weight_decay`` …). A table under the name of a parameter group, ``forward`` or ``feedback``, holds what is
            different for that group.

    Raises:
        ValueError: a name or an option is unknown, or a group has no learning rate (when the function is called).
    """
    options: dict[str, Any] = {
        name: tuple(v) if isinstance(v, list) else v for name, v in settings.items() if name != "name"
    }
    name: Any = settings.get("name")
    cls = OPTIMIZERS[one_of("optimizer", name, OPTIMIZERS)]
    tables = {name: options.pop(name) for name in list(options) if isinstance(options[name], Mapping)}
    check_options(f"optimizer {cls.__name__}", options, cls, ("params",))
    for where, given in ((f"optimizer {cls.__name__}", options), *((f"group {n}", t) for n, t in tables.items())):
        _check_numbers(where, given)

    def make(groups: list[dict]) -> torch.optim.Optimizer:
        names = [group["name"] for group in groups]
        for name, table in tables.items():
            one_of("parameter group", name, names)
            check_options(f"optimizer {cls.__name__}, group {name}", table, cls, ("params",))
        merged = []
        for group in groups:
            own = {name: tuple(v) if isinstance(v, list) else v for name, v in tables.get(group["name"], {}).items()}
            merged.append(group | own)
            if "lr" not in merged[-1] and "lr" not in options:
                raise ValueError(f"optimizer {cls.__name__}: no learning rate 'lr' for the group {group['name']!r}")
        try:
            return cls(merged, **options)
        except (TypeError, IndexError) as error:  # PyTorch's own words for a value of the wrong kind
            raise ValueError(f"optimizer {cls.__name__} does not take {options!r}: {error}") from error

    return make


def _check_numbers(where: str, options: Mapping[str, Any]) -> None:
    """Raise ``ValueError`` unless every number of an optimiser's options is finite, and rates are numbers."""
    for name, value in options.items():
        for one in value if isinstance(value, list | tuple) else [value]:
            if isinstance(one, float) and not math.isfinite(one):
                raise ValueError(f"{where}: {name} must be finite, not {value!r}")
        if name in ("lr", "momentum", "weight_decay", "eps"):
            checks.number(f"{where}: {name}", value, least=0)


_SCHEDULE_OPTIONS: dict[str, Callable[[str, Any], Any]] = {
    "step_size": checks.whole,
    "T_max": checks.whole,
    "milestones": checks.wholes,
    "gamma": lambda name, value: checks.number(name, value, above=0),
    "eta_min": lambda name, value: checks.number(name, value, least=0),
    "last_epoch": lambda name, value: checks.whole(name, value, -1),
}


def scheduler_from(schedule: Mapping[str, Any] | None) -> Callable[[torch.optim.Optimizer], Any] | None:
    """What ``fit`` takes as ``scheduler``.

    Args:
        schedule: ``name``, one of :data:`SCHEDULES`, and its options; counted in epochs, or in rounds of turns.

    Raises:
        ValueError: a name or an option is unknown.
    """
    if not schedule:
        return None
    options = dict(schedule)
    cls = SCHEDULES[one_of("schedule", options.pop("name", None), SCHEDULES)]
    check_options(f"schedule {cls.__name__}", options, cls, ("optimizer",))
    for name, value in options.items():
        if name in _SCHEDULE_OPTIONS:
            _SCHEDULE_OPTIONS[name](f"schedule {cls.__name__}: {name}", value)
    return lambda optimizer: cls(optimizer, **options)


def turns_of(rule: LearningRule, turns: bool) -> tuple[str, ...]:
    """What ``fit`` takes as ``turns``: all phases but the first, which is all of them at once.

    Raises:
        ValueError: the rule has no phases that could take turns.
    """
    if not turns:
        return ()
    if len(rule.phases) < 3:
        raise ValueError(f"turns: {type(rule).__name__} has no phases that take turns, only {', '.join(rule.phases)}")
    return rule.phases[1:]


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
        for name, answer in rule.other_answers().items():
            x, y = self.test
            values[f"{name}_accuracy"] = (answer(x).argmax(1) == y).double().mean().item()
        return values


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
            from bioplaus_lite.runs.fingerprints import fingerprint  # which makes its rules with this module

            record = self.record() | {"fingerprint": fingerprint(json.loads(parameters))}
            bundle[MIME] = json.dumps(record, allow_nan=False)
        return bundle
