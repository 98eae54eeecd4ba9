"""Graphs read from files: planetoid's raw files, ``.pt`` and ``.npz``; and the options of a spec."""

from __future__ import annotations

import io
import pickle
import shutil
import struct
import tempfile
import zipfile
from collections.abc import Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from graphshard.errors import DataError
from graphshard.graph.data import GraphData, as_graph_data
from graphshard.private.pyg import data_classes, import_pyg, is_hetero_data
from graphshard.private.torch_serialization import unsafe_class
from graphshard.tools.data.array_pickle import read_array, read_neighbours
from graphshard.tools.data.node_task import EDGE_KEYS, MASKS, from_tensors, hetero_task

_NPZ_KEYS = {"x", "edge_index", "y", "split", *MASKS, *EDGE_KEYS}
_PLANETOID_PARTS = ("x", "tx", "allx", "y", "ty", "ally", "graph", "test.index")


@dataclass(frozen=True)
class Options:
    """The options given in one spec."""

    spec: str
    argument: str
    given: dict[str, str]

    def read(self, **defaults: Any) -> list[Any]:
        """Values in the order of ``defaults``, whose types are the options'.

        Raises:
            DataError: an option that ``defaults`` does not name, or a value of another type.
        """
        unknown = sorted(self.given.keys() - defaults.keys())
        if unknown:
            known = f"known are {', '.join(defaults)}" if defaults else "it takes none"
            raise DataError(f"{self.spec!r} has no option {unknown[0]!r}: {known}")
        return [self._value(name, default) for name, default in defaults.items()]

    def _value(self, name: str, default: Any) -> Any:
        if name not in self.given:
            return default
        try:
            return type(default)(self.given[name])
        except ValueError:
            kind = type(default).__name__
            raise DataError(f"option {name!r} of {self.spec!r} must be of type {kind}") from None


def parse_options(spec: str, argument: str, pairs: list[str]) -> Options:
    """``["k=5", ""]`` -> options; empty pairs are skipped.

    Raises:
        DataError: a pair has no "=".
    """
    given = {}
    for pair in filter(None, pairs):
        name, equals, value = pair.partition("=")
        if not equals:
            raise DataError(f"{pair!r} in {spec!r} is not of the form option=value")
        given[name] = value
    return Options(spec, argument, given)


def read_planetoid(options: Options) -> GraphData:
    """``NAME?root=PATH``: the raw files, read in place. PyG's dataset class would write beside them."""
    (root,) = options.read(root="data")
    name = options.argument
    folder = Path(root) / name / "raw"
    pyg = import_pyg("torch_geometric.io")
    if pyg is None:
        raise DataError("planetoid needs PyTorch Geometric: pip install graphshard[pyg]")
    prefix = name.lower()
    missing = [part for part in _PLANETOID_PARTS if not (folder / f"ind.{prefix}.{part}").is_file()]
    if not name or missing:
        raise DataError(f"{folder} holds no planetoid data: ind.{prefix}.{(missing or ['*'])[0]} is missing")
    with tempfile.TemporaryDirectory(prefix="graphshard-planetoid-") as copies:
        # PyG would run what the pickles ask for: it is given copies, written here, of the numbers alone.
        _copy_planetoid(folder, Path(copies), prefix)
        try:
            with redirect_stdout(io.StringIO()):
                data = pyg.read_planetoid_data(copies, prefix)
        except (OSError, ValueError, IndexError, RuntimeError, TypeError, MemoryError) as error:
            raise DataError(f"the planetoid files in {folder} are damaged: {error}") from error
    return from_tensors({key: data[key] for key in ("x", "edge_index", "y", *MASKS)}, name, seed=0)


def _copy_planetoid(folder: Path, copies: Path, prefix: str) -> None:
    for part in _PLANETOID_PARTS:
        name = f"ind.{prefix}.{part}"
        if part == "test.index":
            shutil.copyfile(folder / name, copies / name)
            continue
        read = read_neighbours if part == "graph" else read_array
        (copies / name).write_bytes(pickle.dumps(read(folder / name)))


