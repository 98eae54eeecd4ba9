"""Helpers for tests of passes and rules: capture a model, run one pass, read the ops."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from support.equality import ROLES
from support.models import Written, make
from support.shown import check_shown
from support.strategies import fixed_case
from torch import nn

from graphshard.api import distribute
from graphshard.errors import UnsupportedOperation
from graphshard.infer.constants import constant_values
from graphshard.infer.placement import check_placed
from graphshard.ir.program import Pass, Program
from graphshard.options import Options
from graphshard.partitioning.partition import partition
from graphshard.passes.exact.infer_placement import InferPlacement


def program_of(model: nn.Module, stage: int = 0) -> Program:
    """The program of a model after that many passes; 0: as it was captured."""
    tensors = fixed_case().tensors
    nodes = tensors["x"].size(0)
    shard = partition(tensors, 1, roles={n: ROLES[n] for n in tensors}, num_nodes=nodes)[0]
    return distribute(model).stages(shard)[stage].program.copy()


def ops(program: Program) -> list[str]:
    """The short names of what a program calls, in order: ``index_select``, ``halo_sync``."""
    return [short(n.target) for n in program.graph.nodes if n.op == "call_function"]


def short(target: object) -> str:
    if isinstance(target, torch._ops.OpOverload):
        return str(target.overloadpacket).split(".", 1)[1]
    return str(getattr(target, "__name__", target))


def check_pass(
    model: nn.Module, earlier: Sequence[Pass], step: Pass, after: str, edits: int, example: str = ""
) -> Program:
    """Run ``step`` after ``earlier``: its edits, the ops it leaves, and that a second run finds nothing.

    What it does is shown in ``golden/passes/`` by the name of the model's forward, or ``example``.
    """
    program = program_of(model)
    for one in (InferPlacement(), *earlier):
        one.run(program)
        InferPlacement().run(program)
    before = program.copy()
    assert step.run(program) == edits
    program.graph.eliminate_dead_code()
    program.graph.lint()
    InferPlacement().run(program)
    assert ops(program) == after.split()
    if edits:
        check_shown(step, before, program, example or type(model).__name__)
    assert step.run(program) == 0
    assert ops(program) == after.split()
    return program


def before_pass(model: nn.Module, name: str, without: str = "") -> tuple[Program, Pass]:
    """The program as it comes to a pass that makes it faster, and that pass; ``without`` some before it."""
    program = program_of(model)
    for step in _with(name).all_passes():
        InferPlacement().run(program)
        if step.name == name:
            return program, step
        if step.name not in without.split():
            step.run(program)
        program.graph.eliminate_dead_code()
    raise AssertionError(f"no pass {name}")


def _with(name: str) -> Options:
    """The default passes, and this one."""
    chosen: dict[str, Any] = {name: True}
    return Options(**chosen)


def check_faster(
    forward: Callable[..., object], name: str, after: str, edits: int, without: str = ""
) -> Program:
    """Run a pass that makes a program faster: its edits, the ops of a step that it leaves, and a second run."""
    program, step = before_pass(model_of(forward), name, without)
    before = program.copy()
    assert step.run(program) == edits
    program.graph.eliminate_dead_code()
    program.graph.lint()
    InferPlacement().run(program)
    check_placed(program)
    assert step_ops(program) == after.split()
    if edits:
        check_shown(step, before, program, forward.__name__)
    assert step.run(program) == 0
    assert step_ops(program) == after.split()
    return program


def step_ops(program: Program) -> list[str]:
    """What is called in every step, in order: no constant of the graph, and no mark of a parameter."""
    constants = constant_values(program)
    marks = ("replicated_input", "replicated_output")
    found = [short(n.target) for n in program.graph.nodes if n.op == "call_function" and n not in constants]
    return [op for op in found if op not in marks]


def once_ops(program: Program) -> list[str]:
    """The constants of the graph, but for sizes."""
    constants = constant_values(program)
    found = [short(n.target) for n in program.graph.nodes if n.op == "call_function" and n in constants]
    return [op for op in found if op not in ("sym_size", "select", "unbind", "getitem")]


def refusal(model: nn.Module) -> str:
    """The message with which the model is refused."""
    with pytest.raises(UnsupportedOperation) as caught:
        program_of(model)
    return str(caught.value)


def model_of(forward: Callable[..., object], **modules: nn.Module) -> nn.Module:
    """A model with this forward, ``lin`` and ``out`` layers, a ``weight``, and further modules."""
    # torch keeps the source lines of functions of this name only.
    forward.__code__ = forward.__code__.replace(co_name="forward")
    kind = type(forward.__name__, (Written,), {"forward": forward, "__module__": forward.__module__})
    model = make(kind)
    for name, module in modules.items():
        setattr(model, name, module.double())
    return model
