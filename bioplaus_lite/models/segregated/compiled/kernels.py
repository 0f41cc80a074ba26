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

Layers are padded to 16 units or to multiples of 64, so that inner loops have no remainder. The padding stays zero.
Rows of weights lie an odd number of cache lines apart: at a power of two they would all compete for the same few
places of the cache, which costs a quarter of the time of adding them.
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

from bioplaus_lite.models.segregated.parameters import SegregatedParameters

VECTOR, WIDE = 16, 64  # units that are handled at once
jit = numba.njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract"})
# Sums in any order: only where the readable simulation, too, leaves the order to the linear algebra library.
jit_any_order = numba.njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract", "reassoc"})


# ---------------------------------------------------------------------------------------------------- arrangement


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


class Constants(NamedTuple):
    """The model's constants as the loops need them; numbers in the dtype of the weights.

    A soma takes ``V ← keep·V + dendrite·B + drive`` in every step, whether it integrates or sits at the steady state.
    """

    a_L: np.floating  # decay of the two leaky sums in a step
    a_s: np.floating
    end_L: np.floating  # what is left of a spike when its memory ends
    end_s: np.floating
    soma: np.ndarray  # (3, 7): what :func:`_stepper` takes: hidden, output in the forward phase, in the target phase
    dendrite: np.ndarray  # (3,)
    apical: np.floating
    drive_E: np.floating
    drive_I: np.floating
    one: np.floating
    kernel_scale: np.floating
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
        end_L, end_s, scale = a_L ** (c.spike_memory + 1), a_s ** (c.spike_memory + 1), 1 / (c.tau_L - c.tau_s)
        soma = [[a_L, a_s, end_L, end_s, scale, k, gain] for k, gain in zip(keep, per_g * g, strict=True)]
        return cls(
            a_L=number(a_L), a_s=number(a_s), end_L=number(end_L), end_s=number(end_s), kernel_scale=number(scale),
            soma=np.array(soma, dtype), dendrite=(per_g * g).astype(dtype), apical=number(per_g_hidden * c.g_a),
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


def _reinterpreter(source, target):
    """A function that takes the bits of a ``source`` number for those of a ``target`` number."""

    @intrinsic
    def reinterpret(typing_context, value):
        def codegen(context, builder, signature, args):
            return builder.bitcast(args[0], context.get_value_type(target))

        return target(source), codegen

    return reinterpret


_float64_of = _reinterpreter(types.int64, types.float64)
_float32_of = _reinterpreter(types.int32, types.float32)
_int32_of = _reinterpreter(types.float32, types.int32)


@jit
def _logits(low, logit):
    r"""Turn 32 random bits into a logistic variable, :math:`\log(U / (1-U))`, to about 1e-6.

    The logarithm: ``u = 2^k m`` with ``m`` within √½ … √2 read from the bits of the float, then the usual series
    in ``(m-1)/(m+1)``.
    """
    half, one = np.float32(0.5), np.float32(1)
    for i in range(len(low)):
        u = low[i]
        bits = _int32_of((np.float32(u) + half) / (np.float32(~u) + half))
        k = np.int32((bits - np.int32(0x3F3504F3)) >> np.int32(23))
        m = _float32_of(np.int32(bits - (k << np.int32(23))))
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
    for i in range(len(v)):
        y = min(max(-np.float64(v[i]), -700.0), 700.0)
        k = np.floor(y * 1.4426950408889634 + 0.5)
        r = (y - k * 0.693147180369123816490) - k * 1.90821492927058770002e-10
        two_to_k = _float64_of((np.int64(k) + 1023) << 52)
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


class _Vectors:
    """Writes instructions on vectors of ``width`` numbers, in the compiler's own language.

    Because a loop over arrays that might overlap is compiled to one that stores every sum after every row, and looks
    before it starts whether they do overlap. Arrays come as structures with ``data`` and ``shape``.
    """

    def __init__(self, context, builder, dtype, width: int) -> None:
        self.context, self.builder, self.width = context, builder, width
        self.number, self.bytes = context.get_data_type(dtype), dtype.bitwidth // 8
        self.type, self.index = ir.VectorType(self.number, width), ir.IntType(64)

    def array(self, numba_type, value):
        return self.context.make_array(numba_type)(self.context, self.builder, value)

    def whole(self, value: int):
        return ir.Constant(self.index, value)

    def place(self, array, row, column):
        """Address of a place in a table, counted in rows of it and columns."""
        b = self.builder
        return b.add(b.mul(row, b.extract_value(array.shape, 1)), column)

    def load(self, array, place):
        return self.builder.load(self._at(array, place), align=self.bytes)

    def store(self, value, array, place) -> None:
        self.builder.store(value, self._at(array, place), align=self.bytes)

    def _at(self, array, place):
        return self.builder.bitcast(self.builder.gep(array.data, [place]), self.type.as_pointer())

    def everywhere(self, array, place):
        """A vector that holds one number of ``array`` in every place."""
        b = self.builder
        one = b.insert_element(ir.Constant(self.type, ir.Undefined), b.load(b.gep(array.data, [place])), self.whole(0))
        return b.shuffle_vector(one, one, ir.Constant(ir.VectorType(ir.IntType(32), self.width), [0] * self.width))

    def sum_rows(self, W, who, begin, end, column, factor=None):
        """``Σ_i W[who[i]]`` from a column on, ``i = begin … end-1``, each times ``factor[i]`` if there is one."""
        b = self.builder

        def term(i):
            row = b.zext(b.load(b.gep(who.data, [i])), self.index)
            weights = self.load(W, self.place(W, row, column))
            return weights if factor is None else b.fmul(weights, self.everywhere(factor, i))

        def rows(i, total):  # in a tree, so that a sum does not wait for the one before it
            terms = [term(b.add(i, self.whole(k))) for k in range(at_once)]
            while len(terms) > 1:
                terms = [b.fadd(*pair) for pair in zip(terms[::2], terms[1::2], strict=True)]
            return b.fadd(total, terms[0])

        at_once = 4 if self.width <= VECTOR else 2
        count = b.and_(b.sub(end, begin), self.whole(-at_once))
        middle = b.add(begin, count)
        total = self.loop(begin, middle, at_once, ir.Constant(self.type, [0.0] * self.width), rows)
        at_once = 1
        return self.loop(middle, end, 1, total, rows)

    def loop(self, begin, end, step: int, total, body):
        """``for i in range(begin, end, step): total = body(i, total)``; what ``total`` is at the end."""
        b, before = self.builder, self.builder.block
        loop, after = b.append_basic_block("rows"), b.append_basic_block("after")
        b.cbranch(b.icmp_signed("<", begin, end), loop, after)
        b.position_at_end(loop)
        i, so_far = b.phi(self.index), b.phi(self.type)
        new = body(i, so_far)
        following = b.add(i, self.whole(step))
        b.cbranch(b.icmp_signed("<", following, end), loop, after)
        for phi, start, change in ((i, begin, following), (so_far, total, new)):
            phi.add_incoming(start, before)
            phi.add_incoming(change, loop)
        b.position_at_end(after)
        result = b.phi(self.type)
        result.add_incoming(total, before)
        result.add_incoming(new, loop)
        return result


def _row_adder(width, weighted=False):
    """``add(W, who, factor, column, out)``: ``out = Σ_i f_i W[who[i]]`` in ``width`` columns from ``column`` on.

    ``f_i`` is 1, or ``factor[i]`` if ``weighted``.
    """

    @intrinsic
    def add(typing_context, W, who, factor, column, out):
        def codegen(context, builder, signature, args):
            v = _Vectors(context, builder, signature.args[0].dtype, width)
            W, who, factor, out = (v.array(signature.args[i], args[i]) for i in (0, 1, 2, 4))
            n = builder.extract_value(who.shape, 0)
            total = v.sum_rows(W, who, v.whole(0), n, args[3], factor if weighted else None)
            v.store(total, out, args[3])
            return context.get_dummy_value()

        return types.void(W, who, factor, types.int64, out), codegen

    return add


def _outer_adder(width):
    """``add(W, who, factor, column, E)``: ``W[who[i]] += factor[i] E`` in ``width`` columns from ``column`` on."""

    @intrinsic
    def add(typing_context, W, who, factor, column, E):
        def codegen(context, builder, signature, args):
            v = _Vectors(context, builder, signature.args[0].dtype, width)
            W, who, factor, E = (v.array(signature.args[i], args[i]) for i in (0, 1, 2, 4))
            n, changed = builder.extract_value(who.shape, 0), v.load(E, args[3])

            def row(i, nothing):
                place = v.place(W, builder.zext(builder.load(builder.gep(who.data, [i])), v.index), args[3])
                change = builder.fmul(v.everywhere(factor, i), changed, flags=("contract",))
                v.store(builder.fadd(v.load(W, place), change, flags=("contract",)), W, place)
                return nothing

            v.loop(v.whole(0), n, 1, changed, row)
            return context.get_dummy_value()

        return types.void(W, who, factor, types.int64, E), codegen

    return add


def _stepper(width):
    """One step of time for ``width`` neurons of a layer, from ``column`` on: synapses, dendrite, soma.

    ``step(W, who, begin, end, column, ring, now, gone, sums, bias, drive, V, t, constants)``

    - input ``I = Σ_i W[who[i]]`` of the neurons below that fired, ``i = begin … end-1``; kept as row ``now`` of
      ``ring``, whose row ``gone`` leaves the memory;
    - leaky sums, rows 0 and 1 of ``sums``: ``L ← a_L (L + I) - end_L gone``, and ``s`` likewise;
    - dendrite ``B = kernel_scale (L - s) + bias``, soma ``V[t] = keep V[t-1] + gain B + drive``. Row ``t`` of ``V``
      is voltage after step ``t-1``.
    """

    @intrinsic
    def step(typing_context, W, who, begin, end, column, ring, now, gone, sums, bias, drive, V, t, constants):
        def codegen(context, builder, signature, args):
            v = _Vectors(context, builder, signature.args[0].dtype, width)
            arrays = (v.array(signature.args[i], args[i]) for i in (0, 1, 5, 8, 9, 10, 11, 13))
            W, who, ring, sums, bias, drive, V, constants = arrays
            begin, end, column, now, gone, t = (args[i] for i in (2, 3, 4, 6, 7, 12))
            a_L, a_s, end_L, end_s, scale, keep, gain = (v.everywhere(constants, v.whole(i)) for i in range(7))
            total = v.sum_rows(W, who, begin, end, column)
            v.store(total, ring, v.place(ring, now, column))
            leaving = v.load(ring, v.place(ring, gone, column))

            def plus(x, y):
                return builder.fadd(x, y, flags=("contract",))

            def minus(x, y):
                return builder.fsub(x, y, flags=("contract",))

            def times(x, y):
                return builder.fmul(x, y, flags=("contract",))

            filtered = []
            for row, decay, last in ((0, a_L, end_L), (1, a_s, end_s)):
                place = v.place(sums, v.whole(row), column)
                filtered.append(minus(times(decay, plus(v.load(sums, place), total)), times(last, leaving)))
                v.store(filtered[-1], sums, place)
            dendrite = plus(times(scale, minus(*filtered)), v.load(bias, column))
            here = v.place(V, t, column)
            before = v.load(V, builder.sub(here, builder.extract_value(V.shape, 1)))
            soma = plus(plus(times(keep, before), times(gain, dendrite)), v.load(drive, column))
            v.store(soma, V, here)
            return context.get_dummy_value()

        i = types.int64
        return types.void(W, who, i, i, i, ring, i, i, sums, bias, drive, V, i, constants), codegen

    return step


_add_wide, _add_narrow = _row_adder(WIDE), _row_adder(VECTOR)
_add_wide_weighted, _add_narrow_weighted = _row_adder(WIDE, weighted=True), _row_adder(VECTOR, weighted=True)
_outer_wide, _outer_narrow = _outer_adder(WIDE), _outer_adder(VECTOR)
_step_wide, _step_narrow = _stepper(WIDE), _stepper(VECTOR)


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
def _add_outer(W, who, factor, E):
    """``W[who[i]] += factor[i] E``."""
    if len(E) == VECTOR:
        _outer_narrow(W, who, factor, 0, E)
    else:
        for column in range(0, len(E), WIDE):
            _outer_wide(W, who, factor, column, E)


@jit
def _filter(c, now, sum_L, sum_s):
    """One step of the two leaky sums."""
    for j in range(len(now)):
        sum_L[j] = c.a_L * (sum_L[j] + now[j])
        sum_s[j] = c.a_s * (sum_s[j] + now[j])


@jit
def _filter_spikes(c, now, gone, sum_L, sum_s):
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
def _select(values, scale, who, factor):
    """Where ``values`` are not zero, and ``scale`` times what they are there; returns how many. Without a branch."""
    count = np.uint64(0)  # unsigned: an index that cannot be negative needs no check
    for i in range(len(values)):
        who[count] = i
        factor[count] = scale * values[i]
        count += np.uint64(values[i] != 0)
    return np.int64(count)


@jit
def _keep(who, logit, V, kept):
    """Write to ``kept`` those candidates whose logit is below the voltage; return how many. Without a branch."""
    count = np.uint64(0)
    for i in range(len(who)):
        j = np.uint64(who[i])
        kept[count] = who[i]
        count += np.uint64(V[j] > logit[i])
    return np.int64(count)


@jit
def _weights(net, weights, layer):
    rows, row = net.n[layer - 1], net.row[layer]
    W = weights[net.W[layer] : net.W[layer] + rows * row].reshape(rows, row)
    return W, weights[net.b[layer] : net.b[layer] + net.m[layer]]


@jit
def _feedback(net, feedback, layer):
    rows, row = net.n[-1], net.row[layer]
    return feedback[net.Y[layer] : net.Y[layer] + rows * row].reshape(rows, row)


@jit
def _memory_of(net, c, work, layer):
    """Ring of input currents, ``(memory+1, row)``, and leaky sums, ``(2, row)``, of a layer."""
    u, row, steps = net.unit[layer], net.row[layer], len(c.kernel) + 1
    ring = work.current[u * steps : (u + row) * steps].reshape(steps, row)
    return ring, work.sums[2 * u : 2 * (u + row)].reshape(2, row)


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
        m = net.m[layer]
        ring, sums = _memory_of(net, c, work, layer)
        ring[memory] = 0
        sums[:] = 0
        for step in range(memory):
            if step == 0:  # leaves the memory as the first new step comes in
                ring[step] = 0
            else:
                _add_rows(W, _fired(spikes, layer - 1, step), ring[step, :m])
            _filter(c, ring[step, :m], sums[0, :m], sums[1, :m])


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
    ring, sums = _memory_of(net, c, work, layer)
    u, m = net.unit[layer], net.m[layer]
    V, mean_V, drive = work.V[u : u + m], work.mean_V[u : u + m], work.drive[u : u + m]
    below, until_below = spikes.who[spikes.start[layer - 1] :], spikes.until[layer - 1]
    fired, until = spikes.who[spikes.start[layer] :], spikes.until[layer]
    who, logit = draws.who[k, draws.start[layer] :], draws.logit[k, draws.start[layer] :]
    until_drawn = draws.until[k, layer]
    part, voltages = 0, work.hidden
    if layer == depth:
        voltages = work.output
        part = 1 if label < 0 else 2
        for i in range(n_out):
            drive[i] = 0 if label < 0 else (c.drive_E if i == label else c.drive_I)
    elif c.apical != 0:
        Y = _feedback(net, feedback, layer)
        drive[:] = 0
        for i in range(n_out):
            _add(Y[i, :m], c.apical * work.seen[begin, i], drive)
    # Some columns of all steps before the next columns: their weights then stay in the fastest cache.
    _copy(V, voltages[begin])
    width = WIDE if m > VECTOR else VECTOR
    for column in range(0, m, width):
        for t in range(begin, end):
            s = memory + t
            a, b, now, gone = until_below[s], until_below[s + 1], s % (memory + 1), (s + 1) % (memory + 1)
            if m > VECTOR:
                _step_wide(W, below, a, b, column, ring, now, gone, sums, bias, drive, voltages, t + 1, c.soma[part])
            else:
                _step_narrow(W, below, a, b, column, ring, now, gone, sums, bias, drive, voltages, t + 1, c.soma[part])
    _copy(voltages[end, :m], V)
    for t in range(max(begin, averaged), end):
        _add(voltages[t + 1, :m], c.one, mean_V)
    for t in range(begin, end):
        s, a, b = memory + t, until_drawn[t], until_drawn[t + 1]
        until[s + 1] = until[s] + _keep(who[a:b], logit[a:b], voltages[t + 1], fired[until[s] :])
        if layer == depth:
            _filter_spikes(c, fired[until[s] : until[s + 1]], fired[until[t] : until[t + 1]], work.out_L, work.out_s)
            _see(c, voltages[t + 1], work.out_L, work.out_s, work.seen[t + 1])  # in the next step


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
        _sigmoid(work.output[end - window + 1 : end + 1].ravel(), phi)
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
        if len(early) == 0:
            for i in range(n_out):
                work.who[i] = i
            _add_weighted_rows(Y, work.who[:n_out], work.mean_seen[0], A)
        else:
            A[:] = 0
            for j in range(net.n[layer]):
                for i in range(n_out):
                    A[j] += Y[i, j] * work.mean_seen[early[first + j], i]
        _sigmoid(A, alpha[u : u + m])
        first += net.n[layer]


@jit
def _errors(net, c, work, rate, output_loss):
    """Errors at the dendrites, ``E``, from what both phases left behind. Returns the output loss."""
    depth = len(net.n) - 1
    first, top = net.unit[1], net.unit[-1]
    soma = np.empty(len(work.V) - first)
    _sigmoid(work.mean_V[first:], soma)
    E, alpha_f, alpha_t = work.E[first:top], work.alpha[0, first:top], work.alpha[1, first:top]
    for j in range(len(E)):
        E[j] = -c.k_b * c.phi_max * soma[j] * (1 - soma[j]) * (alpha_t[j] - alpha_f[j])
    for j in range(net.n[depth]):
        f = soma[top - first + j]
        missing = rate[j] - c.phi_max * f
        output_loss += missing * missing
        work.E[top + j] = -c.k_d * c.phi_max * f * (1 - f) * missing
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
        active = _select(psp, -scales[layer], work.who, work.factor)
        _add_outer(W, work.who[:active], work.factor[:active], E)
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
    traces,
):
    """Show the examples of a block, one after another, and change the weights after each.

    ``traces``, ``(3, block, units)``, receives what the changes were made of, if it has rows: ``E``, mean postsynaptic
    potentials and mean somatic voltages of the forward window.
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
        if traces.shape[1]:
            _copy(work.E, traces[0, k])
            _copy(work.psp, traces[1, k])
            _copy(work.mean_V, traces[2, k])
        _update(net, weights, work, scales)
        if c.learned and scales[0] != 0:
            _copy(kept.ravel(), work.mean_seen.ravel())
            _learn_feedback(net, c, feedback, work, early[k, 0])


@jit
def train_rates(net, c, weights, feedback, work, x, labels, noise, scales, voltage, losses, traces):
    """:func:`train_block` for the rate limit, in the closed form of ``rate.rate_update``."""
    depth, n_out = len(net.n) - 1, net.n[-1]
    rate, early = np.empty(n_out), np.zeros(0 if not c.learned else net.n[1:-1].sum(), np.int64)
    soma = np.empty(net.m.max())
    u = net.unit[depth]
    for k in range(len(labels)):
        if c.symmetric:
            _set_symmetric_feedback(net, c, weights, feedback, work, noise[k])
        psp = work.psp[: net.n[0]]
        for i in range(len(psp)):
            psp[i] = c.psp_scale * x[k, i]
        active = _select(psp, c.one, work.who, work.factor)
        factor = work.factor[:active]
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
        if traces.shape[1]:
            _copy(work.E, traces[0, k])
            _copy(work.psp, traces[1, k])
            _copy(work.mean_V, traces[2, k])
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
