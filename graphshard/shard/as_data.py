"""What a script reads of a PyG ``Data`` or ``HeteroData``, read of a shard: sizes and types are the whole graph's.

What depends on edges or rows that other ranks hold is not answered from the part that one rank has: it is an error
that says where to ask instead.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from torch import Tensor

from graphshard.graph.paths import EdgeType, Path, PathKey
from graphshard.graph.roles import Member, Role
from graphshard.private.pyg import data_attributes
from graphshard.shard.parts import EdgeShard, NodeShard

NONE_UNLESS_GIVEN = frozenset(
    {"x", "edge_index", "edge_weight", "edge_attr", "y", "pos", "batch", "time", "face"}
)
"""Attributes that a ``Data`` always has: None where it holds no such tensor."""


def width_of(value: Tensor | None) -> int:
    """The number of features of each row, as PyG counts it: 1 of a vector, 0 where there is none."""
    if value is None:
        return 0
    return 1 if value.dim() == 1 else int(value.size(-1))


class AsData:
    """The reading half of PyG's interface; :class:`graphshard.Shard` has it."""

    node_sets: dict[str, NodeShard]
    edge_sets: dict[str, EdgeShard]
    tensors: dict[str, Tensor]
    members: dict[str, Member]
    paths: dict[str, Path]
    positional: bool

    @property
    def typed(self) -> bool:
        """Whether the graph is heterogeneous, as a ``HeteroData`` is."""
        return set(self.node_sets) != {""}

    def keys(self) -> list[str]:
        """The names of the attributes; of a heterogeneous graph, as in ``HeteroData``, without their types."""
        return list(dict.fromkeys(self._attribute(name) for name in self.tensors))

    def _attribute(self, name: str) -> str:
        path = self.paths.get(name)
        return name if path is None else str(path[0]).removesuffix("_dict")

    def __contains__(self, name: object) -> bool:
        return name in self.tensors or name in self.keys()

    def __len__(self) -> int:
        return len(self.keys())

    def __bool__(self) -> bool:
        return True  # a shard without a tensor is one

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        return iter(self.tensors.items())

    def __call__(self, *names: str) -> Iterator[tuple[str, Tensor]]:
        """``(name, tensor)`` of those of the names that there are, in their order; without names of all."""
        chosen = names or tuple(self.tensors)
        return iter([(name, self.tensors[name]) for name in chosen if name in self.tensors])

    def to_dict(self) -> dict[str, Tensor]:
        """name -> tensor; a dict of its own."""
        return dict(self.tensors)

    @property
    def node_types(self) -> list[str]:
        """Of a heterogeneous graph, in the order of the data; also those of which a rank has no node."""
        self._check_typed()
        return [name for name in self.node_sets if name]

    @property
    def edge_types(self) -> list[EdgeType]:
        """``(source, relation, destination)`` of a heterogeneous graph, in the order of the data."""
        self._check_typed()
        found = (path[1] for path in self.paths.values() if len(path) > 1)
        return list(dict.fromkeys(key for key in found if isinstance(key, tuple)))

    def _check_typed(self) -> None:
        if not self.typed:
            raise AttributeError  # Python then asks __getattr__, which has the words

    def metadata(self) -> tuple[list[str], list[EdgeType]]:
        """Node types and edge types of a heterogeneous graph, as ``to_hetero`` and ``HGTConv`` take them."""
        return self.node_types, self.edge_types

    def of_type(self, key: PathKey) -> dict[str, Tensor]:
        """Attribute -> tensor of one node or edge type: ``x`` for what stands in ``x_dict``."""
        return {
            self._attribute(name): self.tensors[name]
            for name, path in self.paths.items()
            if path[1:] == (key,) and name in self.tensors
        }

    @property
    def num_node_features(self) -> int | dict[str, int]:
        """The width of ``x``; of a heterogeneous graph by node type. 0 where there is no ``x``."""
        if not self.typed:
            return width_of(self.tensors.get("x"))
        return {kind: width_of(self.of_type(kind).get("x")) for kind in self.node_types}

    @property
    def num_features(self) -> int | dict[str, int]:
        """The same as ``num_node_features``."""
        return self.num_node_features

    @property
    def num_edge_features(self) -> int | dict[EdgeType, int]:
        """The width of ``edge_attr``; of a heterogeneous graph by edge type. 0 where there is no ``edge_attr``."""
        if not self.typed:
            return width_of(self.tensors.get("edge_attr"))
        return {kind: width_of(self.of_type(kind).get("edge_attr")) for kind in self.edge_types}

    def is_node_attr(self, name: str) -> bool:
        """Whether a tensor has a row for each node."""
        return self.members[name].role is Role.NODE

    def is_edge_attr(self, name: str) -> bool:
        """Whether a tensor has an entry for each edge, as an edge index has."""
        return self.members[name].role in (Role.EDGE, Role.EDGE_INDEX)

    @property
    def is_cuda(self) -> bool:
        """Whether any tensor is on a GPU."""
        return any(value.is_cuda for value in self.tensors.values())


def missing(name: str, tensors: Mapping[str, Tensor], typed: bool) -> str:
    """Why a shard has no such attribute, and where to find it."""
    if name in ("node_types", "edge_types") and not typed:
        return f"this shard is of a homogeneous graph, which has no {name}; read shard.x, shard.num_nodes"
    if name in data_attributes():
        return (
            f"a shard has no {name!r} as a PyG Data has it: a rank holds a part of the graph and cannot tell it "
            f"for the whole; take it from the data before partition()"
        )
    held = ", ".join(tensors) or "none"
    types = "; shard[type] has what belongs to one node or edge type" if typed else ""
    return (
        f"this shard has no tensor {name!r}; it has {held}{types}. Values that are no tensors stay with the data, and "
        f"what partition() was not given it has not cut"
    )
