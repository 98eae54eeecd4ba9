"""``"mtkahypar"``: the halo rows themselves as what is minimised, by Mt-KaHyPar (the extra ``mtkahypar``).

Each node that others read is a net: itself and its readers. The parts that a net touches, less one, are its halo rows;
the field calls the sum over all nets the connectivity, or km1. Mt-KaHyPar works on as many threads as PyTorch and is
not reproducible: two runs of one seed may differ.
"""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from graphshard.errors import PartitionError
from graphshard.partitioning.adjacency import READERS, narrow_rows
from graphshard.partitioning.compiled import loops_for
from graphshard.partitioning.problem import IMBALANCE, Problem


def assign(problem: Problem) -> Tensor:
    """The part of each node, int64 ``[N]``.

    Raises:
        PartitionError: Mt-KaHyPar or numba is not there.
    """
    try:
        import mtkahypar
    except ImportError:
        raise PartitionError(
            "the partition method 'mtkahypar' needs Mt-KaHyPar: pip install 'graphshard[mtkahypar]', or use "
            "method='metis-volume'"
        ) from None
    loops_for("mtkahypar")
    started = _started(mtkahypar)
    context = started.context_from_preset(mtkahypar.PresetType.DEFAULT)
    context.set_partitioning_parameters(problem.num_parts, IMBALANCE - 1, mtkahypar.Objective.KM1)
    context.logging = False
    mtkahypar.set_seed(problem.seed)
    with tempfile.TemporaryDirectory(prefix="graphshard-") as folder:
        file = Path(folder) / "graph.hgr"
        _write(file, problem)
        cut: Any = started.hypergraph_from_file(str(file), context).partition(context)
    return torch.tensor(cut.get_partition(), dtype=torch.int64)


@cache
def _started(package: Any) -> Any:
    """It can be initialised once in a process, so that the number of threads of the first call stays."""
    return package.initialize(torch.get_num_threads())


def _write(file: Path, problem: Problem) -> None:
    """The hypergraph in hMETIS' format: a line for each net, numbers from 1 on, then the weight of each node."""
    starts, readers = narrow_rows(problem.edges, problem.num_nodes, READERS)
    read = [node for node in range(problem.num_nodes) if starts[node + 1] > starts[node]]
    with file.open("w") as stream:
        stream.write(f"{len(read)} {problem.num_nodes} 10\n")
        for node in read:
            pins = readers[starts[node] : starts[node + 1]] + 1
            stream.write(f"{node + 1} {' '.join(map(str, pins.tolist()))}\n")
        stream.writelines(f"{weight}\n" for weight in problem.weights.tolist())
