"""A program, its inputs and outputs, and what a pass is.

A pass edits one program in place and says how many edits it made; running it again makes none. Everything
around that (copies, lint, recompilation, snapshots) is the pipeline's, in ``pipeline.py``.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, TypeVar

import torch
from torch import fx

from graphshard.ir.identity import keep_identity
from graphshard.ir.placement import Edges, Given, Halo, Owned, Placed, Placement, Plan, Size, replicated
from graphshard.private import pytree
from graphshard.private.fake_tensors import fake_mode_of, unknown_size

_T = TypeVar("_T")


@dataclass(frozen=True)
class Input:
    """What a placeholder stands for.

    Attributes:
        name: the placeholder's name.
        kind: "parameter", "buffer", "constant", "user" (an argument of forward) or "graph" (part of a shard).
        target: the state_dict key, the number of the flat user argument, or the name of the graph part.
        of: of a graph part, the node set and its plan, or the edge set; none for the unnamed ones.
        constant: for an argument of forward, that it needs no gradient: it may be a constant of the graph.
    """

    name: str
    kind: str
    target: str
    of: tuple[str, ...] = ()
    constant: bool = False


@dataclass(frozen=True)
class Output:
    """What an output stands for: "user", the "buffer" (by state_dict key) that it replaces, or the "ids" of rows."""

    kind: str
    target: str


PLAN_PARTS = frozenset({"send_index", "send_splits", "recv_splits"})
"""Parts of a shard that belong to one halo plan of a node set."""
GRAPH_INPUTS = PLAN_PARTS | {
    *("node_ids", "owned_ids", "num_nodes"),  # of a plan, of a node set
    *("edge_ids", "num_edges"),  # of an edge set
    "given_ids",  # of rows that another program made
    *("group", "dropout_key"),
}
"""Parts of a shard that a pass can ask for as an input of the program."""


def graph_placement(name: str, of: tuple[str, ...] = ()) -> Placement:
    """The placement of a part of the shard."""
    if name in PLAN_PARTS:
        return Plan(Halo(*of))
    if name == "dropout_key":
        return replicated(1)
    rows = {"node_ids": Halo, "owned_ids": Owned, "edge_ids": Edges, "given_ids": Given}.get(name)
    return Size() if rows is None else Placed((rows(*of),))


def copied_graph(graph: fx.Graph) -> tuple[fx.Graph, dict[fx.Node, fx.Node]]:
    """A graph of new nodes with the meta of its own, its output's too; and the copy of each node."""
    made, copies = fx.Graph(), dict[fx.Node, fx.Node]()
    output = made.graph_copy(graph, copies, return_output_node=False)
    if output is not None:
        made.output(output)
    for old, new in zip(graph.find_nodes(op="output"), made.find_nodes(op="output"), strict=True):
        new.meta = copy.copy(old.meta)
        copies[old] = new
    return made, copies


