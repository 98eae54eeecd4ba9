"""One function of PyTorch as a program: its arguments as a signature, captured and placed as a model is."""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from graphshard.border.counts import RowCount
from graphshard.capture.examples import Signature, TensorSpec, example_inputs, sizes_for
from graphshard.capture.explain import first_line
from graphshard.capture.export import capture
from graphshard.capture.own_thread import ONE_CAPTURE, in_own_thread
from graphshard.check.module import check_capture
from graphshard.errors import CaptureError, ShardError, UnsupportedOperation
from graphshard.execute.run import Compiled, compile_captured
from graphshard.graph.roles import Role
from graphshard.ir.placement import Given, Rows
from graphshard.options import Options
from graphshard.private import pytree
from graphshard.private.torch_functions import function_name
from graphshard.private.torch_tensors import version_of
from graphshard.shard.placed import PlacedTensor, plain
from graphshard.shard.shard import shard_tensor_of


@dataclass(frozen=True)
class Number:
    """Stands for a tensor among the leaves of a call."""

    number: int


@dataclass(frozen=True)
class RowsOf:
    """Stands for a size among the leaves of a call: how many rows a tensor has along a dim."""

    number: int
    dim: int


class Function(nn.Module):
    """A function as a module over its tensor arguments.

    Args:
        func: of PyTorch.
        leaves: of its arguments; tensors and sizes by what stands for them.
        structure: how the leaves make up ``(args, kwargs)``.

    Attributes:
        writes: the numbers of the tensors that it writes into: of these it takes copies, and returns them.
    """

    def __init__(self, func: Callable[..., Any], leaves: tuple[Any, ...], structure: pytree.TreeSpec) -> None:
        super().__init__()
        self.func, self.leaves, self.structure = func, leaves, structure
        self.writes: tuple[int, ...] = ()

    def run(self, tensors: list[Tensor]) -> Any:
        """The function of these."""
        leaves = [_leaf(leaf, tensors) for leaf in self.leaves]
        args, kwargs = pytree.tree_unflatten(leaves, self.structure)
        return self.func(*args, **kwargs)

    def forward(self, *tensors: Tensor) -> Any:
        """What the function returns, and the new values of what it writes into."""
        given = [t.clone() if number in self.writes else t for number, t in enumerate(tensors)]
        result = self.run(given)
        if any(result is given[number] for number in self.writes):
            result = None
        return result, [given[number] for number in self.writes]


def _leaf(leaf: Any, tensors: list[Tensor]) -> Any:
    if isinstance(leaf, Number):
        return tensors[leaf.number]
    return tensors[leaf.number].size(leaf.dim) if isinstance(leaf, RowsOf) else leaf


@dataclass(frozen=True)
class FunctionProgram:
    """A function, compiled.

    Attributes:
        compiled: its program, which returns ``(result, what was written)``.
        writes: the numbers of the tensors that it writes into.
        returns: the number of the one of these that it returns, if it returns one.
    """

    compiled: Compiled
    writes: tuple[int, ...]
    returns: int | None

    @functools.cached_property
    def communicates(self) -> bool:
        """Whether ranks exchange something."""
        return any(spec.target == "group" for spec in self.compiled.program.inputs)


