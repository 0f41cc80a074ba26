"""The engine of the rate limit, as a session calls it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bioplaus_lite.models.segregated.compiled.blocks import train_rates
from bioplaus_lite.models.segregated.compiled.flat import FlatWeights, compiling_is_announced
from bioplaus_lite.models.segregated.simulation import Result

__all__ = ["RateEngine"]


class RateEngine(FlatWeights):
    """Trains flat weights in the rate limit: no spikes, no time, no state but the weights.

    Args as for :class:`~bioplaus_lite.models.segregated.compiled.engine.Engine`; ``seed`` draws the noise of symmetric
    feedback, if there is any.
    """

    def __init__(self, sizes, constants, weights, feedback, *, seed: int = 0) -> None:
        if constants.mode != "rate" or constants.voltages != "steady" or constants.g_a:
            raise ValueError("the closed form needs mode 'rate', voltages 'steady' and g_a = 0")
        super().__init__(sizes, constants, weights, feedback, seed)
        self._work = self._new_work(1)

    def train(
        self, x: np.ndarray, labels: np.ndarray, etas: Sequence[float], *, noise: np.ndarray | None = None,
        traces: bool = False,
    ) -> Result:
        """As :meth:`~bioplaus_lite.models.segregated.compiled.engine.Engine.train`."""
        rows = self._rows(len(x), traces)
        with compiling_is_announced():
            train_rates(
                self.net, self._c, self.weights, self.feedback, self._work,
                np.ascontiguousarray(x, self.dtype), np.ascontiguousarray(labels, np.int64),
                self._noise(len(x)) if noise is None else noise, self._scales(etas), *rows,
            )
        return self._result(*rows)

    def snapshot(self) -> dict:
        """What ``restore`` takes back, weights apart."""
        return {"generator": self.generator.bit_generator.state}

    def restore(self, snapshot: dict) -> None:
        self.generator.bit_generator.state = snapshot["generator"]
