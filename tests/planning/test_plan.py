"""What a plan says of bytes is what ranks send; of memory and time, what a part that is tried takes."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch_geometric.data import HeteroData
from torch_geometric.nn import GCNConv
from typer.testing import CliRunner

import graphshard
from graphshard import Link, Options, PartitionReport, Plan, Planned, Role
from graphshard.capture.examples import TensorSpec
from graphshard.errors import DataError, PartitionError
from graphshard.planning.alone import alone, of_counts
from graphshard.planning.plan import MOST_EDGES, _line, _strides
from graphshard.planning.trial import Trial, run_steps
from graphshard.planning.words import duration_of, numbers_of, size_of, speed_of
from graphshard.testing import run_ranks
from graphshard.tools.bench import pyg_models
from graphshard.tools.cli.app import app

MIB = 1 << 20


def graph(nodes: int = 60, edges: int = 400, features: int = 12) -> dict[str, Tensor]:
    random = torch.Generator().manual_seed(0)
    return {
        "x": torch.randn(nodes, features, generator=random),
        "edge_index": torch.randint(nodes, (2, edges), generator=random),
    }


@pytest.mark.parametrize("name", ["sage", "gcn", "gat", "mesh", "sage3-dropout"])
def test_bytes_are_those_that_ranks_send(name: str) -> None:
    models = [pyg_models.make(name, 64, 64, 32) for _ in range(3)]
    sharded = graphshard.partition(graph(600, 4000, 64), 3)
    traffic = graphshard.diff(models[0], sharded).traffic

    def rank(number: int, _: str, group: Any) -> tuple[Any, Any]:
        model = graphshard.distribute(models[number], group=group)
        for _step in range(2):
            with graphshard.count_bytes() as forward:
                out = model(sharded[number])
            with graphshard.count_bytes() as back:
                out.local().square().sum().backward()
        return forward, back

    found = run_ranks(3, rank)
    for counters, direction in zip(zip(*found, strict=True), ("forward", "backward"), strict=True):
        assert traffic.halo_bytes(direction) == sum(counter.halo_bytes for counter in counters)
        assert traffic.reduce_bytes(direction) == sum(counter.reduce_bytes for counter in counters)
    assert traffic.halo_bytes("backward")


@pytest.mark.processes
def test_a_plan_of_ranks_here_and_on_machines_of_their_own() -> None:
    model, said = functools.partial(GCNConv, 12, 4), list[str]()
    here = graphshard.plan(model, graph(), (2, 1), report=said.append)
    assert [run.parts for run in here.runs] == [1, 2]
    assert here.here
    one, two = here.runs
    assert (one.halo_rows, one.sent, one.computing) == (0, 0, one.seconds)
    assert two.halo_rows > 0
    assert two.sent > two.busiest > 0
    assert two.seconds > two.computing > 0
    assert all(run.peak > 100 * MIB and run.fits and run.tried == 1 for run in here.runs)
    assert here.links[1].speed > 1e6
    assert any("2 parts: a few steps" in line for line in said)
    apart = graphshard.plan(model, graph(), (2,), link=Link(1e3, 0.0), memory=MIB)
    (run,) = apart.runs
    assert run.sent == two.sent
    assert run.seconds - run.computing == pytest.approx(run.busiest / 1e3)
    assert not run.fits
    assert apart.enough is None
    assert "no number of ranks" in apart.verdict()[0]


def planned(parts: int, seconds: float, *, fits: bool) -> Planned:
    return Planned(parts, 0, 0, 0, 0, seconds, seconds, seconds, fits, 1.0)


def test_what_follows_from_the_numbers() -> None:
    runs = (planned(2, 1.0, fits=False), planned(4, 0.6, fits=True), planned(8, 0.59, fits=True))
    found = Plan(runs, (Link(1.0, 0.0),) * 3, (1 << 30,) * 3, here=False)
    assert (found.enough, found.worthwhile) == (4, 4)
    assert found.verdict() == [
        "memory: fits from 4 on, with 1.0 GiB for a rank",
        "time: beyond 4 ranks a step gets no faster",
    ]
    still = Plan(runs[:2], found.links[:2], found.memory[:2], here=False)
    assert "still gets faster at 4 ranks" in still.verdict()[1]


def test_a_large_part_is_read_off_a_line() -> None:
    assert list(_strides(MOST_EDGES)) == [1]
    assert list(_strides(MOST_EDGES + 1)) == [4, 2]
    half, quarter = Trial(2.0, 0.5, 300 * MIB, 8), Trial(1.5, 0.3, 200 * MIB, 4)
    whole = _line([(0.25, quarter), (0.5, half)])
    assert (whole.first, whole.peak, whole.sent) == (3.0, 500 * MIB, 16)
    assert whole.seconds == pytest.approx(0.9)
    noisy = _line([(0.25, half), (0.5, quarter)])  # never less than what a share of it took
    assert noisy.peak == 200 * MIB


class Typed(nn.Module):
    """Reads an edge index, an index of nodes and rows of edges, of two types of nodes."""

    def __init__(self) -> None:
        super().__init__()
        self.lin = nn.Linear(3, 4)

    def forward(self, x_dict: Any, edge_index_dict: Any, edge_attr_dict: Any, seeds: Tensor) -> Tensor:
        source, destination = edge_index_dict["author", "writes", "paper"]
        weight = edge_attr_dict["author", "writes", "paper"]
        messages = self.lin(x_dict["author"])[source] * weight
        out = torch.zeros_like(x_dict["paper"][:, :1]).expand(-1, 4).index_add(0, destination, messages)
        return out[seeds]


@pytest.mark.parametrize("stride", [1, 3])
def test_a_part_that_needs_no_other(stride: int, tmp_path: Path) -> None:
    random, data = torch.Generator().manual_seed(1), HeteroData()
    data["author"].x = torch.randn(50, 3, generator=random)
    data["paper"].x = torch.randn(70, 3, generator=random)
    data["author", "writes", "paper"].edge_index = torch.stack(
        [torch.randint(n, (300,), generator=random) for n in (50, 70)]
    )
    data["author", "writes", "paper"].edge_attr = torch.rand(300, 1, generator=random)
    data.seeds = torch.arange(0, 70, 2)
    shard = graphshard.partition(data, 2, roles={"seeds": "index:paper"})[0]
    made = alone(shard, stride, tmp_path / "part.safetensors")
    part = made.load()
    authors, whole = part.node_sets["author"], shard.node_sets["author"]
    assert authors.num_owned == -(-whole.num_owned // stride)
    assert authors.num_halo == -(-whole.num_halo // stride) > 0
    if stride == 1:
        assert part.num_local_edges == shard.num_local_edges
    assert made.scale == pytest.approx(1 / stride, rel=0.3)
    (index,) = [value for name, value in part.parts().items() if part.members[name].role.is_index]
    assert int(index[0].max()) < authors.num_owned + authors.num_halo
    assert int(index[1].max()) < part.node_sets["paper"].num_owned
    found = run_steps(Typed(), part, Options(), None)
    assert found.first >= found.seconds > 0


def test_a_sparse_adjacency_is_refused(tmp_path: Path) -> None:
    adjacency = torch.eye(6).to_sparse()
    data = {"x": torch.rand(6, 2), "adj": adjacency}
    shard = graphshard.partition(data, 2, roles={"x": "node"})[0]
    with pytest.raises(DataError, match="edge_index, not as a sparse adjacency"):
        alone(shard, 1, tmp_path / "part.safetensors")


def test_numbers_of_ranks_are_positive() -> None:
    with pytest.raises(DataError, match="numbers of ranks from 1 on"):
        graphshard.plan(nn.Linear(1, 1), graph(), (0, 2))


def test_what_is_said_in_words() -> None:
    assert speed_of("10Gbps") == 1.25e9
    assert speed_of("1.5 GB/s") == 1.5e9
    assert speed_of("200Mbit/s") == 25e6
    assert duration_of("50us") == pytest.approx(5e-5)
    assert size_of("1.5GiB") == 3 << 29
    assert numbers_of("2..20") == (2, 4, 8, 16, 20)
    assert numbers_of("3,1") == (3, 1)


@pytest.mark.parametrize(
    ("read", "text", "words"),
    [
        (speed_of, "10", "no speed of a link"),
        (speed_of, "0Gbps", "no speed of a link"),
        (duration_of, "50", "no time"),
        (size_of, "16G", "no size of memory"),
        (numbers_of, "8..2", "no numbers of ranks"),
        (numbers_of, "0,1", "no numbers of ranks"),
    ],
)
def test_what_says_nothing_is_refused(read: Any, text: str, words: str) -> None:
    with pytest.raises(DataError, match=words):
        read(text)


@pytest.mark.processes
def test_a_report_alone_is_enough(tmp_path: Path) -> None:
    reports = [graphshard.partition(graph(), parts).report for parts in (3, 2)]
    assert PartitionReport.from_dict(json.loads(json.dumps(reports[0].as_dict()))) == reports[0]
    found = graphshard.plan(functools.partial(GCNConv, 12, 4), reports, link=Link(1e9, 0.0))
    assert [(run.parts, run.halo_rows) for run in found.runs] == [
        (one.num_parts, one.halo_nodes) for one in reversed(reports)
    ]
    for run, report in zip(found.runs, reversed(reports), strict=True):
        whole = graphshard.partition(graph(), run.parts)
        assert run.sent >= sum(
            graphshard.diff(GCNConv(12, 4), whole).traffic.halo_bytes(way) or 0
            for way in ("forward", "backward")
        )
        assert report.method == "metis"
        assert run.seconds > 0
    file = tmp_path / "report.json"
    file.write_text(json.dumps(reports[1].as_dict()))
    options = ["--report", str(file), "--link", "10Gbps", "--latency", "50us", "--features", "12", "--json"]
    done = CliRunner().invoke(app, ["plan", f"{__file__}:layer", *options], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    shown = json.loads(done.stdout)
    assert [run["parts"] for run in shown["runs"]] == [2]
    assert shown["runs"][0]["link"] == {"speed": 1.25e9, "latency": pytest.approx(5e-5), "measured": None}


def layer() -> GCNConv:
    return GCNConv(12, 4)


def test_a_report_that_says_too_little(tmp_path: Path) -> None:
    specs = {"pair": TensorSpec(Role.PAIRS, torch.int64, (2,), "pair")}
    with pytest.raises(DataError, match=r"'pair' \(pairs\)"):
        of_counts(specs, 4, 2, 6, 5, 1, tmp_path / "part")
    with pytest.raises(PartitionError, match="no report of a partition"):
        PartitionReport.from_dict({"num_parts": 2})
    data = HeteroData()
    data["a"].x, data["b"].x = torch.rand(4, 2), torch.rand(5, 2)
    data["a", "to", "b"].edge_index = torch.tensor([[0, 1, 3], [4, 2, 0]])
    typed = graphshard.partition(data, 2).report
    assert PartitionReport.from_dict(typed.as_dict()) == typed
    with pytest.raises(DataError, match="several node types"):
        graphshard.plan(nn.Linear(2, 2), typed)


@pytest.mark.parametrize(
    "wrong",
    [["karate", "--report", "x.json"], [], ["karate", "--latency", "5us"], ["karate", "--parts", "4..2"]],
)
def test_wrong_usage_is_said(wrong: list[str]) -> None:
    done = CliRunner().invoke(app, ["plan", "gcn", *wrong])
    assert done.exit_code in (1, 2)
    assert "Traceback" not in done.output


@pytest.mark.processes
def test_the_command_prints_a_table() -> None:
    done = CliRunner().invoke(app, ["plan", "gcn", "karate", "--parts", "1..2"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert "ranks share this machine" in done.output
    assert "fits from 1 on" in done.output
