"""What the review of 2019 says of seven rules, quoted from its slides, and beside it what is measured."""

from __future__ import annotations

import html
import textwrap
from collections.abc import Iterator
from typing import Any

import pandas as pd

from bioplaus_lite import checks
from bioplaus_lite.plausibility.verdicts import CRITERIA

__all__ = ["REVIEW", "REVIEWED", "SIGNS", "BesideReview"]

_RULES = "Backprop", "FA", "TP", "DTP", "SDTP", "Segregated", "Microcircuits"
_TABLE = """
Exact gradients               : ✓, ✗, ✗, ✗, ✗, ✗, ✓ in the limit
No weight transport           : ✗, ✓, ✓/✗ final layer, ✓/✗ final layer, ✓, ✓, ✓
No separate pathways          : ✓, ✗, ✗, ✗, ✗, ✓, ✓
Dendritic integration         : –, ✗, ✗, ✗, ✗, ✓, ✓
Separate weights learned      : –, ✗, ✓, ✓, ✓, ✗, ✓/✗
Linear stabilisation          : –, –, ✗, ✓, ✓, –, –
Explicit error representation : ✓, ✓, ✓, ✓, ✓, ✗, ✓
"""

#: The table of the slides, its rows by its rules, each cell as it stands there.
REVIEW = pd.DataFrame(
    [line.partition(": ")[2].split(", ") for line in _TABLE.strip().splitlines()],
    index=[line.partition(":")[0].strip() for line in _TABLE.strip().splitlines()], columns=list(_RULES),
)  # fmt: skip

#: The criteria that answer the review, each with its row there. One row has two readings.
REVIEWED = {
    "exact gradients": "Exact gradients",
    "no weight transport": "No weight transport",
    "no weights of its own": "No separate pathways",
    "no error units": "No separate pathways",
    "dendritic integration": "Dendritic integration",
    "separate weights learned": "Separate weights learned",
    "linear stabilisation": "Linear stabilisation",
    "explicit error representation": "Explicit error representation",
}

_MEANS = {
    "✓": "holds", "✗": "fails", "–": "not applicable", "✓/✗": "partly", "✓/✗ final layer": "partly",
    "✓ in the limit": "in the limit",
}  # fmt: skip

#: What stands between the review's mark and ours, and the ground on which it stands.
SIGNS = {"confirmed": ("=", "#d3e5f2"), "undecided": ("~", "#fbe9c0"), "contradicted": ("≠", "#f5c2a0")}

_KEY = "The review's mark, then ours: = the same, ≠ another, ~ not measured."
_LINE = "border:0;background:transparent;text-align:left;vertical-align:top;padding:2px 6px;white-space:normal;"
_RULED = "border-top:1px solid;padding-top:8px;"


