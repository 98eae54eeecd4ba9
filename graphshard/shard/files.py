"""Shards on disk: a directory with one safetensors file per rank and a manifest.

    parts/  manifest.json  rank-00000-of-00002-3f2a9c01.safetensors  rank-00001-of-00002-77b0e412.safetensors

A rank file's name ends in the start of its checksum, so a new set never overwrites the old one's files: the
rename of the manifest is the one moment at which the new set replaces the old, wherever a crash comes.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import Any

import torch.distributed as dist
from safetensors import SafetensorError
from safetensors.torch import load_file

from graphshard.errors import ShardError
from graphshard.ranks.memory import return_mapped_pages
from graphshard.shard.checks import file_inside
from graphshard.shard.disk import Stamp, sha256_of, sync
from graphshard.shard.encoding import described, named, unpacked
from graphshard.shard.manifest import FORMAT, MANIFEST, VERSION, manifest_checksum, read_manifest
from graphshard.shard.shard import Shard
from graphshard.shard.streamed import write_streamed

UNFINISHED = ".unfinished"
"""What files are cut in, where the directory of the shards is there before they are."""

_OWN_FILES = re.compile(r"rank-\d{5,}-of-\d{5,}-[0-9a-f]{8}\.safetensors|\.writing-[0-9a-f]{32}")


def save(shards: Sequence[Shard], path: str | PathLike[str]) -> None:
    """Write all shards of one graph into the directory ``path``.

    A crash at any time leaves the old set or the new one, whole. An older set at ``path`` is replaced.

    Args:
        shards: every rank's shard, in the order of ranks.
        path: a directory that does not exist, is empty, or holds an older set; its parent must exist.

    Raises:
        ShardError: the shards are not one whole set, ``path`` holds something else, or writing failed.
    """
    if [s.rank for s in shards] != list(range(len(shards))) or any(
        s.world_size != len(shards) for s in shards
    ):
        raise ShardError("save takes every rank's shard of one graph, in the order of their ranks")
    if len({shard.partition_id for shard in shards}) > 1:
        raise ShardError("save takes the shards of one partition, but these were cut by different ones")
    _check_alike(shards)
    with writing(path) as files:
        for shard in shards:
            files.add(shard)


class ShardFiles:
    """A set of shards that is being written: :meth:`add` them in the order of their ranks."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._about: dict[str, Any] = {}
        self._ranks: list[dict[str, Any]] = []

    def add(self, shard: Shard) -> None:
        """Write the next rank's file."""
        self.put(about_all_ranks(shard), _write_rank(shard, self.folder))

    def put(self, about: dict[str, Any], entry: dict[str, Any]) -> None:
        """Take up a rank's file that is in the folder: what its manifest says of all ranks, and of this one."""
        self._about = about
        self._ranks.append(entry)

    def finish(self) -> None:
        """By a rename the manifest makes the files the current set."""
        manifest = {**self._about, "ranks": self._ranks}
        manifest["sha256"] = manifest_checksum(manifest)
        scratch = self.folder / f".writing-{uuid.uuid4().hex}"
        with scratch.open("w", encoding="utf-8") as stream:
            stream.write(json.dumps(manifest, indent=1) + "\n")
            stream.flush()
            os.fsync(stream.fileno())
        sync(self.folder)  # the rank files' names are on disk before the manifest that speaks of them
        scratch.replace(self.folder / MANIFEST)
        sync(self.folder)


@contextmanager
def writing(path: str | PathLike[str]) -> Iterator[ShardFiles]:
    """Inside the block shards are written one by one; they are at ``path`` when it ends, and not if it fails.

    Raises:
        ShardError: ``path`` holds something else, or writing failed.
    """
    target = Path(path)
    try:
        with alone_in(target.resolve().parent):  # the same for "." and for its name
            if is_for_shards(target):  # written to, not replaced: it may be ".", or where a volume is mounted
                try:
                    files = ShardFiles(target)
                    yield files
                    files.finish()
                finally:
                    _remove_files_of_no_set(target)
                return
            _remove_scratch(target)
            with _scratch_directory(target) as scratch:
                files = ShardFiles(scratch)
                yield files
                files.finish()
                scratch.rename(target)
            sync(target.parent)
    except OSError as error:
        raise ShardError(f"cannot write shards to {target}: {error}") from error


