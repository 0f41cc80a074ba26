"""Instructions by hand: sums of rows of weights, outer products, and one step of time for many neurons at once."""

from __future__ import annotations

from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from bioplaus_lite.models.segregated.compiled.arrays import VECTOR, WIDE
from bioplaus_lite.models.segregated.compiled.compiler import jit


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
step_wide, step_narrow = _stepper(WIDE), _stepper(VECTOR)


@jit
def add_rows(W, who, out):
    """``out = Σ W[i]`` over the neurons that fired."""
    if len(out) == VECTOR:
        _add_narrow(W, who, out, 0, out)
    else:
        for column in range(0, len(out), WIDE):
            _add_wide(W, who, out, column, out)


@jit
def add_weighted_rows(W, who, factor, out):
    """``out = Σ_i factor[i] W[who[i]]``."""
    if len(out) == VECTOR:
        _add_narrow_weighted(W, who, factor, 0, out)
    else:
        for column in range(0, len(out), WIDE):
            _add_wide_weighted(W, who, factor, column, out)


@jit
def add_outer(W, who, factor, E):
    """``W[who[i]] += factor[i] E``."""
    if len(E) == VECTOR:
        _outer_narrow(W, who, factor, 0, E)
    else:
        for column in range(0, len(E), WIDE):
            _outer_wide(W, who, factor, column, E)
