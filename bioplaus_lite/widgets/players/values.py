"""Values of one example, as the players take them."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from bioplaus_lite.networks import Network


def row_of(values: Tensor) -> NDArray[np.float64]:
    """The only row of a batch of one."""
    return values[0].detach().double().numpy()


def belief(network: Network, x: Tensor, y: Tensor) -> tuple[NDArray[np.float64], float]:
    """Probabilities of the classes and the loss, for one example."""
    scores = network(x)
    return row_of(torch.softmax(scores, 1)), F.cross_entropy(scores, y).item()
