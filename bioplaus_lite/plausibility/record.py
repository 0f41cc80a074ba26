"""The table on record: all rules take minutes, so a chapter shows what one command has computed and stored."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd

from bioplaus_lite import checks
from bioplaus_lite.plausibility.case import case_of
from bioplaus_lite.plausibility.table import columns, judge
from bioplaus_lite.plausibility.verdicts import CRITERIA, MARKS, Verdict
from bioplaus_lite.repository import DATA, provenance, write

__all__ = ["RECORD", "record", "recorded"]

#: Where the table on record is. It has a line for each rule with its verdicts, seconds, commit and versions.
RECORD = DATA / "literature_table.jsonl"

_KEYS = {"rule", "seconds", "verdicts", "commit", "versions", "machine"}


def record(names: Iterable[str] = (), path: Path = RECORD) -> None:
    """Judge rules by every criterion, all on file unless some are named, and replace the record in one step.

    Raises:
        ValueError: there is no such rule.
    """
    made_by, lines = provenance(), []
    for label, (name, options) in columns(names).items():
        begun = time.perf_counter()
        verdicts = judge(case_of(name, **options))
        line = {"rule": label, "seconds": round(time.perf_counter() - begun, 1), **made_by}
        line["verdicts"] = {row: _rounded(verdict)._asdict() for row, verdict in verdicts.items()}
        lines.append(json.dumps(line, ensure_ascii=False))
    write(path, "\n".join(lines) + "\n")


def _rounded(verdict: Verdict) -> Verdict:
    """Four figures; further ones are the processor's."""
    figure = verdict.figure
    return verdict if figure is None else verdict._replace(figure=float(f"{figure:.4g}"))


def recorded(path: Path = RECORD) -> pd.DataFrame:
    """The table on record, one verdict a line: columns as in :func:`~bioplaus_lite.plausibility.table.table`, then
    ``seconds`` of the rule, and ``commit``.

    Raises:
        ValueError: a line is no such record; the message says which and why.
    """
    found: list[dict[str, Any]] = []
    for number, text in enumerate(path.read_text("utf-8").splitlines(), 1):
        try:
            line = json.loads(text)
            if not isinstance(line, dict) or set(line) != _KEYS:
                raise ValueError(f"its keys must be {', '.join(sorted(_KEYS))}")
            for row, said in line["verdicts"].items():
                checks.one_of("criterion", row, CRITERIA)
                verdict = Verdict(**said)
                checks.one_of(f"verdict of {row!r}", verdict.says, MARKS)
                found.append({
                    "rule": line["rule"], "criterion": row, "says": verdict.says, "mark": verdict.mark,
                    "figure": verdict.figure, "unit": CRITERIA[row].unit, "why": verdict.why,
                    "seconds": line["seconds"], "commit": line["commit"],
                })  # fmt: skip
        except (ValueError, TypeError) as error:
            raise ValueError(f"{path.name}, line {number}: {error}") from error
    return pd.DataFrame(found)
