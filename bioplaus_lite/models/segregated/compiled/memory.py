"""Memory that an engine and the tensors of a network share."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from bioplaus_lite.models.segregated.compiled.arrays import Layout
from bioplaus_lite.models.segregated.weights import Weights

__all__ = ["SharedMemory"]


class SharedMemory:
    """Flat arrays, padded as an engine wants them, and tensors in the shapes of the weights that are views of them.

    Args:
        sizes: units of each layer.
        dtype: of the weights.
    """

    def __init__(self, sizes: Sequence[int], dtype: torch.dtype) -> None:
        layout = Layout.of(sizes)
        forward, feedback = (torch.zeros(max(n, 1), dtype=dtype) for n in (layout.weight_size, layout.feedback_size))
        self.arrays: tuple[np.ndarray, np.ndarray] = forward.numpy(), feedback.numpy()
        self.views = Weights([], [], [])
        for layer in range(1, len(sizes)):
            n, row = sizes[layer], int(layout.row[layer])
            self.views.W.append(forward.as_strided((n, sizes[layer - 1]), (1, row), int(layout.W[layer])))
            self.views.b.append(forward.as_strided((n,), (1,), int(layout.b[layer])))
            if layer < len(sizes) - 1:
                self.views.Y.append(feedback.as_strided((n, sizes[-1]), (1, row), int(layout.Y[layer])))

    def holds(self, weights: Weights) -> bool:
        """Whether all of these tensors lie here, each in its place."""
        return all(
            tensor.dtype == view.dtype and tensor.stride() == view.stride() and tensor.data_ptr() == view.data_ptr()
            for tensors, views in zip(weights, self.views, strict=True)
            for tensor, view in zip(tensors, views, strict=True)
        )
