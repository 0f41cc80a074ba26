"""Numbers and symbols as the tables and sentences of the players write them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray


def sub(letter: str, layer: int) -> str:
    """A symbol with its layer as a subscript: ``h₂``."""
    return letter + "".join("₀₁₂₃₄₅₆₇₈₉"[int(digit)] for digit in str(layer))


def fixed(value: float | np.floating) -> str:
    """Two decimals, with a real minus sign and no negative zero."""
    return f"{value + 0.0:.2f}".replace("-", "−").replace("−0.00", "0.00")


def short(value: float) -> str:
    """Two significant figures, with a power of ten below 0.0001."""
    if value == 0:
        return "0"
    figures, power = f"{value:.1e}".split("e")
    if int(power) >= -4:
        return f"{value:.{max(0, 1 - int(power))}f}".replace("-", "−")
    raised = str(int(power)).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
    return f"{figures}×10{raised}".replace("-", "−")


def long(value: float) -> str:
    """Four decimals."""
    return f"{value + 0.0:.4f}".replace("-", "−")


def bracket(text: str) -> str:
    """In brackets if it is negative, as a factor or a second summand."""
    return f"({text})" if text.startswith("−") else text


def listed(values: Iterable[float]) -> str:
    """A vector with two decimals an entry."""
    return f"({', '.join(map(fixed, values))})"


def largest(values: Mapping[Any, float]) -> str:
    """The largest magnitude."""
    return short(max(map(abs, values.values())))


def in_full(weights: NDArray, values: NDArray, bias: NDArray | None = None) -> list[str]:
    """Each row's weighted sum, spelled out; a bias of zero is left out."""
    biases = np.zeros(len(weights)) if bias is None else bias
    spelled = []
    for row, b in zip(weights, biases, strict=True):
        factors = ((fixed(w), f"({fixed(v)})" if v < 0 else fixed(v)) for w, v in zip(row, values, strict=True))
        terms = " + ".join([*(f"{w}·{v}" for w, v in factors), *([fixed(b)] if b else [])])
        spelled.append(f"{terms.replace('+ −', '− ')} = {fixed(row @ values + b)}")
    return spelled
