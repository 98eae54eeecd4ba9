"""Names and sizes of the values of a program, in words that no torch version or machine changes."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, fx

from graphshard.catalogue.table import made_by
from graphshard.ir.identity import identity_of
from graphshard.ir.placement import Edges, Halo, Joined, Kept, Owned, Placed, Rows, Size, Sorted
from graphshard.ir.program import Input, Program
from graphshard.private.torch_ops import OpOverload, schema_of

Key = tuple[int | str, str]
"""What makes a node of one stage the same as a node of another: its identity, and its op."""

_DTYPES = {"float": "f", "bfloat": "bf", "int": "i", "uint": "u", "complex": "c"}
_PLAN = frozenset({"send_index", "send_splits", "recv_splits", "group", "dropout_key"})
_GRAPH_SIZES = {"num_nodes": "N", "num_edges": "E"}


def op_name(node: fx.Node) -> str:
    """``aten.index_select`` or ``graphshard.halo_sync``: the operator without its overload."""
    if isinstance(node.target, OpOverload):
        return str(schema_of(node.target).name).replace("::", ".")
    if node.op != "call_function":
        return node.op
    function: Any = node.target
    package = str(getattr(function, "__module__", "")).split(".", maxsplit=1)[0]
    return f"{package.strip('_')}.{getattr(function, '__name__', function)}"


def key_of(node: fx.Node) -> Key:
    """The node's identity across the stages of one compilation."""
    return identity_of(node), op_name(node)


def is_mark(node: fx.Node) -> bool:
    """Whether the node only says where gradients are summed or scaled."""
    return marked_value(node) is not None


def marked_value(node: fx.Node) -> fx.Node | None:
    """The value that a mark passes on, by itself or in a bucket; None for any other node."""
    made = made_by(node)
    return made[1] if made is not None and made[0].passes_on else None


