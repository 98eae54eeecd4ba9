"""A safetensors file whose tensors need not be in memory: header first, then each tensor's bytes as they come."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from graphshard.errors import ShardError
from graphshard.ranks.checksums import as_bytes

_DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
    torch.uint64: "U64",
    torch.uint32: "U32",
    torch.uint16: "U16",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
}


def write_streamed(path: Path, tensors: Mapping[str, Tensor], contents: Mapping[str, Iterable[Any]]) -> str:
    """Write a file that safetensors reads; its SHA-256.

    Args:
        path: of the file.
        tensors: by name, on any device; of those in ``contents`` dtype and shape count alone.
        contents: name -> the tensor's bytes in the order of its rows, in pieces.

    Raises:
        ShardError: a dtype is none of safetensors'. ValueError: a content has another number of bytes.
        OSError: the file cannot be written.
    """
    # Wide numbers first, so that each tensor begins at a multiple of its numbers' size.
    names = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
    header: dict[str, Any] = {}
    at = 0
    for name in names:
        tensor = tensors[name]
        if tensor.dtype not in _DTYPES:
            raise ShardError(f"{name!r} is {tensor.dtype}, which the file format cannot hold: convert it")
        end = at + tensor.numel() * tensor.element_size()
        header[name] = {
            "dtype": _DTYPES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [at, end],
        }
        at = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    digest = hashlib.sha256()
    with path.open("wb") as stream:
        for name, pieces in [
            ("", [len(text).to_bytes(8, "little"), text]),
            *_pieces(names, tensors, contents),
        ]:
            written = 0
            for piece in pieces:
                stream.write(piece)
                digest.update(piece)
                written += memoryview(piece).nbytes
            if name and written != header[name]["data_offsets"][1] - header[name]["data_offsets"][0]:
                raise ValueError(f"{name!r} has {written} bytes, which its shape does not say")
    return digest.hexdigest()


def _pieces(
    names: Iterable[str], tensors: Mapping[str, Tensor], contents: Mapping[str, Iterable[Any]]
) -> Iterable[tuple[str, Iterable[Any]]]:
    for name in names:
        yield name, contents[name] if name in contents else [as_bytes(tensors[name].cpu()).numpy().data]
