"""Imported for its effect, by the forkserver that every rank is forked from: numba is ready, once for all of them.

The first compiled loop of a process makes numba load 60 MB of its own tables. Ranks that are forked afterwards share
these pages, and their first step is a quarter of a second shorter. No thread is started here: none survives a fork.
"""

from __future__ import annotations

import torch

from graphshard.kernels.interface import kernels_for
from graphshard.kernels.structure import build

__all__: list[str] = []

_NODE = torch.zeros(1, dtype=torch.int64)
_TABLE = torch.zeros(1, 1, 1)
kernels_for(_TABLE).sums(build(_NODE, _NODE, 1, 1).by_row, None, _TABLE)
