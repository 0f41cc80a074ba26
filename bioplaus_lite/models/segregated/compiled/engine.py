"""The engine with spikes, as a session calls it: memory, random streams, threads."""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from bioplaus_lite.models.segregated.compiled.arrays import Draws, Spikes
from bioplaus_lite.models.segregated.compiled.blocks import clear, test_images, train_block
from bioplaus_lite.models.segregated.compiled.draws import draw_block, poisson_table
from bioplaus_lite.models.segregated.compiled.flat import FlatWeights, compiling_is_announced
from bioplaus_lite.models.segregated.parameters import SegregatedParameters
from bioplaus_lite.models.segregated.simulation import Result, State, window_of_test

__all__ = ["Engine"]


def _key(seed: int) -> np.uint64:
    return np.random.SeedSequence(seed).generate_state(1, np.uint64)[0]


class Engine(FlatWeights):
    """Trains and tests flat weights in place, with spikes.

    Args:
        sizes: units of each layer.
        constants: of the model; spiking.
        weights, feedback: flat arrays arranged as ``Layout`` says; changed in place.
        seed: of the spikes, phase lengths, plateau times and noise.
        threads: 2 lets a second thread draw ahead, and shares tests among both. Results do not depend on it.

    Raises:
        ValueError: the constants are those of a rate mode, or ``threads`` is not positive.
    """

    BLOCK = 8  # examples whose random draws are made at once

    def __init__(
        self, sizes: Sequence[int], constants: SegregatedParameters, weights: np.ndarray, feedback: np.ndarray, *,
        seed: int = 0, threads: int = 1,
    ) -> None:
        if constants.mode != "spiking":
            raise ValueError(f"this engine simulates spikes; the mode of the constants is {constants.mode!r}")
        if isinstance(threads, bool) or not isinstance(threads, int) or threads < 1:
            raise ValueError(f"threads must be a positive whole number, not {threads!r}")
        super().__init__(sizes, constants, weights, feedback, seed)
        self.threads = threads
        self.key, self.counter = _key(seed), np.uint64(0)
        self._set_tables()
        self._capacity = 0
        self._work = self._new_work(1)
        self._spikes = self._new_spikes(0)
        self._grow(constants.steps(constants.phase) * 2 + 64)

    # ---------------------------------------------------------------------------------------------- memory

    def _set_tables(self) -> None:
        means = self.constants.phi_max * self.constants.dt * self.net.n
        size = int(2 * (12 * math.sqrt(means.max()) + 14)) + 2
        self._rate = self.constants.phi_max * self.constants.dt
        self._tables = np.zeros((self.depth + 1, size), np.uint32)
        self._firsts, self._lengths = (np.zeros(self.depth + 1, np.int64) for _ in range(2))
        for layer, mean in enumerate(means):
            self._firsts[layer], self._lengths[layer] = poisson_table(float(mean), self._tables[layer])
        # A step never has more events than this.
        self._most = np.array([int(m + 12 * math.sqrt(m) + 13) for m in means])

    def _starts(self, steps: int) -> np.ndarray:
        room = np.maximum(self._most * steps + 8, self.net.n[0] + 8)
        return np.concatenate([[0], np.cumsum(room)])

    def _new_draws(self, block: int, steps: int) -> Draws:
        starts = self._starts(steps)
        return Draws(
            starts[:-1].copy(), np.zeros((block, self.depth + 1, steps + 1), np.int32),
            np.zeros((block, starts[-1]), np.int32), np.zeros((block, starts[-1]), np.float32),
            np.zeros(int(np.diff(starts).max()), np.float32),
        )

    def _new_spikes(self, steps: int) -> Spikes:
        memory = self.constants.spike_memory
        starts = self._starts(steps + memory)
        return Spikes(
            starts[:-1].copy(), np.zeros((self.depth + 1, memory + steps + 1), np.int32),
            np.zeros(starts[-1], np.int32), np.zeros(1, np.int64),
        )

    def _grow(self, steps: int) -> None:
        """Make room for examples of up to ``steps`` steps. State and memory of spikes stay."""
        if steps <= self._capacity:
            return
        steps += steps // 4
        old, new = self._spikes, self._new_spikes(steps)
        new.until[:, : old.until.shape[1]] = old.until
        new.steps[0] = old.steps[0]
        for layer in range(self.depth + 1):
            count = old.until[layer, self.constants.spike_memory + old.steps[0]]
            new.who[new.start[layer] :][:count] = old.who[old.start[layer] :][:count]
        self._spikes = new
        fresh = self._new_work(steps)
        self._work = self._work._replace(seen=fresh.seen, hidden=fresh.hidden, output=fresh.output)
        self._draws = [self._new_draws(self.BLOCK, steps) for _ in range(min(self.threads, 2))]
        self._capacity = steps

    # ----------------------------------------------------------------------------------------------- state

    def spikes(self) -> list[np.ndarray]:
        """Spike counts of the last training example, layers 0 … L, each ``(steps, n_l)``."""
        return self._counts(self.constants.spike_memory, int(self._spikes.steps[0]))

    def _counts(self, begin: int, steps: int) -> list[np.ndarray]:
        s, counts = self._spikes, []
        for layer in range(self.depth + 1):
            of_layer = np.zeros((steps, self.net.n[layer]), np.int64)
            for t in range(steps):
                a, b = s.start[layer] + s.until[layer, begin + t : begin + t + 2]
                np.add.at(of_layer[t], s.who[a:b], 1)
            counts.append(of_layer)
        return counts

    @property
    def state(self) -> State:
        """A copy of what carries over, in the form of the readable simulation."""
        soma = [self._work.V[u : u + n].astype(np.float64) for u, n in zip(self.net.unit, self.net.n, strict=True)]
        counts = self._counts(int(self._spikes.steps[0]), self.constants.spike_memory)
        return State(soma[1:], [c.astype(np.float64) for c in counts])

    @state.setter
    def state(self, state: State) -> None:
        w, s, c = self._work, self._spikes, self._c
        clear(s, w)
        for layer, (u, n) in enumerate(zip(self.net.unit, self.net.n, strict=True)):
            if layer:
                w.V[u : u + n] = state.soma[layer - 1]
            counts = state.spikes[layer].astype(np.int64)
            who = [np.repeat(np.arange(n), of_step) for of_step in counts]
            s.until[layer, 1 : len(who) + 1] = np.cumsum([len(i) for i in who])
            s.who[s.start[layer] :][: int(counts.sum())] = np.concatenate(who)
        for step in state.spikes[-1]:
            for sums, decay in ((w.out_L, c.a_L), (w.out_s, c.a_s)):
                sums[: self.net.n[-1]] = decay * (sums[: self.net.n[-1]] + step)

    def reset(self) -> None:
        """Put the network at rest, with no spikes in memory."""
        clear(self._spikes, self._work)

    def snapshot(self) -> dict:
        """What ``restore`` takes back, weights apart: state, place in the random stream, generator."""
        s, last = self._spikes, int(self._spikes.steps[0])
        until = s.until[:, last : last + self.constants.spike_memory + 1]
        return {
            "generator": self.generator.bit_generator.state, "counter": int(self.counter),
            **{name: getattr(self._work, name).copy() for name in ("V", "out_L", "out_s")},
            "until": until - until[:, :1],
            "who": [s.who[a + u[0] : a + u[-1]].copy() for a, u in zip(s.start, until, strict=True)],
        }

    def restore(self, snapshot: dict) -> None:
        self.generator.bit_generator.state = snapshot["generator"]
        self.counter = np.uint64(snapshot["counter"])
        self._spikes.steps[0] = 0
        self._spikes.until[:, : len(snapshot["until"][0])] = snapshot["until"]
        for a, who in zip(self._spikes.start, snapshot["who"], strict=True):
            self._spikes.who[a : a + len(who)] = who
        for name in ("V", "out_L", "out_s"):
            getattr(self._work, name)[:] = snapshot[name]

    # ------------------------------------------------------------------------------------------ train and test

    def train(
        self, x: np.ndarray, labels: np.ndarray, etas: Sequence[float], *, lengths: np.ndarray | None = None,
        plateaus: np.ndarray | None = None, noise: np.ndarray | None = None, traces: bool = False,
    ) -> Result:
        """Show examples, one after another. All zero ``etas`` show them without a change.

        Args:
            x: ``(N, n_0)`` in [0, 1].
            labels: ``(N,)``.
            etas: learning rates of the layers 1 … L.
            lengths, plateaus, noise: as for ``Simulation.example``, with a leading axis of examples; noise flat.
            traces: whether to return ``E``, ``psp`` and ``soma``.

        Raises:
            FloatingPointError: the weights have diverged.
        """
        c, n = self.constants, len(x)
        x, labels = np.ascontiguousarray(x, np.float32), np.ascontiguousarray(labels, np.int64)
        hidden = int(self.net.n[1:-1].sum())
        lengths = c.draw_lengths(n, self.generator) if lengths is None else np.asarray(lengths, np.int64)
        if plateaus is None:
            if c.plateau_sd:
                plateaus = c.draw_plateaus(n, hidden, self.generator)
            else:  # all at the end; a table of zeros only where it is read neuron by neuron
                plateaus = np.zeros((n, 2, hidden if c.feedback == "learned" else 0), np.int64)
        noise = self._noise(n) if noise is None else noise
        scales, total = self._scales(etas), lengths.sum(1)
        self._grow(int(total.max(initial=0)))
        rows = voltage, losses, traced = self._rows(n, traces)

        def draw(begin: int, buffer: Draws) -> None:
            part = slice(begin, begin + self.BLOCK)
            place = draw_block(
                self.key, self.counter, x[part], self.net.n, self._rate, self._tables, self._firsts, self._lengths,
                total[part], buffer,
            )
            self.counter = np.uint64(place)  # a plain int would turn 64-bit arithmetic into floating point

        def show(begin: int, buffer: Draws) -> None:
            p = slice(begin, begin + self.BLOCK)
            train_block(
                self.net, self._c, self.weights, self.feedback, buffer, self._spikes, self._work, lengths[p],
                labels[p], plateaus[p], noise[p], c.window, scales, voltage[p], losses[p], traced[:, p],
            )

        with compiling_is_announced():
            if self.threads == 1:
                for begin in range(0, n, self.BLOCK):
                    draw(begin, self._draws[0])
                    show(begin, self._draws[0])
            else:
                with ThreadPoolExecutor(1) as ahead:
                    draw(0, self._draws[0])
                    for i, begin in enumerate(range(0, n, self.BLOCK)):
                        nxt = begin + self.BLOCK
                        drawing = ahead.submit(draw, nxt, self._draws[(i + 1) % 2]) if nxt < n else None
                        show(begin, self._draws[i % 2])
                        if drawing:
                            drawing.result()
        return self._result(*rows)

    def test(self, x: np.ndarray, duration: float | None = None, *, seed: int = 0) -> np.ndarray:
        """Mean output voltage of each image, ``(N, n_L)``, each from rest, whatever the training state.

        Args:
            x: ``(N, n_0)`` in [0, 1].
            duration: ms; ``test_phase`` if not given.
            seed: of the spikes. The spikes of an image depend on its place in ``x`` and on nothing else.
        """
        window = window_of_test(self.constants, duration)
        steps = window + self.constants.steps(self.constants.settle)
        x = np.ascontiguousarray(x, np.float32)
        voltage = np.empty((len(x), self.net.n[-1]), self.dtype)
        parts = np.array_split(np.arange(len(x)), self.threads)

        def run(part: np.ndarray) -> None:
            if len(part) == 0:
                return
            rows = slice(part[0], part[-1] + 1)
            # Tables of its own: the one of the input is filled anew for each image.
            test_images(
                _key(seed), x[rows], part[0], self.net.n, self._rate, self._tables.copy(), self._firsts, self._lengths,
                self.net, self._c, self.weights, self.feedback, self._new_draws(1, steps), self._new_spikes(steps),
                self._new_work(steps), steps, window, voltage[rows],
            )

        with compiling_is_announced():
            if self.threads == 1:
                run(parts[0])
            else:
                with ThreadPoolExecutor(self.threads) as pool:
                    list(pool.map(run, parts))
        return voltage