def read_torch(options: Options) -> GraphData:
    """``PATH.pt``: a PyG ``Data``, ``HeteroData`` or dict of tensors; read without running code unless ``trust=1``."""
    seed, trust = options.read(seed=0, trust=0)
    path = _existing(options.argument)
    _check_zip(path)
    try:
        with torch.serialization.safe_globals(data_classes()):
            data = torch.load(path, map_location="cpu", weights_only=not trust)
    except (OSError, RuntimeError, EOFError, AttributeError, ImportError, ValueError, KeyError) as error:
        raise DataError(f"{path} cannot be read with torch.load: {error}") from error
    except pickle.UnpicklingError as error:
        unsafe = unsafe_class(error)
        if unsafe is None:
            raise DataError(
                f"{path} cannot be read with torch.load: it is not a file of torch.save"
            ) from error
        raise DataError(
            f"{path} holds {unsafe}, which could run code when read: if you trust the file, use "
            f"'{options.argument}?trust=1'"
        ) from error
    if isinstance(data, (tuple, list)):
        raise DataError(
            f"{path} holds a {type(data).__name__} (a dataset of many graphs?): save one Data object"
        )
    if is_hetero_data(data):
        return hetero_task(data, path.stem, seed)
    values = data.to_dict() if hasattr(data, "to_dict") else data
    if not isinstance(values, Mapping):
        raise DataError(f"{path} holds a {type(data).__name__}, not a PyG Data or a dict of tensors")
    if any(isinstance(value, Mapping) for value in values.values()):
        return replace(as_graph_data(values), name=path.stem)
    tensors = {str(name): value for name, value in values.items() if isinstance(value, Tensor)}
    return from_tensors(tensors, path.stem, seed)


def _check_zip(path: Path) -> None:
    """Compare the checksums in a file of torch.save, which torch.load does not.

    Raises:
        DataError: a bit of it changed since it was written.
    """
    try:
        if not zipfile.is_zipfile(path):
            return  # of before torch 1.6, or no such file: torch.load says more
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except Exception as error:  # of any class: see read_npz
        raise DataError(f"{path} is damaged: {error}") from error
    if damaged is not None:
        raise DataError(
            f"{path} is damaged: {damaged} in it does not have the checksum that it was written with"
        )


_LOCAL_HEADER = 30
"""Bytes before the name of an entry of an archive, at least: where more lie between two entries, one is not listed."""


def _check_listed(stream: BinaryIO) -> None:
    """Open each array of an archive, and look for others: one that its list lost or misspells would not be missed.

    Raises:
        Exception: of any class: see :func:`read_npz`.
    """
    if not zipfile.is_zipfile(stream):
        return  # np.load says more
    with zipfile.ZipFile(stream) as archive:
        entries = sorted(archive.infolist(), key=lambda entry: entry.header_offset)
        for entry in entries:
            archive.open(entry).close()  # compares its name with the one beside its content
        ends = [0, *(_end_of(stream, entry) for entry in entries)]
        starts = [*(entry.header_offset for entry in entries), archive.start_dir]
    if any(start - end >= _LOCAL_HEADER for start, end in zip(starts, ends, strict=True)):
        raise ValueError("the archive holds more than it lists")


def _end_of(stream: BinaryIO, entry: zipfile.ZipInfo) -> int:
    stream.seek(entry.header_offset + _LOCAL_HEADER - 4)
    name, extra = struct.unpack("<HH", stream.read(4))
    return int(entry.header_offset + _LOCAL_HEADER + name + extra + entry.compress_size)


def read_npz(options: Options) -> GraphData:
    """``PATH.npz``: the arrays that ``sources.load_data`` lists; pickled objects are refused."""
    (seed,) = options.read(seed=0)
    path = _existing(options.argument)
    try:
        # Opened here, for np.load leaves a broken archive open.
        with path.open("rb") as stream:
            _check_listed(stream)
            stream.seek(0)
            with np.load(stream, allow_pickle=False) as archive:
                kept = [key for key in archive.files if key in _NPZ_KEYS]
                arrays = {key: _array(archive, key) for key in kept}
                classes = len(archive["classes"]) if "classes" in archive.files else 0
    except Exception as error:  # of any class: zlib.error, MemoryError, NotImplementedError ...
        said = str(error) or type(error).__name__
        raise DataError(f"{path} cannot be read as arrays of numbers: {said}") from error
    odd = [key for key, array in arrays.items() if array.dtype.kind not in "biuf"]
    if odd:
        raise DataError(f"{odd[0]!r} in {path} has dtype {arrays[odd[0]].dtype}, not numbers")
    tensors = {key: torch.from_numpy(_widened(array)) for key, array in arrays.items()}
    return from_tensors(tensors, path.stem, seed, classes)


def _array(archive: Any, key: str) -> np.ndarray[Any, Any]:
    found = archive[key]
    if not isinstance(found, np.ndarray):
        raise ValueError(f"{key!r} in it is no array")
    return found


def _widened(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Files keep numbers narrow to save space; models want int64 and float32."""
    wanted = {"i": np.int64, "u": np.int64, "f": np.float32}
    return array.astype(wanted.get(array.dtype.kind, array.dtype))


def _existing(name: str) -> Path:
    path = Path(name).expanduser()
    if not path.is_file():
        raise DataError(f"there is no file {path}")
    return path
