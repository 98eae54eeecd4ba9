"""Nested containers as a list of leaves and a structure: ``torch.utils._pytree``, by which torch.export flattens.

There is no documented way to the same flattening. ``keystr`` writes a path as Python does: ``[0]['a'].b``.
"""

from __future__ import annotations

from torch.utils._pytree import (
    MappingKey,
    TreeSpec,
    keystr,
    tree_flatten,
    tree_flatten_with_path,
    tree_leaves,
    tree_map,
    tree_unflatten,
)

__all__ = [
    "MappingKey",
    "TreeSpec",
    "keystr",
    "tree_flatten",
    "tree_flatten_with_path",
    "tree_leaves",
    "tree_map",
    "tree_unflatten",
]
