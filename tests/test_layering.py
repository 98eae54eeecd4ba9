"""The architecture, enforced: what may import what.

errors, halo, roles, placement  <-  kernels  <-  partition, shard, ops, printing  <-  passes  <-  capture, runtime,
                                check  <-  api  <-  tools
"""

from __future__ import annotations

import ast
import importlib
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

LAYERS: list[set[str]] = [
    {"errors", "version", "halo", "roles", "placement", "sets", "paths"},
    {"kernels"},
    {
        *(
            "groups",
            "ops",
            "local_ops",
            "dropout",
            "aggregation",
            "combined",
            "overlap",
            "simulate",
            "launch",
            "reductions",
        ),
        *("float_order", "memory", "copies", "stacking", "node_parameters", "equal_start", "checksums"),
        *(
            "graphdata",
            "graph_readers",
            "graph_sets",
            "numbering",
            "assign",
            "partitioning",
            "partition_report",
        ),
        *("shard", "set_shards", "type_shard", "gather_rows", "shard_io", "shard_content", "shard_manifest"),
        *("shard_checks", "array_pickle", "rank_notes"),
        *("data", "data_files", "node_task"),
    },
    {"passes"},
    {"printing", "names", "differ", "costs", "rules"},
    {"capture", "runtime", "hoisted", "arguments", "check", "python_state", "agreement"},
    {"api", "inspect_model", "training"},
    {"tools"},
]
FREE = {"graphshard", "graphshard.__main__"}  # all that is public, and the command line


def modules() -> dict[str, Path]:
    """Dotted name -> file of every module, the top-level folders under their installed names."""
    found = {}
    folders = {"graphshard": "graphshard", "passes": "graphshard.passes", "tools": "graphshard.tools"}
    for folder, prefix in folders.items():
        for path in sorted((ROOT / folder).rglob("*.py")):
            inside = path.relative_to(ROOT / folder).with_suffix("").parts
            if folder == "graphshard" and inside[0] in ("passes", "tools"):
                continue
            name = ".".join((prefix, *inside)).removesuffix(".__init__")
            found[name] = path
    return found


def imports(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}: relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names} | {str(node.module)}
    return names


def layer_of(name: str) -> int | None:
    parts = name.split(".")
    if parts[0] != "graphshard" or len(parts) == 1:
        return None
    return next((i for i, layer in enumerate(LAYERS) if parts[1] in layer), None)


def test_every_module_has_a_layer() -> None:
    unplaced = [name for name in modules() if name not in FREE and layer_of(name) is None]
    assert not unplaced


@pytest.mark.parametrize("name", sorted(set(modules()) - FREE))
def test_a_module_imports_its_own_layer_or_a_lower_one(name: str) -> None:
    own = layer_of(name)
    assert own is not None
    above = {i for i in imports(modules()[name]) if (layer_of(i) or 0) > own}
    assert not above


def test_the_folders_are_not_importable_under_another_name() -> None:
    sys.path.insert(0, str(ROOT))
    try:
        for name in ("passes", "tools"):
            sys.modules.pop(name, None)
            with pytest.raises(ImportError, match=f"graphshard.{name}"):
                importlib.import_module(name)
    finally:
        sys.path.remove(str(ROOT))


def test_files_stay_small() -> None:
    long = {name: n for name, path in modules().items() if (n := len(path.read_text().splitlines())) > 320}
    assert not long
