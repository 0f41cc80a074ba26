"""What both engines share: flat weights, changed in place, the making of arguments, a word while it compiles."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
from numba.core import event

from bioplaus_lite.models.segregated.compiled.arrays import VECTOR, Layout, Work
from bioplaus_lite.models.segregated.compiled.constants import Constants
from bioplaus_lite.models.segregated.parameters import SegregatedParameters
from bioplaus_lite.models.segregated.simulation import Result


class _Announce(event.Listener):
    """Says, the first time something has to be compiled, what keeps the reader waiting.

    It is silent where progress bars are (``TQDM_DISABLE``): stored notebooks must not depend on a cache.
    """

    announced = False

    def on_start(self, _: object) -> None:
        if not _Announce.announced and not os.environ.get("TQDM_DISABLE"):
            print("Compiling the engine, once: about half a minute. Numba keeps the result for next time.", flush=True)
        _Announce.announced = True

    def on_end(self, _: object) -> None:
        pass


@contextmanager
def compiling_is_announced() -> Iterator[None]:
    """Print one line if something has to be compiled inside; nothing if the cache of compiled code has it."""
    with event.install_listener("numba:compile", _Announce()):
        yield


class FlatWeights:
    """What both engines share: flat weights that they change in place, and the making of arguments."""

    def __init__(
        self, sizes: Sequence[int], constants: SegregatedParameters, weights: np.ndarray, feedback: np.ndarray,
        seed: int,
    ) -> None:
        self.constants, self.weights, self.feedback, self.dtype = constants, weights, feedback, weights.dtype
        self.net = Layout.of(sizes)
        self.depth = len(sizes) - 1
        self._c = Constants.of(constants, self.dtype)
        self.generator = np.random.default_rng(seed)

    def _scales(self, etas: Sequence[float]) -> np.ndarray:
        """``η P`` of each layer; at index 0 whether anything is to change."""
        c, scales = self.constants, np.zeros(self.depth + 1, self.dtype)
        scales[0] = any(etas)
        scales[1:] = [eta * (c.P_hidden if l < self.depth else c.P_out) for l, eta in enumerate(etas, 1)]
        return scales

    def _noise(self, n: int) -> np.ndarray:
        """Noise of symmetric feedback for ``n`` examples, flat, from the last hidden layer down."""
        size = int(self.net.n[1:-1].sum() * self.net.n[-1]) if self.constants.feedback_noise else 0
        return self.constants.feedback_noise * self.generator.standard_normal((n, size))

    def _rows(self, n: int, traces: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Room for ``voltage`` and ``loss`` of ``n`` examples, and for ``E``, ``psp`` and ``soma``."""
        shape = (3, n, self.net.units) if traces else (3, 0, 0)
        return np.empty((n, self.net.n[-1]), self.dtype), np.empty(n), np.empty(shape, self.dtype)

    def _result(self, voltage: np.ndarray, loss: np.ndarray, traces: np.ndarray) -> Result:
        if not (np.isfinite(loss).all() and np.isfinite(voltage).all() and math.isfinite(self.weights.sum())):
            raise FloatingPointError("a weight or voltage is not finite: training has diverged, lower eta")

        def by_layer(flat: np.ndarray, layers: range) -> list[np.ndarray]:
            parts = [(self.net.unit[l], self.net.unit[l] + self.net.n[l]) for l in layers]
            return [flat[:, a:b] for a, b in parts] if len(flat) else []

        E, psp, soma = traces
        own, below = range(1, self.depth + 1), range(self.depth)
        return Result(voltage, loss, by_layer(E, own), by_layer(psp, below), by_layer(soma, own))

    def _new_work(self, steps: int) -> Work:
        units, out, most = self.net.units, int(self.net.m[-1]), int(self.net.n.max()) + 1
        memory, latest = self.constants.spike_memory, self.constants.steps(self.constants.plateau_max)

        def zeros(*shape: int) -> np.ndarray:
            return np.zeros(shape, self.dtype)

        return Work(
            V=zeros(units), sums=zeros(2 * units), current=zeros((memory + 1) * units), drive=zeros(units),
            out_L=zeros(out), out_s=zeros(out), mean_V=zeros(units), psp=zeros(units), alpha=zeros(2, units),
            apical=zeros(units), E=zeros(units), seen=zeros(steps + 1, out), output=zeros(steps + 1, out),
            hidden=zeros(steps + 1, int(self.net.row[1:-1].max(initial=VECTOR))),
            mean_seen=zeros(latest + 1, out),
            who=np.zeros(most, np.int32), factor=zeros(most), path=zeros(2, out, int(self.net.m.max())),
        )
