"""PyG's ``HeteroLinear`` as a capture can see it: another weight for each type of row.

PyG sorts the rows by type and multiplies each block by its weight, so that sizes depend on the data::

    out[type == k] = x[type == k] @ weight[k] + bias[k]          for every type k

computes the same row by row. Source: ``torch_geometric.nn.dense.HeteroLinear.forward_naive``.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import Any
from unittest import mock

from torch import Tensor

from graphshard.errors import CaptureError


def _forward(self: Any, x: Tensor, type_vec: Tensor) -> Tensor:
    if self.is_sorted:
        raise CaptureError(
            "HeteroLinear with is_sorted=True relies on the order of its rows, which a partition changes: set "
            "is_sorted=False"
        )
    out = x.new_zeros(x.size(0), self.out_channels)
    for number in range(self.num_types):
        of_type = type_vec == number
        rows = x[of_type] @ self.weight[number]
        out[of_type] = rows if self.bias is None else rows + self.bias[number]
    return out


@contextlib.contextmanager
def by_masks() -> Iterator[None]:
    """While capturing, ``HeteroLinear`` selects the rows of each type by a mask."""
    linear = getattr(sys.modules.get("torch_geometric.nn.dense.linear"), "HeteroLinear", None)
    if linear is None:
        yield
        return
    with mock.patch.object(linear, "forward", _forward):
        yield
