"""LLVM vector code for numba: address arithmetic, loops over edges, and blocks of numbers side by side."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numba import types

from graphshard.private.numba_internals import (
    array_data,
    call_intrinsic,
    converted,
    ir,
    load,
    machine_type,
    pointer_to,
    store,
    variable,
)

AHEAD = 8
"""How many edges ahead rows are prefetched: index arrays have as many entries more than there are edges."""

_LINE = 64  # bytes of a cache line, and of a vector
_BYTE, I32, I64 = ir.IntType(8), ir.IntType(32), ir.IntType(64)


_SIZES = (128, 64, 32, 16, 8, 4, 2, 1)
"""Rows are cut into blocks of so many numbers, the largest first."""


class Code:
    """Emits address arithmetic, loops, and loads of numbers."""

    def __init__(self, context: Any, builder: ir.IRBuilder, dtype: Any) -> None:
        self.context, self.builder = context, builder
        self.number, self.size = machine_type(context, dtype), dtype.bitwidth // 8

    def address(self, kind: Any, array: Any) -> Any:
        """Where an array's data begins, as an integer; 0 for None."""
        if isinstance(kind, types.NoneType):
            return I64(0)
        return self.builder.ptrtoint(array_data(self.context, self.builder, kind, array), I64)

    def widened(self, kind: Any, value: Any) -> Any:
        """Integers as i64, anything else as it is."""
        is_integer = isinstance(kind, types.Integer)
        return converted(self.context, self.builder, value, kind, types.int64) if is_integer else value

    def element(self, start: Any, number: Any, size: int) -> Any:
        """The address of an element of ``size`` bytes."""
        return self.builder.add(start, self.builder.mul(number, I64(size)))

    def index(self, start: Any, kind: Any, place: Any) -> Any:
        """An entry of an integer array, as an i64."""
        size = kind.dtype.bitwidth // 8
        loaded = self.load(self.element(start, place, size), ir.IntType(8 * size), size)
        return loaded if size == 8 else self.builder.sext(loaded, I64)

    def load(self, address: Any, kind: ir.Type, align: int) -> Any:
        return load(self.builder, address, kind, align)

    def put(self, value: Any, address: Any) -> None:
        store(self.builder, value, address, align=self.size)

    @property
    def lanes(self) -> int:
        """Numbers in a vector of one cache line."""
        return int(_LINE // self.size)

    def blocks(self, width: Any, body: Callable[[Any, Block], None], at_most: int = _SIZES[0]) -> None:
        """``body(column, block)`` for blocks of no more than ``at_most`` that cover the columns ``0..width-1``."""
        builder = self.builder
        column = variable(builder, I64(0))
        for size in (size for size in _SIZES if size <= at_most):
            test = builder.function.append_basic_block("fits")
            inside = builder.function.append_basic_block("block")
            after = builder.function.append_basic_block("smaller")
            builder.branch(test)
            builder.position_at_end(test)
            left = builder.sub(width, builder.load(column))
            builder.cbranch(builder.icmp_signed(">=", left, I64(size)), inside, after)
            builder.position_at_end(inside)
            at = builder.load(column)
            body(at, Block(self, size))
            builder.store(builder.add(at, I64(size)), column)
            builder.branch(test)
            builder.position_at_end(after)

    def loop(self, start: Any, stop: Any, carried: list[Any], body: Callable[..., list[Any]]) -> list[Any]:
        """``for p in range(start, stop): carried = body(p, carried)``; what is carried in the end."""
        builder, before = self.builder, self.builder.block
        inside = builder.function.append_basic_block("edge")
        after = builder.function.append_basic_block("row")
        builder.cbranch(builder.icmp_signed("<", start, stop), inside, after)
        builder.position_at_end(inside)
        place = builder.phi(I64)
        values = [builder.phi(value.type) for value in carried]
        new = body(place, values)
        following, last = builder.add(place, I64(1)), builder.block
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


class Block:
    """``width`` numbers side by side, as vectors of one cache line each."""

    def __init__(self, code: Code, width: int) -> None:
        self.code, self.builder, self.width = code, code.builder, width
        self.lanes = min(_LINE // code.size, width)
        self.vector, self.count = ir.VectorType(code.number, self.lanes), width // self.lanes
        self.zero = self.constant(0.0)

    def constant(self, value: Any) -> Any:
        return ir.Constant(self.vector, [float(value)] * self.lanes)

    def splat_bit(self, bit: Any) -> Any:
        """A condition, for every lane."""
        kind = ir.VectorType(ir.IntType(1), self.lanes)
        first = self.builder.insert_element(ir.Constant(kind, ir.Undefined), bit, I32(0))
        everywhere = ir.Constant(ir.VectorType(I32, self.lanes), [0] * self.lanes)
        return self.builder.shuffle_vector(first, ir.Constant(kind, ir.Undefined), everywhere)

    def _places(self, address: Any) -> list[Any]:
        return [self.builder.add(address, I64(k * _LINE)) for k in range(self.count)]

    def load(self, address: Any) -> list[Any]:
        return [self.code.load(place, self.vector, self.code.size) for place in self._places(address)]

    def store(self, values: list[Any], address: Any) -> None:
        for value, place in zip(values, self._places(address), strict=True):
            self.code.put(value, place)

    def prefetch(self, address: Any) -> None:
        """Ask for the cache lines of a block that will be read."""
        for place in self._places(address):
            # To read, and into every level of cache.
            arguments = [self.builder.inttoptr(place, pointer_to(_BYTE)), I32(0), I32(3), I32(1)]
            call_intrinsic(self.builder, "llvm.prefetch.p0", ir.VoidType(), arguments)

    def splat(self, scalar: Any) -> Any:
        undefined = ir.Constant(self.vector, ir.Undefined)
        first = self.builder.insert_element(undefined, scalar, I32(0))
        everywhere = ir.Constant(ir.VectorType(I32, self.lanes), [0] * self.lanes)
        return self.builder.shuffle_vector(first, undefined, everywhere)

    def multiply_add(self, a: Any, b: Any, c: Any) -> Any:
        product = self.builder.fmul(a, b, flags=("contract",))
        return self.builder.fadd(product, c, flags=("contract",))

    def call(self, name: str, *values: Any) -> Any:
        """An LLVM intrinsic on vectors, such as ``llvm.floor``."""
        letter = {4: "f32", 8: "f64"}[self.code.size]
        return call_intrinsic(self.builder, f"{name}.v{self.lanes}{letter}", self.vector, values)

    def exponential(self, x: Any) -> Any:
        """``exp(x)`` for x <= 0.

        In float32 a polynomial, to 1 unit in the last place: ``2^n * e^r`` with r in +-ln(2)/2. Source of the
        coefficients: Cephes, ``expf`` (S. L. Moshier, 1989).
        """
        if self.code.size != 4:
            return self.call("llvm.exp", x)
        builder, c = self.builder, self.constant
        n = self.call("llvm.floor", self.multiply_add(x, c(1.44269504088896341), c(0.5)))
        r = self.multiply_add(n, c(2.12194440e-4), self.multiply_add(n, c(-0.693359375), x))
        y = c(1.9875691500e-4)
        for factor in (1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1):
            y = self.multiply_add(y, r, c(factor))
        y = builder.fadd(self.multiply_add(builder.fmul(y, r), r, r), c(1.0))
        least = builder.fcmp_ordered("<", n, c(-127.0))
        exponent = builder.fptosi(builder.select(least, c(-127.0), n), ir.VectorType(I32, self.lanes))
        bits = builder.shl(builder.add(exponent, self._integers(127)), self._integers(23))
        return builder.fmul(y, builder.bitcast(bits, self.vector))

    def _integers(self, value: int) -> Any:
        return ir.Constant(ir.VectorType(I32, self.lanes), [value] * self.lanes)

    def total(self, vector: Any) -> Any:
        """The sum of a vector's elements, halves first."""
        parts = [self.builder.extract_element(vector, I32(i)) for i in range(self.lanes)]
        while len(parts) > 1:
            half = len(parts) // 2
            parts = [self.builder.fadd(a, b) for a, b in zip(parts[:half], parts[half:], strict=True)]
        return parts[0]
