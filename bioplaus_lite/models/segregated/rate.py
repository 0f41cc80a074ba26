"""The rate limit: the same weights without spikes and without time, as a network and as a closed-form update."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bioplaus_lite import checks
from bioplaus_lite.models.segregated.parameters import SegregatedParameters
from bioplaus_lite.models.segregated.simulation import sigma
from bioplaus_lite.networks import Dense, Layer, Network, input_and_output, uniform_like

__all__ = ["RateNetwork", "RateUpdate", "initial_range", "rate_update"]

# Where the dendrites should start: mean and standard deviation of their voltage, mean and spread of the biases.
V_MEAN, V_SD, B_MEAN, B_SD = 3.0, 3.0, 0.8, 0.001
# √12 to three decimals, as in the authors' code. It belongs to U(-½, ½); with U(-1, 1) the real spread is doubled.
ROOT_12 = 3.465


class Range(NamedTuple):
    """``mean ± half_width`` of a uniform distribution."""

    mean: float
    half_width: float


def initial_range(n_in: int, phi_max: float) -> Range:
    r"""Range of the initial weights of a layer with ``n_in`` inputs.

    Mean and spread are those that would give dendritic voltages of mean 3 and standard deviation 3, if every
    input were itself such a voltage passed through a line of slope :math:`\nu = \varphi_{max}/4`. The authors'
    code then draws ``mean + 3.465·sd·U(-1, 1)``, which has twice that spread; we keep it, for fidelity.
    """
    nu, square = phi_max / 4, V_SD**2 + V_MEAN**2
    mean = (V_MEAN - B_MEAN) / (nu * n_in * V_MEAN)
    second_moment = (
        square + nu**2 * (n_in - n_in**2) * mean**2 * V_MEAN**2 - 2 * n_in * nu * B_MEAN * V_MEAN * mean - B_MEAN**2
    ) / (n_in * nu**2 * square)
    return Range(mean, ROOT_12 * math.sqrt(second_moment - mean**2))


@dataclass(frozen=True)
class Dendrite:
    """Weights on a basal dendrite that drives its soma: ``V = k (W κ̄ φ_max h + b)``.

    Attributes:
        scale: ``κ̄ φ_max``, the mean postsynaptic potential of a neuron that fires at the highest rate.
        gain: ``k``, how much of a voltage of the dendrite arrives at the soma.
    """

    scale: float
    gain: float

    def current(self, weight: Tensor, bias: Tensor | None, pre: Tensor) -> Tensor:
        """Somatic voltages ``(batch, n_out)``."""
        return F.linear(pre * self.scale, weight, bias) * self.gain

    def outer(self, post: Tensor, pre: Tensor, out: Tensor) -> None:
        """``Σ_batch k post (κ̄ φ_max pre)ᵀ``: what a signal at the soma asks of the weights."""
        Dense().outer(post * self.gain, pre * self.scale, out)

    def total(self, post: Tensor, out: Tensor) -> None:
        """``Σ_batch k post``."""
        torch.sum(post * self.gain, 0, out=out)

    def back(self, signal: Tensor, feedback: Tensor) -> Tensor:
        """A signal at the somata as it arrives at the rates below, through ``feedback``, ``(n_in, n_out)``."""
        return (signal @ feedback.T) * (self.gain * self.scale)


class RateNetwork(Network):
    r"""The rate limit of a segregated-compartments network; its weights are the ones that spikes will see.

    With :math:`h_0 = x`, the share of the highest rate at which each input fires,

    .. math::

        V_l = k_l\,(W_l\, \bar\kappa\, \varphi_{max} h_{l-1} + b_l), \qquad h_l = \sigma(V_l)\ (l < L), \qquad
        h_L = V_L

    :math:`k_l` is :math:`k_b` for hidden layers and :math:`k_d` for the output; :math:`\bar\kappa` is the area of the
    response kernel (``psp_gain``). The scores are the somatic voltages of the output, which a test compares.

    Args:
        sizes: units of each layer, ``(n_0, …, n_L)``; two sizes make a network without hidden layer.
        constants: of the model.
        seed: of the weights, drawn uniform in :func:`initial_range`, and of the biases, 0.8 ± 0.003.
        dtype: of the weights, float32 or float64.

    Raises:
        ValueError: a size is not a positive whole number, or the dtype is neither of the two.
    """

    def __init__(
        self,
        sizes: Sequence[int],
        constants: SegregatedParameters | None = None,
        *,
        seed: int = 0,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        if dtype not in (torch.float32, torch.float64):
            raise ValueError(f"dtype must be float32 or float64, not {dtype}")
        sizes = input_and_output(sizes)
        self.constants = constants or SegregatedParameters()
        c, depth = self.constants, len(sizes) - 1
        c.etas(depth)
        hidden = [Layer(Dendrite(self.psp_scale, c.k_b), "sigmoid") for _ in range(depth - 1)]
        super().__init__([*hidden, Layer(Dendrite(self.psp_scale, c.k_d), "linear")], sizes, sizes[:1])
        self.activation, self.seed = "sigmoid", checks.seed("seed", seed)
        generator = torch.Generator().manual_seed(self.seed)
        for layer in range(1, depth + 1):
            n_in, n_out = sizes[layer - 1], sizes[layer]
            spread = self._range(layer)
            weight = spread.mean + uniform_like(torch.empty(n_out, n_in, dtype=torch.float64), spread.half_width,
                                                generator)
            bias = B_MEAN + uniform_like(torch.empty(n_out, dtype=torch.float64), ROOT_12 * B_SD, generator)
            self.register_parameter(f"W{layer}", nn.Parameter(weight.to(dtype)))
            self.register_parameter(f"b{layer}", nn.Parameter(bias.to(dtype)))

    def extra_repr(self) -> str:
        return f"{'-'.join(map(str, self.sizes))}, {self.constants.mode}"

    def bias(self, layer: int) -> nn.Parameter:
        return self._parameters[f"b{layer}"]

    def _range(self, layer: int) -> Range:
        return initial_range(self.sizes[layer - 1], self.constants.phi_max)

    def half_width(self, layer: int) -> float:
        return self._range(layer).half_width

    def soma_gain(self, layer: int) -> float:
        """``k_b`` for a hidden layer, ``k_d`` for the output."""
        return self.constants.k_d if layer == self.depth else self.constants.k_b

    @property
    def psp_scale(self) -> float:
        """Mean postsynaptic potential of a neuron that fires at the highest rate."""
        return self.constants.psp_gain * self.constants.phi_max

    def check_input(self, x: Tensor) -> None:
        """As for every network, and each value a share of the highest rate, in [0, 1]."""
        super().check_input(x)
        low, high = (v.item() for v in torch.aminmax(x))
        if not (low >= 0 and high <= 1):  # also true of nan
            bad = low if not low >= 0 else high
            raise ValueError(f"input holds {bad}; every value is a share of the highest rate and must be in [0, 1]")


class RateUpdate(NamedTuple):
    """What one example changes in the rate limit: errors at the dendrites, presynaptic means, output voltage.

    ``ΔW_l = -η P_l E_l PSP_{l-1}ᵀ`` and ``Δb_l = -η P_l E_l``; lists run over the layers 1 … L.
    """

    E: list[np.ndarray]
    psp: list[np.ndarray]
    voltage: np.ndarray
    target_rate: np.ndarray


def rate_update(
    W: Sequence[np.ndarray], b: Sequence[np.ndarray], Y: Sequence[np.ndarray], x: np.ndarray, label: int,
    constants: SegregatedParameters,
) -> RateUpdate:
    r"""Both phases of one example at their steady state, in closed form (``g_a = 0``).

    .. math::

        h &= \varphi\sigma(k_b(W\bar\kappa h_{below} + b)), \qquad B = W\bar\kappa h + b, \qquad
        o = \varphi\sigma(k_d B) \\
        o^* &= \varphi\sigma\!\left(\frac{g_d B + g\,(E_E t + E_I (1-t))}{g_l + g_d + g}\right), \qquad
        \alpha^f = \sigma(Y\bar\kappa o), \quad \alpha^t = \sigma(Y\bar\kappa o^*)

    Args:
        W, b: weights ``(n_l, n_{l-1})`` and biases ``(n_l,)`` of the layers 1 … L.
        Y: feedback weights ``(n_l, n_L)`` of the hidden layers.
        x: input, ``(n_0,)``, in [0, 1].
        label: the output unit that is taught to fire.
        constants: of the model.

    Raises:
        ValueError: ``g_a`` is above 0, where the steady state has no closed form.
    """
    c = constants
    if c.g_a:
        raise ValueError(f"the closed form needs g_a = 0, not {c.g_a!r}")
    psp, slopes = [c.psp_gain * c.phi_max * x], []
    for weight, bias in zip(W[:-1], b[:-1], strict=True):
        rate = sigma(c.k_b * (weight @ psp[-1] + bias))
        slopes.append(rate * (1 - rate))
        psp.append(c.psp_gain * c.phi_max * rate)
    B = W[-1] @ psp[-1] + b[-1]
    E_target = np.full(len(B), c.E_I)
    E_target[label] = c.E_E
    voltage = c.k_d * B
    rate = sigma(voltage)
    target = sigma((c.g_d * B + c.g_teach * E_target) / (c.g_l + c.g_d + c.g_teach))
    feedback_gain = c.phi_max * (c.psp_gain if c.spiking_feedback else 1.0)
    E = [
        -c.k_b * c.phi_max * slope * (sigma(y @ (feedback_gain * target)) - sigma(y @ (feedback_gain * rate)))
        for slope, y in zip(slopes, Y, strict=True)
    ]
    E.append(-c.k_d * c.phi_max * rate * (1 - rate) * c.phi_max * (target - rate))
    return RateUpdate(E, psp, voltage, c.phi_max * target)
