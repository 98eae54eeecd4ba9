"""Where in forward's arguments a tensor is: an argument's name, then keys of dicts and positions of tuples."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

EdgeType = tuple[str, str, str]
"""A source type, a relation and a destination type, as PyG writes it."""
PathKey = str | int | EdgeType
Path = tuple[PathKey, ...]


def path_name(path: Path) -> str:
    """``x_dict['paper']``: as ``torch.utils._pytree.keystr`` writes it, behind the argument's name."""
    return str(path[0]) + "".join(f"[{key!r}]" for key in path[1:])


def edge_type_of(key: Any) -> PathKey:
    """A key as it stands; one of three strings is an edge type."""
    if isinstance(key, tuple) and len(key) == 3 and all(isinstance(part, str) for part in key):
        return (key[0], key[1], key[2])
    return key if isinstance(key, int) else str(key)


def nested(values: Mapping[Path, Any]) -> Any:
    """The dicts and tuples that values at these paths make up; the one value of the empty path itself."""
    if () in values:
        return values[()]
    parts: dict[PathKey, dict[Path, Any]] = {}
    for path, value in values.items():
        parts.setdefault(path[0], {})[path[1:]] = value
    if all(isinstance(key, int) for key in parts):
        return tuple(nested(part) for _, part in sorted(parts.items(), key=lambda item: int(str(item[0]))))
    return {key: nested(part) for key, part in parts.items()}


def to_json(path: Path) -> list[Any]:
    """A path as JSON holds it."""
    return [list(key) if isinstance(key, tuple) else key for key in path]


def from_json(path: list[Any]) -> Path:
    """The path that :func:`to_json` wrote."""
    return tuple(edge_type_of(tuple(key)) if isinstance(key, list) else key for key in path)
