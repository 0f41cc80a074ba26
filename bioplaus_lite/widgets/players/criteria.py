"""The literature table to walk: pick a rule, step through its checks, and sort and filter all rules by any check."""

from __future__ import annotations

import html
from pathlib import Path
from typing import Any, ClassVar

import pandas as pd
import traitlets

from bioplaus_lite.plausibility import CRITERIA, MARKS
from bioplaus_lite.widgets.static import PageWidget, module_source

__all__ = ["TableWalk"]

_FOLDER = Path(__file__).parents[1]


class TableWalk(PageWidget):
    """Walk the checks of a rule, one a step: the question, the verdict, its figure, what was done and what came out.

    Below stands the whole table, a row a rule. A criterion's heading sorts it; a list hides the rules of which the
    criterion says something else, and such wishes add up.

    Args:
        verdicts: what :func:`~bioplaus_lite.plausibility.table` or ``recorded`` gives: ``rule``, ``criterion``,
            ``says``, ``mark``, ``figure`` and ``why``, each criterion once for every rule.
        rule: to begin with; the first unless named.
        title: name of the widget.

    Raises:
        ValueError: there are no verdicts, one is missing or there twice, or there is no such rule or criterion.
        traitlets.TraitError: if ``step`` or ``rule`` is later set to what is not there.
    """

    _esm = module_source("criteria.js")
    _css = "\n".join((_FOLDER / name).read_text("utf-8") for name in ("widgets.css", "criteria.css"))
    _page_traits: ClassVar[tuple[str, ...]] = ("step", "rule", "spec")

    step = traitlets.Int(0, help="the criterion that is shown, from 0").tag(sync=True)
    rule = traitlets.Int(0, help="the rule that is shown, from 0").tag(sync=True)
    spec = traitlets.Dict(help="all that the page draws; fixed when the widget is made").tag(sync=True)

    def __init__(
        self, verdicts: pd.DataFrame, *, rule: str | None = None, title: str = "The literature table, check by check"
    ) -> None:
        if not isinstance(title, str) or not title.strip():
            raise ValueError(f"table walk: title is {title!r}; it must be a text that is not empty")
        rules, criteria = (list(dict.fromkeys(verdicts[name])) for name in ("rule", "criterion"))
        if not rules:
            raise ValueError("table walk: there are no verdicts; at least one is needed")
        for name in criteria:
            if name not in CRITERIA:
                raise ValueError(f"table walk: unknown criterion {name!r}; the criteria are {list(CRITERIA)}")
        if rule is not None and rule not in rules:
            raise ValueError(f"table walk: rule is {rule!r}; it must be one of {rules}")
        cells = {(row.rule, row.criterion): row for row in verdicts.itertuples()}
        if len(cells) != len(verdicts) or len(cells) != len(rules) * len(criteria):
            raise ValueError(f"table walk: {len(verdicts)} verdicts of {len(rules)} rules by {len(criteria)} criteria; "
                             "each criterion is needed once for every rule")  # fmt: skip
        spec = {
            "title": title, "rules": rules, "answers": MARKS,
            "criteria": [{"name": name, "unit": CRITERIA[name].unit, "asks": _question(name)} for name in criteria],
            "cells": [[_cell(cells[one, name]) for name in criteria] for one in rules],
        }
        super().__init__(spec=spec, step=0, rule=rules.index(rule) if rule else 0)

    @traitlets.validate("step", "rule")
    def _in_range(self, proposal: dict[str, Any]) -> int:
        name, value = proposal["trait"].name, proposal["value"]
        last = len(self.spec["criteria" if name == "step" else "rules"]) - 1
        if not 0 <= value <= last:
            raise traitlets.TraitError(f"{name} is {value}; it must be from 0 to {last}")
        return value

    def __repr__(self) -> str:
        return f"TableWalk({len(self.spec['rules'])} rules, {len(self.spec['criteria'])} criteria)"

    def _page_fallback(self) -> str:
        heads = "".join(f'<th scope="col">{html.escape(one["name"])}</th>' for one in self.spec["criteria"])
        rows = "".join(
            f'<tr><th scope="row">{html.escape(rule)}</th>'
            + "".join(f"<td>{html.escape(cell['mark'])}</td>" for cell in cells) + "</tr>"
            for rule, cells in zip(self.spec["rules"], self.spec["cells"], strict=True)
        )  # fmt: skip
        table = f'<table><tr><th scope="col">rule</th>{heads}</tr>{rows}</table>'
        return f'<p><strong>{html.escape(self.spec["title"])}</strong></p><div style="overflow-x: auto">{table}</div>'


def _question(name: str) -> str:
    """What a criterion asks, from the beginning of its docstring."""
    return " ".join((CRITERIA[name].ask.__doc__ or "").split("?")[0].split()) + "?"


def _cell(row: Any) -> dict[str, Any]:
    figure = None if row.figure is None or pd.isna(row.figure) else float(row.figure)
    return {"says": row.says, "mark": row.mark, "figure": figure, "why": row.why}
