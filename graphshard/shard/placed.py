"""A tensor of the whole graph of which a rank holds its part: what leaves a program or stands in a shard.

::

    out = model(shard)          PlacedTensor, Owned: this rank's rows of [N, C]
    out.shape                   [N, C], as on one machine
    out[shard.train_mask]       run over all ranks, as a program of one function (graphshard/border/functions.py)
    out.local()                 the plain tensor [n, C] of this rank's rows

On one rank of one the part is the whole, and tensors are plain.
"""

from __future__ import annotations

import copy
import functools
import importlib
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor

from graphshard.graph.roles import Member, Role
from graphshard.ir.placement import Edges, Given, Owned, Placed
from graphshard.private.torch_functions import WithoutTorchFunction
from graphshard.private.torch_tensors import version_of

_FUNCTIONS = "graphshard.border.functions"


def new_name() -> str:
    """A name that nothing else has."""
    return uuid.uuid4().hex


@functools.cache
def _call() -> Callable[..., Any]:
    found: Callable[..., Any] = importlib.import_module(_FUNCTIONS).call
    return found


def call(func: Any, types: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """What ``__torch_function__`` of a tensor of the whole graph does; see ``graphshard/border/functions.py``.

    Functions run programs, and programs run on shards, whose tensors are placed: the circle is in the matter, and is
    closed when a function is called.
    """
    if any(issubclass(kind, Stored) for kind in types):
        return _call()(func, args, kwargs, stored=True)
    return _call()(func, args, kwargs)


class Stored(Tensor):
    """Rows of the whole graph that a module keeps: functions take them as what :meth:`placed` gives."""

    def local(self) -> Tensor:
        """The plain tensor of this rank's rows."""
        raise NotImplementedError

    def placed(self) -> Tensor:
        """The same rows as a tensor of the whole graph."""
        raise NotImplementedError


@dataclass(frozen=True)
class Origin:
    """Where a placed tensor comes from.

    Attributes:
        shard: this rank's part of the graph, a :class:`graphshard.Shard`.
        placed: what the rank holds of the tensor.
        group: the name of the process group; None where any of this size will do.
        ids: int64 places in the whole of rows that are not all of a set.
        name: of the value, equal for values that are computed alike; another on each rank.
    """

    shard: Any
    placed: Placed
    group: str | None = None
    ids: Tensor | None = None
    name: str = field(default_factory=new_name)

    @functools.cached_property
    def dim(self) -> int | None:
        """The dim along which a rank holds some rows; None where there is none, or several."""
        return self.placed.sharded[0] if len(self.placed.sharded) == 1 else None

    @functools.cached_property
    def given(self) -> str | None:
        """The name of rows that are not all of a set."""
        rows = None if self.dim is None else self.placed.dims[self.dim]
        return rows.name if isinstance(rows, Given) else None

    @functools.cached_property
    def kind(self) -> Placed:
        """The placement but for that name."""
        if self.given is None:
            return self.placed
        dims = tuple(None if rows is None else Given("") for rows in self.placed.dims)
        return replace(self.placed, dims=dims)


class PlacedTensor(Tensor):
    """This rank's part of a tensor of the whole graph; made by ``model(shard)`` and by what reads a shard's tensors.

    Functions of PyTorch take it as the whole: ``shape``, ``F.cross_entropy(out[mask], y[mask])``, ``mean``, ``==``,
    ``argmax``, masks and indices give what they give on one machine, on every rank, with every gradient. Each is a
    program of one function, captured, placed and checked as a model is, so a function whose result would not be exact
    is refused. Those that communicate are collective: every rank calls them.

    A value that every rank holds whole (a loss) can be read: ``item()``, ``float()``, ``if``. Rows are read by
    ``shard.gather(out)``, or as :meth:`local`.
    """

    origin: Origin
    part: Tensor
    num_rows: int | None = None

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return call(func, types, args, kwargs or {})

    def local(self) -> Tensor:
        """The plain tensor of this rank's part: ``[n, C]`` of ``[N, C]``; the same memory, with its gradient.

        What is computed from it is this rank's alone.
        """
        with WithoutTorchFunction():
            return self.as_subclass(Tensor) if self.requires_grad else self.part

    @property
    def placement(self) -> Placed:
        """What this rank holds along each dim."""
        return self.origin.placed

    @property
    def shard(self) -> Any:
        """This rank's part of the graph that it belongs to."""
        return self.origin.shard

    @property
    def group(self) -> str | None:
        """The name of the process group; None of a shard's own tensors, which any of its size will do for."""
        return self.origin.group

    @property
    def ids(self) -> Tensor | None:
        """int64 places in the whole of rows that are not all of a set; None of others."""
        return self.origin.ids

    def __repr__(self, *, tensor_contents: Any = None) -> str:  # type: ignore[override]
        origin = self.origin
        if origin.placed.replicated:
            return f"PlacedTensor({self.local()!r}, the same on every rank)"
        held = f"rank {origin.shard.rank} of {origin.shard.world_size} holds {origin.placed}"
        return f"PlacedTensor({held}: {self.local()!r}; shard.gather(...) brings all ranks' together)"

    def __deepcopy__(self, memo: dict[int, Any]) -> Tensor:
        return as_placed(copy.deepcopy(self.local(), memo), replace(self.origin, name=new_name()))

    def __reduce_ex__(self, protocol: Any) -> Any:
        # A file with one rank's rows would be taken for all of them.
        raise TypeError(
            f"this tensor is rank {self.origin.shard.rank}'s part of one of the whole graph, not saved as it is: "
            "shard.gather(tensor) is all of it, tensor.local() the part"
        )


def as_placed(part: Tensor, origin: Origin) -> Tensor:
    """A rank's part as a tensor of the whole graph; the same memory and gradient. Plain where there is one rank."""
    if origin.shard.world_size == 1:
        return part
    with WithoutTorchFunction():
        placed: PlacedTensor = part.as_subclass(PlacedTensor)
        placed.origin, placed.part = origin, part.detach() if part.requires_grad else part
    return placed


def member_of(placed: Placed) -> Member | None:
    """The role and set of a value that is laid out as an argument of a model may be; None of any other."""
    if placed.replicated:
        return Member(Role.REPLICATED)
    rows = placed.dims[0] if placed.dims else None
    if placed.sharded != (0,) or placed.points is not None:
        return None
    if isinstance(rows, Owned):
        return Member(Role.NODE, rows.nodes)
    return Member(Role.EDGE, rows.name) if isinstance(rows, Edges) else None


def plain(value: Any) -> Any:
    """A placed tensor's part; anything else as it is."""
    return value.local() if isinstance(value, (PlacedTensor, Stored)) else value


def name_of(value: PlacedTensor) -> str:
    """Its name, another after each write into it."""
    return f"{value.origin.name}.{version_of(value.part)}"
