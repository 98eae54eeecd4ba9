"""``shard["paper"].x``: what a shard holds of one type, in the words of PyG's ``HeteroData``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from graphshard.paths import EdgeType, PathKey
from graphshard.set_shards import EdgeShard, NodeShard

if TYPE_CHECKING:
    from graphshard.shard import Shard


@dataclass(frozen=True, eq=False)
class TypeShard:
    """What a shard holds of one node or edge type; ``shard["paper"].x``.

    Attributes:
        shard: the shard.
        key: the node type or edge type.
    """

    shard: Shard
    key: PathKey

    @property
    def tensors(self) -> dict[str, Tensor]:
        """Attribute -> tensor, as in PyG: ``x`` for what stands in ``x_dict``."""
        return {
            str(path[0]).removesuffix("_dict"): self.shard.tensors[name]
            for name, path in self.shard.paths.items()
            if path[1:] == (self.key,)
        }

    @property
    def nodes(self) -> NodeShard:
        """The nodes of a node type: counts, global ids, halo plans."""
        return self.shard.node_set(str(self.key))

    @property
    def edges(self) -> EdgeShard:
        """The edges of an edge type: counts, positions in the whole graph."""
        return self.shard._edge_set("__".join(self.key) if isinstance(self.key, tuple) else str(self.key))

    def __getattr__(self, name: str) -> Tensor:
        tensors = self.tensors if "shard" in self.__dict__ else {}
        if name in tensors:
            return tensors[name]
        raise AttributeError(
            f"{self.__dict__.get('key')} has no tensor {name!r}; it has {', '.join(tensors) or 'none'}"
        )


def is_short_for(edge_type: EdgeType, key: str | tuple[str, ...]) -> bool:
    """Whether ``key`` is the relation, or the two ends, of an edge type."""
    return key in (edge_type[1], (edge_type[0], edge_type[2]))