@dataclass(frozen=True)
class Arguments:
    """The arguments of one call, but for the tensors themselves: they are kept with the program.

    Attributes:
        function: with everything that is no tensor.
        signature: of the tensors, placed or plain.
        words: what is called with what, the same on every rank.
        given: what the program calls rows that other programs made, in the order of the tensors.
    """

    function: Function
    signature: Signature
    words: str
    given: list[str]

    @classmethod
    def of(cls, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Arguments:
        """Read a call.

        Raises:
            UnsupportedOperation: an argument that no program takes.
            ShardError: the tensors belong to several shards.
        """
        leaves, structure = pytree.tree_flatten((args, kwargs))
        tensors: list[Tensor] = []
        kept: list[Any] = []
        for leaf in leaves:
            if isinstance(leaf, Tensor):
                _check(leaf)
                kept.append(Number(len(tensors)))
                tensors.append(leaf)
            else:
                kept.append(leaf)
        kept = [_as_size(leaf, tensors) for leaf in kept]
        placed = [t for t in tensors if isinstance(t, PlacedTensor)]
        shard = placed[0].shard
        if any(t.shard is not shard for t in placed):
            raise ShardError("the tensors are of different shards: use those of one")
        given: dict[str, str] = {}
        specs = tuple(_spec(t, given) for t in tensors)
        signature = Signature(
            leaves=specs,
            structure=pytree.tree_flatten((tuple(range(len(specs))), {}))[1],
            names=tuple(f"argument_{number}" for number in range(len(specs))),
            schema=shard.schema,
            device=plain(placed[0]).device,
        )
        said = ", ".join(map(_word, kept))
        words = f"{function_name(func)}({said}) {structure} {[str(spec) for spec in specs]}"
        words += f" {torch.is_grad_enabled()} {torch.get_default_dtype()}"
        return cls(Function(func, tuple(kept), structure), signature, words, list(given.values()))

    @property
    def device(self) -> torch.device:
        """Of the tensors."""
        return self.signature.device

    @property
    def key(self) -> Hashable:
        """What the program depends on."""
        return self.words, self.signature.schema, self.signature.device


def _check(tensor: Tensor) -> None:
    if tensor.layout is not torch.strided:
        raise UnsupportedOperation(
            "a sparse matrix among its arguments is this rank's part, which no function takes outside of a model: "
            "multiply by it in forward"
        )
    mark = shard_tensor_of(tensor)
    assert mark is None or isinstance(tensor, PlacedTensor) or mark.shard.world_size == 1


def _as_size(leaf: Any, tensors: list[Tensor]) -> Any:
    """A size that was read of a tensor, as that of one with the same rows."""
    if not isinstance(leaf, RowCount):
        return leaf
    for number, tensor in enumerate(tensors):
        if isinstance(tensor, PlacedTensor) and leaf.rows in tensor.placement.dims:
            return RowsOf(number, tensor.placement.dims.index(leaf.rows))
    return int(leaf)


_PLAIN = (
    bool,
    int,
    float,
    complex,
    str,
    type(None),
    torch.dtype,
    torch.device,
    torch.layout,
    torch.memory_format,
)


def _word(leaf: Any) -> str:
    """A leaf in words that are the same on every rank."""
    if isinstance(leaf, slice):
        return f"slice({_word(leaf.start)}, {_word(leaf.stop)}, {_word(leaf.step)})"
    if isinstance(leaf, (*_PLAIN, Number, RowsOf)) or leaf is Ellipsis:
        return f"{type(leaf).__name__} {leaf!r}"
    if callable(leaf) and hasattr(leaf, "__qualname__"):
        return f"{leaf.__module__}.{leaf.__qualname__}"
    raise UnsupportedOperation(
        f"its argument of class {type(leaf).__name__} cannot be compared between the ranks: pass tensors and numbers"
    )


def _spec(tensor: Tensor, given: dict[str, str]) -> TensorSpec:
    part = plain(tensor)
    needs_grad = part.requires_grad and torch.is_grad_enabled()
    if not isinstance(tensor, PlacedTensor) or tensor.placement.replicated:
        return TensorSpec(Role.REPLICATED, part.dtype, tuple(part.shape), needs_grad=needs_grad)
    placed = tensor.placement
    if len(placed.sharded) > 1:
        raise UnsupportedOperation("it has rows of the graph along two dims")
    (dim,) = placed.sharded
    rows = placed.dims[dim]
    assert rows is not None
    dims = list(placed.dims)
    dims[dim] = _inside(rows, given)
    others = tuple(n for i, n in enumerate(part.shape) if i != dim)
    return TensorSpec(
        Role.REPLICATED, part.dtype, others, needs_grad=needs_grad, placed=replace(placed, dims=tuple(dims))
    )


def _inside(rows: Rows, given: dict[str, str]) -> Rows:
    """Rows as the program calls them: by their order among the arguments, the same on every rank."""
    return Given(given.setdefault(rows.name, f"rows_{len(given)}")) if isinstance(rows, Given) else rows


def compiled_for(arguments: Arguments) -> FunctionProgram:
    """The program of a call.

    Raises:
        UnsupportedOperation, CaptureError: it would not be exact on several ranks.
    """
    return _compiled(_Request(arguments.key, arguments))


@dataclass(frozen=True)
class _Request:
    key: Hashable
    arguments: Arguments = field(compare=False)


@functools.lru_cache(maxsize=1024)
def _compiled(request: _Request) -> FunctionProgram:
    with ONE_CAPTURE:
        return in_own_thread(lambda: _captured(request.arguments))


def _captured(arguments: Arguments) -> FunctionProgram:
    function, signature = arguments.function, arguments.signature
    returns = _find_writes(function, signature)
    captured = capture(function, signature)
    captured.program.local_numbers = True
    compiled = compile_captured(captured, Options.none())
    check_capture(function, compiled)
    return FunctionProgram(compiled, function.writes, returns)


def _find_writes(function: Function, signature: Signature) -> int | None:
    """Run the function on examples; note into which tensors it writes, and which of them it returns."""
    sizes, _ = sizes_for(function, signature)
    flat = example_inputs(signature, sizes)
    before = [version_of(t) for t in flat]
    try:
        result = function.run(flat)
    except Exception as error:
        raise CaptureError(f"{first_line(error).rstrip('.')}{_hint(signature)}") from error
    function.writes = tuple(
        i for i, (t, v) in enumerate(zip(flat, before, strict=True)) if version_of(t) != v
    )
    return next((i for i in function.writes if result is flat[i]), None)


def _hint(signature: Signature) -> str:
    """Why tensors may not go together that are as long on one rank as the other."""
    rows = dict.fromkeys(str(spec.rows[1]) for spec in signature.arguments if spec.rows is not None)
    hint = f". Its arguments have different rows, {' and '.join(rows)}" if len(rows) > 1 else ""
    if any(spec.placed is None and spec.trailing for spec in signature.arguments):
        hint += (
            ". A plain tensor among the arguments is one that every rank holds whole: shard.scatter(tensor, 'node') "
            "gives this rank's rows of a tensor with a row for each node"
        )
    return hint
