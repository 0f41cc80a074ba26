"""A search on a line, one evaluation a step: a Gaussian process, its proposals, and a reader who may know better."""

from __future__ import annotations

import html
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import traitlets
from numpy.typing import ArrayLike
from scipy.stats import qmc

from bioplaus_lite import checks
from bioplaus_lite.widgets.static import PageWidget, module_source

_FOLDER = Path(__file__).parents[1]
WHO = ("rule", "Sobol", "you")  # who picked a point


class SearchStepper(PageWidget):
    """Search the highest of a few recorded values, one evaluation a step, and see what a Gaussian process makes of it.

    The process (:mod:`bioplaus_lite.gaussian_process`, computed on the page) has Matérn's kernel with 5/2. Its mean and
    amplitude before any evaluation are fixed: the middle of ``ylim``, and a quarter of its width, so that two standard
    deviations fill the axis. The reader sets length scale and noise, or fits them: the pair of sliders with the largest
    marginal likelihood. Each next point is the rule's, where the expected improvement is largest, or that of a Sobol
    sequence, or the reader's own. Only recorded places can be tried, each of them once, and the noise is what the
    process assumes: none is added. Optuna's ``GPSampler`` has the same kernel and rule, but standardises the values and
    fits all scales, the amplitude too, before each proposal.

    In JupyterLab :attr:`tried`, :attr:`length` and :attr:`noise` are shared with the kernel.

    Args:
        x: places, increasing, (n,), for instance log₁₀ of a learning rate.
        y: what was measured there, (n,); higher is better.
        length: length scale to begin with, in units of x; a tenth of the range of x by default.
        noise: standard deviation to begin with, in units of y; a hundredth of the width of ``ylim`` by default.
        ylim: axis of y, and by it the mean and amplitude of the process.
        budget: evaluations at most.
        start: evaluations to begin with, of a Sobol sequence.
        xlabel, ylabel: names of the axes.
        title: name of the widget.

    Raises:
        ValueError: ``x`` does not increase, there are not as many values as places, something is not finite, or a
            number or text is out of range.
        traitlets.TraitError: a trait is later set to what cannot be.

    Example:
        >>> SearchStepper([-3, -2, -1, 0], [40, 80, 95, 10], budget=4, start=1)
        SearchStepper(4 places, 1 of 4 tried)
    """

    _esm = module_source("search.js")
    _css = "\n".join((_FOLDER / name).read_text("utf-8") for name in ("widgets.css", "search.css"))
    _page_traits: ClassVar[tuple[str, ...]] = ("tried", "length", "noise", "spec")

    tried: traitlets.List = traitlets.List(
        help="what was tried, in order, as [index, who] with who of 'rule', 'Sobol', 'you'"
    ).tag(sync=True)
    length = traitlets.Float(help="length scale, in units of x").tag(sync=True)
    noise = traitlets.Float(help="standard deviation that a value is thought to have, in units of y").tag(sync=True)
    spec = traitlets.Dict(help="all else that the page draws; fixed when the widget is made").tag(sync=True)

    def __init__(
        self,
        x: ArrayLike,
        y: ArrayLike,
        *,
        length: float | None = None,
        noise: float | None = None,
        ylim: tuple[float, float] = (0.0, 100.0),
        budget: int = 15,
        start: int = 3,
        xlabel: str = "log₁₀ learning rate",
        ylabel: str = "accuracy (%)",
        title: str = "A search, one evaluation a step",
    ) -> None:
        for name, text in {"xlabel": xlabel, "ylabel": ylabel, "title": title}.items():
            if not isinstance(text, str) or not text.strip():
                raise ValueError(f"search stepper: {name} is {text!r}; it must be a text that is not empty")
        places, values = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
        if places.ndim != 1 or len(places) < 2 or not np.isfinite(places).all() or (np.diff(places) <= 0).any():
            raise ValueError(f"search stepper: x must be at least 2 finite numbers that increase, not {x!r}")
        if values.shape != places.shape or not np.isfinite(values).all():
            raise ValueError(f"search stepper: y must be {len(places)} finite numbers, one for each x, not {y!r}")
        low, high = (checks.number(f"search stepper: ylim[{i}]", end) for i, end in enumerate(ylim))
        checks.number("search stepper: ylim[1]", high, above=low)
        budget = checks.whole("search stepper: budget", budget, 1, len(places))
        start = checks.whole("search stepper: start", start, 0, budget)
        across, up = places[-1] - places[0], high - low
        lengths, noises = _scale(0.02 * across, across, 41), _scale(0.001 * up, 0.2 * up, 31)
        sobol = _sobol_order(places)
        spec = {
            "title": title, "xlabel": xlabel, "ylabel": ylabel, "x": places.tolist(), "y": values.tolist(),
            "ylim": [low, high], "mean": (low + high) / 2, "amplitude": up / 4, "budget": budget, "start": start,
            "lengths": lengths, "noises": noises, "sobol": sobol,
        }  # fmt: skip
        begin = {"length": across / 10 if length is None else length, "noise": up / 100 if noise is None else noise}
        for name, allowed in {"length": lengths, "noise": noises}.items():
            begin[name] = checks.number(f"search stepper: {name}", begin[name], least=allowed[0], most=allowed[-1])
        super().__init__(spec=spec | {"begin": begin}, tried=[[i, "Sobol"] for i in sobol[:start]], **begin)

    @traitlets.validate("length", "noise")
    def _in_range(self, proposal: dict[str, Any]) -> float:
        name, value = proposal["trait"].name, proposal["value"]
        low, *_, high = self.spec[f"{name}s"]
        if not low <= value <= high:
            raise traitlets.TraitError(f"{name} is {value}; it must be from {low} to {high}")
        return value

    @traitlets.validate("tried")
    def _can_be_tried(self, proposal: dict[str, Any]) -> list[list]:
        last, most = len(self.spec["x"]) - 1, self.spec["budget"]
        value = [list(pair) for pair in proposal["value"]]
        for pair in value:
            if len(pair) != 2 or type(pair[0]) is not int or not 0 <= pair[0] <= last or pair[1] not in WHO:
                raise traitlets.TraitError(f"tried holds {pair}; it must be [index from 0 to {last}, one of {WHO}]")
        if len({i for i, _ in value}) != len(value) or len(value) > most:
            raise traitlets.TraitError(f"tried is {value}; it must be at most {most} evaluations, each place once")
        return value

    def __repr__(self) -> str:
        return f"SearchStepper({len(self.spec['x'])} places, {len(self.tried)} of {self.spec['budget']} tried)"

    def _page_fallback(self) -> str:
        x, y, name = self.spec["x"], self.spec["y"], html.escape(self.spec["xlabel"])
        best = int(np.argmax(y))
        rows = "".join(f"<li>{x[i]:.3g}: {y[i]:.4g}</li>" for i, _ in self.tried)
        return (
            f"<p><strong>{html.escape(self.spec['title'])}</strong>. {html.escape(self.spec['ylabel'])} was measured "
            f"at {len(x)} places from {x[0]:.3g} to {x[-1]:.3g} ({name}). The highest is {y[best]:.4g}, "
            f"at {x[best]:.3g}. "
            f"Tried first:</p><ol>{rows}</ol>"
        )


def _scale(low: float, high: float, count: int) -> list[float]:
    """The values of a slider, equal factors apart, with three figures."""
    return [float(f"{value:.3g}") for value in np.geomspace(low, high, count)]


def _sobol_order(x: np.ndarray) -> list[int]:
    """All places, in the order in which a Sobol sequence first comes nearest to each of them."""
    points = qmc.Sobol(1, scramble=False).random_base2(int(np.ceil(np.log2(len(x)))) + 3)[1:, 0]  # 0 is the first
    nearest = np.abs(x[0] + (x[-1] - x[0]) * points[:, None] - x).argmin(1).tolist()
    return list(dict.fromkeys([*nearest, *range(len(x))]))
