"""Every trap of a naive placement rule: exact, or refused with the right error."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
import torch.utils.checkpoint
from hypothesis import given
from support.equality import ROLES, Compilations, check_equal, distributed
from support.models import OnGraph, OnRows, WithAttributes, WithWeights, Written, make, pyg
from support.programs import model_of, program_of
from support.strategies import Case, cases, examples, fixed_case, make_case
from torch import Tensor, nn

from graphshard.api import distribute
from graphshard.border import totals as reductions
from graphshard.errors import CaptureError, RuntimeMismatch, UnsupportedOperation
from graphshard.partitioning.partition import partition
from graphshard.testing import run_ranks


def check(model: nn.Module, case: Case, **options: Any) -> None:
    check_equal(model, case.tensors, case.assignment, case.parts, **options)


# ---- what a placement must know ------------------------------------------------------------------------------


def test_the_same_mask_computed_twice_is_one_mask() -> None:
    """Common subexpressions are merged before placement."""

    def forward(self, x: Tensor) -> Tensor:
        return (self.lin(x)[x[:, 0] > 0] * x[x[:, 0] > 0][:, :1]).sum()

    check(model_of(forward), fixed_case(parts=4))


def test_a_uniform_constant_takes_its_rows_from_the_size() -> None:
    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        message = self.lin(x)[edge_index[0]]
        w = torch.cat([message.new_ones(message.size(0)), x.new_ones(x.size(0))])
        other = torch.cat([x.new_zeros(x.size(0)), x.new_zeros(edge_index.size(1))])
        both = torch.ones(x.size(0) + edge_index.size(1), dtype=x.dtype) * 2
        base = message.new_zeros(x.size(0), 6).index_add(0, edge_index[1], message)
        return base + (w * both).sum() + other.sum()

    check(model_of(forward), fixed_case(parts=4))


def test_a_size_is_local_and_a_number_global() -> None:
    def forward(self, x: Tensor) -> Tensor:
        return torch.full((x.size(0), 1), 1 / x.size(0), dtype=x.dtype) * x

    check(model_of(forward), fixed_case(parts=4))


def test_what_an_index_points_into_survives_reshaping() -> None:
    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        h = self.lin(x)
        ei = torch.stack([edge_index[0], edge_index[1]]).flip(0).flip(0)
        src = ei[0].view(-1, 1).repeat(1, 6)
        dst = edge_index[1].view(-1, 1).expand(-1, 6)
        return torch.zeros_like(h).scatter_add(0, dst, h.gather(0, src))

    check(model_of(forward), fixed_case(parts=4))


# ---- where a naive rule is silently wrong --------------------------------------------------------------------


@pytest.mark.parametrize("reduce", ["amax", "amin"])
def test_ties_of_a_maximum_share_its_gradient(reduce: str) -> None:
    """Integer-valued features and the gradient of the input itself."""

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        index = edge_index[1].view(-1, 1).expand(-1, x.size(1))
        zeros = x.new_zeros(x.size(0), x.size(1))
        return zeros.scatter_reduce(0, index, x[edge_index[0]], reduce, include_self=False) * self.weight[:5]

    for parts in (2, 4):
        check(model_of(forward), fixed_case(parts=parts, ties=True))


def test_a_base_that_is_not_zero_counts_once() -> None:
    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        h = self.lin(x)
        return h.index_add(0, edge_index[0], h[edge_index[1]]).index_add(0, edge_index[1], h[edge_index[0]])

    check(model_of(forward), fixed_case(parts=4))


def test_parallel_self_loops_keep_the_order_of_edges() -> None:
    """GCNConv writes the weight of the last self loop of a node."""
    loops = torch.tensor([[0, 1, 1, 2, 1, 3, 0, 4], [0, 1, 1, 3, 1, 3, 2, 0]])
    case = make_case(loops, torch.tensor([0, 1, 1, 0, 2]), 3)
    check(make(lambda: WithWeights(pyg.GCNConv(5, 4))), case)
    check(make(lambda: WithAttributes(pyg.GATConv(5, 4, edge_dim=3))), case)


def test_a_python_int_is_refused() -> None:
    def forward(self, x: Tensor, count: int) -> Tensor:
        return x / count

    case = fixed_case()
    shard = partition(case.tensors, 1, roles={n: ROLES[n] for n in case.tensors})[0]
    with pytest.raises(CaptureError, match="'count' is the Python int 24"):
        distribute(model_of(forward))(shard.x, 24)


def test_a_cached_layer_is_refused() -> None:
    with pytest.raises(CaptureError, match=r"'layer' .*cached=True"):
        program_of(OnGraph(pyg.GCNConv(5, 4, cached=True)).double())


def test_a_python_number_that_all_ranks_agree_on() -> None:
    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        h = self.lin(x)
        table = torch.arange(int(mask.sum()) + 2, dtype=x.dtype)
        return h * h.detach().sum().item() + table.mean() * float(h.detach().mean()) * h

    for parts in (1, 4):
        check(model_of(forward), fixed_case(parts=parts))


def test_a_python_number_of_one_rank_is_refused() -> None:
    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        return x * x[mask][:, 0].item()

    with pytest.raises((CaptureError, UnsupportedOperation)):
        program_of(model_of(forward))


def test_regions_that_change_nothing_are_inlined() -> None:
    def forward(self, x: Tensor) -> Tensor:
        h = self.lin(x)
        with torch.autocast("cpu", enabled=False):
            h = h * self.weight
            with torch.enable_grad():
                h = h.tanh()
        return torch.utils.checkpoint.checkpoint(self.out, h, use_reentrant=False)

    check(model_of(forward), fixed_case(parts=4))


def test_autocast_inside_forward_is_refused() -> None:
    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return self.lin(x)

    with pytest.raises(CaptureError, match="wrap_with_autocast"):
        program_of(model_of(forward))


def test_a_branch_on_data_is_refused() -> None:
    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum() > 0 else -x

    with pytest.raises(CaptureError, match=r"looking at the data.*torch\.where"):
        program_of(model_of(forward))


def test_an_index_without_dim_size_is_refused() -> None:
    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        return pyg.aggr.SumAggregation()(x[edge_index[0]], edge_index[1])

    with pytest.raises((CaptureError, UnsupportedOperation)):
        program_of(model_of(forward))


class MovingMean(Written):
    """A buffer that forward changes: written into, or put in the place of the old one."""

    def __init__(self, in_place: bool) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(5))
        self.in_place = in_place

    def forward(self, x: Tensor) -> Tensor:
        if self.in_place:
            self.mean.mul_(0.9).add_(x.mean(0).detach())  # type: ignore[has-type]
        else:
            self.mean = self.mean * 0.9 + x.mean(0).detach()  # type: ignore[has-type]
        return self.lin(x + self.mean)


def test_a_buffer_that_forward_writes_into_changes() -> None:
    check(make(lambda: MovingMean(True)), fixed_case(parts=4), backwards=2)


def test_a_buffer_that_forward_replaces_is_refused() -> None:
    with pytest.raises(CaptureError, match=r"buffer 'mean'.*self\.mean\.copy_"):
        program_of(make(lambda: MovingMean(False)))


# ---- no rows -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["gcn", "gat", "sage", "transformer"])
def test_no_edge_and_a_single_node(name: str) -> None:
    layer = {
        "gcn": lambda: pyg.GCNConv(5, 4),
        "gat": lambda: pyg.GATConv(5, 4, heads=2),
        "sage": lambda: pyg.SAGEConv(5, 4, aggr="max"),
        "transformer": lambda: pyg.TransformerConv(5, 4),
    }[name]
    model, programs = make(lambda: OnGraph(layer())), Compilations()
    for nodes in (1, 4):
        for parts in (1, 3):
            case = make_case(torch.zeros(2, 0, dtype=torch.int64), torch.arange(nodes) % parts, parts)
            check(model, case, compilations=programs)
    loop = make_case(torch.zeros(2, 2, dtype=torch.int64), torch.tensor([4]), 5)
    check(model, loop, compilations=programs)


def test_a_part_without_nodes_in_eval_mode() -> None:
    """The backward of PyTorch's own eval-mode batch norm crashes on no rows."""
    check(make(lambda: OnRows(nn.BatchNorm1d(6))).eval(), fixed_case(parts=5))


