"""``graphshard verify --script``: scripts as they are, run by the command on one machine and on processes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

import graphshard
from graphshard.tools.cli.app import app
from graphshard.training.script import verify_script

pytestmark = pytest.mark.processes

SCRIPT = """
import argparse, time, torch
import torch.nn.functional as F
import graphshard
from support.training_steps import Mean, graph

parser = argparse.ArgumentParser()
parser.add_argument("name")
parser.add_argument("--lr", type=float, default=0.01)
args = parser.parse_args()
torch.distributed.init_process_group("gloo")
size, rank = torch.distributed.get_world_size(), torch.distributed.get_rank()
shard = graphshard.partition(graph(), size)[rank]
model = graphshard.distribute(Mean(DROPOUT).double())
optimizer = torch.optim.Adam(model.parameters(), lr=args.lr)
for epoch in range(100):
    optimizer.zero_grad()
    mask = shard.train_mask
    losses = F.cross_entropy(model(shard)[mask], shard.y[mask], reduction="none")
    loss = graphshard.mean(losses)
    loss.backward()
    optimizer.step()
    with torch.no_grad():
        right = (model(shard).argmax(-1) == shard.y).double()
    accuracy = graphshard.mean(right)
    if rank == 0:
        print(f"{args.name} epoch {epoch:03d}, loss: {loss:.4f}, accuracy: {accuracy:.3f}, took {time.time() % 1}")
"""


@pytest.fixture(autouse=True)
def _with_tests_on_the_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.chdir(tmp_path)


def written(folder: Path, *changes: tuple[str, str], dropout: float = 0.0) -> Path:
    text = SCRIPT.replace("DROPOUT", str(dropout))
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    tests = Path(__file__).parents[1]
    script = folder / "train.py"
    script.write_text(f"import sys; sys.path.insert(0, {str(tests)!r})\n{text}")
    return script


def command(*arguments: Any) -> Result:
    return CliRunner().invoke(app, ["verify", "--script", *map(str, arguments)])


def test_a_right_script_passes_with_its_arguments(tmp_path: Path) -> None:
    """It prints the time of day, which differs in any two runs."""
    done = command(written(tmp_path), "--ranks", 2, "--steps", 3, "--", "mine", "--lr", "0.02")
    assert done.exit_code == 0, done.output
    assert "PASS: 3 steps on 2 ranks (processes, float64) as on one machine (plain PyTorch)" in done.stdout
    assert "once more on one machine" in done.stderr
    assert "printed" in done.stdout


def test_a_local_loss_is_found_and_named(tmp_path: Path) -> None:
    script = written(
        tmp_path, ("graphshard.mean(losses)", "getattr(losses, 'local', lambda: losses)().mean()")
    )
    done = command(script, "--ranks", 2, "--steps", 2, "--json", "--", "mine")
    assert done.exit_code == 1
    run = json.loads(done.stdout)["runs"][0]
    assert "mean of a rank's own rows: use graphshard.mean" in run["cause"]
    failed = [row for row in run["rows"] if not row["passed"]]
    assert (failed[0]["mode"], failed[0]["kind"]) == ("step 1", "loss")
    assert {row["name"] for row in failed if row["kind"] == "weight"} <= {
        "model.lin.weight",
        "model.lin.bias",
    }


def test_a_metric_of_one_rank_is_found_by_what_is_printed(tmp_path: Path) -> None:
    script = written(tmp_path, ("graphshard.mean(right)", "getattr(right, 'local', lambda: right)().mean()"))
    report = verify_script(script, ["mine"], 2, steps=3)
    assert not report.passed
    assert report.first is not None
    assert report.first.kind == "printed"
    assert "accuracy:" in report.first.name
    assert "rank's own rows" in str(report.cause)


def test_dropout_and_an_optimiser_that_one_rank_has_not(tmp_path: Path) -> None:
    report = verify_script(written(tmp_path, dropout=0.5), ["mine"], 2, steps=2)
    assert report.passed, report.summary()
    assert report.reference == "the program on one rank"
    script = written(tmp_path, ("model.parameters(), lr", "list(model.parameters())[rank:], lr"))
    report = verify_script(script, ["mine"], 2, steps=2)
    assert report.first is not None
    assert (report.first.kind, report.first.name) == ("optimised", "model.lin.weight")


def test_what_cannot_be_compared_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(graphshard.DataError, match="no script"):
        verify_script(tmp_path / "none.py")
    empty = tmp_path / "empty.py"
    empty.write_text("print(1)")
    with pytest.raises(graphshard.DataError, match="no step of an optimiser"):
        verify_script(empty, num_parts=1)
    failing = written(tmp_path, ("for epoch in", "assert rank < 1\nfor epoch in"))
    with pytest.raises(graphshard.GraphshardError, match="rank 1 of 2 failed"):
        verify_script(failing, ["mine"], 2)


def test_arguments_without_a_script_are_wrong_usage() -> None:
    done = CliRunner().invoke(app, ["verify", "gcn", "karate", "third"])
    assert done.exit_code == 2
    assert "third" in done.output
