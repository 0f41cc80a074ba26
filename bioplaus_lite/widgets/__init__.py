"""Widgets of the book: step players that work live in JupyterLab and in a page without a kernel."""

from .panels import bars, diagram, image, lines, scatter, table, vectors
from .player import StepPlayer
from .players.phases import PhaseStepper
from .players.search import SearchStepper
from .static import PageWidget

__all__ = [
    "PageWidget", "PhaseStepper", "SearchStepper", "StepPlayer",
    "bars", "diagram", "image", "lines", "scatter", "table", "vectors",
]  # fmt: skip
