"""Example inputs to capture on: small, of the right kinds, and the same on every rank.

They do not come from a shard, so every rank builds the identical program, and a shard with 0 or 1 rows
specialises nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim
from torch.utils import _pytree as pytree

from graphshard.capture.sparse import SparseStandIn
from graphshard.roles import Role


@dataclass(frozen=True)
class TensorSpec:
    """What capture has to know of one tensor argument: its role, dtype and the sizes after the rows."""

    role: Role
    dtype: torch.dtype
    trailing: tuple[int, ...]

    @property
    def width(self) -> int:
        """How many program inputs it becomes: an adjacency is an index and its values."""
        return 2 if self.role is Role.ADJACENCY else 1


@dataclass(frozen=True)
class Signature:
    """The arguments of one call of forward: tensors by kind, everything else by value.

    Attributes:
        leaves: a TensorSpec for each tensor among the flattened arguments, the value itself for the rest.
        structure: how the leaves make up ``(args, kwargs)``.
        names: what each leaf is called in messages.
        parameters: ``(state_dict key, spec)`` of each parameter that has a row for each node. They are flat
            inputs as well, behind the arguments, so that their rows are dynamic.
    """

    leaves: tuple[Any, ...]
    structure: pytree.TreeSpec
    names: tuple[str, ...]
    parameters: tuple[tuple[str, TensorSpec], ...] = ()

    @property
    def arguments(self) -> tuple[TensorSpec, ...]:
        """The tensors among the arguments."""
        return tuple(leaf for leaf in self.leaves if isinstance(leaf, TensorSpec))

    @property
    def tensors(self) -> tuple[TensorSpec, ...]:
        """Every tensor that is a flat input: arguments, then node parameters."""
        return (*self.arguments, *(spec for _, spec in self.parameters))

    def restore_parameters(self, flat: Sequence[Tensor]) -> dict[str, Tensor]:
        """The node parameters by their state_dict keys, from the flat program inputs."""
        first = len(flat) - len(self.parameters)
        return {name: value for (name, _), value in zip(self.parameters, flat[first:], strict=True)}

    def restore(self, flat: Sequence[Tensor]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """``(args, kwargs)`` of forward from the flat program inputs."""
        queue, values = list(flat), []
        for leaf in self.leaves:
            if not isinstance(leaf, TensorSpec):
                values.append(leaf)
            elif leaf.role is Role.ADJACENCY:
                index, weights = queue.pop(0), queue.pop(0)
                values.append(SparseStandIn(index, weights))
            else:
                values.append(queue.pop(0))
        args, kwargs = pytree.tree_unflatten(values, self.structure)
        return tuple(args), dict(kwargs)


def with_node_parameters(signature: Signature, model: nn.Module, names: Sequence[str]) -> Signature:
    """The signature of a call of a model whose parameters ``names`` hold one row for each owned node."""
    every = dict(model.named_parameters(remove_duplicate=False))
    specs = tuple((n, TensorSpec(Role.NODE, every[n].dtype, tuple(every[n].shape[1:]))) for n in names)
    return replace(signature, parameters=specs)


def sizes_for(model: nn.Module, signature: Signature) -> tuple[tuple[int, int], tuple[int, int]]:
    """Two ``(nodes, edges)`` pairs whose sizes no static dim shares, so that none is taken for another."""
    taken = {int(d) for leaf in signature.tensors for d in leaf.trailing}
    cut = {name for name, _ in signature.parameters}
    for name, tensor in (*model.named_parameters(remove_duplicate=False), *model.named_buffers()):
        if name not in cut:
            taken.update(tensor.shape)
    free = (size for size in range(11, 1 << 20) if size not in taken and size % 2 and size % 3)
    a, b, c, d = (next(free) for _ in range(4))
    return (a, b), (c, d)


def example_inputs(signature: Signature, nodes: int, edges: int, seed: int = 0) -> list[Tensor]:
    """A flat list of example tensors; integers are zeros (a valid class, a valid category)."""
    generator = torch.Generator().manual_seed(seed)
    flat: list[Tensor] = []
    for spec in signature.tensors:
        if spec.role in (Role.EDGE_INDEX, Role.ADJACENCY):
            flat.append(_edges(nodes, edges, generator))
            if spec.role is Role.ADJACENCY:
                flat.append(torch.rand(edges, generator=generator).to(spec.dtype))
        else:
            rows = {Role.NODE: (nodes,), Role.EDGE: (edges,), Role.REPLICATED: ()}[spec.role]
            flat.append(_values((*rows, *spec.trailing), spec.dtype, generator))
    return flat


def dynamic_shapes(signature: Signature) -> tuple[dict[int, Any], ...]:
    """The named dims of the flat inputs: every node tensor shares one, every edge tensor the other."""
    nodes = Dim("num_nodes", min=4, max=2**31 - 1)
    edges = Dim("num_edges", min=4, max=2**31 - 1)
    shapes: list[dict[int, Any]] = []
    for spec in signature.tensors:
        if spec.role is Role.EDGE_INDEX:
            shapes.append({1: edges})
        elif spec.role is Role.ADJACENCY:
            shapes.extend(({1: edges}, {0: edges}))
        else:
            dim = {Role.NODE: nodes, Role.EDGE: edges}.get(spec.role)
            shapes.append({} if dim is None else {0: dim})
    return tuple(shapes)


def _edges(nodes: int, edges: int, generator: torch.Generator) -> Tensor:
    """Every node but the last has an in-edge; there is a self loop and a parallel edge."""
    pairs = torch.randint(0, nodes, (2, edges), generator=generator)
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