class BesideReview:
    """Verdicts, each with the review's mark beside it: a page shows them as a table, a terminal in lines.

    Args:
        verdicts: what :func:`~bioplaus_lite.plausibility.table` or ``recorded`` gives.
        outcome: ``confirmed``, ``undecided`` or ``contradicted``: these cells of the review alone. A cell with several
            verdicts, of settings of a rule or of two readings, is undecided if some are as it says or not measured,
            and others are not.

    Attributes:
        lines: the verdicts that are shown, and of each the cell of the review: its ``column``, ``row``, mark
            (``review``) and ``outcome``, and the ``sign`` between mark and verdict. All are empty where it has none.

    Raises:
        ValueError: there is no such outcome.
    """

    def __init__(self, verdicts: pd.DataFrame, outcome: str | None = None) -> None:
        if outcome is not None:
            checks.one_of("outcome", outcome, SIGNS)
        lines = verdicts.copy()
        lines["column"] = [rule.split(",")[0] for rule in lines.rule]
        lines["row"] = [REVIEWED.get(name, "") for name in lines.criterion]
        there = lines.column.isin(_RULES) & (lines["row"] != "")
        lines.loc[~there, ["column", "row"]] = ""
        lines["review"] = [REVIEW.loc[r, c] if r else "" for r, c in zip(lines["row"], lines.column, strict=True)]
        lines["sign"] = [_sign(mark, says) for mark, says in zip(lines.review, lines.says, strict=True)]
        lines["outcome"] = lines.groupby(["row", "column"]).sign.transform(lambda signs: _outcome(set(signs)))
        self.lines = lines if outcome is None else lines[lines.outcome == outcome]

    def _told(self) -> Iterator[tuple[str, str, list[dict[str, Any]]]]:
        """Criterion, its unit and what is said under it; rules of which the very same is said stand together."""
        groups = dict(list(self.lines.groupby("criterion")))
        for name in [name for name in CRITERIA if name in groups]:
            under, said = groups[name], dict[tuple[str, ...], dict[str, Any]]()
            for line in under.to_dict("records"):
                figure = "" if pd.isna(line["figure"]) else _short(line["figure"])
                key = line["review"], line["mark"], figure, line["why"]
                said.setdefault(key, {**line, "figure": figure, "rules": []})["rules"].append(line["rule"])
            yield name, under.unit.iloc[0], list(said.values())

    def __repr__(self) -> str:
        found = [_KEY]
        for name, unit, said in self._told():
            found += ["", f"{name} [{unit}]"]
            for one in said:
                marks = f"{one['review']} {one['sign']} {one['mark']}".strip()
                found += textwrap.wrap(f"{'; '.join(one['rules'])}:  {marks}  {one['figure']}", 76,
                                       initial_indent="  ", subsequent_indent="    ")  # fmt: skip
                found += textwrap.wrap(one["why"], 76, initial_indent=" " * 6, subsequent_indent=" " * 6)
        return "\n".join(found)

    def _repr_html_(self) -> str:
        grounds, bodies = dict(SIGNS.values()), []
        for name, unit, said in self._told():
            rows = [_cell(name, f"{_RULED}font-weight:bold", span=4) + _cell(unit, _RULED)]
            for one in said:
                ground = f"background:{grounds[one['sign']]};color:#1c2126" if one["sign"] else ""
                marks = _cell(one["review"]) + _cell(one["sign"], ground) + _cell(one["mark"]) + _cell(one["figure"])
                rows.append(_cell("; ".join(one["rules"])) + marks)
                rows.append(_cell(one["why"], "padding-left:22px;font-size:0.9em", span=5))
            lines = "".join(f'<tr style="background:transparent">{row}</tr>' for row in rows)
            bodies.append(f"<tbody>{lines}</tbody>")
        heads = "".join(f'<th scope="col" style="{_LINE}">{of}</th>' if of else _cell("")
                        for of in ("rule", "review", "", "ours", "figure"))  # fmt: skip
        caption = f'<caption style="caption-side:top;text-align:left;color:inherit">{_KEY}</caption>'
        return (f'<table style="table-layout:auto;border-collapse:collapse;max-width:44em">{caption}'
                f"<thead><tr>{heads}</tr></thead>{''.join(bodies)}</table>")  # fmt: skip


def _cell(text: str, style: str = "", span: int = 1) -> str:
    return f'<td colspan="{span}" style="{_LINE}{style}">{html.escape(text)}</td>'


def _short(figure: float) -> str:
    return f"{figure:,.0f}" if figure >= 10 else f"{round(figure, 3) + 0:.2g}"


def _sign(mark: str, says: str) -> str:
    if not mark:
        return ""
    outcome = "confirmed" if says == _MEANS[mark] else "undecided" if says == "not measured" else "contradicted"
    return SIGNS[outcome][0]


def _outcome(signs: set[str]) -> str:
    """Of a cell whose verdicts have these signs."""
    if signs == {""}:
        return ""
    return "confirmed" if signs == {"="} else "contradicted" if signs == {"≠"} else "undecided"
