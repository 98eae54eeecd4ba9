"""Data sources of the command line: what they promise, and one clear sentence for what they cannot read."""

from __future__ import annotations

import io
import random
import re
import struct
import sys
import tempfile
import time
import zipfile
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from support.repository import SHARED_DATA

from graphshard.errors import DataError
from graphshard.graph.data import GraphData
from graphshard.partitioning.partition import partition
from graphshard.tools.data.sources import load_data

DATA = SHARED_DATA


def check(data: GraphData) -> None:
    """What every source promises."""
    nodes = data.num_nodes
    assert data.x.dtype == torch.float32
    assert data.x.size(0) == nodes
    assert data.edge_index.dtype == data.y.dtype == torch.int64
    assert int(data.y.min()) >= 0
    assert int(data.y.max()) < data.num_classes
    masks = [data[name] for name in ("train_mask", "val_mask", "test_mask")]
    assert all(mask.dtype == torch.bool and mask.shape == (nodes,) for mask in masks)
    assert int(torch.stack(masks).sum(0).max()) == 1
    assert bool(data.train_mask.any())
    assert bool(data.test_mask.any())


def is_symmetric(edges: torch.Tensor) -> bool:
    pairs = set(zip(*edges.tolist(), strict=True))
    return all((b, a) in pairs for a, b in pairs) and len(pairs) == edges.size(1)


def test_karate() -> None:
    data = load_data("karate")
    check(data)
    assert (data.num_nodes, data.edge_index.size(1), data.num_classes, data.name) == (34, 156, 2, "karate")
    assert is_symmetric(data.edge_index)
    assert data.y[data.train_mask].bincount().tolist() == [3, 3]
    with pytest.raises(AttributeError, match="no tensor 'edge_attr'; it has x, edge_index"):
        _ = data.edge_attr


def test_digits() -> None:
    pytest.importorskip("sklearn")
    data = load_data("digits:k=4")
    check(data)
    assert data.num_classes == 10
    assert is_symmetric(data.edge_index)
    assert load_data("digits").edge_index.size(1) > data.edge_index.size(1)


def test_digits_without_scikit_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(DataError, match=re.escape("pip install graphshard[digits]")):
        load_data("digits")


def test_sbm_has_the_promised_statistics() -> None:
    data = load_data("sbm:nodes=20000,degree=10,classes=5,features=3,homophily=0.7")
    check(data)
    assert data.x.shape == (20000, 3)
    assert data.edge_index.size(1) / 20000 == pytest.approx(10, rel=0.01)
    source, destination = data.edge_index
    assert float((data.y[source] == data.y[destination]).float().mean()) == pytest.approx(0.7, abs=0.01)
    assert is_symmetric(data.edge_index)
    again, other = load_data("sbm:nodes=50"), load_data("sbm:nodes=50,seed=1")
    assert torch.equal(again.edge_index, load_data("sbm:nodes=50").edge_index)
    assert not torch.equal(again.x, other.x)


def test_sbm_of_a_million_nodes_takes_seconds() -> None:
    start = time.perf_counter()
    data = load_data("sbm:nodes=1000000,degree=4,features=2")
    assert time.perf_counter() - start < 10
    assert data.num_nodes == 1_000_000


@pytest.mark.parametrize("spec", ["sbm:nodes=1,classes=1", "sbm:nodes=5,degree=0", "sbm:nodes=4,classes=1"])
def test_tiny_sbm(spec: str) -> None:
    assert load_data(spec).edge_index.size(0) == 2


def test_planetoid_reads_a_folder_in_place() -> None:
    pytest.importorskip("torch_geometric.io")
    if not (DATA / "planetoid").is_dir():
        pytest.skip(f"no real data at {DATA}")
    data = load_data(f"planetoid:Cora?root={DATA / 'planetoid'}")
    check(data)
    assert (data.num_nodes, data.edge_index.size(1), data.num_classes) == (2708, 10556, 7)
    assert [int(data[m].sum()) for m in ("train_mask", "val_mask", "test_mask")] == [140, 500, 1000]
    assert not (DATA / "planetoid" / "Cora" / "processed").exists()


def test_planetoid_errors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match=r"ind\.cora\.x is missing"):
        load_data(f"planetoid:Cora?root={tmp_path}")
    monkeypatch.setitem(sys.modules, "torch_geometric.io", None)
    with pytest.raises(DataError, match=re.escape("pip install graphshard[pyg]")):
        load_data(f"planetoid:Cora?root={tmp_path}")


def test_debian_packages() -> None:
    file = DATA / "debian_packages.npz"
    if not file.is_file():
        pytest.skip(f"no real data at {DATA}")
    data = load_data(str(file))
    check(data)
    assert (data.num_nodes, data.num_classes, data.x.size(1)) == (63666, 58, 128)
    assert data.edge_type.shape == (327136,)
    assert int(data.train_mask.sum()) == 38199
    assert partition(data, 3).report.edge_balance < 1.2


