"""From the records of runs to tables: curves in tidy form, means with intervals, what it took to get somewhere."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy.special import stdtrit  # scipy.stats takes two seconds to import

__all__ = ["mean_and_interval", "reached", "tidy"]


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
        known = run.metrics.get(split)
        if known is None or metric not in known:
            held = f"on {split!r} it has {', '.join(known)}" if known else f"its splits are {', '.join(run.metrics)}"
            raise KeyError(f"{run.id} recorded no {metric!r}; {held}")
        rows += [
            (run.dataset, run.name, run.rule, run.seed, *at)
            for at in zip(known["epoch"], known["examples"], known["seconds"], known[metric], strict=True)
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
