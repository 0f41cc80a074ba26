"""How bad input is refused: each message names the argument, the value and what is allowed.

Whole numbers may be NumPy's, numbers may be whole; a truth value is neither. Everything here raises ``ValueError``, and
``TypeError`` only where the *kind* of a thing is wrong.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from numbers import Real
from typing import Any

import torch
from torch import Tensor

__all__ = [
    "finite_input", "flag", "labelled", "labels", "looked_at", "no_autocast", "number", "one_of", "seed", "tensor",
    "whole", "wholes",
]  # fmt: skip

LARGEST_SEED = 2**63 - 1
_LOOKED_AT = ContextVar("looked_at", default=False)


def whole(name: str, value: Any, least: int = 1, most: int | None = None) -> int:
    """``value`` as an ``int``, if it is a whole number from ``least`` to ``most``."""
    try:
        n = None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        n = None
    if n is None or n < least or (most is not None and n > most):
        if most is not None:
            allowed = f"a whole number from {least} to {most}"
        else:
            allowed = "a positive whole number" if least == 1 else f"a whole number of at least {least}"
        raise ValueError(f"{name} must be {allowed}, not {value!r}")
    return n


def wholes(name: str, values: Any, at_least: int = 0) -> tuple[int, ...]:
    """``values`` as a tuple, if it is a sequence of positive whole numbers, ``at_least`` so many."""
    if isinstance(values, str) or not isinstance(values, Iterable):
        raise ValueError(f"{name} must be a sequence of positive whole numbers, not {values!r}")
    values = tuple(values)
    if len(values) < at_least:
        raise ValueError(f"{name} needs at least {at_least} entries, got {values!r}")
    return tuple(whole(f"every entry of {name}", n) for n in values)


def number(
    name: str, value: Any, *, above: float = -math.inf, least: float = -math.inf, below: float = math.inf,
    most: float = math.inf,
) -> float:  # fmt: skip
    """``value`` as a ``float``, if it is finite and in the range: ``above <``, ``least ≤``, ``< below``, ``≤ most``."""
    ok = isinstance(value, Real) and not isinstance(value, bool)
    if ok:
        v = float(value)
        ok = math.isfinite(v) and above < v < below and least <= v <= most
    if not ok:
        raise ValueError(f"{name} must be {_range(above, least, below, most)}, not {value!r}")
    return v


def _range(above: float, least: float, below: float, most: float) -> str:
    low = f"({above:g}" if above > -math.inf else f"[{least:g}" if least > -math.inf else ""
    high = f"{below:g})" if below < math.inf else f"{most:g}]" if most < math.inf else ""
    if low and high:
        return f"in {low}, {high}"
    if low:
        return ("positive" if above == 0 else f"above {above:g}" if above > -math.inf else f"at least {least:g}") + (
            " and finite"
        )
    if high:
        return (f"below {below:g}" if below < math.inf else f"at most {most:g}") + " and finite"
    return "a finite number"


def seed(name: str, value: Any) -> int:
    """``value`` as an ``int``, if it can be a seed: from 0 to 2⁶³ - 1."""
    return whole(name, value, 0, LARGEST_SEED)


def one_of(name: str, value: Any, allowed: Iterable[Any]) -> Any:
    """``value``, if it is one of the names ``allowed``."""
    allowed = list(allowed)
    if not isinstance(value, str) or value not in allowed:
        raise ValueError(f"unknown {name} {value!r}; choose one of {', '.join(map(str, allowed))}")
    return value


def flag(name: str, value: Any) -> bool:
    """``value``, if it is ``True`` or ``False``."""
    if not isinstance(value, bool):
        raise ValueError(f"{name} must be True or False, not {value!r}")
    return value


def tensor(name: str, value: Any) -> Tensor:
    """``value``, if it is a tensor."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} must be a torch Tensor, not {type(value).__name__}")
    return value


def labels(y: Any, batch: int, classes: int) -> Tensor:
    """``y``, if it is one int64 label in ``0 … classes-1`` for each of ``batch`` examples."""
    tensor("labels", y)
    if y.dtype != torch.int64 or y.shape != (batch,):
        raise ValueError(f"labels must be int64 of shape ({batch},), not {y.dtype} of {tuple(y.shape)}")
    if y.device.type != "meta":
        low, high = map(int, torch.aminmax(y))
        if low < 0 or high >= classes:
            raise ValueError(f"label {low if low < 0 else high} is outside 0 … {classes - 1}")
    return y


def labelled(data: Any, name: str = "data") -> tuple[Tensor, Tensor]:
    """``(x, y)``, if ``data`` is a pair of tensors, as many examples as labels and at least one."""
    if not isinstance(data, Sequence) or len(data) != 2:
        raise TypeError(f"{name} must be a pair (x, y) of tensors, not {type(data).__name__}")
    x, y = tensor(f"{name}: x", data[0]), tensor(f"{name}: y", data[1])
    if x.ndim == 0 or y.ndim == 0 or len(x) == 0 or len(x) != len(y):
        sizes = [len(t) if t.ndim else 0 for t in (x, y)]
        raise ValueError(f"{name}: {sizes[0]} examples and {sizes[1]} labels; both must be equal and at least 1")
    return x, y


def no_autocast(x: Tensor) -> None:
    """Raise ``RuntimeError`` inside ``torch.autocast``, which would mix precisions in sums written in place."""
    device = tensor("input", x).device.type
    if torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device):
        raise RuntimeError("learning rules compute in the precision of the weights; leave torch.autocast for this")


@contextmanager
def looked_at() -> Iterator[None]:
    """Inside, inputs are known to be finite: who has looked at a whole set need not look at each batch of it."""
    token = _LOOKED_AT.set(True)
    try:
        yield
    finally:
        _LOOKED_AT.reset(token)


def finite_input(x: Tensor) -> None:
    """Raise unless every value of an input is finite. A sum finds out at a tenth of the cost of looking at each."""
    if x.device.type == "meta" or _LOOKED_AT.get() or math.isfinite(x.sum().item()):
        return
    finite = torch.isfinite(x)
    if not finite.all():  # the sum of large values may overflow
        raise ValueError(f"input holds {x[~finite][0].item()}; every value must be finite")
