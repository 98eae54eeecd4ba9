"""``graphshard.diff``: what ``distribute`` does to a model, without running it on ranks."""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import fx, nn

from graphshard.api import DistributedModule
from graphshard.capture.examples import Signature, TensorSpec
from graphshard.capture.export import capture
from graphshard.errors import CaptureError, DataError
from graphshard.execute.bind import bind
from graphshard.execute.run import State, compile_captured, graph_inputs, program_inputs
from graphshard.graph.data import Roles
from graphshard.graph.roles import Role
from graphshard.graph.schema import NUMBERS, PAIRS, EdgeSet, Schema
from graphshard.ir.program import Program, Stage
from graphshard.ops.preaggregation import Preaggregation, preaggregation
from graphshard.options import Options
from graphshard.partitioning.partition import ShardedGraph, partition
from graphshard.private import pytree
from graphshard.ranks.simulate import run_ranks
from graphshard.shard.shard import Shard
from graphshard.show.differ import Diff, diff_pipeline
from graphshard.show.names import Names, dtype_text
from graphshard.show.traffic import traffic_of

__all__ = ["diff"]

HaloCounts = Mapping[tuple[str, str], Sequence[int]]

_CONVENTION = {"x": Role.NODE, "edge_index": Role.EDGE_INDEX}
_DTYPES = {
    dtype_text(dtype): dtype
    for dtype in (
        *(torch.float16, torch.bfloat16, torch.float32, torch.float64),
        *(torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64),
    )
}


def diff(
    model: nn.Module,
    data: Any = None,
    *,
    num_parts: int | None = None,
    between: bool = False,
    train: bool = True,
    features: int | None = None,
    inputs: Mapping[str, str] | None = None,
    roles: Roles | None = None,
    options: Options | None = None,
) -> Diff:
    """Show what distributing ``model`` changes in it, and what it then sends in one epoch.

    One line for each value of the program, with symbolic sizes (n owned nodes, h halo nodes, e edges),
    placement and the user's line: ``+`` added, ``-`` removed, ``~`` other arguments. Needs no process group
    and, without ``data``, no data.

    Args:
        model: any module that ``distribute`` takes; left as it is.
        data: what :func:`graphshard.partition` takes, or its shards; forward's arguments are taken from it by name.
            Rows and bytes are then counted.
        num_parts: into how many parts to cut the data; 2 by default.
        between: one diff for each pass, instead of one for all.
        train: compile for training, with a backward; else for evaluation, without one.
        features: without data, the width of ``x``; by default the ``in_channels`` or ``in_features`` of the
            first layer that has one.
        inputs: without data, what forward's arguments are, as ``"role[:dtype[:sizes]]"`` with the sizes after
            the rows: ``{"x": "node:f32:16", "edge_index": "edge_index", "y": "node:i64", "w":
            "edge:f32:3x4"}``. By PyG's convention ``x`` and ``edge_index`` need not be given, arguments with
            a default are left out. Nothing can be inferred from a name otherwise.
        roles: with data, roles that dtype and shape do not decide.
        options: as for :func:`graphshard.distribute`.

    Returns:
        A :class:`graphshard.show.differ.Diff`: ``print(...)`` it, or read its ``stages`` and ``traffic``.

    Raises:
        DataError: without data, an argument of forward is not described, or in no known way.
        UnsupportedOperation, CaptureError: the model cannot be distributed exactly.
        PartitionError, ShardError: the data is no graph, or lacks an argument of forward.

    Example:
        >>> import torch, graphshard
        >>> class Mean(torch.nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.lin = torch.nn.Linear(2, 3)
        ...     def forward(self, x, edge_index):
        ...         return self.lin(torch.zeros_like(x).index_add(0, edge_index[1], x[edge_index[0]]))
        >>> found = diff(Mean(), options=Options.none())
        >>> [entry.line.code for entry in found.stages[0].of_kind("added")]
        ['x_halo = halo_sync(x)']
    """
    if not isinstance(model, nn.Module) or isinstance(model, DistributedModule):
        raise CaptureError(f"diff() takes a module that is not distributed yet, not a {type(model).__name__}")
    if data is None and (num_parts is not None or roles):
        raise DataError("num_parts and roles describe how data is cut: give the data too")
    if data is not None and (inputs or features is not None):
        raise DataError("inputs and features stand in for data: give them, or the data")
    with _in_mode(model, train):
        if data is None:
            stages, halo, sent = symbolic_stages(model, features, inputs or {}, options), None, None
        else:
            shards = _sharded(data, num_parts, roles)
            stages = DistributedModule(model, options=options).stages(shards[0])
            halo, sent = shards.report.halo_by_plan, sent_rows(model, stages[-1].program, shards)
    return describe(model, stages, halo=halo, sent=sent, between=between, train=train)


