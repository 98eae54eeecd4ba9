"""Programs as text: one line for each value, in words that no torch version or machine changes.

::

    conv1 (GATConv)
      linear = linear(x, conv1.lin.weight)          f32[n, 8]         # Owned, model.py:12
      linear_halo = halo_sync(linear)               f32[n+h, 8]       # Halo
      index_select = index_select(linear_halo, 0, select)  f32[e, 8]  # Edges

Sizes are symbolic, read off the placement: n owned nodes, h halo nodes, e edges of a rank; N and E of the
whole graph. The halo plan, the process group and devices are not shown; sizes and parameters stand in place.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx

from graphshard.passes import source
from graphshard.passes.base import Program
from graphshard.placement import Edges, Halo, Joined, Kept, Owned, Placed, Placement, Rows, Size

Key = tuple[str, str]
"""What makes a node of one stage the same as a node of another: its name in the graph, and its op."""

_DTYPES = {"float": "f", "bfloat": "bf", "int": "i", "uint": "u", "complex": "c"}
_SUFFIXES = {
    "graphshard.halo_sync": "halo",
    "graphshard.halo_reduce": "owned",
    "graphshard.all_reduce": "all",
    "graphshard.pad_halo": "padded",
}
_MARKS = ("graphshard.replicated_input", "graphshard.replicated_output")
_PLAN = frozenset({"send_index", "send_splits", "recv_splits", "group", "dropout_key"})
_GRAPH_SIZES = {"num_nodes": "N", "num_edges": "E"}
_HIDDEN_OPTIONS = frozenset({"device", "layout", "pin_memory", "memory_format"})
_CONTAINERS = ("torch.nn.modules.container.", "torch_geometric.nn.models.", "torch_geometric.nn.sequential.")
_LIBRARIES = ("torch.", "torch_geometric.")
_OWN_FOLDERS = tuple({str(Path(p).parent) for p in (__file__, source.__file__)})


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

    def text(self, where: bool = True) -> str:
        """The whole line, in columns that do not depend on any other line."""
        facts = [self.placement, self.where if where else ""]
        comment = ", ".join(fact for fact in facts if fact)
        typed = f"{self.code:<52}  {self.type}" if self.type else self.code
        return f"{typed:<70}  # {comment}" if comment else typed


def op_name(node: fx.Node) -> str:
    """``aten.index_select`` or ``graphshard.halo_sync``: the operator without its overload."""
    if isinstance(node.target, torch._ops.OpOverload):
        return str(node.target._schema.name).replace("::", ".")
    if node.op != "call_function":
        return node.op
    function: Any = node.target
    package = str(getattr(function, "__module__", "")).split(".", maxsplit=1)[0]
    return f"{package.strip('_')}.{getattr(function, '__name__', function)}"


def key_of(node: fx.Node) -> Key:
    """The node's identity across the stages of one compilation."""
    return node.name, op_name(node)


def is_mark(node: fx.Node) -> bool:
    """Whether the node only says where gradients are summed or scaled."""
    return op_name(node) in _MARKS


