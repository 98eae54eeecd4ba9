"""Planted faults: a program with one exchange, or one backward of an exchange, taken out.

A check that passes must be able to fail. Each fault leaves a program that runs and that is wrong.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import fx

from graphshard.catalogue.record import Faults
from graphshard.catalogue.table import record_of
from graphshard.execute.run import Compiled
from graphshard.infer.gradient_flow import gradient_flow


@dataclass(frozen=True)
class Fault:
    """Which node is broken, and how: "drop" (no communication), "drop backward" (its gradient is lost)."""

    node: str
    how: str

    def __str__(self) -> str:
        return f"{self.how} {self.node}"


def faults_of(compiled: Compiled, inputs_need_grad: bool = True) -> list[Fault]:
    """Every fault that can be planted in a program: exchanges, their backwards where a gradient flows, the
    gradient sums and the scaling of replicated outputs."""
    program = compiled.program
    flowing = gradient_flow(program, inputs_need_grad=inputs_need_grad)
    faults: list[Fault] = []
    for node in program.graph.nodes:
        broken = _faults(node)
        if broken is None:
            continue
        if broken.drop is not None:
            faults.append(Fault(node.name, "drop"))
        if broken.drop_backward is not None and node in flowing:
            faults.append(Fault(node.name, "drop backward"))
    return faults


def plant(compiled: Compiled, fault: Fault) -> Compiled:
    """A copy of the program with the fault in it."""
    stage = compiled.stages[-1]
    program = stage.program.copy()
    node = next(n for n in program.graph.nodes if n.name == fault.node)
    broken = _faults(node)
    assert broken is not None
    replacement = broken.drop if fault.how == "drop" else broken.drop_backward
    assert replacement is not None
    node.target = replacement
    program.graph.lint()
    program.module.recompile()
    return Compiled(compiled.captured, [*compiled.stages[:-1], replace(stage, program=program)])


def _faults(node: fx.Node) -> Faults | None:
    record = record_of(node)
    return None if record is None else record.faults
