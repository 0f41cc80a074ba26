"""The same model, compiled: event-driven, online, one example at a time.

What makes it quick, against :mod:`simulation`, which is the reference for what it computes:

- Only spikes cost anything. A step adds the rows of a contiguous ``Wᵀ`` that belong to the neurons that fired;
  the response kernel is linear, so it filters the sums. It is a difference of two exponentials, hence
  two leaky sums, from which a spike's last trace is taken off when its memory ends.
- Poisson spikes by thinning: candidates at the highest rate, each kept with probability ``σ(V)``. A uniform ``U`` is
  below ``σ(V)`` where its logit is below ``V``, so candidates are drawn with their logits, ahead of time and
  in bulk, and the decision is one comparison. What is drawn depends on no weight: a second thread can draw the
  next examples while this one is simulated, and the result is the same to the last bit.
- Means over a window are linear in the spikes, so ``mean PSP`` is a weighted count of them, and only inputs that
  fired in the window change their weights.

Layers are padded to 16 units or to multiples of 128, so that inner loops have no remainder. The padding stays zero.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numba
import numpy as np
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from bioplaus_lite.rules.segregated.parameters import SegregatedParameters

__all__ = ["Constants", "Draws", "Layout", "Spikes", "Work", "draw_block", "test_images", "train_block", "train_rates"]

VECTOR, WIDE = 16, 128  # units that are handled at once
jit = numba.njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract"})
# Sums in any order: only where the readable simulation, too, leaves the order to the linear algebra library.
jit_any_order = numba.njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract", "reassoc"})


# ---------------------------------------------------------------------------------------------------- arrangement


class Layout(NamedTuple):
    """Where each layer's numbers lie in the flat arrays. All int64; index 0 is the input layer."""

    n: np.ndarray  # units
    m: np.ndarray  # units, padded
    unit: np.ndarray  # start of a layer in a vector over all units
    W: np.ndarray  # start of Wᵀ, rows n[l-1], columns m[l], in ``weights``
    b: np.ndarray  # start of b, m[l] numbers, in ``weights``
    Y: np.ndarray  # start of Yᵀ, rows n[L], columns m[l], in ``feedback``

    @classmethod
    def of(cls, sizes: Sequence[int]) -> Layout:
        n = np.array(sizes, dtype=np.int64)
        m = np.where(n <= VECTOR, VECTOR, -(-n // WIDE) * WIDE)
        weights = np.concatenate([[0], n[:-1] * m[1:]])
        b = int(weights.sum()) + np.concatenate([[0, 0], np.cumsum(m[1:])[:-1]])
        Y = np.concatenate([[0, 0], np.cumsum(n[-1] * m[1:-1])])[: len(n)]
        return cls(n, m, np.cumsum(m) - m, np.cumsum(weights) - weights, b, Y)

    @property
    def weight_size(self) -> int:
        return int(self.b[-1] + self.m[-1])

    @property
    def feedback_size(self) -> int:
        return int(self.n[-1] * self.m[1:-1].sum())


class Constants(NamedTuple):
    """The model's constants as the loops need them; numbers in the dtype of the weights.

    A soma takes ``V ← keep·V + dendrite·B + drive`` in every step, whether it integrates or sits at the steady state.
    """

    a_L: np.floating  # decay of the two leaky sums in a step
    a_s: np.floating
    end_L: np.floating  # what is left of a spike when its memory ends
    end_s: np.floating
    kernel_scale: np.floating
    keep: np.ndarray  # (3,): hidden, output in the forward phase, output in the target phase
    dendrite: np.ndarray  # (3,)
    apical: np.floating
    drive_E: np.floating
    drive_I: np.floating
    one: np.floating
    kernel: np.ndarray  # (memory,), float64
    psp_scale: np.floating
    phi_max: float
    k_b: float
    k_d: float
    P_hidden: float
    P_out: float
    eta_feedback: float
    share: float
    symmetric: bool
    learned: bool
    spiking_feedback: bool

    @classmethod
    def of(cls, c: SegregatedParameters, dtype: np.dtype) -> Constants:
        hidden, forward = c.g_l + c.g_b + c.g_a, c.g_l + c.g_d
        totals = np.array([hidden, forward, forward + c.g_teach])
        g = np.array([c.g_b, c.g_d, c.g_d])
        if c.voltages == "ode":
            keep, per_g, per_g_hidden, per_g_teach = 1 - c.dt * totals, np.full(3, c.dt), c.dt, c.dt
        else:
            keep, per_g, per_g_hidden, per_g_teach = np.zeros(3), 1 / totals, 1 / hidden, 1 / totals[2]
        number = dtype.type
        a_L, a_s = math.exp(-c.dt / c.tau_L), math.exp(-c.dt / c.tau_s)
        return cls(
            a_L=number(a_L), a_s=number(a_s), end_L=number(a_L ** (c.spike_memory + 1)),
            end_s=number(a_s ** (c.spike_memory + 1)), kernel_scale=number(1 / (c.tau_L - c.tau_s)),
            keep=keep.astype(dtype), dendrite=(per_g * g).astype(dtype), apical=number(per_g_hidden * c.g_a),
            drive_E=number(per_g_teach * c.g_teach * c.E_E), drive_I=number(per_g_teach * c.g_teach * c.E_I),
            one=number(1), psp_scale=number(c.psp_gain * c.phi_max), kernel=c.kernel, phi_max=c.phi_max, k_b=c.k_b,
            k_d=c.k_d, P_hidden=c.P_hidden, P_out=c.P_out, eta_feedback=c.eta_feedback, share=c.feedback_share,
            symmetric=c.feedback == "symmetric", learned=c.feedback == "learned", spiking_feedback=c.spiking_feedback,
        )


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
    sum_L: np.ndarray  # unit: leaky sums of the input currents
    sum_s: np.ndarray
    current: np.ndarray  # a block (memory+1, m_l) a layer, as a ring: unfiltered input currents of the last steps
    out_L: np.ndarray  # (m_L,): leaky sums of the output's own spikes
    out_s: np.ndarray
    mean_V: np.ndarray  # unit: mean over the forward window
    psp: np.ndarray  # unit: mean postsynaptic potential over the forward window
    alpha: np.ndarray  # 2 × unit: plateau potentials
    apical: np.ndarray  # unit: mean apical voltage before the forward plateau
    E: np.ndarray  # unit
    seen: np.ndarray  # (steps+1, m_L): what the apical dendrites receive in each step
    output: np.ndarray  # (steps, m_L): somatic voltages of the output
    mean_seen: np.ndarray  # (plateau times, m_L)
    who: np.ndarray  # int32: some neurons of a layer
    path: np.ndarray  # two blocks for products of weights, if feedback is symmetric


# --------------------------------------------------------------------------------------------------- random numbers


@jit
def _bits(key, counter):
    """64 random bits at a place of the stream ``key``: SplitMix64, which needs no state and hence fills in parallel."""
    z = np.uint64(key) + np.uint64(counter) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


@jit
def _fill(key, counter, n_units, who, low):
    """Draw a neuron in ``0 … n_units-1`` and 32 independent bits for each place."""
    units = np.uint64(n_units)
    for i in range(len(who)):
        z = _bits(key, counter + np.uint64(i))
        who[i] = np.int32(((z >> np.uint64(32)) * units) >> np.uint64(32))
        low[i] = np.uint32(z & np.uint64(0xFFFFFFFF))


@jit
def _logits(low, logit):
    r"""Turn 32 random bits into a logistic variable, :math:`\log(U / (1-U))`, to about 1e-6.

    The logarithm: ``u = 2^k m`` with ``m`` within √½ … √2 read from the bits of the float, then the usual series
    in ``(m-1)/(m+1)``.
    """
    bits = logit.view(np.int32)
    half, one = np.float32(0.5), np.float32(1)
    for i in range(len(low)):
        u = low[i]
        logit[i] = (np.float32(u) + half) / (np.float32(~u) + half)
    for i in range(len(low)):
        k = (bits[i] - np.int32(0x3F3504F3)) >> np.int32(23)
        low[i] = np.uint32(k)
        bits[i] = bits[i] - (k << np.int32(23))
    for i in range(len(low)):
        m = logit[i]
        s = (m - one) / (m + one)
        z = s * s
        series = one + z * (np.float32(1 / 3) + z * (np.float32(0.2) + z * (np.float32(1 / 7) + z * np.float32(1 / 9))))
        logit[i] = np.float32(np.int32(low[i])) * np.float32(0.6931471805599453) + np.float32(2) * s * series


@jit
def poisson_table(mean, table):
    """Fill ``table`` with ``P(N ≤ first + k)`` in units of 2⁻³²; return ``first`` and how many entries count.

    From 12 standard deviations below the mean to as far above, where the rest is below 1e-20.
    """
    reach = 12 * math.sqrt(mean) + 12
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
def _counts(key, counter, first, table, length, until):
    """Draw a Poisson count for each step; ``until[t]`` becomes the number of events before step ``t``."""
    until[0] = 0
    for t in range(len(until) - 1):
        u = np.uint32(_bits(key, counter + np.uint64(t)) >> np.uint64(32))
        above = np.int32(0)
        for k in range(length - 1):  # a count beyond the last entry is never drawn
            above += np.int32(u >= table[k])
        until[t + 1] = until[t] + first + above


@jit
def _draw(key, counter, x, n, candidate_rate, tables, firsts, lengths, steps, draws, k):
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
        _counts(key, counter, first, tables[0], length, until)
        counter += np.uint64(steps)
        low = scratch[: until[steps]].view(np.uint32)
        _fill(key, counter, n_lit, who[: until[steps]], low)
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
        _counts(key, counter, firsts[layer], tables[layer], lengths[layer], until)
        counter += np.uint64(steps)
        a = draws.start[layer]
        b = a + until[steps]
        low = scratch[: until[steps]].view(np.uint32)
        _fill(key, counter, n[layer], draws.who[k, a:b], low)
        counter += np.uint64(until[steps])
        _logits(low, logit[a:b])
    return counter


@jit
def draw_block(key, counter, x, n, candidate_rate, tables, firsts, lengths, steps, draws):
    """:func:`_draw` for the examples ``x``, one after another."""
    for k in range(len(x)):
        counter = _draw(key, counter, x[k], n, candidate_rate, tables, firsts, lengths, steps[k], draws, k)
    return counter


# ------------------------------------------------------------------------------------------------------ arithmetic


@jit
def _sigmoid(v, out):
    r""":math:`\sigma(v)` to the precision of float64, in a loop that the compiler can vectorise.

    ``exp(-v) = 2^k exp(r)``, ``|r| ≤ ½ ln 2``, with the Taylor series of ``exp(r)``; ``2^k`` is put together as bits.
    """
    power = np.empty(len(v), np.int64)
    two_to_k = power.view(np.float64)
    rest = np.empty(len(v))
    for i in range(len(v)):
        y = min(max(-np.float64(v[i]), -700.0), 700.0)
        k = np.floor(y * 1.4426950408889634 + 0.5)
        rest[i] = (y - k * 0.693147180369123816490) - k * 1.90821492927058770002e-10
        power[i] = (np.int64(k) + 1023) << 52
    for i in range(len(v)):
        r = rest[i]
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
        out[i] = 1.0 / (1.0 + e * two_to_k[i])


def _row_adder(width, weighted=False):
    """A function that adds ``width`` columns of some rows in registers, ``out = Σ_i f_i W[who[i]]``, from a column on.

    ``f_i`` is 1, or ``factor[i]`` if ``weighted``.

    Written in the compiler's own language, because a loop over arrays that might overlap is compiled to one that
    stores the sum after every row, at half the speed.
    """

    @intrinsic
    def add(typing_context, W, who, factor, column, out):
        def codegen(context, builder, signature, args):
            W_type = signature.args[0]
            W, who, factor, out = (
                context.make_array(signature.args[i])(context, builder, args[i]) for i in (0, 1, 2, 4)
            )
            column = args[3]
            index = ir.IntType(64)
            vector = ir.VectorType(context.get_data_type(W_type.dtype), width)
            size = W_type.dtype.bitwidth // 8
            zero = ir.Constant(vector, [0.0] * width)
            row_length = builder.extract_value(W.shape, 1)
            n = builder.extract_value(who.shape, 0)

            def vector_at(array, place):
                return builder.bitcast(builder.gep(array.data, [place]), vector.as_pointer())

            before = builder.block
            loop, after = builder.append_basic_block("row"), builder.append_basic_block("after")
            builder.cbranch(builder.icmp_signed(">", n, ir.Constant(index, 0)), loop, after)
            builder.position_at_end(loop)
            i, total = builder.phi(index), builder.phi(vector)
            row = builder.zext(builder.load(builder.gep(who.data, [i])), index)
            place = builder.add(builder.mul(row, row_length), column)
            term = builder.load(vector_at(W, place), align=size)
            if weighted:
                one = builder.insert_element(zero, builder.load(builder.gep(factor.data, [i])), ir.Constant(index, 0))
                everywhere = ir.Constant(ir.VectorType(ir.IntType(32), width), [0] * width)
                term = builder.fmul(term, builder.shuffle_vector(one, zero, everywhere))
            new_total = builder.fadd(total, term)
            next_i = builder.add(i, ir.Constant(index, 1))
            builder.cbranch(builder.icmp_signed("<", next_i, n), loop, after)
            for phi, start, step in ((i, ir.Constant(index, 0), next_i), (total, zero, new_total)):
                phi.add_incoming(start, before)
                phi.add_incoming(step, loop)
            builder.position_at_end(after)
            result = builder.phi(vector)
            result.add_incoming(zero, before)
            result.add_incoming(new_total, loop)
            builder.store(result, vector_at(out, column), align=size)
            return context.get_dummy_value()

        return types.void(W, who, factor, types.int64, out), codegen

    return add


_add_wide, _add_narrow = _row_adder(WIDE), _row_adder(VECTOR)
_add_wide_weighted, _add_narrow_weighted = _row_adder(WIDE, weighted=True), _row_adder(VECTOR, weighted=True)


@jit
def _add_rows(W, who, out):
    """``out = Σ W[i]`` over the neurons that fired."""
    if len(out) == VECTOR:
        _add_narrow(W, who, out, 0, out)
    else:
        for column in range(0, len(out), WIDE):
            _add_wide(W, who, out, column, out)


@jit
def _add_weighted_rows(W, who, factor, out):
    """``out = Σ_i factor[i] W[who[i]]``."""
    if len(out) == VECTOR:
        _add_narrow_weighted(W, who, factor, 0, out)
    else:
        for column in range(0, len(out), WIDE):
            _add_wide_weighted(W, who, factor, column, out)


@jit
def _filter(c, now, gone, sum_L, sum_s):
    """One step of the two leaky sums: take in ``now``, let ``gone`` leave the memory."""
    for j in range(len(now)):
        sum_L[j] = c.a_L * (sum_L[j] + now[j]) - c.end_L * gone[j]
        sum_s[j] = c.a_s * (sum_s[j] + now[j]) - c.end_s * gone[j]


@jit
def _filter_and_integrate(c, part, now, gone, sum_L, sum_s, b, V):
    """:func:`_filter`, then the dendrite, then the soma. ``part``: 0 hidden, 1 and 2 output without and with target."""
    keep, gain = c.keep[part], c.dendrite[part]
    for j in range(len(now)):
        L = c.a_L * (sum_L[j] + now[j]) - c.end_L * gone[j]
        s = c.a_s * (sum_s[j] + now[j]) - c.end_s * gone[j]
        sum_L[j], sum_s[j] = L, s
        V[j] = keep * V[j] + gain * (c.kernel_scale * (L - s) + b[j])


@jit
def _filter_spikes(c, now, gone, sum_L, sum_s):
    """:func:`_filter` for spikes themselves, given as the neurons that fired."""
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
def _see(c, V, out_L, out_s, seen):
    """What the apical dendrites receive from the output as it is now."""
    if c.spiking_feedback:
        for i in range(len(seen)):
            seen[i] = c.kernel_scale * (out_L[i] - out_s[i])
    else:
        for i in range(len(seen)):
            seen[i] = c.phi_max / (1 + math.exp(-V[i]))


@jit
def _copy(old, new):
    for i in range(len(old)):  # an assignment would do, at two seconds of compilation
        new[i] = old[i]


@jit
def _add(row, factor, out):
    for j in range(len(out)):
        out[j] += factor * row[j]


@jit
def _keep(who, logit, V, kept):
    """Write to ``kept`` those candidates whose logit is below the voltage; return how many. Without a branch."""
    count = np.uint64(0)  # unsigned: an index that cannot be negative needs no check
    for i in range(len(who)):
        j = np.uint64(who[i])
        kept[count] = who[i]
        count += np.uint64(V[j] > logit[i])
    return np.int64(count)


@jit
def _weights(net, weights, layer):
    rows, columns = net.n[layer - 1], net.m[layer]
    W = weights[net.W[layer] : net.W[layer] + rows * columns].reshape(rows, columns)
    return W, weights[net.b[layer] : net.b[layer] + columns]


@jit
def _feedback(net, feedback, layer):
    rows, columns = net.n[-1], net.m[layer]
    return feedback[net.Y[layer] : net.Y[layer] + rows * columns].reshape(rows, columns)


@jit
def _fired(spikes, layer, step):
    a = spikes.start[layer]
    return spikes.who[a + spikes.until[layer, step] : a + spikes.until[layer, step + 1]]


# ------------------------------------------------------------------------------------------------- an example's parts


@jit
def _begin(net, c, weights, spikes, work):
    """Keep the spikes that are still in memory, and see them through the weights as they are now."""
    depth, memory = len(net.n) - 1, len(c.kernel)
    last = spikes.steps[0]
    for layer in range(depth + 1):
        a, until = spikes.start[layer], spikes.until[layer]
        shift = until[last]
        for step in range(memory + 1):
            until[step] = until[last + step] - shift
        for i in range(until[memory]):
            spikes.who[a + i] = spikes.who[a + shift + i]
    spikes.steps[0] = 0
    _see(c, work.V[net.unit[depth] :], work.out_L, work.out_s, work.seen[0])
    for layer in range(1, depth + 1):
        W, _ = _weights(net, weights, layer)
        u, m = net.unit[layer], net.m[layer]
        current = work.current[u * (memory + 1) : (u + m) * (memory + 1)].reshape(memory + 1, m)
        sum_L, sum_s = work.sum_L[u : u + m], work.sum_s[u : u + m]
        current[memory] = 0
        sum_L[:] = 0
        sum_s[:] = 0
        for step in range(memory):
            if step == 0:  # leaves the memory as the first new step comes in
                current[step] = 0
            else:
                _add_rows(W, _fired(spikes, layer - 1, step), current[step])
            _filter(c, current[step], current[memory], sum_L, sum_s)


@jit
def _take_input(net, c, draws, k, spikes, begin, end):
    """Put the input spikes of steps ``begin … end-1`` where those of the other layers are."""
    memory = len(c.kernel)
    a, b = draws.until[k, 0, begin], draws.until[k, 0, end]
    at = spikes.until[0, memory + begin]
    _copy(draws.who[k, a:b], spikes.who[spikes.start[0] + at :])
    for t in range(begin, end):
        spikes.until[0, memory + t + 1] = at + draws.until[k, 0, t + 1] - a


@jit
def _advance(net, c, weights, feedback, draws, k, spikes, work, layer, begin, end, label, averaged):
    """One layer through steps ``begin … end-1``; its mean voltage gathers from step ``averaged`` on."""
    depth, memory, n_out = len(net.n) - 1, len(c.kernel), net.n[-1]
    W, bias = _weights(net, weights, layer)
    Y = W[:0]
    if layer < depth and c.apical != 0:
        Y = _feedback(net, feedback, layer)
    u, m = net.unit[layer], net.m[layer]
    current = work.current[u * (memory + 1) : (u + m) * (memory + 1)].reshape(memory + 1, m)
    sum_L, sum_s, V, mean_V = work.sum_L[u : u + m], work.sum_s[u : u + m], work.V[u : u + m], work.mean_V[u : u + m]
    below, until_below = spikes.who[spikes.start[layer - 1] :], spikes.until[layer - 1]
    fired, until = spikes.who[spikes.start[layer] :], spikes.until[layer]
    who, logit = draws.who[k, draws.start[layer] :], draws.logit[k, draws.start[layer] :]
    until_drawn = draws.until[k, layer]
    part = 0
    if layer == depth:
        part = 1 if label < 0 else 2
    for t in range(begin, end):
        s = memory + t
        now, gone = current[s % (memory + 1)], current[(s + 1) % (memory + 1)]
        _add_rows(W, below[until_below[s] : until_below[s + 1]], now)
        _filter_and_integrate(c, part, now, gone, sum_L, sum_s, bias, V)
        if part == 2:
            for i in range(n_out):
                V[i] += c.drive_E if i == label else c.drive_I
        else:
            for i in range(len(Y)):
                _add(Y[i], c.apical * work.seen[t, i], V)
        if t >= averaged:
            _add(V, c.one, mean_V)
        a, b = until_drawn[t], until_drawn[t + 1]
        until[s + 1] = until[s] + _keep(who[a:b], logit[a:b], V, fired[until[s] :])
        if layer == depth:
            _copy(V, work.output[t])
            _filter_spikes(c, fired[until[s] : until[s + 1]], fired[until[t] : until[t + 1]], work.out_L, work.out_s)
            _see(c, V, work.out_L, work.out_s, work.seen[t + 1])  # in the next step


@jit
def _run(net, c, weights, feedback, draws, k, spikes, work, begin, end, window, label, rate):
    """A phase, from step ``begin`` to ``end``; ``label`` is -1 in a forward phase.

    With full segregation nothing flows back within an example, and each layer can run through the phase by itself.
    Afterwards the mean voltages of a forward window are in ``mean_V``, the mean output rate of the window in ``rate``.
    """
    _take_input(net, c, draws, k, spikes, begin, end)
    averaged = end
    if label < 0:
        averaged = end - window
        work.mean_V[:] = 0
    at_once = end - begin if c.apical == 0 else 1
    for t in range(begin, end, at_once):
        for layer in range(1, len(net.n)):
            _advance(net, c, weights, feedback, draws, k, spikes, work, layer, t, t + at_once, label, averaged)
    spikes.steps[0] = end
    if label < 0:
        for j in range(len(work.mean_V)):
            work.mean_V[j] /= window
    else:
        phi = np.empty(window * net.m[-1])
        _sigmoid(work.output[end - window : end].ravel(), phi)
        rate[:] = 0
        for t in range(window):
            for i in range(net.n[-1]):
                rate[i] += c.phi_max * phi[t * net.m[-1] + i] / window


@jit
def _mean_psp(net, c, spikes, work, end, window):
    """Mean postsynaptic potentials over the ``window`` steps before ``end``: every spike counts with the share of its
    kernel that lies within."""
    depth, memory = len(net.n) - 1, len(c.kernel)
    work.psp[:] = 0
    for step in range(end - window + 1, end + memory):  # in the numbering of ``spikes``
        t = step - memory
        share = 0.0
        for n in range(memory):
            if end - window <= t + n < end:
                share += c.kernel[n]
        share /= window
        for layer in range(depth):
            psp = work.psp[net.unit[layer] :]
            for i in _fired(spikes, layer, step):
                psp[i] += share


@jit
def _average_seen(n_out, work, end, window, early):
    """``mean_seen[e]``: mean of what apical dendrites received in the window that ends ``e`` steps early."""
    latest = 0
    for i in range(len(early)):
        latest = max(latest, early[i])
    for e in range(latest + 1):
        mean = work.mean_seen[e]
        mean[:] = 0
        for t in range(end - e - window, end - e):
            for i in range(n_out):
                mean[i] += work.seen[t, i]
        for i in range(n_out):
            mean[i] /= window


@jit
def _plateaus(net, feedback, work, early, apical, alpha):
    """Plateau potentials of all hidden units, from the mean of what their apical dendrites received."""
    n_out, first = net.n[-1], 0
    for layer in range(1, len(net.n) - 1):
        Y = _feedback(net, feedback, layer)
        u, m = net.unit[layer], net.m[layer]
        A = apical[u : u + m]
        A[:] = 0
        if len(early) == 0:
            for i in range(n_out):
                _add(Y[i], work.mean_seen[0, i], A)
        else:
            for j in range(net.n[layer]):
                for i in range(n_out):
                    A[j] += Y[i, j] * work.mean_seen[early[first + j], i]
        _sigmoid(A, alpha[u : u + m])
        first += net.n[layer]


@jit
def _errors(net, c, work, rate, output_loss):
    """Errors at the dendrites, ``E``, from what both phases left behind. Returns the output loss."""
    depth = len(net.n) - 1
    first = net.unit[1]
    soma = np.empty(len(work.V) - first)
    _sigmoid(work.mean_V[first:], soma)
    for j in range(net.unit[depth] - first):
        f = soma[j]
        change = work.alpha[1, first + j] - work.alpha[0, first + j]
        work.E[first + j] = -c.k_b * c.phi_max * f * (1 - f) * change
    for j in range(net.n[depth]):
        f = soma[net.unit[depth] - first + j]
        missing = rate[j] - c.phi_max * f
        output_loss += missing * missing
        work.E[net.unit[depth] + j] = -c.k_d * c.phi_max * f * (1 - f) * missing
    for layer in range(1, depth + 1):  # what is padding stays zero
        work.E[net.unit[layer] + net.n[layer] : net.unit[layer] + net.m[layer]] = 0
    return output_loss


@jit
def _update(net, weights, work, scales):
    """``W ← W - η P E PSPᵀ``, ``b ← b - η P E``; only the weights of inputs that were felt."""
    for layer in range(1, len(net.n)):
        if scales[layer] == 0:
            continue
        W, b = _weights(net, weights, layer)
        E = work.E[net.unit[layer] : net.unit[layer] + net.m[layer]]
        psp = work.psp[net.unit[layer - 1] : net.unit[layer - 1] + net.n[layer - 1]]
        if len(E) == VECTOR:  # a loop of known length, for rows too short to be worth a choice
            for i in range(len(psp)):
                step = scales[layer] * psp[i]
                for j in range(VECTOR):
                    W[i, j] -= step * E[j]
        else:
            active = 0
            for i in range(len(psp)):
                work.who[active] = i
                active += psp[i] != 0
            for i in work.who[:active]:
                _add(E, -scales[layer] * psp[i], W[i])
        _add(E, -scales[layer], b)


@jit
def _learn_feedback(net, c, feedback, work, early):
    """Learned feedback: see ``Simulation.learn_feedback``. ``work.mean_seen`` must be that of the forward plateaus."""
    first = 0
    for layer in range(1, len(net.n) - 1):
        Y = _feedback(net, feedback, layer)
        for j in range(net.n[layer]):
            unit = net.unit[layer] + j
            predicted = 1 / (1 + math.exp(-np.float64(work.apical[unit])))
            fired = 1 / (1 + math.exp(-np.float64(work.mean_V[unit])))
            error = c.eta_feedback * c.P_hidden * (fired - predicted) * predicted * (1 - predicted)
            mean = work.mean_seen[early[first + j]]
            for i in range(net.n[-1]):
                if Y[i, j] != 0:
                    Y[i, j] += error * mean[i]
        first += net.n[layer]


@jit_any_order
def _set_symmetric_feedback(net, c, weights, feedback, work, noise):
    """``Y_l = (W_L ⋯ W_{l+1})ᵀ`` plus noise, keeping zeros and scale of a sparse ``Y``."""
    depth, n_out = len(net.n) - 1, net.n[-1]
    above = work.path[0]
    for i in range(n_out):
        above[i, :] = 0
        above[i, i] = 1
    which, first = 0, 0
    for layer in range(depth - 1, 0, -1):
        W, _ = _weights(net, weights, layer + 1)
        Y = _feedback(net, feedback, layer)
        here = work.path[1 - which]
        for i in range(n_out):
            for j in range(net.n[layer]):
                total = W[j, 0] * above[i, 0]
                for up in range(1, net.n[layer + 1]):
                    total += W[j, up] * above[i, up]
                here[i, j] = total
                drawn = noise[first + j * n_out + i] if len(noise) else 0.0
                if Y[i, j] != 0:
                    Y[i, j] = (total + drawn) / c.share
        first += n_out * net.n[layer]
        above = here
        which = 1 - which


@jit
def train_block(
    net, c, weights, feedback, draws, spikes, work, steps, labels, early, noise, window, scales, voltage, losses,
    errors, psps,
):
    """Show the examples of a block, one after another, and change the weights after each.

    ``errors`` and ``psps``, ``(block, units)``, receive what the changes were made of, if they have rows.
    """
    rate = np.empty(net.n[-1])
    u, n = net.unit[-1], net.n[-1]
    zero, nobody = np.int64(0), np.int64(-1)  # a literal would have every function compiled once more for it
    for k in range(len(labels)):
        forward, end = steps[k, 0], steps[k, 0] + steps[k, 1]
        if c.symmetric:
            _set_symmetric_feedback(net, c, weights, feedback, work, noise[k])
        _begin(net, c, weights, spikes, work)
        _run(net, c, weights, feedback, draws, k, spikes, work, zero, forward, window, nobody, rate)
        _mean_psp(net, c, spikes, work, forward, window)
        _average_seen(n, work, forward, window, early[k, 0])
        _plateaus(net, feedback, work, early[k, 0], work.apical, work.alpha[0])
        if c.learned:
            # The plateaus of this example must not see the change: keep the means, change Y at the end.
            kept = work.mean_seen.copy()
        _run(net, c, weights, feedback, draws, k, spikes, work, forward, end, window, labels[k], rate)
        _average_seen(n, work, end, window, early[k, 1])
        _plateaus(net, feedback, work, early[k, 1], work.E, work.alpha[1])  # E is free until the errors are known
        losses[k] = _errors(net, c, work, rate, 0.0)
        _copy(work.mean_V[u : u + n], voltage[k])
        if len(errors):
            _copy(work.E, errors[k])
            _copy(work.psp, psps[k])
        _update(net, weights, work, scales)
        if c.learned and scales[0] != 0:
            _copy(kept.ravel(), work.mean_seen.ravel())
            _learn_feedback(net, c, feedback, work, early[k, 0])


@jit
def train_rates(net, c, weights, feedback, work, x, labels, noise, scales, voltage, losses, errors, psps):
    """:func:`train_block` for the rate limit, in the closed form of ``rate.rate_update``."""
    depth, n_out = len(net.n) - 1, net.n[-1]
    rate, early = np.empty(n_out), np.zeros(0 if not c.learned else net.n[1:-1].sum(), np.int64)
    soma = np.empty(net.m.max())
    u = net.unit[depth]
    for k in range(len(labels)):
        if c.symmetric:
            _set_symmetric_feedback(net, c, weights, feedback, work, noise[k])
        active = 0
        for i in range(net.n[0]):
            work.who[active] = i
            work.psp[i] = c.psp_scale * x[k, i]
            work.E[active] = work.psp[i]  # E is free until the errors are known
            active += x[k, i] > 0
        factor = work.E[:active]
        for layer in range(1, depth + 1):
            W, bias = _weights(net, weights, layer)
            v, w = net.unit[layer], net.m[layer]
            dendrite, V = work.V[v : v + w], work.mean_V[v : v + w]
            _add_weighted_rows(W, work.who[:active], factor, dendrite)
            gain = c.dendrite[0] if layer < depth else c.dendrite[1]
            for j in range(w):
                dendrite[j] += bias[j]
                V[j] = gain * dendrite[j]
            _sigmoid(V, soma[:w])
            active = net.n[layer]
            factor = work.psp[v : v + active]
            for j in range(active):
                work.who[j] = j
                factor[j] = c.psp_scale * soma[j]
        for phase in range(2):
            if phase == 1:
                for i in range(n_out):
                    V_target = c.dendrite[2] * work.V[u + i] + (c.drive_E if i == labels[k] else c.drive_I)
                    soma[i] = 1 / (1 + math.exp(-np.float64(V_target)))
            for i in range(n_out):
                rate[i] = c.phi_max * soma[i]
                work.mean_seen[0, i] = rate[i] * (c.psp_scale / c.phi_max if c.spiking_feedback else 1.0)
            _plateaus(net, feedback, work, early, work.apical if phase == 0 else work.E, work.alpha[phase])
            if c.learned and phase == 0:
                seen = work.mean_seen[0].copy()
        losses[k] = _errors(net, c, work, rate, 0.0)
        _copy(work.mean_V[u : u + n_out], voltage[k])
        if len(errors):
            _copy(work.E, errors[k])
            _copy(work.psp, psps[k])
        _update(net, weights, work, scales)
        if c.learned and scales[0] != 0:
            _copy(seen, work.mean_seen[0])
            _learn_feedback(net, c, feedback, work, early)


@jit
def clear(spikes, work):
    work.V[:] = 0
    work.out_L[:] = 0
    work.out_s[:] = 0
    spikes.until[:] = 0
    spikes.steps[0] = 0


@jit
def test_images(
    key, x, first, n, candidate_rate, tables, firsts, lengths, net, c, weights, feedback, draws, spikes, work, steps,
    window, voltage,
):
    """Mean output voltages of each image from rest. The draws of image ``k`` start at place ``k · 2³²`` of the stream,
    so that they do not depend on how the images are shared among threads."""
    u = net.unit[-1]
    rate = np.empty(n[-1])
    zero, nobody = np.int64(0), np.int64(-1)
    for k in range(len(x)):
        _draw(key, np.uint64(first + k) << np.uint64(32), x[k], n, candidate_rate, tables, firsts, lengths, steps,
              draws, zero)
        clear(spikes, work)
        _begin(net, c, weights, spikes, work)
        _run(net, c, weights, feedback, draws, zero, spikes, work, zero, steps, window, nobody, rate)
        _copy(work.mean_V[u : u + n[-1]], voltage[k])
