"""A model of typed edges that other processes import."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor, nn

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)
    import torch_geometric.nn as pyg

DEPENDENCIES = [("package", word, "package") for word in ("depends", "recommends", "suggests")]


class Sections(nn.Module):
    """The section of a package from its description and what it depends on, by kind of dependency."""

    def __init__(self) -> None:
        super().__init__()
        widths = (128, 32), (32, 58)
        self.layers = nn.ModuleList(
            pyg.HeteroConv({kind: pyg.SAGEConv(i, o) for kind in DEPENDENCIES}) for i, o in widths
        )

    def forward(
        self, x_dict: dict[str, Tensor], edge_index_dict: dict[tuple[str, str, str], Tensor]
    ) -> dict[str, Tensor]:
        first, second = self.layers
        hidden = {name: torch.relu(x) for name, x in first(x_dict, edge_index_dict).items()}
        return second(hidden, edge_index_dict)
