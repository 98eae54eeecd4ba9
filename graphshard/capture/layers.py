"""Layers that an export cannot trace as they are written, each by a definition that it can.

=================  ========================================================================================
``BatchNorm``      with ``momentum=None`` reads a buffer as a Python number: kept in tensors here
``HeteroLinear``   (PyG) sorts its rows by type, so that sizes depend on the data: a mask for each type here
``HGTConv``        (PyG) numbers the nodes of all types in one range: one type of edges after the other here
=================  ========================================================================================
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor

from graphshard.private.pyg import hgt_of, replaced_layers, softmax
from graphshard.private.torch_modules import BatchNorm, check_input_dim, without_batch_size_check


@contextlib.contextmanager
def capturable_layers() -> Iterator[None]:
    """While a model is exported: these layers by definitions that can be captured."""
    with (
        mock.patch.object(BatchNorm, "forward", _batch_norm),
        # It looks at the number of rows, which the data decides where they are graphs; the eager run has looked.
        without_batch_size_check(),
        replaced_layers(HeteroLinear=_hetero_linear, HGTConv=_hgt_conv),
    ):
        yield


_FORWARD = BatchNorm.forward


def _batch_norm(self: Any, x: Tensor) -> Tensor:
    """``torch.nn.BatchNorm1d`` with ``momentum=None``: the mean over all batches so far, kept in tensors."""
    if isinstance(x.size(0), torch.SymInt):
        # Graphs may be as many as the data says, but there are some.
        torch._check(x.size(0) > 0)  # type: ignore[no-untyped-call]
    if self.momentum is not None or not self.training or not self.track_running_stats:
        return _FORWARD(self, x)
    check_input_dim(self, x)
    self.num_batches_tracked.add_(1)
    dims = [d for d in range(x.dim()) if d != 1]
    share = 1 / self.num_batches_tracked.to(self.running_mean.dtype)
    for running, new in (
        (self.running_mean, x.detach().mean(dims)),
        (self.running_var, x.detach().var(dims)),
    ):
        running.add_((new - running) * share)
    return F.batch_norm(x, None, None, self.weight, self.bias, True, 0.0, self.eps)


def _hetero_linear(self: Any, x: Tensor, type_vec: Tensor) -> Tensor:
    """``out[type == k] = x[type == k] @ weight[k] + bias[k]`` for every type k, in whatever order the rows are.

    Source: ``torch_geometric.nn.dense.HeteroLinear.forward_naive``.
    """
    out = x.new_zeros(x.size(0), self.out_channels)
    for number in range(self.num_types):
        of_type = type_vec == number
        rows = x[of_type] @ self.weight[number]
        out[of_type] = rows if self.bias is None else rows + self.bias[number]
    return out


def _hgt_conv(
    self: Any, x_dict: Mapping[str, Tensor], edge_index_dict: Mapping[tuple[str, str, str], Tensor]
) -> dict[str, Tensor]:
    """The softmax of a node runs over its edges of all types, whose keys and values have weights by type.

    Source: Hu et al., Heterogeneous Graph Transformer, WWW 2020; ``torch_geometric.nn.HGTConv.forward``.
    """
    hgt = hgt_of(self)
    heads, width = hgt.heads, hgt.width
    split = {kind: kqv.chunk(3, dim=1) for kind, kqv in hgt.kqv(x_dict).items()}
    keys, queries, values = (
        {kind: parts[i].view(-1, heads, width) for kind, parts in split.items()} for i in range(3)
    )
    arriving: dict[str, list[tuple[Tensor, Tensor, Tensor]]] = {kind: [] for kind in x_dict}
    for relation, (sources, targets) in edge_index_dict.items():
        source, _, target = relation
        # PyG lists the weights by head, then by type of edge.
        of_type = slice(hgt.edge_types[relation], None, len(hgt.edge_types))
        key, value = (
            torch.einsum("nhd,hde->nhe", table[source], weights[of_type])
            for table, weights in ((keys, hgt.keys), (values, hgt.values))
        )
        score = (queries[target][targets] * key[sources]).sum(-1) * hgt.priority(relation)
        arriving[target].append((score / math.sqrt(width), targets, value[sources]))
    gathered = {}
    for kind in (k for k in x_dict if k in hgt.targets):
        out = x_dict[kind].new_zeros(x_dict[kind].size(0), heads * width)
        if arriving[kind]:
            scores, targets, messages = (torch.cat(parts) for parts in zip(*arriving[kind], strict=True))
            share = softmax(scores, targets, out.size(0)).unsqueeze(-1)
            out = out.index_add(0, targets, (messages * share).flatten(1))
        gathered[kind] = out
    mixed = hgt.out({kind: F.gelu(out) for kind, out in gathered.items()})
    return {kind: _with_skip(hgt.skip[kind], mixed[kind], x_dict[kind]) for kind in gathered}


def _with_skip(weight: Tensor, out: Tensor, x: Tensor) -> Tensor:
    if out.size(-1) != x.size(-1):
        return out
    share = weight.sigmoid()
    return share * out + (1 - share) * x
