"""Constants of a graph: computed once, and anew where the data changes, on all ranks alike."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from support.equality import ROLES
from support.local import local
from support.models import F_IN, OnGraph, make, pyg
from support.strategies import fixed_case
from torch import Tensor, nn

import graphshard
from graphshard.ops import aggregation
from graphshard.partitioning.partition import partition
from graphshard.shard.shard import Shard
from graphshard.testing import run_ranks


def model() -> nn.Module:
    return make(lambda: OnGraph(pyg.GCNConv(F_IN, 4)))


def shards(parts: int) -> list[Shard]:
    case = fixed_case(parts=max(parts, 2))
    tensors = {name: case.tensors[name] for name in ("x", "edge_index")}
    method = case.assignment if parts > 1 else "metis"
    return list(partition(tensors, parts, method=method, roles={n: ROLES[n] for n in tensors}))


@pytest.fixture
def builds(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One entry for each structure that is built."""
    made: list[int] = []
    build = aggregation.build

    def counted(*args: Any) -> Any:
        made.append(1)
        return build(*args)

    monkeypatch.setattr(aggregation, "build", counted)
    return made


def test_computed_once_for_training_and_evaluation(builds: list[int]) -> None:
    module, (shard,) = graphshard.distribute(model()), shards(1)
    module(shard)
    builds.clear()  # the checks of the captured program build some too
    for _ in range(3):
        module(shard).sum().backward()
    assert builds == []
    module.eval()
    module(shard)
    builds.clear()
    module(shard)
    module.train()
    module(shard)
    assert builds == []
    # The step reads the aggregated features alone; the structure is not kept.
    (kept,) = module._constants.values.values()
    assert kept.shape == shard.x.shape


def write_in_place(shard: Shard) -> Shard:
    shard.x.mul_(2)
    return shard


def another_tensor(shard: Shard) -> Shard:
    return shard.to(torch.float64)


def another_graph(shard: Shard) -> Shard:
    shard.edge_index[0].copy_(shard.edge_index[0].flip(0))
    return shard


@pytest.mark.parametrize("change", [write_in_place, another_tensor, another_graph])
def test_changed_data_is_noticed(change: Callable[[Shard], Shard]) -> None:
    base, (shard,) = model(), shards(1)
    module = graphshard.distribute(copy.deepcopy(base))
    for _ in range(2):
        torch.testing.assert_close(module(shard), base(shard.x, shard.edge_index))
        shard = change(shard)
    torch.testing.assert_close(module(shard), base(shard.x, shard.edge_index))


def through_numpy(shard: Shard) -> Shard:
    shard.x.numpy()[:] *= 2
    return shard


def one_entry_through_numpy(shard: Shard) -> Shard:
    shard.x.numpy()[-1, -1] += 1
    return shard


def rows_exchanged_through_numpy(shard: Shard) -> Shard:
    rows = shard.x.numpy()
    rows[[0, 1]] = rows[[1, 0]]
    return shard


def through_data(shard: Shard) -> Shard:
    shard.x.data.mul_(2)
    return shard


def another_graph_through_data(shard: Shard) -> Shard:
    shard.edge_index.data[0] = shard.edge_index[0].flip(0)
    return shard


UNCOUNTED = [
    through_numpy,
    one_entry_through_numpy,
    rows_exchanged_through_numpy,
    through_data,
    another_graph_through_data,
]


@pytest.mark.parametrize("change", UNCOUNTED)
def test_a_write_that_pytorch_does_not_count_is_noticed(change: Callable[[Shard], Shard]) -> None:
    test_changed_data_is_noticed(change)


def test_new_features_in_every_step() -> None:
    base, (shard,) = model(), shards(1)
    module = graphshard.distribute(copy.deepcopy(base), roles={"x": "node"})
    for step in range(3):
        x = shard.x * (step + 1)
        torch.testing.assert_close(module(x, shard.edge_index), base(x, shard.edge_index))


def test_all_ranks_compute_anew_where_one_has_to() -> None:
    """Some ranks write into their own features, one uncounted: the sync of the constant features is collective."""
    base, parts = model(), shards(3)
    models = [copy.deepcopy(base) for _ in parts]

    def rank(number: int, _: str, group: Any) -> Tensor:
        shard = parts[number]
        module = graphshard.distribute(models[number], group=group)
        module(shard)
        if number == 1:
            shard.x.local().add_(1.0)
        if number == 2:
            shard.x.local().numpy()[:] += 1.0
        return shard.gather(module(shard).detach(), group)

    found = run_ranks(3, rank)[0]
    whole = fixed_case(parts=3)
    x = whole.tensors["x"].clone()
    x[whole.assignment >= 1] += 1.0
    torch.testing.assert_close(found, base(x, whole.tensors["edge_index"]))


def test_a_gradient_for_the_features_makes_them_no_constant() -> None:
    base, (shard,) = model(), shards(1)
    module = graphshard.distribute(copy.deepcopy(base))
    module(shard)
    shard.x.requires_grad_()
    module(shard).sum().backward()
    expected = shard.x.detach().clone().requires_grad_()
    base(expected, shard.edge_index).sum().backward()
    torch.testing.assert_close(shard.x.grad, expected.grad)


def test_tensors_without_a_version_are_read_in_every_step() -> None:
    base, (shard,) = model(), shards(1)
    module = graphshard.distribute(copy.deepcopy(base), roles={"x": "node"})
    with torch.inference_mode():
        x = shard.x * 1
        first = module(x, shard.edge_index)
        x.mul_(2)
        second = module(x, shard.edge_index)
    with torch.no_grad():
        torch.testing.assert_close(first.clone(), base(shard.x, shard.edge_index))
        torch.testing.assert_close(second.clone(), base(shard.x * 2, shard.edge_index))


class Propagated(nn.Module):
    """Returns what depends on the graph alone, in several shapes."""

    def __init__(self, form: str) -> None:
        super().__init__()
        self.form, self.lin = form, nn.Linear(F_IN, 2, dtype=torch.float64)

    def forward(self, x: Tensor, edge_index: Tensor) -> Any:
        ax = torch.zeros_like(x).index_add(0, edge_index[1], x[edge_index[0]])
        forms = {"itself": ax, "a view": ax[:, 1:], "transposed": ax.t(), "twice": (ax, {"same": ax})}
        return forms[self.form], self.lin(ax)


@pytest.mark.parametrize("form", ["itself", "a view", "transposed", "twice"])
@pytest.mark.parametrize("parts", [1, 2])
def test_a_caller_may_write_into_an_output_that_is_kept(form: str, parts: int) -> None:
    cut, models = shards(parts), [make(lambda: Propagated(form)) for _ in range(parts)]

    def rank(number: int, _: str, group: Any) -> None:
        module = graphshard.distribute(models[number], group=group)
        first, logits = module(cut[number])
        written = first[0] if isinstance(first, tuple) else first
        before, wanted = written.clone(), logits.clone()
        with torch.no_grad():
            written.mul_(3).add_(1)
        again, logits = module(cut[number])
        again = again[0] if isinstance(again, tuple) else again
        assert torch.equal(local(again), local(before))
        assert torch.equal(local(logits), local(wanted))

    run_ranks(parts, rank)