class Names:
    """Stable names for the values of several stages of one program; a node has one name in all of them.

    Values are numbered for each op in the order of the merged stages (``view``, ``view_1``, ...), for
    the numbers that torch.export gives change between versions. Parameters go by their state_dict key.
    """

    def __init__(self, programs: Sequence[Program]) -> None:
        self._inputs: dict[str, str] = {}
        self._symbols: dict[str, str] = {}
        for program in programs:
            self._read_inputs(program)
        self._names: dict[Key, str] = {}
        self._by_node_name: dict[str, str] = {}
        taken, counts = set(self._inputs.values()), dict[str, int]()
        for node in _merged(programs):
            name = self._choose(node, counts, taken)
            taken.add(name)
            self._names[key_of(node)] = self._by_node_name[node.name] = name

    def _read_inputs(self, program: Program) -> None:
        for spec, node in zip(program.inputs, program.graph.find_nodes(op="placeholder"), strict=True):
            stored = spec.kind in ("parameter", "buffer", "constant")
            self._inputs[spec.name] = spec.target if stored else _GRAPH_SIZES.get(spec.target, spec.name)
            placement, value = node.meta.get("placement"), node.meta.get("val")
            if isinstance(placement, Placed) and isinstance(value, Tensor):
                for rows, size in zip(placement.dims, value.shape, strict=True):
                    if rows is not None and isinstance(size, torch.SymInt):
                        self._symbols[str(size)] = self.size(rows)

    def _choose(self, node: fx.Node, counts: dict[str, int], taken: set[str]) -> str:
        suffix = _SUFFIXES.get(op_name(node))
        first = node.args[0] if node.args else None
        if suffix and isinstance(first, fx.Node):
            base = f"{re.sub(r'[^0-9A-Za-z_]', '_', self.text(first))}_{suffix}"
        else:
            base = op_name(node).rsplit(".", 1)[-1].strip("_")
        while True:
            number = counts.get(base, 0)
            counts[base] = number + 1
            name = f"{base}_{number}" if number else base
            if name not in taken:
                return name

    def text(self, node: fx.Node) -> str:
        """How an argument is printed: its name, or the size that it is."""
        if node.op == "placeholder":
            return self._inputs.get(node.name, node.name)
        if is_mark(node):
            assert isinstance(node.args[0], fx.Node)
            return self.text(node.args[0])
        return self.size_of(node) or self._names[key_of(node)]

    def size_of(self, node: fx.Node) -> str:
        """``n``, ``e``, ``e[ne]+n`` for a node that counts rows; empty for any other."""
        placement, value = node.meta.get("placement"), node.meta.get("val")
        if isinstance(placement, Size) and placement.rows and not placement.number:
            return "+".join(self.size(rows) for rows in placement.rows)
        return self._symbols.get(str(value), "") if isinstance(value, torch.SymInt) and not placement else ""

    def size(self, rows: Rows) -> str:
        """How many rows there are, in symbols."""
        match rows:
            case Owned():
                return "n"
            case Halo():
                return "n+h"
            case Edges():
                return "e"
            case Kept(inner, mask):
                return f"{self.size(inner)}[{self._mask(mask)}]"
            case Joined(parts):
                return "+".join(self.size(part) for part in parts)

    def type(self, node: fx.Node) -> str:
        """dtype and symbolic shape of a tensor; the kind of any other value."""
        value, placement = node.meta.get("val"), node.meta.get("placement")
        if not isinstance(value, Tensor):
            kinds = {torch.SymInt: "int", torch.SymFloat: "float", torch.SymBool: "bool"}
            return kinds.get(type(value), type(value).__name__) if value is not None else ""
        dims = placement.dims if isinstance(placement, Placed) else (None,) * value.dim()
        sizes = [
            self.size(rows) if rows is not None else self._dim(size)
            for rows, size in zip(dims, value.shape, strict=True)
        ]
        return f"{dtype_text(value.dtype)}[{', '.join(sizes)}]"

    def _dim(self, size: int | torch.SymInt) -> str:
        return str(size) if isinstance(size, int) else self._symbols.get(str(size), "?")

    def placement(self, placement: Placement | None) -> str:
        """The placement with the masks' stable names; empty where there is nothing to say."""
        if not isinstance(placement, Placed):
            return ""
        renamed = tuple(None if rows is None else self._renamed(rows) for rows in placement.dims)
        return str(replace(placement, dims=renamed))

    def _renamed(self, rows: Rows) -> Rows:
        if isinstance(rows, Kept):
            return Kept(self._renamed(rows.rows), self._mask(rows.mask))
        return Joined(tuple(map(self._renamed, rows.parts))) if isinstance(rows, Joined) else rows

    def _mask(self, name: str) -> str:
        return self._by_node_name.get(name) or self._inputs.get(name, name)


def render(program: Program, names: Names | None = None) -> list[Line]:
    """The lines of a program: every value but inputs, sizes and marks, then the return.

    Args:
        program: with placements or, as captured, without.
        names: of the stages it is shown with; its own by default.
    """
    words = names or Names([program])
    lines = []
    for node in program.graph.nodes:
        if node.op == "output":
            lines.append(_return_line(program, node, words))
        elif node.op != "placeholder" and not is_mark(node) and not words.size_of(node):
            lines.append(_line(node, words))
    return lines


