"""Random draws of a block of examples, ahead of time and in bulk.

Poisson spikes by thinning: candidates at the highest rate, each kept with probability ``σ(V)``. A uniform ``U`` is
below ``σ(V)`` where its logit is below ``V``, so candidates are drawn with their logits, and the decision is one
comparison. What is drawn depends on no weight: a second thread can draw the next examples while this one is
simulated, and the result is the same to the last bit.
"""

from __future__ import annotations

import math

import numpy as np

from bioplaus_lite.models.segregated.compiled.arithmetic import float32_of, int32_of
from bioplaus_lite.models.segregated.compiled.compiler import jit


@jit
def _bits(key, counter):
    """64 random bits at a place of the stream ``key``: SplitMix64, which needs no state and hence fills in parallel."""
    z = np.uint64(key) + np.uint64(counter) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


@jit
def fill_uniform(key, counter, n_units, who, low):
    """Draw a neuron in ``0 … n_units-1`` and 32 independent bits for each place."""
    units = np.uint64(n_units)
    for i in range(len(who)):
        z = _bits(key, counter + np.uint64(i))
        who[i] = np.int32(((z >> np.uint64(32)) * units) >> np.uint64(32))
        low[i] = np.uint32(z & np.uint64(0xFFFFFFFF))


@jit
def to_logits(low, logit):
    r"""Turn 32 random bits into a logistic variable, :math:`\log(U / (1-U))`, to about 1e-6.

    The logarithm: ``u = 2^k m`` with ``m`` within √½ … √2 read from the bits of the float, then the usual series
    in ``(m-1)/(m+1)``.
    """
    half, one = np.float32(0.5), np.float32(1)
    for i in range(len(low)):
        u = low[i]
        bits = int32_of((np.float32(u) + half) / (np.float32(~u) + half))
        k = np.int32((bits - np.int32(0x3F3504F3)) >> np.int32(23))
        m = float32_of(np.int32(bits - (k << np.int32(23))))
        s = (m - one) / (m + one)
        z = s * s
        series = one + z * (np.float32(1 / 3) + z * (np.float32(0.2) + z * (np.float32(1 / 7) + z * np.float32(1 / 9))))
        logit[i] = np.float32(k) * np.float32(0.6931471805599453) + np.float32(2) * s * series


@jit
def poisson_table(mean, table):
    """Fill ``table`` with ``P(N ≤ first + k)`` in units of 2⁻³²; return ``first`` and how many entries count.

    From 7 standard deviations and 12 below the mean to as far above: the rest is too small to be seen in these units.
    """
    reach = 7 * math.sqrt(mean) + 12
    first = max(0, int(mean - reach))
    length = min(int(mean + reach) - first + 1, len(table))
    p = math.exp(first * math.log(mean) - mean - math.lgamma(first + 1.0))
    total = 0.0
    for k in range(length):
        total += p
        table[k] = np.uint32(min(total * 4294967296.0, 4294967295.0))
        p *= mean / (first + k + 1)
    return first, length


@jit
def draw_counts(key, counter, first, table, length, until):
    """Draw a Poisson count for each step; ``until[t]`` becomes the number of events before step ``t``."""
    until[0] = 0
    for t in range(len(until) - 1):
        u = np.uint32(_bits(key, counter + np.uint64(t)) >> np.uint64(32))
        above = np.int32(0)
        for k in range(length - 1):  # a count beyond the last entry is never drawn
            above += np.int32(u >= table[k])
        until[t + 1] = until[t] + first + above


@jit
def draw_example(key, counter, x, n, candidate_rate, tables, firsts, lengths, steps, draws, k):
    """Draw the input spikes and all candidates of example ``k`` of the block; return the next free place."""
    scratch, logit = draws.scratch, draws.logit[k]
    # Input: candidates among the pixels that are not dark, each kept with probability x.
    lit = draws.who[k, draws.start[1] :]  # free until the next layer is drawn
    n_lit = 0
    for i in range(len(x)):
        lit[n_lit] = i
        n_lit += x[i] > 0
    until = draws.until[k, 0, : steps + 1]
    who = draws.who[k, : draws.start[1]]
    if n_lit == 0:
        until[:] = 0
    else:
        first, length = poisson_table(candidate_rate * n_lit, tables[0])
        draw_counts(key, counter, first, tables[0], length, until)
        counter += np.uint64(steps)
        low = scratch[: until[steps]].view(np.uint32)
        fill_uniform(key, counter, n_lit, who[: until[steps]], low)
        counter += np.uint64(until[steps])
        kept, begin = 0, 0
        for t in range(steps):
            end = until[t + 1]
            for i in range(begin, end):
                pixel = lit[who[i]]
                who[kept] = pixel
                kept += np.float32(low[i] >> np.uint32(8)) * np.float32(2.0**-24) < x[pixel]
            begin = end
            until[t + 1] = kept
    for layer in range(1, len(n)):
        until = draws.until[k, layer, : steps + 1]
        draw_counts(key, counter, firsts[layer], tables[layer], lengths[layer], until)
        counter += np.uint64(steps)
        a = draws.start[layer]
        b = a + until[steps]
        low = scratch[: until[steps]].view(np.uint32)
        fill_uniform(key, counter, n[layer], draws.who[k, a:b], low)
        counter += np.uint64(until[steps])
        to_logits(low, logit[a:b])
    return counter


@jit
def draw_block(key, counter, x, n, candidate_rate, tables, firsts, lengths, steps, draws):
    """:func:`draw_example` for the examples ``x``, one after another."""
    for k in range(len(x)):
        counter = draw_example(key, counter, x[k], n, candidate_rate, tables, firsts, lengths, steps[k], draws, k)
    return counter
