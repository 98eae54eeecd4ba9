"""Graphs cut from files: the shards that memory would give, in little of it, and never half of them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

import graphshard
import graphshard.testing
from graphshard.errors import PartitionError, ShardError
from graphshard.partitioning import from_files as module
from graphshard.partitioning.from_files import partition_files
from graphshard.partitioning.partition import partition
from graphshard.shard.encoding import named
from graphshard.tools.bench.generate import Shape, power_law_graph

pytest.importorskip("numba")

ENOUGH = 8 << 30


def write(folder: Path, tensors: dict[str, Tensor], narrow: bool = True) -> Path:
    folder.mkdir()
    for name, value in tensors.items():
        array = value.numpy()
        np.save(folder / f"{name}.npy", array.astype(np.int32) if narrow and name == "edge_index" else array)
    return folder


def some_graph(nodes: int = 400, edges: int = 3000) -> dict[str, Tensor]:
    """In the order of the files' names. Self loops and parallel edges too."""
    random = torch.Generator().manual_seed(1)
    index = torch.cat(
        [power_law_graph(Shape(nodes, edges, 40)), torch.randint(nodes, (2, 50), generator=random)], 1
    )
    return {
        "edge_attr": torch.rand(index.size(1), 3, generator=random),
        "edge_index": index,
        "mask": torch.rand(nodes, generator=random) < 0.5,
        "scale": torch.tensor(2.5, dtype=torch.float64),
        "x": torch.rand(nodes, 5, generator=random, dtype=torch.float64),
        "y": torch.randint(4, (nodes,), generator=random),
    }


def assert_same_shards(folder: Path, shards: Any) -> None:
    for rank, expected in enumerate(shards):
        found = graphshard.load_shard(folder, rank, len(shards))
        assert found.members == expected.members
        assert found.partition_id == expected.partition_id
        one, other = named(found), named(expected)
        assert list(one) == list(other)
        for name, value in one.items():
            assert value.dtype == other[name].dtype
            assert torch.equal(value, other[name]), (rank, name)


