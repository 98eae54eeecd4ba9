"""Parameters with a row for each node: cut over the ranks, equal to one machine's, whole in every state."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.strategies import Case, cases, examples
from torch import Tensor, nn

import graphshard
from graphshard.errors import GraphshardError, ShardError
from graphshard.testing import run_ranks

EDGES = torch.tensor([[0, 1, 2, 2, 3, 4, 0, 5, 5], [1, 2, 0, 3, 4, 2, 3, 5, 0]])
PARTS = torch.tensor([0, 0, 2, 2, 2, 0])  # rank 1 has no node


class LightGCN(nn.Module):
    """Propagated embeddings, as in He et al., LightGCN, 2020, scored for each edge."""

    def __init__(self, nodes: int, tied: bool = False) -> None:
        super().__init__()
        self.embedding = nn.Embedding(nodes, 3)
        self.bias = nn.Parameter(torch.randn(nodes))
        self.lin = nn.Linear(3, 3)
        if tied:
            self.again = nn.Embedding(nodes, 3)
            self.again.weight = self.embedding.weight

    def forward(self, edge_index: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        src, dst = edge_index[0], edge_index[1]
        x = self.embedding.weight
        if hasattr(self, "again"):
            x = x + 0.5 * self.again.weight
        h = x + torch.zeros_like(x).index_add(0, dst, torch.tanh(x[src]))
        out = self.lin(h) + self.bias.unsqueeze(-1)
        score = (h[src] * h[dst]).sum(-1)
        return out, torch.nn.functional.cross_entropy(out, y) + score.sigmoid().mean()


NAMES = ["embedding.weight", "bias"]


def data_of(nodes: int, edges: Tensor) -> dict[str, Tensor]:
    return {"edge_index": edges, "y": torch.arange(nodes) % 2}


def partition(nodes: int, edges: Tensor, assignment: Tensor, parts: int) -> Any:
    roles = {"edge_index": "edge_index", "y": "node"}
    return graphshard.partition(data_of(nodes, edges), parts, method=assignment, roles=roles, num_nodes=nodes)


def steps(model: nn.Module, call: Any, optimizer: torch.optim.Optimizer, count: int) -> list[float]:
    losses = []
    for _ in range(count):
        optimizer.zero_grad()
        loss = call(model)[1]
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses


@examples(5)
@given(cases(), st.booleans())
def test_random_graphs_equal_the_single_machine(case: Case, tied: bool) -> None:
    nodes = case.assignment.numel()
    torch.manual_seed(0)
    found = graphshard.verify(
        LightGCN(nodes, tied),
        {name: case.tensors[name] for name in ("edge_index", "y", "x")},
        case.parts,
        method=case.assignment,
        roles={"edge_index": "edge_index", "y": "node", "x": "node"},
        node_parameters=NAMES,
        modes=("train",),
    )
    assert found.passed, str(found)
    compared = {row.name for row in found.rows if row.kind == "gradient"}
    assert compared == {"embedding.weight", "bias", "lin.weight", "lin.bias"}


def train_on_ranks(parts: int, assignment: Tensor, start: dict[str, Any] | None, count: int) -> list[Any]:
    shards = partition(6, EDGES, assignment, parts)
    torch.manual_seed(1)
    model = LightGCN(6).double()

    def rank(number: int, _name: str, group: Any) -> Any:
        own = copy.deepcopy(model)
        shard = shards[number]
        module = graphshard.distribute(own, shard=shard, node_parameters=NAMES, group=group)
        optimizer = torch.optim.Adam(module.parameters(), lr=0.1)
        if start is not None:
            mine = copy.deepcopy(start)  # torch's optimisers go on with the tensors they are given
            module.load_state_dict(mine["model"])
            module.load_optimizer_state_dict(optimizer, mine["optimizer"])
        losses = steps(module, lambda m: m(shard), optimizer, count)
        moments = optimizer.state[module.get_parameter("embedding.weight")]["exp_avg"].shape
        state = {"model": module.state_dict(), "optimizer": module.optimizer_state_dict(optimizer)}
        same = torch.equal(own.embedding.weight, model.embedding.weight)
        return (
            losses,
            moments,
            state,
            same,
            [id(p) for p in module.lin.parameters()] == [id(p) for p in own.lin.parameters()],  # type: ignore[union-attr]
        )

    return run_ranks(parts, rank)


def test_training_equals_one_machine_and_the_state_is_whole() -> None:
    ranks = train_on_ranks(3, PARTS, None, 5)
    torch.manual_seed(1)
    model = LightGCN(6).double()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    data = data_of(6, EDGES)
    expected = steps(model, lambda m: m(data["edge_index"], data["y"]), optimizer, 5)
    for number, (losses, moments, state, untouched, shared) in enumerate(ranks):
        assert losses == pytest.approx(expected, rel=1e-12)
        assert moments == (int((number == PARTS).sum()), 3)  # type: ignore[attr-defined]
        assert untouched
        assert shared
        for name, value in model.state_dict().items():
            torch.testing.assert_close(state["model"][name], value, rtol=1e-9, atol=1e-9)
        wanted = optimizer.state_dict()
        for key, moment in wanted["state"].items():
            for name, value in moment.items():
                torch.testing.assert_close(
                    state["optimizer"]["state"][key][name], value, rtol=1e-9, atol=1e-9
                )


def test_training_resumes_on_another_number_of_ranks() -> None:
    whole = train_on_ranks(3, PARTS, None, 6)[0][0]
    state = train_on_ranks(3, PARTS, None, 3)[0][2]
    resumed = train_on_ranks(2, PARTS.clamp(max=1), state, 3)
    for losses, *_ in resumed:
        assert losses == pytest.approx(whole[3:], rel=1e-8)


def test_what_does_not_fit_is_refused() -> None:
    shard = partition(6, EDGES, torch.zeros(6, dtype=torch.int64), 1)[0]
    model = LightGCN(6)
    with pytest.raises(ShardError, match=r"no parameter or buffer 'nope'; it has bias, embedding\.weight"):
        graphshard.distribute(model, shard=shard, node_parameters=["nope"])
    with pytest.raises(ShardError, match=r"'lin\.weight' must have one row for each of the 6 nodes"):
        graphshard.distribute(model, shard=shard, node_parameters=["lin.weight"])
    with pytest.raises(ShardError, match="pass distribute"):
        graphshard.distribute(model, node_parameters=NAMES)(shard)
    module = graphshard.distribute(model, shard=shard, node_parameters=NAMES)
    other = partition(6, EDGES.flip(0), torch.zeros(6, dtype=torch.int64), 1)[0]
    module(other)  # the same nodes
    smaller = partition(7, EDGES, torch.zeros(7, dtype=torch.int64), 1)[0]
    with pytest.raises(ShardError, match="cut for another shard"):
        module(smaller)


def test_a_parameter_with_a_row_for_each_node_that_is_not_named_is_refused_with_a_hint() -> None:
    shard = partition(6, EDGES, torch.zeros(6, dtype=torch.int64), 1)[0]
    with pytest.raises(GraphshardError, match=r"node_parameters=\['bias', 'embedding\.weight'\]"):
        graphshard.distribute(LightGCN(6))(shard)


def test_a_state_dict_of_the_users_own_is_refused() -> None:
    """It would be that of one rank's rows."""

    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Parameter(torch.rand(12, 2))

        def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:  # type: ignore[override]
            return {"wrapped": super().state_dict(*args, **kwargs)}

        def forward(self, edge_index: Tensor) -> Tensor:
            return self.table[edge_index[0]]

    shard = graphshard.partition({"edge_index": torch.randint(12, (2, 30))}, 2, num_nodes=12)[0]
    with pytest.raises(graphshard.CaptureError, match=r"Own writes state_dict anew.*get_extra_state"):
        graphshard.distribute(Own(), shard=shard, node_parameters=["table"])