def about_all_ranks(shard: Shard) -> dict[str, Any]:
    """What the manifest says of all ranks."""
    return {
        "format": FORMAT,
        "version": VERSION,
        "world_size": shard.world_size,
        "positional": shard.positional,
        **described(shard),
    }


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Inside the block no other save runs in a folder; on a file system without locks (some NFS) one may."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError, ImportError):
            import fcntl  # of POSIX

            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _remove_scratch(target: Path) -> None:
    """Remove what saves to the same place left that were killed."""
    own = re.compile(rf"\.{re.escape(target.name)}-[0-9a-f]{{32}}")
    for path in target.parent.iterdir():
        if own.fullmatch(path.name):
            shutil.rmtree(path, ignore_errors=True)


def _check_alike(shards: Sequence[Shard]) -> None:
    """Tensors that were put in since have the same names, roles, dtypes and widths on all ranks."""
    first, *others = ({e["name"]: e for e in described(shard)["tensors"]} for shard in shards)
    for rank, tensors in enumerate(others, start=1):
        for name in {**first, **tensors}:
            one, other = (
                f"{e['role']} {e['dtype']} {e['row_shape']}" if (e := found.get(name)) else "missing"
                for found in (first, tensors)
            )
            if one != other:
                raise ShardError(
                    f"save takes shards with the same tensors, but {name!r} is {one} on rank 0 but {other} on rank "
                    f"{rank}: assign it on every rank"
                )


def load_shard(
    path: str | PathLike[str],
    rank: int | None = None,
    world_size: int | None = None,
    *,
    verify_checksum: bool = True,
) -> Shard:
    """Read one rank's shard; no other rank's file is opened.

    Args:
        path: a directory written by :func:`save`.
        rank: which shard; by default this process's rank in torch.distributed, else ``RANK`` of the
            environment (torchrun sets it), else 0.
        world_size: number of ranks of the job; by default of torch.distributed, else ``WORLD_SIZE``, else the
            directory's own if ``rank`` is given, else 1.
        verify_checksum: compare the file's sha256 with the manifest's. Its size is compared in any case.

    Returns:
        The shard, on the CPU.

    Raises:
        ShardError: a file is missing, damaged or of an unknown version, or was made for another world size.
    """
    folder = Path(path)
    manifest = read_manifest(folder)
    parts = manifest["world_size"]
    rank, size = _rank_and_world_size(rank, world_size, parts)
    if size != parts:
        raise ShardError(
            f"{folder} was made for {parts} ranks, this job has {size}: run `graphshard partition` again "
            f"with --parts {size}"
        )
    if not 0 <= rank < parts:
        raise ShardError(f"rank {rank} is out of range: {folder} has shards 0..{parts - 1}")
    try:
        file = file_inside(folder, manifest["ranks"][rank]["file"])
    except ValueError as error:
        raise ShardError(f"{folder / MANIFEST} is damaged: {error}") from None
    stamp = _checked(file, manifest["ranks"][rank], verify_checksum)
    try:
        shard = replace(unpacked(load_file(file), manifest, rank), source=stamp)
    except (SafetensorError, KeyError, OSError, RuntimeError, ValueError) as error:
        raise ShardError(f"{file} is damaged: {' '.join(str(error).split())}") from error
    # They were checked, and are seldom read again.
    return_mapped_pages(edges.edge_ids for edges in shard.edge_sets.values())
    return shard


