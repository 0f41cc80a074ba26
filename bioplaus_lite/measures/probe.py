"""What a rule answers to one batch: its gradients and errors, and those of backpropagation by autograd."""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor

from bioplaus_lite import checks
from bioplaus_lite.rules import LearningRule

__all__ = ["Probe", "backprop_errors", "gradients", "true_gradients"]


def gradients(rule: LearningRule, x: Tensor, y: Tensor) -> dict[int, Tensor]:
    """``{l: pseudo-gradient of W_l}`` that the rule assigns to this batch, of held layers too."""
    assigned = rule.gradients(x, y)
    return {layer: assigned[f"W{layer}"] for layer in layers_of(rule) if f"W{layer}" in assigned}


def true_gradients(rule: LearningRule, x: Tensor, y: Tensor) -> dict[int, Tensor]:
    """``{l: ∂L/∂W_l}`` of the rule's objective, the mean cross-entropy unless it has another, by autograd."""
    weights = [rule.network.weight(layer) for layer in layers_of(rule)]
    learned = [w.requires_grad for w in weights]  # a layer held fixed has a gradient all the same
    with rule.as_it_is(), torch.enable_grad():
        try:
            for w in weights:
                w.requires_grad_(True)
            loss = rule.objective(rule(x), y)
            return dict(zip(layers_of(rule), torch.autograd.grad(loss, weights), strict=True))
        finally:
            for w, flag in zip(weights, learned, strict=True):
                w.requires_grad_(flag)


def backprop_errors(rule: LearningRule, x: Tensor, y: Tensor) -> dict[int, Tensor]:
    """``{l: δ_l = ∂L/∂a_l}`` by autograd, shapes as the activities."""
    with rule.as_it_is(), torch.enable_grad():
        currents: list[Tensor] = []
        loss = rule.objective(rule.network.activities(x, currents)[-1], y)
        return dict(zip(layers_of(rule), torch.autograd.grad(loss, currents), strict=True))


class Probe:
    """A rule and a batch to ask it about; what several measures need is worked out once.

    Args:
        rule: as it is now.
        x: ``(batch, n_0)``.
        y: ``(batch,)``, int64 labels.
        parts: number of equal parts for what varies from batch to batch.
        few: number of examples, the first ones, for what is worked out example by example; all unless given.

    Raises:
        ValueError: there are fewer examples than two for each part.
    """

    def __init__(
        self, rule: LearningRule, x: Tensor, y: Tensor, *, parts: int = 10, few: int | None = None
    ) -> None:
        self.rule, self.x, self.y = rule, *checks.labelled((x, y), "probe")
        self.few = (x[:few], y[:few])
        self._parts = checks.whole("parts", parts, 2)

    @cached_property
    def gradients(self) -> dict[int, Tensor]:
        """See :func:`gradients`."""
        return gradients(self.rule, self.x, self.y)

    @cached_property
    def part_gradients(self) -> list[dict[int, Tensor]]:
        """The gradients of each part."""
        if len(self.x) < 2 * self._parts:
            raise ValueError(f"{self._parts} parts need at least {2 * self._parts} examples, not {len(self.x)}")
        parts = zip(self.x.tensor_split(self._parts), self.y.tensor_split(self._parts), strict=True)
        return [gradients(self.rule, x, y) for x, y in parts]

    @cached_property
    def errors(self) -> dict[int, Tensor]:
        """The rule's errors of the few examples."""
        return self.rule.errors(*self.few)

    @cached_property
    def backprop_errors(self) -> dict[int, Tensor]:
        """Those of backpropagation."""
        return backprop_errors(self.rule, *self.few)


@torch.no_grad()
def activities_of(rule: LearningRule, x: Tensor) -> list[Tensor]:
    """``[h_0, …, h_L]`` as the rule sees them, which may not be what a plain pass would give."""
    with rule.as_it_is():
        rule.network.check_input(x)
        return rule.observe(x).h


def targets_of(rule: LearningRule, x: Tensor, y: Tensor) -> dict[int, Tensor]:
    signals = rule.signals(x, y)
    if "target" not in signals:
        raise TypeError(f"only a target rule sends targets, not a {type(rule).__name__}")
    return signals["target"]


def hidden_layers_of(rule: LearningRule) -> range:
    return range(1, rule.network.depth)


def layers_of(rule: LearningRule) -> range:
    return range(1, rule.network.depth + 1)
