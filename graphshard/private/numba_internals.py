"""LLVM code inside of functions that numba compiles, and where numba keeps machine code. Imports numba.

``numba.extending.intrinsic``, by which the kernels hand their code to numba, is documented; what the function behind
it is given (a target context, a builder of llvmlite) is not. Seen to work with numba 0.61 to 0.68 and llvmlite 0.44
to 0.50.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from unittest import mock

import llvmlite
import numba
from llvmlite import binding, ir
from numba.core import cgutils

__all__ = [
    "array_data",
    "cache_folder",
    "call_intrinsic",
    "chosen_folder",
    "converted",
    "ir",
    "load",
    "machine_type",
    "nothing",
    "pointer_to",
    "store",
    "toolchain",
    "variable",
]


# ---- values of numba in LLVM -----------------------------------------------------------------------------------


def machine_type(context: Any, kind: Any) -> Any:
    """LLVM's type of a type of numba, as ``float`` for ``float32``. Relies on ``context.get_data_type``."""
    return context.get_data_type(kind)


def array_data(context: Any, builder: ir.IRBuilder, kind: Any, array: Any) -> Any:
    """The pointer to an array's first element.

    Relies on ``context.make_array(kind)(context, builder, array).data``, as numba's own indexing does.
    """
    return context.make_array(kind)(context, builder, array).data


def converted(context: Any, builder: ir.IRBuilder, value: Any, kind: Any, wanted: Any) -> Any:
    """A number of one type of numba as another. Relies on ``context.cast(builder, value, from, to)``."""
    return context.cast(builder, value, kind, wanted)


def nothing(context: Any) -> Any:
    """What an intrinsic that returns ``types.void`` hands back. Relies on ``context.get_dummy_value``."""
    return context.get_dummy_value()


def variable(builder: ir.IRBuilder, value: Any) -> Any:
    """A place on the stack that holds a value, allocated once for a function wherever the builder stands.

    Relies on ``numba.core.cgutils.alloca_once_value``.
    """
    return cgutils.alloca_once_value(builder, value)


# ---- LLVM ------------------------------------------------------------------------------------------------------


def pointer_to(kind: ir.Type) -> Any:
    """The type of addresses of a type. Relies on ``ir.Type.as_pointer``, of LLVM's typed pointers and opaque ones."""
    return kind.as_pointer()


def load(builder: ir.IRBuilder, address: Any, kind: ir.Type, align: int) -> Any:
    """What stands at an address that is a number.

    Relies on ``IRBuilder.load`` knowing what it loads by the type of the pointer.
    """
    return builder.load(builder.inttoptr(address, pointer_to(kind)), align=align)


def store(builder: ir.IRBuilder, value: Any, address: Any, align: int) -> None:
    """Write a value to an address that is a number. Relies on ``IRBuilder.store`` taking a pointer to its type."""
    builder.store(value, builder.inttoptr(address, pointer_to(value.type)), align=align)


def call_intrinsic(builder: ir.IRBuilder, name: str, result: ir.Type, values: Sequence[Any]) -> Any:
    """Call one of LLVM's own functions, as ``llvm.floor.v16f32``.

    Relies on ``numba.core.cgutils.get_or_insert_function``, which declares it once for a module.
    """
    kind = ir.FunctionType(result, [value.type for value in values])
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), values)


# ---- machine code on disk --------------------------------------------------------------------------------------


def toolchain() -> tuple[str, ...]:
    """What decides, beside the source, which machine code numba makes: versions, and the processor.

    Documented: ``llvmlite.binding.get_host_cpu_name`` and ``get_host_cpu_features``.
    """
    features = binding.get_host_cpu_features().flatten()
    return numba.__version__, llvmlite.__version__, binding.get_host_cpu_name(), features


def chosen_folder() -> str:
    """Where the user wants numba to keep machine code, ``""`` without a wish. Relies on ``numba.config.CACHE_DIR``."""
    config: Any = numba.config  # its attributes are set at run time, from the environment
    return str(config.CACHE_DIR or "")


@contextmanager
def cache_folder(folder: str) -> Iterator[None]:
    """What is decorated inside the block with ``njit(cache=True)`` keeps its machine code in a folder.

    Relies on numba reading ``config.CACHE_DIR`` and ``config.CACHE_LOCATOR_CLASSES`` (older ones have none) when a
    function is decorated.
    """
    with mock.patch.multiple(numba.config, create=True, CACHE_DIR=folder, CACHE_LOCATOR_CLASSES=""):
        yield
