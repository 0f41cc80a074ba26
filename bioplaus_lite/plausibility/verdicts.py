"""What a criterion says, and the list of criteria."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from bioplaus_lite import checks

if TYPE_CHECKING:
    from bioplaus_lite.plausibility.case import Case

__all__ = ["CRITERIA", "MARKS", "Criterion", "Verdict", "criterion"]

#: What a verdict can say, with the mark that stands for it in a table.
MARKS = {
    "holds": "✓",
    "in the limit": "✓ in the limit",
    "partly": "partly",
    "fails": "✗",
    "not applicable": "–",
    "not measured": "?",
    "counted": "",
}


class Verdict(NamedTuple):
    """The answer of one criterion for one rule.

    ``says``: one of :data:`MARKS`. ``figure``: the number that decides, in the criterion's unit; ``None`` if there is
    none. ``why``: one sentence that says what was done and what came out.
    """

    says: str
    figure: float | None
    why: str

    @property
    def mark(self) -> str:
        """What stands in a table, which for what is counted is the number."""
        return MARKS[self.says] if self.says != "counted" else f"{self.figure:.3g}"


@dataclass(frozen=True)
class Criterion:
    """A row of the table.

    Attributes:
        name: of the row.
        ask: the function that decides.
        unit: of the verdict's figure.
        slide: whether the 2019 review's table has this row.

    Its ``__doc__`` is that of ``ask``: what the row asks, and how it is decided.
    """

    name: str
    ask: Callable[[Case], Verdict]
    unit: str
    slide: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "__doc__", self.ask.__doc__)

    def __call__(self, case: Case) -> Verdict:
        """The verdict for a case. A rule that lacks what is asked for is ``not measured``, and the reason says what.

        So is one whose short training diverges.
        """
        try:
            verdict = self.ask(case)
        except NotImplementedError as missing:
            return Verdict("not measured", None, f"Not measured, for want of {missing}.")
        except FloatingPointError as diverged:
            return Verdict("not measured", None, f"The row asks for finite numbers: {diverged}.")
        checks.one_of(f"verdict of {self.name!r}", verdict.says, MARKS)
        return verdict


#: The criteria by name, in the order of the table, first the rows of the review, then those that it does not have.
CRITERIA: dict[str, Criterion] = {}


def criterion(name: str, *, unit: str, slide: bool = False) -> Callable[[Callable[[Case], Verdict]], Criterion]:
    """Make a row of the table: a decorator of ``ask(case) -> Verdict``.

    Raises:
        ValueError: the name is taken by another function.
    """

    def put(ask: Callable[[Case], Verdict]) -> Criterion:
        taken = CRITERIA.get(name)
        if taken and (taken.ask.__module__, taken.ask.__qualname__) != (ask.__module__, ask.__qualname__):
            raise ValueError(f"the criterion {name!r} is taken by {taken.ask.__module__}.{taken.ask.__qualname__}")
        CRITERIA[name] = Criterion(name, ask, unit, slide)
        return CRITERIA[name]

    return put
