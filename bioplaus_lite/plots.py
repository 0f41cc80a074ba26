"""House style and the book's recurring figures: Okabe–Ito colours, labelled axes, units."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator
from torch import Tensor

from bioplaus_lite.training import History

__all__ = [
    "COLOURS", "LABELS", "SHORT", "STYLE", "arrows", "bands", "curves", "digits", "learning_curves", "log_percent",
]  # fmt: skip

#: Okabe & Ito's palette, without its yellow, which is too pale for a line on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000", "#7F7F7F")

_LINES = ("-", "--", "-.", ":")

#: What a chapter passes to ``plt.rcParams.update``.
STYLE = {
    "axes.prop_cycle": plt.cycler(color=COLOURS) + plt.cycler(linestyle=_LINES * 2),
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": "medium",
    "figure.constrained_layout.use": True,
    "figure.dpi": 100,
    "figure.figsize": (6.4, 3.4),
    "font.size": 10,
    "legend.frameon": False,
    "lines.linewidth": 1.8,
}

#: What the rules are called in figures.
LABELS = {
    "backprop": "Backpropagation",
    "fa": "Feedback alignment",
    "dfa": "Direct feedback alignment",
    "usf": "Sign symmetry (uniform)",
    "frsf": "Sign symmetry (fixed)",
    "brsf": "Sign symmetry (redrawn)",
    "weight_mirror": "Weight mirror",
    "kolen_pollack": "Kolen–Pollack",
    "tp": "Target propagation",
    "dtp": "Difference target propagation",
    "sdtp": "Simplified DTP",
    "ao_sdtp": "SDTP with auxiliary output",
    "segregated": "Segregated compartments",
    "microcircuits": "Dendritic microcircuits",
}

#: What the runs of the review's experiment are called where there is little room.
SHORT = {
    "mlp": "Backprop",
    "cnn": "Backprop, CNN",
    "fa": "FA",
    "dfa": "DFA",
    "usf": "uSF",
    "frsf": "frSF",
    "brsf": "brSF",
    "weight_mirror": "Weight mirror",
    "kolen_pollack": "Kolen–Pollack",
    "tp": "TP",
    "dtp": "DTP",
    "sdtp": "SDTP",
    "ao_sdtp": "AO-SDTP",
    "segregated": "Segregated, spikes",
    "segregated_rate": "Segregated, rates",
    "microcircuits": "Microcircuits",
}


def bands(
    frame: pd.DataFrame,
    *,
    xlabel: str = "training examples seen",
    ylabel: str,
    title: str = "",
    against: str = "examples",
    ax: Axes | None = None,
    **line,
) -> Axes:
    """Mean over seeds of each run's curve, and a band from the lowest seed to the highest.

    A run has the same colour and dashes in all figures.

    Args:
        frame: of :func:`~bioplaus_lite.runs.results.tidy`, one metric; ``name`` is one of :data:`SHORT`.
        xlabel, ylabel: quantities with units.
        title: of the axes.
        against: ``examples``, ``seconds`` or ``epoch``.
        ax: axes to draw on.
        line: further properties of the lines, ``linewidth``, ``alpha`` …

    Raises:
        ValueError: a run has no label in :data:`SHORT`.
    """
    if unknown := set(frame.name) - set(SHORT):
        raise ValueError(f"bands: no label for the runs {', '.join(sorted(unknown))}; known are {', '.join(SHORT)}")
    ax = plt.subplots()[1] if ax is None else ax
    for place, name in enumerate(SHORT):
        own = frame[frame.name == name]
        if own.empty:
            continue
        seeds = [seed for _, seed in own.groupby("seed")]
        x, values = (np.stack([seed[what] for seed in seeds]) for what in (against, "value"))
        x = x.mean(0)  # seconds differ between seeds
        style = {"color": COLOURS[place % 8], "linestyle": _LINES[place // 8], "label": SHORT[name]} | line
        ax.plot(x, values.mean(0), **style)
        ax.fill_between(x, values.min(0), values.max(0), color=style["color"], alpha=0.2, linewidth=0)
    ax.set(xlabel=xlabel, ylabel=ylabel, title=title)
    return ax


def log_percent(ax: Axes) -> None:
    """A logarithmic y axis for errors in percent, with plain numbers at its ticks."""
    ax.set_yscale("log")
    ax.yaxis.set_major_locator(FixedLocator([0.1, 0.2, 0.5, 1, 2, 3, 5, 10, 20, 30, 50, 70]))
    ax.yaxis.set_minor_locator(NullLocator())
    ax.yaxis.set_major_formatter("{x:g}")


def curves(
    x: Sequence[float],
    series: Mapping[str, Sequence[float]],
    *,
    xlabel: str,
    ylabel: str,
    title: str = "",
    levels: Mapping[str, float] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Labelled lines over one axis; ``levels`` are named horizontal reference lines."""
    ax = plt.subplots()[1] if ax is None else ax
    for name, y in series.items():
        ax.plot(x, y, label=name)
    for name, level in (levels or {}).items():
        ax.axhline(level, color="0.5", linewidth=1, linestyle="-", zorder=0)
        ax.annotate(name, (1, level), xycoords=("axes fraction", "data"), ha="right", va="bottom", color="0.35", size=9)
    ax.set(xlabel=xlabel, ylabel=ylabel, title=title)
    if len(series) > 1:
        ax.legend()
    return ax


