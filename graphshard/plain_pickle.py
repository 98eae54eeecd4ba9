"""Pickles that hold plain data alone: arrays, sparse matrices, lists and dicts. Anything else could run code."""

from __future__ import annotations

import importlib
import pickle
from pathlib import Path
from typing import Any

from graphshard.errors import DataError

_PLAIN = {
    ("builtins", "list"): ("builtins", "list"),
    ("__builtin__", "list"): ("builtins", "list"),  # Python 2's name
    ("collections", "defaultdict"): ("collections", "defaultdict"),
    # How Python 3 writes bytes for Python 2.
    ("_codecs", "encode"): ("_codecs", "encode"),
    ("numpy", "ndarray"): ("numpy", "ndarray"),
    ("numpy", "dtype"): ("numpy", "dtype"),
    **{
        (module, name): ("numpy._core.multiarray", name)
        for module in ("numpy.core.multiarray", "numpy._core.multiarray")
        for name in ("_reconstruct", "scalar")
    },
    **{
        (module, "csr_matrix"): ("scipy.sparse", "csr_matrix")
        for module in ("scipy.sparse.csr", "scipy.sparse._csr")
    },
}
"""What such a pickle may name, and where that is today: none of it does more than hold what it is given."""


class _PlainUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _PLAIN:
            raise DataError(f"{module}.{name}")
        home, known = _PLAIN[module, name]
        return getattr(importlib.import_module(home), known)


def check_plain_pickle(path: Path) -> None:
    """Make sure that loading a pickle runs no code of its own.

    Raises:
        DataError: it names something that is not plain data, or is damaged. Nothing of it was run.
    """
    try:
        with path.open("rb") as stream:
            _PlainUnpickler(stream, encoding="latin1").load()
    except DataError as found:
        raise DataError(
            f"{path} holds {found}, which could run code when read: planetoid's files hold arrays, sparse matrices "
            "and lists alone"
        ) from None
    except Exception as error:  # a damaged pickle raises whatever its bytes happen to mean
        raise DataError(f"{path} is damaged: {type(error).__name__}: {error}") from error
