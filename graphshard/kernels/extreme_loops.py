"""Inner loops for the extremes of a row's edges by column, and for their gradient; see ``edge_loops``."""

from __future__ import annotations

from typing import Any

from numba import types
from numba.extending import intrinsic

from graphshard.kernels.vectors import AHEAD, I64, Block, Code
from graphshard.private.numba_internals import ir, nothing


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
            return nothing(context)

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
        return nothing(context)

    return types.void(*given), generate
