"""One forward and backward on one rank (or the eager module on one machine), as a list of named values."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from graphshard.capture.export import uncompiled
from graphshard.capture.sparse import SparseStandIn
from graphshard.capture.writes import taken
from graphshard.check.fixed_random import without_dropout
from graphshard.check.probe import SECOND, Probed, Value
from graphshard.execute.constants import Constants
from graphshard.execute.run import State, graph_inputs, program_inputs
from graphshard.graph.roles import Member, Role
from graphshard.kernels.random_bits import random_bits
from graphshard.ops.exchange import all_reduce, replicated_output
from graphshard.private import pytree
from graphshard.shard.placed import plain
from graphshard.shard.shard import Shard

_SITE = 1 << 40  # no dropout's site: the weights are drawn apart from every mask


@dataclass(frozen=True)
class Case:
    """What is run: a probed program and the flat inputs on one shard.

    Attributes:
        probed: the program.
        shard: the rank's part.
        flat: the program's user inputs, leaves of this run's own.
        names: what each flat input is called.
        members: what each flat input is.
        key: seed and step of the dropout masks.
        node_parameters: the parameters that hold one row for each owned node, and of which node set.
    """

    probed: Probed
    shard: Shard
    flat: Sequence[Tensor]
    names: Sequence[str]
    members: Sequence[Member]
    key: tuple[int, int] = (0, 0)
    node_parameters: Mapping[str, str] = field(default_factory=dict)


def weights_of(value: Value) -> Tensor:
    """A fixed weight in (0.5, 1.5) for each element, a function of its row's global id: the cotangent.

    Distinct weights make every output element count, and no two errors cancel. A 0-dim value has weight 1.
    """
    tensor = value.value
    if tensor.dim() == 0:
        return torch.ones_like(tensor)
    rows = tensor.detach().movedim(value.dim, 0)
    ids = value.ids if value.ids is not None else torch.arange(rows.size(0), device=tensor.device)
    width = rows.shape[1:].numel()
    bits = random_bits(ids, width, (1, 0), _SITE).view(rows.shape)
    return (bits.to(torch.float64) / (1 << 53) + 0.5).to(tensor.dtype).movedim(0, value.dim)


def run_program(model: nn.Module, case: Case, group: str) -> list[Value]:
    """Outputs, exchanges, gradients and buffers of the program on one rank; and what a second step gives.

    The first step has gradients of the inputs too, for which the whole program runs. The second is one of
    training: the inputs are fixed, and what depends on the graph alone was kept from a step before.

    ``model`` must be this rank's own: its gradients are computed and its buffers change.
    """
    compiled = case.probed.compiled
    # No deep copy: ranks are threads, and what a module does when it is copied may not bear company.
    before = {name: plain(buffer).detach().clone() for name, buffer in model.named_buffers()}
    values = _step(model, case, group, lambda inputs: compiled.program.module(*inputs))
    if compiled.split is None:
        return values
    with torch.no_grad():
        for name, buffer in model.named_buffers():
            plain(buffer).copy_(before[name])
    return values + _second_step(model, case, group)


def second(values: Sequence[Value]) -> list[Value]:
    """Outputs and gradients of parameters, as a second step's."""
    return [replace(v, kind=v.kind + SECOND) for v in values if v.kind in ("output", "gradient")]


def _second_step(model: nn.Module, case: Case, group: str) -> list[Value]:
    """Outputs and gradients of a step that finds its constants computed."""
    constants, part = Constants(), case.probed.compiled.split
    assert part is not None
    fixed = replace(case, flat=[t.detach() for t in case.flat])
    graph = graph_inputs(case.shard, group, case.key)
    program = case.probed.compiled.program
    constants.of(part, program_inputs(program, State.of(model), fixed.flat, graph), group)
    return second(
        _step(model, fixed, group, lambda inputs: part.step(*inputs, *constants.of(part, inputs, group)))
    )


