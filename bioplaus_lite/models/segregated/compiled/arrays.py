"""Where everything lies: the flat arrays of weights, draws, spikes and working memory, and the views of one layer.

Layers are padded to 16 units or to multiples of 64, so that inner loops have no remainder. The padding stays zero.
Rows of weights lie an odd number of cache lines apart: at a power of two they would all compete for the same few
places of the cache, which costs a quarter of the time of adding them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from bioplaus_lite.models.segregated.compiled.compiler import jit

VECTOR, WIDE = 16, 64  # units that are handled at once


class Layout(NamedTuple):
    """Where each layer's numbers lie in the flat arrays. All int64; index 0 is the input layer."""

    n: np.ndarray  # units
    m: np.ndarray  # units, padded
    row: np.ndarray  # from one row of weights to the next
    unit: np.ndarray  # start of a layer in a vector over all units, which gives each ``row`` places
    W: np.ndarray  # start of Wᵀ, n[l-1] rows of m[l] columns, in ``weights``
    b: np.ndarray  # start of b, m[l] numbers, in ``weights``
    Y: np.ndarray  # start of Yᵀ, n[L] rows of m[l] columns, in ``feedback``

    @classmethod
    def of(cls, sizes: Sequence[int]) -> Layout:
        n = np.array(sizes, dtype=np.int64)
        m = np.where(n <= VECTOR, VECTOR, -(-n // WIDE) * WIDE)
        row = m + VECTOR * (m >= WIDE)
        weights = np.concatenate([[0], n[:-1] * row[1:]])
        b = int(weights.sum()) + np.concatenate([[0, 0], np.cumsum(m[1:])[:-1]])
        Y = np.concatenate([[0, 0], np.cumsum(n[-1] * row[1:-1])])[: len(n)]
        return cls(n, m, row, np.cumsum(row) - row, np.cumsum(weights) - weights, b, Y)

    @property
    def units(self) -> int:
        """Length of a vector over all units."""
        return int(self.row.sum())

    @property
    def weight_size(self) -> int:
        return int(self.b[-1] + self.m[-1])

    @property
    def feedback_size(self) -> int:
        return int(self.n[-1] * self.row[1:-1].sum())


class Draws(NamedTuple):
    """Random draws of a block of examples; independent of the weights.

    For the input layer the spikes themselves; for the others candidates, to be kept where ``V`` exceeds ``logit``.
    """

    start: np.ndarray  # int64 (L+1,): start of a layer in the second axis of ``who`` and ``logit``
    until: np.ndarray  # int32 (block, L+1, steps+1): how many draws of a layer come before each step
    who: np.ndarray  # int32 (block, capacity): the neuron
    logit: np.ndarray  # float32 (block, capacity)
    scratch: np.ndarray  # float32 (capacity,)


class Spikes(NamedTuple):
    """Spikes of the example being simulated, after those still in memory from the last one."""

    start: np.ndarray  # int64 (L+1,): start of a layer in ``who``
    until: np.ndarray  # int32 (L+1, memory+steps+1): how many spikes of a layer come before each step
    who: np.ndarray  # int32: the neurons, in the order of the steps
    steps: np.ndarray  # int64 (1,): steps of the last example


class Work(NamedTuple):
    """State and working memory. ``unit`` vectors run over all units of all layers."""

    V: np.ndarray  # unit: somatic voltages; the rest of the state is in Spikes and in the output's leaky sums
    sums: np.ndarray  # a block (2, row) a layer: leaky sums of the input currents
    current: np.ndarray  # a block (memory+1, row) a layer, as a ring: unfiltered input currents of the last steps
    drive: np.ndarray  # unit: what moves the soma in a step besides the dendrite: teaching input, apical dendrite
    out_L: np.ndarray  # (m_L,): leaky sums of the output's own spikes
    out_s: np.ndarray
    mean_V: np.ndarray  # unit: mean over the forward window
    psp: np.ndarray  # unit: mean postsynaptic potential over the forward window
    alpha: np.ndarray  # 2 × unit: plateau potentials
    apical: np.ndarray  # unit: mean apical voltage before the forward plateau
    E: np.ndarray  # unit
    seen: np.ndarray  # (steps+1, m_L): what the apical dendrites receive in each step
    hidden: np.ndarray  # (steps+1, largest row): somatic voltages of the hidden layer at work, before each step
    output: np.ndarray  # (steps+1, m_L): those of the output
    mean_seen: np.ndarray  # (plateau times, m_L)
    who: np.ndarray  # int32: some neurons of a layer …
    factor: np.ndarray  # … and a number for each
    path: np.ndarray  # two blocks for products of weights, if feedback is symmetric


@jit
def weights_of(net, weights, layer):
    rows, row = net.n[layer - 1], net.row[layer]
    W = weights[net.W[layer] : net.W[layer] + rows * row].reshape(rows, row)
    return W, weights[net.b[layer] : net.b[layer] + net.m[layer]]


@jit
def feedback_of(net, feedback, layer):
    rows, row = net.n[-1], net.row[layer]
    return feedback[net.Y[layer] : net.Y[layer] + rows * row].reshape(rows, row)


@jit
def memory_of(net, c, work, layer):
    """Ring of input currents, ``(memory+1, row)``, and leaky sums, ``(2, row)``, of a layer."""
    u, row, steps = net.unit[layer], net.row[layer], len(c.kernel) + 1
    ring = work.current[u * steps : (u + row) * steps].reshape(steps, row)
    return ring, work.sums[2 * u : 2 * (u + row)].reshape(2, row)


@jit
def fired_in(spikes, layer, step):
    a = spikes.start[layer]
    return spikes.who[a + spikes.until[layer, step] : a + spikes.until[layer, step + 1]]
