"""The Gaussian process against scikit-learn, against the plain formulas, and against draws."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from scipy.stats import multivariate_normal
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, Matern

from bioplaus_lite import gaussian_process as ours

X = np.array([-3.1, -2.0, -1.4, -1.3, 0.2, 0.9])
Y = np.array([-40.0, -8.0, 21.0, 24.5, 12.0, -39.0])
AT = np.linspace(-4, 2, 61)
SCALES = [(0.1, 0.1, 25.0), (0.5, 1.0, 25.0), (0.5, 20.0, 1.0), (3.0, 0.5, 60.0)]  # length, noise, amplitude


def settings(length: float, noise: float, amplitude: float) -> dict[str, float]:
    return {"length": length, "noise": noise, "amplitude": amplitude}


# --- oracles: each takes the module, or one with a slip ------------------------------------------------------


def check_scikit_learn(module) -> None:
    for length, noise, amplitude in SCALES:
        kernel = ConstantKernel(amplitude**2) * Matern(length, nu=2.5)
        theirs = GaussianProcessRegressor(kernel, alpha=noise**2, optimizer=None).fit(X[:, None], Y)
        mean, sd = theirs.predict(AT[:, None], return_std=True)
        got_mean, got_variance = module.posterior(X, Y, AT, **settings(length, noise, amplitude))
        np.testing.assert_allclose(got_mean, mean, rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(got_variance, sd**2, rtol=1e-7, atol=1e-9 * amplitude**2)
        got = module.log_likelihood(X, Y, **settings(length, noise, amplitude))
        assert got == pytest.approx(theirs.log_marginal_likelihood_value_, rel=1e-10)


def check_plain_formulas(module) -> None:
    """With the kernel spelled out another way, and an inverse instead of a factor."""
    for length, noise, amplitude in SCALES:

        def k(a, b, length=length, amplitude=amplitude):
            r = np.abs(np.subtract.outer(a, b)) / length
            return amplitude**2 * (1 + 5**0.5 * r + 5 * r**2 / 3) * np.exp(-(5**0.5) * r)

        covariance = k(X, X) + noise**2 * np.eye(len(X))
        inverse = np.linalg.inv(covariance)
        mean, variance = module.posterior(X, Y, AT, **settings(length, noise, amplitude))
        np.testing.assert_allclose(mean, k(AT, X) @ inverse @ Y, rtol=1e-8, atol=1e-8)
        wanted = np.diag(k(AT, AT) - k(AT, X) @ inverse @ k(X, AT))
        np.testing.assert_allclose(variance, wanted, rtol=1e-8, atol=1e-8 * amplitude**2)
        got = module.log_likelihood(X, Y, **settings(length, noise, amplitude))
        assert got == pytest.approx(multivariate_normal(cov=covariance).logpdf(Y), rel=1e-9)


def check_draws(module) -> None:
    """Expected improvement is the mean of what draws of f exceed the best by; and so is its error in n draws."""
    rng, mean, variance, best = np.random.default_rng(0), np.array([-3.0, 0, 1, 4]), np.array([1.0, 4, 0.25, 9]), 1.0
    draws = np.maximum(rng.normal(mean, np.sqrt(variance), (400_000, 4)) - best, 0)
    error = draws.std(0) / np.sqrt(len(draws))
    assert (np.abs(module.expected_improvement(mean, variance, best) - draws.mean(0)) < 4 * error + 1e-6).all()


def check_sense(module) -> None:
    """Without noise the mean passes through all values, with nothing left open there; far away the prior is back."""
    scales = settings(0.8, 0.0, 25.0)
    mean, variance = module.posterior(X, Y, X, **scales)
    np.testing.assert_allclose(mean, Y, rtol=1e-9)
    assert (variance < 1e-9 * 25**2).all() and (variance >= 0).all()
    best = Y.argmax()
    assert module.expected_improvement(mean, variance, Y.max())[best] < 1e-4
    assert module.expected_improvement([Y.max()], [0.0], Y.max()) == 0
    far_mean, far_variance = module.posterior(X, Y, [90.0], **scales)
    assert far_mean == pytest.approx(0, abs=1e-9) and far_variance == pytest.approx(25.0**2)
    noisy = module.posterior(X, Y, X, **settings(0.8, 2.0, 25.0))[1]
    assert (0 < noisy).all() and (noisy < 2.0**2).all()  # a value narrows f to less than its own noise


ORACLES = {"scikit-learn": check_scikit_learn, "formulas": check_plain_formulas, "draws": check_draws,
           "sense": check_sense}  # fmt: skip


@pytest.mark.parametrize("check", ORACLES.values(), ids=ORACLES)
def test_it_is_what_it_says(check):
    check(ours)


SLIPS = {
    "Matérn 3/2": ("(1 + r + r**2 / 3)", "(1 + r)", "scikit-learn"),
    "length squared": ("* np.abs(a[:, None] - b) / length", "* np.abs(a[:, None] - b) / length**2", "formulas"),
    "noise, not its square": ("least=0) ** 2 *", "least=0) *", "formulas"),
    "half a determinant": ("np.log(np.diag(factor)).sum()", "np.log(np.diag(factor)).sum() / 2", "formulas"),
    "no constant": (" - len(white) * np.log(2 * np.pi) / 2", "", "scikit-learn"),
    "variance of a value": ("amplitude**2 - (part**2)", "amplitude**2 + noise**2 - (part**2)", "sense"),
    "the prior's variance": ("amplitude**2 - (part**2).sum(0)", "amplitude**2 + 0 * (part**2).sum(0)", "sense"),
    "a mean of ones": ("return part.T @ white", "return part.T @ white + 1", "sense"),
    "a minimum is sought": ("np.sqrt(variance), mean - best", "np.sqrt(variance), best - mean", "draws"),
    "no width": ("+ sd * np.exp", "+ 0 * sd * np.exp", "draws"),
}


@pytest.mark.parametrize(("old", "new", "check"), SLIPS.values(), ids=SLIPS)
def test_a_slip_is_noticed(old: str, new: str, check: str):
    source = Path(ours.__file__).read_text("utf-8")
    assert source.count(old) == 1
    names = {"__name__": "slip"}
    exec(compile(source.replace(old, new), "slip", "exec"), names)
    with pytest.raises(AssertionError):
        ORACLES[check](SimpleNamespace(**names))


# --- edges ---------------------------------------------------------------------------------------------------


def test_before_any_value_there_is_the_prior():
    mean, variance = ours.posterior([], [], [0.0, 1.0], length=1.0, noise=0.1, amplitude=3.0)
    assert mean.tolist() == [0, 0] and variance.tolist() == [9, 9]
    assert ours.log_likelihood([], [], length=1.0, noise=0.1) == 0


def test_expected_improvement_is_right_far_below_the_best():
    """There it is σ φ(z)/z² (1 − 3/z² + 15/z⁴ − …), which a difference of large terms would lose."""
    z = np.array([-12.0, -20.0, -30.0])
    series = np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi) * (1 / z**2) * (1 - 3 / z**2 + 15 / z**4 - 105 / z**6)
    np.testing.assert_allclose(ours.expected_improvement(z, np.ones(3), 0.0), series, rtol=3e-5)


GOOD = {"x": [0.0, 1.0], "y": [1.0, 2.0], "at": [0.5], "length": 1.0, "noise": 0.1, "amplitude": 1.0}
REFUSED = [
    ("length", 0.0, "length must be positive and finite, not 0.0"),
    ("amplitude", -1.0, "amplitude must be positive and finite"),
    ("noise", -0.1, "noise must be at least 0 and finite, not -0.1"),
    ("noise", float("nan"), "noise must be"),
    ("x", [0.0], "x has 1 places and y 2 values"),
    ("y", [1.0, float("nan")], "y must be finite"),
    ("x", [[0.0, 1.0]], "x must be finite numbers along one axis"),
    ("at", 0.5, "at must be finite numbers along one axis"),
]


@pytest.mark.parametrize(("name", "value", "message"), REFUSED)
def test_bad_input_is_refused_by_name(name: str, value, message: str):
    with pytest.raises(ValueError, match=message):
        ours.posterior(**GOOD | {name: value})


def test_what_cannot_be_is_refused():
    with pytest.raises(ValueError, match="noise must be larger than 0"):
        ours.log_likelihood([1.0, 1.0], [0.0, 1.0], length=1.0, noise=0.0)
    with pytest.raises(ValueError, match="as many variances"):
        ours.expected_improvement([0.0], [1.0, 1.0], 0.0)
    with pytest.raises(ValueError, match="none below 0"):
        ours.expected_improvement([0.0], [-1.0], 0.0)
    with pytest.raises(ValueError, match="best must be a finite number"):
        ours.expected_improvement([0.0], [1.0], float("inf"))