@dataclass
class Program:
    """A flat graph of ATen ops with what its inputs and outputs stand for; the same on every rank.

    Attributes:
        module, inputs, outputs, constants: the graph, and what stands for what.
        local_numbers: node numbers that it returns stay this rank's, for a program that takes them; else the user
            reads them, as the single machine gives them.
    """

    module: fx.GraphModule
    inputs: list[Input]
    outputs: list[Output]
    constants: dict[str, torch.Tensor] = field(default_factory=dict)
    local_numbers: bool = False

    @property
    def graph(self) -> fx.Graph:
        return self.module.graph

    def copy(self) -> Program:
        """An independent copy: nodes are new, example values and constants are shared.

        A copied node has the identity of its original (``identity.py``).
        """
        graph, copies = copied_graph(self.graph)
        for original, copied in copies.items():
            keep_identity(original, copied)
        return replace(
            self,
            module=fx.GraphModule(self.module, graph),
            inputs=list(self.inputs),
            outputs=list(self.outputs),
        )

    def fake_rows(self) -> torch.Tensor:
        """An example int64 ``[rows]`` with a row count of its own."""
        mode = next(m for n in self.graph.nodes if (m := fake_mode(n.meta.get("val"))) is not None)
        with mode:
            return torch.empty(unknown_size(mode), dtype=torch.int64)

    def output_node(self) -> fx.Node:
        node: fx.Node = next(n for n in self.graph.nodes if n.op == "output")
        return node

    def user_values(self, values: Sequence[_T]) -> list[_T]:
        """Of one value for each output, those of forward's own outputs."""
        return [value for value, spec in zip(values, self.outputs, strict=True) if spec.kind == "user"]

    def user_outputs(self) -> list[fx.Node]:
        """The nodes of forward's own outputs."""
        return self.user_values(self.output_node().args[0])  # type: ignore[arg-type]

    def placeholder(self, name: str, *of: str) -> fx.Node:
        """The placeholder of a part of the shard (see ``GRAPH_INPUTS``), made on first use.

        Args:
            name: which part.
            of: the node set and its plan, or the edge set; empty names are the unnamed ones.
        """
        assert name in GRAPH_INPUTS
        key = part_of(*of)
        for spec, node in zip(self.inputs, self.graph.find_nodes(op="placeholder"), strict=True):
            if spec.kind == "graph" and (spec.target, spec.of) == (name, key):
                found: fx.Node = node
                return found
        last = list(self.graph.find_nodes(op="placeholder"))
        with self.graph.inserting_after(last[-1]) if last else self.graph.inserting_before():
            node = self.graph.placeholder("_".join((name, *filter(None, key))))
        node.meta["placement"] = graph_placement(name, key)
        node.meta["val"] = _example_of(name, self.fake_rows)
        self.inputs.append(Input(node.name, "graph", name, key))
        return node

    def kind_of(self, node: fx.Node) -> str | None:
        """The kind of input that a placeholder stands for; None for any other node."""
        return (
            next((s.kind for s in self.inputs if s.name == node.name), None)
            if node.op == "placeholder"
            else None
        )


def part_of(*names: str) -> tuple[str, ...]:
    """Names of sets and plans as ``Input.of`` holds them: without trailing empty ones."""
    while names and not names[-1]:
        names = names[:-1]
    return names


def _example_of(name: str, fake_rows: Callable[[], torch.Tensor]) -> Any:
    if name in ("num_nodes", "num_edges"):
        return 16
    if name in ("send_splits", "recv_splits"):
        return [0]
    if name == "group":
        return ""
    rows = fake_rows()
    return rows.new_empty(2) if name == "dropout_key" else rows


@dataclass(frozen=True)
class Stage:
    """The program as one pass left it.

    Attributes:
        name: the pass's.
        edits: how many it says that it made.
        program: a copy that no later pass edits, the the last stage's where this pass found nothing to do.
        does: what the pass does, in the words that its file begins with.
    """

    name: str
    edits: int
    program: Program
    does: str = ""


class Pass(Protocol):
    """One rewriting of a program. Options are fields of a frozen dataclass."""

    @property
    def name(self) -> str: ...

    def run(self, program: Program) -> int:
        """Edit the program in place; return the number of edits, 0 where there was nothing to do."""


def replace_results(node: fx.Node, results: fx.Node | tuple[fx.Node, ...]) -> None:
    """Let what reads ``node`` read ``results`` instead, one for each value that it returns; erase the node."""
    if isinstance(results, tuple):
        for item in list(node.users):
            item.replace_all_uses_with(results[int(str(item.args[1]))])
            node.graph.erase_node(item)
    else:
        node.replace_all_uses_with(results)
    node.graph.erase_node(node)


def fake_mode(values: Any) -> Any:
    modes = map(fake_mode_of, pytree.tree_leaves(values))
    return next((mode for mode in modes if mode is not None), None)
