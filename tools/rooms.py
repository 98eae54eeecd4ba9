"""Which folder imports which: ``./do rooms`` prints it, ``tests/test_layering.py`` holds it.

A room is a folder; a file that lies in ``graphshard/``, ``passes/`` or ``tools/`` itself is a room of its own. A floor
is what can be built once the floors below stand.
"""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path

import networkx as nx

ROOT = Path(__file__).resolve().parents[1]
_FOLDERS = {"graphshard": "graphshard", "passes": "graphshard.passes", "tools": "graphshard.tools"}
_FACE = ("graphshard", "graphshard.__main__")
"""The package's public names, which are imported on first use, and the command."""


def modules(root: Path = ROOT) -> dict[str, Path]:
    """Every module of the source tree by its dotted name, the top-level folders under their installed names."""
    found = {}
    for folder, prefix in _FOLDERS.items():
        for path in sorted((root / folder).rglob("*.py")):
            inside = path.relative_to(root / folder).with_suffix("").parts
            if folder == "graphshard" and inside[0] in _FOLDERS:
                continue  # the symlinks to the other two
            found[".".join((prefix, *inside)).removesuffix(".__init__")] = path
    return found


def imports(path: Path, known: Iterable[str]) -> set[str]:
    """The modules among ``known`` that a file imports, inside of functions and for type checkers too."""
    known, found = set(known), set[str]()
    for node in ast.walk(_parsed(path)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            named = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= (named & known) or {str(node.module)}
    return found & known


def module_graph(root: Path = ROOT) -> nx.DiGraph:
    """An edge from each module to each that it imports; public names and the command are left out."""
    files = {name: path for name, path in modules(root).items() if name not in _FACE}
    graph = nx.DiGraph()
    graph.add_nodes_from(files)
    graph.add_edges_from((a, b) for a, path in files.items() for b in imports(path, files) - {a})
    return graph


def room_of(module: str) -> str:
    """``ops`` for ``graphshard.ops.dropout``, ``passes.exact`` for ``graphshard.passes.exact.sum_gradients``."""
    _, *parts = module.split(".")
    nested = parts[0] in ("passes", "tools")
    return ".".join(parts[:2]) if nested else parts[0]


def room_graph(graph: nx.DiGraph) -> nx.DiGraph:
    """The rooms, with the number of imports on each edge between two of them."""
    rooms = nx.DiGraph()
    rooms.add_nodes_from(map(room_of, graph))
    counts: dict[tuple[str, str], int] = defaultdict(int)
    for a, b in graph.edges:
        if room_of(a) != room_of(b):
            counts[room_of(a), room_of(b)] += 1
    rooms.add_edges_from((a, b, {"imports": n}) for (a, b), n in counts.items())
    return rooms


def circles(graph: nx.DiGraph) -> list[set[str]]:
    """What imports itself by way of others; empty in a house that can be built."""
    return [part for part in nx.strongly_connected_components(graph) if len(part) > 1]


def floors(rooms: nx.DiGraph) -> list[list[str]]:
    """The rooms from the bottom up: each imports only from floors below its own."""
    return [sorted(floor) for floor in nx.topological_generations(rooms.reverse())]


def doors(graph: nx.DiGraph) -> list[tuple[str, str]]:
    """The imports from ``graphshard/`` up into ``passes/``."""
    above = ("graphshard.passes", "graphshard.tools")
    return sorted((a, b) for a, b in graph.edges if b.startswith(above[0]) and not a.startswith(above))


def purposes(root: Path = ROOT) -> Mapping[str, str]:
    """What each room is for: the first line of its docstring."""
    found: dict[str, str] = {}
    for name, path in modules(root).items():
        if name not in _FACE and (
            path.name == "__init__.py" or room_of(name).count(".") == name.count(".") - 1
        ):
            found.setdefault(room_of(name), _docstring(path).split("\n")[0])
    return found


def declared(root: Path = ROOT) -> Mapping[str, set[str]]:
    """What each folder says that it imports: ``Imports: errors, graph.`` in its docstring, or ``Imports: nothing.``"""
    found: dict[str, set[str]] = {}
    for name, path in modules(root).items():
        if path.name != "__init__.py":
            continue
        if said := re.search(r"^Imports: ([^:]+)\.$", _docstring(path), re.MULTILINE):
            found[room_of(name)] = {room.strip() for room in said[1].split(",")} - {"nothing"}
    return found


def _docstring(path: Path) -> str:
    return ast.get_docstring(_parsed(path)) or ""


def _parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def report(root: Path = ROOT) -> str:
    """The house as text, from the top floor down."""
    graph = module_graph(root)
    rooms, said = room_graph(graph), purposes(root)
    if found := circles(rooms) + circles(graph):
        return "\n".join(f"circle: {', '.join(sorted(part))}" for part in found)
    lines = []
    for number, floor in reversed(list(enumerate(floors(rooms)))):
        lines.append(f"floor {number}")
        for room in floor:
            lines.append(f"  {room:18}{said.get(room, '')}")
            below = ", ".join(f"{b} {rooms[room][b]['imports']}" for b in sorted(rooms[room]))
            lines += [f"  {'':18}-> {below}"] if below else []
    passages = doors(graph)
    lines += ["", f"doors from graphshard/ into passes/: {len(passages)}"]
    return "\n".join([*lines, *(f"  {a} -> {b}" for a, b in passages)])


if __name__ == "__main__":
    print(report())
