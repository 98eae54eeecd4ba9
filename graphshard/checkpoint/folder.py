"""Checkpoints on disk: a folder for each, complete when every rank's manifest stands in it.

    checkpoints/  step-00000010-3f2a9c01/  rank-00000/       the tensors, as torch.distributed.checkpoint writes them
                                           rank-00000.json   written last, by a rename: what there is, with checksums
                                           rank-00001/ ...
                  step-00000020-77b0e412/

No rank waits for another: a crash leaves a folder without all manifests, which loading passes over.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from graphshard.errors import CheckpointError
from graphshard.private.torch_checkpoint_files import read_tensors, write_tensors
from graphshard.shard.disk import sha256_of, sync
from graphshard.shard.manifest import manifest_checksum

FORMAT, VERSION = "graphshard checkpoint", 1
_NAME = re.compile(r"step-(\d{8,})-([0-9a-f]{8})")


@dataclass(frozen=True)
class Saved:
    """One checkpoint's folder.

    Attributes:
        path: of the folder. step: as it was saved.
    """

    path: Path
    step: int

    def ranks(self) -> list[dict[str, Any]]:
        """The manifests of all ranks, by rank.

        Raises:
            CheckpointError: one is missing or damaged.
        """
        first = _manifest(self.path, 0)
        return [first, *(_manifest(self.path, rank) for rank in range(1, first["world_size"]))]

    def check(self, rank: int, manifest: Mapping[str, Any]) -> None:
        """Compare the files of one rank with their checksums.

        Raises:
            CheckpointError: a file is missing, cut off or damaged.
        """
        for name, entry in manifest["files"].items():
            file = self.path / _rank_name(rank) / name
            try:
                size = file.stat().st_size
                if size != entry["size"]:
                    raise CheckpointError(f"{file} has {size} bytes instead of {entry['size']}")
                if sha256_of(file) != entry["sha256"]:
                    raise CheckpointError(f"{file} does not have the checksum that it was written with")
            except OSError as error:
                raise CheckpointError(f"cannot read {file}: {error}") from error

    def read(self, rank: int, manifest: Mapping[str, Any], names: list[str]) -> dict[str, Tensor]:
        """Tensors that one rank saved, on the CPU.

        Raises:
            CheckpointError: the files are not what the manifest says.
        """
        try:
            return read_tensors(self.path / _rank_name(rank), manifest["tensors"], names)
        except Exception as error:
            raise CheckpointError(f"{self.path / _rank_name(rank)} is damaged: {error}") from error


def _rank_name(rank: int) -> str:
    return f"rank-{rank:05d}"


def name_of(step: int, run: str) -> str:
    """The name of the folder of a step; ``run`` is 8 hexadecimal digits of one save."""
    return f"step-{step:08d}-{run}"


def found_in(folder: Path) -> list[Saved]:
    """Every checkpoint of a folder, whole or not, the newest first."""
    if not folder.is_dir():
        return []
    matches = [(match, path) for path in folder.iterdir() if (match := _NAME.fullmatch(path.name))]
    saved = [Saved(path, int(match[1])) for match, path in matches]
    return sorted(saved, key=lambda one: (one.step, _written_at(one.path)), reverse=True)


def _written_at(path: Path) -> int:
    try:
        return (path / f"{_rank_name(0)}.json").stat().st_mtime_ns
    except OSError:
        return 0


def write_rank(
    folder: Path, rank: int, world_size: int, tensors: Mapping[str, Tensor], document: Mapping[str, Any]
) -> None:
    """Write what one rank saves into a checkpoint's folder; its manifest last.

    Raises:
        OSError: the disk is full, the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    place = folder / _rank_name(rank)
    layout = write_tensors(place, tensors)
    paths = [place / name for name in sorted({entry["file"] for entry in layout.values()})]
    files = {path.name: {"size": path.stat().st_size, "sha256": sha256_of(path)} for path in paths}
    manifest = {
        "format": FORMAT,
        "version": VERSION,
        "rank": rank,
        "world_size": world_size,
        "files": files,
        "tensors": layout,
        "document": document,
    }
    manifest["sha256"] = manifest_checksum(manifest)
    scratch = folder / f".writing-{uuid.uuid4().hex}"
    with scratch.open("w", encoding="utf-8") as stream:
        json.dump(manifest, stream)
        stream.flush()
        os.fsync(stream.fileno())
    scratch.replace(folder / f"{_rank_name(rank)}.json")
    for path in (folder, folder.parent):
        sync(path)


def _manifest(folder: Path, rank: int) -> dict[str, Any]:
    file = folder / f"{_rank_name(rank)}.json"
    try:
        manifest = json.loads(file.read_bytes())
    except FileNotFoundError:
        raise CheckpointError(f"{file} is missing: rank {rank} did not finish writing") from None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{file} cannot be read: {error}") from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise CheckpointError(f"{file} is no manifest of a checkpoint")
    if manifest.get("version") != VERSION:
        raise CheckpointError(
            f"{file} is of version {manifest.get('version')}, this graphshard reads {VERSION}"
        )
    if manifest.get("sha256") != manifest_checksum(manifest):
        raise CheckpointError(f"{file} is damaged: its checksum does not fit")
    return manifest


def prune(folder: Path, keep: int, writing: Path) -> None:
    """Remove all but the newest ``keep`` whole checkpoints, and those that are not whole but for the one in writing."""
    whole = 0
    for saved in found_in(folder):
        is_whole = _is_whole(saved)
        whole += is_whole
        if saved.path != writing and (not is_whole or whole > keep):
            shutil.rmtree(saved.path, ignore_errors=True)


def _is_whole(saved: Saved) -> bool:
    try:
        saved.ranks()
    except CheckpointError:
        return False
    return True
