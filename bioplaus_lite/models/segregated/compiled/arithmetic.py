"""Loops over one vector: the logistic function, leaky sums, sums and selections. The compiler vectorises them."""

from __future__ import annotations

import numpy as np
from numba.core import types
from numba.extending import intrinsic

from bioplaus_lite.models.segregated.compiled.compiler import jit


def _reinterpreter(source, target):
    """A function that takes the bits of a ``source`` number for those of a ``target`` number."""

    @intrinsic
    def reinterpret(typing_context, value):
        def codegen(context, builder, signature, args):
            return builder.bitcast(args[0], context.get_value_type(target))

        return target(source), codegen

    return reinterpret


float64_of = _reinterpreter(types.int64, types.float64)
float32_of = _reinterpreter(types.int32, types.float32)
int32_of = _reinterpreter(types.float32, types.int32)


@jit
def sigmoid(v, out):
    r""":math:`\sigma(v)` to the precision of float64, in a loop that the compiler can vectorise.

    ``exp(-v) = 2^k exp(r)``, ``|r| ≤ ½ ln 2``, with the Taylor series of ``exp(r)``; ``2^k`` is put together as bits.
    """
    for i in range(len(v)):
        y = min(max(-np.float64(v[i]), -700.0), 700.0)
        k = np.floor(y * 1.4426950408889634 + 0.5)
        r = (y - k * 0.693147180369123816490) - k * 1.90821492927058770002e-10
        two_to_k = float64_of((np.int64(k) + 1023) << 52)
        e = 1.0 / 6227020800 * r + 1.0 / 479001600
        e = e * r + 1.0 / 39916800
        e = e * r + 1.0 / 3628800
        e = e * r + 1.0 / 362880
        e = e * r + 1.0 / 40320
        e = e * r + 1.0 / 5040
        e = e * r + 1.0 / 720
        e = e * r + 1.0 / 120
        e = e * r + 1.0 / 24
        e = e * r + 1.0 / 6
        e = e * r + 0.5
        e = e * r + 1.0
        e = e * r + 1.0
        out[i] = 1.0 / (1.0 + e * two_to_k)


@jit
def filter_currents(c, now, sum_L, sum_s):
    """One step of the two leaky sums."""
    for j in range(len(now)):
        sum_L[j] = c.a_L * (sum_L[j] + now[j])
        sum_s[j] = c.a_s * (sum_s[j] + now[j])


@jit
def filter_spikes(c, now, gone, sum_L, sum_s):
    """One step of the leaky sums of spikes, given as the neurons that fired and those whose spike is forgotten."""
    for i in range(len(sum_L)):
        sum_L[i] *= c.a_L
        sum_s[i] *= c.a_s
    for i in now:
        sum_L[i] += c.a_L
        sum_s[i] += c.a_s
    for i in gone:
        sum_L[i] -= c.end_L
        sum_s[i] -= c.end_s


@jit
def copy_to(old, new):
    for i in range(len(old)):  # an assignment would do, at two seconds of compilation
        new[i] = old[i]


@jit
def add_scaled(row, factor, out):
    for j in range(len(out)):
        out[j] += factor * row[j]


@jit
def select_nonzero(values, scale, who, factor):
    """Where ``values`` are not zero, and ``scale`` times what they are there; returns how many. Without a branch."""
    count = np.uint64(0)  # unsigned: an index that cannot be negative needs no check
    for i in range(len(values)):
        who[count] = i
        factor[count] = scale * values[i]
        count += np.uint64(values[i] != 0)
    return np.int64(count)


@jit
def keep_below(who, logit, V, kept):
    """Write to ``kept`` those candidates whose logit is below the voltage; return how many. Without a branch."""
    count = np.uint64(0)
    for i in range(len(who)):
        j = np.uint64(who[i])
        kept[count] = who[i]
        count += np.uint64(V[j] > logit[i])
    return np.int64(count)
