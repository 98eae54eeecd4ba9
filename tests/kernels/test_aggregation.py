"""Aggregations against their definitions by PyTorch's own gathers and scatters, on every kind of kernels."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.strategies import examples
from torch import Tensor

from graphshard.errors import GraphshardError
from graphshard.kernels.interface import kernels_for, using
from graphshard.kernels.structure import Structure
from graphshard.ops import aggregation

pytestmark = pytest.mark.versions

KERNELS = ["torch", "numba"]


@pytest.fixture(params=KERNELS)
def kernels(request: pytest.FixtureRequest) -> Iterator[str]:
    if request.param == "numba":
        pytest.importorskip("numba")
    with using(request.param):
        yield request.param


def numbers(*shape: int, seed: int = 0, ties: bool = False) -> Tensor:
    random = torch.Generator().manual_seed(seed)
    if ties:
        return torch.randint(-1, 2, shape, generator=random).double().requires_grad_()
    return torch.randn(shape, generator=random, dtype=torch.float64).requires_grad_()


def structure_of(edges: int, rows: int, columns: int, seed: int, *, ordered: bool) -> Structure:
    """As kernels see it; ops take its ``tensors``."""
    random = torch.Generator().manual_seed(seed)
    row = torch.randint(rows, (edges,), generator=random)
    column = torch.randint(columns, (edges,), generator=random)
    ends = (row.sort().values if ordered else row, column)
    return Structure.of(aggregation.edge_structure(*ends, rows, columns))


def literal_sum(x: Tensor, weight: Tensor | None, a: Structure) -> Tensor:
    message = x[a.column]
    if weight is not None:
        message = message * weight.view(*weight.shape, *[1] * (message.dim() - weight.dim()))
    return x.new_zeros(a.by_row.groups, *x.shape[1:]).index_add(0, a.row, message)


def literal_softmax(scores: Tensor, a: Structure) -> Tensor:
    row = a.row.long().view(-1, *[1] * (scores.dim() - 1)).expand_as(scores)
    empty = scores.new_zeros(a.by_row.groups, *scores.shape[1:])
    top = empty.scatter_reduce(0, row, scores.detach(), "amax", include_self=False)
    power = (scores - top[a.row]).exp()
    return power / (empty.index_add(0, a.row, power) + 1e-16)[a.row]


def literal_extreme(x: Tensor, a: Structure, reduce: str) -> Tensor:
    row = a.row.long().view(-1, *[1] * (x.dim() - 1)).expand(-1, *x.shape[1:])
    return x.new_zeros(a.by_row.groups, *x.shape[1:]).scatter_reduce(
        0, row, x[a.column], reduce, include_self=False
    )


def check(ours: Callable[..., Tensor], literal: Callable[..., Tensor], *inputs: Tensor) -> None:
    """The same values and gradients, the latter also with a graph of their own."""
    expected, found = literal(*inputs), ours(*inputs)
    assert found.shape == expected.shape
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    cotangent = numbers(*expected.shape, seed=7).detach()
    wanted = torch.autograd.grad(expected, inputs, cotangent)
    for graph in (False, True):
        got = torch.autograd.grad(ours(*inputs), inputs, cotangent, create_graph=graph)
        for g, w in zip(got, wanted, strict=True):
            torch.testing.assert_close(g, w, rtol=1e-11, atol=1e-12)


graphs = st.tuples(
    st.sampled_from([0, 1, 40]), st.integers(1, 9), st.integers(1, 9), st.integers(0, 99), st.booleans()
)
widths = st.sampled_from([1, 2, 3, 7, 8, 20, 67, 200])


@pytest.mark.usefixtures("kernels")
@examples(25)
@given(graph=graphs, width=widths, heads=st.sampled_from([1, 3, 4]))
def test_sums_and_dots(graph: tuple[int, int, int, int, bool], width: int, heads: int) -> None:
    edges, rows, columns, seed, ordered = graph
    a = structure_of(edges, rows, columns, seed, ordered=ordered)
    x, flat = numbers(columns, heads, width), numbers(columns, width)
    check(lambda t: aggregation.weighted_sum(t, None, a.tensors), lambda t: literal_sum(t, None, a), x)
    check(
        lambda t: aggregation.weighted_sum(t, None, a.tensors), lambda t: literal_sum(t, None, a), x[:, 0, 0]
    )
    weight, one = numbers(edges, heads, seed=1), numbers(edges, seed=2)
    check(
        lambda t, w: aggregation.weighted_sum(t, w, a.tensors), lambda t, w: literal_sum(t, w, a), x, weight
    )
    check(
        lambda t, w: aggregation.weighted_sum(t, w, a.tensors), lambda t, w: literal_sum(t, w, a), flat, one
    )
    q = numbers(rows, heads, width, seed=3)
    check(lambda s, t: aggregation.dots(s, t, a.tensors), lambda s, t: (s[a.row] * t[a.column]).sum(-1), q, x)


@pytest.mark.usefixtures("kernels")
@examples(25)
@given(graph=graphs, heads=st.sampled_from([1, 4]), ties=st.booleans())
def test_edges_softmax_and_extremes(graph: tuple[int, int, int, int, bool], heads: int, ties: bool) -> None:
    edges, rows, columns, seed, ordered = graph
    a = structure_of(edges, rows, columns, seed, ordered=ordered)
    values, x = numbers(edges, heads, 5), numbers(columns, heads, 3, ties=ties)
    for end in ("row", "column"):
        table = numbers(rows if end == "row" else columns, heads)
        index = getattr(a, end)
        check(lambda t, e=end: aggregation.gather(t, a.tensors, e), lambda t, i=index: t[i], table)
    check(
        lambda v: aggregation.segment_sum(v, a.tensors),
        lambda v: v.new_zeros(rows, heads, 5).index_add(0, a.row, v),
        values,
    )
    for scores in (numbers(edges, heads), numbers(edges)):
        check(
            lambda s: aggregation.edge_softmax(s, a.tensors, 1e-16), lambda s: literal_softmax(s, a), scores
        )
    for reduce in ("amax", "amin"):
        check(
            lambda t, r=reduce: aggregation.edge_extreme(t, a.tensors, r),
            lambda t, r=reduce: literal_extreme(t, a, r),
            x,
        )


@pytest.mark.usefixtures("kernels")
def test_an_extreme_with_nan_is_nan_and_so_is_its_gradient() -> None:
    a = structure_of(30, 5, 6, 3, ordered=False)
    x = numbers(6, 2)
    with torch.no_grad():
        x[2, 0], x[4, 1] = float("nan"), float("inf")
    for reduce in ("amax", "amin"):
        found, expected = aggregation.edge_extreme(x, a.tensors, reduce), literal_extreme(x, a, reduce)
        torch.testing.assert_close(found, expected, equal_nan=True)
        ours, theirs = (torch.autograd.grad(v.sum(), x)[0] for v in (found, expected))
        torch.testing.assert_close(ours, theirs, equal_nan=True)


@pytest.mark.usefixtures("kernels")
def test_gradients_of_gradients() -> None:
    a = structure_of(12, 4, 5, 1, ordered=False)
    x, w, q, s = numbers(5, 2, 3), numbers(12, 2, seed=1), numbers(4, 2, 3, seed=2), numbers(12, 2, seed=3)
    for function, inputs in (
        (lambda t, v: aggregation.weighted_sum(t, v, a.tensors), (x, w)),
        (lambda r, t: aggregation.dots(r, t, a.tensors), (q, x)),
        (lambda t: aggregation.gather(t, a.tensors, "column").square(), (x,)),
        (lambda v: aggregation.segment_sum(v, a.tensors).square(), (w,)),
        (lambda v: aggregation.edge_softmax(v, a.tensors, 1e-16), (s,)),
        (lambda t: aggregation.edge_extreme(t, a.tensors, "amax").square(), (x,)),
    ):
        assert torch.autograd.gradcheck(function, inputs)
        assert torch.autograd.gradgradcheck(function, inputs)


def test_threads_and_float32() -> None:
    """Many rows on several threads: the same bits as on one."""
    pytest.importorskip("numba")
    a = structure_of(40_000, 3_000, 2_000, 0, ordered=False)
    x, w = numbers(2_000, 2, 40).detach().float(), numbers(40_000, 2).detach().float()
    before = torch.get_num_threads()
    found = []
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            with using("numba"):
                found.append(
                    (
                        aggregation.weighted_sum(x, w, a.tensors),
                        aggregation.edge_softmax(w * 10, a.tensors, 1e-16),
                        aggregation.edge_extreme(x, a.tensors, "amax"),
                    )
                )
    finally:
        torch.set_num_threads(before)
    for one, several in zip(*found, strict=True):
        assert torch.equal(one, several)
    torch.testing.assert_close(
        found[0][0].double(), literal_sum(x.double(), w.double(), a), rtol=1e-5, atol=1e-5
    )
    softmax = literal_softmax((w * 10).double(), a)
    torch.testing.assert_close(found[0][1].double(), softmax, rtol=1e-5, atol=1e-30)


def test_which_kernels_a_tensor_gets() -> None:
    pytest.importorskip("numba")
    assert type(kernels_for(torch.ones(1))).__name__ == "NumbaKernels"
    assert type(kernels_for(torch.ones(1, dtype=torch.bfloat16))).__name__ == "TorchKernels"
    with using("torch"):
        assert type(kernels_for(torch.ones(1))).__name__ == "TorchKernels"
    with pytest.raises(GraphshardError, match="choose numba or torch"), using("triton"):
        pass
