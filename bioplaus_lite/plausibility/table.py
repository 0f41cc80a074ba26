"""Every criterion asked of one rule, or of many."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd

from bioplaus_lite import checks
from bioplaus_lite.plausibility.case import Case, case_of
from bioplaus_lite.plausibility.verdicts import CRITERIA, Verdict
from bioplaus_lite.rules import RULES, card_of

__all__ = ["columns", "judge", "table"]


def judge(case: Case, rows: Iterable[str] | None = None) -> dict[str, Verdict]:
    """``{criterion: verdict}`` for one rule; all criteria unless some are named.

    Raises:
        ValueError: there is no such criterion.
    """
    names = [checks.one_of("criterion", name, CRITERIA) for name in (CRITERIA if rows is None else rows)]
    return {name: CRITERIA[name](case) for name in names}


def columns(names: Iterable[str] = ()) -> dict[str, tuple[str, Mapping[str, Any]]]:
    """``{label: (name, options)}``: a column for each rule, all on file unless some are named, and for its settings.

    Raises:
        ValueError: there is no such rule.
    """
    found: dict[str, tuple[str, Mapping[str, Any]]] = {}
    for name in [name if ":" in name else checks.one_of("rule", name, RULES) for name in names] or RULES:
        card = card_of(name)
        found[card.name if card.short in found else card.short] = card.name, {}
        found |= {label: (card.name, options) for label, options in card.settings.items()}
    return found


def table(
    of: Mapping[str, tuple[str, Mapping[str, Any]]] | Iterable[str] = (), rows: Iterable[str] | None = None
) -> pd.DataFrame:
    """Verdicts of many rules, one a line: ``rule``, ``criterion``, ``says``, ``mark``, ``figure``, ``unit``, ``why``.

    Args:
        of: names of rules, all on file unless some are named; or columns as :func:`columns` gives them.
        rows: criteria; all unless named.

    Raises:
        ValueError: there is no such rule or criterion.
    """
    found, asked = [], None if rows is None else list(rows)
    for label, (name, options) in (of if isinstance(of, Mapping) else columns(of)).items():
        for row, verdict in judge(case_of(name, **options), asked).items():
            found.append({"rule": label, "criterion": row, "says": verdict.says, "mark": verdict.mark,
                          "figure": verdict.figure, "unit": CRITERIA[row].unit, "why": verdict.why})  # fmt: skip
    return pd.DataFrame(found)
