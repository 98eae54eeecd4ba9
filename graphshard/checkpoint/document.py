"""Python values as JSON and back, with their tensors taken out: a state of an optimiser, of a schedule, of a generator.

::

    {"lr": 0.1, "betas": (0.9, 0.999), "state": {0: {"step": tensor}}}
        -->  {"dict": [["lr", 0.1], ["betas", {"tuple": [0.9, 0.999]}], ["state", ... {"tensor": "state/0/step"}]]}

Nothing is pickled, so reading a checkpoint runs no code that it holds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from torch import Tensor

from graphshard.errors import CheckpointError

KeepTensor = Callable[[str, Tensor], dict[str, str]]
"""Takes a tensor and its path, and says by what it stands in the document."""


def encoded(value: Any, path: str, keep: KeepTensor) -> Any:
    """A value as JSON.

    Args:
        value: None, numbers, texts, tensors, NumPy's numbers and arrays of numbers, and lists, tuples, dicts of these.
        path: what it is called, for its tensors and for the message.
        keep: called for each tensor.

    Raises:
        CheckpointError: something else.
    """
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, Tensor):
        return keep(path, value)
    if isinstance(value, np.ndarray) and value.dtype != object:
        return {"array": value.tolist(), "dtype": str(value.dtype)}
    if isinstance(value, (list, tuple)):
        entries = [encoded(entry, f"{path}/{i}", keep) for i, entry in enumerate(value)]
        return {"tuple": entries} if isinstance(value, tuple) else entries
    if isinstance(value, Mapping):
        pairs = [[_key(k, path), encoded(v, f"{path}/{k}", keep)] for k, v in value.items()]
        return {"dict": pairs}
    raise CheckpointError(
        f"{path} is a {type(value).__module__}.{type(value).__qualname__}, and a checkpoint keeps tensors, numbers, "
        "texts, lists, tuples and dicts: save what it is made of (its state_dict())"
    )


def _key(key: Any, path: str) -> Any:
    if isinstance(key, (str, int)):
        return key
    raise CheckpointError(f"{path} has a key that is no text and no number, {key!r}")


def decoded(value: Any, tensor: Callable[[Mapping[str, str]], Tensor]) -> Any:
    """The value of a document; ``tensor`` gives the tensor for what stands in its place."""
    if isinstance(value, list):
        return [decoded(entry, tensor) for entry in value]
    if not isinstance(value, dict):
        return value
    if "dict" in value:
        return {key: decoded(entry, tensor) for key, entry in value["dict"]}
    if "tuple" in value:
        return tuple(decoded(entry, tensor) for entry in value["tuple"])
    if "array" in value:
        return np.array(value["array"], dtype=value["dtype"])
    return tensor(value)
