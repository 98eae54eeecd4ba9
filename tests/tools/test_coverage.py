"""``graphshard coverage``: what it says of a few configurations, and when it fails."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from support.local import local
from torch import Tensor
from typer.testing import CliRunner, Result

pytest.importorskip("torch_geometric")

from graphshard.check.faults import Fault, faults_of
from graphshard.check.verify import Parts, Setting, Verification
from graphshard.tools import zoo
from graphshard.tools.cli.app import app
from graphshard.tools.zoo import tables, workers
from graphshard.tools.zoo.configuration import Configuration, model
from graphshard.tools.zoo.graphs import NODES, cut_graph
from graphshard.tools.zoo.record import read_record, write_record
from graphshard.tools.zoo.run import Outcome, kind_of, run_configuration
from graphshard.tools.zoo.run import Result as Ended


def _plain(m: object, x: Tensor, edge_index: Tensor) -> Tensor:
    return torch.zeros_like(x).index_add(0, edge_index[1], x[edge_index[0]]) * 2


def _refused(m: object, x: Tensor) -> Tensor:
    return torch.fft.rfft(x).abs()


def _crashes(m: object, x: Tensor) -> Tensor:
    return x.no_such_method()  # type: ignore[attr-defined, operator]


def _missing(m: object, x: Tensor) -> Tensor:
    raise ImportError("'Layer' requires 'torch-cluster'")


PLAIN, REFUSED = model("plain", _plain, dict), model("refused", _refused, dict)
CRASHES, MISSING = model("crashes", _crashes, dict), model("missing", _missing, dict)


@pytest.fixture
def small_zoo(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Configuration]:
    """The zoo that the command sees; to be added to. The working folder has no record."""
    held = [PLAIN, REFUSED, MISSING]
    monkeypatch.setattr(zoo, "configurations", lambda pattern="*": [("convs", c) for c in held])
    monkeypatch.setenv("PYTHONWARNINGS", "")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "docs").mkdir()
    return held


def run(*args: object) -> Result:
    return CliRunner().invoke(app, ["coverage", "--seeds", "1", "--jobs", "0", *map(str, args)])


def test_counts_reasons_and_exit_code(small_zoo: list[Configuration]) -> None:
    done = run("--json")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert found["passed"]
    assert found["totals"] == {"exact": 1, "refused": 1, "wrong": 0, "not runnable": 1}
    assert {c["name"]: c["result"] for c in found["configurations"]} == {
        "plain": "exact",
        "refused": "refused",
        "missing": "not runnable",
    }
    kinds = {c["name"]: c["kind"] for c in found["configurations"]}
    assert kinds["refused"].startswith("aten.fft_rfft")
    assert __file__ not in kinds["refused"]
    assert "torch-cluster" in kinds["missing"]


def test_the_table(small_zoo: list[Configuration]) -> None:
    done = run()
    assert done.exit_code == 0
    lines = done.stdout.splitlines()
    assert lines[-1].split() == ["total", "1", "1", "0", "1"]
    assert any("why refused" in line for line in lines)


def test_a_crash_is_wrong_and_loud(small_zoo: list[Configuration]) -> None:
    small_zoo.append(CRASHES)
    done = run()
    assert done.exit_code == 1
    assert "WRONG convs/crashes: AttributeError" in done.stdout


def test_what_was_exact_must_stay_exact(small_zoo: list[Configuration]) -> None:
    assert run("--write", "docs/coverage.md").exit_code == 0
    record = read_record(Path("docs/coverage.json"))
    assert record is not None
    assert record.exact == ("plain",)
    assert record.totals["refused"] == 1
    page = Path("docs/coverage.md").read_text()
    assert "| total | 1 | 1 | 0 | 1 |" in page
    assert os.sep + "tests" not in page

    assert run().exit_code == 0
    small_zoo[0] = model("plain", _refused, dict)
    done = run()
    assert done.exit_code == 1
    assert "NO LONGER EXACT plain: refused" in done.stdout
    del small_zoo[0]
    assert "plain: no longer in the zoo" in run().stdout


def test_an_unreadable_record_is_one_sentence(small_zoo: list[Configuration]) -> None:
    Path("docs/coverage.json").write_text("[]")
    done = run()
    assert done.exit_code == 1
    assert "docs/coverage.json is no record" in done.stderr


def test_options_are_checked(small_zoo: list[Configuration], monkeypatch: pytest.MonkeyPatch) -> None:
    assert run("--only", "plain", "--write", "docs/coverage.md").exit_code == 2
    small_zoo.clear()
    assert run("--only", "nothing").exit_code == 2


def test_a_planted_fault_is_wrong() -> None:
    """The comparison can fail: take out any exchange of a convolution."""
    gcn = next(c for _, c in zoo.configurations() if c.name == "GCNConv, edge_weight")
    outcome = run_configuration("convs", gcn, (0,))
    assert outcome.result is Ended.exact, outcome.reason
    names = ["x", "edge_index", "edge_weight"]
    cut = cut_graph(0, names)
    setting = Setting(True, True, torch.float64, {})
    run_once = Verification(gcn.make().double(), Parts(cut.whole(), cut.shards()), setting)
    faults = faults_of(run_once.prepared.compiled)
    assert {f.how for f in faults} == {"drop", "drop backward"}
    for fault in faults:
        broken = run_configuration("convs", gcn, (0,), fault)
        assert broken.result is Ended.wrong, fault
        assert "is off by" in broken.reason


def test_a_worker_that_dies_loses_its_own_configuration_only(monkeypatch: pytest.MonkeyPatch) -> None:
    tasks = [(g, c) for g, c in zoo.configurations("norms/*") if c.name in ("torch ReLU", "torch ELU")]
    start, started = workers._start, []

    def first_one_dies(task: workers.Task, seeds: Sequence[int]) -> workers._Worker:
        worker = start(task, seeds)
        started.append(worker)
        if len(started) == 1:
            worker.process.kill()
        return worker

    monkeypatch.setattr(workers, "_start", first_one_dies)
    dead, fine = workers.run_all(tasks, (0,), 1)
    assert (dead.result, dead.reason) == (Ended.wrong, "the process died with exit code -9")
    assert (fine.name, fine.result) == (tasks[1][1].name, Ended.exact)
    assert not any(w.process.is_alive() for w in started)


def test_a_configuration_that_takes_too_long_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "LIMIT", 0.0)
    task = next(iter(zoo.configurations("norms/torch ReLU")))
    (outcome,) = workers.run_all([task], (0,), 1)  # its process needs seconds to start
    assert outcome.result is Ended.wrong
    assert "took longer" in outcome.reason


def test_graphs_hold_the_awkward_cuts() -> None:
    lonely = cut_graph(1, ["x", "edge_index"])
    shards = lonely.shards()
    assert [s.num_owned == 0 for s in shards] == [False, True, False]
    assert [sum(s.halo.recv_splits) == 0 for s in shards] == [False, True, True]
    assert lonely.graph.x.unique().tolist() == [-1.0, 0.0, 1.0]
    whole = cut_graph(0, ["x", "edge_index"]).graph
    assert NODES - 1 not in whole.edge_index
    by_destination = cut_graph(0, ["edge_index"], edges="sorted")
    for shard in (*by_destination.shards(), by_destination.whole()):
        assert bool((local(shard.edge_index)[1].diff() >= 0).all())


def test_the_zoo_is_large_and_names_every_conv() -> None:
    from torch_geometric.nn import conv

    named = list(zoo.configurations())
    assert len(named) >= 240
    names = " ".join(c.name for group, c in named if group == "convs")
    absent = [name for name in conv.__all__ if name not in names]
    assert absent == ["MessagePassing"]


@pytest.mark.parametrize(
    ("message", "kind"),
    [
        (
            "aten.einsum has no rule (in module 'a.b' (Conv), /x/y.py:2: `f('ab,b', h)`). Instead: mm.",
            "aten.einsum has no rule",
        ),
        ("aten.topk runs along rows (in Model)", "aten.topk runs along rows"),
        (
            "cannot capture the model in module 'k' (Lin) (/x.py:1: `a(`): the model (an if) looks",
            "cannot capture the model: the model (an if) looks",
        ),
        (
            "the model fails on example inputs (x [11, 5]): ValueError",
            "the model fails on example inputs: ValueError",
        ),
    ],
)
def test_kinds_have_no_places(message: str, kind: str) -> None:
    assert kind_of(message) == kind


def test_records_and_reasons(tmp_path: Path) -> None:
    outcomes = [
        Outcome("b", "convs", Ended.exact),
        Outcome("a", "convs", Ended.exact),
        Outcome("c", "norms", Ended.refused, "why (in Model)", "why"),
        Outcome("d", "norms", Ended.refused, "why not", "why not"),
        Outcome("e", "norms", Ended.refused, "why not", "why not"),
    ]
    write_record(tmp_path / "r.json", outcomes)
    record = read_record(tmp_path / "r.json")
    assert record is not None
    assert record.exact == ("a", "b")
    assert record.lost([Outcome("a", "convs", Ended.wrong)]) == [Outcome("a", "convs", Ended.wrong)]
    assert tables.by_reason(outcomes, Ended.refused) == [("why not", ["d", "e"]), ("why", ["c"])]
    assert read_record(tmp_path / "none.json") is None


def test_a_fault_that_is_not_there_is_wrong() -> None:
    assert run_configuration("convs", PLAIN, (0,), Fault("nothing", "drop")).result is Ended.wrong
