"""What ``graphshard.private.numba_internals`` relies on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

numba = pytest.importorskip("numba")

from numba import types  # noqa: E402
from numba.extending import intrinsic  # noqa: E402

from graphshard.private import numba_internals as internals  # noqa: E402

pytestmark = pytest.mark.versions

I64 = internals.ir.IntType(64)


@intrinsic
def root_at(typingctx: Any, array: Any, number: Any) -> Any:
    """``sqrt(array[number])``, and 1 is written there, by way of addresses that are numbers."""

    def generate(context: Any, builder: Any, _signature: Any, values: Any) -> Any:
        kind = internals.machine_type(context, array.dtype)
        place = internals.converted(context, builder, values[1], number, types.int64)
        data = internals.array_data(context, builder, array, values[0])
        start = builder.ptrtoint(data, I64)
        address = builder.load(internals.variable(builder, builder.add(start, builder.mul(place, I64(8)))))
        found = internals.load(builder, address, kind, 8)
        internals.store(builder, internals.ir.Constant(kind, 1.0), address, 8)
        return internals.call_intrinsic(builder, "llvm.sqrt.f64", kind, [found])

    return array.dtype(array, number), generate


@intrinsic
def prefetch(typingctx: Any, array: Any) -> Any:
    """An LLVM intrinsic that takes a pointer and returns nothing."""

    def generate(context: Any, builder: Any, _signature: Any, values: Any) -> Any:
        ir, byte = internals.ir, internals.pointer_to(internals.ir.IntType(8))
        data = builder.ptrtoint(internals.array_data(context, builder, array, values[0]), I64)
        arguments = [builder.inttoptr(data, byte), *(ir.IntType(32)(n) for n in (0, 3, 1))]
        internals.call_intrinsic(builder, "llvm.prefetch.p0", ir.VoidType(), arguments)
        return internals.nothing(context)

    return types.void(array), generate


def test_an_intrinsic_reads_and_writes_an_array_by_addresses() -> None:
    """``make_array``, ``get_data_type``, ``cast``, ``cgutils`` and llvmlite's pointers, all in one function."""
    array = np.array([4.0, 9.0, 16.0])

    @numba.njit
    def compiled(values: Any, number: Any) -> Any:
        return root_at(values, number)  # type: ignore[call-arg]

    assert compiled(array, np.int32(1)) == 3.0
    assert array.tolist() == [4.0, 1.0, 16.0]


def test_an_intrinsic_returns_nothing() -> None:
    """``get_dummy_value`` is what ``types.void`` wants; ``llvm.prefetch.p0`` takes a byte's pointer."""

    @numba.njit
    def run(array: Any) -> int:
        prefetch(array)  # type: ignore[call-arg]
        return len(array)

    assert run(np.zeros(3)) == 3


def test_a_block_says_where_machine_code_is_kept(tmp_path: Path) -> None:
    """numba reads ``config.CACHE_DIR`` when a function is decorated; the user's own setting is given back."""
    before = internals.chosen_folder()
    with internals.cache_folder(str(tmp_path)):
        assert internals.chosen_folder() == str(tmp_path)
        compiled = numba.njit(cache=True)(twice)
    assert internals.chosen_folder() == before
    assert compiled(2) == 4
    assert list(tmp_path.rglob("*.nbi")), "numba keeps its machine code elsewhere"


def twice(x: int) -> int:
    return 2 * x


def test_machine_code_is_named_by_versions_and_processor() -> None:
    found = internals.toolchain()
    assert found[0] == numba.__version__
    assert all(isinstance(part, str) and part for part in found)
