"""Shards that somebody else wrote: whatever their files hold, a load gives a shard that fits together or one sentence.

Every checksum is made anew after the change, as anyone can.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from support.shard_cases import assert_same, sharded

from graphshard.errors import GraphshardError, ShardError
from graphshard.shard.checks import check_content, check_manifest
from graphshard.shard.encoding import named
from graphshard.shard.files import load_shard
from graphshard.shard.manifest import manifest_checksum

Tensors = dict[str, torch.Tensor]


def saved(folder: Path) -> Path:
    sharded(2).save(folder / "p")
    return folder / "p"


def sealed(folder: Path, manifest: dict[str, Any]) -> None:
    """Write a manifest with a checksum that fits."""
    manifest["sha256"] = manifest_checksum(manifest)
    (folder / "manifest.json").write_text(json.dumps(manifest))


def manifest_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "manifest.json").read_text())  # type: ignore[no-any-return]


def with_tensors(folder: Path, change: Callable[[Tensors], None]) -> None:
    """Change rank 0's tensors, and every checksum with them."""
    manifest = manifest_of(folder)
    file = folder / manifest["ranks"][0]["file"]
    tensors = {key: value.clone() for key, value in load_file(file).items()}
    change(tensors)
    save_file({key: value.contiguous() for key, value in tensors.items()}, file)
    manifest["ranks"][0] |= {
        "size": file.stat().st_size,
        "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
    }
    sealed(folder, manifest)


CHANGES: list[tuple[str, Callable[[torch.Tensor], torch.Tensor], str]] = [
    ("tensor.x", lambda v: v[:-1], r"'x' has shape"),
    ("tensor.x", lambda v: v[:, :-1], r"'x' has shape"),
    ("tensor.x", lambda v: v.double(), r"'x' is torch.float64, not float32"),
    ("tensor.half", lambda v: v[:-1], "'half' has shape"),
    ("tensor.table", lambda v: v[:-1], "'table' has shape"),
    ("tensor.edge_index", lambda v: v.int(), "is torch.int32, not int64"),
    ("tensor.edge_index", lambda v: v + 1000, "but only 0"),
    ("tensor.edge_index", lambda v: v - 1000, "holds -"),
    (
        "tensor.edge_index",
        lambda v: v.flip(0) + torch.tensor([[0], [5]]),
        "destinations of edge_index' holds",
    ),
    ("indices.adj", lambda v: v + torch.tensor([[0], [1000]]), "sources of adj' holds"),
    ("indices.adj", lambda v: v.flip(1), "rows of 'adj' do not ascend"),
    ("indices.adj", lambda v: v[:, :-1], "'adj' has shape"),
    ("nodes.0.0.ids", lambda v: v * 0, "do not ascend"),
    ("nodes.0.0.ids", lambda v: torch.cat([v[:-1], v[:1]]), "holds a node twice"),
    ("nodes.0.0.ids", lambda v: v + 10**9, "but only 0..8 exist"),
    ("nodes.0.0.send_index", lambda v: v + 1000, "but only 0"),
    ("nodes.0.0.send_index", lambda v: v[:-1], "adds up to"),
    ("nodes.0.0.recv_splits", lambda v: v - 100, "holds -"),
    ("nodes.0.0.recv_splits", lambda v: v + 2**61, "adds up to|sends to the rank itself"),
    ("nodes.0.0.recv_splits", lambda v: v.flip(0), "the rank itself"),
    ("nodes.0.0.send_splits", lambda v: torch.cat([v, v[:1] * 0]), "is of 3 ranks, not 2"),
    ("edges.0.ids", lambda v: v.flip(0), "does not ascend"),
    ("edges.0.ids", lambda v: v[:-1], "the manifest says"),
    ("edges.0.ids", lambda v: v.double(), "not a row of int64"),
    ("partition_id", lambda v: v[:-1], "another partition"),
]


@pytest.mark.parametrize(("key", "change", "said"), CHANGES)
def test_tensors_that_do_not_fit_are_refused(tmp_path: Path, key: str, change: Any, said: str) -> None:
    folder = saved(tmp_path)
    with_tensors(folder, lambda tensors: tensors.update({key: change(tensors[key])}))
    with pytest.raises(ShardError, match=said):
        load_shard(folder, 0)


@pytest.mark.parametrize(
    ("key", "said"), [("tensor.x", "is missing"), ("tensor.z", "is not in the manifest")]
)
def test_tensors_too_few_or_too_many_are_refused(tmp_path: Path, key: str, said: str) -> None:
    folder = saved(tmp_path)
    with_tensors(
        folder,
        lambda tensors: (
            tensors.update(z=tensors.pop("tensor.x"))
            if key == "tensor.x"
            else tensors.update({key: torch.ones(1)})
        ),
    )
    with pytest.raises(ShardError, match=f"'{key}' {said}"):
        load_shard(folder, 0)