def test_a_standard_deviation_of_zero_has_a_gradient_of_zero() -> None:
    def forward(self, x: Tensor) -> Tensor:
        c = torch.cat([self.lin(x), x[:, :1] * 0 + self.weight[0]], 1)
        return c / (c.std(0) + 0.1) + c.std(0, unbiased=False) + c.var(0, correction=2)

    check(model_of(forward), fixed_case(parts=4))


# ---- gradients -----------------------------------------------------------------------------------------------


def test_regions_without_gradient_are_detached_and_detach_is_not_doubled() -> None:
    def forward(self, x: Tensor) -> Tensor:
        h = self.lin(x)
        with torch.no_grad():
            scale = (h * self.weight).sigmoid()
        return h * scale + h.detach() * self.weight + h.clone().detach()

    check(model_of(forward), fixed_case(parts=3))


def test_a_users_own_regulariser_counts_once() -> None:
    """Gradients of parameters are summed inside the program, so a term outside of it is not."""
    case = fixed_case(parts=3)
    reference = make(lambda: OnGraph(pyg.SAGEConv(5, 4)))
    for _ in range(2):
        loss = reference(case.tensors["x"], case.tensors["edge_index"]).pow(2).mean()
        (loss + 0.1 * sum((p**2).sum() for p in reference.parameters())).backward()
    shards = partition(case.tensors, 3, method=case.assignment, roles={n: ROLES[n] for n in case.tensors})
    models = [make(lambda: OnGraph(pyg.SAGEConv(5, 4))) for _ in range(3)]

    def rank(number: int, _name: str, group: Any) -> None:
        module = distribute(models[number], group=group)
        for _ in range(2):
            loss = reductions.mean(module(shards[number]).pow(2), group)
            (loss + 0.1 * sum((p**2).sum() for p in module.parameters())).backward()

    run_ranks(3, rank)
    for one in models:
        for p, expected in zip(one.parameters(), reference.parameters(), strict=True):
            torch.testing.assert_close(p.grad, expected.grad, rtol=1e-10, atol=1e-12)


