"""The halo: who sends which rows to whom.

A rank numbers its owned nodes 0..n-1 and its halo nodes n..n+h-1, the halo grouped by the rank that owns
them. A plan holds what one rank needs for one exchange, in both directions::

            rank 0                                rank 1
    owned        halo                     owned        halo
    [A B]        [C]                      [C D E]      [A]
     |            ^                        |            ^
     |            +--- send_index=[0] -----+            |
     +---------------- send_index=[0] ------------------+

Halo sync sends owned rows along the arrows; halo reduce, its adjoint, sends the halo's rows back.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class HaloPlan:
    """One rank's side of the halo exchange of one node type.

    Attributes:
        num_owned: n, the number of nodes whose values this rank computes.
        num_halo: h, the number of copies of other ranks' nodes that its edges read; ``sum(recv_splits)``.
        send_index: int64 ``[sum(send_splits)]``; local numbers (0..n-1) of the owned rows to send, grouped
            by receiving rank, each group in the receiver's own order of those halo rows.
        send_splits: how many of those rows go to each rank; ``len == world_size``.
        recv_splits: how many halo rows come from each rank; ``len == world_size``.
    """

    num_owned: int
    num_halo: int
    send_index: Tensor
    send_splits: tuple[int, ...]
    recv_splits: tuple[int, ...]

    @classmethod
    def single(cls, num_nodes: int) -> HaloPlan:
        """The plan of a graph that is not split: everything owned, nothing sent."""
        return cls(num_nodes, 0, torch.empty(0, dtype=torch.int64), (0,), (0,))

    def to(self, device: torch.device | str) -> HaloPlan:
        """The same plan with ``send_index`` on ``device``."""
        return HaloPlan(
            self.num_owned, self.num_halo, self.send_index.to(device), self.send_splits, self.recv_splits
        )
