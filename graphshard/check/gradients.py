"""Which gradients exist on one machine: those that a program lost are zeros there, and made zeros here.

::

    one machine   out.sum().backward()  ->  lin.weight, conv.p_rel     asked of the module itself, on an example
    program       out.sum().backward()  ->  lin.weight                 so conv.p_rel gets zeros from out

An optimiser tells a gradient that is None from one of zeros. Whether there is one is a matter of the graph of
autograd, not of values: it is the same for every graph, and on every rank.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from graphshard.capture.examples import example_inputs, sizes_for
from graphshard.capture.export import run_and_take
from graphshard.check.fixed_random import drop_dropout, without_dropout
from graphshard.check.module import gradient_inputs, whole_graph
from graphshard.errors import CaptureError
from graphshard.execute.run import Compiled, Leaf, State, graph_inputs, program_inputs
from graphshard.private import pytree


def with_lost_gradients(model: nn.Module, compiled: Compiled) -> Compiled:
    """The program with the gradients that it lost: for each output, what a backward through it gives zeros to.

    Raises:
        CaptureError: the program gives a gradient where the model has none.
    """
    signature = compiled.captured.signature
    _, sizes = sizes_for(model, signature)
    flat = example_inputs(signature, sizes)
    own = {id(p): p.detach().clone().requires_grad_(_is_float(p)) for p in model.parameters()}
    parameters: dict[str, Tensor] = {
        name: own[id(p)] for name, p in model.named_parameters(remove_duplicate=False)
    }
    rows = signature.restore_parameters(flat)
    parameters |= signature.restore_trainable(flat)
    leaves: dict[Leaf, Tensor] = {("parameter", name): p for name, p in parameters.items()}
    leaves |= {("user", str(number)): flat[number] for number in gradient_inputs(signature).values()}
    leaves = {leaf: value.requires_grad_() for leaf, value in leaves.items() if _is_float(value)}
    state = State(parameters, {**State.of(model).buffers, **rows})
    program = drop_dropout(compiled).program
    graph = graph_inputs(whole_graph(signature.schema, sizes).to(signature.device), "", (0, 0))
    results = program.module(*program_inputs(program, state, flat, graph))
    ours = program.user_values(results)
    with without_dropout():
        result = run_and_take(model, signature, flat, compiled.captured.written, parameters)
    theirs = [leaf for leaf in pytree.tree_leaves(result) if isinstance(leaf, Tensor)]
    lost = []
    for number, (here, there) in enumerate(zip(ours, theirs, strict=True)):
        found, wanted = _reached(here, leaves), _reached(there, leaves)
        if more := found - wanted:
            kind, name = min(more)
            raise CaptureError(
                f"the captured program gives {kind} {name!r} a gradient from output {number}, and the model does not; "
                "please report this model"
            )
        lost.append(tuple(leaf for leaf in leaves if leaf in wanted - found))
    return replace(compiled, lost=tuple(lost)) if any(lost) else compiled


def _reached(output: Tensor, leaves: Mapping[Leaf, Tensor]) -> set[Leaf]:
    """The leaves to which a backward from this output alone gives a gradient, be it zero."""
    if not leaves or not output.requires_grad:
        return set()
    values: Sequence[Tensor] = list(leaves.values())
    weights = torch.ones_like(output)
    found = torch.autograd.grad(output, values, weights, allow_unused=True, retain_graph=True)
    return {leaf for leaf, grad in zip(leaves, found, strict=True) if grad is not None}


def _is_float(tensor: Tensor) -> bool:
    return tensor.is_floating_point() or tensor.is_complex()
