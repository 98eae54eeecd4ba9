"""Peak memory of a rank on a small graph, against what it was: what ``.ci/run`` sees to.

Pages come and go one by one with the C library's allocator and a low threshold for mappings of their own, so that
numbers are those of the tensors, and the same in every run but for a percent.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from unittest import mock

from graphshard.errors import GraphshardError
from graphshard.tools.bench.generate import Shape
from graphshard.tools.bench.memory import WIDTHS
from graphshard.tools.bench.systems import System, measure, write_graph

MODELS = ("sage3-dropout", "sage3", "gcn", "gat3-dropout")
ALLOWED = 1.05
"""How much more than before is still the same."""

_RANKS, _SMALL = 2, Shape(64, 512)
_EXACT = {"GRAPHSHARD_ALLOCATOR": "system", "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "0"}


def peaks(shape: Shape, seed: int) -> Iterator[tuple[str, float]]:
    """For each model the MiB that a rank of two held more at its peak than before it trained."""
    exact = mock.patch.dict(os.environ, _EXACT)
    with tempfile.TemporaryDirectory(prefix="graphshard-peak-") as scratch, exact:
        folder, system = Path(scratch), System("graphshard", "graphshard", _RANKS, 1)
        for part, size in (("small", _SMALL), ("graph", shape)):
            (folder / part).mkdir()
            write_graph(folder / part, size, WIDTHS, [_RANKS], seed)
        for model in MODELS:
            measure(
                model, [system], folder / "small", 1, turn=0.0
            )  # compiles the kernels, which takes memory
            found = measure(model, [system], folder / "graph", 1, turn=0.0)[system.label]
            yield model, found.memory / _RANKS


def check(found: Mapping[str, float], before: Mapping[str, float]) -> None:
    """See that no model takes more memory than it did.

    Raises:
        GraphshardError: one takes over 5 % more, or was not measured before.
    """
    if missing := found.keys() - before.keys():
        raise GraphshardError(
            f"the peak of {missing.pop()} was not measured before: write the file anew with --out"
        )
    worse = [
        f"{m}: {found[m]:.0f} MiB after {before[m]:.0f}" for m in found if found[m] > ALLOWED * before[m]
    ]
    if worse:
        raise GraphshardError(f"peak memory of a rank grew by over 5 %: {'; '.join(worse)}")