def _step(
    model: nn.Module, case: Case, group: str, execute: Callable[[list[Any]], Sequence[Any]]
) -> list[Value]:
    """One forward and backward; ``execute`` gives the program's results for its inputs."""
    program, state = case.probed.compiled.program, State.of(model)
    graph = graph_inputs(case.shard, group, case.key)
    results = execute(program_inputs(program, state, case.flat, graph))
    own, values = case.probed.split(results)
    outputs = [v for v in values if v.kind == "output"]
    terms: list[Tensor] = []
    whole: list[Tensor] = []
    for value in outputs:
        if value.value.requires_grad:
            term = (value.value * weights_of(value)).sum().double()
            (terms if value.ids is not None else whole).append(term)
    losses = list(whole)
    if terms:
        losses.append(replicated_output(all_reduce(torch.stack(terms).sum(), "sum", group), group))
    gradients = _gradients(model, case, losses)
    with torch.no_grad():
        for spec, result in zip(program.outputs, own, strict=False):
            if spec.kind == "buffer":
                state.buffers[spec.target].copy_(result)
    return [_detached(v) for v in values] + gradients + _buffers(model, case)


def run_module(model: nn.Module, case: Case, ids: Mapping[str, Value], *, dropout: bool) -> list[Value]:
    """Outputs, gradients and buffers of the untouched module on the whole graph.

    Args:
        model: a copy of the module.
        case: on the single part that is the whole graph.
        ids: the program's own outputs on that part by number, for the ids of their rows.
        dropout: whether dropouts are active.
    """
    signature = case.probed.compiled.captured.signature
    args, kwargs = signature.restore(case.flat)
    args, kwargs = _with_adjacency((args, kwargs), case.shard.num_nodes)
    with uncompiled(), nullcontext() if dropout else without_dropout():
        result = model(*args, **kwargs)
    left = taken(model, case.probed.compiled.captured.written)
    tensors = [leaf for leaf in pytree.tree_leaves((result, left)) if isinstance(leaf, Tensor)]
    values = [Value("output", str(i), t, ids[str(i)].ids, ids[str(i)].dim) for i, t in enumerate(tensors)]
    terms = [(v.value * weights_of(v)).sum().double() for v in values if v.value.requires_grad]
    return [_detached(v) for v in values] + _gradients(model, case, terms) + _buffers(model, case)


def _with_adjacency(arguments: Any, num_nodes: int) -> Any:
    """Stand-ins of sparse adjacencies as the real sparse tensors that the eager module expects."""
    size = (num_nodes, num_nodes)
    return pytree.tree_map(
        lambda v: (
            torch.sparse_coo_tensor(v.index, v.values_, size, is_coalesced=True)
            if isinstance(v, SparseStandIn)
            else v
        ),
        arguments,
        is_leaf=lambda v: isinstance(v, SparseStandIn),
    )


def _gradients(model: nn.Module, case: Case, losses: Sequence[Tensor]) -> list[Value]:
    parameters = {n: p for n, p in model.named_parameters() if p.requires_grad}
    inputs = {
        name: (t, member)
        for name, t, member in zip(case.names, case.flat, case.members, strict=True)
        if t.requires_grad
    }
    if not losses:
        return []
    leaves = [*parameters.values(), *(t for t, _ in inputs.values())]
    found = [
        plain(g) for g in torch.autograd.grad(torch.stack(list(losses)).sum(), leaves, allow_unused=True)
    ]
    values = []
    for (name, _), g in zip(parameters.items(), found, strict=False):
        if g is not None:
            values.append(Value("gradient", name, g.detach(), _owned_ids(case, name)))
    for (name, (_, member)), g in zip(inputs.items(), found[len(parameters) :], strict=True):
        if g is not None:
            values.append(Value("input gradient", name, g.detach(), case.shard.row_ids(member)))
    return values


def _buffers(model: nn.Module, case: Case) -> list[Value]:
    return [
        Value("buffer", name, plain(b).detach().clone(), _owned_ids(case, name))
        for name, b in model.named_buffers()
    ]


def _owned_ids(case: Case, name: str) -> Tensor | None:
    """The ids of the rows of a parameter or buffer; None where every rank holds all of it."""
    of = case.node_parameters.get(name)
    return None if of is None else case.shard.row_ids(Member(Role.NODE, of))


def _detached(value: Value) -> Value:
    return Value(value.kind, value.name, value.value.detach(), value.ids, value.dim)