def arrays(**changes: Any) -> dict[str, Any]:
    good = {
        "x": np.ones((5, 2), dtype=np.float16),
        "edge_index": np.array([[0, 1, 2], [1, 2, 3]], dtype=np.int32),
        "y": np.array([0, 1, 2, 0, 1], dtype=np.int16),
    }
    return {key: value for key, value in (good | changes).items() if value is not None}


def write(path: Path, content: dict[str, Any]) -> str:
    np.savez(path / "g.npz", **content)
    return str(path / "g.npz")


def test_npz_defaults(tmp_path: Path) -> None:
    data = load_data(write(tmp_path, arrays(edge_weight=np.array([1.0, np.nan, 3.0]))))
    check(data)
    assert data.edge_weight.dtype == torch.float32
    assert [int(data[m].sum()) for m in ("train_mask", "val_mask", "test_mask")] == [3, 1, 1]
    assert torch.equal(data.train_mask, load_data(str(tmp_path / "g.npz")).train_mask)


def test_npz_features_from_degrees(tmp_path: Path) -> None:
    data = load_data(write(tmp_path, arrays(x=None)))
    assert torch.allclose(data.x[1].expm1(), torch.tensor([1.0, 1.0, np.e - 1]))
    assert torch.allclose(data.x[4].expm1(), torch.tensor([0.0, 0.0, np.e - 1]))


def test_npz_as_many_edges_as_nodes_is_not_ambiguous(tmp_path: Path) -> None:
    edges = np.array([[0, 1, 2, 3, 4], [1, 2, 3, 4, 0]])
    data = load_data(write(tmp_path, arrays(edge_index=edges, edge_attr=np.ones((5, 1)))))
    assert data.roles["edge_attr"].value == "edge"


BAD_ARRAYS = [
    (arrays(y=None), "has no 'y'; it has x, edge_index"),
    (arrays(edge_index=None), "has no 'edge_index'"),
    (arrays(x=np.array([[1.0], [2.0], [np.nan], [0.0], [0.0]])), "x of g holds NaN at row 2"),
    (arrays(x=np.ones(5)), r"x of g must be \[N, F\]"),
    (arrays(x=np.ones((4, 1))), "'y' has role 'node'.*4 rows"),
    (arrays(y=np.array([0, 1, -1, 0, 0])), "row 2 is -1"),
    (arrays(y=np.array([0, 1, 1.5, 0, 0])), "row 2 is 1.5"),
    (arrays(y=np.array([0, 1, np.nan, 0, 0])), "row 2 is nan"),
    (arrays(y=np.array([0, 1, 2, 0, 0]), classes=np.array(["a", "b"])), r"classes 0\.\.1, but row 2 is 2"),
    (arrays(y=np.zeros((5, 3))), "one class for each node"),
    (arrays(edge_index=np.array([[0], [7]])), r"edge_index\[1, 0\] is 7, but the graph has 5 nodes"),
    (arrays(edge_index=np.array([[0], [7]]), x=None), r"edge_index\[1, 0\] is 7"),
    (arrays(edge_index=np.array([[0.5], [1.0]])), r"edge_index of g must be integers \[2, E\]"),
    (arrays(split=np.array([0, 1, 2, 3, 0])), r"split of g must hold 0 \(train\)"),
    (arrays(edge_attr=np.ones(4)), "'edge_attr' has role 'edge'.*3 rows"),
    (arrays(y=np.array(list("abcde"))), "'y' in .* has dtype <U1"),
    (arrays(y=np.array([{}, 1, 2, 3, 4], dtype=object)), "cannot be read as arrays of numbers"),
]