@pytest.mark.parametrize("narrow", [True, False])
def test_shards_are_those_that_memory_gives(
    tmp_path: Path, narrow: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    tensors = some_graph()
    folder = write(tmp_path / "graph", tensors, narrow)
    monkeypatch.setattr(module, "_EDGES_AT_ONCE", 100)
    monkeypatch.setattr(module._Job, "_room", lambda job, memory: 24 * 500)  # several buckets and blocks
    monkeypatch.setattr(module.multilevel, "_check_room", lambda *_: None)
    told: list[str] = []
    report = partition_files(
        folder, 3, tmp_path / "parts", memory=ENOUGH, seed=5, progress=lambda step, share: told.append(step)
    )
    expected = partition(tensors, 3, method="multilevel", seed=5)
    assert_same_shards(tmp_path / "parts", expected)
    measured = {"seconds": 0.0, "peak_memory": None}
    assert report.as_dict() | measured == expected.report.as_dict() | measured
    assert not (tmp_path / ".parts.unfinished").exists()
    (tmp_path / "there").mkdir()
    monkeypatch.chdir(tmp_path / "there")
    partition_files(folder, 3, ".", memory=ENOUGH, seed=5)
    assert_same_shards(Path(), expected)
    assert len(list(Path().iterdir())) == 4
    assert {"reading edges", "refining the cut", "writing shards"} <= set(told)


@settings(max_examples=15, deadline=None)
@given(st.data())
def test_any_graph_can_be_cut_from_files(data: st.DataObject) -> None:
    """Without edges, with isolated nodes, into more parts than nodes."""
    import tempfile

    nodes, parts = data.draw(st.integers(3, 14)), data.draw(st.integers(1, 16))
    pairs = data.draw(st.lists(st.tuples(*[st.integers(0, nodes - 1)] * 2), max_size=40))
    index = torch.tensor(pairs, dtype=torch.int64).view(-1, 2).T.contiguous()
    tensors, roles = {"edge_index": index, "x": torch.rand(nodes, 2)}, {"x": "node"}
    with tempfile.TemporaryDirectory() as scratch:
        folder = write(Path(scratch) / "graph", tensors)
        out = Path(scratch) / "parts"
        partition_files(folder, parts, out, memory=ENOUGH, roles=roles, num_nodes=nodes)
        expected = partition(tensors, parts, method="multilevel", roles=roles, num_nodes=nodes)  # type: ignore[arg-type]
        assert_same_shards(out, expected)


class Killed(BaseException):
    """Ends a run wherever it is, as a signal would."""


def test_a_killed_run_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tensors = some_graph()
    folder, out = write(tmp_path / "graph", tensors), tmp_path / "parts"
    ran: list[str] = []
    step = module.Work.step

    def recorded(work: module.Work, name: str, run: Any) -> Any:
        def noted() -> Any:
            ran.append(name)
            return run()

        return step(work, name, noted)

    monkeypatch.setattr(module.Work, "step", recorded)
    # Killed in the middle of each step, and behind it, before anybody has heard that it is done.
    for at in ("degrees", "buckets", "rows", "refined", "by part", "halo 1", "rank 1"):
        for behind in (False, True):

            def dying(work: module.Work, name: str, run: Any, at: str = at, behind: bool = behind) -> Any:
                def die() -> Any:
                    if behind:
                        run()
                    raise Killed

                return recorded(work, name, die if name == at else run)

            with monkeypatch.context() as patch:
                patch.setattr(module.Work, "step", dying)
                with pytest.raises(Killed):
                    partition_files(folder, 3, out, memory=ENOUGH)
            assert not out.exists()
    ran.clear()
    partition_files(folder, 3, out, memory=ENOUGH)
    assert ran == ["rank 1", "rank 2"]
    assert_same_shards(out, partition(tensors, 3, method="multilevel"))


def test_unfinished_work_on_something_else_is_not_gone_on_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, out = write(tmp_path / "graph", some_graph()), tmp_path / "parts"

    def killed(*_: Any) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(module._Job, "_join", killed)
        with pytest.raises(Killed):
            partition_files(folder, 3, out, memory=ENOUGH)
    with pytest.raises(PartitionError, match="unfinished work with other parts and seed: remove it"):
        partition_files(folder, 2, out, memory=ENOUGH, seed=1)
    np.save(folder / "y.npy", np.zeros(400))
    with pytest.raises(PartitionError, match="unfinished work with other files"):
        partition_files(folder, 3, out, memory=ENOUGH)
    (tmp_path / ".parts.unfinished" / "state.json").write_text("{")
    with pytest.raises(PartitionError, match="is damaged"):
        partition_files(folder, 3, out, memory=ENOUGH)


BAD: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    ({"edge_index": np.zeros((5, 2), np.int64)}, {}, r"must be int32 or int64 \[2, E\], not int64 \[5, 2\]"),
    ({"edge_index": np.zeros((2, 5))}, {}, "must be int32 or int64"),
    ({"edge_index": np.array([[0, -1], [1, 0]])}, {}, "holds -1: numbers of nodes begin at 0"),
    ({"edge_index": np.zeros((5, 2), np.int32).T}, {}, "columns one after the other: save it as np.ascont"),
    ({"edge_index": np.array([[0, 7], [1, 0]]), "x": np.zeros((4, 1))}, {}, "name nodes up to 7"),
    ({"y": np.zeros(3)}, {}, "holds no graph: it needs edge_index.npy"),
    ({"x": np.array(["a"] * 4)}, {}, "which is no dtype of torch"),
    ({"pairs": np.zeros((2, 9), np.int64)}, {}, "'pairs' has the role 'pairs:pairs', which cannot be cut"),
    ({"seeds": np.array([1, 2])}, {}, "'seeds' .* may hold numbers of nodes"),
    ({}, {"num_parts": 0}, "num_parts must be at least 1"),
    ({}, {"memory": 1000}, "cutting 4 nodes from files takes"),
]


@pytest.mark.parametrize(("arrays", "settings", "message"), BAD)
def test_what_cannot_be_cut_is_said(
    tmp_path: Path, arrays: dict[str, Any], settings: dict[str, Any], message: str
) -> None:
    folder = tmp_path / "graph"
    folder.mkdir()
    whole = {"edge_index": np.array([[0, 1, 2, 3, 0], [1, 2, 3, 0, 2]]), "x": np.zeros((4, 3))}
    for name, array in (arrays if "y" in arrays else whole | arrays).items():
        np.save(folder / f"{name}.npy", array)
    asked: dict[str, Any] = {"num_parts": 2, "out": tmp_path / "parts", "memory": ENOUGH}
    with pytest.raises(PartitionError, match=message):
        partition_files(folder, **asked | settings)
    for name, array in whole.items():  # mended, it is cut: what was refused is no unfinished work
        np.save(folder / f"{name}.npy", array)
    for name in arrays.keys() - whole.keys():
        (folder / f"{name}.npy").unlink()
    partition_files(folder, 2, tmp_path / "parts", memory=ENOUGH)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "letter").touch()
    with pytest.raises(ShardError, match="holds no shards"):
        partition_files(folder, 2, tmp_path / "full", memory=ENOUGH)


