"""Copies of a model for runs that change it."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn

from graphshard.private import pytree


def copied(model: nn.Module) -> nn.Module:
    """A deep copy, in which what a module computed and keeps is detached: PyTorch does not copy such a tensor.

    It is the weight that ``weight_norm`` or pruning makes, which a hook computes anew before each forward.
    """
    made: dict[int, Any] = {id(tensor): tensor.detach().clone() for tensor in _computed(model)}
    return copy.deepcopy(model, made)


def _computed(model: nn.Module) -> Iterator[Tensor]:
    for module in model.modules():
        for value in pytree.tree_leaves(dict(vars(module))):
            if isinstance(value, Tensor) and not value.is_leaf:
                yield value
