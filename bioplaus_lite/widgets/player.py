"""The step player: drawings that a reader walks through, live in JupyterLab and in a page with no kernel."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from numbers import Integral
from pathlib import Path
from typing import Any, ClassVar

import traitlets

from .panels import KINDS, Panel
from .static import PageWidget, module_source


class StepPlayer(PageWidget):
    """Panels side by side that show the same step, with Previous, Play, Next, a slider and a sentence a step.

    The only state is :attr:`step`. In JupyterLab it is shared with the kernel: reading it gives the step on
    the page, setting it moves the page. All else is fixed when the player is made.

    Args:
        panels: what :func:`lines`, :func:`bars`, :func:`scatter`, :func:`vectors`, :func:`image`, :func:`diagram`
            or :func:`table` returned, each with as many steps as ``steps``.
        steps: a short label for each step, for instance ``"epoch 3"``.
        texts: a sentence for each step; none by default.
        title: name of the player.
        description: what the drawing shows, for a reader who cannot see it.
        step: the step to begin with, from 0.
        step_name: what one step is called: ``"epoch"`` gives "Epoch 3 of 12".
        seconds_per_step: pace of Play, in seconds.

    Raises:
        ValueError: if there are no panels or steps, a panel is of no known kind or has another number of
            steps, a text is missing, or a number is out of range.
        traitlets.TraitError: if :attr:`step` is later set to no whole number from 0 to the last step.

    Example:
        >>> angle = lines("Angle to backprop", [0, 1, 2], {"layer 1": [90, 60, 40]}, "epoch", "angle (°)")
        >>> steps = ["start", "epoch 1", "epoch 2"]
        >>> StepPlayer(panels=[angle], steps=steps, title="Alignment", description="The angle falls.")
        StepPlayer('Alignment', 3 steps)
    """

    _esm = module_source("player.js")
    _css = Path(__file__).with_name("widgets.css")
    _page_traits: ClassVar[tuple[str, ...]] = ("step", "spec")

    step = traitlets.Int(0, help="the step that is shown, from 0").tag(sync=True)
    spec = traitlets.Dict(help="all that the page draws; fixed when the player is made").tag(sync=True)

    def __init__(
        self,
        panels: Sequence[Panel],
        steps: Sequence[str],
        texts: Sequence[str] | None = None,
        *,
        title: str,
        description: str,
        step: int = 0,
        step_name: str = "step",
        seconds_per_step: float = 0.7,
    ) -> None:
        steps = [str(label) for label in steps]
        texts = [""] * len(steps) if texts is None else [str(text) for text in texts]
        for name, text in {"title": title, "description": description, "step_name": step_name}.items():
            if not isinstance(text, str) or not text.strip():
                raise ValueError(f"step player: {name} is {text!r}; it must be a text that is not empty")
        where = f"step player {title!r}"
        if not steps:
            raise ValueError(f"{where}: steps is empty; at least one is needed")
        if len(texts) != len(steps):
            raise ValueError(f"{where}: {len(texts)} texts and {len(steps)} steps; one text a step is needed")
        if not panels:
            raise ValueError(f"{where}: panels is empty; at least one is needed")
        for panel in panels:
            _check_panel(where, panel, len(steps))
        if not (math.isfinite(seconds_per_step) and seconds_per_step > 0):
            raise ValueError(f"{where}: seconds_per_step is {seconds_per_step}; it must be finite and > 0")
        if not isinstance(step, Integral) or not 0 <= step < len(steps):
            raise ValueError(f"{where}: step is {step!r}; it must be an integer from 0 to {len(steps) - 1}")
        spec = {
            "title": title, "description": description, "step_name": step_name,
            "seconds_per_step": float(seconds_per_step), "steps": steps, "texts": texts,
            "panels": list(panels),
        }
        super().__init__(spec=spec, step=int(step))

    @traitlets.validate("step")
    def _step_in_range(self, proposal: dict[str, Any]) -> int:
        last = len(self.spec["steps"]) - 1
        if not 0 <= proposal["value"] <= last:
            raise traitlets.TraitError(f"step is {proposal['value']}; it must be from 0 to {last}")
        return proposal["value"]

    def __repr__(self) -> str:
        count = len(self.spec["steps"])
        return f"StepPlayer({self.spec['title']!r}, {count} step{'s' if count != 1 else ''})"

    def _page_fallback(self) -> str:
        spec = self.spec
        items = "".join(
            f"<li><strong>{html.escape(label)}</strong>{html.escape(f' — {text}' if text else '')}</li>"
            for label, text in zip(spec["steps"], spec["texts"], strict=True)
        )
        title, description = html.escape(spec["title"]), html.escape(spec["description"])
        return f"<p><strong>{title}</strong>. {description}</p><ol>{items}</ol>"


def _check_panel(where: str, panel: Any, steps: int) -> None:
    if not isinstance(panel, dict) or panel.get("kind") not in KINDS:
        kind = panel.get("kind") if isinstance(panel, dict) else panel
        raise ValueError(f"{where}: a panel is of kind {kind!r}; it must be one of {list(KINDS)}")
    if panel["n"] != steps:
        raise ValueError(
            f"{where}: {panel['kind']} panel {panel['title']!r} has {panel['n']} steps; "
            f"it must have {steps}, one for each label"
        )
