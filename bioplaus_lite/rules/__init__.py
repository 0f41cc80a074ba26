"""The learning rules, one file a mechanism. Each puts itself on file where it is written: see ``rules.cards``."""

from bioplaus_lite.rules.base import LearningRule, Synapse, Trace, cross_entropy_and_error
from bioplaus_lite.rules.cards import RULES, Card, Look, card_of, in_family, make_rule, register

# In the order of the book, which is that of every table and legend.
# isort: off
from bioplaus_lite.rules.backprop import Backprop
from bioplaus_lite.rules.feedback_alignment import (
    DirectFeedbackAlignment,
    FeedbackAlignment,
    KolenPollack,
    SignSymmetry,
    WeightMirror,
)
from bioplaus_lite.rules.target_propagation import (
    AuxiliaryOutputSDTP,
    DifferenceTargetPropagation,
    SimplifiedDTP,
    TargetPropagation,
    TargetRule,
)
from bioplaus_lite.rules.difference_reconstruction import (
    DifferenceReconstruction,
    DirectDifferenceReconstruction,
    LocalDifferenceReconstruction,
)
from bioplaus_lite.rules.segregated import SegregatedCompartments
from bioplaus_lite.rules.microcircuits import Microcircuits
# isort: on

__all__ = [
    "RULES",
    "AuxiliaryOutputSDTP",
    "Backprop",
    "Card",
    "DifferenceReconstruction",
    "DifferenceTargetPropagation",
    "DirectDifferenceReconstruction",
    "DirectFeedbackAlignment",
    "FeedbackAlignment",
    "KolenPollack",
    "LearningRule",
    "LocalDifferenceReconstruction",
    "Look",
    "Microcircuits",
    "SegregatedCompartments",
    "SignSymmetry",
    "SimplifiedDTP",
    "Synapse",
    "TargetPropagation",
    "TargetRule",
    "Trace",
    "WeightMirror",
    "card_of",
    "cross_entropy_and_error",
    "in_family",
    "make_rule",
    "register",
]
