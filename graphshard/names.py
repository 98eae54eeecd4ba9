"""Names and sizes of the values of a program, in words that no torch version or machine changes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, fx

from graphshard.passes.base import Input, Program
from graphshard.placement import Edges, Halo, Joined, Kept, Owned, Placed, Placement, Rows, Size, Sorted

Key = tuple[str, str]
"""What makes a node of one stage the same as a node of another: its name in the graph, and its op."""

_DTYPES = {"float": "f", "bfloat": "bf", "int": "i", "uint": "u", "complex": "c"}
_SUFFIXES = {
    "graphshard.halo_sync": "halo",
    "graphshard.halo_reduce": "owned",
    "graphshard.all_reduce": "all",
    "graphshard.stack_ranks": "ranks",
    "graphshard.pad_halo": "padded",
}
_MARKS = ("graphshard.replicated_input", "graphshard.replicated_output")
_PLAN = frozenset({"send_index", "send_splits", "recv_splits", "group", "dropout_key"})
_GRAPH_SIZES = {"num_nodes": "N", "num_edges": "E"}


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
    return marked_value(node) is not None


def marked_value(node: fx.Node) -> fx.Node | None:
    """The value that a mark passes on, by itself or in a bucket; None for any other node."""
    if op_name(node) in _MARKS:
        found: Any = node.args[0]
        return found  # type: ignore[no-any-return]
    return item_of(node, "graphshard.bucketed_inputs")


def item_of(node: fx.Node, op: str) -> fx.Node | None:
    """The value of a list given to ``op`` that the node takes the result for; None for any other node."""
    whole: Any = node.args[0] if op_name(node) == "operator.getitem" else None
    if not isinstance(whole, fx.Node) or op_name(whole) != op:
        return None
    values: Any = whole.args[0]
    return values[node.args[1]]  # type: ignore[no-any-return]


class Names:
    """Stable names for the values of several stages of one program; a node has one name in all of them.

    Values are numbered for each op in the order of the merged stages (``view``, ``view_1``, ...), for
    the numbers that torch.export gives change between versions. Parameters go by their state_dict key.
    """

    def __init__(self, programs: Sequence[Program]) -> None:
        self._inputs: dict[str, str] = {}
        self._plan: set[str] = set()
        self._symbols: dict[str, str] = {}
        for program in programs:
            self._read_inputs(program)
        self._known = {
            key_of(node): node.meta["placement"]
            for program in programs
            for node in program.graph.nodes
            if node.meta.get("placement") is not None
        }
        self._names: dict[Key, str] = {}
        self._by_node_name: dict[str, str] = {}
        taken, counts = set(self._inputs.values()), dict[str, int]()
        for node in _merged(programs):
            if self._is_size(node):
                continue
            name = self._choose(node, counts, taken)
            taken.add(name)
            self._names[key_of(node)] = self._by_node_name[node.name] = name

    def _read_inputs(self, program: Program) -> None:
        for spec, node in zip(program.inputs, program.graph.find_nodes(op="placeholder"), strict=True):
            stored = spec.kind in ("parameter", "buffer", "constant")
            self._inputs[spec.name] = spec.target if stored else _graph_size(spec) or spec.name
            if spec.kind == "graph" and spec.target in _PLAN:
                self._plan.add(spec.name)
            placement, value = node.meta.get("placement"), node.meta.get("val")
            if isinstance(placement, Placed) and isinstance(value, Tensor):
                for rows, size in zip(placement.dims, value.shape, strict=True):
                    if rows is not None and isinstance(size, torch.SymInt):
                        self._symbols[str(size)] = self.size(rows)

    def _choose(self, node: fx.Node, counts: dict[str, int], taken: set[str]) -> str:
        suffix, first = _SUFFIXES.get(op_name(node)), node.args[0] if node.args else None
        if (merged := item_of(node, "graphshard.merged_sync")) is not None:
            suffix, first = "halo", merged
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
        if (value := marked_value(node)) is not None:
            return self.text(value)
        return self.size_of(node) or self._names[key_of(node)]

    def is_plan(self, value: Any) -> bool:
        """Whether an argument only says who sends what to whom, which is the same for every sync."""
        return isinstance(value, fx.Node) and value.op == "placeholder" and value.name in self._plan

    def size_of(self, node: fx.Node) -> str:
        """``n``, ``e``, ``e[ne]+n`` for a node that counts rows; empty for any other."""
        if not self._is_size(node):
            return ""
        placement = self._placement(node)
        if isinstance(placement, Size):
            return "+".join(self.size(rows) for rows in placement.rows)
        return self._symbols[str(node.meta["val"])]

    def _is_size(self, node: fx.Node) -> bool:
        placement = self._placement(node)
        if placement is None:
            return isinstance(node.meta.get("val"), torch.SymInt) and str(node.meta["val"]) in self._symbols
        return isinstance(placement, Size) and bool(placement.rows) and not placement.number

    def _placement(self, node: fx.Node) -> Placement | None:
        """Its own or, where its stage has none yet, that of another stage."""
        own: Placement | None = node.meta.get("placement")
        return own if own is not None else self._known.get(key_of(node))

    def size(self, rows: Rows) -> str:
        """How many rows there are, in symbols."""
        match rows:
            case Owned(nodes):
                return _of("n", nodes)
            case Halo(nodes, plan):
                return f"{_of('n', nodes)}+{_of('h', nodes, plan)}"
            case Edges(name):
                return _of("e", name)
            case Kept(inner, mask):
                return f"{self.size(inner)}[{self._mask(mask)}]"
            case Joined(parts):
                return "+".join(self.size(part) for part in parts)
            case Sorted(inner):
                return self.size(inner)

    def type(self, node: fx.Node) -> str:
        """dtype and symbolic shape of a tensor; the kind of any other value."""
        value, placement = node.meta.get("val"), self._placement(node)
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
        if isinstance(rows, Sorted):
            return Sorted(self._renamed(rows.rows), rows.by)
        return Joined(tuple(map(self._renamed, rows.parts))) if isinstance(rows, Joined) else rows

    def _mask(self, name: str) -> str:
        return self._by_node_name.get(name) or self._inputs.get(name, name)


def _of(symbol: str, *names: str) -> str:
    """``n``, or ``n(paper)`` of a named set."""
    given = ", ".join(name for name in names if name)
    return f"{symbol}({given})" if given else symbol


def _graph_size(spec: Input) -> str | None:
    """``N``, ``E(author__writes__paper)``: the size of the whole graph that an input is, if it is one."""
    return _of(_GRAPH_SIZES[spec.target], *spec.of) if spec.target in _GRAPH_SIZES else None


def dtype_text(dtype: torch.dtype) -> str:
    """``f32``, ``i64``, ``bool``."""
    name = str(dtype).removeprefix("torch.")
    found = re.fullmatch(r"([a-z]+)(\d+)", name)
    return _DTYPES.get(found[1], found[1]) + found[2] if found else name


def plural(count: int, word: str) -> str:
    """``1 sync``, ``2 syncs``."""
    return f"{count:,} {word}" if count == 1 else f"{count:,} {word}s"


def _merged(programs: Sequence[Program]) -> list[fx.Node]:
    """The computed nodes of all stages, each once: what a stage adds comes after what it follows there."""
    order: list[fx.Node] = []
    keys: list[Key] = []
    for program in programs:
        place = 0
        for node in program.graph.nodes:
            if node.op != "call_function" or is_mark(node):
                continue
            key = key_of(node)
            if key in keys:
                place = keys.index(key) + 1
            else:
                order.insert(place, node)
                keys.insert(place, key)
                place += 1
    return order
