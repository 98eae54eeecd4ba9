"""Inner loops over a row's edges, written as LLVM vector code for numba.

::

    sum_rows:  out[:width]  = sum of weight[p] * table[col[p], :width]       p = start..stop-1
    dot_rows:  found[p]    += dot(row[:width], table[col[p], :width])

A loop that numba compiles by itself adds into memory, a load and a store for every element of every edge. Here
the sums stay in registers, and the rows of a few edges ahead are prefetched: their places in memory are random,
so what such a loop waits for is the memory system.

Widths are compile-time constants; ``numba_kernels`` cuts rows into blocks of them. Arrays are C-contiguous.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

AHEAD = 8
"""How many edges ahead rows are prefetched: index arrays have as many entries more than there are edges."""

_LINE = 64  # bytes of a cache line, and of a vector
_BYTE, _I32, _I64 = ir.IntType(8), ir.IntType(32), ir.IntType(64)


_SIZES = (128, 64, 32, 16, 8, 4, 2, 1)
"""Rows are cut into blocks of so many numbers, the largest first."""


class _Code:
    """Emits address arithmetic, loops, and loads of numbers."""

    def __init__(self, context: Any, builder: ir.IRBuilder, dtype: Any) -> None:
        self.context, self.builder = context, builder
        self.number, self.size = context.get_data_type(dtype), dtype.bitwidth // 8

    def address(self, kind: Any, array: Any) -> Any:
        """Where an array's data begins, as an integer; 0 for None."""
        if isinstance(kind, types.NoneType):
            return _I64(0)
        data = self.context.make_array(kind)(self.context, self.builder, array).data
        return self.builder.ptrtoint(data, _I64)

    def widened(self, kind: Any, value: Any) -> Any:
        """Integers as i64, anything else as it is."""
        is_integer = isinstance(kind, types.Integer)
        return self.context.cast(self.builder, value, kind, types.int64) if is_integer else value

    def element(self, start: Any, number: Any, size: int) -> Any:
        """The address of an element of ``size`` bytes."""
        return self.builder.add(start, self.builder.mul(number, _I64(size)))

    def index(self, start: Any, kind: Any, place: Any) -> Any:
        """An entry of an integer array, as an i64."""
        size = kind.dtype.bitwidth // 8
        loaded = self.load(self.element(start, place, size), ir.IntType(8 * size), size)
        return loaded if size == 8 else self.builder.sext(loaded, _I64)

    def load(self, address: Any, kind: ir.Type, align: int) -> Any:
        return self.builder.load(self.builder.inttoptr(address, kind.as_pointer()), align=align)

    def put(self, value: Any, address: Any) -> None:
        self.builder.store(value, self.builder.inttoptr(address, value.type.as_pointer()), align=self.size)

    def blocks(self, width: Any, body: Callable[[Any, _Block], None]) -> None:
        """``body(column, block)`` for blocks that cover the columns ``0..width-1``."""
        builder = self.builder
        column = cgutils.alloca_once_value(builder, _I64(0))
        for size in _SIZES:
            test = builder.function.append_basic_block("fits")
            inside = builder.function.append_basic_block("block")
            after = builder.function.append_basic_block("smaller")
            builder.branch(test)
            builder.position_at_end(test)
            left = builder.sub(width, builder.load(column))
            builder.cbranch(builder.icmp_signed(">=", left, _I64(size)), inside, after)
            builder.position_at_end(inside)
            at = builder.load(column)
            body(at, _Block(self, size))
            builder.store(builder.add(at, _I64(size)), column)
            builder.branch(test)
            builder.position_at_end(after)

    def loop(self, start: Any, stop: Any, carried: list[Any], body: Callable[..., list[Any]]) -> list[Any]:
        """``for p in range(start, stop): carried = body(p, carried)``; what is carried in the end."""
        builder, before = self.builder, self.builder.block
        inside = builder.function.append_basic_block("edge")
        after = builder.function.append_basic_block("row")
        builder.cbranch(builder.icmp_signed("<", start, stop), inside, after)
        builder.position_at_end(inside)
        place = builder.phi(_I64)
        values = [builder.phi(value.type) for value in carried]
        new = body(place, values)
        following, last = builder.add(place, _I64(1)), builder.block
        for phi, first, later in zip([place, *values], [start, *carried], [following, *new], strict=True):
            phi.add_incoming(first, before)
            phi.add_incoming(later, last)
        builder.cbranch(builder.icmp_signed("<", following, stop), inside, after)
        builder.position_at_end(after)
        found = [builder.phi(value.type) for value in carried]
        for phi, first, later in zip(found, carried, new, strict=True):
            phi.add_incoming(first, before)
            phi.add_incoming(later, last)
        return found


