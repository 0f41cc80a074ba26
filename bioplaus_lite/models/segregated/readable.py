"""The readable simulation in the place of an engine."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch

from bioplaus_lite.models.segregated.parameters import SegregatedParameters
from bioplaus_lite.models.segregated.simulation import Result, State
from bioplaus_lite.models.segregated.weights import Weights

__all__ = ["ReadableEngine"]


class ReadableEngine:
    """The readable simulation with the calls of the fast engines, for what those do not cover. Slow.

    Args:
        weights: gives the tensors that hold the weights. They are read before each call, and training writes to them.
        constants: of the model.
        seed: of the spikes, phase lengths, plateau times and noise.
    """

    def __init__(self, weights: Callable[[], Weights], constants: SegregatedParameters, *, seed: int = 0) -> None:
        self._weights, self._constants = weights, constants
        self.simulation = weights().simulation(constants, seed=seed)

    def train(self, x: np.ndarray, labels: np.ndarray, etas: Sequence[float], *, traces: bool = False) -> Result:
        """Show examples ``(N, n_0)``, one after another, and learn from each at the rates ``etas``."""
        simulation, weights = self.simulation, self._weights()
        tensors = [*weights.W, *weights.b, *weights.Y]
        arrays = [*simulation.W, *simulation.b, *simulation.Y]
        for array, tensor in zip(arrays, tensors, strict=True):
            array[:] = tensor.detach().numpy()
        simulation.etas = tuple(etas)
        outcomes = [simulation.example(one, int(label), learn=any(etas)) for one, label in zip(x, labels, strict=True)]
        for array, tensor in zip(arrays, tensors, strict=True):
            tensor.data.copy_(torch.from_numpy(array))

        def by_layer(name: str) -> list[np.ndarray]:
            return [np.array(rows) for rows in zip(*(getattr(o, name) for o in outcomes), strict=True)]

        return Result(
            np.array([o.scores for o in outcomes]), np.array([o.output_loss for o in outcomes]), by_layer("E"),
            by_layer("psp"), by_layer("soma"),
        )

    def test(self, x: np.ndarray, duration: float | None = None, *, seed: int = 0) -> np.ndarray:
        """Mean output voltages ``(N, n_L)`` of a spiking test, each input from rest; the state stays."""
        simulation = self._weights().simulation(self._constants, seed=seed)
        return np.array([simulation.test(one, duration)[0] for one in x])

    def snapshot(self) -> dict:
        """Voltages, recent spikes and the place in the random stream."""
        state = self.simulation.state  # a step makes a new one
        return {
            "generator": self.simulation.generator.bit_generator.state, "soma": state.soma, "spikes": state.spikes,
        }  # fmt: skip

    def restore(self, snapshot: dict) -> None:
        """Go back to a :meth:`snapshot`."""
        self.simulation.generator.bit_generator.state = snapshot["generator"]
        self.simulation.state = State(snapshot["soma"], snapshot["spikes"])

    def reset(self) -> None:
        """Put all voltages at rest and forget all spikes."""
        self.simulation.state = State.at_rest(self.simulation.sizes, self._constants.spike_memory)
