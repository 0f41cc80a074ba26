"""A Gaussian process on a line, and what it says about where to look next.

The kernel is Matérn's with 5/2 (Rasmussen & Williams 2006, eq. 4.17), as in Optuna's ``GPSampler``:
k(r) = a² (1 + √5 r/l + 5 r²/(3 l²)) exp(−√5 r/l), with the distance r, the length scale l (``length``, in units of x)
and the amplitude a. ``amplitude`` and ``noise`` are standard deviations in units of y: of f before any value is known,
and of a value around f. The mean before is 0, so take a mean from y first. On pages ``gaussian_process.js`` does this.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.linalg import solve_triangular
from scipy.special import ndtr

from bioplaus_lite import checks

__all__ = ["expected_improvement", "log_likelihood", "posterior"]


def posterior(
    x: ArrayLike, y: ArrayLike, at: ArrayLike, *, length: float, noise: float, amplitude: float = 1.0
) -> tuple[NDArray, NDArray]:  # fmt: skip
    """Mean and variance of f at the places ``at``, given values y at x: (m,) and (m,).

    mean = kᵀ (K + s²I)⁻¹ y and variance = a² − kᵀ (K + s²I)⁻¹ k with s the noise, K = k(x, x), k = k(x, at): eq. 2.25
    and 2.26 of Rasmussen & Williams 2006, computed as in their algorithm 2.1. The variance is that of f, without noise.

    Args:
        x, y: n places and values, (n,) each; none gives the process before any value is known.
        at: m places, (m,).

    Raises:
        ValueError: an array is not (n,) and finite, or a scale not positive; or, without noise, places coincide.
    """
    x, at, factor, white = *_flat(x=x, at=at), *_factor(x, y, length, noise, amplitude)
    part = solve_triangular(factor, _kernel(x, at, length, amplitude), lower=True)  # v of algorithm 2.1, (n, m)
    return part.T @ white, np.maximum(amplitude**2 - (part**2).sum(0), 0.0)  # rounding may go below 0


def log_likelihood(x: ArrayLike, y: ArrayLike, *, length: float, noise: float, amplitude: float = 1.0) -> float:
    """log p(y | x) of the scales, in nats: −½ yᵀ (K + s²I)⁻¹ y − ½ log det(K + s²I) − (n/2) log 2π, their eq. 2.30.

    Arguments and errors are those of :func:`posterior`.
    """
    factor, white = _factor(x, y, length, noise, amplitude)
    return float(-white @ white / 2 - np.log(np.diag(factor)).sum() - len(white) * np.log(2 * np.pi) / 2)


def expected_improvement(mean: ArrayLike, variance: ArrayLike, best: float) -> NDArray:
    """E max(f − best, 0) of normal f, in units of y: (mean − best) Φ(z) + σ φ(z) with z = (mean − best)/σ.

    Jones, Schonlau & Welch 1998, eq. 15, turned round: they look for a minimum.

    Args:
        mean, variance: what :func:`posterior` gives, (m,) each.
        best: the highest value so far.

    Raises:
        ValueError: an array is not (m,) and finite, ``best`` is not finite, or a variance is negative.
    """
    (mean, variance), best = _flat(mean=mean, variance=variance), checks.number("best", best)
    if len(mean) != len(variance) or (variance < 0).any():
        raise ValueError(f"{len(mean)} means need as many variances, none below 0, not {variance!r}")
    sd, gain = np.sqrt(variance), mean - best
    z = np.divide(gain, sd, out=np.zeros_like(gain), where=sd > 0)
    return np.where(sd > 0, gain * ndtr(z) + sd * np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi), np.maximum(gain, 0))


def _kernel(a: NDArray, b: NDArray, length: float, amplitude: float) -> NDArray:
    r = np.sqrt(5) * np.abs(a[:, None] - b) / length
    return amplitude**2 * (1 + r + r**2 / 3) * np.exp(-r)


def _factor(x: ArrayLike, y: ArrayLike, length: float, noise: float, amplitude: float) -> tuple[NDArray, NDArray]:
    """L with L Lᵀ = K + s²I, (n, n), and L⁻¹ y, (n,): about n³/3 operations, of which all else is a function."""
    checks.number("length", length, above=0), checks.number("amplitude", amplitude, above=0)
    x, y = _flat(x=x, y=y)
    if len(x) != len(y):
        raise ValueError(f"x has {len(x)} places and y {len(y)} values; as many are needed")
    try:
        noisy = checks.number("noise", noise, least=0) ** 2 * np.eye(len(x))
        factor = np.linalg.cholesky(_kernel(x, x, length, amplitude) + noisy)
    except np.linalg.LinAlgError:
        raise ValueError(f"places coincide, or nearly so: noise must be larger than {noise!r}") from None
    return factor, solve_triangular(factor, y, lower=True)


def _flat(**arrays: ArrayLike) -> list[NDArray]:
    """The arrays as double precision, if each is of one axis and finite."""
    found = [np.asarray(array, dtype=float) for array in arrays.values()]
    for name, array in zip(arrays, found, strict=True):
        if array.ndim != 1 or not np.isfinite(array).all():
            raise ValueError(f"{name} must be finite numbers along one axis, not {array!r}")
    return found
