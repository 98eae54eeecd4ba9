"""Cut a graph that lies in files and is larger than memory; the shards are those of ``method="multilevel"`` in memory.

::

    FOLDER/edge_index.npy   int32 or int64 [2, E], sources and destinations
    FOLDER/x.npy, ...       any further tensors, a file each, with the roles that a mapping of tensors would have

    edges -> degrees -> both directions in buckets of nodes -> rows of neighbours, a file -> clusters -> parts
          -> edges and rows of tensors by part -> halos -> a file for each rank

What is held in memory is some numbers for each node, and pieces of files. Each arrow is a step of ``Work``: one that
was finished is not done again.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from graphshard.errors import PartitionError
from graphshard.graph.data import GraphData, Roles, as_graph_data
from graphshard.graph.roles import Role
from graphshard.graph.schema import MESSAGES, EdgeSet
from graphshard.partitioning import multilevel
from graphshard.partitioning.compiled import loops_for
from graphshard.partitioning.identity import about
from graphshard.partitioning.meter import Meter, resident
from graphshard.partitioning.metis import without_choice
from graphshard.partitioning.multilevel import Block
from graphshard.partitioning.npy import Npy, read_into
from graphshard.partitioning.numbering import group, halo_of, narrowed
from graphshard.partitioning.problem import Problem
from graphshard.partitioning.report import How, PartCounts, PartitionReport, report_of
from graphshard.partitioning.work import Work
from graphshard.ranks.checksums import Digest
from graphshard.shard.encoding import edge_ids_key, tensor_key
from graphshard.shard.files import (
    UNFINISHED,
    about_all_ranks,
    alone_in,
    is_for_shards,
    write_streamed_rank,
    writing,
)
from graphshard.shard.halo import HaloPlan
from graphshard.shard.manifest import VERSION
from graphshard.shard.parts import EdgeShard, NodeShard
from graphshard.shard.shard import Shard

EDGES = "edge_index"
"""The file of the edges; the others are named after their tensors."""

_EACH_NODE = 64  # bytes: starts, weights, cluster, its size, part, local number, and what a step adds
_LEAST, _SLACK = 16 << 20, 160 << 20  # bytes for pieces of files; for machine code and Python's own
_EDGES_AT_ONCE = 1 << 20
_BOUNDS = "bounds"
"""The step that precedes all checks."""

Progress = Callable[[str, float], None]
"""What is told a step and the share of it that is done, 0..1."""


def partition_files(
    folder: str | os.PathLike[str],
    num_parts: int,
    out: str | os.PathLike[str],
    *,
    memory: int = 4 << 30,
    roles: Roles | None = None,
    seed: int = 0,
    num_nodes: int | None = None,
    progress: Progress | None = None,
) -> PartitionReport:
    """Cut a graph of files into shards that :func:`graphshard.load_shard` reads, in bounded memory.

    A run that was killed goes on where it was when it is asked for the same again. Until it ends, what it made lies
    beside ``out`` in ``.NAME.unfinished``, or in it where it is there, up to three times the size of the input.

    Args:
        folder: one ``.npy`` a tensor, named after it, in the order of rows (C): ``edge_index.npy`` int32 or int64
            ``[2, E]``, row 0 the source of each edge, row 1 its destination; others with a row for each node, for each
            edge, or the same on every rank.
        num_parts: number of shards, at least 1.
        out: the directory to write; it does not exist, is empty, or holds older shards.
        memory: bytes that the process may hold, PyTorch's own included.
        roles: as of :func:`graphshard.partition`; ``"node"``, ``"edge"`` and ``"replicated"`` can be cut from files.
        seed: METIS' seed; the same files and seed give the same shards, whatever the memory is.
        num_nodes: N, where no file says it.
        progress: called again and again with the step and the share of it that is done.

    Returns:
        The report.

    Raises:
        PartitionError: the files are no graph, the memory is too little, or unfinished work is of something else.
        ShardError: the shards cannot be written.
    """
    meter = Meter()
    loops_for("multilevel")
    files, target = find_files(Path(folder)), Path(out)
    asked = {
        "version": VERSION,
        "parts": num_parts,
        "seed": seed,
        "roles": {name: str(role) for name, role in (roles or {}).items()},
        "num_nodes": num_nodes,
        "files": {
            name: [npy.path.stat().st_size, npy.path.stat().st_mtime_ns] for name, npy in files.items()
        },
    }
    if num_parts < 1:
        raise PartitionError(f"num_parts must be at least 1, not {num_parts}")
    there = is_for_shards(target)  # better refused now than when all is done
    try:
        unfinished = target / UNFINISHED if there else target.parent / f".{target.name}{UNFINISHED}"
        unfinished.mkdir(exist_ok=True)
        with alone_in(unfinished):  # two runs would append to the same files
            work = Work(unfinished, asked, cheap=(_BOUNDS,))
            job = _Job(
                work,
                files,
                num_parts,
                seed,
                memory,
                roles,
                num_nodes,
                progress or (lambda _step, _share: None),
            )
            return job.run(target, meter)
    except OSError as error:
        raise PartitionError(f"cannot cut {folder} into {out}: {error}") from error


def find_files(folder: Path) -> dict[str, Npy]:
    """The arrays of a folder by the name of their tensor, in alphabetical order.

    Raises:
        PartitionError: one cannot be read, or there are no edges.
    """
    files = {path.stem: Npy.of(path) for path in sorted(folder.glob("*.npy"))}
    if EDGES not in files:
        raise PartitionError(f"{folder} holds no graph: it needs {EDGES}.npy, int32 or int64 [2, E]")
    edges = files[EDGES]
    if edges.dtype not in (np.int32, np.int64) or len(edges.shape) != 2 or edges.shape[0] != 2:
        raise PartitionError(
            f"{edges.path} must be int32 or int64 [2, E], not {edges.dtype} {list(edges.shape)}: row 0 has the source "
            "of each edge, row 1 its destination"
        )
    return files


@dataclass(frozen=True)
class RowsInFile:
    """Rows of neighbours in a file of int32, read some at a time.

    Attributes:
        starts: int64 ``[N + 1]``. path: of the file. at_once: entries that are read together.
        told: called with the share of the rows that were read.
    """

    starts: Any
    path: Path
    at_once: int
    told: Callable[[float], None]

    def blocks(self) -> Iterator[Block]:
        """All rows in the order of the nodes."""
        nodes, first = self.starts.size - 1, 0
        while first < nodes:
            base = int(self.starts[first])
            last = int(np.searchsorted(self.starts, base + self.at_once, side="right")) - 1
            last = min(nodes, max(last, first + 1))
            found = np.empty(int(self.starts[last]) - base, np.int32)
            read_into(self.path, base * 4, found)
            yield Block(first, last, base, found)
            first = last
            self.told(first / nodes)


class _Job:
    """One cut of one graph."""

    def __init__(
        self,
        work: Work,
        files: dict[str, Npy],
        num_parts: int,
        seed: int,
        memory: int,
        roles: Roles | None,
        num_nodes: int | None,
        progress: Progress,
    ) -> None:
        self.work, self.files, self.parts, self.seed, self.tell = work, files, num_parts, seed, progress
        self.edges = files[EDGES]
        self.num_edges = self.edges.shape[1]
        lowest, highest = work.step(_BOUNDS, self._bounds)
        if lowest < 0:
            raise PartitionError(f"{self.edges.path} holds {lowest}: numbers of nodes begin at 0")
        self.graph = self._graph(highest + 1, roles, num_nodes)
        self.nodes = self.graph.num_nodes
        self.room = self._room(memory)
        self.at_once = max(1 << 12, min(_EDGES_AT_ONCE, self.room // 128))

    # ---- what is asked -------------------------------------------------------------------------------------

    def _graph(self, lowest: int, roles: Roles | None, num_nodes: int | None) -> GraphData:
        """The graph with stand-ins for what lies in files: they have the shapes, and no memory."""
        stand_ins = {
            name: torch.zeros((), dtype=npy.torch_dtype).expand(npy.shape) for name, npy in self.files.items()
        }
        stand_ins[EDGES] = torch.full((), max(lowest - 1, 0), dtype=torch.int64).expand(2, self.num_edges)
        found = as_graph_data(stand_ins, roles, num_nodes)
        for name, member in found.members.items():
            if name != EDGES and member.role not in (Role.NODE, Role.EDGE, Role.REPLICATED):
                raise PartitionError(
                    f"{name!r} has the role {str(member)!r}, which cannot be cut from files: cut the graph in memory, "
                    f'or pass roles={{{name!r}: "replicated"}} if it holds no numbers of nodes'
                )
            if member.role is Role.REPLICATED:
                npy = self.files[name]
                value = npy.read(0, npy.bytes // npy.dtype.itemsize)
                stand_ins[name] = torch.from_numpy(value).reshape(npy.shape)
        if found.num_nodes >= 1 << 31:
            raise PartitionError(
                f"{found.num_nodes} nodes are more than {1 << 31}, which cannot be cut from files"
            )
        return as_graph_data(stand_ins, roles, num_nodes, cut=self.parts > 1)

    def _room(self, memory: int) -> int:
        """Bytes for pieces of files."""
        fixed = resident() + _SLACK + _EACH_NODE * self.nodes
        if memory < fixed + _LEAST:
            raise PartitionError(
                f"cutting {self.nodes} nodes from files takes {(fixed + _LEAST) / (1 << 20):.0f} MiB of memory, and "
                f"{memory / (1 << 20):.0f} MiB are given: give more"
            )
        return memory - fixed

    def run(self, target: Path, meter: Meter) -> PartitionReport:
        step = self.work.step
        problem = Problem((), self.nodes, self.parts, torch.empty(0))
        if (trivial := without_choice(problem)) is not None:
            self.work.keep("parts", trivial.numpy().astype(np.int32))
        else:
            step("degrees", self._count)
            bounds = step("buckets", self._fill_buckets)
            step("rows", partial(self._make_rows, bounds))
            self.work.drop("bucket-*")
            step("clusters", self._join)
            step("cut", self._cut)
            step("refined", self._refine)
        self.work.drop("neighbours.*", "starts.npy", "labels.npy", "weights.npy", "degrees.npy", "cut.npy")
        cut = step("by part", self._split)
        identity = step("identity", self._identify)
        counts = self._halos_and_files(identity)
        self._finish(target, identity, counts)
        how = How("multilevel", "", meter.seconds, meter.peak)
        return report_of(
            self.graph.schema,
            self.num_edges,
            cut["cut"],
            [_part_counts(entry) for entry in counts],
            how,
        )

    # ---- reading -------------------------------------------------------------------------------------------

    def _pieces(self, step: str) -> Iterator[tuple[int, Any, Any]]:
        """The number of the first edge, sources and destinations, some edges at a time."""
        for first in range(0, self.num_edges, self.at_once):
            last = min(first + self.at_once, self.num_edges)
            yield (
                first,
                self.edges.read(first, last),
                self.edges.read(self.num_edges + first, self.num_edges + last),
            )
            self.tell(step, last / self.num_edges)

    def _bounds(self) -> list[int]:
        lowest, highest, done = 0, -1, 0
        for piece in self.edges.pieces(_EDGES_AT_ONCE):
            lowest, highest = min(lowest, int(piece.min())), max(highest, int(piece.max()))
            done += piece.size
            self.tell("reading edges", done / (2 * self.num_edges))
        return [lowest, highest]

    # ---- rows of neighbours --------------------------------------------------------------------------------

    def _count(self) -> None:
        """Degrees of the undirected graph, parallel edges included; and what each node weighs."""
        compiled = loops_for("multilevel")
        degrees, weights = np.zeros(self.nodes, np.int64), np.ones(self.nodes, np.int64)
        for _, source, destination in self._pieces("counting degrees"):
            compiled.count_entries(source, 0, destination, 0, degrees, 0, 0, source.size)
            compiled.count_entries(destination, 0, source, 0, degrees, 0, 0, source.size)
            np.add.at(weights, destination, 1)
        self.work.keep("degrees", degrees)
        self.work.keep("weights", weights)

    def _fill_buckets(self) -> list[int]:
        """Both directions of each edge, in files by the range of nodes that the row is of; where ranges begin."""
        self.work.drop("bucket-*")
        ends = np.cumsum(self.work.take("degrees"))
        each, bounds = max(self.room // 24, int(ends[-1]) >> 14, 1), [0]
        while bounds[-1] < self.nodes:
            before = int(ends[bounds[-1] - 1]) if bounds[-1] else 0
            last = int(np.searchsorted(ends, before + each, side="right"))
            bounds.append(min(self.nodes, max(last, bounds[-1] + 1)))
        del ends
        inner = np.array(bounds[1:-1], np.int64)
        for _, source, destination in self._pieces("sorting edges into buckets"):
            apart = source != destination
            keys = np.concatenate([source[apart], destination[apart]]).astype(np.int32, copy=False)
            values = np.concatenate([destination[apart], source[apart]]).astype(np.int32, copy=False)
            number = np.searchsorted(inner, keys, side="right").astype(np.int16)
            for bucket, places in _grouped(number, len(bounds) - 1):
                _append(self.work.folder / f"bucket-{bucket}.rows", keys[places])
                _append(self.work.folder / f"bucket-{bucket}.entries", values[places])
        return bounds

    def _make_rows(self, bounds: Sequence[int]) -> None:
        compiled = loops_for("multilevel")
        degrees = self.work.take("degrees")
        starts, total = np.zeros(self.nodes + 1, np.int64), 0
        path = self.work.folder / "neighbours.rows"
        path.unlink(missing_ok=True)
        path.touch()
        for bucket, (first, last) in enumerate(pairwise(bounds)):
            upto = np.zeros(last - first + 1, np.int64)
            np.cumsum(degrees[first:last], out=upto[1:])
            rows = np.empty(int(upto[-1]), np.int32)
            if rows.size:
                keys, values = (
                    np.fromfile(self.work.folder / f"bucket-{bucket}.{kind}", np.int32)
                    for kind in ("rows", "entries")
                )
                compiled.put_entries(keys, 0, values, 0, upto[:-1].copy(), first, rows, 0, keys.size)
                del keys, values
            kept = np.zeros(1, np.int64)
            compiled.sort_rows(upto, rows, kept, 0, last - first)
            starts[first:last] = upto[:-1] + total
            total += int(kept[0])
            _append(path, rows[: int(kept[0])])
            self.tell("sorting neighbours", last / self.nodes)
        starts[-1] = total
        self.work.keep("starts", starts)

    def _rows(self, step: str) -> RowsInFile:
        path = self.work.folder / "neighbours.rows"
        return RowsInFile(self.work.take("starts"), path, max(self.room // 8, 1), partial(self.tell, step))

    # ---- parts ---------------------------------------------------------------------------------------------

    def _join(self) -> None:
        labels = multilevel.join(self._rows("joining clusters"), self.work.take("weights"), self.parts)
        self.work.keep("labels", labels)

    def _cut(self) -> None:
        labels, weights = self.work.take("labels"), self.work.take("weights")
        rows = self._rows("cutting the graph of clusters")
        self.work.keep("cut", multilevel.cut(rows, weights, labels, self.parts, self.seed, most=self.room))

    def _refine(self) -> None:
        parts = self.work.take("cut")
        multilevel.refine(self._rows("refining the cut"), self.work.take("weights"), parts, self.parts)
        self.work.keep("parts", parts)

    # ---- shards --------------------------------------------------------------------------------------------

    def _piece(self, name: str, part: int) -> Path:
        return self.work.folder / f"piece-{part}-{name}"

    def _split(self) -> dict[str, Any]:
        """Sources, destinations and positions of each part's edges, and its rows of every tensor, in files."""
        self.work.drop("piece-*")
        parts = self.work.take("parts")
        narrow = narrowed(torch.from_numpy(parts), self.parts).numpy()
        local, cut, counts = self._local(narrow), 0, np.zeros(self.parts, np.int64)
        position = np.dtype(np.int32 if self.num_edges < 1 << 31 else np.int64)
        tensors = {n: npy for n, npy in self.files.items() if self.graph.members[n].role is Role.EDGE}
        for first, source, destination in self._pieces("giving edges to parts"):
            owner = narrow[destination]
            cut += int((narrow[source] != owner).sum())
            count = source.size
            rows = {n: _rows_of(npy, first, first + count) for n, npy in tensors.items()}
            for part, places in _grouped(owner, self.parts):
                counts[part] += places.size
                _append(self._piece("source", part), source[places].astype(np.int32))
                _append(self._piece("destination", part), local[destination[places]])
                _append(self._piece("position", part), (places + first).astype(position))
                for name, found in rows.items():
                    _append(self._piece(f"tensor-{name}", part), found[places])
        self._split_nodes(narrow)
        return {"cut": cut, "edges": counts.tolist()}

    def _split_nodes(self, narrow: Any) -> None:
        for name, npy in self.files.items():
            if self.graph.members[name].role is not Role.NODE:
                continue
            at_once = max(1, min(self.nodes, self.room // 4 // max(npy.row_bytes, 1)))
            for first in range(0, self.nodes, at_once):
                last = min(first + at_once, self.nodes)
                rows = _rows_of(npy, first, last)
                for part, places in _grouped(narrow[first:last], self.parts):
                    _append(self._piece(f"tensor-{name}", part), rows[places])
                self.tell(f"giving rows of {name} to parts", last / self.nodes)

    def _local(self, narrow: Any) -> Any:
        """int32 ``[N]``, the number of each node in the part that owns it."""
        local = np.empty(self.nodes, np.int32)
        for owned in group(torch.from_numpy(narrow), self.parts):
            local[owned.numpy()] = np.arange(owned.numel(), dtype=np.int32)
        return local

    def _identify(self) -> str:
        """As ``partition`` digests what it cuts, so that equal data cut alike have equal ids."""
        found = Digest()
        found.add(about(self.graph, self.parts), torch.float32, (0,), [])
        parts = self.work.take("parts")
        found.add("", torch.int64, (self.nodes,), _widened([parts]))
        for name, npy in self.files.items():
            wide = name == EDGES
            pieces = npy.pieces(max(1, (4 << 20) // npy.dtype.itemsize))
            found.add(
                name,
                torch.int64 if wide else npy.torch_dtype,
                npy.shape,
                _widened(pieces) if wide else (piece.view(np.uint8).data for piece in pieces),
            )
        return found.text

    def _halos_and_files(self, identity: str) -> list[dict[str, Any]]:
        parts = torch.from_numpy(self.work.take("parts"))
        narrow = narrowed(parts, self.parts)
        owned, edges = group(narrow, self.parts), self.work.came_to("by part")["edges"]
        for part in range(self.parts):
            self.work.step(f"halo {part}", partial(self._halo, part, owned[part], narrow))
        splits = [self.work.came_to(f"halo {part}") for part in range(self.parts)]
        local, found = self._local(narrow.numpy()), []
        (self.work.folder / "files").mkdir(exist_ok=True)
        for rank in range(self.parts):
            write = partial(self._write, rank, owned[rank], local, splits, edges[rank], identity)
            found.append(self.work.step(f"rank {rank}", write))
            self.work.drop(f"piece-{rank}-*")
            self.tell("writing shards", (rank + 1) / self.parts)
        return found

    def _halo(self, part: int, owned: Tensor, narrow: Tensor) -> list[int]:
        read = torch.zeros(self.nodes, dtype=torch.bool)
        for piece in self._read(self._piece("source", part), np.dtype(np.int32)):
            read[torch.from_numpy(piece).long()] = True
        halo, splits = halo_of(read, owned, narrow, self.parts)
        self.work.keep(f"halo-{part}", halo.numpy())
        self.tell("finding halos", (part + 1) / self.parts)
        return list(splits)

    def _read(self, path: Path, dtype: Any) -> Iterator[Any]:
        """The numbers of a file that may not be there, as it would be empty; some at a time."""
        count = path.stat().st_size // dtype.itemsize if path.exists() else 0
        for first in range(0, count, self.at_once):
            found = np.empty(min(self.at_once, count - first), dtype)
            read_into(path, first * dtype.itemsize, found)
            yield found

    def _plan(self, rank: int, owned: int, local: Any, splits: list[list[int]]) -> HaloPlan:
        """The rank's rows in the order in which each other rank lists them in its halo."""
        sends = []
        for other, received in enumerate(splits):
            first = sum(received[:rank])
            npy = Npy.of(self.work.folder / f"halo-{other}.npy")
            sends.append(torch.from_numpy(local[npy.read(first, first + received[rank])].astype(np.int64)))
        return HaloPlan(
            num_owned=owned,
            num_halo=sum(splits[rank]),
            send_index=torch.cat(sends),
            send_splits=tuple(ids.numel() for ids in sends),
            recv_splits=tuple(splits[rank]),
        )

    def _write(
        self, rank: int, owned: Tensor, local: Any, splits: list[list[int]], edges: int, identity: str
    ) -> dict[str, Any]:
        """The rank's file in the folder of the work; what the manifest and the report say of it."""
        halo = self.work.take(f"halo-{rank}")
        plan = self._plan(rank, owned.numel(), local, splits)
        ids = torch.cat([owned, torch.from_numpy(halo)])
        shard = self._stand_in(rank, plan, ids, edges, identity)
        number = local.copy()
        number[halo] = owned.numel() + np.arange(halo.size, dtype=np.int32)
        entry = write_streamed_rank(shard, self._contents(rank, number), self.work.folder / "files")
        return {**entry, "sent": plan.send_index.numel()}

    def _contents(self, rank: int, number: Any) -> dict[str, Iterator[Any]]:
        """What the rank's file has of each tensor that is not in memory."""
        narrow, position = np.dtype(np.int32), np.dtype(np.int32 if self.num_edges < 1 << 31 else np.int64)

        def index() -> Iterator[Any]:
            yield from _widened(number[p] for p in self._read(self._piece("source", rank), narrow))
            yield from _widened(self._read(self._piece("destination", rank), narrow))

        found = {
            edge_ids_key(0): _widened(self._read(self._piece("position", rank), position)),
            tensor_key(EDGES): index(),
        }
        for name, member in self.graph.members.items():
            if member.role in (Role.NODE, Role.EDGE):
                pieces = self._read(self._piece(f"tensor-{name}", rank), np.dtype(np.uint8))
                found[tensor_key(name)] = (piece.data for piece in pieces)
        return found

    def _stand_in(self, rank: int, plan: HaloPlan, ids: Tensor, edges: int, identity: str) -> Shard:
        """The shard, whose tensors have shapes and no memory but for replicated ones."""
        rows = {Role.NODE: plan.num_owned, Role.EDGE: edges}
        tensors = {}
        for name, value in self.graph.tensors.items():
            role = self.graph.members[name].role
            if name == EDGES:
                tensors[name] = torch.zeros((), dtype=torch.int64).expand(2, edges)
            elif role is Role.REPLICATED:
                tensors[name] = value
            else:
                tensors[name] = torch.zeros((), dtype=value.dtype).expand(rows[role], *value.shape[1:])
        return Shard(
            rank=rank,
            world_size=self.parts,
            node_sets={"": NodeShard(self.nodes, {MESSAGES: plan}, {MESSAGES: ids})},
            edge_sets={
                "": EdgeShard(EdgeSet(), self.num_edges, torch.zeros((), dtype=torch.int64).expand(edges))
            },
            tensors=tensors,
            members=dict(self.graph.members),
            partition_id=identity,
        )

    def _finish(self, target: Path, identity: str, counts: list[dict[str, Any]]) -> None:
        """Make the files a set of shards; the work's own stay until it is there."""
        nothing = HaloPlan(0, 0, torch.empty(0, dtype=torch.int64), (0,) * self.parts, (0,) * self.parts)
        manifest = about_all_ranks(self._stand_in(0, nothing, torch.empty(0, dtype=torch.int64), 0, identity))
        with writing(target) as files:
            for entry in counts:
                made, place = self.work.folder / "files" / entry["file"], files.folder / entry["file"]
                place.unlink(missing_ok=True)
                with suppress(OSError):
                    os.link(made, place)
                if not place.exists():  # a file system without links
                    shutil.copyfile(made, place)
                files.put(manifest, {key: value for key, value in entry.items() if key != "sent"})
        self.work.remove()


def _part_counts(entry: Mapping[str, Any]) -> PartCounts:
    return PartCounts(
        {"": entry["num_owned"]}, {("", MESSAGES): entry["num_halo"]}, entry["sent"], entry["num_local_edges"]
    )


def _grouped(numbers: Any, count: int) -> Iterator[tuple[int, Any]]:
    """Each number that is there, and where, ascending."""
    for number, places in enumerate(group(torch.from_numpy(numbers), count)):
        if places.numel():
            yield number, places.numpy()


def _rows_of(npy: Npy, first: int, last: int) -> Any:
    """Rows as bytes, ``[rows, bytes of one]``."""
    found = np.empty((last - first) * npy.row_bytes, np.uint8)
    read_into(npy.path, npy.offset + first * npy.row_bytes, found)
    return found.reshape(last - first, npy.row_bytes)


def _append(path: Path, array: Any) -> None:
    with path.open("ab", buffering=0) as stream:
        view = np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
        at = 0
        while at < len(view):
            at += stream.write(view[at:])


def _widened(pieces: Any) -> Iterator[Any]:
    """The bytes of int64 numbers."""
    for piece in pieces:
        yield np.ascontiguousarray(piece, np.int64).view(np.uint8).data
