"""From an exported graph to a program: what each placeholder stands for, its placement and its name."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor, fx
from torch.export.graph_signature import InputKind, OutputKind

from graphshard.capture.clean import tidy, unpack_constant_indices
from graphshard.capture.examples import Signature, TensorSpec
from graphshard.capture.functional import Functional
from graphshard.errors import CaptureError
from graphshard.graph.roles import Role
from graphshard.ir.placement import Placed, replicated
from graphshard.ir.program import Input, Output, Program
from graphshard.ir.roles import by_role
from graphshard.ir.source import where
from graphshard.private.torch_graphs import rename


def to_program(found: Functional, signature: Signature) -> Program:
    """The exported graph as the passes see it: tidy, inputs placed and named as the user names them.

    Raises:
        CaptureError: the module holds, or writes into, what a program cannot.
    """
    unpack_constant_indices(found)
    module = tidy(found.module)
    inputs, constants = [], {}
    arguments = iter(range(1 << 20))
    needs_grad = [flag for spec in signature.tensors for flag in _gradients(spec)]
    for spec in found.signature.input_specs:
        name = getattr(spec.arg, "name", "")
        target = (spec.target or "").removeprefix("model.")
        if spec.kind is InputKind.PARAMETER:
            inputs.append(Input(name, "parameter", target))
        elif spec.kind is InputKind.BUFFER:
            inputs.append(Input(name, "buffer", target))
        elif spec.kind is InputKind.CONSTANT_TENSOR:
            inputs.append(Input(name, "constant", str(spec.target)))
            constants[str(spec.target)] = found.constants[str(spec.target)].detach()
        elif spec.kind is InputKind.USER_INPUT:
            number = next(arguments)
            constant = not needs_grad[number]
            inputs.append(Input(name, "user", str(number), constant=constant))
        else:
            raise CaptureError(f"the model holds a {spec.kind.name}, which cannot be captured")
    for node in module.graph.nodes:
        _strip_wrapper(node)
    nodes = {node.name: node for node in module.graph.nodes}
    outputs = [_output(spec, nodes) for spec in found.signature.output_specs]
    program = Program(module, inputs, outputs, constants)
    _place_inputs(program, signature)
    _name_inputs(program, signature)
    program.inputs = [_as_parameter(spec, signature) for spec in program.inputs]
    return program


def _gradients(spec: TensorSpec) -> list[bool]:
    """Whether each of the program inputs that a tensor becomes needs a gradient."""
    return [False, spec.needs_grad] if spec.role is Role.ADJACENCY else [spec.needs_grad]


def _as_parameter(spec: Input, signature: Signature) -> Input:
    """A flat input behind the arguments is a node parameter, or a buffer with a row for each node."""
    first = sum(argument.width for argument in signature.arguments)
    if spec.kind != "user" or int(spec.target) < first:
        return spec
    name, rows = signature.parameters[int(spec.target) - first]
    return replace(spec, kind="parameter" if rows.needs_grad else "buffer", target=name)


def _output(spec: Any, nodes: Mapping[str, fx.Node]) -> Output:
    if spec.kind is OutputKind.USER_OUTPUT:
        return Output("user", "")
    target = (spec.target or "").removeprefix("model.")
    if spec.kind is OutputKind.BUFFER_MUTATION:
        return Output("buffer", target)
    node = nodes.get(getattr(spec.arg, "name", ""))
    place = "" if node is None else where(node)
    if spec.kind is OutputKind.PARAMETER_MUTATION:
        raise CaptureError(
            f"forward writes into the parameter {target!r}{place}: parameters are changed by an optimiser, or outside "
            "of forward under torch.no_grad(). Leave out max_norm of an embedding and limit its rows after each step; "
            "update a momentum copy after the step; or register the tensor as a buffer"
        )
    raise CaptureError(f"forward writes into {target or 'one of its arguments'}{place}: work on a copy")


def _place_inputs(program: Program, signature: Signature) -> None:
    placed = [p for spec in signature.tensors for p in _placements(spec, signature)]
    for spec, node in zip(program.inputs, program.graph.find_nodes(op="placeholder"), strict=True):
        assert spec.name == node.name
        value = node.meta.get("val")
        if spec.kind == "user":
            node.meta["placement"] = placed[int(spec.target)]
        elif isinstance(value, Tensor):
            node.meta["placement"] = replicated(value.dim())


def _placements(spec: TensorSpec, signature: Signature) -> list[Placed]:
    if spec.placed is not None:
        return [spec.placed]
    return by_role(spec.role, spec.of, len(spec.trailing), signature.schema)


def _name_inputs(program: Program, signature: Signature) -> None:
    """Placeholders named as the user names their values: ``x``, ``conv1_lin_weight``."""
    flat = [
        f"{name}_{part}" if part else name
        for name, leaf in zip(signature.names, signature.leaves, strict=True)
        if isinstance(leaf, TensorSpec)
        for part in (("index", "values") if leaf.width == 2 else ("",))
    ]
    flat += [name for name, _ in signature.parameters]
    for i, (spec, node) in enumerate(
        zip(program.inputs, program.graph.find_nodes(op="placeholder"), strict=True)
    ):
        wanted = flat[int(spec.target)] if spec.kind == "user" else spec.target
        rename(node, re.sub(r"\W+", "_", wanted.rstrip("]')")))
        node.target = node.name
        program.inputs[i] = replace(spec, name=node.name)
    program.module.recompile()


def _strip_wrapper(node: fx.Node) -> None:
    """Module paths as the user knows them, without the flat wrapper."""
    stack = node.meta.get("nn_module_stack")
    if not stack:
        return
    kept = {}
    for key, (path, cls) in stack.items():
        if path == "":
            continue
        kept[key] = ("" if path == "model" else path.removeprefix("model."), cls)
    node.meta["nn_module_stack"] = kept
