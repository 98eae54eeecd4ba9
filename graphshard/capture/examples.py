"""Example inputs to capture on: small, of the right kinds, and the same on every rank.

They do not come from a shard, so every rank builds the identical program, and a shard with 0 or 1 rows
specialises nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim

from graphshard.capture.data_argument import as_data
from graphshard.capture.sparse import SparseStandIn
from graphshard.graph.roles import Role
from graphshard.graph.schema import Schema, Sizes
from graphshard.ir.placement import Edges, Given, Owned, Placed, Rows
from graphshard.private import pytree

MOST_ROWS = 2**31 - 1
"""The most nodes or edges that a set may have: programs are captured for any number up to it."""


@dataclass(frozen=True)
class TensorSpec:
    """What a program has to know of one tensor argument.

    Attributes:
        role: what its rows are. dtype: of it. trailing: the sizes after the rows. of: the set of its rows.
        needs_grad: whether a backward computes its gradient. Without one it is a constant of the graph.
        placed: of a value that another program made, its placement; trailing are then the sizes of its other dims.
    """

    role: Role
    dtype: torch.dtype
    trailing: tuple[int, ...]
    of: str = ""
    needs_grad: bool = False
    placed: Placed | None = None

    @property
    def rows(self) -> tuple[int, Rows] | None:
        """The dim of a placed value along which a rank holds some rows, and these."""
        if self.placed is None or not self.placed.sharded:
            return None
        (dim,) = self.placed.sharded
        rows = self.placed.dims[dim]
        assert rows is not None
        return dim, rows

    @property
    def width(self) -> int:
        """How many program inputs it becomes: an adjacency is an index and its values."""
        return 2 if self.role is Role.ADJACENCY else 1

    @property
    def may_number_graphs(self) -> bool:
        """Whether it is one integer for each node, as ``batch`` is."""
        whole = not (self.dtype.is_floating_point or self.dtype.is_complex or self.dtype == torch.bool)
        return self.placed is None and self.role is Role.NODE and whole and not self.trailing


@dataclass(frozen=True)
class Signature:
    """The arguments of one call of forward: tensors by kind, everything else by value.

    Attributes:
        leaves: a TensorSpec for each tensor among the flattened arguments, the value itself for the rest.
        structure: how the leaves make up ``(args, kwargs)``.
        names: what each leaf is called in messages.
        parameters: ``(state_dict key, spec)`` of each parameter or buffer that has a row for each node. They are flat
            inputs as well, behind the arguments, so that their rows are dynamic. A buffer needs no gradient.
        schema: the node sets and edge sets that the tensors belong to.
        device: of the tensors. A capture keeps it, as in ``torch.arange(n, device=x.device)``.
        two_graphs: the numbers of the tensors, among ``tensors``, whose example integers are of two graphs. For any
            other they are zeros: a class, a category, or one graph, which is too few for a batch norm over graphs.
        data: the arguments whose dict of tensors forward gets as one object, with an attribute for each.
    """

    leaves: tuple[Any, ...]
    structure: pytree.TreeSpec
    names: tuple[str, ...]
    schema: Schema = Schema()  # noqa: RUF009 (frozen)
    parameters: tuple[tuple[str, TensorSpec], ...] = ()
    device: torch.device = torch.device("cpu")  # noqa: RUF009 (immutable)
    two_graphs: frozenset[int] = frozenset()
    data: tuple[str, ...] = ()

    @property
    def arguments(self) -> tuple[TensorSpec, ...]:
        """The tensors among the arguments."""
        return tuple(leaf for leaf in self.leaves if isinstance(leaf, TensorSpec))

    @property
    def tensors(self) -> tuple[TensorSpec, ...]:
        """Every tensor that is a flat input: arguments, then node parameters."""
        return (*self.arguments, *(spec for _, spec in self.parameters))

    def restore_parameters(self, flat: Sequence[Tensor]) -> dict[str, Tensor]:
        """The node parameters and buffers by their state_dict keys, from the flat program inputs."""
        first = len(flat) - len(self.parameters)
        return {name: value for (name, _), value in zip(self.parameters, flat[first:], strict=True)}

    def restore_trainable(self, flat: Sequence[Tensor]) -> dict[str, Tensor]:
        """Those of them that are parameters."""
        trainable = {name for name, spec in self.parameters if spec.needs_grad}
        return {name: value for name, value in self.restore_parameters(flat).items() if name in trainable}

    def restore(self, flat: Sequence[Tensor]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """``(args, kwargs)`` of forward from the flat program inputs."""
        queue, values, num_nodes = list(flat), [], {}
        for leaf in self.leaves:
            if not isinstance(leaf, TensorSpec):
                values.append(leaf)
            elif leaf.role is Role.ADJACENCY:
                index, weights = queue.pop(0), queue.pop(0)
                values.append(SparseStandIn(index, weights))
            else:
                values.append(queue.pop(0))
                if leaf.role is Role.NODE and leaf.placed is None:
                    num_nodes[leaf.of] = values[-1].size(0)
        args, kwargs = pytree.tree_unflatten(values, self.structure)
        given = {
            name: as_data(value, num_nodes) if name in self.data else value for name, value in kwargs.items()
        }
        return tuple(args), given


def with_node_parameters(signature: Signature, model: nn.Module, sets: Mapping[str, str]) -> Signature:
    """The signature of a call of a model with parameters and buffers that hold one row for each owned node.

    Args:
        signature: of the arguments.
        model: with these tensors, of any number of rows.
        sets: state_dict key of each of them -> its node set.
    """
    parameters: dict[str, Tensor] = dict(model.named_parameters(remove_duplicate=False))
    every = parameters | dict(model.named_buffers(remove_duplicate=False))
    specs = tuple(
        (name, TensorSpec(Role.NODE, every[name].dtype, tuple(every[name].shape[1:]), of, name in parameters))
        for name, of in sets.items()
    )
    return replace(signature, parameters=specs)


def sizes_for(model: nn.Module, signature: Signature) -> tuple[Sizes, Sizes]:
    """Two sizes of every set that no static dim shares, so that none is taken for another."""
    taken = {int(d) for leaf in signature.tensors for d in leaf.trailing}
    cut = {name for name, _ in signature.parameters}
    for name, tensor in (*model.named_parameters(remove_duplicate=False), *model.named_buffers()):
        if name not in cut:
            taken.update(tensor.shape)
    free = (size for size in range(11, 1 << 20) if size not in taken and size % 2 and size % 3)
    schema = signature.schema
    given = _given(signature)
    first, second = (
        Sizes(
            {name: next(free) for name in schema.nodes},
            {e.name: next(free) for e in schema.edges},
            {name: next(free) for name in given},
        )
        for _ in range(2)
    )
    return first, second


def _given(signature: Signature) -> list[str]:
    """The names of rows that another program made."""
    rows = [spec.rows[1] for spec in signature.tensors if spec.rows is not None]
    return list(dict.fromkeys(r.name for r in rows if isinstance(r, Given)))


def _count(rows: Rows, sizes: Sizes) -> int:
    """How many rows an example has."""
    if isinstance(rows, Owned):
        return sizes.nodes[rows.nodes]
    assert isinstance(rows, (Edges, Given)), rows
    return (sizes.edges if isinstance(rows, Edges) else sizes.given)[rows.name]


def _placed_example(spec: TensorSpec, sizes: Sizes, generator: torch.Generator) -> Tensor:
    """A value that another program made: node numbers where it holds such."""
    assert spec.placed is not None
    shape = list(spec.trailing)
    if spec.rows is not None:
        dim, rows = spec.rows
        shape.insert(dim, _count(rows, sizes))
    points = spec.placed.points
    if points is None:
        return _values(tuple(shape), spec.dtype, generator)
    ends = points if isinstance(points, tuple) else (points,)
    nodes = [0 if end is None else sizes.nodes[end.nodes] for end in ends]
    parts = [
        torch.randint(
            0, max(n, 1), tuple(shape[1:] if isinstance(points, tuple) else shape), generator=generator
        )
        for n in nodes
    ]
    return torch.stack(parts) if isinstance(points, tuple) else parts[0]


def example_inputs(signature: Signature, sizes: Sizes, seed: int = 0) -> list[Tensor]:
    """A flat list of example tensors; integers are zeros (a valid class, a valid category), or number the graphs.

    They are drawn on the CPU, whatever their device: every rank has the same.
    """
    generator = torch.Generator().manual_seed(seed)
    flat: list[Tensor] = []
    for number, spec in enumerate(signature.tensors):
        if spec.placed is not None:
            flat.append(_placed_example(spec, sizes, generator))
        elif spec.role.is_index or spec.role is Role.ADJACENCY:
            edge_set, edges = signature.schema.edge_set(spec.of), sizes.edges[spec.of]
            ends = sizes.nodes[edge_set.source], sizes.nodes[edge_set.destination]
            flat.append(_edges(ends, edges, generator))
            if spec.role is Role.ADJACENCY:
                flat.append(torch.rand(edges, generator=generator).to(spec.dtype))
        else:
            counts = {Role.NODE: sizes.nodes, Role.EDGE: sizes.edges, Role.INDEX: sizes.edges}.get(spec.role)
            rows = () if counts is None else (counts[spec.of],)
            values = _values((*rows, *spec.trailing), spec.dtype, generator)
            if spec.role is Role.INDEX:
                nodes = sizes.nodes[signature.schema.edge_set(spec.of).source]
                values = torch.randint(0, nodes, values.shape, generator=generator) if nodes else values
            if number in signature.two_graphs:
                values = (torch.arange(values.numel()) * 2 >= values.numel()).to(spec.dtype)
            flat.append(values)
    return [t.to(signature.device) for t in flat]


def dynamic_shapes(signature: Signature) -> tuple[dict[int, Any], ...]:
    """The named dims of the flat inputs: all tensors of a node set share one, those of an edge set another."""
    nodes = _named_dims("num_nodes", signature.schema.nodes)
    edges = _named_dims("num_edges", (e.name for e in signature.schema.edges))
    given = _named_dims("num_rows", _given(signature))
    shapes: list[dict[int, Any]] = []
    for spec in signature.tensors:
        if spec.placed is not None:
            shapes.append(
                {} if spec.rows is None else {spec.rows[0]: _dim(spec.rows[1], nodes, edges, given)}
            )
        elif spec.role.is_index:
            shapes.append({1: edges[spec.of]})
        elif spec.role is Role.ADJACENCY:
            shapes.extend(({1: edges[spec.of]}, {0: edges[spec.of]}))
        else:
            dims = {Role.NODE: nodes, Role.EDGE: edges, Role.INDEX: edges}.get(spec.role)
            shapes.append({} if dims is None else {0: dims[spec.of]})
    return tuple(shapes)


def _dim(rows: Rows, nodes: Mapping[str, Any], edges: Mapping[str, Any], given: Mapping[str, Any]) -> Any:
    if isinstance(rows, Owned):
        return nodes[rows.nodes]
    assert isinstance(rows, (Edges, Given)), rows
    return (edges if isinstance(rows, Edges) else given)[rows.name]


def _named_dims(prefix: str, names: Iterable[str]) -> dict[str, Any]:
    """``num_nodes``, ``num_nodes_paper``: a dim for each set; torch wants distinct Python identifiers."""
    dims: dict[str, Any] = {}
    taken: set[str] = set()
    for name in names:
        clean = "_".join(filter(None, (prefix, re.sub(r"\W", "_", name))))
        while clean in taken:
            clean += "_"
        taken.add(clean)
        dims[name] = Dim(clean, min=4, max=MOST_ROWS)
    return dims


def _edges(ends: tuple[int, int], edges: int, generator: torch.Generator) -> Tensor:
    """Pairs at random, with a parallel pair; ``(0, 0)`` among them, a self loop where both ends are one set."""
    if not edges or not min(ends):
        return torch.zeros(2, 0 if not min(ends) else edges, dtype=torch.int64)
    if ends[0] == ends[1]:
        pairs = torch.randint(0, ends[0], (2, edges), generator=generator)
    else:
        pairs = torch.stack([torch.randint(0, n, (edges,), generator=generator) for n in ends])
    pairs[:, :1] = 0
    pairs[:, 2:3] = pairs[:, 1:2]
    return pairs


def _values(shape: tuple[int, ...], dtype: torch.dtype, generator: torch.Generator) -> Tensor:
    if dtype.is_floating_point or dtype.is_complex:
        # In (0.25, 0.75): valid as a weight, a probability, and under a logarithm or a root.
        return (torch.rand(shape, generator=generator, dtype=torch.float64) / 2 + 0.25).to(dtype)
    if dtype == torch.bool:
        count = int(torch.Size(shape).numel())
        return (torch.arange(count) % 3 != 0).view(shape)
    return torch.zeros(shape, dtype=dtype)
