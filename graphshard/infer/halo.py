"""A halo sync in a program: its plan's inputs, its node, and a size for its rows."""

from __future__ import annotations

from typing import Any

from torch import fx

from graphshard.infer.emitter import Emitter
from graphshard.ir.placement import Halo
from graphshard.ir.program import Program
from graphshard.ops.exchange import halo_sync
from graphshard.private.fake_tensors import fake_mode_of, unknown_size


def plan_of(program: Program, halo: Halo) -> tuple[fx.Node, fx.Node, fx.Node]:
    """The inputs ``send_index``, ``send_splits`` and ``recv_splits`` of the plan that fetches these rows."""
    names = ("send_index", "send_splits", "recv_splits")
    index, send, recv = (program.placeholder(name, halo.nodes, halo.plan) for name in names)
    return index, send, recv


def with_rows_of_its_own(example: Any) -> Any:
    """An example value with a row count of its own: n + h is no expression of n."""
    mode = fake_mode_of(example)
    with mode:
        return example.new_empty((unknown_size(mode), *example.shape[1:]))


def synced(emit: Emitter, value: fx.Node, halo: Halo, *, name_of: fx.Node | None = None) -> fx.Node:
    """``halo_sync(value)``, called after ``name_of`` or the value itself."""
    return emit.call(
        halo_sync,
        *(value, *plan_of(emit.program, halo), emit.program.placeholder("group")),
        name=f"{(name_of or value).name}_{halo.plan or 'halo'}",
        example=with_rows_of_its_own(value.meta["val"]),
    )
