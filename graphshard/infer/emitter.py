"""The tool that passes make nodes with: what it makes is placed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import fx

from graphshard.infer.placement import place
from graphshard.ir.program import Program, fake_mode
from graphshard.private import pytree
from graphshard.private.fake_tensors import FakeTensor


class Emitter:
    """Makes nodes in place of another one, with its source position, an example value and a placement."""

    def __init__(self, program: Program, origin: fx.Node) -> None:
        self.program = program
        self.graph = program.graph
        self.origin = origin

    @contextmanager
    def after(self, node: fx.Node) -> Iterator[None]:
        """Insert after ``node``, in the order of the calls (and never between the placeholders)."""
        anchor = node.next
        while anchor.op == "placeholder":
            anchor = anchor.next
        with self.graph.inserting_before(anchor):
            yield

    @contextmanager
    def before(self, node: fx.Node) -> Iterator[None]:
        with self.graph.inserting_before(node):
            yield

    def call(
        self, target: Any, *args: Any, name: str | None = None, example: Any = None, **kwargs: Any
    ) -> fx.Node:
        """One ``call_function`` node; its example value is computed unless one is given.

        It is placed by the rule of its op. What edits that asks for is seen when the program is inferred again.

        Raises:
            UnsupportedOperation: no rule accepts the placements of its arguments.
        """
        node = self.graph.create_node("call_function", target, args, kwargs, name=name)
        for key in ("nn_module_stack", "stack_trace"):
            if key in self.origin.meta:
                node.meta[key] = self.origin.meta[key]
        node.meta["val"] = self._example(target, args, kwargs) if example is None else example
        for value in node.all_input_nodes:
            if value.op == "call_function" and len(value.users) == 1:
                # What is still to be done about a value can depend on who reads it: now somebody does.
                value.meta["placement"] = place(value)
        node.meta["placement"] = place(node)
        return node

    def _example(self, target: Any, args: Any, kwargs: Any) -> Any:
        values = fx.map_arg((args, kwargs), lambda n: n.meta["val"])
        mode = fake_mode(values)
        if mode is None:
            return target(*values[0], **values[1])
        with mode:
            fixed = pytree.tree_map(
                lambda v: (
                    mode.from_tensor(v)
                    if isinstance(v, torch.Tensor) and not isinstance(v, FakeTensor)
                    else v
                ),
                values,
            )
            return target(*fixed[0], **fixed[1])
