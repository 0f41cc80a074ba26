"""House style and the book's recurring figures: Okabe–Ito colours, labelled axes, units."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import FancyBboxPatch
from matplotlib.ticker import LogLocator
from torch import Tensor

from bioplaus_lite.rules.cards import COLOURS as PALETTE
from bioplaus_lite.rules.cards import RULES, card_of, every_card
from bioplaus_lite.training import History

__all__ = [
    "COLOURS", "LABELS", "SHORT", "STYLE", "arrows", "bands", "curves", "digits", "families", "family_grid",
    "learning_curves", "published_against_ours", "scheme", "short_name", "style_of",
]  # fmt: skip

#: Okabe & Ito's palette, see :data:`~bioplaus_lite.rules.cards.COLOURS`.
COLOURS = tuple(PALETTE.values())

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

#: What the rules are called in figures, by name, from their cards.
LABELS = {name: card.label for name, card in RULES.items()}

#: What rules and the runs of the review's experiment are called where there is little room, in the order of the book.
SHORT = {card.name: card.short for card in every_card()}


def families() -> dict[str, tuple[str, ...]]:
    """Names of runs by kinship, for figures with a column a family; all are compared with backprop."""
    found: dict[str, list[str]] = {}
    for card in every_card():
        found.setdefault(card.family, []).append(card.name)
    reference, *others = found
    return {family: (found[reference][0], *found[family]) for family in others}


def style_of(name: str) -> dict[str, str]:
    """Colour, dashes and label of a rule or run, the same in all figures.

    Backprop is black. No two rules of one family share a colour; rules of different families may, with other dashes.

    Args:
        name: of a rule, of a run of the review's experiment, or ``"module:Class"``.

    Raises:
        ValueError: there is no such rule.
    """
    card = card_of(name)
    return {"color": PALETTE[card.look.colour], "linestyle": card.look.dash, "label": card.short}


def bands(
    frame: pd.DataFrame,
    *,
    xlabel: str = "training examples seen",
    ylabel: str,
    title: str = "",
    against: str = "examples",
    ax: Axes | None = None,
    **line: Any,
) -> Axes:
    """Mean over seeds of each run's curve, and a band from the lowest seed to the highest.

    A run has the same colour and dashes in all figures.

    Args:
        frame: of :func:`~bioplaus_lite.runs.results.tidy`, one metric; ``name`` as in :func:`style_of`.
        xlabel, ylabel: quantities with units.
        title: of the axes.
        against: ``examples``, ``seconds`` or ``epoch``.
        ax: axes to draw on.
        line: further properties of the lines, ``linewidth``, ``alpha`` …

    Raises:
        ValueError: a run is of no rule that is known.
    """
    ax = plt.subplots()[1] if ax is None else ax
    for name in [*SHORT, *dict.fromkeys(n for n in frame.name if n not in SHORT)]:
        own = frame[frame.name == name]
        if own.empty:
            continue
        seeds = [seed for _, seed in own.groupby("seed")]
        x, values = (np.stack([seed[what] for seed in seeds]) for what in (against, "value"))
        x = x.mean(0)  # seconds differ between seeds
        style = style_of(name) | line
        ax.plot(x, values.mean(0), **style)
        ax.fill_between(x, values.min(0), values.max(0), color=style["color"], alpha=0.2, linewidth=0)
    ax.set(xlabel=xlabel, ylabel=ylabel, title=title)
    return ax


def family_grid(
    rows: Mapping[str, pd.DataFrame],
    *,
    levels: Mapping[str, Sequence[tuple[float, str]]] | None = None,
    xlabel: str = "epoch",
    against: str = "epoch",
    xscale: tuple[str, Mapping] = ("linear", {}),
    xticks: Mapping[float, str] | None = None,
    ylims: Mapping[str, tuple[float | None, float | None]] | None = None,
    logarithmic: Sequence[str] = (),
    columns: Mapping[str, Sequence[str]] | None = None,
    height: float = 1.35,
) -> Figure:
    """One row a quantity and one column a family of rules, each panel with its :func:`bands`.

    Args:
        rows: label of the y axis, with units, to a frame of :func:`~bioplaus_lite.runs.results.tidy`.
        levels: label of the y axis to named horizontal reference lines, pairs of height and name.
        xlabel: quantity along x with its unit.
        against: ``examples``, ``seconds`` or ``epoch``.
        xscale: a name of matplotlib's and its options.
        xticks: place to label.
        ylims: label of the y axis to its limits.
        logarithmic: labels of the y axes that are.
        columns: title to names, those of :func:`families` by default. Names and columns without values are left out.
        height: of a row, in inches.
    """
    present = set().union(*(frame.name for frame in rows.values()))
    titled = columns or families()
    shown = {title: names for title, names in titled.items() if present & set(names[1:])} or titled
    size = (7.5, height * len(rows) + 0.9)
    fig, axes = plt.subplots(len(rows), len(shown), figsize=size, sharex=True, sharey="row", squeeze=False)
    for i, (ylabel, frame) in enumerate(rows.items()):
        for j, (title, names) in enumerate(shown.items()):
            ax = axes[i, j]
            bands(frame[frame.name.isin(names)], xlabel="", ylabel="", against=against, ax=ax, linewidth=1.4)
            ax.tick_params(labelsize=8)
            for level, name in (levels or {}).get(ylabel, ()):
                ax.axhline(level, color="0.5", linewidth=1, linestyle="-", zorder=0)
                if j == 0:
                    place = ax.get_yaxis_transform()  # x as a fraction of the axes, y as data
                    ax.annotate(name, (0.02, level), xycoords=place, va="bottom", color="0.35", size=7)
            if i == 0:
                ax.set_title(title, size=9)
        axes[i, 0].set_ylabel(ylabel, size=8)
        if ylabel in logarithmic:
            axes[i, 0].set_yscale("log")
        if ylims and ylabel in ylims:
            axes[i, 0].set_ylim(ylims[ylabel])
        if ylabel in logarithmic:
            low, high = axes[i, 0].get_ylim()
            subs = (1, 3) if high > 10 * low else (1, 1.5, 2, 3, 4, 5, 6, 7, 8, 9)  # a short range has its ticks too
            axes[i, 0].yaxis.set(major_locator=LogLocator(subs=subs), major_formatter="{x:g}", minor_formatter="")
    for ax in axes[-1]:
        ax.set_xlabel(xlabel, size=8)
        ax.set_xscale(xscale[0], **xscale[1])
        if xticks:
            ax.set_xticks(list(xticks), xticks.values())
            ax.set_xlim(left=0)
            ax.minorticks_off()
        ax.legend(loc="upper left", bbox_to_anchor=(-0.1, -0.45 / height), fontsize=7.5, handlelength=1.8)
    fig.align_ylabels(axes[:, 0])
    return fig


def short_name(run: str, rule: str) -> str:
    """What a run is called where there is little room: by its own card if it has one, else by that of its rule."""
    return SHORT.get(run) or card_of(rule).short


#: Where a published figure was read, as the shape of its marker.
_SHAPES = {"paper": "o", "code": "s", "second-hand": "^"}


def published_against_ours(
    card: pd.DataFrame, zoom: tuple[tuple[float, float], tuple[float, float]] = ((1.3, 5), (1.25, 6.2))
) -> Figure:
    """Each published figure against ours, on logarithmic axes with the diagonal: errors, some of them nearer, angles.

    Accuracies are drawn as the errors that they leave. A colour is a paper, a shape where the figure was read. Filled:
    inside of the 95 % interval of our seeds, which is the bar; hollow: outside; pale, with no bar: of one seed. What is
    off by a factor of 1.8 or more has the name of its rule.

    Args:
        card: of :func:`~bioplaus_lite.runs.scorecard.scorecard`.
        zoom: published and ours, the limits of the panel in the middle.
    """
    fig, axes = plt.subplots(1, 3, figsize=(9.5, 4.1), width_ratios=(1, 1.25, 0.7))
    angles = card.what.str.startswith("angle")
    errors = card[~angles].copy()
    share = errors.what.str.contains("accuracy")
    for column in ("published", "mean"):
        errors[column] = errors[column].where(~share, 100 - errors[column])
    papers = dict(zip(dict.fromkeys(card.paper), COLOURS, strict=False))
    near = errors[errors.published.between(*zoom[0]) & errors["mean"].between(*zoom[1])]
    for ax, rows in zip(axes, (errors, near, card[angles]), strict=True):
        for row in rows.itertuples():
            colour = papers[row.paper]
            fill = {"inside": colour, "outside": "white", "cannot be told": (*to_rgb(colour), 0.3)}[row.verdict]
            low = min(row.half, 0.98 * row.mean)  # zero has no place on a logarithmic axis
            bar = None if np.isnan(row.half) else [[low], [row.half]]
            look = {"fmt": _SHAPES[row.known], "color": colour, "markerfacecolor": fill}
            look |= {"markersize": 6.5, "markeredgewidth": 1.4, "elinewidth": 1.1, "capsize": 2}
            ax.errorbar(row.published, row.mean, bar, **look)
            off = max(row.mean, row.published) / min(row.mean, row.published)
            if off >= 1.8 and (rows is not errors or row.Index not in near.index):
                place = {"xytext": (6, -11), "textcoords": "offset points"}
                ax.annotate(short_name(row.run, row.rule), (row.published, row.mean), **place, size=8.5, color="0.25")
        ax.set(xscale="log", yscale="log", xlabel="published")
        subs = (1, 2, 3, 4, 5, 6) if rows is near else (1, 2, 5)
        for axis in (ax.xaxis, ax.yaxis):
            axis.set(major_locator=LogLocator(subs=subs), major_formatter="{x:g}", minor_formatter="")
        ax.minorticks_off()
    axes[0].set(title="errors (%)", ylabel="ours, mean of the seeds", xlim=(0.8, 110), ylim=(0.8, 110))
    axes[1].set(title="errors (%): the frame, nearer", xlim=zoom[0], ylim=zoom[1])
    axes[2].set(title="hidden error, angle (°)", xlim=(2, 50), ylim=(2, 50))
    width, height = (high - low for low, high in zoom)
    axes[0].add_patch(plt.Rectangle((zoom[0][0], zoom[1][0]), width, height, fill=False, color="0.5", linewidth=0.8))
    for ax in axes:
        ax.plot([0.1, 200], [0.1, 200], color="0.6", linewidth=1, linestyle="-", zorder=0, scalex=False, scaley=False)
    looks = [(f"{paper[:-4].title()} {paper[-4:]}", "o", colour, colour) for paper, colour in papers.items()]
    looks += [(f"known: {known}", shape, "0.4", "0.4") for known, shape in _SHAPES.items() if known in set(card.known)]
    fills = {"inside": "0.4", "outside": "white", "cannot be told": "0.85"}
    looks += [(verdict, "o", "0.4", fill) for verdict, fill in fills.items()]
    marks = [Line2D([], [], marker=m, linestyle="", color=c, mfc=fill, label=said) for said, m, c, fill in looks]
    fig.legend(handles=marks, loc="outside lower center", ncols=6, fontsize=8.5, handletextpad=0.1)
    return fig


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
    """One metric of several trainings against the examples seen.

    A rule has its own colour and dashes; what goes by another name gets a colour that no rule of the figure has.
    """
    ax = plt.subplots()[1] if ax is None else ax
    with_a_card = [name for name in histories if name in RULES or _names_a_class(name)]
    looks = {name: style_of(name) | {"label": card_of(name).label} for name in with_a_card}
    taken = {look["color"] for look in looks.values()}
    # As matplotlib would give them: see the cycle in STYLE.
    cycle = [{"color": c, "linestyle": d} for c, d in zip(COLOURS, _LINES * 2, strict=True)]
    spare = itertools.cycle([look for look in cycle if look["color"] not in taken] or cycle)
    for name, history in histories.items():
        x, y = history.curve(metric, split)
        look: dict[str, Any] = looks.get(name) or {"label": name} | next(spare)
        ax.plot(x, y, **look)
    unit = {"accuracy": "accuracy (fraction correct)", "loss": "cross-entropy (nats)"}.get(metric, metric)
    ax.set(xlabel="training examples seen", ylabel=f"{split} {unit}")
    ax.legend()
    return ax


def _names_a_class(name: str) -> bool:
    """Whether a name is ``module:Class``, and not one such as "rate: 0.1"."""
    module, colon, attribute = name.partition(":")
    return bool(colon) and all(part.isidentifier() for part in (*module.split("."), attribute))


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


def scheme(
    boxes: Mapping[str, tuple[float, float]],
    wires: Sequence[tuple[str, str, str, tuple[float, float], Mapping[str, Any]]],
    *,
    size: tuple[float, float] = (0.9, 0.5),
    ax: Axes | None = None,
) -> Axes:
    """A drawing of what is computed from what: boxes, each with its name in it, and labelled arrows between them.

    Args:
        boxes: name to the centre of its box, on equal scales.
        wires: from, to, label, where the label stands from the middle of the arrow, and the look of the arrow:
            properties of a matplotlib arrow, ``color``, ``linestyle``, ``arrowstyle`` …
        size: width and height of a box.
        ax: axes to draw on.

    Raises:
        ValueError: an arrow starts or ends at a box that is not there.
    """
    ax = plt.subplots()[1] if ax is None else ax
    width, height = size
    drawn = {}
    for name, (x, y) in boxes.items():
        outline = FancyBboxPatch((x - width / 2, y - height / 2), width, height, "round,pad=0,rounding_size=0.1")
        drawn[name] = ax.add_patch(outline)
        outline.set(facecolor="0.96", edgecolor="0.3")
        ax.text(x, y, name, ha="center", va="center", zorder=3)
    for start, end, label, (dx, dy), look in wires:
        for name in (start, end):
            if name not in boxes:
                raise ValueError(f"an arrow ends at {name!r}; boxes are {', '.join(boxes)}")
        arrow = {"color": "black", "arrowstyle": "-|>", "linewidth": 1.6, "mutation_scale": 13, **look}
        ends = {"patchA": drawn[start], "patchB": drawn[end], "shrinkA": 2, "shrinkB": 2}  # cut at the outlines
        ax.annotate("", boxes[end], boxes[start], arrowprops=arrow | ends)
        x, y = ((a + b) / 2 for a, b in zip(boxes[start], boxes[end], strict=True))
        ax.text(x + dx, y + dy, label, ha="center", va="center", color=arrow["color"])
    xs, ys = zip(*boxes.values(), strict=True)
    ax.set(aspect="equal", xlim=(min(xs) - width, max(xs) + width), ylim=(min(ys) - height, max(ys) + height))
    ax.set_axis_off()
    return ax
