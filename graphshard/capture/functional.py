"""An exported graph in functional ops.

Most graphs are rewritten op by op (``taken_apart.py``, ``in_place.py``). What these cannot be sure of is left to
torch's decomposition, which takes longer than the export itself: writes that something else may see.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, fx
from torch.export import ExportedProgram, ExportGraphSignature
from torch.export.graph_signature import OutputKind, OutputSpec, TensorArgument

from graphshard.capture.composites import decompositions
from graphshard.capture.in_place import without_writes
from graphshard.capture.taken_apart import take_apart
from graphshard.ir.program import copied_graph


@dataclass(frozen=True)
class Functional:
    """A graph without in-place ops.

    Attributes:
        module: the graph. signature: what its inputs and outputs stand for. constants: the tensors it holds, by name.
    """

    module: fx.GraphModule
    signature: ExportGraphSignature
    constants: dict[str, Tensor]


def functional(exported: ExportedProgram) -> Functional:
    """``exported`` in functional ops; a graph that the caller may edit."""
    return op_by_op(exported) or by_torch(exported)


def op_by_op(exported: ExportedProgram) -> Functional | None:
    """What :func:`by_torch` gives, but for the order of sizes; None of a graph that needs more."""
    graph, _ = copied_graph(exported.graph)
    buffers = exported.graph_signature.inputs_to_buffers
    if not take_apart(graph):
        return None
    written = without_writes(graph, buffers)
    if written is None:
        return None
    signature = _with_outputs(graph, exported.graph_signature, {buffers[n]: v for n, v in written.items()})
    return Functional(fx.GraphModule(exported.graph_module, graph), signature, dict(exported.constants))


def _with_outputs(
    graph: fx.Graph, signature: ExportGraphSignature, written: Mapping[str, fx.Node]
) -> ExportGraphSignature:
    """Return the new values of the buffers that are written as the first outputs; the graph's new signature."""
    (output,) = graph.find_nodes(op="output")
    (results,) = output.args
    output.args = ((*written.values(), *results),)
    specs = [
        OutputSpec(OutputKind.BUFFER_MUTATION, TensorArgument(name=value.name), buffer)
        for buffer, value in written.items()
    ]
    return ExportGraphSignature(signature.input_specs, [*specs, *signature.output_specs])


def by_torch(exported: ExportedProgram) -> Functional:
    """A graph of any ops through ``ExportedProgram.run_decompositions``."""
    with warnings.catch_warnings():
        # torch's own internals: copyreg of a deprecated pytree class.
        warnings.simplefilter("ignore", FutureWarning)
        found: ExportedProgram = exported.run_decompositions(decompositions())
    return Functional(found.graph_module, found.graph_signature, dict(found.constants))


__all__ = ["Functional", "by_torch", "functional", "op_by_op"]
