"""A rule on the stand: fresh and trained, with digits to ask it about."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from bioplaus_lite import checks
from bioplaus_lite.data import load
from bioplaus_lite.rules import LearningRule, card_of
from bioplaus_lite.rules.base import States

__all__ = ["SIZES", "Case", "case_of"]

SIZES = (784, 60, 40, 10)  # two hidden layers: with one, most of these rules differ in nothing but the last layer
EXAMPLES, PROBED = 1000, 100  # to learn from, and to be asked about
EPOCHS, BATCH, RATE = 20, 20, 3e-3


class Case:
    """A rule to be judged: made fresh as often as a criterion likes, trained once.

    Everything is in double precision, so that a difference of 1e-8 is one, and on the same digits.

    Args:
        make: ``make(**options)`` gives the rule on a fresh float64 network, always the same one.
        x: ``(N, n_0)``, float64. It is asked about the last :data:`PROBED` examples, and trains on those before.
        y: ``(N,)``, int64 labels.

    Raises:
        TypeError: ``make`` does not give a rule.
        ValueError: the examples do not fit, or the network is not in float64 or has no hidden layer.
    """

    def __init__(self, make: Callable[..., LearningRule], x: Tensor, y: Tensor) -> None:
        self.make = make
        x, y = checks.labelled((x, y), "case")
        if len(x) < PROBED + BATCH:
            raise ValueError(f"a case needs at least {PROBED + BATCH} examples, not {len(x)}")
        self.data = x[:-PROBED], y[:-PROBED]
        self.x, self.y = x[-PROBED:], y[-PROBED:]
        if not isinstance(self.fresh, LearningRule):
            raise TypeError(f"make must give a LearningRule, not a {type(self.fresh).__name__}")
        if (dtype := self.fresh.network.weight(1).dtype) != torch.float64:
            raise ValueError(f"rules are judged in torch.float64, not in {dtype}")
        if self.fresh.network.depth < 2:
            raise ValueError(f"a network without hidden layers, {self.fresh.network.sizes}, assigns no credit")

    @cached_property
    def fresh(self) -> LearningRule:
        """The rule as it begins. No criterion moves it."""
        return self.make()

    @cached_property
    def states(self) -> States:
        """What its hidden units hold when they learn."""
        return self.fresh.states(self.x, self.y)

    @cached_property
    def met(self) -> States:
        """What they hold when there is nothing to correct."""
        return self.fresh.states(self.x, self.y, met=True)

    @cached_property
    def open(self) -> LearningRule:
        """The rule as it begins, with every weight its own: see ``LearningRule.openly``."""
        return self.make(**self.fresh.openly) if self.fresh.openly else self.fresh

    def trained(self, x: Tensor, y: Tensor, *, make: Callable[..., LearningRule] | None = None) -> LearningRule:
        """A fresh rule after :data:`EPOCHS` epochs of Adam, or of its own rates if it learns online."""
        rule = (make or self.make)()
        groups = rule.parameter_groups()
        optimizer = torch.optim.SGD(groups, lr=0.1) if rule.online else torch.optim.Adam(groups, lr=RATE)
        for epoch in range(EPOCHS):
            order = torch.randperm(len(x), generator=torch.Generator().manual_seed(epoch))
            for batch in order.split(BATCH):
                rule.learn(x[batch], y[batch], optimizer)
        return rule

    @cached_property
    def after(self) -> LearningRule:
        """The rule after a short training."""
        return self.trained(*self.data)

    @cached_property
    def open_after(self) -> tuple[LearningRule, LearningRule]:
        """``open`` after a short training, and after one from the same start and draws with shuffled labels."""
        x, y = self.data
        others = y[torch.randperm(len(y), generator=torch.Generator().manual_seed(1))]

        def make() -> LearningRule:
            return self.make(**self.fresh.openly)

        return self.trained(x, y, make=make) if self.fresh.openly else self.after, self.trained(x, others, make=make)


def case_of(name: str, **options: Any) -> Case:
    """The case of a rule on 784-60-40-10, its own kind of network, and a thousand shipped digits.

    Args:
        name: of a rule, or ``"module:Class"``.
        options: of the rule; ``network`` makes another network than that of its card.

    Raises:
        ValueError: there is no such rule, or an option is out of range.
        TypeError: the rule takes no such option.
    """
    card, mnist = card_of(name), load("mnist")
    network = options.pop("network", card.network)

    def make(**more: Any) -> LearningRule:
        return card.make(network(SIZES, dtype=torch.float64), **{**options, **more})

    few = slice(EXAMPLES + PROBED)
    return Case(make, mnist.x_train[few].double(), mnist.y_train[few])


def copied(rule: LearningRule) -> LearningRule:
    """A copy to be hurt."""
    return copy.deepcopy(rule).eval()
