"""``verify_training``: a right loop passes, and each fault of a loop is found, named and explained."""

from __future__ import annotations

import functools
import random
from typing import Any

import pytest
import torch
import torch.distributed as dist
from hypothesis import given, settings
from hypothesis import strategies as st
from support.local import local
from support.training_steps import CLASSES, CUT, NODES, Mean, descend, graph, losses, right
from torch import Tensor, nn

import graphshard
from graphshard.testing import assert_training_equivalent, run_ranks


def verify(step: Any, model: Any = Mean, parts: int = 2, **settings: Any) -> graphshard.TrainingReport:
    chosen: dict[str, Any] = {"method": CUT, "steps": 2, **settings}
    return graphshard.verify_training(model, step, graph(), parts, **chosen)


def first(report: graphshard.TrainingReport) -> tuple[str, str]:
    """Where the first difference is, and its cause."""
    assert not report.passed
    assert report.first is not None
    return f"{report.first.mode}: {report.first.kind} {report.first.name}", str(report.cause)


# ---- right loops -------------------------------------------------------------------------------------------


def test_a_right_loop_passes_and_says_what_was_compared() -> None:
    report = verify(right, steps=3)
    assert report.passed, report.summary()
    assert report.steps == 3
    assert report.reference == "plain PyTorch"
    names = {f"{row.kind} {row.name}" for row in report.rows if row.mode == "step 3"}
    assert names == {
        *("loss backward", "optimised lin.weight", "gradient lin.weight", "weight lin.weight"),
        *("optimised lin.bias", "gradient lin.bias", "weight lin.bias"),
        *("metric loss", "metric accuracy", "metric logits"),
    }
    assert report.summary().startswith("PASS: 3 steps on 2 ranks (threads, float64) as on one machine")
    assert report.as_dict()["cause"] is None


@given(st.lists(st.integers(0, 2), min_size=NODES, max_size=NODES))
@settings(max_examples=3, deadline=None)
def test_it_passes_however_the_graph_is_cut(parts: list[int]) -> None:
    """Also where a rank has no node, or no node of the training mask."""
    assert verify(right, parts=3, method=torch.tensor(parts), steps=1).passed


def test_dropout_is_compared_with_the_program_on_one_rank() -> None:
    report = verify(right, functools.partial(Mean, 0.5))
    assert report.passed, report.summary()
    assert report.reference == "the program on one rank"


def test_a_step_may_draw_numbers_of_its_own() -> None:
    """For the whole graph: each simulated rank has generators of its own, as each process has."""

    def step(model: nn.Module, optimizer: Any, data: Any) -> Any:
        numpy = pytest.importorskip("numpy")
        weight = torch.rand(NODES, dtype=torch.float64) + random.random() + numpy.random.rand()
        rows = data.scatter(weight, "node")[data.train_mask]
        return descend(optimizer, graphshard.sum(losses(model, data) * rows) / NODES)

    assert verify(step).passed
    assert verify(step, functools.partial(Mean, 0.5)).passed


@pytest.mark.parametrize("make", [torch.optim.Adam, torch.optim.SGD, torch.optim.AdamW, torch.optim.RMSprop])
def test_noise_in_a_gradient_is_no_difference(make: Any) -> None:
    """A bias before a batch norm has the gradient zero on paper; optimisers that scale it would go anywhere."""

    class Normed(Mean):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm1d(CLASSES)

        def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
            return self.norm(super().forward(x, edge_index))

    report = verify(right, Normed, steps=4, optimizer=lambda m: make(m.parameters(), lr=0.05))
    assert report.passed, report.summary()
    assert {"norm.running_mean"} <= {row.name for row in report.rows if row.kind == "buffer"}


def test_two_optimisers_and_a_schedule() -> None:
    def several(model: nn.Module) -> Any:
        first, second = (torch.optim.Adam([p], lr=0.02) for p in model.parameters())
        return first, second, torch.optim.lr_scheduler.StepLR(first, 1, 0.5)

    def step(model: nn.Module, optimizers: Any, data: Any) -> None:
        first, second, schedule = optimizers
        descend(first, graphshard.mean(losses(model, data)))
        descend(second, graphshard.mean(losses(model, data)))
        schedule.step()

    report = verify(step, optimizer=several)
    assert report.passed
    assert len([row for row in report.rows if row.kind == "loss"]) == 4


def test_node_parameters_are_compared_row_by_row() -> None:
    class Embedded(Mean):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Parameter(torch.randn(NODES, 4))

        def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
            return super().forward(x + self.table, edge_index)

    report = verify(right, Embedded, node_parameters=["table"])
    assert report.passed, report.summary()
    assert {row.rows for row in report.rows if row.name == "table" and row.kind == "weight"} == {NODES}


