"""Activations with their slopes, and the distributions from which weights are drawn, each by its name."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["ACTIVATIONS", "INITS", "Activation", "uniform_like"]


class Activation(NamedTuple):
    """An activation ``σ`` and its slope ``σ'(a)`` written as a function of the *activity* ``h = σ(a)``."""

    function: Callable[[Tensor], Tensor]
    slope: Callable[[Tensor], Tensor]


#: By name. All but ``linear`` never fall, so that the activity says what the slope is.
ACTIVATIONS: dict[str, Activation] = {
    "relu": Activation(torch.relu, torch.sign),  # h is 0 or positive, so its sign is the slope, in h's dtype
    "tanh": Activation(torch.tanh, lambda h: 1 - h * h),
    "sigmoid": Activation(torch.sigmoid, lambda h: h * (1 - h)),
    "linear": Activation(lambda a: a, torch.ones_like),
    "leaky_relu": Activation(F.leaky_relu, lambda h: torch.where(h > 0, torch.ones_like(h), torch.full_like(h, 0.01))),
    "elu": Activation(F.elu, lambda h: h.clamp(max=0) + 1),
    "softplus": Activation(F.softplus, lambda h: -torch.expm1(-h)),
}

#: Half-width of the uniform distribution from which a weight matrix is drawn, given (fan in, fan out).
INITS: dict[str, Callable[[int, int], float]] = {
    "pytorch": lambda n_in, n_out: 1 / math.sqrt(n_in),  # what torch.nn.Linear does; the variance is 1/(3 n_in)
    "glorot": lambda n_in, n_out: math.sqrt(6 / (n_in + n_out)),
    "he": lambda n_in, n_out: math.sqrt(6 / n_in),
}


def uniform_like(weight: Tensor, half_width: float, generator: torch.Generator) -> Tensor:
    """A tensor in the shape, dtype and place of ``weight``, uniform in ``±half_width``.

    Drawn in float64 on the processor of the generator and cast, so that networks of one seed hold the same numbers in
    float32 and float64, here and on a graphics card.
    """
    draw = torch.rand(weight.shape, generator=generator, dtype=torch.float64, device=generator.device)
    return ((2 * draw - 1) * half_width).to(weight)
