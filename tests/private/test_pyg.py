"""What ``graphshard.private.pyg`` relies on."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from support.repository import ROOT

from graphshard.private import pyg

torch_geometric = pytest.importorskip("torch_geometric")

from torch_geometric.data import Data, HeteroData  # noqa: E402
from torch_geometric.nn import GCNConv, HeteroLinear, HGTConv  # noqa: E402

pytestmark = pytest.mark.versions

RELATION = ("a", "to", "b")


def hetero() -> HeteroData:
    data = HeteroData()
    data["a"].x, data["b"].x = torch.ones(3, 4), torch.ones(2, 4)
    data[RELATION].edge_index = torch.zeros(2, 5, dtype=torch.int64)
    data.name = "whole"
    return data


def test_a_store_knows_its_node_type_or_edge_type() -> None:
    """``BaseStorage._key`` is the type, and None for what belongs to the whole ``HeteroData``."""
    keys = [pyg.store_key(store) for store in hetero().stores]
    assert keys == [None, "a", "b", RELATION]


def test_data_is_told_by_the_names_of_its_classes() -> None:
    """``HeteroData`` is called so, ``Data`` is not one."""
    assert pyg.is_hetero_data(hetero())
    assert not pyg.is_hetero_data(Data())
    assert not pyg.is_sparse_tensor(torch.eye(2).to_sparse())


def test_the_attributes_of_data_are_its_classes() -> None:
    """What a ``Data`` or ``HeteroData`` answers beside its tensors."""
    names = pyg.data_attributes()
    assert {"num_nodes", "is_undirected", "to", "metadata", "x"} <= names
    assert not any(name.startswith("_") for name in names)


@pytest.mark.parametrize("data", [Data(x=torch.ones(2, 1), edge_index=torch.zeros(2, 1).long()), hetero()])
def test_data_is_saved_as_known_classes(data: object, tmp_path: Path) -> None:
    """``data_classes`` has every class that ``torch.save`` writes of a ``Data`` or a ``HeteroData``."""
    torch.save(data, tmp_path / "data.pt")
    with torch.serialization.safe_globals(pyg.data_classes()):
        assert type(torch.load(tmp_path / "data.pt", weights_only=True)) is type(data)


def test_layers_count_with_globals_of_their_modules() -> None:
    """``int`` set in ``torch_geometric.utils.num_nodes`` is what PyG calls for the number of nodes."""
    modules, seen = pyg.loaded_modules(), []
    assert all(name.split(".")[0] == "torch_geometric" for name in modules)
    module = modules["torch_geometric.utils.num_nodes"]

    def counted(value: object) -> int:
        seen.append(value)
        return int(value)  # type: ignore[call-overload]

    module.int = counted  # type: ignore[attr-defined]
    try:
        module.maybe_num_nodes(torch.tensor([[0, 4], [1, 1]]))
    finally:
        del module.int  # type: ignore[attr-defined]
    assert seen, "PyG reads the number of nodes in another way"


def test_layers_stand_in_known_modules_and_can_be_replaced() -> None:
    """``HeteroLinear`` and ``HGTConv`` are the classes that users have, and their ``forward`` can be set."""
    layer = HeteroLinear(2, 3, num_types=2)
    x, kinds = torch.ones(4, 2), torch.tensor([0, 1, 0, 1])
    assert (layer.num_types, layer.out_channels, tuple(layer.weight.shape)) == (2, 3, (2, 2, 3))
    hgt = HGTConv(4, 6, hetero().metadata(), heads=2)
    forwards = {"HeteroLinear": lambda *_: "linear", "HGTConv": lambda *_: "hgt"}
    with pyg.replaced_layers(**forwards):
        assert layer(x, kinds) == "linear"
        assert hgt({}, {}) == "hgt"
    assert layer(x, kinds).shape == (4, 3)


def test_grouped_products_can_be_turned_off() -> None:
    """``torch_geometric.backend.use_segment_matmul`` is what a layer asks, and is given back."""
    before = torch_geometric.backend.use_segment_matmul
    with pyg.without_segment_matmul():
        assert torch_geometric.backend.use_segment_matmul is False
    assert torch_geometric.backend.use_segment_matmul is before


def test_the_parts_of_an_hgt_conv_are_where_they_were() -> None:
    """Its weights lie by head, then by type of edge; the rest by type. tests/exact has the whole formula."""
    data = hetero()
    hgt = pyg.hgt_of(HGTConv(4, 6, data.metadata(), heads=2))
    assert (hgt.heads, hgt.width, dict(hgt.edge_types)) == (2, 3, {RELATION: 0})
    assert hgt.targets == {"b"}
    assert tuple(hgt.keys.shape) == tuple(hgt.values.shape) == (2, 3, 3)
    assert tuple(hgt.kqv({"a": data["a"].x})["a"].shape) == (3, 18)
    assert tuple(hgt.out({"b": torch.ones(2, 6)})["b"].shape) == (2, 6)
    assert tuple(hgt.priority(RELATION).shape) == (1, 2)
    assert set(hgt.skip.keys()) == {"a", "b"}


def test_softmax_is_over_the_entries_of_an_index() -> None:
    GCNConv(2, 2)
    shares = pyg.softmax(torch.zeros(3), torch.tensor([0, 0, 1]), 2)
    assert shares.tolist() == pytest.approx([0.5, 0.5, 1.0])


def test_pyg_is_not_imported_by_this_folder() -> None:
    """A Python without PyG has none of its modules, classes or layers, and nothing fails."""
    program = (
        "import sys; sys.modules['torch_geometric'] = None\n"
        "from graphshard.private import pyg\n"
        "with pyg.replaced_layers(HGTConv=len), pyg.without_segment_matmul():\n"
        "    print(pyg.import_pyg('torch_geometric.data'), pyg.data_classes(), pyg.loaded_modules())\n"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False
    )
    assert done.stdout.split() == ["None", "[]", "{}"], done.stderr
