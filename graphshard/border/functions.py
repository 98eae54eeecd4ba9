"""Functions of PyTorch on placed tensors: what runs when a script computes with what it got from a model or a shard.

::

    F.cross_entropy(out[mask], y[mask])
        out[mask]         captured for (Owned, Owned), rows that the mask keeps       no communication
        y[mask]           the same rows, for they are called alike
        cross_entropy     captured for (Given, Given), a mean over all ranks' rows    one all-reduce

A function is captured once for each kind of arguments (their placements, dtypes and sizes) by the pipeline that
captures models, and kept by the shard. What asks only for a tensor's kind, or reads a value that every rank holds
whole, runs as it is.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from graphshard.border.beside import beside_of
from graphshard.border.counts import numel_of, rows_along, shape_of, size_of
from graphshard.border.derivatives import DERIVATIVES, check_backward
from graphshard.border.function_program import Arguments, compiled_for
from graphshard.border.known import Kind, Known, kind_of
from graphshard.border.lists import LISTS
from graphshard.border.values import digest, same_on_all
from graphshard.capture.calls import line_of
from graphshard.capture.own_thread import is_capturing
from graphshard.errors import CaptureError, GraphshardError, RuntimeMismatch, ShardError, UnsupportedOperation
from graphshard.execute.agreement import agree_on_function
from graphshard.private import pytree
from graphshard.private.torch_functions import WithoutTorchFunction, function_name, same_kind_of_memory
from graphshard.ranks.groups import default_group, group_size, meet_threads
from graphshard.shard.placed import Origin, PlacedTensor, Stored, as_placed, name_of, plain
from graphshard.shard.shard import Shard
from graphshard.wrapper.refusals import check_surroundings

__all__ = ["call"]


def call(
    func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], *, stored: bool = False
) -> Any:
    """What ``__torch_function__`` of a placed tensor does.

    Args:
        func, args, kwargs: what was called.
        stored: whether node parameters are among the arguments, or their gradients.

    Raises:
        UnsupportedOperation, CaptureError: the function would not be exact over these rows; names the user's line.
        RuntimeMismatch: another rank calls another function.
    """
    if func in _KIND:
        with WithoutTorchFunction():
            return func(*args, **kwargs)
    if (answer := _OF_THE_TENSOR.get(func)) is not None:
        return answer(func, args, kwargs)
    if func in _FILLS and torch.is_grad_enabled():
        with torch.no_grad():
            return call(func, args, kwargs, stored=stored)
    if stored:
        with _named(func):
            args, kwargs = pytree.tree_map(_as_placed, (args, kwargs))
    if (answer := _ANSWERS.get(func)) is not None:
        return answer(func, args, kwargs)
    return _computed(func, args, kwargs)


def _computed(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """A function that is run, on every rank or over all of them."""
    if is_capturing():
        raise CaptureError(
            f"forward reads a tensor of a shard that is no argument of it{_line()}: a program would keep this rank's "
            "rows as a constant. Pass it to forward as an argument"
        )
    with _named(func):
        kind = kind_of(func, args, kwargs)
        for value in kind.placed:
            check_backward(value)
        if len(kind.placed) < len(kind.tensors) and not _is_alone(kind):
            beside_of(kind.placed[0].shard).note(
                kind.tensors, lambda: f"{function_name(func)}{_line()}", kind.key
            )
        if all(value.placement.replicated for value in kind.placed):
            return _on_every_rank(kind, args, kwargs)
        return _over_ranks(kind, args, kwargs)


@contextmanager
def _named(func: Callable[..., Any]) -> Iterator[None]:
    """Refusals inside the block say which function it was, and on which line of the user's."""
    try:
        yield
    except RuntimeMismatch:
        raise
    except GraphshardError as error:
        raise type(error)(f"{function_name(func)} of rows of the graph{_line()}: {error}") from None


def _as_placed(value: Any) -> Any:
    return value.placed() if isinstance(value, Stored) else value


