"""Inner loops over a row's edges, written as LLVM vector code for numba.

::

    sum_rows:  out[:width]  = sum of weight[p] * table[col[p], :width]       p = start..stop-1
    dot_rows:  found[p]    += dot(row[:width], table[col[p], :width])
    largest_rows, smallest_rows, hit_rows: extremes by column, and their gradient

A loop that numba compiles by itself adds into memory, a load and a store for every element of every edge. Here
the sums stay in registers, and the rows of a few edges ahead are prefetched: their places in memory are random,
so what such a loop waits for is the memory system.

Rows are cut into blocks whose width is known at compile time (``Code.blocks``). Arrays are flat and C-contiguous.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from graphshard.kernels.vectors import AHEAD, I64, Block, Code


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
        code = Code(context, builder, table.dtype)
        args = [code.widened(kind, value) for kind, value in zip(given, values, strict=True)]
        target = code.element(code.address(out, args[0]), args[1], code.size)
        source = code.element(code.address(table, args[2]), args[3], code.size)
        cols, weights, places = (code.address(k, a) for k, a in zip(given[6:9], args[6:9], strict=True))

        def row(place: Any, column: Any) -> Any:
            number = builder.mul(code.index(cols, col, place), args[4])
            return code.element(source, builder.add(number, column), code.size)

        def sum_block(column: Any, block: Block) -> None:
            def add(p: Any, sums: list[Any]) -> list[Any]:
                block.prefetch(row(builder.add(p, I64(AHEAD)), column))
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
        code = Code(context, builder, table.dtype)
        args = [code.widened(kind, value) for kind, value in zip(given, values, strict=True)]
        results = code.address(found, args[0])
        mine = code.element(code.address(row, args[1]), args[2], code.size)
        source = code.element(code.address(table, args[3]), args[4], code.size)
        cols = code.address(col, args[7])

        def other(place: Any, column: Any) -> Any:
            number = builder.mul(code.index(cols, col, place), args[5])
            return code.element(source, builder.add(number, column), code.size)

        def dot_block(column: Any, block: Block) -> None:
            own = block.load(code.element(mine, column, code.size))

            def dot(p: Any, _: list[Any]) -> list[Any]:
                block.prefetch(other(builder.add(p, I64(AHEAD)), column))
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


def _extreme_rows(better_than: str) -> Any:
    """An intrinsic that finds the extreme of each column, and how many are equal to it."""

    @intrinsic
    def extreme_rows(
        typingctx: Any,  # noqa: ARG001 (numba passes it)
        out: Any,
        ties: Any,
        out_at: Any,
        table: Any,
        width: Any,
        col: Any,
        start: Any,
        stop: Any,
    ) -> Any:
        """``out[out_at:][:width]`` = the extreme of ``table[col[p] * width:][:width]``; 0 and no tie without edges.

        A NaN is the extreme of its column, with no tie: it is equal to nothing.
        """
        given = (out, ties, out_at, table, width, col, start, stop)

        def generate(context: Any, builder: ir.IRBuilder, _signature: Any, values: Any) -> Any:
            code = Code(context, builder, table.dtype)
            args = [code.widened(kind, value) for kind, value in zip(given, values, strict=True)]
            targets = [
                code.element(code.address(k, a), args[2], code.size)
                for k, a in zip(given[:2], args[:2], strict=True)
            ]
            source, cols = code.address(table, args[3]), code.address(col, args[5])
            is_empty = builder.icmp_signed(">=", args[6], args[7])

            def row(place: Any, column: Any) -> Any:
                number = builder.mul(code.index(cols, col, place), args[4])
                return code.element(source, builder.add(number, column), code.size)

            def block_of(column: Any, block: Block) -> None:
                worst = block.constant("-inf" if better_than == ">" else "inf")
                one = block.constant(1.0)

                def take(p: Any, carried: list[Any]) -> list[Any]:
                    block.prefetch(row(builder.add(p, I64(AHEAD)), column))
                    best, counts = carried[: block.count], carried[block.count :]
                    new_best, new_counts = [], []
                    for value, top, count in zip(block.load(row(p, column)), best, counts, strict=True):
                        nan = builder.fcmp_unordered("uno", value, value)
                        better = builder.or_(builder.fcmp_ordered(better_than, value, top), nan)
                        tie = builder.fcmp_ordered("==", value, top)
                        more = builder.select(tie, builder.fadd(count, one), count)
                        new_best.append(builder.select(better, value, top))
                        new_counts.append(builder.select(better, builder.select(nan, block.zero, one), more))
                    return [*new_best, *new_counts]

                found = code.loop(args[6], args[7], [worst] * block.count + [block.zero] * block.count, take)
                none = block.splat_bit(is_empty)
                found = [builder.select(none, block.zero, value) for value in found]
                for part, target in zip((found[: block.count], found[block.count :]), targets, strict=True):
                    block.store(part, code.element(target, column, code.size))

            code.blocks(args[4], block_of)
            return context.get_dummy_value()

        return types.void(*given), generate

    return extreme_rows


largest_rows, smallest_rows = _extreme_rows(">"), _extreme_rows("<")


@intrinsic
def hit_rows(
    typingctx: Any,  # noqa: ARG001 (numba passes it)
    out: Any,
    table: Any,
    at: Any,
    best: Any,
    share: Any,
    width: Any,
    col: Any,
    start: Any,
    stop: Any,
) -> Any:
    """``out[at:][:width] = sum of share[row] * (table[at:][:width] == best[row])`` over the rows ``col[p]``.

    A product, as PyTorch's own derivative has it: 0 times infinity is NaN.
    """
    given = (out, table, at, best, share, width, col, start, stop)

    def generate(context: Any, builder: ir.IRBuilder, _signature: Any, values: Any) -> Any:
        code = Code(context, builder, table.dtype)
        args = [code.widened(kind, value) for kind, value in zip(given, values, strict=True)]
        target = code.element(code.address(out, args[0]), args[2], code.size)
        mine = code.element(code.address(table, args[1]), args[2], code.size)
        sources = [code.address(k, a) for k, a in zip(given[3:5], args[3:5], strict=True)]
        cols = code.address(col, args[6])

        def rows(place: Any, column: Any) -> list[Any]:
            number = builder.add(builder.mul(code.index(cols, col, place), args[5]), column)
            return [code.element(source, number, code.size) for source in sources]

        def hit_block(column: Any, block: Block) -> None:
            own, one = block.load(code.element(mine, column, code.size)), block.constant(1.0)

            def add(p: Any, sums: list[Any]) -> list[Any]:
                for place in rows(builder.add(p, I64(AHEAD)), column):
                    block.prefetch(place)
                tops, shares = (block.load(place) for place in rows(p, column))
                hits = [
                    builder.select(builder.fcmp_ordered("==", a, b), one, block.zero)
                    for a, b in zip(own, tops, strict=True)
                ]
                return [block.multiply_add(h, s, t) for h, s, t in zip(hits, shares, sums, strict=True)]

            sums = code.loop(args[7], args[8], [block.zero] * block.count, add)
            block.store(sums, code.element(target, column, code.size))

        code.blocks(args[5], hit_block)
        return context.get_dummy_value()

    return types.void(*given), generate