class _Block:
    """``width`` numbers side by side, as vectors of one cache line each."""

    def __init__(self, code: _Code, width: int) -> None:
        self.code, self.builder, self.width = code, code.builder, width
        self.lanes = min(_LINE // code.size, width)
        self.vector, self.count = ir.VectorType(code.number, self.lanes), width // self.lanes
        self.zero = ir.Constant(self.vector, [0.0] * self.lanes)

    def _places(self, address: Any) -> list[Any]:
        return [self.builder.add(address, _I64(k * _LINE)) for k in range(self.count)]

    def load(self, address: Any) -> list[Any]:
        return [self.code.load(place, self.vector, self.code.size) for place in self._places(address)]

    def store(self, values: list[Any], address: Any) -> None:
        for value, place in zip(values, self._places(address), strict=True):
            self.code.put(value, place)

    def prefetch(self, address: Any) -> None:
        """Ask for the cache lines of a block that will be read."""
        pointer = _BYTE.as_pointer()
        kind = ir.FunctionType(ir.VoidType(), [pointer, _I32, _I32, _I32])
        function = cgutils.get_or_insert_function(self.builder.module, kind, "llvm.prefetch.p0")
        for place in self._places(address):
            # To read, and into every level of cache.
            self.builder.call(function, [self.builder.inttoptr(place, pointer), _I32(0), _I32(3), _I32(1)])

    def splat(self, scalar: Any) -> Any:
        undefined = ir.Constant(self.vector, ir.Undefined)
        first = self.builder.insert_element(undefined, scalar, _I32(0))
        everywhere = ir.Constant(ir.VectorType(_I32, self.lanes), [0] * self.lanes)
        return self.builder.shuffle_vector(first, undefined, everywhere)

    def multiply_add(self, a: Any, b: Any, c: Any) -> Any:
        product = self.builder.fmul(a, b, flags=("contract",))
        return self.builder.fadd(product, c, flags=("contract",))

    def total(self, vector: Any) -> Any:
        """The sum of a vector's elements, halves first."""
        parts = [self.builder.extract_element(vector, _I32(i)) for i in range(self.lanes)]
        while len(parts) > 1:
            half = len(parts) // 2
            parts = [self.builder.fadd(a, b) for a, b in zip(parts[:half], parts[half:], strict=True)]
        return parts[0]


@intrinsic
def sum_rows(
    typingctx: Any,  # noqa: ARG001 (numba passes it)
    out: Any,
    out_at: Any,
    table: Any,
    table_at: Any,
    stride: Any,
    width: Any,
    col: Any,
    weight: Any,
    position: Any,
    heads: Any,
    head: Any,
    start: Any,
    stop: Any,
) -> Any:
    """``out[out_at:][:width] = sum of weight * table[col[p] * stride + table_at:][:width]``, arrays flat.

    ``weight`` holds ``heads`` numbers an edge, of which number ``head`` counts: edge ``p``'s, or
    ``position[p]``'s where that is not None; a ``weight`` of None is 1.
    """
    given = (out, out_at, table, table_at, stride, width, col, weight, position, heads, head, start, stop)

    def generate(context: Any, builder: ir.IRBuilder, _signature: Any, values: Any) -> Any:
        code = _Code(context, builder, table.dtype)
        args = [code.widened(kind, value) for kind, value in zip(given, values, strict=True)]
        target = code.element(code.address(out, args[0]), args[1], code.size)
        source = code.element(code.address(table, args[2]), args[3], code.size)
        cols, weights, places = (code.address(k, a) for k, a in zip(given[6:9], args[6:9], strict=True))

        def row(place: Any, column: Any) -> Any:
            number = builder.mul(code.index(cols, col, place), args[4])
            return code.element(source, builder.add(number, column), code.size)

        def sum_block(column: Any, block: _Block) -> None:
            def add(p: Any, sums: list[Any]) -> list[Any]:
                block.prefetch(row(builder.add(p, _I64(AHEAD)), column))
                values = block.load(row(p, column))
                if isinstance(weight, types.NoneType):
                    return [builder.fadd(v, s) for v, s in zip(values, sums, strict=True)]
                by_place = isinstance(position, types.NoneType)
                number = p if by_place else code.index(places, position, p)
                number = builder.add(builder.mul(number, args[9]), args[10])
                factor = block.splat(
                    code.load(code.element(weights, number, code.size), code.number, code.size)
                )
                return [block.multiply_add(v, factor, s) for v, s in zip(values, sums, strict=True)]

            sums = code.loop(args[11], args[12], [block.zero] * block.count, add)
            block.store(sums, code.element(target, column, code.size))

        code.blocks(args[5], sum_block)
        return context.get_dummy_value()

    return types.void(*given), generate


@intrinsic
def dot_rows(
    typingctx: Any,  # noqa: ARG001 (numba passes it)
    found: Any,
    row: Any,
    row_at: Any,
    table: Any,
    table_at: Any,
    stride: Any,
    width: Any,
    col: Any,
    heads: Any,
    head: Any,
    start: Any,
    stop: Any,
) -> Any:
    """``found[p * heads + head] += dot(row[row_at:][:width], table[col[p] * stride + table_at:][:width])``, flat."""
    given = (found, row, row_at, table, table_at, stride, width, col, heads, head, start, stop)

    def generate(context: Any, builder: ir.IRBuilder, _signature: Any, values: Any) -> Any:
        code = _Code(context, builder, table.dtype)
        args = [code.widened(kind, value) for kind, value in zip(given, values, strict=True)]
        results = code.address(found, args[0])
        mine = code.element(code.address(row, args[1]), args[2], code.size)
        source = code.element(code.address(table, args[3]), args[4], code.size)
        cols = code.address(col, args[7])

        def other(place: Any, column: Any) -> Any:
            number = builder.mul(code.index(cols, col, place), args[5])
            return code.element(source, builder.add(number, column), code.size)

        def dot_block(column: Any, block: _Block) -> None:
            own = block.load(code.element(mine, column, code.size))

            def dot(p: Any, _: list[Any]) -> list[Any]:
                block.prefetch(other(builder.add(p, _I64(AHEAD)), column))
                products = block.zero
                for a, b in zip(own, block.load(other(p, column)), strict=True):
                    products = block.multiply_add(a, b, products)
                place = code.element(results, builder.add(builder.mul(p, args[8]), args[9]), code.size)
                before = code.load(place, code.number, code.size)
                code.put(builder.fadd(before, block.total(products)), place)
                return []

            code.loop(args[10], args[11], [], dot)

        code.blocks(args[6], dot_block)
        return context.get_dummy_value()

    return types.void(*given), generate