def sent_rows(model: nn.Module, program: Program, shards: Sequence[Shard]) -> dict[str, int]:
    """How many rows all parts send by each preaggregation of a program, by its name.

    What they are made of is computed, on ranks that are threads, for the ranks decide when they see their edges.
    """
    wanted = list(program.graph.find_nodes(op="call_function", target=preaggregation))
    if not wanted:
        return {}
    module = _computing(program, wanted)

    def rank(number: int, group: str, _: Any) -> list[int]:
        bound = bind(model, (shards[number],), {}, {}, group, {})
        graph = graph_inputs(bound.shard, group, (0, 0))
        with torch.no_grad():
            made = module(*program_inputs(program, State.of(model), bound.flat, graph))
        return [int(Preaggregation.of(tensors).splits[0].sum()) for tensors in made]

    counts = zip(*run_ranks(len(shards), rank, timeout=_LONG), strict=True)
    return {node.name: sum(each) for node, each in zip(wanted, counts, strict=True)}


_LONG = 3600.0
"""Seconds that no preview takes."""


def _computing(program: Program, wanted: Sequence[fx.Node]) -> fx.GraphModule:
    """What computes some values of a program from all of its inputs."""
    needed, left = set[fx.Node](), list(wanted)
    while left:
        if (node := left.pop()) not in needed:
            needed.add(node)
            left += node.all_input_nodes
    graph, made = fx.Graph(), dict[fx.Node, fx.Node]()
    for node in program.graph.nodes:
        if node.op == "placeholder" or node in needed:
            made[node] = graph.node_copy(node, lambda n: made[n])
    graph.output(tuple(made[node] for node in wanted))
    return fx.GraphModule(program.module, graph)


def describe(
    model: nn.Module,
    stages: Sequence[Stage],
    *,
    halo: HaloCounts | None,
    sent: Mapping[str, int] | None = None,
    between: bool,
    train: bool,
) -> Diff:
    """What the stages of a compilation of ``model`` changed; see :func:`diff`.

    Args:
        model: the module that was compiled.
        stages: all of them.
        halo: ``(node set, plan)`` -> halo nodes of each part; without it, sizes and bytes are symbols.
        sent: what :func:`sent_rows` counts; without it, rows of sums that are preaggregated are an upper bound.
        between: one diff for each pass.
        train: whether a backward follows the forward.
    """
    names = Names([stage.program for stage in stages])
    trainable = {name for name, p in model.named_parameters(remove_duplicate=False) if p.requires_grad}
    traffic = traffic_of(
        stages[-1].program, names=names, trainable=trainable, backward=train, halo=halo, sent=sent
    )
    return diff_pipeline(stages, names, traffic, between=between)


@contextmanager
def _in_mode(model: nn.Module, train: bool) -> Iterator[None]:
    """The model in one mode; afterwards each of its modules in its own again."""
    modes = [(module, module.training) for module in model.modules()]
    model.train(train)
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def _sharded(data: Any, num_parts: int | None, roles: Roles | None) -> ShardedGraph:
    if isinstance(data, ShardedGraph):
        if num_parts not in (None, len(data)):
            raise DataError(f"the data is cut into {len(data)} parts already, not {num_parts}")
        return data
    return partition(data, 2 if num_parts is None else num_parts, roles=roles)


