"""Under what condition an update of the hidden layer brings the output closer to its target."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from bioplaus_lite.models.segregated.parameters import SegregatedParameters

__all__ = ["jacobian_condition"]


def jacobian_condition(W: Tensor, Y: Tensor, scores: Tensor, constants: SegregatedParameters) -> float:
    r"""Largest eigenvalue of :math:`(I - J_\beta J_\gamma)^\top (I - J_\beta J_\gamma)`; below 1 the theory holds.

    .. math::

        J_\beta = \varphi_{max}\,\sigma'(V_L) \odot k_d W_L, \qquad
        J_\gamma = \sigma'(Y \varphi_{max}\sigma(V_L)) \odot Y

    each averaged over examples: how the output answers the last hidden layer, and how its plateaus answer the
    output. Then an update of the hidden layer alone brings the output closer to its target.

    Args:
        W: weights of the output, ``(n_L, n_{L-1})``.
        Y: feedback weights of the last hidden layer, ``(n_{L-1}, n_L)``.
        scores: output voltages ``V_L`` of the examples, ``(N, n_L)``: those of the last 100 presented, or those of the
            rate limit.
        constants: of the model.

    Raises:
        ValueError: the scores have another shape.

    Source: Guerguiev, Lillicrap & Richards (2017), theorem 1; the paper averages over the last 100 examples.
    """
    if scores.ndim != 2 or len(scores) == 0 or scores.shape[1] != len(W):
        raise ValueError(f"scores have shape {tuple(scores.shape)}, expected (N ≥ 1, {len(W)})")
    V, W, Y = (tensor.detach().double() for tensor in (scores, W, Y))
    rate = torch.sigmoid(V)
    J_beta = constants.phi_max * constants.k_d * (rate * (1 - rate)).mean(0)[:, None] * W
    plateau = torch.sigmoid(constants.phi_max * rate @ Y.T)
    J_gamma = (plateau * (1 - plateau)).mean(0)[:, None] * Y
    A = torch.eye(len(W), dtype=torch.float64) - J_beta @ J_gamma
    largest = torch.linalg.matrix_norm(A, 2).item() ** 2
    return largest if math.isfinite(largest) else math.nan
