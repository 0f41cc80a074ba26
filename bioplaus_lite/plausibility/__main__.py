"""``python -m bioplaus_lite.plausibility``: the literature table's rows for rules of the book, or for your own."""

from __future__ import annotations

import argparse
import json
import sys
import textwrap
from collections.abc import Sequence

from bioplaus_lite.plausibility import CRITERIA, Verdict, case_of, judge, record
from bioplaus_lite.plausibility.table import columns


def shown(label: str, verdicts: dict[str, Verdict]) -> str:
    """The verdicts of one rule, as lines."""
    width, lines = max(map(len, verdicts)), [label]
    for row, verdict in verdicts.items():
        unit = f" {CRITERIA[row].unit}" if verdict.says == "counted" else ""
        head = f"  {row:<{width}}  {verdict.mark + unit}"
        lines += [head, *textwrap.wrap(verdict.why, 100, initial_indent=" " * 6, subsequent_indent=" " * 6)]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print verdicts; 2 if a rule or a row is unknown."""
    parser = argparse.ArgumentParser(
        prog="python -m bioplaus_lite.plausibility", description="The literature table, measured.",
        epilog="A rule of your own is named module:Class, from the folder of its file.",
    )  # fmt: skip
    parser.add_argument("rules", nargs="*", metavar="RULE", help="names; all rules of the book unless given")
    parser.add_argument("--row", action="append", metavar="CRITERION", help="a criterion; may be given again")
    parser.add_argument("--json", action="store_true", help="as JSON, one object a rule and criterion")
    parser.add_argument("--record", action="store_true", help="replace the table in data/ by a new one of all rules")
    asked = parser.parse_args(arguments)
    if asked.record and (asked.rules or asked.row or asked.json):
        parser.error("--record takes all rules and all rows")
    if asked.record:
        record()
        return 0
    try:
        for label, (name, options) in columns(asked.rules).items():
            verdicts = judge(case_of(name, **options), asked.row)
            if asked.json:
                for row, verdict in verdicts.items():
                    line = {"rule": label, "criterion": row, "unit": CRITERIA[row].unit, **verdict._asdict()}
                    print(json.dumps(line, ensure_ascii=False), flush=True)
            else:
                print(shown(label, verdicts), flush=True)
    except (ValueError, TypeError) as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
