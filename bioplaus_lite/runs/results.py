"""From the records of runs to tables: curves in tidy form, means with intervals, what it took to get somewhere."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import stdtrit

__all__ = ["HIGHER_IS_BETTER", "QUANTITIES", "holm", "late_error", "mean_and_interval", "reached", "tidy", "welch"]

#: What a published figure may be, and how the record of a run has it, at the end of the training. Errors of spiking
#: networks are those with spikes.
#:
#: :meta hide-value:
QUANTITIES: Mapping[str, Callable[[Mapping[str, Any]], float]] = {
    "test error (%)": lambda run: 100 * run["test_error"],
    "test accuracy (%)": lambda run: 100 * (1 - run["test_error"]),
    "validation accuracy (%)": lambda run: 100 * (1 - run["validation_error"]),
    "angle of the hidden error (°)": lambda run: run["metrics"]["rule"]["error_angle_1"][-1],
}

#: Of which of them more is better; of the others less is.
HIGHER_IS_BETTER = frozenset({"test accuracy (%)", "validation accuracy (%)"})


def tidy(runs: pd.DataFrame, metric: str, split: str = "validation") -> pd.DataFrame:
    """One row for each value of a metric in the records of runs.

    The columns are ``dataset, name, rule, seed, epoch, examples, seconds, value``.

    Args:
        runs: what :func:`~bioplaus_lite.runs.records.load_runs` returns, of results that the runner made.
        metric: ``"accuracy"``, ``"loss"`` …
        split: ``train_sample``, ``validation``, ``test``; or ``rule`` for what was measured of the rule itself.

    Raises:
        KeyError: a run did not record it; the message names the run and what it recorded.
    """
    rows = []
    for run in runs.itertuples():
        values = run.metrics.get(split)
        if values is None or metric not in values:
            held = f"on {split!r} it has {', '.join(values)}" if values else f"its splits are {', '.join(run.metrics)}"
            raise KeyError(f"{run.id} recorded no {metric!r}; {held}")
        rows += [
            (run.dataset, run.name, run.rule, run.seed, *at)
            for at in zip(values["epoch"], values["examples"], values["seconds"], values[metric], strict=True)
        ]
    columns = ["dataset", "name", "rule", "seed", "epoch", "examples", "seconds", "value"]
    return pd.DataFrame(rows, columns=columns).astype({"value": float})


def mean_and_interval(values: Sequence[float], level: float = 0.95) -> tuple[float, float]:
    r"""Mean of a sample, and the half-width of its confidence interval by Student's t.

    .. math:: \bar v \pm t_{n-1}^{(1+p)/2}\, \frac{s}{\sqrt n}

    With three seeds ``t`` is 4.3: the interval is 2.5 standard deviations wide to each side. It says what other seeds
    would do, and nothing about other data or settings. One value has no interval: ``nan``.

    Raises:
        ValueError: there are no values, or ``level`` is not between 0 and 1.
    """
    v = np.asarray(values, dtype=float)
    if v.ndim != 1 or not v.size or not 0 < level < 1:
        raise ValueError(f"needs at least one value and a level in (0, 1), not {len(v)} values and {level!r}")
    if len(v) == 1:
        return float(v[0]), float("nan")
    return float(v.mean()), float(stdtrit(len(v) - 1, (1 + level) / 2) * v.std(ddof=1) / np.sqrt(len(v)))


def late_error(runs: pd.DataFrame, epochs: int = 5) -> pd.Series:
    """Mean test error over the last epochs of each run, indexed as ``runs``; of spiking networks, with spikes.

    One epoch's error moves by as much as two seeds differ; the mean of several says where a training stands.

    Raises:
        ValueError: ``epochs`` is not positive, or a run recorded fewer.
    """
    means = []
    for run in runs.itertuples():
        spikes = run.metrics.get("rule", {})
        curve = spikes if "spiking_accuracy" in spikes else run.metrics["test"]
        at = np.asarray(curve["epoch"])
        accuracy = np.asarray(curve.get("spiking_accuracy") or curve["accuracy"], dtype=float)
        first = max(run.epochs - epochs, 0)  # the state before learning is no epoch
        ends = accuracy[(at > first) & (at == at.round())]
        if epochs < 1 or len(ends) != epochs:
            raise ValueError(f"{run.id} recorded {len(ends)} of its last {epochs} epochs")
        means.append(1 - ends.mean())
    return pd.Series(means, index=runs.index, dtype=float)


def holm(p: Sequence[float] | np.ndarray) -> np.ndarray:
    r"""Holm's adjusted p-values: at or below :math:`\alpha`, a difference holds among all that were looked at.

    With :math:`p_{(1)} \le \dots \le p_{(m)}`,

    .. math:: \tilde p_{(i)} = \max_{j \le i} \min(1, (m - j + 1)\, p_{(j)}) .

    If none of the :math:`m` differences exist, the chance that any is declared is at most :math:`\alpha`, however
    they depend on each other.

    Source: Holm (1979), Scandinavian Journal of Statistics 6, 65-70.

    Raises:
        ValueError: a value is not in [0, 1].
    """
    values = np.asarray(p, dtype=float)
    if values.ndim != 1 or not ((values >= 0) & (values <= 1)).all():
        raise ValueError(f"p-values lie in [0, 1]; these are {values}")
    order = values.argsort(kind="stable")
    steps = np.minimum(1, values[order] * np.arange(len(values), 0, -1))
    adjusted = np.empty_like(values)
    adjusted[order] = np.maximum.accumulate(steps)
    return adjusted


def welch(values: Mapping[str, Sequence[float]], reference: str, level: float = 0.95) -> pd.DataFrame:
    r"""How far the mean of each sample lies from that of one of them, by Welch, adjusted by :func:`holm`.

    .. math:: (\bar a - \bar b) \pm t_\nu \sqrt{s_a^2/n_a + s_b^2/n_b}

    Args:
        values: a sample, such as one error a seed, of each name.
        reference: the name of the sample that the others are compared with.
        level: of the interval, and of what holds.

    Returns:
        A table with one row for each other name and the columns ``difference``, ``half`` (of the interval, unadjusted),
        ``p`` (unadjusted, for a family that spans several tables), ``alone`` (whether the interval does not hold zero)
        and ``holds`` (whether the difference does among all rows, by Holm).

    Raises:
        KeyError: no sample is called ``reference``.
        ValueError: a sample has fewer than two values.
    """
    from scipy.stats import ttest_ind  # it takes two seconds to import

    short = [name for name, sample in values.items() if len(sample) < 2]
    if short:
        raise ValueError(f"a spread needs two values or more; {', '.join(short)} has fewer")
    others = {name: sample for name, sample in values.items() if name != reference}
    tests = [ttest_ind(sample, values[reference], equal_var=False) for sample in others.values()]
    low, high = np.array([tuple(test.confidence_interval(level)) for test in tests]).reshape(-1, 2).T
    p = np.array([test.pvalue for test in tests])
    mean, half = (low + high) / 2, (high - low) / 2
    table = {"difference": mean, "half": half, "p": p, "alone": p < 1 - level, "holds": holm(p) < 1 - level}
    return pd.DataFrame(table, index=list(others))


def reached(curve: pd.DataFrame, target: float, against: str = "examples") -> float:
    """Where a curve first reaches a target, on the straight line between the two records around it.

    Args:
        curve: of one run, from :func:`tidy`, growing in ``against``.
        target: the value to reach from below.
        against: ``examples``, ``seconds`` or ``epoch``.

    Returns:
        The place, or ``nan`` if it is never reached.
    """
    x, v = curve[against].to_numpy(float), curve.value.to_numpy(float)
    over = np.flatnonzero(v >= target)
    if not len(over):
        return float("nan")
    i = over[0]
    return float(x[0]) if i == 0 else float(np.interp(target, v[i - 1 : i + 1], x[i - 1 : i + 1]))
