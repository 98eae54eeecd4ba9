"""The benchmarks run, on graphs too small to time anything, and write what they promise."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from support.local import local
from support.repository import ROOT
from typer.testing import CliRunner, Result

pytest.importorskip("torch_geometric")
pytest.importorskip("matplotlib")
pytest.importorskip("numba")

from graphshard.errors import GraphshardError
from graphshard.options import Options
from graphshard.tools.bench import peak, systems
from graphshard.tools.bench.compiling import _Timed
from graphshard.tools.bench.generate import Shape, mesh_graph, power_law_graph, radius_graph
from graphshard.tools.bench.partitioning import counts
from graphshard.tools.bench.scaling import CLASSES, Speeds, cut
from graphshard.tools.bench.systems import Measured, System
from graphshard.tools.cli.app import app

SMALL = ("--nodes", "60", "--edges", "300")


def bench(*args: object) -> Result:
    return CliRunner().invoke(app, ["bench", *map(str, args)], catch_exceptions=False)


def test_the_graph_is_what_its_shape_says() -> None:
    shape = Shape(nodes=3000, edges=30_000, community=100)
    edges = power_law_graph(shape, seed=3)
    assert edges.shape == (2, 30_000)
    keys = edges[0] * 3000 + edges[1]
    assert keys.unique().numel() == 30_000  # no parallel edges
    assert torch.equal(keys.sort().values, (edges[1] * 3000 + edges[0]).sort().values)  # symmetric
    assert bool((edges[0] != edges[1]).all())
    degrees = edges[1].bincount(minlength=3000)
    assert int(degrees.max()) > 10 * float(degrees.double().mean())  # hubs
    assert torch.equal(edges, power_law_graph(shape, seed=3))
    assert not torch.equal(edges, power_law_graph(shape, seed=4))


def test_a_community_holds_most_edges() -> None:
    apart = Shape(nodes=1000, edges=8000, community=100, outside=0.0)
    assert cut(power_law_graph(apart), 1000, 2).halo < 40
    mixed = Shape(nodes=1000, edges=8000, community=100, outside=1.0)
    assert cut(power_law_graph(mixed), 1000, 2).halo > 400


@pytest.mark.processes
def test_systems(tmp_path: Path) -> None:
    done = bench("systems", *SMALL, "--models", "gat", "--rounds", "2", "--turn", "0", "--out", tmp_path)
    assert done.exit_code == 0, done.output
    found = json.loads((tmp_path / "systems.json").read_text())["models"]["gat"]
    assert len(found) == 4
    ranks = next(one for label, one in found.items() if "ranks x" in label)
    assert ranks["sent"] > 0
    assert all(len(one["seconds"]) == 4 and one["first"] > 0 for one in found.values())
    assert all(one["sent"] == 0 for one in found.values() if one is not ranks)
    assert "<svg" in (tmp_path / "systems.svg").read_text()


def test_systems_that_differ_are_not_timed() -> None:
    same = {System("a", "pyg", 1, 1): Measured(loss=1.0), System("b", "graphshard", 1, 1): Measured(loss=1.0)}
    systems._check("gcn", same)
    same[System("c", "graphshard", 2, 1)] = Measured(loss=1.01)
    with pytest.raises(GraphshardError, match="do not compute the same gcn"):
        systems._check("gcn", same)


@pytest.mark.processes
def test_a_system_that_cannot_start_is_named(tmp_path: Path) -> None:
    with pytest.raises(GraphshardError, match="No module named 'system_nowhere'"):
        systems.measure("gcn", [System("nowhere", "nowhere", 1, 1)], tmp_path, 1, 0.0)


@pytest.mark.processes
def test_memory(tmp_path: Path) -> None:
    done = bench("memory", *SMALL, "--models", "sage3,gat3-dropout", "--out", tmp_path)
    assert done.exit_code == 0, done.output
    found = json.loads((tmp_path / "memory.json").read_text())
    assert found["graph"]["nodes"] == 60
    systems_of = {m: [label.split(",")[0] for label in each] for m, each in found["models"].items()}
    assert systems_of == {"sage3": ["graphshard", "PyG CSR"], "gat3-dropout": ["graphshard"]}
    for each in found["models"].values():
        assert all(one["peak"] > one["above"] > 0 and len(one["seconds"]) == 2 for one in each.values())
    plain = [one["loss"] for one in found["models"]["sage3"].values()]
    assert plain[0] == pytest.approx(plain[1], rel=1e-5)
    assert "<svg" in (tmp_path / "memory.svg").read_text()


@pytest.mark.processes
def test_peak(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peak, "MODELS", ("gcn",))
    done = bench("peak", *SMALL, "--out", tmp_path)
    assert done.exit_code == 0, done.output
    found = json.loads((tmp_path / "peak.json").read_text())
    assert found["models"]["gcn"] > 0
    other = bench("peak", "--nodes", "61", "--edges", "200", "--against", tmp_path / "peak.json")
    assert other.exit_code == 1
    assert "is of another graph" in str(other.exception) + other.output


def test_more_memory_than_before_is_an_error() -> None:
    peak.check({"gcn": 104.9}, {"gcn": 100.0, "sage3": 1.0})
    with pytest.raises(GraphshardError, match=r"grew by over 5 %: gcn: 106 MiB after 100"):
        peak.check({"gcn": 106.0}, {"gcn": 100.0})
    with pytest.raises(GraphshardError, match="the peak of sage3 was not measured before"):
        peak.check({"sage3": 1.0}, {"gcn": 100.0})


def test_kernels(tmp_path: Path) -> None:
    done = bench("kernels", *SMALL, "--repeats", "1", "--threads", "1", "--out", tmp_path)
    assert done.exit_code == 0, done.output
    cases = json.loads((tmp_path / "kernels.json").read_text())["cases"]
    assert len(cases) == 8
    assert all(one["kernels"] > 0 and one["limit"] > 0 and one["literal"] > 0 for one in cases)
    assert (tmp_path / "kernels.svg").exists()


@pytest.mark.processes
def test_scaling(tmp_path: Path) -> None:
    done = bench("scaling", *SMALL, "--largest", "4", "--each", "150", "--out", tmp_path)
    assert done.exit_code == 0, done.output
    found = json.loads((tmp_path / "scaling.json").read_text())
    assert [row["parts"] for row in found["strong"]] == [2, 4]
    assert [row["edges"] for row in found["weak"]] == [300, 600]
    assert found["speeds"]["loopback"] > 0
    assert (tmp_path / "scaling.svg").exists()


@pytest.mark.processes
def test_small(tmp_path: Path) -> None:
    done = bench("small", "--models", "gcn", "--steps", "4", "--out", tmp_path)
    assert done.exit_code == 0, done.output
    found = json.loads((tmp_path / "small.json").read_text())
    assert (found["ranks"], found["steps"]) == (2, 4)
    one = found["graphs"]["karate"]["gcn"]
    low, high = one["quartiles"]
    assert 0 < low <= one["median"] <= high
    assert one["first"] > 0
    assert one["cpu"] > 0
    assert one["peak"] > one["before"] > 0
    assert one["loss"] == pytest.approx(0.69, abs=0.3)
    assert f"{one['median']:,.0f}" in done.output
    assert "<svg" in (tmp_path / "small.svg").read_text()


@pytest.mark.processes
@pytest.mark.parametrize(
    ("script", "options"),
    [
        ("small.py", ("--models", "sage", "--steps", "2")),
        ("compiling.py", ("--layers", "2", "--repeats", "1")),
    ],
)
def test_a_script_for_an_older_checkout_runs(script: str, options: tuple[str, ...]) -> None:
    """On whatever package Python finds first; it prints one JSON document and, elsewhere, the table."""
    done = subprocess.run(
        [sys.executable, ROOT / "tools" / "bench" / script, *options],
        env=os.environ | {"PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore"},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    if script == "small.py":
        assert found["graphs"]["karate"]["sage"]["median"] > 0
    else:
        assert list(found["models"]) == ["gcn 2", "sage 2", "gat 2"]
    assert "sage" in done.stderr


@pytest.mark.processes
def test_border(tmp_path: Path) -> None:
    options = ("--models", "gcn", "--steps", "2", "--rows", "100", "--columns", "3")
    done = bench("border", "karate", *options, "--out", tmp_path)
    assert done.exit_code == 0, done.output
    found = json.loads((tmp_path / "border.json").read_text())
    cost = found["models"]["gcn"]
    assert min(cost["local"], cost["shard"], cost["whole"], cost["peak"]) > 0
    assert cost["losses"] == pytest.approx([cost["losses"][0]] * 3, rel=1e-5)
    assert found["gather"]["rows"] == 100
    assert found["gather"]["forward"] > 0 < found["gather"]["backward"]


@pytest.mark.processes
def test_exchange(tmp_path: Path) -> None:
    options = ("--models", "sage", "--turns", "1", "--parts", "3", "--ranks", "2")
    done = bench("exchange", "karate", *SMALL, *options, "--out", tmp_path)
    assert done.exit_code == 0, done.output
    found = json.loads((tmp_path / "exchange.json").read_text())
    assert list(found["graphs"]) == ["power law", "mesh", "radius", "karate"]
    for graph in found["graphs"].values():
        (row,) = graph["rows"]
        assert row["sums"] <= row["sent"] <= row["raw"]
        assert row["largest_sent"] <= row["largest_raw"]
    raw, mixed = found["steps"]["sage"].values()
    assert mixed["sent"] < raw["sent"]
    assert mixed["loss"] == pytest.approx(raw["loss"], rel=1e-6)


def test_compile(tmp_path: Path) -> None:
    done = bench("compile", "--models", "sage", "--layers", "2,3", "--repeats", "1", "--out", tmp_path)
    assert done.exit_code == 0, done.output
    found = json.loads((tmp_path / "compile.json").read_text())["models"]
    assert list(found) == ["sage 2", "sage 3"]
    names = [step.name for step in Options().all_passes()]
    for one in found.values():
        assert list(one["own"]) == list(one["upkeep"]) == names
        assert one["capture"] > 0
        parts = sum(one["own"].values()) + sum(one["upkeep"].values())
        assert 0 < parts <= one["passes"]
    assert found["sage 3"]["captured"] > found["sage 2"]["captured"]
    assert all(f"\n{name} " in done.output for name in names)
    assert "<svg" in (tmp_path / "compile.svg").read_text()


def test_a_timed_pass_is_the_pass_in_all_else() -> None:
    step = Options().all_passes()[0]
    timed = _Timed(step)
    assert timed.name == step.name
    with pytest.raises(AttributeError):
        timed.no_such_name  # noqa: B018


def test_a_cut_counts_what_a_partition_has() -> None:
    """Against the shards themselves."""
    import graphshard

    edges = power_law_graph(Shape(nodes=300, edges=2400, community=50))
    counted = cut(edges, 300, 3)
    shards = graphshard.partition({"edge_index": edges, "x": torch.zeros(300, 1)}, 3)
    halo = [sum(shard.halo.recv_splits) for shard in shards]
    sent = [sum(shard.halo.send_splits) for shard in shards]
    assert counted.halo == sum(halo)
    assert counted.busiest == max(*halo, *sent)
    assert counted.largest_nodes == max(shard.num_owned for shard in shards)
    assert counted.largest_edges == max(local(shard.edge_index).size(1) for shard in shards)
    assert counted.sent_bytes == 2 * counted.busiest * CLASSES * 4
    slow, fast = Speeds(1e-6, 0.0, 1.0), Speeds(1e-9, 0.0, 1.0)
    assert counted.predicted(slow, 1e9) > counted.predicted(fast, 1e9) > counted.predicted(fast, 1e12)


def test_unknown_models_are_wrong_usage() -> None:
    assert bench("systems", "--models", "gnn").exit_code == 2


def test_meshes_and_radius_graphs_join_what_is_near() -> None:
    index, at = mesh_graph(120, seed=1)
    assert at.shape == (100, 2)
    assert index.shape == (2, 2 * (2 * 90 + 81))
    assert float((at[index[0]] - at[index[1]]).abs().max()) < 1.7
    index, at = radius_graph(400, seed=1, neighbours=12)
    near = torch.cdist(at, at) <= (13 / (400 * 4.18879)) ** (1 / 3)
    near.fill_diagonal_(False)
    assert torch.equal(
        torch.zeros(400, 400, dtype=torch.bool).index_put(tuple(index), torch.tensor(True)), near
    )
    assert index.size(1) == int(near.sum())


@pytest.mark.processes
def test_partition(tmp_path: Path) -> None:
    np.savez(tmp_path / "own.npz", edge_index=np.array([[0, 1, 2, 3], [1, 2, 3, 0]]), x=np.zeros((5, 1)))
    options = ("--graphs", "mesh", "--data", tmp_path / "own.npz", "--parts", "2", "--methods", "metis,rcb")
    done = bench("partition", *SMALL, *options, "--out", tmp_path)
    assert done.exit_code == 0, done.output
    found = json.loads((tmp_path / "partition.json").read_text())["cuts"]
    assert [(one["graph"], one["method"]) for one in found] == [
        ("mesh", "metis"),
        ("mesh", "rcb"),
        ("own", "metis"),
    ]
    assert all(one["halo"] > 0 and one["busiest"] == one["halo"] and one["seconds"] > 0 for one in found)
    assert "<svg" in (tmp_path / "partition.svg").read_text()


def test_counts_are_those_of_shards() -> None:
    import graphshard

    index = power_law_graph(Shape(300, 2000, 30))
    shards = graphshard.partition({"edge_index": index, "x": torch.zeros(300, 1)}, 4)
    found, report = counts(index, shards.assignment, 4), shards.report
    assert (found["halo"], found["busiest"]) == (report.halo_nodes, report.busiest)
    assert found["balance"] == pytest.approx(report.edge_balance)
