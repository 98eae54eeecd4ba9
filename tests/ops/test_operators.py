"""Every run-time op is one that torch knows: schema, fake kernel and gradients hold for tracing, twice over."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from graphshard.catalogue.table import CATALOGUE
from graphshard.kernels.interface import using
from graphshard.kernels.random_bits import random_key
from graphshard.ops import (
    aggregation,
    copies,
    dropout,
    exchange,
    local,
    losses,
    merged,
    numbered,
    overlap,
    preaggregation,
    rooted,
    stack,
    streamed,
)

pytestmark = pytest.mark.versions

IDENTITIES = {exchange.replicated_input, exchange.replicated_output, merged.bucketed_inputs}
"""These return their inputs, which an op must not: autograd Functions, traced through."""

PLAN = (torch.tensor([2, 0, 2]), [3], [3], "")
"""One rank that exchanges with itself: its halo rows are copies of its own rows 2, 0, 2."""
ROWS, COLUMNS = torch.tensor([1, 0, 1, 3, 0]), torch.tensor([2, 0, 5, 6, 5])
EDGES = aggregation.edge_structure(ROWS, COLUMNS, 4, 7)
ORDERED = aggregation.edge_structure(ROWS.sort().values, COLUMNS, 4, 7)
PARTS = overlap.split_structure(EDGES, 4)
SUMS = preaggregation.preaggregation(None, EDGES, *PLAN, 7.0)
MASK = (torch.arange(4), 0, 0.5, random_key(3, 1), 0)


def values(*shape: int, positive: bool = False) -> Tensor:
    random = torch.Generator().manual_seed(sum(shape))
    x = torch.randn(shape, generator=random, dtype=torch.float64)
    return (x.abs() + 0.5 if positive else x).requires_grad_()


def written(reduce: str, include_self: bool) -> tuple[Any, ...]:
    where = torch.tensor([[3, 4], [0, 0], [2, 1]])  # row 4 is none of the four
    return values(4, 2), 0, where, values(3, 2), reduce, include_self


Arguments = Callable[[], tuple[Any, ...]]
CALLS: dict[Any, list[Arguments]] = {
    exchange.halo_sync: [lambda: (values(4, 2), *PLAN)],
    exchange.halo_reduce: [
        lambda: (values(7, 2), *PLAN[:3], "sum", ""),
        lambda: (values(7, 2, positive=True), *PLAN[:3], "prod", ""),
    ],
    exchange.all_reduce: [lambda: (values(3), "sum", "")],
    exchange.share_of_each: [lambda: (values(3), "")],
    copies.halo_terms: [lambda: (values(7, 2), *PLAN)],
    copies.halo_copies: [lambda: (values(3, 2), 4, *PLAN)],
    stack.stack_ranks: [lambda: (values(3), "")],
    merged.merged_sync: [lambda: ([values(4, 2), values(4)], *PLAN)],
    merged.merged_reduce: [lambda: ([values(7, 2), values(7)], *PLAN)],
    overlap.split_structure: [lambda: (EDGES, 4)],
    overlap.overlapped_sum: [
        lambda: (values(4, 3), None, PARTS, *PLAN),
        lambda: (values(4, 2, 3), values(5, 2), PARTS, *PLAN),
    ],
    overlap.overlapped_sum_and_halo: [lambda: (values(4, 3), values(5), PARTS, *PLAN)],
    overlap.overlapped_reduce: [
        lambda: (values(4, 3), values(3, 3), values(5), PARTS, *PLAN),
        lambda: (values(4, 3), None, None, PARTS, *PLAN),
    ],
    preaggregation.preaggregation: [
        lambda: (None, EDGES, *PLAN, 7.0),
        lambda: (values(5, 2).detach(), ORDERED, *PLAN, 7.0),
    ],
    streamed.streamed_sum: [
        lambda: (values(4, 3), None, values(4), SUMS, *PLAN, 4),
        lambda: (values(4, 3), None, values(4), EDGES, *PLAN, 4),
        lambda: (values(4, 2, 3), values(5, 2), None, EDGES, *PLAN, 4),
    ],
    streamed.streamed_reduce: [
        lambda: (values(4, 3), values(5), values(4), ORDERED, *PLAN, 4),
        lambda: (values(4, 3), None, values(4), SUMS, *PLAN, 4),
    ],
    rooted.rooted_sum: [
        lambda: (values(4, 3), None, None, EDGES, *PLAN, 4, values(3, 3), values(3, 3), values(3), True),
        lambda: (
            values(4, 3),
            values(5),
            values(4),
            ORDERED,
            *PLAN,
            4,
            values(2, 3),
            values(2, 3),
            None,
            False,
        ),
    ],
    aggregation.edge_structure: [lambda: (ROWS, COLUMNS, 4, 7)],
    aggregation.edge_numbers: [lambda: (ROWS,)],
    aggregation.edge_order: [lambda: (ROWS,)],
    aggregation.sort_edges: [lambda: (values(5, 2), ROWS.argsort())],
    aggregation.edge_counts: [lambda: (EDGES, 2, torch.float64)],
    aggregation.row_weights: [
        lambda: (values(5, 2), values(4), EDGES, "multiply"),
        lambda: (None, values(4), EDGES, "divide"),
    ],
    aggregation.weighted_sum: [
        lambda: (values(7, 3), None, EDGES),
        lambda: (values(7, 3), values(5), ORDERED),
        lambda: (values(7, 2, 3), values(5, 2), EDGES),
    ],
    aggregation.dots: [lambda: (values(4, 2, 3), values(7, 2, 3), EDGES)],
    aggregation.gather: [lambda: (values(7, 3), EDGES, "column"), lambda: (values(4), ORDERED, "row")],
    aggregation.segment_sum: [lambda: (values(5, 3), EDGES), lambda: (values(5, 3), ORDERED)],
    aggregation.edge_softmax: [lambda: (values(5, 2), EDGES, 1e-16)],
    aggregation.edge_softmax_gradient: [lambda: (values(5), values(5), EDGES)],
    aggregation.edge_extreme: [lambda: (values(7, 3), EDGES, "amax")],
    aggregation.edge_extreme_and_ties: [lambda: (values(7, 3), EDGES, "amin")],
    aggregation.edge_extreme_gradient: [
        lambda: (values(7, 3).detach(), values(4, 3).detach(), values(4, 3), EDGES)
    ],
    dropout.dropout_rows: [lambda: (values(4, 3), *MASK), lambda: (values(4, 3), None, *MASK[1:])],
    dropout.relu_dropout: [lambda: (values(4, 3), *MASK)],
    dropout.relu_dropout_: [lambda: (values(4, 3) * 1, *MASK)],
    local.pad_halo: [lambda: (values(4, 2), [3], 0)],
    local.own_rows: [lambda: (values(7, 2), 4)],
    local.project_weight: [lambda: (values(6, 5), values(1, 2, 3))],
    local.extreme: [lambda: (values(4, 2), [0], "max")],
    local.scatter_extreme: [lambda: (values(3), 0, ROWS[:2] % 3, values(2), "max")],
    local.zero_of: [lambda: (values(4, 2),)],
    local.element_ids: [lambda: (torch.arange(4), [3])],
    local.global_count: [lambda: (4, "")],
    local.random_like: [lambda: (values(4, 3), torch.arange(4), 0, "normal", random_key(3, 1), 0)],
    local.join_ids: [lambda: ([torch.arange(4), torch.arange(2)],)],
    numbered.rows_of_ids: [lambda: (torch.tensor([[3, -1], [0, 5]]), torch.tensor([5, 0, 2]), 6)],
    numbered.rows_or_zeros: [lambda: (values(4, 2), 0, torch.tensor([[3, 4], [0, 0]]))],
    numbered.entries_or_zeros: [lambda: (values(4, 2), 0, torch.tensor([[3, 4], [0, 0]]))],
    numbered.write_entries: [
        functools.partial(written, *how)
        for how in (("sum", True), ("mean", False), ("amax", True), ("replace", True))
    ],
    losses.cross_entropy: [lambda: (values(4, 3), torch.tensor([0, 2, 1, 1]))],
    losses.nll_loss: [lambda: (values(4, 3), torch.tensor([0, 2, 1, 1]))],
}
CASES = [pytest.param(op, call, id=f"{op.__name__}_{i}") for op in CALLS for i, call in enumerate(CALLS[op])]
LINEAR_ONCE = {losses.cross_entropy, losses.nll_loss}
"""They exist in a captured graph only, and nothing differentiates them there."""

NOT_ITS_OWN = {local.zero_of, local.scatter_extreme}
"""Its gradient is another value's on purpose; it is run where no gradient flows."""


