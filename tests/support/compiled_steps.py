"""A training step of a rewritten program, eager and through ``torch.compile``: what test_compile.py runs on ranks."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

import graphshard
from graphshard.capture.export import capture
from graphshard.execute.bind import bind
from graphshard.execute.constants import Constants
from graphshard.execute.run import State, compile_captured, graph_inputs, program_inputs
from graphshard.ranks.groups import default_group

Step = Callable[..., Any]


def steps(model: nn.Module, graph: dict[str, Tensor], assignment: Tensor) -> dict[str, dict[str, Tensor]]:
    """Outputs and gradients of one step with dropout, by how it ran: "eager" or "compiled".

    Args:
        model: over ``x`` and ``edge_index``; its dropout on. graph: whole. assignment: the rank of each node.
    """
    size = dist.get_world_size()
    shard = graphshard.partition(graph, num_parts=size, method=assignment)[dist.get_rank()]
    group = default_group()
    bound = bind(model, (shard,), {}, {}, group, {})
    compiled = compile_captured(capture(model, bound.signature))
    part = compiled.split
    assert part is not None
    found = {}
    for name, wrap in (("eager", _as_it_is), ("compiled", _through_aot)):
        torch._dynamo.reset()
        mine = copy.deepcopy(model)
        parts = graph_inputs(shard, group, (5, 1))
        inputs = program_inputs(compiled.program, State.of(mine), bound.flat, parts)
        kept = Constants().of(part, inputs, group)
        (out,) = wrap(part.step)(*inputs, *kept)
        out.square().sum().backward()
        grads = {key: p.grad for key, p in mine.named_parameters() if p.grad is not None}
        found[name] = {"out": out.detach(), **grads}
    return found


def _as_it_is(step: Step) -> Step:
    return step


def _through_aot(step: Step) -> Step:
    """No graph break: every op of the program is one that the tracer takes whole."""
    return torch.compile(step, backend="aot_eager", fullgraph=True)  # type: ignore[no-any-return]
