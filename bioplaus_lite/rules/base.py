"""What every learning rule is: a network plus a way of assigning credit.

A rule fills ``.grad`` and any optimiser steps. ``loss.backward()`` in an ordinary PyTorch loop becomes
``rule.assign_gradients(x, y)``; everything else in the loop stays.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bioplaus_lite.networks import Network

__all__ = ["LayeredRule", "LearningRule", "cross_entropy_and_error"]


def cross_entropy_and_error(scores: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    r"""Mean cross-entropy of softmax scores, and its derivative by the scores.

    .. math:: \mathcal L = -\tfrac1B \sum_b \log \mathrm{softmax}(s_b)_{y_b}, \qquad
              \delta_L = \tfrac1B (\mathrm{softmax}(s) - \mathrm{onehot}(y))

    Args:
        scores: ``(batch, classes)``.
        labels: ``(batch,)``, int64, each in ``0 … classes-1``.

    Returns:
        The loss, a scalar, and the error, shape ``(batch, classes)``.

    Raises:
        ValueError: ``labels`` has another shape or dtype, or holds a value outside the classes.
    """
    batch, classes = scores.shape
    if labels.dtype != torch.int64 or labels.shape != (batch,):
        raise ValueError(f"labels must be int64 of shape ({batch},), not {labels.dtype} of {tuple(labels.shape)}")
    low, high = map(int, torch.aminmax(labels))
    if low < 0 or high >= classes:
        raise ValueError(f"label {low if low < 0 else high} is outside 0 … {classes - 1}")
    log_p = torch.log_softmax(scores, 1)
    loss = F.nll_loss(log_p, labels)
    error = log_p.exp().scatter_(1, labels.unsqueeze(1), -1.0, reduce="add")
    return loss, error.div_(batch)


class LearningRule(nn.Module):
    """A network and a way of assigning credit to its weights.

    In training mode (``rule.train()``, the default) a rule may also move state of its own when it assigns
    gradients: mirrored feedback weights, redrawn feedback, weight decay. In evaluation mode (``rule.eval()``)
    :meth:`assign_gradients` only answers, and changes nothing but ``.grad``; the diagnostics use this.

    Args:
        network: the layers to train.
    """

    network: Network

    def __init__(self, network: Network) -> None:
        super().__init__()
        if not isinstance(network, Network):
            raise TypeError(f"network must be a bioplaus_lite Network (MLP, CNN), not {type(network).__name__}")
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        """Scores of shape ``(batch, n_L)`` for inputs of shape ``(batch, n_0)``."""
        return self.network(x)

    def assign_gradients(self, x: Tensor, y: Tensor) -> Tensor:
        """Write each learned parameter's pseudo-gradient to ``.grad``; return the mean loss, a scalar.

        The gradients are overwritten, not added to: no ``zero_grad`` is needed.

        Args:
            x: ``(batch, n_0)``, floating point.
            y: ``(batch,)``, int64 labels.

        Raises:
            ValueError: a shape, a dtype or a label is wrong, or the input is not finite.
            FloatingPointError: the input is finite and the loss is not: training has diverged.
        """
        raise NotImplementedError

    def objective(self, scores: Tensor, y: Tensor) -> Tensor:
        """The loss that the rule descends, a differentiable scalar: what the diagnostics take the true gradient of.

        Cross-entropy, unless a rule says otherwise.
        """
        return F.cross_entropy(scores, y)

    def learn(self, x: Tensor, y: Tensor, optimizer: torch.optim.Optimizer) -> Tensor:
        """One step of learning: assign gradients, then let ``optimizer`` step. Returns the loss before it."""
        loss = self.assign_gradients(x, y)
        optimizer.step()
        return loss

    def parameter_groups(self) -> list[dict]:
        """Parameter groups for an optimiser: ``forward`` weights and, if the rule learns any, ``feedback``.

        Weights of the network that are held fixed, with ``requires_grad_(False)``, are in neither.
        """
        known = {id(p) for p in self.network.parameters()}
        forward = [p for p in self.network.parameters() if p.requires_grad]
        feedback = [p for p in self.parameters() if id(p) not in known]
        groups = [{"params": forward, "name": "forward"}]
        return [*groups, {"params": feedback, "name": "feedback"}] if feedback else groups

    def _refuse_nonfinite(self, x: Tensor, loss: Tensor) -> None:
        # The loss of a batch is finite only if everything on its way was, so the input is read only when it is not.
        if math.isfinite(loss.item()):
            return
        if not torch.isfinite(x).all():
            bad = x[~torch.isfinite(x)][0].item()
            raise ValueError(f"input holds {bad}; every value must be finite")
        raise FloatingPointError(f"the loss is {loss.item()}: training has diverged, try a smaller learning rate")


class LayeredRule(LearningRule):
    r"""Rules that carry an error down the layers, each through feedback weights of its own choice.

    .. math:: \delta_{l} = (B_{l+1}\, \delta_{l+1}) \odot \sigma'(a_l), \qquad
              \nabla W_l = \sum_{\text{batch}} \delta_l h_{l-1}^\top

    A subclass says only what :meth:`feedback` is. Backpropagation is the member with ``B = Wᵀ``.
    """

    def feedback(self, layer: int) -> Tensor:
        """Weights that carry the error of ``layer`` down to ``layer - 1``, in the shape of ``W_layerᵀ``.

        For a dense layer ``(n_{l-1}, n_l)``. Defined for layers 2 … L: nothing below the first layer learns.
        """
        raise NotImplementedError

    def before_assigning(self) -> None:
        """Hook for rules whose feedback weights move; called once a batch, in training mode only."""

    def layer_errors(self, activities: list[Tensor], output_error: Tensor) -> Iterator[tuple[int, Tensor]]:
        """Yield ``(l, δ_l)`` from the top layer down. ``δ_l`` has the shape of ``h_l``."""
        network, delta = self.network, output_error
        for layer in range(network.depth, 0, -1):
            yield layer, delta
            if layer > 1:
                below = activities[layer - 1]
                error = network.send_back(layer, delta, self.feedback(layer), below)
                delta = error.mul_(network.slope(layer - 1, below))

    @torch.no_grad()
    def assign_gradients(self, x: Tensor, y: Tensor) -> Tensor:
        self.network.check_input(x)
        activities = self.network.activities(x)
        loss, output_error = cross_entropy_and_error(activities[-1], y)
        self._refuse_nonfinite(x, loss)
        if self.training:
            self.before_assigning()
        for layer, delta in self.layer_errors(activities, output_error):
            self.network.set_gradient(layer, delta, activities[layer - 1])
        if self.training:
            self.after_assigning()
        return loss

    def after_assigning(self) -> None:
        """Hook for rules that add to the gradients (decay, learned feedback); training mode only."""

    @torch.no_grad()
    def errors(self, x: Tensor, y: Tensor) -> dict[int, Tensor]:
        """``{l: δ_l}`` for a batch, without touching any ``.grad``. Shapes as the activities."""
        self.network.check_input(x)
        activities = self.network.activities(x)
        _, output_error = cross_entropy_and_error(activities[-1], y)
        return dict(self.layer_errors(activities, output_error))
