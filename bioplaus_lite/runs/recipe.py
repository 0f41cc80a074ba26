"""From the settings of a run, plain numbers and names, to the objects that a training needs."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from bioplaus_lite import checks
from bioplaus_lite.checks import one_of
from bioplaus_lite.data import Dataset
from bioplaus_lite.models.microcircuits import PyramidalNetwork
from bioplaus_lite.models.segregated import RateNetwork, SegregatedParameters
from bioplaus_lite.networks import CNN, MLP, Network
from bioplaus_lite.rules import LearningRule, card_of

__all__ = [
    "NETWORKS", "OPTIMIZERS", "SCHEDULES", "build_network", "build_rule", "optimizer_from", "scheduler_from",
    "split_of", "turns_of",
]  # fmt: skip

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