@pytest.mark.parametrize("how", ["..", "absolute", "link", "folder link", "itself"])
def test_files_elsewhere_are_not_read(tmp_path: Path, how: str) -> None:
    folder = saved(tmp_path)
    manifest = manifest_of(folder)
    name = manifest["ranks"][0]["file"]
    outside = tmp_path / "outside" / name
    outside.parent.mkdir()
    (folder / name).rename(outside)
    if how == "link":
        (folder / name).symlink_to(outside)
    if how == "folder link":
        (folder / "sub").symlink_to(outside.parent)
    named = {
        "..": f"../outside/{name}",
        "absolute": str(outside),
        "link": name,
        "folder link": f"sub/{name}",
        "itself": ".",
    }
    manifest["ranks"][0]["file"] = named[how]
    sealed(folder, manifest)
    with pytest.raises(
        ShardError, match=r"manifest\.json is damaged: it names the file .* not in its folder"
    ):
        load_shard(folder, 0)


def test_a_folder_reached_through_a_link_is_read(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(saved(tmp_path))
    assert_same(sharded(2)[0], load_shard(tmp_path / "link", 0))


ODD = st.one_of(
    st.none(), st.booleans(), st.integers(), st.just(2**70), st.floats(), st.text(max_size=3),
    st.lists(st.integers(), max_size=2), st.just({}),
)  # fmt: skip


def places(value: Any) -> list[tuple[Any, Any]]:
    """Every (container, key) in a JSON document."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [place for key, inner in items for place in [(value, key), *places(inner)]]


@given(st.data())
@settings(max_examples=200, deadline=None)
def test_a_manifest_of_anything_is_one_sentence(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.getbasetemp() / "manifests"
    sharded(2).save(folder)
    manifest = manifest_of(folder)
    for _ in range(data.draw(st.integers(1, 2))):
        container, key = data.draw(st.sampled_from(places(manifest)))
        container[key] = data.draw(ODD)
    sealed(folder, manifest)
    said = outcome(folder)
    (folder / "manifest.json").write_text('{"format": "graphshard-shards"}')  # for the next save
    assert "\n" not in said


@given(st.data())
@settings(max_examples=200, deadline=None)
def test_tensors_of_anything_are_one_sentence_or_fit(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.getbasetemp() / "tensors"
    sharded(2).save(folder)

    def change(tensors: Tensors) -> None:
        key = data.draw(st.sampled_from(sorted(tensors)))
        value = tensors[key]
        how = data.draw(st.sampled_from(["entry", "rows", "dtype", "shape"]))
        if how == "entry" and value.numel():
            place = data.draw(st.integers(0, value.numel() - 1))
            value.view(-1)[place] = torch.tensor(data.draw(st.integers(-3, 12))).to(value.dtype)
        elif how == "rows":
            tensors[key] = value[: data.draw(st.integers(0, len(value)))]
        elif how == "dtype":
            tensors[key] = value.to(data.draw(st.sampled_from([torch.int32, torch.int64, torch.float32])))
        else:
            tensors[key] = (
                value.reshape(data.draw(st.sampled_from([(-1,), (1, -1)]))) if value.numel() else value[None]
            )

    with_tensors(folder, change)
    assert "\n" not in outcome(folder)


def outcome(folder: Path) -> str:
    """What is said; "" where rank 0 is read, and then every number that kernels index with is in range."""
    try:
        shard = load_shard(folder, 0)
    except GraphshardError as error:
        return str(error)
    n, h = shard.num_owned, shard.num_halo
    edge_index = shard.edge_index.local()
    assert shard.x.local().shape[0] == n
    assert edge_index.shape == (2, shard.edge_ids.numel())
    for index, ends in ((edge_index, (n + h, n)), (shard.adj.local().indices(), (n, n + h))):
        assert all(bool(((row >= 0) & (row < end)).all()) for row, end in zip(index, ends, strict=True))
    assert shard.node_ids.unique().numel() == n + h
    assert bool((shard.halo.send_index < n).all())
    assert sum(shard.halo.send_splits) == shard.halo.send_index.numel()
    return ""


def test_what_partition_makes_passes(tmp_path: Path) -> None:
    for parts in (1, 3, 12):
        folder = tmp_path / str(parts)
        sharded(parts).save(folder)
        manifest = manifest_of(folder)
        check_manifest(manifest)
        for shard in sharded(parts):
            check_content(named(shard), manifest, shard.rank)
