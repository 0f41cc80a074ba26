"""The learning rules, one file a mechanism, and the names by which runs and tables call them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from bioplaus_lite.networks import Network
from bioplaus_lite.rules.backprop import Backprop
from bioplaus_lite.rules.base import LayeredRule, LearningRule, cross_entropy_and_error
from bioplaus_lite.rules.feedback_alignment import (
    DirectFeedbackAlignment,
    FeedbackAlignment,
    KolenPollack,
    SignSymmetry,
    WeightMirror,
)
from bioplaus_lite.rules.microcircuits import Microcircuits
from bioplaus_lite.rules.segregated import SegregatedCompartments
from bioplaus_lite.rules.target_propagation import (
    AuxiliaryOutputSDTP,
    DifferenceTargetPropagation,
    SimplifiedDTP,
    TargetPropagation,
    TargetRule,
    alternate,
)

__all__ = [
    "LAYERED",
    "RULES",
    "TARGET",
    "AuxiliaryOutputSDTP",
    "Backprop",
    "DifferenceTargetPropagation",
    "DirectFeedbackAlignment",
    "FeedbackAlignment",
    "KolenPollack",
    "LayeredRule",
    "LearningRule",
    "Microcircuits",
    "SegregatedCompartments",
    "SignSymmetry",
    "SimplifiedDTP",
    "TargetPropagation",
    "TargetRule",
    "WeightMirror",
    "alternate",
    "cross_entropy_and_error",
    "make_rule",
]

#: Every rule by its short name.
RULES: dict[str, Callable[..., LearningRule]] = {
    "backprop": Backprop,
    "fa": FeedbackAlignment,
    "dfa": DirectFeedbackAlignment,
    "usf": partial(SignSymmetry, magnitudes="uniform"),
    "frsf": partial(SignSymmetry, magnitudes="fixed"),
    "brsf": partial(SignSymmetry, magnitudes="redrawn"),
    "weight_mirror": WeightMirror,
    "kolen_pollack": KolenPollack,
    "tp": TargetPropagation,
    "dtp": DifferenceTargetPropagation,
    "sdtp": SimplifiedDTP,
    "ao_sdtp": AuxiliaryOutputSDTP,
    "segregated": SegregatedCompartments,  # on a RateNetwork, whose weights start in the model's range
    "microcircuits": Microcircuits,  # on logistic units, best on a PyramidalNetwork
}

#: The names of those that send targets down through learned inverses.
TARGET: tuple[str, ...] = ("tp", "dtp", "sdtp", "ao_sdtp")

#: The names of those that train any network, and differ only in the choice of their feedback weights.
LAYERED: tuple[str, ...] = tuple(name for name in RULES if name not in ("segregated", "microcircuits", *TARGET))


def make_rule(name: str, network: Network, **options) -> LearningRule:
    """The rule called ``name`` on ``network``; ``options`` go to its constructor.

    Raises:
        ValueError: ``name`` is not in :data:`RULES`.
        TypeError: the rule takes no such option.
    """
    if name not in RULES:
        raise ValueError(f"unknown rule {name!r}; choose one of {', '.join(RULES)}")
    return RULES[name](network, **options)
