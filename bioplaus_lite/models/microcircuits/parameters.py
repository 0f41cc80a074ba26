"""The constants of the dendritic microcircuit model, in one frozen record with units."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

__all__ = ["MicrocircuitParameters"]

TRANSFERS = ("soft_relu", "logistic")


def _finite(name: str, value: float) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ValueError(f"{name} must be a finite number, not {value!r}")
    return float(value)


@dataclass(frozen=True, kw_only=True)
class MicrocircuitParameters:
    r"""Constants of the model; the defaults are those of the teaching network in the paper.

    Voltages are dimensionless, with rest at 0. The capacitance is 1, so that a conductance is a rate (1/ms).

    Attributes:
        dt: step of time, ms.
        pattern: how long one pattern is shown, ms.
        g_l: conductance of the leak, 1/ms.
        g_B: from basal dendrite to soma of a pyramidal cell, 1/ms.
        g_A: from apical dendrite to soma of a hidden pyramidal cell, 1/ms. Output cells have no apical dendrite.
        g_D: from dendrite to soma of an interneuron, 1/ms.
        g_som: of the nudging of a soma, by the target (output) or by a pyramidal cell (interneuron), 1/ms.
        tau_w: time constant of the low-pass filter of all plasticity, ms.
        tau_0: time constant of the low-pass filter of input and target, ms.
        noise: size :math:`\varsigma` of the white noise at every soma, in units of voltage per √ms.
        transfer: ``soft_relu``, :math:`\varphi(u) = \gamma \ln(1 + e^{\beta(u - \theta)})`; or ``logistic``,
            :math:`\varphi(u) = \gamma / (1 + e^{-\beta(u - \theta)})`.
        gamma, beta, theta: scale of rates, steepness and threshold of the transfer function.
        eta_up: learning rate of the weights between pyramidal cells going up, of every layer, or a tuple with one
            for each, from the first hidden layer up.
        eta_IP, eta_PI, eta_down: learning rates from pyramidal cells to interneurons, from interneurons to
            apical dendrites, and from pyramidal cells down to apical dendrites. 0 holds the weights fixed.

    Raises:
        ValueError: a constant is outside its range; the message names it, its value, and what is allowed.

    Source: Sacramento, Costa, Bengio & Senn (2018). The paper's rates suit one pattern at a time.
    """

    dt: float = 0.1
    pattern: float = 100.0
    g_l: float = 0.1
    g_B: float = 1.0
    g_A: float = 0.8
    g_D: float = 1.0
    g_som: float = 0.8
    tau_w: float = 30.0
    tau_0: float = 3.0
    noise: float = 0.1
    transfer: str = "soft_relu"
    gamma: float = 0.1
    beta: float = 1.0
    theta: float = 3.0
    eta_up: float | tuple[float, ...] = (0.0011875, 0.0005)
    eta_IP: float = 0.002375
    eta_PI: float = 0.0005
    eta_down: float = 0.0

    def __post_init__(self) -> None:
        if self.transfer not in TRANSFERS:
            raise ValueError(f"transfer must be one of {', '.join(TRANSFERS)}, not {self.transfer!r}")
        for name in ("dt", "pattern", "g_l", "g_B", "g_D", "tau_w", "tau_0", "gamma", "beta"):
            if _finite(name, getattr(self, name)) <= 0:
                raise ValueError(f"{name} must be above 0, not {getattr(self, name)!r}")
        for name in ("g_A", "g_som", "noise", "eta_IP", "eta_PI", "eta_down"):
            if _finite(name, getattr(self, name)) < 0:
                raise ValueError(f"{name} must be at least 0, not {getattr(self, name)!r}")
        _finite("theta", self.theta)
        for eta in self.eta_up if isinstance(self.eta_up, tuple) else (self.eta_up,):
            if _finite("eta_up", eta) < 0:
                raise ValueError(f"eta_up must be at least 0, not {eta!r}")
        if self.steps(self.pattern) < 1:
            raise ValueError(f"pattern must be at least one step of {self.dt!r} ms, not {self.pattern!r}")
        fastest = max(
            self.g_l + self.g_B + max(self.g_A, self.g_som),
            self.g_l + self.g_D + self.g_som,
            1 / self.tau_0,
            1 / self.tau_w,
        )
        if self.dt * fastest >= 1:
            raise ValueError(
                f"dt = {self.dt!r} ms is too long a step for the fastest rate of the model, {fastest:g} per ms; "
                f"it must be below {1 / fastest:g} ms"
            )

    def replace(self, **changes: Any) -> MicrocircuitParameters:
        """A copy with some constants changed, checked again."""
        return replace(self, **changes)

    def steps(self, duration: float) -> int:
        """Whole steps of ``dt`` in ``duration`` ms."""
        return int(duration / self.dt + 1e-9)

    def etas(self, depth: int) -> tuple[float, ...]:
        """Learning rate of each of ``depth`` layers of weights going up.

        Raises:
            ValueError: ``eta_up`` is a tuple of another length.
        """
        etas = self.eta_up if isinstance(self.eta_up, tuple) else (self.eta_up,) * depth
        if len(etas) != depth:
            raise ValueError(f"eta_up must hold one rate for each of {depth} layers, not {len(etas)}")
        return etas

    def phi(self, u: np.ndarray) -> np.ndarray:
        """Rate of a cell with somatic voltage ``u``, in its shape."""
        drive = self.beta * (u - self.theta)
        if self.transfer == "logistic":
            return 0.5 * self.gamma * (1 + np.tanh(0.5 * drive))  # cannot overflow
        return self.gamma * np.logaddexp(0, drive)

    def attenuation(self, output: bool) -> float:
        """Somatic voltage per unit of basal voltage when nothing else drives the cell, ``g_B / (g_l + g_B + g_A)``.

        Without ``g_A`` for the output, which has no apical dendrite.
        """
        return self.g_B / (self.g_l + self.g_B + (0.0 if output else self.g_A))

    @property
    def attenuation_I(self) -> float:
        """The same for an interneuron, ``g_D / (g_l + g_D)``."""
        return self.g_D / (self.g_l + self.g_D)

    @property
    def lambda_A(self) -> float:
        """Steady somatic voltage of a hidden cell per unit of apical voltage, ``g_A / (g_l + g_B + g_A)``."""
        return self.g_A / (self.g_l + self.g_B + self.g_A)

    @property
    def lambda_I(self) -> float:
        """Share of the nudging voltage in the steady interneuron, ``g_som / (g_l + g_D + g_som)``."""
        return self.g_som / (self.g_l + self.g_D + self.g_som)

    @property
    def lambda_out(self) -> float:
        """Share of the target voltage in the steady output, ``g_som / (g_l + g_B + g_som)``."""
        return self.g_som / (self.g_l + self.g_B + self.g_som)
