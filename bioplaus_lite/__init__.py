"""Biologically plausible deep learning: the learning rules of the book, and what its chapters need.

A learning rule is a network plus a way of assigning credit: it fills ``.grad``, and any optimiser steps.
"""

from bioplaus_lite.networks import CNN, MLP, Network
from bioplaus_lite.rules import RULES, LearningRule, make_rule
from bioplaus_lite.training import evaluate, fit

__all__ = ["CNN", "MLP", "RULES", "LearningRule", "Network", "evaluate", "fit", "load", "make_rule"]


def __getattr__(name: str) -> object:
    # Only on first use: a rule needs no data, and no client that could fetch some.
    if name == "load":
        from bioplaus_lite.data import load

        return load
    raise AttributeError(f"module 'bioplaus_lite' has no attribute {name!r}")
