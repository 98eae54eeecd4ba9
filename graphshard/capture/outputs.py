"""What forward may return: tensors, and Python values that no graph and no data changes."""

from __future__ import annotations

from enum import Enum
from typing import Any

import numpy as np
import torch
from torch import Tensor

from graphshard.errors import CaptureError
from graphshard.private import pytree

_PLAIN = (
    bool,
    int,
    float,
    complex,
    str,
    bytes,
    type(None),
    torch.dtype,
    torch.device,
    torch.Size,
    type,
    Enum,
)
_SYMBOLS = (torch.SymInt, torch.SymFloat, torch.SymBool)


def has_other_values(result: Any) -> bool:
    """Whether something besides tensors and None is returned."""
    return any(leaf is not None and not isinstance(leaf, Tensor) for leaf in pytree.tree_leaves(result))


def check_kinds(result: Any) -> None:
    """Refuse what a program cannot return: objects, which would hold tensors of the examples.

    Raises:
        CaptureError: names the output, its class and what to return instead.
    """
    for path, leaf in pytree.tree_flatten_with_path(result)[0]:
        if isinstance(leaf, _SYMBOLS):
            raise CaptureError(_depends(path))
        if isinstance(leaf, (Tensor, *_PLAIN)) and not isinstance(leaf, np.generic):
            continue
        kind = type(leaf)
        raise CaptureError(
            f"forward returns {_output(path)}a {kind.__name__} ({kind.__module__}), which would hold what the "
            "example graph gave; return its tensors (in a tuple, list, dict or namedtuple) and make it of them outside"
        )


def check_same(first: Any, second: Any) -> None:
    """Refuse Python values that differ between the results of one forward on two graphs.

    Raises:
        CaptureError: names the output and what to return instead.
    """
    one, other = (pytree.tree_flatten_with_path(result) for result in (first, second))
    if one[1] != other[1]:
        raise CaptureError(
            "forward returns another structure (other keys, another length) for another graph, which one program "
            "cannot; return the same one for every graph"
        )
    for (path, a), (_, b) in zip(one[0], other[0], strict=True):
        if isinstance(a, Tensor) != isinstance(b, Tensor):
            raise CaptureError(_depends(path))
        if not isinstance(a, Tensor) and (type(a) is not type(b) or repr(a) != repr(b)):
            raise CaptureError(_depends(path))


def _depends(path: Any) -> str:
    return (
        f"forward returns {_output(path)}a Python number that depends on the graph or its data (a size, .item(), "
        "len()), and a program would return that of the example it was captured on; return a tensor (leave out "
        ".item()), or take the size outside of forward"
    )


def _output(path: Any) -> str:
    key = pytree.keystr(path)
    return f"as output{key} " if key else ""
