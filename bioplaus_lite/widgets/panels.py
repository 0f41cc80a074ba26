"""Panels of a step player: plain functions that check their data and return what the page draws.

Every panel holds one drawing for each step. Data may be lists, NumPy arrays or tensors; numbers of one panel are
rounded to the same decimals, four figures of the largest, so that pages stay small and are the same on every
processor. All raise :class:`ValueError` naming the panel, the value and what is allowed: for unequal lengths, no
steps, text in place of numbers, and NaN or infinity.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from numbers import Integral
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Panel = dict[str, Any]
Limits = tuple[float, float]

KINDS = ("lines", "bars", "scatter", "vectors", "image", "table", "diagram")
COLOUR_MAPS = ("diverging", "sequential")
SHAPES = ("circle", "square", "ellipse", "hexagon")
EDGES = ("arrow", "bar", "trunk")
STATES = ("new", "empty")  # marks of a node that a key may explain
MOST_SERIES = 7  # colours, dashes and markers that can be told apart
MOST_POINTS = 1000
MOST_NODES = 60
FIGURES = 4  # of the largest number of a panel; the page shows three
_GRID = 2000  # scatter positions are sent as whole numbers on a grid this fine: a seventh of a pixel


def lines(
    title: str,
    x: ArrayLike,
    curves: Mapping[str, ArrayLike],
    xlabel: str,
    ylabel: str,
    *,
    ylim: Limits | None = None,
    hline: float | Sequence[tuple[float, str]] | None = None,
    step_index: Sequence[int] | None = None,
    reveal: bool = True,
) -> Panel:
    """Curves over all steps, strong up to the current step and faint beyond, with the values at a cursor.

    Args:
        title: what the panel shows.
        x: positions of the samples, shape ``(samples,)``.
        curves: name to values, each of shape ``(samples,)``; at most seven, each named at its end.
        xlabel: quantity along x with its unit.
        ylabel: quantity along y with its unit.
        ylim: limits of y; by default the range of the data.
        hline: one value, or pairs (value, label), drawn as dashed lines.
        step_index: which sample each step stands at; by default one sample a step.
        reveal: ``False`` draws all of each curve strong at every step.

    Example:
        >>> lines("Alignment", [0, 1, 2], {"layer 1": [90, 60, 40]}, "epoch", "angle (°)")["n"]
        3
    """
    where = _where("lines", title)
    x = _numbers(where, "x", x, 1)
    if not curves:
        raise ValueError(f"{where}: curves is empty; at least one is needed")
    _at_most(where, "curves", len(curves))
    values = {str(name): _numbers(where, f"y of {name!r}", y, 1) for name, y in curves.items()}
    for name, y in values.items():
        _same_length(where, f"y of {name!r}", len(y), "x", len(x))
    at = list(range(len(x))) if step_index is None else [_index(where, i, len(x)) for i in step_index]
    if not at:
        raise ValueError(f"{where}: step_index is empty; at least one step is needed")
    x, drawn = _even(x), dict(zip(values, _evenly(*values.values()), strict=True))
    low, high = float(x.min()), float(x.max())
    marks, limits = _heights(where, hline, ylim, list(drawn.values()))
    return {
        "kind": "lines", "title": title, "n": len(at), "x": _plain(x), "at": at, "reveal": bool(reveal),
        "curves": [{"name": name, "y": _plain(y)} for name, y in drawn.items()],
        "xlabel": str(xlabel), "ylabel": str(ylabel), "hline": marks, "ylim": limits,
        "xlim": [low, high] if high > low else [low - 0.5, high + 0.5],
    }


def bars(
    title: str,
    labels: Sequence[str],
    values: ArrayLike,
    ylabel: str,
    *,
    ylim: Limits | None = None,
    hline: float | Sequence[tuple[float, str]] | None = None,
) -> Panel:
    """Bars that change from step to step, each with its value printed.

    Args:
        title: what the panel shows.
        labels: one name a bar.
        values: shape ``(steps, bars)``.
        ylabel: quantity with its unit.
        ylim: limits; by default from 0 to a little beyond the data.
        hline: one value, or pairs (value, label), drawn as dashed lines.

    Example:
        >>> bars("Output", ["cat", "dog"], [[0.5, 0.5], [0.9, 0.1]], "probability", ylim=(0, 1))["n"]
        2
    """
    where = _where("bars", title)
    labels = [str(label) for label in labels]
    values = _numbers(where, "values", values, 2)
    _same_length(where, "each step of values", values.shape[1], "labels", len(labels))
    values = _even(values)
    marks, limits = _heights(where, hline, ylim, [values, np.zeros(1)])
    return {
        "kind": "bars", "title": title, "n": len(values), "labels": labels, "values": _plain(values),
        "ylabel": str(ylabel), "hline": marks, "ylim": limits,
    }


def scatter(
    title: str,
    x: ArrayLike,
    y: ArrayLike,
    xlabel: str,
    ylabel: str,
    *,
    lim: float | Limits | None = None,
    diagonal: bool = True,
) -> Panel:
    """Points on equal scales that move from step to step, for instance W against the transpose of B.

    Args:
        title: what the panel shows.
        x: shape ``(steps, points)``; at most 1,000 points.
        y: same shape as ``x``.
        xlabel: quantity along x with its unit.
        ylabel: quantity along y with its unit.
        lim: limits of both axes: a pair, or one number r for (-r, r); by default symmetric around all data.
        diagonal: draw the line y = x.

    Example:
        >>> scatter("W against B", [[0.1, -0.2]], [[0.3, 0.1]], "W", "B transposed")["n"]
        1
    """
    where = _where("scatter", title)
    x, y = _numbers(where, "x", x, 2), _numbers(where, "y", y, 2)
    if x.shape != y.shape:
        raise ValueError(f"{where}: x has shape {x.shape} and y {y.shape}; they must be equal")
    if x.shape[1] > MOST_POINTS:
        raise ValueError(f"{where}: {x.shape[1]} points; at most {MOST_POINTS} are allowed, pass a sample")
    even = _evenly(x, y)
    low, high = limits = _square(where, lim, even)

    def on_grid(values: NDArray) -> list[list[int]]:
        return np.rint((values - low) / (high - low) * _GRID).astype(int).tolist()

    return {
        "kind": "scatter", "title": title, "n": len(x), "x": on_grid(x), "y": on_grid(y), "grid": _GRID,
        "lim": limits, "diagonal": bool(diagonal), "xlabel": str(xlabel), "ylabel": str(ylabel),
        "correlation": [_correlation(a, b) for a, b in zip(*even, strict=True)],
    }


def vectors(
    title: str,
    arrows: Mapping[str, ArrayLike],
    xlabel: str,
    ylabel: str,
    *,
    lim: float | Limits | None = None,
    origin: ArrayLike | Mapping[str, ArrayLike] | None = None,
    path: bool = False,
    labels: bool = True,
    halfplane: str | None = None,
    since: Mapping[str, int] | None = None,
) -> Panel:
    """Arrows in the plane, on equal scales; an arrow without length is a point.

    Args:
        title: what the panel shows.
        arrows: name to components, each of shape ``(steps, 2)``; at most seven.
        xlabel: quantity along x with its unit.
        ylabel: quantity along y with its unit.
        lim: limits of both axes: a pair, or one number r for (-r, r); by default symmetric around all data.
        origin: where the arrows start: shape ``(steps, 2)`` for all, or name to such an array for some;
            by default the origin.
        path: draw the way that each tip has come.
        labels: write each name at its tip.
        halfplane: name of an arrow; all directions within 90° of it are shaded.
        since: name to the first step at which that arrow is drawn; the others are drawn at every step.

    Example:
        >>> vectors("Update", {"e": [[1, 0]], "Be": [[0.5, 0.5]]}, "unit 1", "unit 2", halfplane="e")["n"]
        1
    """
    where = _where("vectors", title)
    if not arrows:
        raise ValueError(f"{where}: arrows is empty; at least one is needed")
    _at_most(where, "arrows", len(arrows))
    given = {str(name): _pairs(where, f"arrow {name!r}", xy) for name, xy in arrows.items()}
    steps = len(next(iter(given.values())))
    for name, xy in given.items():
        _same_length(where, f"arrow {name!r}", len(xy), f"arrow {next(iter(given))!r}", steps)
    if halfplane is not None and halfplane not in given:
        raise ValueError(f"{where}: halfplane is {halfplane!r}; it must be None or one of {sorted(given)}")
    appears = _since(where, since, given, "arrows", steps)
    starts = _origins(where, origin, given, steps)
    even = _evenly(*given.values(), *starts.values())
    given, starts = dict(zip(given, even, strict=False)), dict(zip(starts, even[len(given) :], strict=True))
    ends = [xy + starts.get(name, 0.0) for name, xy in given.items()]
    return {
        "kind": "vectors", "title": title, "n": steps, "xlabel": str(xlabel), "ylabel": str(ylabel),
        "arrows": [
            {"name": name, "xy": _plain(xy), "from": _plain(starts[name]) if name in starts else None,
             "since": appears[name]}
            for name, xy in given.items()
        ],
        "lim": _square(where, lim, [*ends, *starts.values()]), "path": bool(path), "labels": bool(labels),
        "halfplane": None if halfplane is None else list(given).index(halfplane),
    }


def image(
    title: str,
    frames: ArrayLike,
    alt: str,
    *,
    vmin: float | None = None,
    vmax: float | None = None,
    cmap: str = "diverging",
    xlabel: str = "",
    ylabel: str = "",
    clabel: str = "",
) -> Panel:
    """A heat map that changes from step to step, with its colour bar; row 0 is at the top.

    Args:
        title: what the panel shows.
        frames: shape ``(steps, rows, columns)``; shown in 256 levels, cut at the limits.
        alt: what a reader who cannot see the picture should know.
        vmin: value of the lowest colour; by default the lowest value, for ``"diverging"`` minus the largest
            magnitude.
        vmax: value of the highest colour; by default the highest value, for ``"diverging"`` the largest
            magnitude.
        cmap: ``"diverging"`` (blue, white, orange) or ``"sequential"`` (dark to bright).
        xlabel: what a column is; the axis has ticks where it has a label.
        ylabel: what a row is.
        clabel: quantity of the colours with its unit.

    Example:
        >>> image("W", [[[0.1, -0.2], [0.0, 0.3]]], "Weights of two units")["vlim"]
        [-0.3, 0.3]
    """
    where = _where("image", title)
    frames = _numbers(where, "frames", frames, 3)
    if cmap not in COLOUR_MAPS:
        raise ValueError(f"{where}: cmap is {cmap!r}; it must be one of {list(COLOUR_MAPS)}")
    if not alt:
        raise ValueError(f"{where}: alt is empty; say what a reader who cannot see the picture should know")
    frames = _even(frames)
    largest = float(np.abs(frames).max()) or 1.0
    low = float(vmin if vmin is not None else -largest if cmap == "diverging" else frames.min())
    high = float(vmax if vmax is not None else largest if cmap == "diverging" else frames.max())
    if vmin is None and vmax is None and low == high:
        high = low + 1.0  # a constant picture
    low, high = _plain(_even(np.array(_pair(where, "(vmin, vmax)", (low, high)))))
    levels = np.rint(np.clip((frames - low) / (high - low), 0, 1) * 255).astype(np.uint8)
    return {
        "kind": "image", "title": title, "n": len(frames), "rows": frames.shape[1], "cols": frames.shape[2],
        "frames": [base64.b64encode(level.tobytes()).decode("ascii") for level in levels],
        "ranges": [_plain(np.array([frame.min(), frame.max()])) for frame in frames],
        "vlim": [low, high], "cmap": cmap, "alt": str(alt),
        "xlabel": str(xlabel), "ylabel": str(ylabel), "clabel": str(clabel),
    }


def diagram(
    title: str,
    nodes: Mapping[str, tuple[float, float]],
    values: ArrayLike,
    edges: Mapping[str, tuple[str, Sequence[tuple[str, str]]]],
    alt: str,
    *,
    shapes: Mapping[str, str] | None = None,
    labels: Mapping[str, str] | None = None,
    active: Sequence[Sequence[str]] | None = None,
    since: Mapping[str, int] | None = None,
    bands: Mapping[str, Sequence[str]] | None = None,
    scales: Mapping[str, tuple[float, Sequence[str]]] | None = None,
    key: Mapping[str, str] | None = None,
    clabel: str = "",
    row: float = 54,
) -> Panel:
    """Nodes that hold their values, joined by bundles of edges that light up in the steps in which they carry a signal.

    Args:
        title: what the panel shows.
        nodes: name to position ``(x, y)``, y upwards; at most 60. The drawing stretches x to its width, to at most
            96 px a unit.
        values: shape ``(steps, nodes)``, printed with two figures and coloured from blue over white to orange.
        edges: name of a bundle to its kind and its pairs of nodes (from, to). Kinds are ``"arrow"``, ``"bar"`` (ends
            in a bar, for what inhibits) and ``"trunk"`` (thick, without an end, for parts of one cell).
        alt: what a reader who cannot see the picture should know.
        shapes: node to ``"circle"`` (the default), ``"square"``, ``"ellipse"`` or ``"hexagon"``.
        labels: node to a short text above its value; by default none.
        active: for each step the names of the bundles that carry a signal; by default none.
        since: node to the first step at which its value is known; before, it is empty.
        bands: name to nodes on a shaded ground, the name at its left, for instance a layer.
        scales: name to the value of the last colour and the nodes that have this scale, each node in one; values
            beyond are cut. By default one scale for all, up to the largest magnitude.
        key: shape, kind of edge, ``"new"`` (the rim of a node that has changed) or ``"empty"`` to what it stands for.
        clabel: quantity of the colours with its unit.
        row: height of a unit of y, in px.

    Example:
        >>> nodes = {"input": (0, 0), "output": (0, 1)}
        >>> edges = {"w": ("arrow", [("input", "output")])}
        >>> diagram("A cell", nodes, [[1, 0], [1, 0.5]], edges, "One input.", active=[[], ["w"]])["n"]
        2
    """
    where = _where("diagram", title)
    if not 0 < len(nodes) <= MOST_NODES:
        raise ValueError(f"{where}: {len(nodes)} nodes; there must be from 1 to {MOST_NODES}")
    if not isinstance(alt, str) or not alt.strip():
        raise ValueError(f"{where}: alt is empty; say what a reader who cannot see the picture should know")
    number = {str(name): i for i, name in enumerate(nodes)}
    positions = _pairs(where, "the positions of nodes", list(nodes.values()))
    values = _numbers(where, "values", values, 2)
    _same_length(where, "each step of values", values.shape[1], "nodes", len(nodes))
    steps, row = len(values), _number(where, "row", row)
    if row <= 0:
        raise ValueError(f"{where}: row is {row}; it must be above 0")

    def indices_of(what: str, names: Sequence[str]) -> list[int]:
        return [number[_one_of_names(where, what, name, number, "nodes")] for name in names]

    for what, given, allowed in (("shapes", shapes, SHAPES), ("labels", labels, None)):
        for name, value in (given or {}).items():
            _one_of_names(where, what, name, number, "nodes")
            if allowed and value not in allowed:
                raise ValueError(f"{where}: shape of {name!r} is {value!r}; it must be one of {list(allowed)}")
    bundles = []
    for name, (kind, pairs) in edges.items():
        if kind not in EDGES:
            raise ValueError(f"{where}: edges {name!r} are of kind {kind!r}; it must be one of {list(EDGES)}")
        ends = [indices_of(f"edges {name!r}", pair) for pair in pairs]
        for pair, end in zip(pairs, ends, strict=True):
            if len(end) != 2 or (positions[end[0]] == positions[end[1]]).all():
                raise ValueError(f"{where}: edges {name!r} hold {pair!r}; a pair of nodes at two places is needed")
        bundles.append({"name": str(name), "kind": kind, "pairs": ends})
    order = list(edges)
    active = [[]] * steps if active is None else active
    _same_length(where, "active", len(active), "values", steps)
    strong = [[order.index(_one_of_names(where, "active", name, order, "edges")) for name in now] for now in active]
    appears = _since(where, since, number, "nodes", steps)
    if scales is None:
        scales = {"": (float(np.abs(values).max()) or 1.0, list(number))}
    scale_of: dict[int, int] = {}
    for k, (name, (limit, members)) in enumerate(scales.items()):
        if not _number(where, f"limit of the scale {name!r}", limit) > 0:
            raise ValueError(f"{where}: limit of the scale {name!r} is {limit}; it must be above 0")
        for i in indices_of(f"scale {name!r}", members):
            if i in scale_of:
                raise ValueError(f"{where}: node {list(number)[i]!r} is in two scales; each must be in one")
            scale_of[i] = k
    without = [name for name, i in number.items() if i not in scale_of]
    if without:
        raise ValueError(f"{where}: nodes {without} are in no scale; each must be in one")
    for mark in key or {}:
        if mark not in SHAPES + EDGES + STATES:
            raise ValueError(f"{where}: key explains {mark!r}; it may explain {list(SHAPES + EDGES + STATES)}")
    values = values.copy()
    for k in range(len(scales)):  # each node shows two figures of its own, however small it is within its scale
        alike = [i for i in scale_of if scale_of[i] == k]
        values[:, alike] = _even(values[:, alike], figures=7)
    return {
        "kind": "diagram", "title": title, "n": steps, "alt": alt, "clabel": str(clabel), "row": row,
        "nodes": [
            {"name": name, "x": x, "y": y, "shape": (shapes or {}).get(name, "circle"), "since": appears[name],
             "label": str((labels or {}).get(name, "")), "scale": scale_of[i]}
            for (name, i), (x, y) in zip(number.items(), _plain(_even(positions)), strict=True)
        ],
        "values": _plain(values), "edges": bundles, "active": strong,
        "bands": [{"name": str(name), "nodes": indices_of(f"band {name!r}", members)}
                  for name, members in (bands or {}).items()],
        "scales": [{"name": str(name), "limit": _number(where, "limit", limit)}
                   for name, (limit, _) in scales.items()],
        "key": [[mark, str(words)] for mark, words in (key or {}).items()],
    }


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[Sequence[Any]]]) -> Panel:
    """A table that changes from step to step; the first cell of a row names the row.

    Args:
        title: what the panel shows.
        columns: one heading a column, with units.
        rows: for each step the rows, each of one cell a column: text or a finite number.

    Example:
        >>> table("Layers", ["layer", "angle (°)"], [[["1", 90.0]], [["1", 61.5]]])["n"]
        2
    """
    where = _where("table", title)
    columns = [str(name) for name in columns]
    if not columns:
        raise ValueError(f"{where}: columns is empty; at least one is needed")
    steps = [[_cells(where, step, row, len(columns)) for row in now] for step, now in enumerate(rows)]
    if not steps or not all(steps):
        raise ValueError(f"{where}: rows has no steps, or a step has no rows; at least one of each is needed")
    for j in range(len(columns)):
        cells = [row for now in steps for row in now if not isinstance(row[j], str)]
        column = _plain(_even(np.array([row[j] for row in cells]))) if cells else []
        for row, value in zip(cells, column, strict=True):
            row[j] = value
    return {"kind": "table", "title": title, "n": len(steps), "columns": columns, "rows": steps}


# ------------------------------------------------------------------------------------------------- checks


def _where(kind: str, title: str) -> str:
    if not isinstance(title, str) or not title.strip():
        raise ValueError(f"{kind} panel: title is {title!r}; it must be a text that is not empty")
    return f"{kind} panel {title!r}"


def _numbers(where: str, name: str, value: ArrayLike, dimensions: int) -> NDArray[np.float64]:
    """``value`` as a finite float array with ``dimensions`` axes, none of them empty."""
    if hasattr(value, "detach"):
        value = value.detach().cpu()  # a tensor may sit on a device or in a graph
    try:
        array = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where}: {name} must be numbers in rows of equal length ({error})") from None
    if array.ndim != dimensions:
        axes = {1: "(samples,)", 2: "(steps, values)", 3: "(steps, rows, columns)"}[dimensions]
        raise ValueError(f"{where}: {name} has shape {array.shape}; it must have the shape {axes}")
    if array.size == 0:
        raise ValueError(f"{where}: {name} has shape {array.shape}; no axis may be empty")
    if not np.isfinite(array).all():
        first = tuple(int(i) for i in np.argwhere(~np.isfinite(array))[0])
        raise ValueError(f"{where}: {name} holds {array[first]} at {list(first)}; every value must be finite")
    return array


def _number(where: str, name: str, value: Any) -> float:
    return _rounded(_numbers(where, name, [value], 1))[0]


def _even(values: NDArray, *, figures: int = FIGURES) -> NDArray:
    """``values`` with as many decimals everywhere as give the largest magnitude so many figures.

    A page shows no more. And what is zero but for rounding, which a processor does in its own way, becomes zero: four
    figures of each number on its own would store the noise of some processor. Whole numbers stay exact.
    """
    largest = float(np.abs(values).max())
    if not largest:
        return np.abs(values)
    power = int(f"{largest:.{figures - 1}e}".split("e")[1])  # of the rounded number: 0.99999999 is 1
    return np.round(values, min(max(0, figures - 1 - power), 300)) + 0.0  # no -0.0


def _evenly(*arrays: NDArray) -> list[NDArray]:
    """All with the same decimals, of the largest magnitude in any."""
    joined = _even(np.concatenate([np.ravel(array) for array in arrays]))
    parts = np.split(joined, np.cumsum([array.size for array in arrays])[:-1])
    return [part.reshape(array.shape) for part, array in zip(parts, arrays, strict=True)]


def _plain(values: NDArray) -> list[Any]:
    """Nested lists, in which whole numbers are integers."""
    if values.ndim > 1:
        return [_plain(row) for row in values]
    return [int(v) if v == np.rint(v) and abs(v) < 2**53 else float(v) for v in values]


def _pairs(where: str, name: str, value: ArrayLike) -> NDArray[np.float64]:
    array = _numbers(where, name, value, 2)
    if array.shape[1] != 2:
        raise ValueError(f"{where}: {name} has shape {array.shape}; it must have the shape (steps, 2)")
    return array


def _origins(where: str, origin: Any, arrows: Mapping[str, NDArray], steps: int) -> dict[str, NDArray]:
    if origin is None:
        return {}
    starts = origin if isinstance(origin, Mapping) else dict.fromkeys(arrows, origin)
    unknown = sorted(set(starts) - set(arrows))
    if unknown:
        raise ValueError(f"{where}: origin names {unknown}; the arrows are {sorted(arrows)}")
    checked = {name: _pairs(where, f"origin of {name!r}", start) for name, start in starts.items()}
    for name, start in checked.items():
        _same_length(where, f"origin of {name!r}", len(start), "the arrows", steps)
    return checked


def _one_of_names(where: str, what: str, name: str, names: Iterable[str], are: str) -> str:
    if name not in names:
        raise ValueError(f"{where}: {what} names {name!r}; the {are} are {sorted(names)}")
    return name


def _since(
    where: str, since: Mapping[str, int] | None, names: Iterable[str], are: str, steps: int
) -> dict[str, int]:
    """The first step of every name, 0 where none is given."""
    for name, step in (since or {}).items():
        _one_of_names(where, "since", name, names, are)
        if not isinstance(step, Integral) or not 0 <= step < steps:
            raise ValueError(f"{where}: since of {name!r} is {step!r}; it must be an integer from 0 to {steps - 1}")
    return {name: int((since or {}).get(name, 0)) for name in names}


def _cells(where: str, step: int, row: Sequence[Any], columns: int) -> list[Any]:
    if len(row) != columns:
        raise ValueError(f"{where}: a row of step {step} has {len(row)} cells; there are {columns} columns")
    name = f"a cell of step {step}"
    return [cell if isinstance(cell, str) else float(_numbers(where, name, [cell], 1)[0]) for cell in row]


def _same_length(where: str, name: str, length: int, other: str, wanted: int) -> None:
    if length != wanted:
        raise ValueError(f"{where}: {name} has length {length} and {other} {wanted}; they must be equal")


def _at_most(where: str, name: str, count: int) -> None:
    if count > MOST_SERIES:
        raise ValueError(f"{where}: {count} {name}; at most {MOST_SERIES} can be told apart")


def _index(where: str, index: Any, samples: int) -> int:
    if not isinstance(index, Integral) or not 0 <= int(index) < samples:
        raise ValueError(f"{where}: step_index holds {index!r}; an integer from 0 to {samples - 1} is needed")
    return int(index)


def _heights(
    where: str, hline: Any, limits: Limits | None, data: list[NDArray]
) -> tuple[list[list[Any]], list[float]]:
    """Fixed lines as [value, label], and limits that hold them: those given, or the data with 5 % of room."""
    pairs = [] if hline is None else hline if isinstance(hline, Sequence) else [(hline, "")]
    if not all(isinstance(pair, Sequence) and len(pair) == 2 for pair in pairs):
        raise ValueError(f"{where}: hline is {hline!r}; it must be a number or pairs (value, label)")
    marks = [[_number(where, "hline", value), str(label)] for value, label in pairs]
    heights = np.array([value for value, _ in marks])
    if limits is None:
        low, high = _range([*data, heights])
        room = 0.05 * (high - low) or 0.5 * abs(high) or 0.5
        # Never across zero for that room alone: a norm has no negative values.
        low = low - room if low < 0 else max(0.0, low - room)
        high = high + room if high > 0 else min(0.0, high + room)
        return marks, _plain(_even(np.array([low, high])))
    low, high = _pair(where, "ylim", limits)
    if marks and not (low <= heights.min() and heights.max() <= high):
        raise ValueError(f"{where}: hline is {heights.tolist()}; it must lie within ylim {(low, high)}")
    return marks, _plain(_even(np.array([low, high])))


def _range(data: list[NDArray]) -> tuple[float, float]:
    values = np.concatenate([np.ravel(a) for a in data])
    return float(values.min()), float(values.max())


def _pair(where: str, name: str, limits: Any) -> list[float]:
    pair = _numbers(where, name, limits, 1)
    if len(pair) != 2 or not pair[0] < pair[1]:
        raise ValueError(f"{where}: {name} is {limits}; it must be (low, high) with low < high")
    return pair.tolist()


def _square(where: str, lim: float | Limits | None, data: list[NDArray]) -> list[float]:
    """Limits for both axes of a panel with equal scales."""
    ends: Any = (1.05 * max(map(abs, _range(data))) or 1.0) if lim is None else lim
    if np.ndim(ends) == 0:
        ends = (-ends, ends)
    return _plain(_even(np.array(_pair(where, "lim", ends))))


def _correlation(x: NDArray, y: NDArray) -> float | None:
    if len(x) < 2 or x.std() == 0 or y.std() == 0:
        return None
    return round(float(np.corrcoef(x, y)[0, 1]), 3)


def _rounded(values: NDArray) -> list[Any]:
    """Nested lists of numbers with the decimals that they share, see :func:`_even`."""
    return _plain(_even(values))