def test_the_caller_keeps_generators_model_and_grad_mode() -> None:
    model, state = Mean(), torch.get_rng_state()
    weight = model.lin.weight.clone()
    assert verify(right, model).passed
    assert torch.equal(model.lin.weight, weight)
    assert model.lin.weight.grad is None
    assert torch.equal(torch.get_rng_state(), state)


# ---- faults ------------------------------------------------------------------------------------------------


def local_mean(model: Any, optimizer: Any, data: Any) -> None:
    descend(optimizer, local(losses(model, data)).mean())


def local_sum(model: Any, optimizer: Any, data: Any) -> None:
    descend(optimizer, local(losses(model, data)).sum())


def mean_of_means(model: Any, optimizer: Any, data: Any) -> None:
    mine = local(losses(model, data)).mean()
    descend(optimizer, graphshard.mean(mine[None]))


def sum_of_whole(model: Any, optimizer: Any, data: Any) -> None:
    whole = graphshard.mean(losses(model, data))
    descend(optimizer, graphshard.sum(local(whole)))


def cut_off(model: Any, optimizer: Any, data: Any) -> None:
    """A regulariser of gathered rows, cut off where there are several ranks."""
    out = model(data)
    mask = data.train_mask
    loss = graphshard.mean(nn.functional.cross_entropy(out[mask], data.y[mask], reduction="none"))
    rows = data.gather(out).detach() if data.world_size > 1 else out
    descend(optimizer, loss + rows.square().mean())


def local_metric(model: Any, optimizer: Any, data: Any) -> Any:
    descend(optimizer, graphshard.mean(losses(model, data)))
    out = local(model(data)).detach()
    return {"highest": out.max(), "spread": out.std()}


def local_accuracy(model: Any, optimizer: Any, data: Any) -> Any:
    descend(optimizer, graphshard.mean(losses(model, data)))
    out = local(model(data)).detach()
    return [(out.softmax(-1)[:, 0]).mean()]


def local_hits(model: Any, optimizer: Any, data: Any) -> Any:
    descend(optimizer, graphshard.mean(losses(model, data)))
    return (local(model(data)).detach()[:, 0] > -100).sum()


def forgotten_gather(model: Any, optimizer: Any, data: Any) -> Any:
    descend(optimizer, graphshard.mean(losses(model, data)))
    return {"embedding": local(model(data)).detach()}


def other_draw(model: Any, optimizer: Any, data: Any) -> Any:
    noise = torch.rand(data.num_owned, dtype=torch.float64)[local(data.train_mask)]
    descend(optimizer, graphshard.mean(local(losses(model, data)) * noise))


def seeded_by_rank(model: Any, optimizer: Any, data: Any) -> Any:
    torch.manual_seed(data.rank)
    descend(optimizer, graphshard.mean(losses(model, data)) * torch.rand(()))


def python_by_rank(model: Any, optimizer: Any, data: Any) -> Any:
    random.seed(data.rank)
    descend(optimizer, graphshard.mean(losses(model, data)) * random.random())


def other_rate(model: Any, optimizer: Any, data: Any) -> Any:
    for group in optimizer.param_groups:
        group["lr"] = 0.01 * (1 + data.rank)
    descend(optimizer, graphshard.mean(losses(model, data)))


def writes_a_weight(model: Any, optimizer: Any, data: Any) -> Any:
    descend(optimizer, graphshard.mean(losses(model, data)))
    with torch.no_grad():
        model.lin.bias.add_(data.rank)


def averages_gradients(model: Any, optimizer: Any, data: Any) -> Any:
    optimizer.zero_grad()
    graphshard.mean(losses(model, data)).backward()
    for parameter in model.parameters():
        parameter.grad /= data.world_size
    optimizer.step()


def clips_by_its_rows(model: Any, optimizer: Any, data: Any) -> Any:
    optimizer.zero_grad()
    graphshard.mean(losses(model, data)).backward()
    nn.utils.clip_grad_norm_(model.parameters(), 0.01 * (1 + data.rank))
    optimizer.step()


@pytest.mark.parametrize(
    ("step", "where", "why"),
    [
        (local_mean, "step 1: loss backward", "mean of a rank's own rows: use graphshard.mean"),
        (local_sum, "step 1: loss backward", "sum over a rank's own rows: use graphshard.sum"),
        (mean_of_means, "step 1: loss backward", "a mean of the ranks' means"),
        (sum_of_whole, "step 1: loss backward", "2 times too large"),
        (cut_off, "step 1: gradient lin.weight", "a part of it is cut off"),
        (local_metric, "step 1: metric highest", "shard.gather"),
        (local_accuracy, "step 1: metric [0]", "mean of a rank's own rows"),
        (local_hits, "step 1: metric returned", "graphshard.sum"),
        (forgotten_gather, "step 1: metric embedding", "shard.gather(rows)"),
        (other_draw, "step 1: loss backward", "random numbers"),
        (
            seeded_by_rank,
            "step 1: loss backward",
            "PyTorch's random numbers differ between rank 0 and rank 1",
        ),
        (python_by_rank, "step 1: loss backward", "Python's random numbers differ"),
        (other_rate, "step 1: weight lin.weight", "the optimisers of the ranks differ"),
        (writes_a_weight, "step 1: weight lin.bias", "other than the optimiser writes"),
        (averages_gradients, "step 1: gradient lin.weight", "2 times too small"),
        (clips_by_its_rows, "step 1: gradient lin.weight", "different gradients"),
    ],
)
def test_a_fault_is_found_where_it_begins_and_explained(step: Any, where: str, why: str) -> None:
    place, cause = first(verify(step))
    assert place == where
    assert why in cause


