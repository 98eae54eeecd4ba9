"""A rectifier and a dropout as one op, that keeps neither."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from support.equality import Compilations
from support.local import local
from support.programs import before_pass, check_faster, model_of
from torch import Tensor, nn

import graphshard
from graphshard import Options
from graphshard.check.fixed_random import drop_dropout
from graphshard.ops import dropout
from graphshard.testing import run_ranks

PASS = "fuse_relu_dropout"


def rectified(self, x: Tensor) -> Tensor:
    """As between the layers of any model."""
    return self.out(F.dropout(self.lin(x).relu(), 0.5))


def edges(self, x: Tensor, edge_index: Tensor) -> Tensor:
    """Rows of edges, and rows that a mask keeps."""
    h = F.dropout((self.lin(x)[edge_index[0]] + 0.1).relu(), 0.3)
    keep = edge_index[0] < edge_index[1]
    return F.dropout(h[keep].exp().relu(), 0.2).sum(0)


def test_a_rectifier_and_a_dropout() -> None:
    check_faster(rectified, PASS, "linear relu_dropout linear", 1)
    program, step = before_pass(model_of(edges), PASS)
    assert step.run(program) == 2


def test_over_the_memory_of_a_layer() -> None:
    check_faster(rectified, "work_in_place", "linear relu_dropout_ linear", 1)


def read_again(self, x: Tensor) -> tuple[Tensor, Tensor]:
    h = self.lin(x).relu()
    return F.dropout(h, 0.5), h


def dropped_twice(self, x: Tensor) -> Tensor:
    h = self.lin(x).relu()
    return F.dropout(h, 0.5) + F.dropout(h, 0.5)


def all_dropped(self, x: Tensor) -> Tensor:
    return F.dropout(self.lin(x).relu(), 1.0)


def another_function(self, x: Tensor) -> Tensor:
    return F.dropout(F.leaky_relu(self.lin(x)), 0.5)


def a_constant(self, x: Tensor) -> Tensor:
    return self.lin(F.dropout(x.relu(), 0.5))  # x needs no gradient: relu(x) is computed once for each graph


def dropped_first(self, x: Tensor) -> Tensor:
    return F.dropout(self.lin(x), 0.5).relu()


@pytest.mark.parametrize(
    "forward", [read_again, dropped_twice, all_dropped, another_function, a_constant, dropped_first]
)
def test_what_is_left_alone(forward) -> None:
    program, step = before_pass(model_of(forward), PASS)
    assert step.run(program) == 0


def test_eval_mode_has_no_dropout() -> None:
    model = model_of(lambda self, x: self.drop(self.lin(x).relu()), drop=nn.Dropout(0.5)).eval()
    program, step = before_pass(model, PASS)
    assert step.run(program) == 0


class Layers(nn.Module):
    """What stands in most published models, and a residual that reads a dropout's result twice."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.first, self.second, self.out = nn.Linear(4, 6), nn.Linear(6, 6), nn.Linear(6, 3)
        self.p = p

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        src, dst = edge_index
        h = F.dropout(self.first(x).relu(), self.p, self.training)
        total = h.new_zeros(h.size(0), 6).index_add(0, dst, h[src])
        g = F.dropout((self.second(total) + h).relu(), self.p, self.training)
        return self.out(g + h)


def data(special: bool) -> dict[str, Tensor]:
    random = torch.Generator().manual_seed(5)
    x = torch.randn(30, 4, generator=random, dtype=torch.float64)
    if special:
        x[3, 1], x[7, 0], x[11, 2] = float("nan"), float("inf"), -float("inf")
    return {"x": x, "edge_index": torch.randint(0, 30, (2, 90), generator=random)}


@pytest.mark.parametrize(("p", "in_place"), [(0.5, True), (0.5, False), (0.0, True)])
def test_the_same_bits_as_without(p: float, in_place: bool) -> None:
    torch.manual_seed(0)
    model = Layers(p).double()
    fused = Options(work_in_place=in_place)
    both = [
        (options, Compilations())
        for options in (fused, Options(work_in_place=in_place, fuse_relu_dropout=False))
    ]
    for special in (False, True):
        found = [steps(model, data(special), *one) for one in both]
        for ours, theirs in zip(*found, strict=True):
            for one, other in zip(ours, theirs, strict=True):
                torch.testing.assert_close(one, other, rtol=0, atol=0, equal_nan=True)
        assert any(t.isnan().any() for t in found[0][0]) == special


def steps(
    model: nn.Module, tensors: dict[str, Tensor], options: Options, programs: Compilations
) -> list[list[Tensor]]:
    """Two steps on two ranks: outputs, gradients, and the gradients of a gradient's norm."""
    shards = list(graphshard.partition(tensors, 2, method=torch.arange(30) % 2))

    def rank(number: int, _name: str, group: dist.ProcessGroup) -> list[Tensor]:
        mine = copy.deepcopy(model)
        parallel = graphshard.distribute(mine, group=group, seed=3, options=options)
        parallel._compiled = programs
        results: list[Tensor] = []
        for _ in range(2):
            out = local(parallel(shards[number]))
            parameters = list(mine.parameters())
            first = torch.autograd.grad(out.sin().sum(), parameters, create_graph=True)
            norm = torch.stack([g.square().sum() for g in first]).sum()
            second = torch.autograd.grad(norm, parameters)
            results += [out.detach(), *(g.detach() for g in first), *second]
        return results

    return run_ranks(2, rank)


def test_taking_dropouts_out_leaves_the_rectifier() -> None:
    torch.manual_seed(0)
    tensors = data(False)
    shard = graphshard.partition(tensors, 1)[0]
    parallel = graphshard.distribute(Layers(0.5).double())
    parallel.stages(shard)
    (compiled,) = parallel._compiled.values()
    for program, wanted in ((compiled.program, True), (drop_dropout(compiled).program, False)):
        targets = {n.target for n in program.graph.nodes}
        assert (dropout.relu_dropout_ in targets) is wanted
        assert (torch.ops.aten.relu_.default in targets) is not wanted


def test_verify_passes_with_dropout() -> None:
    torch.manual_seed(0)
    report = graphshard.verify(Layers(0.5).double(), data(False), num_parts=3, modes=["train"])
    assert report.passed, report.summary()
