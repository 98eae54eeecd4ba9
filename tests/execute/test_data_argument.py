"""``forward(self, data)``: a shard, or PyG's data on one rank, as the one object that forward reads."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from support.wrapped import CUT, EDGES, N, X, neighbours, shards
from torch import Tensor, nn

import graphshard
from graphshard.testing import assert_equivalent, run_ranks

Data = pytest.importorskip("torch_geometric.data")


class Plain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lin = nn.Linear(4, 3).double()
        self.lin.load_state_dict({"weight": X[:3], "bias": X[0, :3]})

    def forward(self, data: Any) -> Tensor:
        return self.lin(neighbours(data.x, data.edge_index))  # type: ignore[no-any-return]


class Reading(Plain):
    """What scripts read of a Data: counts, what is None, items, labels under a mask."""

    def forward(self, batch: Any, factor: float = 2.0, detail: bool = False) -> Any:
        h = self.lin(neighbours(batch["x"], batch.edge_index)) * factor
        if batch.edge_attr is None and "x" in batch:
            h = h + batch.x.mean(0)[:3] + batch.num_nodes / 7 + batch.num_edges
        loss = F.cross_entropy(h[batch.train_mask], batch.y[batch.train_mask])
        return (h, loss) if detail else loss


def data() -> Any:
    return Data.Data(x=X, edge_index=EDGES, y=torch.arange(N) % 3, train_mask=torch.arange(N) % 2 == 1)


@pytest.mark.parametrize("model", [Plain, Reading])
def test_a_graph_as_one_argument_is_exact(model: Any) -> None:
    assert_equivalent(model, data(), num_parts=3, method=torch.arange(N) % 3, modes=("train",))


def test_with_other_arguments_and_as_pygs_own_object() -> None:
    expected = Reading()(data(), 3.0, detail=True)
    parts = graphshard.partition(data(), 2, method=CUT)
    models = [Reading(), Reading()]

    def rank(number: int, _name: str, group: Any) -> tuple[Tensor, Tensor]:
        h, loss = graphshard.distribute(models[number], group=group)(parts[number], 3.0, detail=True)
        return parts[number].gather(h.detach(), group), loss

    for found in run_ranks(2, rank):
        torch.testing.assert_close(found, (expected[0].detach(), expected[1]))
    alone = graphshard.distribute(Reading())
    torch.testing.assert_close(alone(data(), 3.0, detail=True), expected)
    torch.testing.assert_close(alone(batch=data(), factor=3.0, detail=True), expected)


def test_types_of_a_heterogeneous_graph() -> None:
    class Typed(Plain):
        def forward(self, data: Any) -> Tensor:
            src, dst = data["a", "to", "b"].edge_index
            sent = self.lin(data.x_dict["a"])[src]
            out = sent.new_zeros(data["b"].num_nodes, 3).index_add(0, dst, sent)
            return out + data["b"].x[:, :3] * data["a"].num_nodes

    graph = Data.HeteroData()
    graph["a"].x, graph["b"].x = X, X[:9].flip(0)
    graph["a", "to", "b"].edge_index = torch.stack([EDGES[0], EDGES[1] % 9])
    assert_equivalent(Typed, graph, num_parts=2, modes=("train",))


def test_without_pyg_the_object_has_the_tensors(monkeypatch: pytest.MonkeyPatch) -> None:
    from graphshard.capture import data_argument

    monkeypatch.setattr(data_argument, "loaded_modules", dict)
    torch.testing.assert_close(graphshard.distribute(Plain())(shards(1)[0]), Plain()(data()))


def test_what_is_not_in_the_graph_is_said_with_what_is() -> None:
    class Other(Plain):
        def forward(self, features: Any) -> Tensor:
            return self.lin(features.relu())  # type: ignore[no-any-return]

    with pytest.raises(graphshard.CaptureError, match="'features' is the whole graph as one object, with x"):
        graphshard.distribute(Other())(shards(1)[0])


def test_a_gradient_of_pygs_object_is_refused() -> None:
    graph = data()
    graph.x = X.clone().requires_grad_()
    with pytest.raises(graphshard.CaptureError, match="x of the data that forward takes require a gradient"):
        graphshard.distribute(Plain())(graph)
