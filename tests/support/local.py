"""A rank's own part of what is placed: most tests compare parts, and take losses of them by hand."""

from __future__ import annotations

from typing import Any

from torch.utils import _pytree as pytree

from graphshard import Shard


def local(value: Any) -> Any:
    """Plain tensors in the place of placed ones, in whatever they are nested."""
    return pytree.tree_map(lambda leaf: leaf.local() if hasattr(leaf, "local") else leaf, value)


class LocalShard:
    """A shard whose tensors read as plain ones."""

    def __init__(self, shard: Shard) -> None:
        self._shard = shard

    def __getattr__(self, name: str) -> Any:
        return local(getattr(self._shard, name))

    def __getitem__(self, key: Any) -> Any:
        found = self._shard[key]
        return local(found)
