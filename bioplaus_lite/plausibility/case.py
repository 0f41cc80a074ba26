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
        make: ``make(**options)`` gives the rule on a fresh float64 network, always the same one. What it draws it must
            draw from generators of its own.
        x: ``(N, n_0)``, float64. It is asked about the last hundred examples, and trains on those before.
        y: ``(N,)``, int64 labels.

    Raises:
        TypeError: ``make`` does not give a rule.
        ValueError: the examples do not fit, the network is not in float64 or has no hidden layer, or two rules that
            ``make`` gives do not answer alike.
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
        if not self._alike():
            raise ValueError(
                f"two {type(self.fresh).__name__}s made alike give different updates, so that nothing can be said of "
                "what changes them; a rule must draw all that it draws from a torch.Generator of its own"
            )

    def _alike(self) -> bool:
        """Whether another rule, and the same one asked again, give the same updates."""
        few = self.x[:2], self.y[:2]
        try:
            one, *others = (rule.gradients(*few) for rule in (self.fresh, self.fresh, self.make()))
        except NotImplementedError:
            return True  # each row says what it lacks
        return all(torch.allclose(g, other[name], 0, 0, equal_nan=True) for other in others for name, g in one.items())

    @cached_property
    def fresh(self) -> LearningRule:
        """The rule as it begins. No criterion moves it."""
        return self.make()

    @cached_property
    def states(self) -> States:
        """What its hidden units hold when they learn."""
        return self.states_of(self.fresh)

    @cached_property
    def met(self) -> States:
        """What they hold when there is nothing to correct."""
        return self.states_of(self.fresh, met=True)

    def states_of(self, rule: LearningRule, *, met: bool = False) -> States:
        """What the hidden units of ``rule`` hold.

        Raises:
            NotImplementedError: it does not say so of a hidden layer.
        """
        states, hidden = rule.states(self.x, self.y, met=met), range(1, rule.network.depth)
        for layer in hidden:
            if any(layer not in of for moment in states.moments for of in moment.values()):
                way = f"one signal that meets the activity below at W{layer}, or states() of the rule's own"
                raise NotImplementedError(f"a state of the units of layer {layer}: {way}")
        return states

    def trained(self, rule: LearningRule, x: Tensor, y: Tensor) -> LearningRule:
        """A fresh rule after 20 epochs of Adam, or of its own rates if it learns online."""
        groups = rule.parameter_groups()
        optimizer = torch.optim.SGD(groups, lr=0.1) if rule.online else torch.optim.Adam(groups, lr=RATE)
        for epoch in range(EPOCHS):
            order = torch.randperm(len(x), generator=torch.Generator().manual_seed(epoch))
            for batch in order.split(BATCH):
                rule.learn(x[batch], y[batch], optimizer)
        return rule

    @cached_property
    def begun(self) -> LearningRule:
        """The rule after a short training, whether it has learned or not."""
        return self.trained(self.make(), *self.data)

    @cached_property
    def after(self) -> LearningRule:
        """The rule after a short training in which it has learned.

        Raises:
            NotImplementedError: it answers no better than twice as often right as by chance.
        """
        x, y = self.data
        scores = self.begun(x)
        right = (scores.argmax(1) == y).double().mean().item()
        if right * scores.shape[1] < 2:
            raise NotImplementedError(f"a rule that has learned: after the short training {100 * right:.0f} % is right")
        return self.begun

    @cached_property
    def after_others(self) -> LearningRule:
        """The same, from the same start and draws, after a training with labels that are shuffled."""
        x, y = self.data
        return self.trained(self.make(), x, y[torch.randperm(len(y), generator=torch.Generator().manual_seed(1))])


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
