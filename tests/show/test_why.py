"""``graphshard diff --why``: the pass that made a value, what for, and the user's line."""

from __future__ import annotations

import inspect
import re

import pytest
import torch
from support.programs import program_of
from torch import Tensor, nn
from typer.testing import CliRunner

import graphshard
from graphshard.errors import DataError
from graphshard.passes.pipeline import Pipeline
from graphshard.tools.cli.app import app

PLAIN = graphshard.Options.none()


class Gather(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lin = nn.Linear(4, 3)

    def forward(self, x: Tensor, edge_index: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        h = self.lin(x)
        out = torch.zeros_like(h).index_add(0, edge_index[1], h[edge_index[0]])
        back = torch.zeros_like(h).index_add(0, edge_index[0], h[edge_index[1]])
        return out, back, out.square().sum()


class Total(nn.Module):
    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        return x[edge_index[0]].sum()


def line_of(text: str) -> str:
    lines, first = inspect.getsourcelines(Gather)
    return f"test_why.py:{first + next(i for i, line in enumerate(lines) if text in line)}"


@pytest.fixture(scope="module")
def plain() -> graphshard.Diff:
    return graphshard.diff(Gather(), features=4, options=PLAIN)


@pytest.mark.parametrize(
    ("value", "said", "line"),
    [
        (
            "linear_halo",
            "index reads rows of linear by select_1, whose numbers reach the rows Halo",
            "h[edge_index[0]]",
        ),
        (
            "index_add_1_owned",
            "because index_add_1 adds to rows of Halo, which other ranks own",
            "h[edge_index[1]]",
        ),
        ("sum_all", "because sum is the sum of this rank's rows alone", "out.square()"),
        ("linear", "the model computes it", "self.lin(x)"),
    ],
)
def test_a_value_says_why_it_is_there(plain: graphshard.Diff, value: str, said: str, line: str) -> None:
    text = plain.why(value)
    assert text.startswith(f"{value} = ")
    assert re.search(rf"{re.escape(said)}.*; {re.escape(line_of(line))}$", text, re.MULTILINE), text


def test_a_value_says_which_pass_made_it_and_which_took_it_away() -> None:
    found = graphshard.diff(Gather(), features=4)
    assert "made by insert_halo_sync: rows of other ranks' nodes, fetched where edges read them" in found.why(
        "linear_halo"
    )
    assert "gone after move_halo_syncs: a sync stands where it is cheapest" in found.why("linear_halo")
    assert "because rows of x are the cheapest to send" in found.why("x_halo")


def test_a_value_that_is_not_there_is_told_with_those_that_sound_alike(plain: graphshard.Diff) -> None:
    with pytest.raises(
        DataError, match=r"no stage of the program has a value 'linear_hallo'; did you mean .*linear_halo"
    ):
        plain.why("linear_hallo")
    with pytest.raises(DataError, match="the diff lists their names"):
        plain.why("%%%")


def test_every_pass_says_what_it_does() -> None:
    stages = Pipeline(graphshard.Options().all_passes()).run(program_of(Total()))
    for stage in stages[1:]:
        assert len(stage.does) > 20, stage.name
        assert not stage.does.endswith(".")


def test_the_command_line() -> None:
    done = CliRunner().invoke(app, ["diff", "gcn", "karate", "--why", "x_halo"])
    assert done.exit_code == 0, done.output
    assert "made by " in done.output
    assert "inputs:" not in done.output
