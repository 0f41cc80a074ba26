"""Angles between tensors, and in how many directions one varies: plain functions, of no rule."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["angle", "angles_by_row", "participation_ratio"]


def angle(u: Tensor, v: Tensor) -> float:
    r"""Angle between two tensors of one shape, as flat vectors, in degrees.

    Computed as :math:`2\,\mathrm{atan2}(\|\hat u - \hat v\|, \|\hat u + \hat v\|)` in float64, which is exact
    where the arc cosine loses half its digits, near 0 and 180 degrees. A zero vector gives ``nan``.

    Raises:
        ValueError: the shapes differ.
    """
    if u.shape != v.shape:
        raise ValueError(f"angle needs two tensors of one shape, not {tuple(u.shape)} and {tuple(v.shape)}")
    return angles_by_row(u.reshape(1, -1), v.reshape(1, -1)).item()


def angles_by_row(u: Tensor, v: Tensor) -> Tensor:
    """Angles between the rows of ``u`` and ``v``, each ``(rows, …)``, in degrees, shape ``(rows,)``."""
    if u.shape != v.shape:
        raise ValueError(f"angles need two tensors of one shape, not {tuple(u.shape)} and {tuple(v.shape)}")
    u, v = u.detach().flatten(1).double(), v.detach().flatten(1).double()
    u, v = u / u.norm(dim=1, keepdim=True), v / v.norm(dim=1, keepdim=True)  # zero rows become nan on purpose
    return torch.rad2deg(2 * torch.atan2((u - v).norm(dim=1), (u + v).norm(dim=1)))


def mean_angle(u: Tensor, v: Tensor) -> float:
    """Mean of :func:`angles_by_row`; rows that have no angle, since one is zero, are left out."""
    return angles_by_row(u, v).nanmean().item()


def participation_ratio(rows: Tensor) -> float:
    r"""In how many directions the rows of a matrix vary, between 1 and their length.

    .. math:: \frac{(\operatorname{tr} C)^2}{\operatorname{tr} C^2} = \frac{(\sum_i \lambda_i)^2}{\sum_i \lambda_i^2}

    with ``C`` the covariance of the rows and ``λ_i`` its eigenvalues: ``n`` for noise that is equal in ``n``
    directions, 1 for points on a line. Rows that are all alike give ``nan``.

    Args:
        rows: ``(N, n)``.
    """
    centred = (rows - rows.mean(0)).detach().double()
    covariance = centred.T @ centred
    return (covariance.trace().square() / covariance.square().sum()).item()