def render_text(program: Program, names: Names | None = None) -> str:
    """A program as a page of text, with its inputs and module headings."""
    words = names or Names([program])
    page, module, where = [header(program, words)], "", ""
    for line in render(program, words):
        if line.module != module:
            page.append(f"  {line.module}")
        page.append(f"    {line.text(where=line.where != where)}")
        module, where = line.module, line.where
    return "\n".join(page) + "\n"


def header(program: Program, names: Names) -> str:
    """The inputs, compactly: forward's tensors one by one, parameters and buffers as counts."""
    shown, counts = [], dict[str, int]()
    for spec, node in zip(program.inputs, program.graph.find_nodes(op="placeholder"), strict=True):
        if spec.kind == "user":
            shown.append(f"{spec.name} {names.type(node)} {names.placement(node.meta.get('placement'))}")
        elif spec.kind != "graph":
            counts[spec.kind] = counts.get(spec.kind, 0) + 1
    text = f"inputs: {', '.join(shown)}"
    if counts:
        text += f"; {', '.join(plural(count, kind) for kind, count in counts.items())}"
    return text


def plural(count: int, word: str) -> str:
    """``1 sync``, ``2 syncs``."""
    return f"{count:,} {word}" if count == 1 else f"{count:,} {word}s"


def dtype_text(dtype: torch.dtype) -> str:
    """``f32``, ``i64``, ``bool``."""
    name = str(dtype).removeprefix("torch.")
    found = re.fullmatch(r"([a-z]+)(\d+)", name)
    return _DTYPES.get(found[1], found[1]) + found[2] if found else name


def _merged(programs: Sequence[Program]) -> list[fx.Node]:
    """The computed nodes of all stages, each once: what a stage adds comes after what it follows there."""
    order: list[fx.Node] = []
    keys: list[Key] = []
    for program in programs:
        place = 0
        for node in program.graph.nodes:
            if node.op != "call_function" or is_mark(node) or "sym_size" in op_name(node):
                continue
            key = key_of(node)
            if key in keys:
                place = keys.index(key) + 1
            else:
                order.insert(place, node)
                keys.insert(place, key)
                place += 1
    return order


def _line(node: fx.Node, names: Names) -> Line:
    op = op_name(node)
    shown = [arg for arg in node.args if not _in_plan(arg)]
    args = [_value(arg, names) for arg in shown]
    args += [
        f"{name}={_value(value, names)}"
        for name, value in node.kwargs.items()
        if name not in _HIDDEN_OPTIONS and value is not None
    ]
    return Line(
        key_of(node),
        names.text(node),
        op.rsplit(".", 1)[-1],
        tuple(args),
        names.type(node),
        names.placement(node.meta.get("placement")),
        _heading(node),
        _where(node),
    )


def _return_line(program: Program, node: fx.Node, names: Names) -> Line:
    values: Any = node.args[0]
    pairs = list(zip(program.outputs, values, strict=True))
    args = [_value(value, names) for spec, value in pairs if spec.kind == "user"]
    args += [f"{spec.target}={_value(value, names)}" for spec, value in pairs if spec.kind != "user"]
    return Line(key_of(node), "return", "return", tuple(args), "", "", "", "")


def _in_plan(value: Any) -> bool:
    return isinstance(value, fx.Node) and value.op == "placeholder" and value.name in _PLAN


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
    return value if isinstance(value, str) else str(value)


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


def _where(node: fx.Node) -> str:
    """The user's line; where there is none, the library's file, whose lines other versions move."""
    frames = [f for f in source.source_frames(node) if not f[0].startswith(("<", *_OWN_FOLDERS))]
    own = [f for f in frames if "site-packages" not in f[0] and "dist-packages" not in f[0]]
    if own:
        return f"{source.short(own[-1][0])}:{own[-1][1]}"
    return source.short(frames[-1][0]) if frames else ""