def _rank_and_world_size(rank: int | None, world_size: int | None, parts: int) -> tuple[int, int]:
    if dist.is_available() and dist.is_initialized():
        here, size = dist.get_rank(), dist.get_world_size()
    else:
        here = _from_environment("RANK", 0)
        size = _from_environment("WORLD_SIZE", 1 if rank is None else parts)
    return here if rank is None else rank, size if world_size is None else world_size


def _from_environment(name: str, default: int) -> int:
    text = os.environ.get(name)
    try:
        return default if text is None else int(text)
    except ValueError:
        raise ShardError(f"the environment variable {name} is {text!r}, not a number") from None


@contextmanager
def _scratch_directory(target: Path) -> Iterator[Path]:
    """A new directory beside ``target``, removed unless it was renamed away."""
    scratch = target.parent / f".{target.name}-{uuid.uuid4().hex}"
    scratch.mkdir()
    try:
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def is_for_shards(target: Path) -> bool:
    """Whether there is a directory that is empty, or of shards alone: what a killed save left counts as none.

    Raises:
        ShardError: there is something else.
    """
    if not target.exists():
        return False
    if target.is_dir() and all(
        file.name == UNFINISHED or _OWN_FILES.fullmatch(file.name) for file in target.iterdir()
    ):
        return True
    with suppress(OSError, ValueError):
        manifest = json.loads((target / MANIFEST).read_bytes())
        if isinstance(manifest, dict) and manifest.get("format") == FORMAT:
            return True
    raise ShardError(f"{target} exists and holds no shards: give another path, nothing was overwritten")


def _write_rank(shard: Shard, folder: Path) -> dict[str, Any]:
    return write_streamed_rank(shard, {}, folder)


def write_streamed_rank(shard: Shard, contents: Mapping[str, Iterable[Any]], folder: Path) -> dict[str, Any]:
    """Write the file of a rank some of whose tensors are not in memory; what the manifest says of it.

    Args:
        shard: all but the values of some tensors: those may be expanded from one number.
        contents: name of a tensor in the file (``graphshard.shard.encoding``) -> its bytes, in pieces.
        folder: of the file.

    Raises:
        OSError: it cannot be written.
    """
    scratch = folder / f".writing-{uuid.uuid4().hex}"
    digest = write_streamed(scratch, named(shard), contents)
    return _placed(scratch, shard, folder, digest)


def _placed(scratch: Path, shard: Shard, folder: Path, digest: str) -> dict[str, Any]:
    """Give a rank's file its name; what the manifest says of it."""
    sync(scratch)
    name = f"rank-{shard.rank:05d}-of-{shard.world_size:05d}-{digest[:8]}.safetensors"
    size = scratch.stat().st_size
    scratch.replace(folder / name)
    return {
        "file": name,
        "size": size,
        "sha256": digest,
        "num_owned": shard.num_owned,
        "num_halo": shard.num_halo,
        "num_local_edges": shard.num_local_edges,
    }


def _remove_files_of_no_set(folder: Path) -> None:
    """Remove rank files that no manifest speaks of: of the set before, or of one that failed."""
    try:
        ranks = read_manifest(folder)["ranks"] if (folder / MANIFEST).exists() else []
    except ShardError:
        return  # which files are those of an older version is not known
    current = {entry["file"] for entry in ranks}
    for file in folder.iterdir():
        if file.name not in current and _OWN_FILES.fullmatch(file.name):
            file.unlink()


def _checked(file: Path, entry: dict[str, Any], verify_checksum: bool) -> Stamp:
    """The file as it was before it was checked."""
    try:
        found = Stamp.of(file)
        if found.size != entry["size"]:
            raise ShardError(f"{file} is damaged: it has {found.size} bytes instead of {entry['size']}")
        if verify_checksum and sha256_of(file) != entry["sha256"]:
            raise ShardError(f"{file} is damaged: its checksum does not fit the manifest")
    except FileNotFoundError:
        raise ShardError(f"{file} is missing: copy it too, or run `graphshard partition` again") from None
    except OSError as error:
        raise ShardError(f"cannot read {file}: {error}") from error
    return found
