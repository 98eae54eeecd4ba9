"""Planted faults: a program with one exchange, or one backward of an exchange, taken out.

A check that passes must be able to fail. Each fault leaves a program that runs and that is wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, fx

from graphshard.execute.run import Compiled
from graphshard.ir.gradient_flow import gradient_flow
from graphshard.ops import exchange as ops
from graphshard.ops.aggregation import weighted_sum
from graphshard.ops.local import pad_halo
from graphshard.ops.overlap import SplitStructure, overlapped_sum
from graphshard.ops.stack import stack_ranks


@dataclass(frozen=True)
class Fault:
    """Which node is broken, and how: "drop" (no communication), "drop backward" (its gradient is lost)."""

    node: str
    how: str

    def __str__(self) -> str:
        return f"{self.how} {self.node}"


def faults_of(compiled: Compiled, inputs_need_grad: bool = True) -> list[Fault]:
    """Every fault that can be planted in a program: exchanges, their backwards where a gradient flows, the
    gradient sums and the scaling of replicated outputs."""
    program = compiled.program
    flowing = gradient_flow(program, inputs_need_grad=inputs_need_grad)
    faults: list[Fault] = []
    for node in program.graph.nodes:
        broken = _BROKEN.get(_name(node))
        if broken is None:
            continue
        if broken.forward is not None:
            faults.append(Fault(node.name, "drop"))
        if broken.backward is not None and node in flowing:
            faults.append(Fault(node.name, "drop backward"))
    return faults


def plant(compiled: Compiled, fault: Fault) -> Compiled:
    """A copy of the program with the fault in it."""
    stage = compiled.stages[-1]
    program = stage.program.copy()
    node = next(n for n in program.graph.nodes if n.name == fault.node)
    broken = _BROKEN[_name(node)]
    replacement = broken.forward if fault.how == "drop" else broken.backward
    assert replacement is not None
    node.target = replacement
    program.graph.lint()
    program.module.recompile()
    return Compiled(compiled.captured, [*compiled.stages[:-1], replace(stage, program=program)])


@dataclass(frozen=True)
class _Broken:
    forward: Callable[..., Any] | None
    backward: Callable[..., Any] | None


def sync_nothing(x: Tensor, _index: Tensor, _send: Sequence[int], recv: Sequence[int], _group: str) -> Tensor:
    """A halo sync that leaves zeros in the halo."""
    return pad_halo(x, recv, 0)


def sync_forward_only(
    x: Tensor, index: Tensor, send: Sequence[int], recv: Sequence[int], group: str
) -> Tensor:
    """A halo sync whose halo rows send no gradient home."""
    synced: Tensor = ops.halo_sync(x.detach(), index, list(send), list(recv), group)
    return torch.cat([x, synced[x.size(0) :]])


def reduce_nothing(x: Tensor, _index: Tensor, _send: Sequence[int], recv: Sequence[int], *_: str) -> Tensor:
    """A halo reduce that keeps the owner's own term."""
    return x[: x.size(0) - sum(recv)]


def reduce_forward_only(
    x: Tensor, index: Tensor, send: Sequence[int], recv: Sequence[int], *rest: str
) -> Tensor:
    """A halo reduce that gives the terms of other ranks no gradient."""
    own = reduce_nothing(x, index, send, recv)
    total: Tensor = ops.halo_reduce(x.detach(), index, list(send), list(recv), *rest)
    return own + (total - own.detach())


def all_reduce_nothing(x: Tensor, _reduce: str, _group: str) -> Tensor:
    """An all-reduce that keeps this rank's own term."""
    return x.clone()


def all_reduce_forward_only(x: Tensor, reduce: str, group: str) -> Tensor:
    """An all-reduce whose backward does not sum over the ranks."""
    total: Tensor = ops.all_reduce(x.detach(), reduce, group)
    return x + (total - x.detach())


def stack_nothing(x: Tensor, _group: str) -> Tensor:
    """A stack of this rank's own value alone."""
    return x.unsqueeze(0)


def stack_forward_only(x: Tensor, group: str) -> Tensor:
    """A stack whose backward does not sum over the ranks."""
    own = torch.arange(ops.group_size(group)) == ops.group_rank(group)
    own = own.to(x.device).view(-1, *[1] * x.dim())
    stacked: Tensor = stack_ranks(x.detach(), group)
    return torch.where(own, x.unsqueeze(0), stacked)


def merged_nothing(values: Sequence[Tensor], *plan: Any, **_wire: Any) -> tuple[Tensor, ...]:
    """A merged sync that leaves zeros in every halo."""
    return tuple(sync_nothing(x, *plan) for x in values)


def merged_forward_only(values: Sequence[Tensor], *plan: Any, **_wire: Any) -> tuple[Tensor, ...]:
    """A merged sync whose halo rows send no gradient home."""
    return tuple(sync_forward_only(x, *plan) for x in values)


def overlap_nothing(x: Tensor, weight: Tensor | None, parts: SplitStructure, *_plan: Any) -> Tensor:
    """An overlapped sum over the edges from owned nodes alone."""
    return weighted_sum(x, None if weight is None else weight[parts.own_edges], parts.own)


def overlap_forward_only(x: Tensor, weight: Tensor | None, parts: SplitStructure, *plan: Any) -> Tensor:
    """An overlapped sum whose halo rows send no gradient home."""
    own = overlap_nothing(x, weight, parts)
    whole = overlapped_sum(x.detach(), None if weight is None else weight.detach(), parts, *plan)
    return own + (whole - own.detach())


def same_all(values: Sequence[Tensor], _group: str) -> tuple[Tensor, ...]:
    """No gradient sum of a bucket."""
    return tuple(x.view_as(x) for x in values)


def same(x: Tensor, _group: str) -> Tensor:
    """No gradient sum, or no scaling."""
    return x.view_as(x)


def _name(node: fx.Node) -> str:
    return str(node.target) if not callable(node.target) or hasattr(node.target, "_schema") else _plain(node)


def _plain(node: fx.Node) -> str:
    return getattr(node.target, "__name__", "")


_BROKEN = {
    "graphshard.halo_sync.default": _Broken(sync_nothing, sync_forward_only),
    "graphshard.halo_reduce.default": _Broken(reduce_nothing, reduce_forward_only),
    "graphshard.all_reduce.default": _Broken(all_reduce_nothing, all_reduce_forward_only),
    "graphshard.stack_ranks.default": _Broken(stack_nothing, stack_forward_only),
    "merged_sync": _Broken(merged_nothing, merged_forward_only),
    "overlapped_sum": _Broken(overlap_nothing, overlap_forward_only),
    "bucketed_inputs": _Broken(None, same_all),
    "replicated_input": _Broken(None, same),
    "replicated_output": _Broken(None, same),
}
