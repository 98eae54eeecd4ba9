"""The zoo of ``graphshard coverage``: PyG's layers and models with their options, and GNNs written by hand.

One file for each family; ``GROUPS`` says which family belongs to which row of the table. Importing this package
imports nothing but torch's and PyG's names as they are needed.

Imports: check, errors, execute, graph, options, partitioning, preview, shard, tools.output.
"""

from __future__ import annotations

from collections.abc import Iterator
from fnmatch import fnmatch
from importlib import import_module

from graphshard.errors import GraphshardError
from graphshard.tools.zoo.configuration import Configuration

GROUPS = {
    "convs": ("convs", "convs_edges"),
    "models": ("models", "models_large"),
    "norms": ("norms",),
    "aggregations": ("aggregations",),
    "poolings": ("poolings",),
    "hand-written": ("hand_written", "hand_written_rows", "losses"),
}
"""Row of the table -> its files."""


def configurations(pattern: str = "*") -> Iterator[tuple[str, Configuration]]:
    """``(group, configuration)`` of all whose ``group/name`` or name matches, or contains, the pattern.

    Raises:
        GraphshardError: two configurations have one name.
    """
    seen: set[str] = set()
    for group, files in GROUPS.items():
        for file in files:
            for configuration in import_module(f"{__name__}.{file}").CONFIGURATIONS:
                if configuration.name in seen:
                    raise GraphshardError(f"two configurations of the zoo are called {configuration.name!r}")
                seen.add(configuration.name)
                if _matches(pattern, group, configuration.name):
                    yield group, configuration


def _matches(pattern: str, group: str, name: str) -> bool:
    return pattern.lower() in f"{group}/{name}".lower() or any(
        fnmatch(text.lower(), pattern.lower()) for text in (name, f"{group}/{name}")
    )