def _on_every_rank(kind: Kind, args: Any, kwargs: Any) -> Any:
    """A function of values that every rank holds whole: each computes it for itself."""
    parts = {id(value): value.local() for value in kind.placed}
    originals = {id(parts[id(value)]): value for value in kind.placed}
    given = pytree.tree_map(lambda v: parts[id(v)] if isinstance(v, PlacedTensor) else v, (args, kwargs))
    found = beside_of(kind.placed[0].shard).watched(
        lambda: kind.func(*given[0], **given[1]), lambda: f"{function_name(kind.func)}{_line()}", kind.key
    )

    def wrapped(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        return originals[id(value)] if id(value) in originals else same_on_all(value, kind.placed[0])

    return pytree.tree_map(wrapped, found)


def _over_ranks(kind: Kind, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """A function of rows, over all ranks."""
    check_surroundings()
    shard, group = kind.placed[0].shard, _group_of(kind.placed)
    known = shard.functions.get(kind.key)
    if known is None:
        known = _learned(Arguments.of(kind.func, args, kwargs), shard, group)
        _keep(shard, kind, known)
    values = known.run(kind.tensors)
    if known.single:
        return values[0]
    (result, written), _ = known.function.compiled.captured.restore_outputs(values)
    for number, value in zip(known.function.writes, written, strict=True):
        _write(kind.tensors[number], value)
    return kind.tensors[known.function.returns] if known.function.returns is not None else result


_MOST, _MANY = 1024, 32


def _keep(shard: Shard, kind: Kind, known: Known) -> None:
    """Remember a compiled function; the same on every rank, so that all know it or none does."""
    if len(shard.functions) >= _MOST:
        shard.functions.clear()
    shard.functions[kind.key] = known
    alike = sum(other.func is kind.func for other in shard.functions.values())
    if alike == _MANY:
        warnings.warn(
            f"{function_name(kind.func)} of rows of the graph{_line()} was captured {_MANY} times, for arguments of as "
            "many kinds: a number that changes in every step is one, and is captured once as a tensor "
            "(torch.tensor(number))",
            UserWarning,
            stacklevel=2,
        )


def _learned(arguments: Arguments, shard: Shard, group: str) -> Known:
    """A function that is called with arguments of this kind for the first time."""
    if group_size(group) != shard.world_size:
        function = compiled_for(arguments)
        if function.communicates:
            raise ShardError(
                f"the tensor is one of {shard.world_size} parts, and this job has {group_size(group)} rank(s): "
                ".local() is the plain tensor of this part's rows"
            )
        return Known(function, arguments, shard, group)
    agree_on_function(arguments.words, shard.rank, arguments.device, group)
    meet_threads(group)  # see DistributedModule.forward
    function = compiled_for(arguments)
    meet_threads(group)
    return Known(function, arguments, shard, group)


def _write(target: Tensor, value: Tensor) -> None:
    """Give a tensor that a function writes into its new value."""
    before = target.placement if isinstance(target, PlacedTensor) else None
    after = value.placement if isinstance(value, PlacedTensor) else None
    fits = after is None or (after.replicated if before is None else after.dims == before.dims)
    if not fits:
        raise UnsupportedOperation(
            "it writes into a tensor what other rows hold: take what the same function without writing returns"
        )
    with WithoutTorchFunction():
        target.copy_(plain(value))


def _is_alone(kind: Kind) -> bool:
    """Whether the other ranks are not there: a script looks at shards, or goes on when the process group is gone."""
    try:
        size = group_size(_group_of(kind.placed))
    except RuntimeMismatch:
        return True
    return bool(size != kind.placed[0].shard.world_size)


def _group_of(placed: Sequence[PlacedTensor]) -> str:
    found = placed[0].origin.group
    for value in placed:
        if value.origin.group not in (None, found):
            if found is not None:
                raise ShardError("the tensors belong to models of different process groups")
            found = value.origin.group
    return default_group() if found is None else found


def _line() -> str:
    """`` (file:line: `code`)`` of the user's line that called."""
    return line_of(inspect.currentframe(), passing_own=True)


def _alike(func: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    """A function that gives every row as it is: on another device, as another dtype, as a copy."""
    self = args[0]
    found = func(*pytree.tree_map(plain, args), **pytree.tree_map(plain, kwargs))
    if not isinstance(self, PlacedTensor) or not isinstance(found, Tensor):
        return found
    origin = self.origin
    if origin.placed.points is not None and found.dtype != self.dtype:
        raise UnsupportedOperation(f"the numbers of nodes are no numbers to compute with{_line()}")
    name = digest(f"{function_name(func)}:{found.dtype}:{name_of(self)}")
    return as_placed(found, Origin(origin.shard, origin.placed, origin.group, origin.ids, name))


def _read(func: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    """The numbers in a tensor: of one that every rank holds whole."""
    for value in pytree.tree_leaves((args, kwargs)):
        if isinstance(value, PlacedTensor) and not value.placement.replicated:
            shard = value.shard
            raise UnsupportedOperation(
                f"{function_name(func)} reads numbers of a tensor{_line()} of which rank {shard.rank} of "
                f"{shard.world_size} holds {value.placement} alone: shard.gather(...) brings the rows of all ranks "
                "together, .local() is the plain tensor of this rank's"
            )
    return func(*pytree.tree_map(plain, args), **pytree.tree_map(plain, kwargs))


def _set_data(func: Callable[..., Any], args: Any, _kwargs: Any) -> None:
    target, value = args
    if isinstance(target, Stored) and not isinstance(value, (PlacedTensor, Stored)):
        raise UnsupportedOperation(
            f".data of a node parameter is set to a plain tensor{_line()}, and has rows of the graph: "
            "shard.scatter(whole, 'node') gives this rank's of a whole one"
        )
    with WithoutTorchFunction():
        func(target, plain(value))


def _shape(_func: Any, args: Any, _kwargs: Any) -> torch.Size:
    return shape_of(args[0])


def _size(_func: Any, args: Any, kwargs: Any) -> Any:
    return size_of(*args, **kwargs)


def _count(_func: Any, args: Any, _kwargs: Any) -> int:
    return numel_of(args[0])


def _length(func: Any, args: Any, kwargs: Any) -> int:
    return rows_along(args[0], 0) if args[0].dim() else func(plain(args[0]), **kwargs)


def _formatted(func: Any, args: Any, kwargs: Any) -> str:
    self = args[0]
    if self.placement.replicated:
        return str(func(plain(self), *args[1:], **kwargs))
    return object.__format__(self, "")


_KIND: frozenset[Any] = frozenset(
    {
        Tensor.detach_,
        Tensor.dim,
        Tensor.element_size,
        Tensor.get_device,
        Tensor.is_coalesced,
        Tensor.is_complex,
        Tensor.is_contiguous,
        Tensor.is_floating_point,
        Tensor.is_inference,
        Tensor.is_signed,
        Tensor.register_post_accumulate_grad_hook,
        Tensor.requires_grad_,
        Tensor.retain_grad,
        same_kind_of_memory,
        torch.is_complex,
        torch.is_floating_point,
        torch.is_grad_enabled,
        *(
            getattr(Tensor, name).__get__
            for name in (
                "device",
                "dtype",
                "grad_fn",
                "is_cpu",
                "is_cuda",
                "is_leaf",
                "is_meta",
                "is_mps",
                "is_nested",
                "is_quantized",
                "is_sparse",
                "is_xpu",
                "itemsize",
                "layout",
                "ndim",
                "output_nr",
                "requires_grad",
                "retains_grad",
            )
        ),
        Tensor.requires_grad.__set__,  # type: ignore[attr-defined]
    }
)
"""What says of what kind a tensor is, or sets whether it takes part in derivatives: of a part as of the whole."""

_FILLS = frozenset({nn.init.uniform_, nn.init.normal_, nn.init.constant_, nn.init.kaiming_uniform_})
"""What gives a tensor its first values, outside of derivatives."""

_ROW_BY_ROW = (
    *(Tensor.detach, Tensor.clone, Tensor.contiguous, Tensor.cpu, Tensor.cuda, Tensor.to, Tensor.type),
    *(Tensor.float, Tensor.double, Tensor.half, Tensor.bfloat16, Tensor.int, Tensor.long, Tensor.bool),
    *(Tensor.short, Tensor.char, Tensor.byte, Tensor.pin_memory, torch.clone, torch.detach),
    Tensor.data.__get__,  # type: ignore[attr-defined]
)
_READING = (
    *(Tensor.item, Tensor.tolist, Tensor.numpy, Tensor.is_nonzero, Tensor.__array__, Tensor.__bool__),
    *(Tensor.__int__, Tensor.__float__, Tensor.__index__, Tensor.__complex__, Tensor.__contains__),
    *(Tensor.data_ptr, Tensor.untyped_storage, torch.equal, Tensor.equal, torch.allclose, Tensor.allclose),
)
_ANSWERS: Mapping[Any, Callable[..., Any]] = {
    **dict.fromkeys(_ROW_BY_ROW, _alike),
    **dict.fromkeys(_READING, _read),
    **LISTS,
    Tensor.__format__: _formatted,
    Tensor.__len__: _length,
    Tensor.size: _size,
    Tensor.shape.__get__: _shape,  # type: ignore[attr-defined]
    Tensor.numel: _count,
    Tensor.nelement: _count,
    torch.numel: _count,
}
"""What is known without a program."""

_OF_THE_TENSOR: Mapping[Any, Callable[..., Any]] = {
    **DERIVATIVES,
    Tensor.data.__set__: _set_data,  # type: ignore[attr-defined]
}
"""What concerns the tensor itself, which may be a node parameter, and not the rows that it is read as."""
