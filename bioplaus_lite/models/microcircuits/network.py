"""The weights of dendritic microcircuits as a network of this package."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from bioplaus_lite import checks
from bioplaus_lite.networks import MLP, uniform_like

__all__ = ["PyramidalNetwork"]


class PyramidalNetwork(MLP):
    r"""An MLP with logistic rates whose weights start in the range of the model, uniform in ± ``width``.

    Args:
        sizes: units of each layer, ``(n_0, …, n_L)``.
        width: half-width of the initial weights of every layer.
        seed: of the weights; biases, the thresholds, start at zero.
        dtype: of the parameters.

    Raises:
        ValueError: a size is not a positive whole number, or ``width`` is not positive.
    """

    def __init__(
        self, sizes: Sequence[int], *, width: float = 0.1, seed: int = 0, dtype: torch.dtype = torch.float32
    ) -> None:
        self.width = checks.number("width", width, above=0)  # first: the weights are drawn by the base
        super().__init__(sizes, activation="sigmoid", seed=seed, dtype=dtype)

    def _draw(self, layer: int, weight: Tensor, generator: torch.Generator) -> Tensor:
        super()._draw(layer, weight, generator)  # the records were drawn with these numbers taken first
        return uniform_like(weight, self.width, generator)

    def half_width(self, layer: int) -> float:
        return self.width
