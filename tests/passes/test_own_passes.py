"""Passes of users: the documented example runs and is exact, and one that is wrong is refused."""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from support.programs import ops
from support.repository import DOCS
from torch import Tensor
from typer.testing import CliRunner

import graphshard
from graphshard.errors import CaptureError, GraphshardError, PlacementError
from graphshard.rewriting import Emitter, Program, replace_results
from graphshard.testing import assert_equivalent, run_ranks
from graphshard.tools.cli.app import app

DOCUMENT = DOCS / "passes.md"
aten = torch.ops.aten


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """The names that the document's example defines, from a file as a user has it."""
    (code,) = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(), flags=re.S)
    file = tmp_path_factory.mktemp("own") / "gate_with_own_pass.py"
    file.write_text(code.split("model = graphshard.distribute")[0])
    monkeypatch = pytest.MonkeyPatch()
    monkeypatch.syspath_prepend(str(file.parent))
    yield {**vars(importlib.import_module(file.stem)), "FILE": str(file)}
    monkeypatch.undo()


def graph() -> dict[str, Tensor]:
    torch.manual_seed(0)
    return {"x": torch.randn(12, 2), "edge_index": torch.randint(12, (2, 40))}


@pytest.mark.parametrize("faster", [graphshard.Options(), graphshard.Options.none()], ids=["faster", "plain"])
def test_the_documented_pass(example: dict[str, Any], faster: graphshard.Options) -> None:
    own = example["FuseSilu"]()
    shard = graphshard.partition(graph(), 1)[0]
    stages = graphshard.distribute(example["Gate"](), passes=[own], options=faster).stages(shard)
    (stage,) = [stage for stage in stages if stage.name == "fuse_silu"]
    assert stage.edits == 1
    assert "silu" in ops(stage.program)
    assert not {"mul", "sigmoid"} & set(ops(stage.program))
    assert own.run(stage.program.copy()) == 0
    chosen = graphshard.Options(passes=(own,))
    assert_equivalent(example["Gate"], graph(), 3, options=chosen)


def test_a_pass_on_the_command_line(example: dict[str, Any]) -> None:
    file = example["FILE"]
    given = ["diff", f"{file}:Gate", "--features", "2", "--between", "--passes"]
    done = CliRunner().invoke(app, [*given, f"{file}:FuseSilu"])
    assert done.exit_code == 0, done.output
    assert re.search(r"fuse_silu.*\n(.*\n)*?\+.*silu\(", done.output)
    wrong = {"silu": "there is no pass 'silu'", f"{file}:Fuse": "has no 'Fuse'", f"{file}:aten": "no pass"}
    for spec, said in wrong.items():
        failed = CliRunner().invoke(app, [*given, spec])
        assert failed.exit_code
        assert said in failed.output or said in str(failed.exception)


@dataclass(frozen=True)
class DropProducts:
    """Wrong: a product becomes its first factor."""

    name: str = "drop_products"

    def run(self, program: Program) -> int:
        edits = 0
        for node in program.graph.find_nodes(op="call_function", target=aten.mul.Tensor):
            replace_results(node, node.args[0])
            edits += 1
        return edits


def test_a_pass_that_changes_results_is_refused(example: dict[str, Any]) -> None:
    shard = graphshard.partition(graph(), 1)[0]
    with pytest.raises(CaptureError, match="differ"):
        graphshard.distribute(example["Gate"](), passes=[DropProducts()])(shard)


def test_a_pass_that_breaks_the_graph_is_named(example: dict[str, Any]) -> None:
    @dataclass(frozen=True)
    class Backwards:
        name: str = "backwards"

        def run(self, program: Program) -> int:
            (node,) = program.graph.find_nodes(op="call_function", target=aten.sigmoid.default)
            with Emitter(program, node).before(node):
                late = program.graph.call_function(aten.neg.default, (next(iter(node.users)),))
            node.args = (late,)
            return 1

    shard = graphshard.partition(graph(), 1)[0]
    with pytest.raises(PlacementError, match="the pass backwards left nodes"):
        graphshard.distribute(example["Gate"](), passes=[Backwards()])(shard)


@pytest.mark.parametrize(
    ("passes", "said"),
    [
        ([DropProducts], "is no pass"),
        (["fold_scales"], "is no pass"),
        ([DropProducts("fold_scales")], "two passes are called 'fold_scales'"),
        ([DropProducts(), DropProducts()], "two passes are called 'drop_products'"),
    ],
)
def test_what_is_no_pass_is_said(example: dict[str, Any], passes: list[Any], said: str) -> None:
    with pytest.raises(GraphshardError, match=said):
        graphshard.distribute(example["Gate"](), passes=passes)


def test_ranks_with_other_passes_are_told_so(example: dict[str, Any]) -> None:
    shards = graphshard.partition(graph(), 2)

    def rank_program(rank: int, _: str, group: Any) -> None:
        passes = [example["FuseSilu"]()] if rank else []
        graphshard.distribute(example["Gate"](), passes=passes, group=group)(shards[rank])

    with pytest.raises(graphshard.RuntimeMismatch, match=r"the option passes is .* on rank 0 but .*FuseSilu"):
        run_ranks(2, rank_program)