def test_a_gradient_on_one_rank_only_is_refused() -> None:
    case = fixed_case(parts=2)
    shards = partition(case.tensors, 2, method=case.assignment, roles={n: ROLES[n] for n in case.tensors})
    model = make(lambda: OnGraph(pyg.GCNConv(5, 4)))

    def rank(number: int, _name: str, group: Any) -> None:
        shards[number].x.requires_grad_(number == 0)
        distribute(model, group=group)(shards[number])

    with pytest.raises(RuntimeMismatch, match="disagree on the call"):
        run_ranks(2, rank)


def test_ranks_that_run_other_collectives_are_found_out() -> None:
    case = fixed_case(parts=2)
    shards = partition(case.tensors, 2, method=case.assignment, roles={n: ROLES[n] for n in case.tensors})
    models = [make(lambda: OnGraph(pyg.GCNConv(5, 4))), make(lambda: OnGraph(pyg.GATConv(5, 4)))]

    def rank(number: int, _name: str, group: Any) -> None:
        distribute(models[number], group=group)(shards[number]).sum().backward()

    with pytest.raises(RuntimeMismatch):
        run_ranks(2, rank, timeout=20)


# ---- dropout -------------------------------------------------------------------------------------------------


class Drops(Written):
    """Dropout over nodes, over kept nodes, over edges joined with self loops, and over a parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = pyg.GATConv(5, 6, dropout=0.5)

    def forward(self, x: Tensor, edge_index: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        h = F.dropout(self.conv(x, edge_index), 0.3) * F.dropout(self.weight, 0.5)
        again = F.dropout(h, 0.3) - F.dropout(h, 0.3)
        return h + again, F.dropout(h[mask], 0.4).sum(0)


_DROPS = make(Drops), Compilations()


@examples(6)
@given(case=cases())
def test_dropout_masks_do_not_depend_on_the_number_of_ranks(case: Case) -> None:
    model, programs = _DROPS
    check(model, case, compilations=programs, one_rank=True)


def test_single_machine_dropout_is_the_identity_of_the_reference() -> None:
    """The comparison with one machine takes dropout out; p = 0 must be exact without that."""

    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(self.lin(x), 0.0)

    check(model_of(forward), fixed_case(parts=2))


def test_two_dropouts_of_one_value_differ() -> None:
    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(x, 0.5) - F.dropout(x, 0.5)

    case = fixed_case(parts=2)
    found, _ = distributed(model_of(forward), case.tensors, case.assignment, 2, Compilations(), None)
    assert found["output 0"].abs().sum() > 0  # type: ignore[union-attr]


def test_dropout_changes_from_step_to_step() -> None:
    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(x, 0.5)

    case = fixed_case()
    shard = partition(case.tensors, 1, roles={n: ROLES[n] for n in case.tensors})[0]
    module = distribute(model_of(forward), seed=3)
    first, second = module(shard), module(shard)
    assert not torch.equal(first, second)
    module.step = 0
    assert torch.equal(module(shard), first)
    kept = float((module(shard) != 0).double().mean())
    assert 0.25 < kept < 0.75
