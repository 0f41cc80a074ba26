"""The literature table, measured: criteria of biological plausibility as computations on any rule.

``case_of(name)`` puts a rule on the stand, ``judge(case)`` asks it every criterion, ``table(names)`` does so for many.
``python -m bioplaus_lite.plausibility`` prints it, for a rule of your own too; ``recorded()`` reads it from ``data/``.
"""

from bioplaus_lite.plausibility import criteria  # noqa: F401  it fills CRITERIA
from bioplaus_lite.plausibility.case import Case, case_of
from bioplaus_lite.plausibility.record import record, recorded
from bioplaus_lite.plausibility.review import REVIEW, REVIEWED, BesideReview
from bioplaus_lite.plausibility.table import columns, judge, table
from bioplaus_lite.plausibility.verdicts import CRITERIA, MARKS, Criterion, Verdict, criterion

__all__ = [
    "CRITERIA", "MARKS", "REVIEW", "REVIEWED", "BesideReview", "Case", "Criterion", "Verdict", "case_of", "columns",
    "criterion", "judge", "record", "recorded", "table",
]  # fmt: skip