class Names:
    """Stable names for the values of several stages of one program; a node has one name in all of them.

    Values are numbered for each op in the order of the merged stages (``view``, ``view_1``, ...), for
    the numbers that torch.export gives change between versions. Parameters go by their state_dict key.
    """

    def __init__(self, programs: Sequence[Program]) -> None:
        self._inputs: dict[str, str] = {}
        self._plan: set[str] = set()
        self._symbols: dict[str, str] = {}
        self._placed: dict[Key, fx.Node] = {}
        self._by_name: dict[fx.Graph, dict[str, fx.Node]] = {}
        for program in programs:
            self._read_inputs(program)
            self._read_nodes(program)
        self._names: dict[Key, str] = {}
        self._taken, self._counts = set(self._inputs.values()), dict[str, int]()
        for node in _merged(programs):
            if not self._is_size(node):
                self._name(node)

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

    def _read_nodes(self, program: Program) -> None:
        """Note which nodes have a placement, the earliest of each, and which names mean which node."""
        # A mask may be gone where rows that it kept are still there: its name is then that of a stage before.
        named = dict(next(reversed(self._by_name.values()), {}))
        for node in program.graph.nodes:
            named[node.name] = node
            if node.meta.get("placement") is not None:
                self._placed.setdefault(key_of(node), node)
        self._by_name[program.graph] = named

    def _name(self, node: fx.Node) -> str:
        """The name of a computed node, chosen where it has none yet."""
        key = key_of(node)
        if key not in self._names:
            name = self._choose(node)
            self._taken.add(name)
            self._names[key] = name
        return self._names[key]

    def _choose(self, node: fx.Node) -> str:
        made = made_by(node)
        if made is not None and made[0].suffix is not None:
            base = f"{re.sub(r'[^0-9A-Za-z_]', '_', self.text(made[1]))}_{made[0].suffix}"
        else:
            base = op_name(node).rsplit(".", 1)[-1].lstrip("_")
            base = f"{base}in_place" if base.endswith("_") else base
        while True:
            number = self._counts.get(base, 0)
            self._counts[base] = number + 1
            name = f"{base}_{number}" if number else base
            if name not in self._taken:
                return name

    def text(self, node: fx.Node) -> str:
        """How an argument is printed: its name, or the size that it is."""
        if node.op == "placeholder":
            return self._inputs.get(node.name, node.name)
        if (value := marked_value(node)) is not None:
            return self.text(value)
        return self.size_of(node) or self._name(node)

    def is_plan(self, value: Any) -> bool:
        """Whether an argument only says who sends what to whom, which is the same for every sync."""
        return isinstance(value, fx.Node) and value.op == "placeholder" and value.name in self._plan

    def size_of(self, node: fx.Node) -> str:
        """``n``, ``e``, ``e[ne]+n`` for a node that counts rows; empty for any other."""
        if not self._is_size(node):
            return ""
        twin = self._with_placement(node)
        if twin is None:
            return self._symbols[str(node.meta["val"])]
        rows: tuple[Rows, ...] = twin.meta["placement"].rows
        return "+".join(self.size(self._renamed(one, twin.graph)) for one in rows)

    def _is_size(self, node: fx.Node) -> bool:
        twin = self._with_placement(node)
        if twin is None:
            return isinstance(node.meta.get("val"), torch.SymInt) and str(node.meta["val"]) in self._symbols
        placement = twin.meta["placement"]
        return isinstance(placement, Size) and bool(placement.rows) and not placement.number

    def _with_placement(self, node: fx.Node) -> fx.Node | None:
        """The node itself or, where its stage has no placements yet, the same one of the first stage that has."""
        return node if node.meta.get("placement") is not None else self._placed.get(key_of(node))

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
                return f"{self.size(inner)}[{mask}]"
            case Joined(parts):
                return "+".join(self.size(part) for part in parts)
        return self.size(rows.rows) if isinstance(rows, Sorted) else rows.name

    def type(self, node: fx.Node) -> str:
        """dtype and symbolic shape of a tensor; the kind of any other value."""
        value, twin = node.meta.get("val"), self._with_placement(node)
        if not isinstance(value, Tensor):
            kinds = {torch.SymInt: "int", torch.SymFloat: "float", torch.SymBool: "bool"}
            return kinds.get(type(value), type(value).__name__) if value is not None else ""
        placed = None if twin is None else self._in_words(twin)
        dims = (None,) * value.dim() if placed is None else placed.dims
        sizes = [
            self.size(rows) if rows is not None else self._dim(size)
            for rows, size in zip(dims, value.shape, strict=True)
        ]
        return f"{dtype_text(value.dtype)}[{', '.join(sizes)}]"

    def _dim(self, size: int | torch.SymInt) -> str:
        return str(size) if isinstance(size, int) else self._symbols.get(str(size), "?")

    def placement(self, node: fx.Node) -> str:
        """The node's own placement, in words; empty where there is nothing to say."""
        return str(self._in_words(node) or "")

    def _in_words(self, node: fx.Node) -> Placed | None:
        """The node's own placement, each mask by its stable name; None for what is no tensor."""
        placement = node.meta.get("placement")
        if not isinstance(placement, Placed):
            return None
        renamed = (None if rows is None else self._renamed(rows, node.graph) for rows in placement.dims)
        return replace(placement, dims=tuple(renamed))

    def _renamed(self, rows: Rows, graph: fx.Graph) -> Rows:
        """The rows with the stable name of each mask, which they call by its name in their graph."""
        match rows:
            case Kept(inner, mask):
                found = self._by_name[graph].get(mask)
                return Kept(self._renamed(inner, graph), mask if found is None else self.text(found))
            case Joined(parts):
                return Joined(tuple(self._renamed(part, graph) for part in parts))
            case Sorted(inner, by):
                return Sorted(self._renamed(inner, graph), by)
        return rows


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


def _merged(programs: Sequence[Program]) -> Iterator[fx.Node]:
    """The computed nodes of all stages, each once: what a stage adds comes after what it follows there."""
    found: dict[Key, fx.Node] = {}
    following: dict[Key | None, Key | None] = {None: None}
    for program in programs:
        place: Key | None = None
        for node in program.graph.nodes:
            if node.op != "call_function" or is_mark(node):
                continue
            key = key_of(node)
            if key not in found:
                found[key] = node
                following[key], following[place] = following[place], key
            place = key
    last = following[None]
    while last is not None:
        yield found[last]
        last = following[last]
