"""Pickles of arrays: the numbers that numpy and scipy wrote, and nothing that a pickle asks to run."""

from __future__ import annotations

import os
import pickle
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphshard.errors import DataError
from graphshard.tools.data.array_pickle import read_array, read_neighbours
from graphshard.tools.data.sources import load_data

PROTOCOLS = range(pickle.HIGHEST_PROTOCOL + 1)


def written(path: Path, content: Any, protocol: int = 2) -> Path:
    file = path / "ind.cora.x"
    file.write_bytes(pickle.dumps(content, protocol))
    return file


@pytest.mark.parametrize("protocol", PROTOCOLS[2:])
@pytest.mark.parametrize("dtype", ["f4", ">f8", "i4", "u1", "?"])
def test_numbers_come_as_they_were_written(tmp_path: Path, protocol: int, dtype: str) -> None:
    array = np.arange(12).reshape(3, 4).astype(dtype)
    for content in (array, np.asfortranarray(array)):
        np.testing.assert_array_equal(read_array(written(tmp_path, content, protocol)), array)
    graph = defaultdict(list, {0: [1, 2], 2: []})
    assert read_neighbours(written(tmp_path, graph, protocol)) == graph


@pytest.mark.parametrize("protocol", PROTOCOLS[2:])
def test_sparse_matrices_come_dense(tmp_path: Path, protocol: int) -> None:
    sparse = pytest.importorskip("scipy.sparse")
    matrix = sparse.random(5, 7, 0.4, format="csr", random_state=0)
    np.testing.assert_array_equal(
        read_array(written(tmp_path, matrix, protocol)), np.asarray(matrix.todense())
    )
    matrix.indices[0] = 1000  # scipy would write there
    with pytest.raises(DataError, match=r"ind\.cora\.x is damaged.*7 columns and an entry outside"):
        read_array(written(tmp_path, matrix, protocol))


class Runs:
    """What a file may ask for."""

    def __init__(self, function: Any, *args: Any) -> None:
        self.asked = function, args

    def __reduce__(self) -> Any:
        return self.asked


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("function", [os.system, eval, getattr, np.load, np.memmap, pickle.loads])
def test_nothing_is_run(tmp_path: Path, function: Any, protocol: int) -> None:
    flag = tmp_path / "ran"
    with pytest.raises(DataError, match=rf"ind\.cora\.x asks for \w+\.{function.__name__}, which could"):
        read_array(written(tmp_path, Runs(function, f"touch {flag}"), protocol))
    assert not flag.exists()


def test_one_file_cannot_change_what_the_next_one_meets(tmp_path: Path) -> None:
    # numpy.ndarray, then BUILD with a state that sets an attribute of it
    file = tmp_path / "ind.cora.x"
    file.write_bytes(b"\x80\x02cnumpy\nndarray\nN}X\x05\x00\x00\x00denseNs\x86b.")
    with pytest.raises(DataError, match="damaged"):
        read_array(file)
    np.testing.assert_array_equal(read_array(written(tmp_path, np.ones(3))), np.ones(3))


def test_a_planetoid_folder_with_code_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("torch_geometric.io")
    raw = tmp_path / "Cora" / "raw"
    raw.mkdir(parents=True)
    for part in ("x", "tx", "allx", "y", "ty", "ally", "graph"):
        (raw / f"ind.cora.{part}").write_bytes(pickle.dumps(Runs(os.system, f"touch {tmp_path}/ran")))
    (raw / "ind.cora.test.index").write_text("0\n")
    with pytest.raises(DataError, match=r"ind\.cora\.x asks for (posix|nt)\.system"):
        load_data(f"planetoid:Cora?root={tmp_path}")
    assert not (tmp_path / "ran").exists()


@given(st.data())
@settings(max_examples=300, deadline=None)
def test_damage_is_one_sentence(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    whole = bytearray(pickle.dumps(np.arange(20.0).reshape(4, 5), data.draw(st.sampled_from(PROTOCOLS[2:]))))
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    file = tmp_path_factory.getbasetemp() / "ind.damaged.x"
    file.write_bytes(whole[: data.draw(st.integers(0, len(whole)))])
    said, found = "", np.zeros(1)
    try:
        found = read_array(file)
    except DataError as error:
        said = str(error)
    assert "\n" not in said
    assert found.dtype.kind in "biuf"
