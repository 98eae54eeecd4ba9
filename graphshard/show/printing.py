"""Programs as text: one line for each value, in words that no torch version or machine changes.

::

    conv1 (GATConv)
      linear = linear(x, conv1.lin.weight)          f32[n, 8]         # Owned; model.py:12
      linear_halo = halo_sync(linear)               f32[n+h, 8]       # Halo
      index_select = index_select(linear_halo, 0, select)  f32[e, 8]  # Edges

Sizes are symbolic, read off the placement: n owned nodes, h halo nodes, e edges of a rank; N and E of the
whole graph. The halo plan, the process group and devices are not shown; sizes and parameters stand in place.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from graphshard.ir import source
from graphshard.ir.program import Program
from graphshard.show.names import Key, Names, dtype_text, is_mark, key_of, op_name, plural

_HIDDEN_OPTIONS = frozenset({"device", "layout", "pin_memory", "memory_format"})
_CONTAINERS = ("torch.nn.modules.container.", "torch_geometric.nn.models.", "torch_geometric.nn.sequential.")
_LIBRARIES = ("torch.", "torch_geometric.")


@dataclass(frozen=True)
class Line:
    """One value of a program, in words.

    Attributes:
        key: which node of the graph it is.
        name: the value's stable name; ``"return"`` for the program's outputs.
        op: the operator without namespace and overload.
        args: the arguments that are shown.
        type: dtype and symbolic shape, ``f32[n, 16]``.
        placement: what its rows are on a rank.
        module: the heading it stands under, ``conv1 (GATConv)``.
        where: the user's line, ``model.py:12``; of a library's code, only the file.
    """

    key: Key
    name: str
    op: str
    args: tuple[str, ...]
    type: str
    placement: str
    module: str
    where: str

    @property
    def code(self) -> str:
        """``x_halo = halo_sync(x)``."""
        if self.name == "return":
            return f"return {', '.join(self.args)}"
        return f"{self.name} = {self.op}({', '.join(self.args)})"

    def text(self, *, where: bool = True, note: str = "") -> str:
        """The whole line, in columns that do not depend on any other line; ``note`` joins the comment."""
        comment = "; ".join(fact for fact in (self.placement, note, self.where if where else "") if fact)
        typed = f"{self.code:<52}  {self.type}" if self.type else self.code
        return f"{typed:<70}  # {comment}" if comment else typed


def render(program: Program, names: Names | None = None, *, marks: bool = False) -> list[Line]:
    """The lines of a program: every value but inputs, sizes and marks, then the return.

    Args:
        program: with placements or, as captured, without.
        names: of the stages it is shown with; its own by default.
        marks: show also what only says where gradients are summed or scaled; it goes by the name of its value.
    """
    words = names or Names([program])
    lines = []
    for node in program.graph.nodes:
        if node.op == "output":
            lines.append(_return_line(program, node, words))
        elif node.op != "placeholder" and (marks or not is_mark(node)) and not words.size_of(node):
            lines.append(_line(node, words))
    return lines


def render_text(program: Program, names: Names | None = None) -> str:
    """A program as a page of text, with its inputs and module headings."""
    words = names or Names([program])
    page, module, where = [header(program, words)], "", ""
    for line in render(program, words):
        if line.module and line.module != module:
            page.append(f"  {line.module}")
        page.append(f"    {line.text(where=line.where != where)}")
        module, where = line.module, line.where
    return "\n".join(page) + "\n"


def header(program: Program, names: Names) -> str:
    """The inputs, compactly: forward's tensors one by one, parameters and buffers as counts."""
    shown, counts = [], dict[str, int]()
    for spec, node in zip(program.inputs, program.graph.find_nodes(op="placeholder"), strict=True):
        if spec.kind == "user":
            shown.append(f"{spec.name} {names.type(node)} {names.placement(node)}")
        elif spec.kind != "graph":
            counts[spec.kind] = counts.get(spec.kind, 0) + 1
    text = f"inputs: {', '.join(shown)}"
    if counts:
        text += f"; {', '.join(plural(count, kind) for kind, count in counts.items())}"
    return text


def _line(node: fx.Node, names: Names) -> Line:
    op = op_name(node)
    shown = [arg for arg in node.args if not names.is_plan(arg)]
    args = [_value(arg, names) for arg in shown]
    args += [
        f"{name}={_value(value, names)}"
        for name, value in node.kwargs.items()
        if name not in _HIDDEN_OPTIONS and value is not None
    ]
    return Line(
        key_of(node),
        names.text(node),
        op.rsplit(".", 1)[-1].lstrip("_"),
        tuple(args),
        names.type(node),
        names.placement(node),
        _heading(node),
        user_line(node),
    )


def _return_line(program: Program, node: fx.Node, names: Names) -> Line:
    values: Any = node.args[0]
    pairs = list(zip(program.outputs, values, strict=True))
    args = [_value(value, names) for spec, value in pairs if spec.kind == "user"]
    args += [f"{spec.target}={_value(value, names)}" for spec, value in pairs if spec.kind != "user"]
    return Line(key_of(node), "return", "return", tuple(args), "", "", "", "")


def _value(value: Any, names: Names) -> str:
    if isinstance(value, fx.Node):
        return names.text(value)
    if isinstance(value, (list, tuple)):
        inner = ", ".join(_value(v, names) for v in value)
        return f"[{inner}]"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{k}: {_value(v, names)}" for k, v in value.items()) + "}"
    if isinstance(value, torch.dtype):
        return dtype_text(value)
    return f'"{value}"' if isinstance(value, str) else str(value)


def _heading(node: fx.Node) -> str:
    """The innermost module that the user placed: not the parts that a library's layer is made of."""
    path, cls = "", ""
    for raw, kind in (node.meta.get("nn_module_stack") or {}).values():
        name = kind if isinstance(kind, str) else f"{kind.__module__}.{kind.__qualname__}"
        path, cls = str(raw) or path, name
        if raw and name.startswith(_LIBRARIES) and not name.startswith(_CONTAINERS):
            break
    cls = cls.rsplit(".", 1)[-1]
    return f"{path} ({cls})" if path else cls


def user_line(node: fx.Node) -> str:
    """The user's line; where there is none, the library's file, whose lines other versions move."""
    frames = [f for f in source.source_frames(node) if not (f[0].startswith("<") or source.is_own(f[0]))]
    own = [f for f in frames if "site-packages" not in f[0] and "dist-packages" not in f[0]]
    if own:
        return f"{source.short(own[-1][0])}:{own[-1][1]}"
    return source.short(frames[-1][0]) if frames else ""
