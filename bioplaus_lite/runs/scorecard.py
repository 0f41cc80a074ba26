"""Published against measured: every figure of a paper that stands beside runs, and whether they meet it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from bioplaus_lite.runs.catalogue import Published, figures, read_published
from bioplaus_lite.runs.records import DATA, recorded, refuse_mixed
from bioplaus_lite.runs.results import HIGHER_IS_BETTER, QUANTITIES, mean_and_interval

__all__ = ["VERDICTS", "Verdict", "count", "judge", "scorecard"]

#: What can be said of a published figure.
VERDICTS = ("inside", "outside", "cannot be told")


class Verdict(NamedTuple):
    """How a published figure stands to what our seeds reach.

    ``mean`` and ``half``: of ours, with the half-width of the 95 % interval; one seed has none, ``nan``.
    ``verdict``: one of :data:`VERDICTS`. ``side``: where ours lies, ``higher`` or ``lower``, and ``better``: whether
    that is ``better`` or ``worse``; both are empty unless the figure is outside.
    """

    mean: float
    half: float
    verdict: str
    side: str = ""
    better: str = ""


def judge(what: str, figure: float, values: Sequence[float], level: float = 0.95) -> Verdict:
    r"""Whether a published figure lies in the interval of our seeds.

    With values :math:`v_1 \dots v_n` of :math:`n \ge 2` seeds a figure :math:`f` is *inside* if

    .. math:: \bar v - t_{n-1}^{(1+p)/2} \frac{s}{\sqrt n} \le f \le \bar v + t_{n-1}^{(1+p)/2} \frac{s}{\sqrt n},

    the ends among it, and *outside* otherwise. Of fewer seeds it cannot be told. The figure is taken as exact: papers
    rarely say by how much theirs would vary.

    Args:
        what: the figure is, one of :data:`~bioplaus_lite.runs.results.QUANTITIES`.
        figure: as published.
        values: ours, one a seed, in the same unit; none if nothing is on record.
        level: :math:`p`.

    Raises:
        KeyError: ``what`` is no such quantity.
    """
    if what not in QUANTITIES:
        raise KeyError(f"unknown quantity {what!r}; choose one of {', '.join(QUANTITIES)}")
    if len(values) < 2:
        return Verdict(values[0] if len(values) else math.nan, math.nan, "cannot be told")
    mean, half = mean_and_interval(values, level)
    if mean - half <= figure <= mean + half:
        return Verdict(mean, half, "inside")
    higher = mean > figure
    better = "better" if higher == (what in HIGHER_IS_BETTER) else "worse"
    return Verdict(mean, half, "outside", "higher" if higher else "lower", better)


def scorecard(published: Iterable[Published] | None = None, data: Path = DATA) -> pd.DataFrame:
    """One row for each published figure that runs of the catalogue stand beside, in its order. None is left out.

    The verdict is that of the run with the setting nearest to the paper's; what other runs reach stands in ``others``.

    Args:
        published: figures; those of the catalogue by default.
        data: the folder of the records.

    Returns:
        A table with the columns ``paper, known, where, what, dataset, rule, published``, of the figure; ``group, run,
        sizes, epochs, differs``, of the nearest run; ``values`` (one a seed), ``seeds`` (how many); ``mean, half,
        verdict, side, better`` of :func:`judge`; ``distance`` (mean minus published); ``reason``; ``others``, a list
        of pairs of a run's name and its :class:`Verdict`.

    Raises:
        MixedRuns: different code produced the seeds of a run.
        ValueError: the figures do not say which run is the nearest.
    """
    found: dict[tuple, list[dict[str, Any]]] = {}
    for record in recorded(data, "result").values():
        found.setdefault((record["group"], record.get("name"), record["dataset"]), []).append(record)
    rows = []
    for beside in figures(read_published() if published is None else published):
        judged = []
        for one in beside:
            own = found.get((one.group, one.run, one.dataset), [])
            refuse_mixed(f"of {one.group}, {one.run}", own)
            values = [QUANTITIES[one.what](record) for record in own]
            judged.append((one, own, values, judge(one.what, one.figure, values)))
        (one, own, values, verdict), *others = judged
        rows.append(
            {
                **{key: getattr(one, key) for key in ("paper", "known", "where", "what", "dataset", "rule")},
                "published": one.figure,
                **{key: getattr(one, key) for key in ("group", "run", "differs", "reason")},
                "sizes": own[0]["sizes"] if own else [],
                "epochs": own[0]["epochs"] if own else 0,
                "values": values,
                "seeds": len(values),
                **verdict._asdict(),
                "distance": verdict.mean - one.figure,
                "others": [(other.run, said) for other, _, _, said in others],
            }
        )
    return pd.DataFrame(rows)


def count(card: pd.DataFrame) -> str:
    """How many figures of a :func:`scorecard` there are, and how many of each verdict, in one line."""
    of = card.verdict.value_counts().reindex(VERDICTS, fill_value=0)
    ours = card.better.value_counts().reindex(["better", "worse"], fill_value=0)
    return (
        f"{len(card)} figures of {card.paper.nunique()} papers: {of['inside']} inside, {of['outside']} outside "
        f"(ours: {ours['better']} better, {ours['worse']} worse), {of['cannot be told']} cannot be told"
    )