def learning_curves(
    histories: Mapping[str, History], metric: str = "accuracy", split: str = "test", ax: Axes | None = None
) -> Axes:
    """One metric of several trainings against the examples seen."""
    ax = plt.subplots()[1] if ax is None else ax
    for name, history in histories.items():
        x, y = history.curve(metric, split)
        ax.plot(x, y, label=LABELS.get(name, name))
    unit = {"accuracy": "accuracy (fraction correct)", "loss": "cross-entropy (nats)"}.get(metric, metric)
    ax.set(xlabel="training examples seen", ylabel=f"{split} {unit}")
    ax.legend()
    return ax


def digits(images: Tensor, titles: Sequence[str], *, shape: Sequence[int] = (1, 28, 28), columns: int = 10) -> Figure:
    """A row or grid of images, flat ``(N, channels·height·width)`` in [0, 1], each under its title."""
    rows = -(-len(images) // columns)
    fig, axes = plt.subplots(rows, columns, figsize=(0.8 * columns, 1.0 * rows), squeeze=False)
    for ax in axes.flat:
        ax.set_axis_off()
    for ax, image, title in zip(axes.flat, images, titles, strict=False):
        channels_last = np.moveaxis(image.view(*shape).numpy(), 0, -1)
        ax.imshow(channels_last.squeeze(), cmap="gray_r", vmin=0, vmax=1)
        ax.set_title(title, size=8)
    return fig


def arrows(vectors: Mapping[str, Sequence[float]], *, xlabel: str, ylabel: str, ax: Axes | None = None) -> Axes:
    """Named vectors from the origin of a plane with equal axes."""
    ax = plt.subplots(figsize=(4, 4))[1] if ax is None else ax
    for colour, (name, (u, v)) in zip(COLOURS, vectors.items(), strict=False):
        ax.annotate("", (u, v), (0, 0), arrowprops={"arrowstyle": "-|>", "color": colour, "linewidth": 2})
        ax.annotate(name, (u, v), textcoords="offset points", xytext=(4, 4), color=colour)
    reach = 1.2 * max(abs(c) for v in vectors.values() for c in v)
    ax.set(xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal", xlabel=xlabel, ylabel=ylabel)
    ax.axhline(0, color="0.8", linewidth=1, linestyle="-", zorder=0)
    ax.axvline(0, color="0.8", linewidth=1, linestyle="-", zorder=0)
    return ax
