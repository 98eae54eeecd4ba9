"""PyG (``torch_geometric``), which is optional: found among the modules that are imported, or imported on demand.

What its layers keep is named by no documentation; the formulas that read it stand in ``graphshard.capture.layers``.
"""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import Any
from unittest import mock

from torch import Tensor

__all__ = [
    "HGT",
    "data_attributes",
    "data_classes",
    "hgt_of",
    "import_pyg",
    "is_data",
    "is_hetero_data",
    "is_sparse_tensor",
    "loaded_modules",
    "replaced_layers",
    "softmax",
    "store_key",
    "without_segment_matmul",
]


def import_pyg(module: str) -> Any:
    """A module of PyG, or None where PyG is not installed; its deprecation warnings are not ours."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            return importlib.import_module(module)
    except ImportError:
        return None


def loaded_modules() -> dict[str, ModuleType]:
    """PyG's modules that are imported, by their names.

    Relies on its layers looking up ``int``, ``float`` and ``len`` as globals of these modules.
    """
    found = {name: module for name, module in sys.modules.items() if name.split(".")[0] == "torch_geometric"}
    return {name: module for name, module in found.items() if isinstance(module, ModuleType)}


# ---- data ------------------------------------------------------------------------------------------------------


def data_classes() -> list[Any]:
    """What a pickled ``Data`` or ``HeteroData`` is made of, all of it plain data; other versions lack some.

    Relies on the names of the classes in ``torch_geometric.data.data``, ``hetero_data`` and ``storage``.
    """
    data, storage = import_pyg("torch_geometric.data.data"), import_pyg("torch_geometric.data.storage")
    hetero = import_pyg("torch_geometric.data.hetero_data")
    names = (
        *((data, name) for name in ("Data", "DataEdgeAttr", "DataTensorAttr")),
        *((hetero, name) for name in ("HeteroData",)),
        *((storage, name) for name in ("GlobalStorage", "BaseStorage", "NodeStorage", "EdgeStorage")),
    )
    return [getattr(module, name) for module, name in names if hasattr(module, name)]


def is_data(value: Any) -> bool:
    """Whether a value is a ``Data`` or a ``HeteroData``; PyG need not be imported. Relies on the class ``BaseData``."""
    return any(base.__name__ == "BaseData" for base in type(value).__mro__)


def data_attributes() -> frozenset[str]:
    """The public attributes and methods of ``Data`` and ``HeteroData``, documented; none where PyG is not imported."""
    data = sys.modules.get("torch_geometric.data")
    classes = [getattr(data, name, None) for name in ("Data", "HeteroData")] if data is not None else []
    return frozenset(name for c in classes if c is not None for name in dir(c) if not name.startswith("_"))


def is_hetero_data(value: Any) -> bool:
    """Whether a value is a ``HeteroData``; PyG need not be imported. Relies on the name of the class."""
    return any(base.__name__ == "HeteroData" for base in type(value).__mro__)


def is_sparse_tensor(value: Any) -> bool:
    """Whether a value is a ``torch_sparse.SparseTensor``, which torch does not know. Relies on the class's name."""
    return type(value).__name__ == "SparseTensor"


def store_key(store: Any) -> Any:
    """The node type or edge type that a store of a ``HeteroData`` belongs to; None of the global one.

    Relies on ``BaseStorage._key``.
    """
    return store._key


# ---- layers ----------------------------------------------------------------------------------------------------

_LAYERS = {
    "HeteroLinear": "torch_geometric.nn.dense.linear",
    "HGTConv": "torch_geometric.nn.conv.hgt_conv",
}


@contextmanager
def replaced_layers(**forwards: Callable[..., Any]) -> Iterator[None]:
    """Inside the block, layers run another ``forward(self, ...)``: ``HeteroLinear``, ``HGTConv``.

    Relies on the modules in which PyG has their classes; one that is not imported is not needed.
    """
    layers = {name: getattr(sys.modules.get(_LAYERS[name]), name, None) for name in forwards}
    patches = [mock.patch.object(c, "forward", forwards[name]) for name, c in layers.items() if c is not None]
    try:
        for patch in patches:
            patch.start()
        yield
    finally:
        for patch in reversed(patches):
            patch.stop()


@contextmanager
def without_segment_matmul() -> Iterator[None]:
    """Inside the block, PyG multiplies the rows of each type in a loop: a grouped product chooses kernels by the data.

    Relies on the variable ``torch_geometric.backend.use_segment_matmul``.
    """
    backend = getattr(sys.modules.get("torch_geometric"), "backend", None)
    if backend is None:
        yield
        return
    with mock.patch.object(backend, "use_segment_matmul", False):
        yield


def softmax(scores: Tensor, index: Tensor, num_nodes: Any) -> Tensor:
    """``torch_geometric.utils.softmax``, documented, of a PyG that is imported already."""
    found: Tensor = sys.modules["torch_geometric.utils"].softmax(scores, index, num_nodes=num_nodes)
    return found


@dataclass(frozen=True)
class HGT:
    """What an ``HGTConv`` is made of.

    Attributes:
        heads, width: of its attention. edge_types: in the order of the weights. targets: node types that edges reach.
        keys, values: ``[heads * edge types, width, width]``, by head, then by type of edge.
        kqv: x by node type -> keys, queries and values, side by side. out: the layer behind the sum.
        priority: of an edge type, ``[1, heads]``. skip: of a node type.
    """

    heads: int
    width: int
    edge_types: Mapping[tuple[str, str, str], int]
    targets: frozenset[str]
    keys: Tensor
    values: Tensor
    kqv: Callable[[Mapping[str, Tensor]], dict[str, Tensor]]
    out: Callable[[Mapping[str, Tensor]], dict[str, Tensor]]
    priority: Callable[[tuple[str, str, str]], Tensor]
    skip: Mapping[str, Tensor]


def hgt_of(layer: Any) -> HGT:
    """The parts of an ``HGTConv``.

    Relies on its attributes ``heads``, ``out_channels``, ``edge_types_map``, ``dst_node_types``, ``k_rel``, ``v_rel``,
    ``kqv_lin``, ``out_lin``, ``p_rel`` and ``skip``, and on the order of the weights by head, then by edge type.
    """
    return HGT(
        heads=layer.heads,
        width=layer.out_channels // layer.heads,
        edge_types=layer.edge_types_map,
        targets=frozenset(layer.dst_node_types),
        keys=layer.k_rel.weight,
        values=layer.v_rel.weight,
        kqv=layer.kqv_lin,
        out=layer.out_lin,
        priority=lambda relation: layer.p_rel["__".join(relation)],
        skip=layer.skip,
    )
