"""The weights of a network, as the engines take them."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from bioplaus_lite.models.segregated.parameters import SegregatedParameters
from bioplaus_lite.models.segregated.simulation import Simulation

__all__ = ["Weights"]


class Weights(NamedTuple):
    """The tensors that hold the weights: what is written to them, the network has.

    ``W``: ``(n_l, n_{l-1})``, and ``b``: ``(n_l,)``, of the layers 1 … L; ``Y``: feedback to the hidden layers,
    ``(n_l, n_L)``.
    """

    W: list[Tensor]
    b: list[Tensor]
    Y: list[Tensor]

    def simulation(self, constants: SegregatedParameters, *, seed: int) -> Simulation:
        """A readable simulation with copies of the weights as they are now, at rest."""
        W, b, Y = ([tensor.detach().numpy() for tensor in tensors] for tensors in self)
        return Simulation(W, b, Y, constants, seed=seed)