# opcheck makes fakes of values that are no leaves, and asks for their gradients.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
@pytest.mark.parametrize(("op", "call"), CASES)
def test_an_op_is_as_its_schema_says(op: Any, call: Arguments) -> None:
    with using("torch"):
        args = call()
        if op is dropout.relu_dropout_:
            args = (args[0].detach(), *args[1:])
        results = torch.library.opcheck(op, args, test_utils=_utils(op))
    assert set(results.values()) == {"SUCCESS"}


def _utils(op: Any) -> tuple[str, ...]:
    """An op that takes no tensor has no gradient, and AOTAutograd nothing to trace."""
    every = ("test_schema", "test_autograd_registration", "test_faketensor", "test_aot_dispatch_dynamic")
    return every[:1] if op is local.global_count else every[:1] + every[2:3] if op in LINEAR_ONCE else every


@pytest.mark.parametrize(("op", "call"), CASES)
def test_an_op_is_differentiable_twice(op: Any, call: Arguments) -> None:
    args = call()
    leaves = [t for t in _flat(args) if isinstance(t, Tensor) and t.requires_grad]
    if not leaves or op in LINEAR_ONCE | NOT_ITS_OWN:
        pytest.skip("has no gradient")

    def run(*given: Tensor) -> Any:
        left = list(given)
        replaced = [_replaced(a, left) for a in args]
        if op is dropout.relu_dropout_:
            replaced[0] = replaced[0] * 1
        found = op(*replaced)
        kept = found if isinstance(found, (list, tuple)) else [found]
        return tuple(t for t in kept if t.requires_grad)

    if op is local.random_like:
        assert run(*leaves) == ()
        return
    twice = op not in (dropout.relu_dropout, dropout.relu_dropout_)
    inputs = [t.detach().requires_grad_() for t in leaves]
    assert torch.autograd.gradcheck(run, inputs)
    assert torch.autograd.gradgradcheck(run, inputs) or not twice


def _flat(values: Any) -> list[Any]:
    return [x for v in values for x in (_flat(v) if isinstance(v, (list, tuple)) else [v])]


def _replaced(value: Any, left: list[Tensor]) -> Any:
    if isinstance(value, (list, tuple)):
        return [_replaced(v, left) for v in value]
    return left.pop(0) if isinstance(value, Tensor) and value.requires_grad else value


def test_every_op_of_ours_has_a_schema_and_is_tried_here() -> None:
    ours = {op for op in CATALOGUE if "graphshard" in getattr(op, "__module__", "")}
    assert {op for op in ours if not isinstance(op, torch._ops.OpOverload)} == IDENTITIES
    assert ours - IDENTITIES <= CALLS.keys()
