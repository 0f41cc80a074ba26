"""Backpropagation, written by hand layer by layer."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from bioplaus_lite.rules.base import LearningRule, Synapse, Trace
from bioplaus_lite.rules.cards import Look, register

__all__ = ["Backprop"]


@register(
    "backprop", label="Backpropagation", short="Backprop", family="Backpropagation", cite="rumelhart1986",
    look=("black", "-"), also={"mlp": {}, "cnn": {"short": "Backprop, CNN", "look": Look("grey", "--")}},
)  # fmt: skip
class Backprop(LearningRule):
    r"""The exact gradient: errors travel back through the transposed forward weights.

    .. math:: \delta_l = (W_{l+1}^\top \delta_{l+1}) \odot \sigma'(a_l), \qquad
              \frac{\partial \mathcal L}{\partial W_l} = \sum_{\text{batch}} \delta_l h_{l-1}^\top

    Nothing here uses autograd; autograd is the oracle that the tests hold against it. Rules that differ from it only
    in the weights on the way down inherit all but :meth:`feedback`.

    Args:
        network: the layers to train.

    Source: Rumelhart, Hinton & Williams (1986). Chapter: *Backpropagation*.
    """

    def feedback(self, layer: int) -> Tensor:
        return self.network.weight(layer).transpose(0, 1)

    def synapses(self, trace: Trace, error: Tensor, y: Tensor) -> Iterator[Synapse]:
        network, h = self.network, trace.h
        for layer in range(network.depth, 0, -1):
            yield Synapse(f"W{layer}", post=error, pre=h[layer - 1], bias=network.bias_name(layer))
            if layer > 1:
                sent = network.send_back(layer, error, self.feedback(layer), h[layer - 1])
                error = sent.mul_(network.slope(layer - 1, h[layer - 1]))
