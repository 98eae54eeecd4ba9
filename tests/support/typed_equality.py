"""Compare a model on simulated ranks with one machine, on graphs with several node sets or edge sets.

Arguments are taken from the shards by name, as a user does; every output element has a weight of its own.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import torch
from support.equality import SEED, TOLERANCE, Compilations, _same_on_all, assert_equal, weights_for
from support.local import LocalShard, local
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from graphshard import api
from graphshard.border import totals as reductions
from graphshard.execute.bind import from_shard
from graphshard.graph.roles import Member, Role
from graphshard.ir.placement import Edges, Owned, Placed
from graphshard.ir.program import Program
from graphshard.partitioning.partition import partition
from graphshard.shard.shard import Shard
from graphshard.testing import run_ranks

Found = dict[str, Tensor | None]
Loss = Callable[[Any, Any, Callable[..., Tensor]], Tensor]


def check_typed(
    model: nn.Module,
    data: Any,
    assignments: Any,
    parts: int,
    programs: Compilations | None = None,
    *,
    roles: Mapping[str, str] | None = None,
    loss: Loss | None = None,
) -> list[Member]:
    """Assert that ``parts`` ranks compute what one machine does.

    Args:
        model: stays as it is.
        data: what ``partition`` takes.
        assignments: the part of each node, as ``method`` of ``partition``.
        parts: number of ranks.
        programs: shared between calls with the same model.
        roles: for ``partition``.
        loss: ``loss(outputs, shard, mean)``, outside of forward; by default a weighted sum of all outputs.

    Returns:
        What the rows of each output are.
    """
    programs = Compilations() if programs is None else programs
    whole = partition(data, 1, roles=roles)[0]
    shards = partition(data, parts, method=assignments, roles=roles)
    module = api.distribute(copy.deepcopy(model))
    module._compiled = programs
    kinds = output_members(module.stages(whole)[-1].program)
    models = [copy.deepcopy(model) for _ in range(parts)]

    def rank(number: int, _: str, group: Any) -> Found:
        own = api.distribute(models[number], group=group, seed=SEED)
        own._compiled = programs
        mean = lambda v: reductions.mean(v, group)  # noqa: E731
        total = lambda v: reductions.sum(v, group)  # noqa: E731
        return _evaluate(
            models[number], lambda: own(shards[number]), shards[number], kinds, loss, mean, total
        )

    ranks = run_ranks(parts, rank)
    reference = copy.deepcopy(model)
    expected = _evaluate(
        reference, lambda: _eager(reference, whole), whole, kinds, loss, torch.mean, torch.sum
    )
    merged: Found = {}
    for what in expected:
        values = [found[what] for found in ranks]
        merged[what] = _merged(what, values, _member(what, whole, kinds), shards)
    assert_equal(merged, expected, TOLERANCE)
    return kinds


def _eager(model: nn.Module, whole: Shard) -> Any:
    args, kwargs = from_shard(model, whole)
    return model(*args, **kwargs)


def output_members(program: Program) -> list[Member]:
    """What the rows of each tensor that forward returns are, by its placement."""
    members = []
    for value, spec in zip(program.output_node().args[0], program.outputs, strict=True):  # type: ignore[arg-type]
        if spec.kind == "user":
            placed = value.meta["placement"]
            assert isinstance(placed, Placed)
            rows = placed.dims[placed.sharded[0]] if placed.sharded else None
            assert placed.sharded in ((), (0,)), "tests compare rows in dim 0"
            assert isinstance(rows, (Owned, Edges, type(None)))
            if rows is None:
                members.append(Member(Role.REPLICATED))
            else:
                kind = Role.NODE if isinstance(rows, Owned) else Role.EDGE
                members.append(Member(kind, rows.nodes if isinstance(rows, Owned) else rows.name))
    return members


def _evaluate(
    model: nn.Module,
    forward: Callable[[], Any],
    shard: Shard,
    kinds: list[Member],
    loss: Loss | None,
    mean: Callable[..., Tensor],
    total: Callable[..., Tensor],
) -> Found:
    floats = [name for name, t in shard.tensors.items() if t.is_floating_point() and not t.is_sparse]
    for name in floats:
        shard.tensors[name].requires_grad_()
    out = local(forward())
    tensors = [leaf for leaf in pytree.tree_leaves(out) if isinstance(leaf, Tensor)]
    if loss is not None:
        result = loss(out, LocalShard(shard), mean)
    else:
        terms = [
            _weighted(t, kind, shard, i, total)
            for i, (t, kind) in enumerate(zip(tensors, kinds, strict=True))
            if t.is_floating_point()
        ]
        result = torch.stack(terms).sum()
    result.backward()
    found: Found = {f"output {i}": t.detach() for i, t in enumerate(tensors)}
    found["loss"] = result.detach()
    found |= {f"gradient of {n}": _or_zero(p) for n, p in model.named_parameters()}
    found |= {f"buffer {n}": b for n, b in model.named_buffers()}
    return found | {f"gradient of input {n}": _or_zero(shard.tensors[n]) for n in floats}


def _or_zero(leaf: Tensor) -> Tensor:
    """The gradient; zeros where there is none, as a rank without such rows has it."""
    return torch.zeros_like(local(leaf)) if leaf.grad is None else local(leaf.grad)


def _weighted(t: Tensor, kind: Member, shard: Shard, seed: int, total: Callable[..., Tensor]) -> Tensor:
    if kind.role is Role.REPLICATED:
        return (t * weights_for(1, t.unsqueeze(0), seed)[0]).sum().double()
    counts = shard.sizes.nodes if kind.role is Role.NODE else shard.sizes.edges
    return total(t * local(shard.scatter(weights_for(counts[kind.of], t, seed), kind))).double()


def _member(what: str, whole: Shard, kinds: list[Member]) -> Member:
    if what.startswith("output "):
        return kinds[int(what.removeprefix("output "))]
    if what.startswith("gradient of input "):
        return whole.members[what.removeprefix("gradient of input ")]
    return Member(Role.REPLICATED)


def _merged(what: str, values: list[Tensor | None], kind: Member, shards: Any) -> Tensor | None:
    if kind.role is Role.REPLICATED:
        return _same_on_all(what, values)
    rows = torch.cat([v for v in values if v is not None])
    merged = torch.empty_like(rows)
    merged[torch.cat([shard.row_ids(kind) for shard in shards])] = rows
    return merged
