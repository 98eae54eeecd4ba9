"""Copies and files of a whole distributed module, before its first call and after."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from support.wrapped import EDGES, X, net, shards
from torch import Tensor, nn

import graphshard
from graphshard.testing import run_ranks


def saved(model: nn.Module) -> Any:
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


WAYS: dict[str, Callable[[nn.Module], Any]] = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda model: pickle.loads(pickle.dumps(model)),
    "torch.save": saved,
    "AveragedModel": torch.optim.swa_utils.AveragedModel,
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("called", [False, True])
def test_a_copy_is_a_module_of_its_own(way: str, called: bool) -> None:
    model = graphshard.distribute(net(0.5), seed=5)
    if called:
        model(X, EDGES)
    other = WAYS[way](model)
    inner = getattr(other, "module", other)
    assert (inner.seed, inner.step) == (5, int(called))
    torch.testing.assert_close(other(X, EDGES), model(X, EDGES))
    with torch.no_grad():
        inner.lin.weight.zero_()
    inner.temperature = 3.0
    assert model.lin.weight.any()
    assert model.temperature == 1.0


def test_a_copy_on_ranks_has_their_group_and_its_rows() -> None:
    """EMA of a model with a table: each rank's copy holds that rank's rows, and shares the shard."""

    class Table(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Parameter(X.clone())

        def forward(self, edge_index: Tensor) -> Tensor:
            return torch.zeros_like(self.table).index_add(0, edge_index[1], self.table[edge_index[0]])

    parts, tables = shards(), [Table(), Table()]

    def rank(number: int, _name: str, group: Any) -> Tensor:
        part = parts[number]
        model = graphshard.distribute(tables[number], group=group, shard=part, node_parameters=["table"])
        before = copy.deepcopy(model)
        model(part.edge_index)
        after = copy.deepcopy(before)
        assert after.table is not model.table
        assert torch.equal(after.state_dict()["table"], X)
        out: Tensor = part.gather(after(part.edge_index).detach(), group)
        return out

    for found in run_ranks(2, rank):
        torch.testing.assert_close(found, Table()(EDGES).detach())