def test_an_older_set_stays_until_the_new_one_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tensors = some_graph()
    folder, out = write(tmp_path / "graph", tensors), tmp_path / "parts"
    older = partition(tensors, 2)
    older.save(out)

    def killed(*_: Any) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(module, "about_all_ranks", killed)
        with pytest.raises(Killed):
            partition_files(folder, 3, out, memory=ENOUGH)
    assert_same_shards(out, older)
    partition_files(folder, 3, out, memory=ENOUGH)
    assert_same_shards(out, partition(tensors, 3, method="multilevel"))
    assert json.loads((out / "manifest.json").read_text())["world_size"] == 3
    assert len(list(out.iterdir())) == 4


def test_shards_of_files_train_as_one_machine(tmp_path: Path) -> None:
    """A step on ranks that loaded them: the loss and the gradients of the single machine."""
    tensors = some_graph()
    folder, out = write(tmp_path / "graph", tensors), tmp_path / "parts"
    partition_files(folder, 3, out, memory=ENOUGH)

    def step(model: nn.Module, data: Any) -> float:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for _ in range(3):
            optimizer.zero_grad()
            rows = model(data.x, data.edge_index, data.edge_attr)
            loss = F.cross_entropy(rows[data.mask], data.y[data.mask])
            loss.backward()
            optimizer.step()
        return float(loss.detach())

    def rank(number: int, name: str, group: Any) -> tuple[float, list[Tensor]]:
        torch.manual_seed(0)
        model = graphshard.distribute(Mean().double(), group=group)
        return step(model, graphshard.load_shard(out, number, 3)), [p.detach() for p in model.parameters()]

    torch.manual_seed(0)
    whole = Mean().double()
    loss = step(whole, SimpleNamespace(**tensors))
    for found, parameters in graphshard.testing.run_ranks(3, rank, own_random=True):
        assert found == pytest.approx(loss, abs=1e-12)
        for mine, theirs in zip(parameters, whole.parameters(), strict=True):
            assert torch.allclose(mine, theirs, atol=1e-12)


class Mean(nn.Module):
    """Two layers of weighted sums over in-edges."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(5, 8), nn.Linear(8, 4)

    def forward(self, x: Tensor, edge_index: Tensor, edge_attr: Tensor) -> Tensor:
        weight = edge_attr.double().sum(1, keepdim=True)
        for layer in (self.first, self.second):
            rows = layer(x)
            x = torch.zeros_like(rows).index_add(0, edge_index[1], rows[edge_index[0]] * weight).tanh()
        return x


LIMITED = """
import json, re, sys
from graphshard.errors import PartitionError, ShardError
from graphshard.partitioning.from_files import partition_files
small, folder, out = sys.argv[1:]
partition_files(small, 4, out, num_nodes=500)  # what is compiled is not measured
for _ in range(3):  # what the process holds by now counts, and grows a little
    try:
        partition_files(folder, 4, out, memory=1)
    except PartitionError as error:
        least = int(re.findall(r"from files takes (\\d+) MiB", str(error))[0])
open("/proc/self/clear_refs", "w").write("5")  # the peak from here on
partition_files(folder, 4, out, memory=(least + 32) << 20)
high = re.search(r"VmHWM:\\s*(\\d+)", open("/proc/self/status").read())
print(json.dumps([least, int(high[1]) >> 10]))
"""


@pytest.mark.processes
def test_a_graph_larger_than_the_memory_is_cut(tmp_path: Path) -> None:
    """Four times what the process has beside its programs, by its own peak."""
    random = torch.Generator().manual_seed(0)
    reader = torch.randint(30_000, (2_000_000,), generator=random)
    source = (reader + torch.randint(300, (2_000_000,), generator=random)) % 30_000
    folder = write(tmp_path / "graph", {"edge_index": torch.stack([source, reader])}, narrow=False)
    np.save(folder / "x.npy", np.zeros((30_000, 1500), np.float32))
    ring = torch.stack([torch.arange(500), (torch.arange(500) + 1) % 500])
    small = write(tmp_path / "small", {"edge_index": ring}, narrow=False)
    command = [sys.executable, "-c", LIMITED, str(small), str(folder), str(tmp_path / "parts")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    least, peak = json.loads(done.stdout)
    assert peak <= least + 32
    size = sum(file.stat().st_size for file in folder.iterdir()) >> 20
    assert size >= 4 * (16 + 32)  # what is left for pieces of files, of that memory
