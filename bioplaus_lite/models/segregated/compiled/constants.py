"""The model's constants in the form in which the loops take them."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from bioplaus_lite.models.segregated.parameters import SegregatedParameters


class Constants(NamedTuple):
    """The model's constants as the loops need them; numbers in the dtype of the weights.

    A soma takes ``V ← keep·V + dendrite·B + drive`` in every step, whether it integrates or sits at the steady state.
    """

    a_L: np.floating  # decay of the two leaky sums in a step
    a_s: np.floating
    end_L: np.floating  # what is left of a spike when its memory ends
    end_s: np.floating
    soma: np.ndarray  # (3, 7): for ``vectors._stepper``: hidden, output in the forward phase, in the target phase
    dendrite: np.ndarray  # (3,)
    apical: np.floating
    drive_E: np.floating
    drive_I: np.floating
    one: np.floating
    kernel_scale: np.floating
    kernel: np.ndarray  # (memory,), float64
    psp_scale: np.floating
    phi_max: float
    k_b: float
    k_d: float
    P_hidden: float
    P_out: float
    eta_feedback: float
    share: float
    symmetric: bool
    learned: bool
    spiking_feedback: bool

    @classmethod
    def of(cls, c: SegregatedParameters, dtype: np.dtype) -> Constants:
        hidden, forward = c.g_l + c.g_b + c.g_a, c.g_l + c.g_d
        totals = np.array([hidden, forward, forward + c.g_teach])
        g = np.array([c.g_b, c.g_d, c.g_d])
        if c.voltages == "ode":
            keep, per_g, per_g_hidden, per_g_teach = 1 - c.dt * totals, np.full(3, c.dt), c.dt, c.dt
        else:
            keep, per_g, per_g_hidden, per_g_teach = np.zeros(3), 1 / totals, 1 / hidden, 1 / totals[2]
        number = dtype.type
        a_L, a_s = math.exp(-c.dt / c.tau_L), math.exp(-c.dt / c.tau_s)
        end_L, end_s, scale = a_L ** (c.spike_memory + 1), a_s ** (c.spike_memory + 1), 1 / (c.tau_L - c.tau_s)
        soma = [[a_L, a_s, end_L, end_s, scale, k, gain] for k, gain in zip(keep, per_g * g, strict=True)]
        return cls(
            a_L=number(a_L), a_s=number(a_s), end_L=number(end_L), end_s=number(end_s), kernel_scale=number(scale),
            soma=np.array(soma, dtype), dendrite=(per_g * g).astype(dtype), apical=number(per_g_hidden * c.g_a),
            drive_E=number(per_g_teach * c.g_teach * c.E_E), drive_I=number(per_g_teach * c.g_teach * c.E_I),
            one=number(1), psp_scale=number(c.psp_gain * c.phi_max), kernel=c.kernel, phi_max=c.phi_max, k_b=c.k_b,
            k_d=c.k_d, P_hidden=c.P_hidden, P_out=c.P_out, eta_feedback=c.eta_feedback, share=c.feedback_share,
            symmetric=c.feedback == "symmetric", learned=c.feedback == "learned", spiking_feedback=c.spiking_feedback,
        )
