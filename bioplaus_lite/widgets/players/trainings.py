"""A step player that goes through trainings, record by record."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from bioplaus_lite.plots import SHORT
from bioplaus_lite.widgets.panels import bars
from bioplaus_lite.widgets.player import StepPlayer

__all__ = ["training_walk"]


def training_walk(accuracy: pd.DataFrame, names: Mapping[str, str]) -> StepPlayer:
    """Step through trainings record by record, all rules side by side on each data set.

    Args:
        accuracy: of :func:`~bioplaus_lite.runs.results.tidy`, the metric ``accuracy``: a fraction. Every run of a data
            set was recorded at the same numbers of examples, and all data sets have as many records.
        names: what the data sets are called, ``{dataset: title}``; a panel each, in this order.

    Raises:
        ValueError: the runs were not recorded alike; the message names the data set.
    """
    panels, tables = [], {}
    for dataset, title in names.items():
        own = accuracy[accuracy.dataset == dataset]
        error = 100 * (1 - own.pivot_table(values="value", index="examples", columns="name", aggfunc="mean"))
        error = error[[name for name in SHORT if name in error]]
        if error.empty or error.isna().any(axis=None):
            raise ValueError(f"training walk: the runs on {dataset!r} were not all recorded at the same examples")
        tables[dataset] = error
        limit = 1.15 * error.iloc[-1].max()  # the beginning, where all are at chance, may run over the edge
        labels = [SHORT[name] for name in error]
        panels.append(bars(title, labels, error.to_numpy(), "validation error (%)", ylim=(0, limit)))
    counts = {len(error) for error in tables.values()}
    if len(counts) > 1:
        raise ValueError(f"training walk: the data sets have {sorted(counts)} records; they must have as many")
    steps, texts = [], []
    for k in range(counts.pop()):
        seen = " / ".join(dict.fromkeys(f"{error.index[k]:,}" for error in tables.values()))
        steps.append(f"{seen} examples")
        best = (f"{names[d]}: {SHORT[e.iloc[k].idxmin()]}, {e.iloc[k].min():.1f} %" for d, e in tables.items())
        texts.append("Nothing is learned yet." if k == 0 else f"Fewest errors on {'; '.join(best)}.")
    return StepPlayer(
        panels,
        steps,
        texts,
        title="Every rule, record by record",
        description="Validation errors while rules train, means over seeds. A panel a data set, a bar a rule.",
        step=len(steps) - 1,
        step_name="record",
    )