def symbolic_stages(
    model: nn.Module, features: int | None, inputs: Mapping[str, str], options: Options | None
) -> list[Stage]:
    """Every stage of a model that is captured on what its arguments are said to be; see :func:`diff`."""
    specs = argument_specs(model, features, inputs)
    leaves, structure = pytree.tree_flatten(((), specs))
    plans = {Role.PAIRS: PAIRS, Role.INDEX: NUMBERS}
    pairs = (EdgeSet(name, plan=plans[s.role]) for name, s in specs.items() if s.role in plans)
    schema = Schema(edges=(EdgeSet(), *pairs))
    captured = capture(model, Signature(tuple(leaves), structure, tuple(specs), schema))
    return compile_captured(captured, options).stages


def argument_specs(
    model: nn.Module, features: int | None, inputs: Mapping[str, str]
) -> dict[str, TensorSpec]:
    """What each argument of forward is, where no data says it; see :func:`diff`.

    Raises:
        DataError: an argument is not described, or in no known way.
    """
    parameters = inspect.signature(model.forward).parameters
    if unknown := sorted(inputs.keys() - parameters.keys()):
        raise DataError(f"forward has no argument {unknown[0]!r}; it has {', '.join(parameters)}")
    specs: dict[str, TensorSpec] = {}
    for name, parameter in parameters.items():
        if name in inputs:
            specs[name] = _parse(name, inputs[name], model)
        elif name in _CONVENTION and parameter.default is parameter.empty:
            specs[name] = _conventional(name, model, features)
        elif parameter.default is parameter.empty and parameter.kind not in (
            parameter.VAR_POSITIONAL,
            parameter.VAR_KEYWORD,
        ):
            raise DataError(
                f"forward needs {name!r}, and without data nothing says what it is: give the data, or "
                f'inputs={{{name!r}: "node:i64"}} (role[:dtype[:sizes]]; --input {name}=node:i64 on the '
                "command line)"
            )
    return specs


def _conventional(name: str, model: nn.Module, features: int | None) -> TensorSpec:
    if _CONVENTION[name] is Role.EDGE_INDEX:
        return TensorSpec(Role.EDGE_INDEX, torch.int64, (2,))
    width = _first_width(model) if features is None else features
    if width is None:
        raise DataError(
            f"no layer of the model says how many features {name!r} has: give features=, or inputs="
            f'{{{name!r}: "node:f32:16"}} (--input {name}=node:f32:16 on the command line)'
        )
    return TensorSpec(Role.NODE, _float_dtype(model), (width,))


def _first_width(model: nn.Module) -> int | None:
    for module in model.modules():
        for attribute in ("in_channels", "in_features"):
            width = getattr(module, attribute, None)
            width = width[0] if isinstance(width, (tuple, list)) and width else width
            if isinstance(width, int) and width > 0:
                return width
    return None


def _float_dtype(model: nn.Module) -> torch.dtype:
    return next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)


def _parse(name: str, text: str, model: nn.Module) -> TensorSpec:
    """``"node:f32:16"`` as a spec."""
    known = "|".join(role.value for role in Role)
    found = re.fullmatch(rf"({known})(?::(\w+))?(?::(\d+(?:x\d+)*))?", text)
    dtype = _DTYPES.get(found[2]) if found and found[2] else _float_dtype(model)
    if not found or dtype is None:
        raise DataError(
            f"{text!r} does not say what {name!r} is: write role[:dtype[:sizes]] with a role of "
            f"{known.replace('|', ', ')} and a dtype of {', '.join(_DTYPES)}, such as node:f32:16"
        )
    role, sizes = Role(found[1]), tuple(int(size) for size in (found[3] or "").split("x") if size)
    if role.is_index:
        return TensorSpec(role, torch.int64, (2,), name if role is Role.PAIRS else "")
    if role is Role.INDEX:
        return TensorSpec(role, torch.int64, (), name)
    if math.prod(sizes) < 1:
        raise DataError(f"{text!r} gives {name!r} a size of 0")
    return TensorSpec(role, dtype, () if role is Role.ADJACENCY else sizes)
