"""Shards whose checksums are right and whose content is not: refused in a sentence, never computed with."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor

import graphshard
from graphshard.shard_manifest import manifest_checksum

Manifest = dict[str, Any]


def graph() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "x": torch.rand(30, 3, generator=generator),
        "edge_index": torch.randint(0, 30, (2, 90), generator=generator),
        "edge_weight": torch.rand(90, generator=generator),
        "y": torch.randint(0, 3, (30,), generator=generator),
    }


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shards") / "good"
    roles = {"edge_weight": "edge"}
    graphshard.partition(graph(), 2, roles=roles).save(folder)
    return folder


def signed(folder: Path, manifest: Manifest) -> None:
    """The manifest with a checksum that fits, as anyone can make it."""
    manifest["sha256"] = manifest_checksum(manifest)
    (folder / "manifest.json").write_text(json.dumps(manifest))


def forged(good: Path, folder: Path, key: str, change: Callable[[Tensor], Tensor]) -> Path:
    """A copy of the set with one tensor of rank 0 changed, and every checksum made anew."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(good, folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    entry = manifest["ranks"][0]
    file = folder / entry["file"]
    tensors = {name: value.clone() for name, value in load_file(file).items()}
    tensors[key] = change(tensors[key]).contiguous()
    save_file(tensors, file)
    entry.update(size=file.stat().st_size, sha256=hashlib.sha256(file.read_bytes()).hexdigest())
    signed(folder, manifest)
    return folder


def refusal(folder: Path) -> str:
    with pytest.raises(graphshard.ShardError) as raised:
        graphshard.load_shard(folder, 0, 2)
    assert "\n" not in str(raised.value)
    return str(raised.value)


def test_an_honest_set_is_read(good: Path, tmp_path: Path) -> None:
    folder = forged(good, tmp_path / "same", "tensor.y", lambda v: v)
    assert graphshard.load_shard(folder, 0, 2).y.numel() == graphshard.load_shard(good, 0, 2).y.numel()


FORGERIES: dict[str, tuple[str, Callable[[Tensor], Tensor], str]] = {
    "a label too few": ("tensor.y", lambda v: v[:-1], "tensor 'y' has"),
    "features of no rows": ("tensor.x", lambda v: v[0, 0], "tensor 'x' has None rows"),
    "a weight too many": ("tensor.edge_weight", lambda v: torch.cat([v, v[:1]]), "tensor 'edge_weight' has"),
    "an edge from beyond the halo": (
        "tensor.edge_index",
        lambda v: v + torch.tensor([[1000], [0]]),
        "a source in",
    ),
    "an edge from before the rows": (
        "tensor.edge_index",
        lambda v: v - torch.tensor([[1000], [0]]),
        "a source in",
    ),
    "an edge that ends in no owned node": (
        "tensor.edge_index",
        lambda v: torch.stack([v[0], v[1] + 15]),
        "a destination in",
    ),
    "edges of three ends": ("tensor.edge_index", lambda v: torch.cat([v, v[:1]]), "not int64 [2, "),
    "edges as floats": ("tensor.edge_index", lambda v: v.float(), "is float32 of shape"),
    "edges as int32": ("tensor.edge_index", lambda v: v.int(), "is int32 of shape"),
    "a node twice": ("nodes.0.0.ids", lambda v: torch.cat([v[:-1], v[:1]]), "holds a node twice"),
    "owned nodes out of order": (
        "nodes.0.0.ids",
        lambda v: torch.cat([v[1:2], v[:1], v[2:]]),
        "do not ascend",
    ),
    "a node beyond the graph": ("nodes.0.0.ids", lambda v: v + 10**9, "outside of 0..29"),
    "edge ids missing": ("edges.0.ids", lambda v: v[:-3], "tensor 'edge_index' is"),
    "an edge twice": ("edges.0.ids", lambda v: torch.cat([v[:1], v[:-1]]), "do not ascend"),
    "rows to send that are not owned": ("nodes.0.0.send_index", lambda v: v + 1000, "the send_index of"),
    "a negative count": ("nodes.0.0.recv_splits", lambda v: v - 100, "negative number"),
    "counts of three ranks": (
        "nodes.0.0.send_splits",
        lambda v: torch.cat([v, v[:1] * 0]),
        "of 3 ranks, not 2",
    ),
    "rows for itself": ("nodes.0.0.send_splits", lambda v: v.flip(0), "to its own rank"),
    "another partition": ("partition_id", lambda v: v.flip(0), "another partition"),
}


@pytest.mark.parametrize("name", FORGERIES)
def test_a_forged_tensor_is_refused(good: Path, tmp_path: Path, name: str) -> None:
    key, change, said = FORGERIES[name]
    assert said in refusal(forged(good, tmp_path / "bad", key, change))


@pytest.mark.parametrize("file", ["../outside.safetensors", "/etc/passwd", "..", "", 3, None])
def test_a_manifest_names_no_file_elsewhere(good: Path, tmp_path: Path, file: object) -> None:
    folder = tmp_path / "parts"
    shutil.copytree(good, folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    shutil.copy(folder / manifest["ranks"][0]["file"], tmp_path / "outside.safetensors")
    manifest["ranks"][0]["file"] = file
    signed(folder, manifest)
    assert "not in that directory" in refusal(folder)


def test_a_link_out_of_the_directory_is_no_rank_file(good: Path, tmp_path: Path) -> None:
    folder = tmp_path / "parts"
    shutil.copytree(good, folder)
    file = folder / json.loads((folder / "manifest.json").read_text())["ranks"][0]["file"]
    file.rename(tmp_path / "outside")
    file.symlink_to(tmp_path / "outside")
    assert "link to a file outside" in refusal(folder)


@pytest.mark.parametrize("change", [{"world_size": "2"}, {"ranks": []}, {"ranks": [1, 2]}, {"world_size": 3}])
def test_a_manifest_without_its_ranks_is_refused(good: Path, tmp_path: Path, change: Manifest) -> None:
    folder = tmp_path / "parts"
    shutil.copytree(good, folder)
    signed(folder, json.loads((folder / "manifest.json").read_text()) | change)
    assert "which file is of which rank" in refusal(folder)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_whatever_is_changed_is_refused_or_harmless(good: Path, tmp_path: Path, data: st.DataObject) -> None:
    """Numbers in any index, count or id, replaced by others: an error in one sentence, or a shard that is whole."""
    first = json.loads((good / "manifest.json").read_text())["ranks"][0]["file"]
    honest = load_file(good / first)
    keys = sorted(k for k, v in honest.items() if v.dtype == torch.int64 and v.numel())
    key = data.draw(st.sampled_from(keys))
    place = data.draw(st.integers(0, honest[key].numel() - 1))
    number = data.draw(st.integers(-(2**63), 2**63 - 1) | st.integers(-3, 40))

    def change(value: Tensor) -> Tensor:
        flat = value.flatten().clone()
        flat[place] = number
        return flat.view(value.shape)

    folder = forged(good, tmp_path / "random", key, change)
    try:
        shard = graphshard.load_shard(folder, 0, 2)
    except graphshard.ShardError:
        refusal(folder)
        return
    source, destination = shard.edge_index
    assert int(source.min()) >= 0
    assert int(source.max()) < shard.num_owned + shard.num_halo
    assert int(destination.min()) >= 0
    assert int(destination.max()) < shard.num_owned
    assert int(shard.halo.send_index.max()) < shard.num_owned
