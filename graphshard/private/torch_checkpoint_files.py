"""Tensors in files of ``torch.distributed.checkpoint``, of one rank alone and without its pickled metadata."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner, DefaultSavePlanner
from torch.distributed.checkpoint.filesystem import FileSystemReader, FileSystemWriter, _StorageInfo
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.storage import WriteResult

__all__ = ["Layout", "read_tensors", "write_tensors"]

Layout = dict[str, dict[str, Any]]
"""Name of a tensor -> its dtype and shape, and in which file its bytes are, from where on: plain JSON."""


class _Writer(FileSystemWriter):
    """Keeps what ``finish`` is told, where each tensor is.

    Relies on the ``storage_data`` of a result being a ``_StorageInfo``: relative path, offset and length.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, single_file_per_rank=True, sync_files=True)
        self.places: dict[str, _StorageInfo] = {}

    def finish(self, metadata: Metadata, results: list[list[WriteResult]]) -> None:
        self.places = {result.index.fqn: result.storage_data for result in results[0]}
        super().finish(metadata, results)


def write_tensors(folder: Path, tensors: Mapping[str, Tensor]) -> Layout:
    """Write tensors into a folder that does not exist; their bytes are on disk when this returns.

    Relies on the documented steps of a save (``SavePlanner``, ``StorageWriter``), as ``dcp.save`` takes them.
    """
    planner, writer = DefaultSavePlanner(), _Writer(folder)
    planner.set_up_planner(dict(tensors), storage_meta=None, is_coordinator=True)
    writer.set_up_storage_writer(True)
    plan = writer.prepare_local_plan(planner.create_local_plan())
    plans, metadata = planner.create_global_plan([plan])
    (plan,) = writer.prepare_global_plan(plans)
    written = writer.write_data(planner.finish_plan(plan), planner)
    written.wait()
    writer.finish(metadata, [written.value()])
    return {
        name: {
            "dtype": str(tensor.dtype).removeprefix("torch."),
            "shape": list(tensor.shape),
            "file": writer.places[name].relative_path,
            "offset": writer.places[name].offset,
            "length": writer.places[name].length,
        }
        for name, tensor in tensors.items()
    }


def read_tensors(folder: Path, layout: Layout, names: Iterable[str]) -> dict[str, Tensor]:
    """Read tensors that :func:`write_tensors` wrote; nothing is unpickled.

    Relies on ``FileSystemReader`` reading the bytes of a tensor by ``torch.load(..., weights_only=True)``, and taking
    the metadata that it is given.

    Raises:
        Exception: of any kind, where the files are not what the layout says.
    """
    found = {n: torch.empty(layout[n]["shape"], dtype=getattr(torch, layout[n]["dtype"])) for n in names}
    if not found:
        return {}
    metadata = _metadata({name: layout[name] for name in found})
    planner, reader = DefaultLoadPlanner(), FileSystemReader(folder)
    planner.set_up_planner(dict(found), metadata, is_coordinator=True)
    reader.set_up_storage_reader(metadata, is_coordinator=True)
    plan = reader.prepare_local_plan(planner.create_local_plan())
    (plan,) = reader.prepare_global_plan(planner.create_global_plan([plan]))
    reader.read_data(planner.finish_plan(plan), planner).wait()
    return found


def _metadata(layout: Layout) -> Metadata:
    described: dict[str, Any] = {}
    places = {}
    for name, entry in layout.items():
        size = torch.Size(entry["shape"])
        origin = torch.Size([0] * len(size))
        described[name] = TensorStorageMetadata(
            TensorProperties(dtype=getattr(torch, entry["dtype"])), size, [ChunkStorageMetadata(origin, size)]
        )
        places[MetadataIndex(name, origin, 0)] = _StorageInfo(entry["file"], entry["offset"], entry["length"])
    return Metadata(state_dict_metadata=described, storage_data=places)
