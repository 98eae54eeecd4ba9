"""What a shard's files say must fit together, whoever wrote them: kernels trust every number in them.

A checksum finds damage, not intent: anyone can make it anew. So sizes, dtypes, ranges of indices and the order of ids
are checked when a shard is loaded, each by a pass or two over its tensor. Each check raises a ValueError that says
what is wrong; the caller names the file.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from graphshard.graph.roles import Role
from graphshard.graph.schema import MESSAGES, NUMBERS

_LARGEST = 2**62  # of a count: sums of a few still fit into int64
_MANIFEST = {
    "world_size": int,
    "positional": bool,
    "num_nodes": int,
    "num_edges": int,
    "partition_id": str,
    "node_sets": list,
    "edge_sets": list,
    "tensors": list,
    "ranks": list,
}
_ENTRIES: dict[str, dict[str, type]] = {
    "node_sets": {"name": str, "num_nodes": int, "plans": list},
    "edge_sets": {"name": str, "source": str, "destination": str, "plan": str, "num_edges": int},
    "tensors": {"name": str, "role": str, "of": str, "path": list, "dtype": str, "row_shape": list},
    "ranks": {
        "file": str,
        "size": int,
        "sha256": str,
        "num_owned": int,
        "num_halo": int,
        "num_local_edges": int,
    },
}


# ---- the manifest ------------------------------------------------------------------------------------------


def check_manifest(manifest: Mapping[str, Any]) -> None:
    """Every field is there and of its type, names are unique, and sets name sets that exist.

    Raises:
        ValueError: something does not fit.
    """
    _fields(manifest, _MANIFEST, "it")
    for key, fields in _ENTRIES.items():
        for entry in manifest[key]:
            _require(isinstance(entry, dict), f"{key!r} holds {entry!r}")
            _fields(entry, fields, f"an entry of {key!r}")
    parts = manifest["world_size"]
    _require(
        parts >= 1 and len(manifest["ranks"]) == parts, f"it does not list one file for each of {parts} ranks"
    )
    for key in ("node_sets", "edge_sets", "tensors"):
        names = [entry["name"] for entry in manifest[key]]
        _require(len(set(names)) == len(names), f"a name in {key!r} stands twice")
    plans = {entry["name"]: entry["plans"] for entry in manifest["node_sets"]}
    for name, own in plans.items():
        strings = all(isinstance(plan, str) for plan in own)
        _require(
            strings and own.count(MESSAGES) == 1 and len(set(own)) == len(own),
            f"the plans of {name!r} are {own}",
        )
    for e in manifest["edge_sets"]:
        known = e["source"] in plans and e["destination"] in plans
        known = known and (e["plan"] == NUMBERS or e["plan"] in plans[e["source"]])
        _require(known, f"the edge set {e['name']!r} joins nodes that do not exist")
    total = sum(entry["num_nodes"] for entry in manifest["node_sets"])
    _require(total == manifest["num_nodes"], f"its node sets have {total} nodes, not {manifest['num_nodes']}")
    total = sum(e["num_edges"] for e in manifest["edge_sets"] if e["plan"] == MESSAGES)
    _require(total == manifest["num_edges"], f"its edge sets have {total} edges, not {manifest['num_edges']}")
    for entry in manifest["tensors"]:
        _check_member(entry, manifest)


def _check_member(entry: Mapping[str, Any], manifest: Mapping[str, Any]) -> None:
    name, role = entry["name"], Role(entry["role"])
    sets = "node_sets" if role is Role.NODE else "edge_sets"
    if role is not Role.REPLICATED:
        known = {e["name"] for e in manifest[sets]}
        _require(entry["of"] in known, f"{name!r} belongs to {entry['of']!r}, which does not exist")
    if role is Role.INDEX:
        plan = next(e["plan"] for e in manifest["edge_sets"] if e["name"] == entry["of"])
        _require(plan == NUMBERS, f"{name!r} is an index of the edges {entry['of']!r}")
    if role is Role.ADJACENCY:
        _require(
            [e["name"] for e in manifest["node_sets"]] == [""],
            f"{name!r} is an adjacency of several node sets",
        )
    whole = all(type(size) is int and 0 <= size < _LARGEST for size in entry["row_shape"])
    _require(whole, f"the shape {entry['row_shape']} of {name!r} is not one")
    for key in entry["path"]:
        strings = isinstance(key, list) and len(key) == 3 and all(isinstance(part, str) for part in key)
        _require(strings or type(key) in (str, int), f"the path of {name!r} holds {key!r}")


def _fields(entry: Mapping[str, Any], fields: Mapping[str, type], where: str) -> None:
    for name, kind in fields.items():
        value = entry.get(name)
        _require(type(value) is kind, f"{where} has {value!r} as its {name!r}")
        if kind is int:
            _require(0 <= entry[name] < _LARGEST, f"{where} has {value!r} as its {name!r}")


def file_inside(folder: Path, name: str) -> Path:
    """The file of a folder that a manifest names, which must be in that very folder, by links too.

    Raises:
        ValueError: it would be elsewhere.
    """
    plain = name not in ("", ".", "..") and not {"/", "\\", "\0"} & set(name) and Path(name).name == name
    file = folder / name
    if not plain or file.resolve().parent != folder.resolve():
        raise ValueError(f"it names the file {name!r}, which is not in its folder")
    return file


# ---- a rank's file -----------------------------------------------------------------------------------------


def check_content(found: Mapping[str, Tensor], manifest: Mapping[str, Any], rank: int) -> None:
    """The tensors of a rank's file fit the manifest and each other.

    Args:
        found: what the file holds, by name.
        manifest: a checked one.
        rank: whose file it is.

    Raises:
        ValueError: something does not fit.
    """
    _check_names(found, manifest)
    sizes = {}  # of each plan: owned and halo nodes
    for number, entry in enumerate(manifest["node_sets"]):
        for j, plan in enumerate(entry["plans"]):
            sizes[entry["name"], plan] = _check_plan(
                found, f"nodes.{number}.{j}", entry["num_nodes"], manifest, rank
            )
            first = found[f"nodes.{number}.{entry['plans'].index(MESSAGES)}.ids"]
            owned = sizes[entry["name"], plan][0]
            same = torch.equal(found[f"nodes.{number}.{j}.ids"][:owned], first[:owned])
            _require(same, f"the plans of {entry['name']!r} own different nodes")
    counts = {}  # of each edge set: own edges
    for number, entry in enumerate(manifest["edge_sets"]):
        ids = _vector(found, f"edges.{number}.ids")
        _check_range(ids, entry["num_edges"], f"edges.{number}.ids")
        _require(_ascends(ids), f"'edges.{number}.ids' does not ascend")
        counts[entry["name"]] = ids.numel()
    _check_counts(sizes, counts, manifest, rank)
    for entry in manifest["tensors"]:
        _check_tensor(found, entry, manifest, sizes, counts)


def _check_names(found: Mapping[str, Tensor], manifest: Mapping[str, Any]) -> None:
    names = {"partition_id"} | {f"edges.{i}.ids" for i in range(len(manifest["edge_sets"]))}
    for i, entry in enumerate(manifest["node_sets"]):
        parts = ("ids", "send_index", "send_splits", "recv_splits")
        names |= {f"nodes.{i}.{j}.{part}" for j in range(len(entry["plans"])) for part in parts}
    for entry in manifest["tensors"]:
        kinds = ("indices", "values") if Role(entry["role"]) is Role.ADJACENCY else ("tensor",)
        names |= {f"{kind}.{entry['name']}" for kind in kinds}
    for name in sorted(names ^ found.keys()):
        raise ValueError(f"{name!r} is {'missing' if name in names else 'not in the manifest'}")


def _check_plan(
    found: Mapping[str, Tensor], key: str, num_nodes: int, manifest: Mapping[str, Any], rank: int
) -> tuple[int, int]:
    """Owned and halo nodes of one plan."""
    ids, index = _vector(found, f"{key}.ids"), _vector(found, f"{key}.send_index")
    send, recv = (_splits(found, f"{key}.{part}", manifest, rank) for part in ("send_splits", "recv_splits"))
    halo = sum(recv)
    owned = ids.numel() - halo
    _require(owned >= 0, f"'{key}.recv_splits' adds up to {halo} nodes, but there are {ids.numel()}")
    _require(sum(send) == index.numel(), f"'{key}.send_splits' adds up to {sum(send)}, not {index.numel()}")
    _check_range(ids, num_nodes, f"{key}.ids")
    _require(_ascends(ids[:owned]), f"the owned nodes in '{key}.ids' do not ascend")
    _require(_ascends(ids.sort().values), f"'{key}.ids' holds a node twice")
    _require(
        all(map(_ascends, torch.split(ids[owned:], recv))), f"the halo nodes in '{key}.ids' do not ascend"
    )
    _check_range(index, owned, f"{key}.send_index")
    _require(all(map(_ascends, torch.split(index, send))), f"'{key}.send_index' does not ascend")
    return owned, halo


def _splits(found: Mapping[str, Tensor], key: str, manifest: Mapping[str, Any], rank: int) -> list[int]:
    splits, parts = _vector(found, key), manifest["world_size"]
    _require(splits.numel() == parts, f"{key!r} is of {splits.numel()} ranks, not {parts}")
    counts: list[int] = splits.tolist()
    _require(all(0 <= count < _LARGEST for count in counts), f"{key!r} holds {min(counts)}")
    _require(counts[rank] == 0, f"{key!r} sends to the rank itself")
    return counts


def _check_counts(
    sizes: Mapping[tuple[str, str], tuple[int, int]],
    counts: Mapping[str, int],
    manifest: Mapping[str, Any],
    rank: int,
) -> None:
    entry = manifest["ranks"][rank]
    plans = [sizes[e["name"], MESSAGES] for e in manifest["node_sets"]]
    edges = sum(counts[e["name"]] for e in manifest["edge_sets"] if e["plan"] == MESSAGES)
    here = (sum(owned for owned, _ in plans), sum(halo for _, halo in plans), edges)
    said = (entry["num_owned"], entry["num_halo"], entry["num_local_edges"])
    _require(here == said, f"it holds {here} owned nodes, halo nodes and edges, the manifest says {said}")


def _check_tensor(
    found: Mapping[str, Tensor],
    entry: Mapping[str, Any],
    manifest: Mapping[str, Any],
    sizes: Mapping[tuple[str, str], tuple[int, int]],
    counts: Mapping[str, int],
) -> None:
    name, of, role = entry["name"], entry["of"], Role(entry["role"])
    value = found[f"{'values' if role is Role.ADJACENCY else 'tensor'}.{name}"]
    _require(
        str(value.dtype) == f"torch.{entry['dtype']}", f"{name!r} is {value.dtype}, not {entry['dtype']}"
    )
    shape = list(value.shape)
    if role is Role.REPLICATED:
        _require(shape == entry["row_shape"], f"{name!r} has shape {shape}, not {entry['row_shape']}")
        return
    if role.is_index:
        _require(shape == [2, counts[of]], f"{name!r} has shape {shape}, not {[2, counts[of]]}")
        edges = next(e for e in manifest["edge_sets"] if e["name"] == of)
        owned, halo = sizes[edges["source"], edges["plan"]]
        _check_ends(value, owned + halo, sizes[edges["destination"], MESSAGES][0], name)
        return
    if role is Role.INDEX:
        nodes = next(e["source"] for e in manifest["edge_sets"] if e["name"] == of)
        _check_range(_vector({name: value}, name), sizes[nodes, MESSAGES][0], name)
    if role is Role.ADJACENCY:
        owned, halo = sizes[of, MESSAGES]
        indices = found[f"indices.{name}"]
        _require(
            indices.dim() == 2 and indices.size(0) == 2,
            f"{name!r} has indices of shape {list(indices.shape)}",
        )
        _check_ends(indices.flip(0), owned + halo, owned, name)
        _require(bool((indices[0, 1:] >= indices[0, :-1]).all()), f"the rows of {name!r} do not ascend")
        rows = indices.size(1)
    else:
        rows = sizes[of, MESSAGES][0] if role is Role.NODE else counts[of]
    expected = [rows, *entry["row_shape"]]
    _require(shape == expected, f"{name!r} has shape {shape}, not {expected}")


def _check_ends(index: Tensor, sources: int, destinations: int, name: str) -> None:
    _require(index.dtype is torch.int64, f"{name!r} is {index.dtype}, not int64")
    _check_range(index[0], sources, f"sources of {name}")
    _check_range(index[1], destinations, f"destinations of {name}")


def _vector(found: Mapping[str, Tensor], key: str) -> Tensor:
    value = found[key]
    fits = value.dtype is torch.int64 and value.dim() == 1
    _require(fits, f"{key!r} is {value.dtype} of shape {list(value.shape)}, not a row of int64")
    return value


def _check_range(values: Tensor, end: int, name: str) -> None:
    if values.numel():
        low, high = (int(bound) for bound in values.aminmax())
        odd = low if low < 0 else high
        _require(low >= 0 and high < end, f"{name!r} holds {odd}, but only 0..{end - 1} exist")


def _ascends(values: Tensor) -> bool:
    return bool((values[1:] > values[:-1]).all())


def _require(fits: bool, what: str) -> None:
    if not fits:
        raise ValueError(what)