@pytest.mark.parametrize(("content", "message"), BAD_ARRAYS, ids=[message[:35] for _, message in BAD_ARRAYS])
def test_bad_arrays_are_one_clear_sentence(tmp_path: Path, content: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        load_data(write(tmp_path, content))


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("cora", "no data source 'cora': use karate, digits, sbm, planetoid"),
        ("karate?seed=1", "no option 'seed': it takes none"),
        ("sbm:nodes=10,colour=2", "no option 'colour': known are nodes, degree, classes"),
        ("sbm:nodes=ten", "option 'nodes' of 'sbm:nodes=ten' must be of type int"),
        ("sbm:nodes", "'nodes' in 'sbm:nodes' is not of the form option=value"),
        ("sbm:nodes=2", "needs 1 <= classes <= nodes"),
        ("digits:k=0", r"'k' of digits must be in 1\.\.1796"),
        ("nowhere.npz", "there is no file nowhere.npz"),
        ("nowhere.pt", "there is no file nowhere.pt"),
        ("planetoid:Cora?dir=x", "no option 'dir': known are root"),
    ],
)
def test_bad_specs(spec: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        load_data(spec)


def test_torch_files(tmp_path: Path) -> None:
    pyg = pytest.importorskip("torch_geometric.data")
    tensors = {key: torch.from_numpy(value) for key, value in arrays().items()}
    file = tmp_path / "g.pt"
    for content in (tensors, pyg.Data(**tensors, edge_kind=torch.zeros(3), note="text")):
        torch.save(content, file)
        check(load_data(f"{file}?seed=4"))
    assert load_data(str(file)).roles["edge_kind"].value == "edge"
    torch.save([tensors], file)
    with pytest.raises(DataError, match="holds a list"):
        load_data(str(file))
    torch.save(3, file)
    with pytest.raises(DataError, match="holds a int, not a PyG Data"):
        load_data(str(file))
    hetero = pyg.HeteroData()
    hetero["paper"].x = torch.ones(2, 2)
    torch.save(hetero, file)
    with pytest.raises(DataError, match="the HeteroData has no edge type"):
        load_data(str(file))
    torch.save({**tensors, "options": Namespace(lr=0.1)}, file)
    with pytest.raises(DataError, match=r"argparse.Namespace, which could run code when read: .*\?trust=1"):
        load_data(str(file))
    check(load_data(f"{file}?trust=1&seed=4"))


def test_broken_files(tmp_path: Path) -> None:
    torch.save(torch.zeros(100), tmp_path / "g.pt")
    whole = (tmp_path / "g.pt").read_bytes()
    for content in (whole[:200], b"hello", b""):
        (tmp_path / "g.pt").write_bytes(content)
        with pytest.raises(DataError, match=r"cannot be read with torch\.load"):
            load_data(str(tmp_path / "g.pt"))
        (tmp_path / "g.npz").write_bytes(content)
        with pytest.raises(DataError, match=r"cannot be read|has no"):
            load_data(str(tmp_path / "g.npz"))


def _npy(content: bytes | np.ndarray) -> bytes:
    if isinstance(content, bytes):
        return content
    stream = io.BytesIO()
    np.save(stream, content)
    return stream.getvalue()


def _declaring(shape: tuple[int, ...]) -> bytes:
    """An array of which a file says that it is of this shape, and that is not there."""
    head = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}".encode()
    head += b" " * (63 - (len(head) + 10) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(head)) + head


def _broken_stream(archive: bytearray) -> None:
    at = archive.index(b"y.npy") + 5
    archive[at : at + 6] = b"\xff" * 6


def _central(offset: int, value: int) -> Callable[[bytearray], None]:
    def edit(archive: bytearray) -> None:
        archive[archive.index(b"PK\x01\x02") + offset] = value

    return edit


DAMAGED: dict[str, tuple[bytes | np.ndarray, Callable[[bytearray], None]]] = {
    "a broken stream": (np.zeros((2, 3), "f4"), _broken_stream),
    "encrypted": (np.zeros((2, 3), "f4"), _central(8, 1)),
    "an unknown compression": (np.zeros((2, 3), "f4"), _central(10, 99)),
    "80 TB": (_declaring((2, 10**13)), lambda _: None),
    "10 to the 30": (_declaring((2, 10**30)), lambda _: None),
    "no array": (b"hello", lambda _: None),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_npz_is_one_sentence(name: str, tmp_path: Path) -> None:
    content, edit = DAMAGED[name]
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for key, value in (
            ("edge_index", np.array([[0, 1], [1, 0]])),
            ("y", np.array([0, 1])),
            ("x", content),
        ):
            archive.writestr(f"{key}.npy", _npy(value))
    damaged = bytearray(stream.getvalue())
    edit(damaged)
    (tmp_path / "x.npz").write_bytes(damaged)
    with pytest.raises(DataError, match=r"x\.npz cannot be read as arrays of numbers: "):
        load_data(str(tmp_path / "x.npz"))


@pytest.mark.parametrize(
    ("place", "value", "why"), [(4, ord("i"), ".*differ"), (-14, 104, "the archive holds more than it lists")]
)
def test_an_array_that_is_not_listed_is_not_taken_for_missing(
    tmp_path: Path, place: int, value: int, why: str
) -> None:
    """The archive's list says ``x.npi``, or that the next array is a comment: then there would be other features."""
    graph = load_data("sbm:nodes=60,degree=4,features=4")
    file = tmp_path / "g.npz"
    np.savez(file, **{name: t.numpy() for name, t in graph.tensors.items()})  # type: ignore[arg-type]
    content = bytearray(file.read_bytes())
    content[content.rindex(b"x.npy" if place > 0 else b"val_mask.npy") + place] = value
    file.write_bytes(content)
    with pytest.raises(DataError, match=rf"g\.npz cannot be read as arrays of numbers: {why}"):
        load_data(str(file))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6))
@example(1636)  # the archive says that it goes on in another file
def test_a_bit_that_changed_in_a_pt_file_is_never_another_graph(seed: int) -> None:
    graph = load_data("sbm:nodes=60,degree=4,features=4")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "g.pt"
        torch.save(dict(graph.tensors), file)
        content = bytearray(file.read_bytes())
        place = random.Random(seed)
        content[place.randrange(len(content))] ^= 1 << place.randrange(8)
        file.write_bytes(content)
        try:
            found = load_data(str(file))
        except DataError:
            return
    assert all(torch.equal(found[name], graph[name]) for name in graph)
