"""The constants of the segregated-compartments model, in one frozen record with units."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

__all__ = ["SegregatedParameters"]

MODES = ("spiking", "rate")
VOLTAGES = ("ode", "steady")
FEEDBACKS = ("random", "symmetric", "learned")


def _finite(name: str, value: float) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ValueError(f"{name} must be a finite number, not {value!r}")
    return float(value)


@dataclass(frozen=True, kw_only=True)
class SegregatedParameters:
    r"""Constants of the model; the defaults are those of the authors' code, in ms, 1/ms and units of voltage.

    Voltages are dimensionless, with rest at 0. The capacitance is 1, so that a conductance is a rate (1/ms).

    Attributes:
        dt: step of time, ms.
        phase: shortest length of a forward or target phase, ms.
        phase_mean: mean of the inverse Gaussian added to each phase, ms; 0 makes all phases alike.
        phase_shape: its shape parameter, ms.
        settle: :math:`\Delta t_s`, the start of a phase that is left out of every average, ms. The averages run
            over the last ``phase - settle`` of a phase, in a test over ``duration - settle``.
        test_phase: length of a test, ms.
        memory: how far back a spike is felt, ms; the response kernel is cut off there.
        tau_s, tau_L: short and long time constant of the response kernel :math:`\kappa`, ms.
        phi_max: highest firing rate, spikes/ms.
        g_l, g_b, g_d, g_a: conductance of the leak, from basal dendrite to soma (hidden), from dendrite to
            soma (output), from apical dendrite to soma (hidden), 1/ms. ``g_a = 0`` is full segregation.
        g_teach: conductance of the teaching input during the target phase, 1/ms.
        E_E, E_I: reversal potentials of the teaching input, of the label's unit and of the others.
        eta: learning rate of every layer, or a tuple with one for each, from the first hidden layer up.
        gain: numerator of the scale of an update, :math:`P_h = \mathrm{gain} / \varphi_{max}` for hidden layers and
            :math:`P_{out} = \mathrm{gain} / \varphi_{max}^2` for the output.
        mode: ``spiking``; or ``rate``, where a neuron sends its rate in place of spikes and kernel.
        voltages: ``ode``, the soma integrates its conductances (forward Euler); ``steady``, it is always
            at the steady state.
        feedback: ``random``, fixed; ``symmetric``, the transposed forward weights (the product of those on the way
            down), at every example; ``learned``, by the local rule of
            :meth:`~bioplaus_lite.models.segregated.simulation.Simulation.learn_feedback`.
        feedback_share: share of non-zero feedback weights; the others are scaled by ``1 / feedback_share``.
        feedback_noise: standard deviation of noise added to symmetric feedback weights, drawn for each example.
        eta_feedback: learning rate of learned feedback weights. At 0.1 they outgrow everything and learning fails.
        spiking_feedback: the apical dendrite receives output spikes; else, the output's rate.
        plateau_sd: plateau potentials come ``min(|N(0, plateau_sd²)|, plateau_max)`` ms before the end of a phase,
            drawn for each neuron and phase; 0 puts them at the end.
        plateau_max: the earliest such time, ms.

    Raises:
        ValueError: a constant is outside its range; the message names it, its value, and what is allowed.

    Source: Guerguiev, Lillicrap & Richards (2017), eLife 6:e22901, and the authors' published code.
    """

    dt: float = 1.0
    phase: float = 50.0
    phase_mean: float = 2.0
    phase_shape: float = 1.0
    settle: float = 30.0
    test_phase: float = 250.0
    memory: float = 10.0
    tau_s: float = 3.0
    tau_L: float = 10.0
    phi_max: float = 0.2
    g_l: float = 0.1
    g_b: float = 0.6
    g_d: float = 0.6
    g_a: float = 0.0
    g_teach: float = 1.0
    E_E: float = 8.0
    E_I: float = -8.0
    eta: float | tuple[float, ...] = 0.21
    gain: float = 20.0
    mode: str = "spiking"
    voltages: str = "ode"
    feedback: str = "random"
    feedback_share: float = 1.0
    feedback_noise: float = 0.0
    eta_feedback: float = 0.001
    spiking_feedback: bool = True
    plateau_sd: float = 0.0
    plateau_max: float = 5.0

    def __post_init__(self) -> None:
        for name, allowed in (("mode", MODES), ("voltages", VOLTAGES), ("feedback", FEEDBACKS)):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} must be one of {', '.join(allowed)}, not {getattr(self, name)!r}")
        if not isinstance(self.spiking_feedback, bool):
            raise ValueError(f"spiking_feedback must be True or False, not {self.spiking_feedback!r}")
        for name in ("dt", "phase", "test_phase", "memory", "tau_s", "tau_L", "phi_max", "phase_shape", "gain",
                     "g_l", "g_b", "g_d"):
            if _finite(name, getattr(self, name)) <= 0:
                raise ValueError(f"{name} must be above 0, not {getattr(self, name)!r}")
        for name in ("g_a", "g_teach", "phase_mean", "settle", "feedback_noise", "eta_feedback", "plateau_sd",
                     "plateau_max"):
            if _finite(name, getattr(self, name)) < 0:
                raise ValueError(f"{name} must be at least 0, not {getattr(self, name)!r}")
        for eta in self.eta if isinstance(self.eta, tuple) else (self.eta,):
            if _finite("eta", eta) < 0:
                raise ValueError(f"eta must be at least 0, not {eta!r}")
        if _finite("E_E", self.E_E) <= _finite("E_I", self.E_I):
            raise ValueError(f"E_E must be above E_I = {self.E_I!r}, not {self.E_E!r}")
        if not 0 < _finite("feedback_share", self.feedback_share) <= 1:
            raise ValueError(f"feedback_share must be in (0, 1], not {self.feedback_share!r}")
        if self.feedback_noise and self.feedback != "symmetric":
            raise ValueError(f"feedback_noise is defined for symmetric feedback, not for {self.feedback!r}")
        if self.tau_s >= self.tau_L:
            raise ValueError(f"tau_s must be below tau_L = {self.tau_L!r} ms, not {self.tau_s!r}")
        self._check_time()

    def _check_time(self) -> None:
        if self.steps(self.memory) < 1:
            raise ValueError(f"memory must be at least one step of {self.dt!r} ms, not {self.memory!r}")
        for name in ("phase", "test_phase"):
            if self.steps(getattr(self, name)) <= self.steps(self.settle):
                raise ValueError(
                    f"{name} of {getattr(self, name)!r} ms is too short to hold the averaging window, which starts "
                    f"after settle = {self.settle!r} ms; it must be longer than that"
                )
        if self.plateau_sd and self.plateau_max > self.settle:
            raise ValueError(f"plateau_max must be at most settle = {self.settle!r} ms, not {self.plateau_max!r}")
        if self.voltages == "ode":
            for where, conductance in (
                ("hidden soma: g_l + g_b + g_a", self.g_l + self.g_b + self.g_a),
                ("output soma in the target phase: g_l + g_d + g_teach", self.g_l + self.g_d + self.g_teach),
            ):
                if self.dt * conductance >= 2:
                    raise ValueError(
                        f"dt = {self.dt!r} ms lets the voltage diverge ({where} = {conductance:g} per ms); "
                        f"it must be below {2 / conductance:g} ms"
                    )

    @classmethod
    def rate_limit(cls, **changes: Any) -> SegregatedParameters:
        """The rate mode at its steady state, which has a closed form: ``mode="rate", voltages="steady"``."""
        return cls(**{"mode": "rate", "voltages": "steady", **changes})

    def replace(self, **changes: Any) -> SegregatedParameters:
        """A copy with some constants changed, checked again."""
        return replace(self, **changes)

    def steps(self, duration: float) -> int:
        """Whole steps of ``dt`` in ``duration`` ms."""
        return int(duration / self.dt + 1e-9)

    @property
    def window(self) -> int:
        """Steps of the averaging window of a training phase."""
        return self.steps(self.phase) - self.steps(self.settle)

    @property
    def spike_memory(self) -> int:
        """Steps for which a spike is felt."""
        return self.steps(self.memory)

    @cached_property
    def kernel(self) -> np.ndarray:
        r""":math:`\kappa(n\,dt)` for ``n = 1 … spike_memory``, in 1/ms; the spikes of a step itself meet ``n = 1``.

        .. math:: \kappa(t) = \frac{e^{-t/\tau_L} - e^{-t/\tau_s}}{\tau_L - \tau_s}
        """
        t = self.dt * np.arange(1, self.spike_memory + 1)
        kernel = (np.exp(-t / self.tau_L) - np.exp(-t / self.tau_s)) / (self.tau_L - self.tau_s)
        kernel.flags.writeable = False  # it is kept: every step of the simulation reads it
        return kernel

    @property
    def psp_gain(self) -> float:
        """The sum of the kernel, the mean postsynaptic potential of a neuron that fires at rate 1; 1 in rate mode.

        The whole kernel has area 1. Cut off at 10 ms it keeps about half.
        """
        return 1.0 if self.mode == "rate" else self.dt * float(self.kernel.sum())

    @property
    def k_b(self) -> float:
        """Steady state of a hidden soma per unit of basal voltage, ``g_b / (g_l + g_b + g_a)``."""
        return self.g_b / (self.g_l + self.g_b + self.g_a)

    @property
    def k_d(self) -> float:
        """Steady state of an output soma per unit of dendritic voltage, ``g_d / (g_l + g_d)``."""
        return self.g_d / (self.g_l + self.g_d)

    @property
    def P_hidden(self) -> float:
        return self.gain / self.phi_max

    @property
    def P_out(self) -> float:
        return self.gain / self.phi_max**2

    def etas(self, depth: int) -> tuple[float, ...]:
        """Learning rate of each of ``depth`` layers of weights.

        Raises:
            ValueError: ``eta`` is a tuple of another length.
        """
        etas = self.eta if isinstance(self.eta, tuple) else (self.eta,) * depth
        if len(etas) != depth:
            raise ValueError(f"eta must hold one rate for each of {depth} layers, not {len(etas)}")
        return etas

    def draw_lengths(self, n: int, generator: np.random.Generator) -> np.ndarray:
        """Steps of the forward and the target phase of ``n`` examples, shape ``(n, 2)``, int64."""
        lengths = np.full((n, 2), self.steps(self.phase))
        if self.phase_mean:
            lengths += (generator.wald(self.phase_mean, self.phase_shape, (n, 2)) / self.dt).astype(np.int64)
        return lengths

    def draw_plateaus(self, n: int, units: int, generator: np.random.Generator) -> np.ndarray:
        """How many steps before the end of each phase the plateaus come, shape ``(n, 2, units)``, int64."""
        early = np.abs(self.plateau_sd * generator.standard_normal((n, 2, units)))
        return (np.minimum(early, self.plateau_max) / self.dt).astype(np.int64)
