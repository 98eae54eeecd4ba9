"""Where in the user's code a node comes from: the words of every error and every line of a diff."""

from __future__ import annotations

import re
from pathlib import PurePath
from typing import Any

from torch import fx

from graphshard import errors
from graphshard.private.torch_export import written_path

_OWN = f"{errors.__name__.partition('.')[0]}."
_PACKAGE = str(PurePath(errors.__file__).parent) + "/"
_FRAME = re.compile(r'File "(?P<file>[^"]+)", line (?P<line>\d+), in (?P<name>\S+)\n(?P<code>[^\n]*)')


def module_path(node: fx.Node) -> str:
    """The dotted path of the innermost module that made the node, such as ``convs.0``; "" at the top."""
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    for path, _ in reversed(stack):
        clean = written_path(str(path))
        if clean:
            return clean
    return ""


def module_class(node: fx.Node) -> str:
    """The class of that module, without its package."""
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    if not stack:
        return ""
    name = _class_name(stack[-1][1])
    return "" if name.startswith(_OWN) else name.rsplit(".", 1)[-1]


def _class_name(cls: Any) -> str:
    return (
        cls
        if isinstance(cls, str)
        else f"{getattr(cls, '__module__', '')}.{getattr(cls, '__qualname__', cls)}"
    )


def _is_of_one_function(node: fx.Node) -> bool:
    """Whether the node is of a program of one function, which a script called outside of a model."""
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    return bool(stack) and _class_name(stack[-1][1]).startswith(_OWN)


def source_frames(node: fx.Node) -> list[tuple[str, int, str]]:
    """``(file, line, code)`` of the Python frames that made the node, outermost first."""
    trace = str(node.meta.get("stack_trace") or "")
    return [(m["file"], int(m["line"]), m["code"].strip()) for m in _FRAME.finditer(trace)]


def is_own(file: str) -> bool:
    """Whether a file is graphshard's."""
    return file.startswith(_PACKAGE)


def user_frame(node: fx.Node) -> tuple[str, int, str] | None:
    """The innermost frame that is the user's own: not in torch, PyG, graphshard or another package."""
    frames = [f for f in source_frames(node) if not is_own(f[0])]
    own = [f for f in frames if "site-packages" not in f[0] and "dist-packages" not in f[0]]
    chosen = own or frames
    return chosen[-1] if chosen else None


def short(path: str) -> str:
    """A file name with one folder: enough to find it, nothing of the machine's own layout."""
    return "/".join(PurePath(path).parts[-2:]) if "site-packages" in path else PurePath(path).name


def where(node: fx.Node) -> str:
    """`` (in module 'convs.0' (GATConv), model.py:12: `x = conv(x, ei)`)`` as far as it is known."""
    parts = []
    if path := module_path(node):
        parts.append(f"in module '{path}' ({module_class(node)})")
    elif name := module_class(node):
        parts.append(f"in {name}")
    if frame := user_frame(node):
        parts.append(f"{frame[0]}:{frame[1]}: `{frame[2]}`")
    if not parts and _is_of_one_function(node):
        return ""  # its caller knows the line
    return f" ({', '.join(parts)})" if parts else f" (node {node.name})"
