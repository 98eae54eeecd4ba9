"""A rank's part of a sparse adjacency: forward multiplies by it; outside of forward it is not taken for the whole."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from graphshard.errors import UnsupportedOperation
from graphshard.shard.placed import Stored, call

_SHAPE = Tensor.shape.__get__  # type: ignore[attr-defined]


class SparsePart(Stored):
    """``[n, n+h]`` of an adjacency ``[N, N]``: the rows of this rank's nodes.

    Attributes:
        num_nodes: N. part: the plain tensor.
    """

    num_nodes: int
    part: Tensor

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (_SHAPE, Tensor.size) and isinstance(args[0], SparsePart):
            shape = torch.Size([args[0].num_nodes] * 2)
            return shape if len(args) == 1 and not kwargs else shape[[*args[1:], *(kwargs or {}).values()][0]]
        return call(func, types, args, kwargs or {})

    def local(self) -> Tensor:
        """The plain sparse tensor ``[n, n+h]``."""
        return self.part

    def placed(self) -> Tensor:
        raise UnsupportedOperation(
            "the sparse adjacency of a shard is this rank's rows of it, which no function takes outside of a model: "
            "multiply by it in forward (.local() is the plain matrix of this rank's rows)"
        )

    def __repr__(self, *, tensor_contents: Any = None) -> str:  # type: ignore[override]
        return f"SparsePart(rows of an adjacency {[self.num_nodes] * 2}: {self.local()!r})"

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self.local().__reduce_ex__(protocol)  # type: ignore[no-untyped-call]


def as_sparse_part(part: Tensor, num_nodes: int) -> Tensor:
    """A rank's rows of an adjacency as what they are; the same memory."""
    found = part.detach()
    found.__class__ = SparsePart  # as_subclass() takes dense tensors alone
    assert isinstance(found, SparsePart)
    found.num_nodes, found.part = num_nodes, part
    return found
