"""Buffers with a row for each node: cut as node parameters are, whole in every state, named where they are not cut."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from support.wrapped import EDGES, N, X, neighbours, shards
from torch import Tensor, nn

import graphshard
from graphshard.testing import run_ranks


class Encoded(nn.Module):
    """A table that is trained and one that is not, flags of nodes, and a buffer that no state holds."""

    encoding: Tensor
    flags: Tensor
    degrees: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.lin = nn.Linear(4, 3).double()
        self.lin.load_state_dict({"weight": X[:3], "bias": X[0, :3]})
        self.table = nn.Parameter(X.flip(0).clone())
        self.register_buffer("encoding", (X * 3).sin())
        self.register_buffer("flags", torch.arange(N) % 3 == 0)
        self.register_buffer("degrees", torch.arange(N), persistent=False)

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        h = (x + self.encoding) * self.flags.unsqueeze(-1) + self.table
        return self.lin(neighbours(h, edge_index)) / (1 + self.degrees.unsqueeze(-1))  # type: ignore[no-any-return]


NAMES = ["table", "encoding", "flags", "degrees"]


def test_a_buffer_with_a_row_for_each_node_is_exact() -> None:
    graphshard.testing.assert_equivalent(
        Encoded(),
        {"x": X, "edge_index": EDGES},
        num_parts=3,
        method=torch.arange(N) % 5 // 2,
        node_parameters=NAMES,
        modes=("train",),
    )


def test_states_are_whole_and_are_loaded_by_rows() -> None:
    parts, models = shards(), [Encoded(), Encoded()]
    with torch.no_grad():
        models[1].encoding.zero_()  # rank 0's values count
    expected = Encoded()(X, EDGES).detach()

    def rank(number: int, _name: str, group: Any) -> tuple[Any, Any, Any]:
        part = parts[number]
        model = graphshard.distribute(models[number], group=group, shard=part, node_parameters=NAMES)
        assert model.encoding.shape == (14, 4)
        first = part.gather(model(part).detach(), group)
        state = model.state_dict()
        model.load_state_dict({**state, "encoding": 2 * state["encoding"]})
        return first, state, model.encoding.local() / 2

    for number, (out, state, rows) in enumerate(run_ranks(2, rank)):
        torch.testing.assert_close(out, expected)
        assert "degrees" not in state
        for name, value in Encoded().state_dict().items():
            assert torch.equal(state[name], value), name
        assert torch.equal(rows, Encoded().encoding[parts[number].node_set().owned_ids])


def test_a_buffer_of_rows_that_is_not_cut_is_named() -> None:
    shard = shards(1)[0]
    with pytest.raises(
        graphshard.GraphshardError, match=r"'encoding'.*node_parameters=\['table', 'encoding'"
    ):
        graphshard.distribute(Encoded())(shard)


def test_a_buffer_of_rows_that_forward_writes_is_refused() -> None:
    class Written(Encoded):
        def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
            self.encoding.mul_(0.5)
            return super().forward(x, edge_index)

    shard = shards(1)[0]
    with pytest.raises(graphshard.GraphshardError, match="writes into"):
        graphshard.distribute(Written(), shard=shard, node_parameters=NAMES)(shard)


@pytest.mark.parametrize("held", ["buffers", "attributes"])
def test_a_graph_that_the_model_holds_is_named(held: str) -> None:
    class Inside(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lin = nn.Linear(4, 3).double()
            if held == "buffers":
                self.register_buffer("x", X)
                self.register_buffer("edge_index", EDGES)
            else:
                self.x, self.edge_index = X, EDGES

        def forward(self) -> Tensor:
            return neighbours(self.lin(self.x), self.edge_index)

    with pytest.raises(graphshard.CaptureError, match=r"in 'x', 'edge_index', is .*forward\(self, x, edge"):
        graphshard.distribute(Inside())(shards(1)[0])
