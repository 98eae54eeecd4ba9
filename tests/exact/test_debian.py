"""The graph of Debian packages by kind of dependency: trained by 2 processes as on one machine.

Skipped where the data is absent: an ``.npz`` with ``x``, ``edge_index``, ``edge_type`` (depends, recommends,
suggests), ``y`` (the section of the archive) and ``split``, named by GRAPHSHARD_DEBIAN or in ``shared/data``.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from support.launch_jobs import train_typed
from support.repository import SHARED_DATA
from support.typed_models import DEPENDENCIES, Sections

import graphshard
from graphshard.ranks.launch import launch
from graphshard.tools.training.loop import Recipe, train_eagerly

pyg = pytest.importorskip("torch_geometric.data")
SHARED = SHARED_DATA / "debian_packages.npz"
DATA = Path(os.environ.get("GRAPHSHARD_DEBIAN", SHARED))
RECIPE = Recipe(epochs=2, lr=0.01)


def packages(limit: int) -> object:
    """One node type, three edge types; the first ``limit`` packages and the edges among them."""
    with np.load(DATA, allow_pickle=False) as archive:
        arrays = {name: archive[name] for name in ("x", "edge_index", "edge_type", "y", "split")}
    data = pyg.HeteroData()
    data["package"].x = torch.from_numpy(arrays["x"][:limit]).double()
    data["package"].y = torch.from_numpy(arrays["y"][:limit]).long()
    data["package"].train_mask = torch.from_numpy(arrays["split"][:limit] == 0)
    edges, kinds = torch.from_numpy(arrays["edge_index"]).long(), torch.from_numpy(arrays["edge_type"])
    inside = (edges < limit).all(dim=0)
    for number, kind in enumerate(DEPENDENCIES):
        data[kind].edge_index = edges[:, inside & (kinds == number)]
    return data


@pytest.mark.processes
def test_two_processes_train_as_one_machine(tmp_path: Path) -> None:
    if not DATA.is_file():
        pytest.skip(f"no data at {DATA}")
    data = packages(2000)
    shards = graphshard.partition(data, 2)
    assert all(shard.edge_sets["__".join(kind)].num_edges for shard in shards for kind in DEPENDENCIES)
    shards.save(tmp_path / "parts")
    torch.manual_seed(0)
    model = Sections().double()
    torch.save(model.state_dict(), tmp_path / "state.pt")
    found = launch(train_typed, 2, (str(tmp_path), RECIPE), timeout=120)[0]
    expected = train_eagerly(model, graphshard.partition(data, 1)[0], RECIPE)
    assert found.losses == pytest.approx(expected.losses, rel=1e-9)
    assert found.epochs[-1].accuracy == expected.epochs[-1].accuracy
    for name, value in expected.final.items():
        torch.testing.assert_close(found.final[name], value, rtol=1e-7, atol=1e-9)
