"""What changes: the gradient from batch to batch, weights and gradients from one call to the next."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise

import torch
from torch import Tensor

from bioplaus_lite.measures.probe import Probe, gradients, layers_of
from bioplaus_lite.rules import LearningRule

__all__ = ["Dynamics", "gradient_noise", "update_snr"]


def update_snr(rule: LearningRule, batches: Iterable[tuple[Tensor, Tensor]]) -> dict[int, float]:
    """``{l: ‖mean over batches of ∇W_l‖ / root of the summed variance}``: signal to noise of the update.

    Raises:
        ValueError: fewer than two batches.
    """
    return signal_to_noise(gradients_of_batches(rule, batches))


def gradient_noise(rule: LearningRule, batches: Iterable[tuple[Tensor, Tensor]]) -> dict[int, float]:
    r"""How much the gradient of each layer changes from batch to batch, at the *same* weights.

    .. math:: \Bigl\langle \frac{\|\nabla_{i+1} - \nabla_i\|_F}{\|\nabla_i\|_F} \Bigr\rangle_i

    What a change of the gradient between two batches amounts to when nothing has been learned in between. For
    independent gradients of equal length that share no direction it is √2; what they share makes it smaller.

    Raises:
        ValueError: fewer than two batches.
    """
    return relative_changes(gradients_of_batches(rule, batches))


def gradients_of_batches(rule: LearningRule, batches: Iterable[tuple[Tensor, Tensor]]) -> list[dict[int, Tensor]]:
    drawn = [gradients(rule, x, y) for x, y in batches]
    if len(drawn) < 2:
        raise ValueError(f"a spread needs at least 2 batches, got {len(drawn)}")
    return drawn


def signal_to_noise(drawn: list[dict[int, Tensor]]) -> dict[int, float]:
    snr = {}
    for layer in drawn[0]:
        stack = torch.stack([g[layer] for g in drawn])
        snr[layer] = (stack.mean(0).norm() / stack.var(0).sum().sqrt()).item()
    return snr


def relative_changes(drawn: list[dict[int, Tensor]]) -> dict[int, float]:
    changes = {
        layer: [((b[layer] - a[layer]).norm() / a[layer].norm()).item() for a, b in pairwise(drawn)]
        for layer in drawn[0]
    }
    return {layer: sum(values) / len(values) for layer, values in changes.items()}


class Dynamics:
    r"""Norms of weights, updates and gradients since the last call, relative to what they change.

    Each call ``dynamics(rule, x, y)`` returns, for every layer ``l``,

    - ``weight_norm_l``: :math:`\|W_t\|_F / \|W_0\|_F`, the growth since this object was made,
    - ``update_norm_l``: :math:`\|W_t - W_{t'}\|_F / \|W_t\|_F`, ``t'`` the last call,
    - ``gradient_change_l``: :math:`\|\nabla_t - \nabla_{t'}\|_F / \|\nabla_{t'}\|_F`. Two independent noisy
      gradients of equal size give √2: that is the floor of this measure, not a sign of curvature.

    The first call has no last one: it returns ``weight_norm_l`` alone.
    """

    def __init__(self, rule: LearningRule) -> None:
        self._start = {layer: rule.network.weight(layer).detach().norm() for layer in layers_of(rule)}
        self._weights: dict[int, Tensor] = {}
        self._gradients: dict[int, Tensor] = {}

    def __call__(self, rule: LearningRule, x: Tensor, y: Tensor) -> dict[str, float]:
        return self.since_last(Probe(rule, x, y))

    def since_last(self, probe: Probe) -> dict[str, float]:
        """The answer for a probe, whose gradients other measures may have asked for."""
        rule, now, out = probe.rule, probe.gradients, {}
        for layer in layers_of(rule):
            w = rule.network.weight(layer).detach().clone()
            out[f"weight_norm_{layer}"] = (w.norm() / self._start[layer]).item()
            if layer in self._weights:
                out[f"update_norm_{layer}"] = ((w - self._weights[layer]).norm() / w.norm()).item()
            if layer in now and layer in self._gradients:
                before = self._gradients[layer]
                out[f"gradient_change_{layer}"] = ((now[layer] - before).norm() / before.norm()).item()
            self._weights[layer] = w
        self._gradients = now
        return out
