"""Inner loops over a row's edges, written as LLVM vector code for numba.

::

    sum_rows:  out[:width]  = sum of weight[p] * table[col[p], :width]       p = start..stop-1
    dot_rows:  found[p]    += dot(row[:width], table[col[p], :width])
    softmax_row, softmax_gradient_row: shares among a row's edges; extreme_loops.py has the extremes

A loop that numba compiles by itself adds into memory, a load and a store for every element of every edge. Here
the sums stay in registers, and the rows of a few edges ahead are prefetched: their places in memory are random,
so what such a loop waits for is the memory system.

Rows are cut into blocks whose width is known at compile time (``Code.blocks``). Arrays are flat and C-contiguous.
"""

from __future__ import annotations

from typing import Any

from numba import types
from numba.extending import intrinsic

from graphshard.kernels.vectors import AHEAD, I64, Block, Code
from graphshard.private.numba_internals import converted, ir, nothing


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
        return nothing(context)

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
        return nothing(context)

    return types.void(*given), generate


@intrinsic
def softmax_row(
    typingctx: Any,  # noqa: ARG001 (numba passes it)
    out: Any,
    scores: Any,
    heads: Any,
    small: Any,
    start: Any,
    stop: Any,
) -> Any:
    """``out[p] = exp(scores[p] - max) / (sum + small)`` for each head, over the edges p of one row."""
    given = (out, scores, heads, small, start, stop)

    def generate(context: Any, builder: ir.IRBuilder, _signature: Any, values: Any) -> Any:
        code = Code(context, builder, scores.dtype)
        args = [code.widened(kind, value) for kind, value in zip(given, values, strict=True)]
        target, source = code.address(out, args[0]), code.address(scores, args[1])
        added = converted(context, builder, args[3], small, scores.dtype)

        def at(begin: Any, place: Any, column: Any) -> Any:
            return code.element(begin, builder.add(builder.mul(place, args[2]), column), code.size)

        def heads_block(column: Any, block: Block) -> None:
            def larger(p: Any, carried: list[Any]) -> list[Any]:
                (value,) = block.load(at(source, p, column))
                better = builder.fcmp_unordered(">", value, carried[0])  # a NaN stays
                return [builder.select(better, value, carried[0])]

            (top,) = code.loop(args[4], args[5], [block.constant("-inf")], larger)

            def power(p: Any, carried: list[Any]) -> list[Any]:
                (value,) = block.load(at(source, p, column))
                value = block.exponential(builder.fsub(value, top))
                block.store([value], at(target, p, column))
                return [builder.fadd(carried[0], value)]

            (total,) = code.loop(args[4], args[5], [block.zero], power)
            total = builder.fadd(total, block.splat(added))

            def share(p: Any, _: list[Any]) -> list[Any]:
                (value,) = block.load(at(target, p, column))
                block.store([builder.fdiv(value, total)], at(target, p, column))
                return []

            code.loop(args[4], args[5], [], share)

        code.blocks(args[2], heads_block, at_most=code.lanes)
        return nothing(context)

    return types.void(*given), generate


@intrinsic
def softmax_gradient_row(
    typingctx: Any,  # noqa: ARG001 (numba passes it)
    out: Any,
    shares: Any,
    grad: Any,
    heads: Any,
    start: Any,
    stop: Any,
) -> Any:
    """``out[p] = shares[p] * (grad[p] - sum of shares * grad)`` for each head, over the edges p of one row."""
    given = (out, shares, grad, heads, start, stop)

    def generate(context: Any, builder: ir.IRBuilder, _signature: Any, values: Any) -> Any:
        code = Code(context, builder, shares.dtype)
        args = [code.widened(kind, value) for kind, value in zip(given, values, strict=True)]
        target, parts, grads = (code.address(k, a) for k, a in zip(given[:3], args[:3], strict=True))

        def at(begin: Any, place: Any, column: Any) -> Any:
            return code.element(begin, builder.add(builder.mul(place, args[3]), column), code.size)

        def heads_block(column: Any, block: Block) -> None:
            def add(p: Any, carried: list[Any]) -> list[Any]:
                ((share,), (g,)) = (block.load(at(begin, p, column)) for begin in (parts, grads))
                return [block.multiply_add(share, g, carried[0])]

            (total,) = code.loop(args[4], args[5], [block.zero], add)

            def put(p: Any, _: list[Any]) -> list[Any]:
                ((share,), (g,)) = (block.load(at(begin, p, column)) for begin in (parts, grads))
                block.store([builder.fmul(share, builder.fsub(g, total))], at(target, p, column))
                return []

            code.loop(args[4], args[5], [], put)

        code.blocks(args[3], heads_block, at_most=code.lanes)
        return nothing(context)

    return types.void(*given), generate
