"""Random programs: hypothesis draws the steps, the result is a module with a forward of source lines."""

from __future__ import annotations

import linecache
import types
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from hypothesis import strategies as st
from support.strategies import EDGE_FEATURES, FEATURES
from torch import nn

from fuzz import messages, rows, whole
from fuzz.builder import GROUPS, WHOLE, WIDTH, Builder, Edges, NothingFits, Value

HEADER = """def forward(self, x, z, y, mask, mask2, edge_index, edge_weight, edge_attr, edge_y):
    src, dst = edge_index
    h, e = self.enter(x), self.enter_edges(edge_attr)
    x4, x0 = x[:, :4], x[:, 0]
"""

GIVEN = (
    Value("z", "node", (), "int", exact=True),
    Value("edge_y", "edge", (), "int", exact=True),
    Value("mask2", "node", (), "bool", exact=True),
    Value("self.w", WHOLE, (WIDTH,)),
    Value("edge_weight", "edge", (), exact=True),
    Value("y", "node", (), "int", exact=True),
    Value("mask", "node", (), "bool", exact=True),
    Value("x0", "node", (), exact=True),
    Value("x4", "node", (WIDTH,), exact=True),
    Value("e", "edge", (WIDTH,)),
    Value("h", "node", (WIDTH,)),
)
"""What every program starts from, the simplest last."""


@dataclass(frozen=True)
class FuzzedProgram:
    """The source text of a forward."""

    source: str

    def __repr__(self) -> str:
        return f"FuzzedProgram(\n{self.source})"


class Fuzzed(nn.Module):
    """The parameters that programs use."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.enter_edges = nn.Linear(FEATURES, WIDTH), nn.Linear(EDGE_FEATURES, WIDTH)
        self.lin, self.cat = nn.Linear(WIDTH, WIDTH), nn.Linear(2 * WIDTH, WIDTH)
        self.mlp = nn.Sequential(nn.Linear(WIDTH, 3), nn.Tanh(), nn.Linear(3, WIDTH))
        self.bn, self.embedding = nn.BatchNorm1d(WIDTH), nn.Embedding(GROUPS, WIDTH)
        self.w = nn.Parameter(torch.rand(WIDTH) + 0.5)
        self.square, self.table = (
            nn.Parameter(torch.randn(WIDTH, WIDTH)),
            nn.Parameter(torch.randn(GROUPS, WIDTH)),
        )


@st.composite
def fuzzed_programs(draw: st.DrawFn, max_steps: int = 16) -> FuzzedProgram:
    """A program of up to ``max_steps`` steps; every value that no other reads is returned."""
    b = Builder(draw, list(GIVEN), [Edges("edge", "src", "dst")])
    families = (messages.STEPS, rows.STEPS, whole.STEPS)
    for _ in range(draw(st.integers(2, max_steps))):
        step = b.choose(b.choose(families))
        before = len(b.lines)
        try:
            step(b)
        except NothingFits:
            del b.lines[before:]
    body = "".join(f"    {line}\n" for line in b.lines)
    return FuzzedProgram(f"{HEADER}{body}    return [{', '.join(_results(b))}]\n")


def _results(b: Builder) -> list[str]:
    """Values that nothing reads; sums of those over rows that have no order of their own."""
    given = {value.name for value in GIVEN}
    made = {line.split(" = ")[0].strip() for line in b.lines}
    left = [v for v in b.values if v.name not in given and v.name not in b.used and v.name in made]
    found = []
    for value in left or [GIVEN[-1]]:
        if value.rows in ("node", "edge", WHOLE, "groups"):
            found.append(value.name)
        elif value.dtype == "float":
            found.append(f"F.softsign({value}).sum()")
        else:
            found.append(f"{value}.sum()")
    return found


def module_of(program: FuzzedProgram) -> nn.Module:
    """A module with this forward, in float64, the same parameters for every program."""
    name = f"<fuzzed-{hash(program.source):x}>"
    # Error messages quote the line of the program.
    linecache.cache[name] = (len(program.source), None, program.source.splitlines(keepends=True), name)
    scope: dict[str, types.FunctionType] = {}
    exec(compile(program.source, name, "exec"), {"torch": torch, "F": F}, scope)
    kind = type("Program", (Fuzzed,), {"forward": scope["forward"], "__module__": __name__})
    torch.manual_seed(0)
    return kind().double()