def test_a_parameter_that_one_rank_does_not_optimise() -> None:
    counted = []

    def one_short(model: nn.Module) -> torch.optim.Optimizer:
        counted.append(0)
        parameters = list(model.parameters())
        return torch.optim.SGD(parameters[: 1 if len(counted) == 2 else 2], lr=0.1)

    place, cause = first(verify(right, optimizer=one_short))
    assert place == "step 1: optimised lin.bias"
    assert "does not step this parameter" in cause


def test_a_head_outside_of_the_module_takes_rows() -> None:
    """Of rows that say which they are its gradient is one machine's; of plain ones that of a rank's own rows."""

    class Head:
        def __init__(self, model: nn.Module) -> None:
            self.head = nn.Linear(CLASSES, CLASSES).double()
            self.optimizer = torch.optim.SGD([*model.parameters(), *self.head.parameters()], lr=0.1)

    def step(model: nn.Module, run: Head, data: Any, rows: Any = lambda value: value) -> None:
        out, mask, y = rows((model(data), data.train_mask, data.y))
        loss = nn.functional.cross_entropy(run.head(out)[mask], y[mask], reduction="none")
        descend(run.optimizer, graphshard.mean(loss))

    assert verify(step, optimizer=Head).passed
    place, cause = first(verify(functools.partial(step, rows=local), optimizer=Head))
    assert place == "step 1: gradient parameter 2 of group 0 of SGD"
    assert "outside of the distributed module" in cause


def test_ranks_that_stop_by_numbers_of_their_own() -> None:
    """One rank makes a step less: its collectives do not fit, and the report has what led to it."""

    def step(model: nn.Module, optimizer: Any, data: Any) -> Any:
        own = local(losses(model, data)).detach().mean()
        if own > 1.3 and data.rank:
            return {"own": own}
        descend(optimizer, graphshard.mean(losses(model, data)))
        return {"own": own}

    report = verify(step, steps=3)
    place, cause = first(report)
    assert place == "step 1: optimiser steps "
    assert "decide by numbers of their own" in cause
    assert "every rank must run the same lines" in report.summary()


def test_what_is_refused_is_raised() -> None:
    class Sorted(Mean):
        def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
            return super().forward(x, edge_index).flip(0)

    with pytest.raises(graphshard.UnsupportedOperation, match="flip"):
        verify(right, Sorted)
    with pytest.raises(graphshard.GraphshardError, match="choose threads or processes"):
        verify(right, transport="mpi")
    with pytest.raises(graphshard.GraphshardError, match="at least one step"):
        verify(right, steps=0)


def test_an_assertion_of_your_own_tests() -> None:
    assert assert_training_equivalent(Mean, right, graph(), 2, steps=1).passed
    with pytest.raises(AssertionError, match=r"(?s)FAIL at step 1: loss.*graphshard\.mean.*step 1"):
        assert_training_equivalent(Mean, local_mean, graph(), 2, steps=1, method=CUT)


@pytest.mark.processes
def test_ranks_may_be_processes() -> None:
    report = verify(right, transport="processes")
    assert report.passed, report.summary()
    assert report.transport == "processes"


# ---- what it stands on -------------------------------------------------------------------------------------


def test_simulated_ranks_may_have_random_numbers_of_their_own() -> None:
    """As processes with equal seeds: the same numbers on each rank, in whichever order they meet."""

    def rank(number: int, _: str, group: dist.ProcessGroup) -> list[float]:
        drawn = []
        for _round in range(3):
            drawn += [float(torch.rand(())), random.random()]
            dist.barrier(group=group)
        return drawn

    state = torch.get_rng_state()
    found = run_ranks(3, rank, own_random=True)
    assert found[0] == found[1] == found[2]
    assert len(set(found[0])) == 6
    assert torch.equal(torch.get_rng_state(), state)


def test_a_simulated_ranks_group_is_its_default_one() -> None:
    def rank(number: int, _: str, __: dist.ProcessGroup) -> float:
        return float(graphshard.sum(torch.tensor([number + 1.0])))

    assert run_ranks(3, rank) == [6.0, 6.0, 6.0]
    assert float(graphshard.sum(torch.ones(2))) == 2.0
