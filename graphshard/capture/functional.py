"""An exported graph in functional ops; of simulated ranks, equal graphs once.

Most graphs are rewritten op by op (``taken_apart.py``, ``in_place.py``). What these cannot be sure of is left to
torch's decomposition, which takes longer than the export itself: writes into buffers, through views, batch norms.

Simulated ranks of one process wait for each other's. They still export the model each for itself, so that what they
read differently is found; where the exported graphs are equal to the last constant, so is what comes of them, and the
first rank's serves all.
"""

from __future__ import annotations

import contextlib
import hashlib
import warnings
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, fx
from torch.export import ExportedProgram, ExportGraphSignature

from graphshard.capture.composites import decompositions
from graphshard.capture.in_place import without_writes
from graphshard.capture.taken_apart import take_apart
from graphshard.ir.program import copied_graph
from graphshard.private import pytree


@dataclass(frozen=True)
class Functional:
    """A graph without in-place ops.

    Attributes:
        module: the graph. signature: what its inputs and outputs stand for. constants: the tensors it holds, by name.
    """

    module: fx.GraphModule
    signature: ExportGraphSignature
    constants: dict[str, Tensor]

    def copy(self) -> Functional:
        """A graph of its own; example values and constants are shared."""
        graph, _ = copied_graph(self.module.graph)
        return replace(self, module=fx.GraphModule(self.module, graph))


_SHARED: ContextVar[dict[bytes, Functional] | None] = ContextVar("graphshard_functional", default=None)


@contextlib.contextmanager
def equal_graphs_once() -> Iterator[None]:
    """Inside the block, and in threads that inherit its context variables, equal graphs are decomposed once."""
    if _SHARED.get() is not None:
        yield
        return
    token = _SHARED.set({})
    try:
        yield
    finally:
        _SHARED.reset(token)


def functional(exported: ExportedProgram) -> Functional:
    """``exported`` in functional ops; a graph that the caller may edit."""
    known = _SHARED.get()
    if known is None:
        return _decomposed(exported)
    key = fingerprint(exported)
    if key not in known:
        known[key] = _decomposed(exported)
    return known[key].copy()


def _decomposed(exported: ExportedProgram) -> Functional:
    return op_by_op(exported) or by_torch(exported)


def op_by_op(exported: ExportedProgram) -> Functional | None:
    """What :func:`by_torch` gives, but for the order of sizes; None of a graph that needs more."""
    graph, _ = copied_graph(exported.graph)
    if not (take_apart(graph) and without_writes(graph) and take_apart(graph)):
        return None
    module = fx.GraphModule(exported.graph_module, graph)
    return Functional(module, exported.graph_signature, dict(exported.constants))


def by_torch(exported: ExportedProgram) -> Functional:
    """A graph of any ops through ``ExportedProgram.run_decompositions``."""
    with warnings.catch_warnings():
        # torch's own internals: copyreg of a deprecated pytree class.
        warnings.simplefilter("ignore", FutureWarning)
        found: ExportedProgram = exported.run_decompositions(decompositions())
    return Functional(found.graph_module, found.graph_signature, dict(found.constants))


def fingerprint(exported: ExportedProgram) -> bytes:
    """A checksum of all that decomposition reads: ops, operands, examples, places in the source, constants."""
    said = hashlib.sha256()
    for part in _parts(exported):
        said.update(part if isinstance(part, bytes) else f"{part}\n".encode())
    return said.digest()


def _parts(exported: ExportedProgram) -> Iterator[str | bytes]:
    yield f"{torch.get_default_dtype()} {exported.graph_signature} {exported.range_constraints}"
    for node in exported.graph.nodes:
        yield f"{node.op} {node.name} {node.target} {node.args!r} {node.kwargs!r}"
        yield from (_example(v) for v in pytree.tree_leaves(node.meta.get("val")))
        yield from (repr(node.meta.get(name)) for name in ("stack_trace", "nn_module_stack", "custom"))
    tied: dict[int, int] = {}
    for name, tensor in exported.state_dict.items():
        yield f"{name} {tied.setdefault(id(tensor), len(tied))}"
    for name, constant in exported.constants.items():
        yield f"{name} {_example(constant)}"
        if isinstance(constant, Tensor):
            yield constant.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()


def _example(value: Any) -> str:
    if not isinstance(value, Tensor):
        return f"{type(value).__name__} {value!r}"
    layout = f"{value.layout} {value.device} {value.requires_grad}"
    strides = value.stride() if value.layout is torch.strided else ""
    return f"{type(value).__name__} {value.dtype} {tuple(value.shape)} {strides} {layout}"


__all__ = ["Functional", "by_torch", "equal_graphs_once", "fingerprint", "functional", "op_by_op"]
