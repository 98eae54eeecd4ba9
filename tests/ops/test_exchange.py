"""The ops against their definition on one machine: values, gradients, second gradients, on 1 to 4 ranks."""

from dataclasses import dataclass

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from graphshard.errors import GraphshardError, RuntimeMismatch, ShardError
from graphshard.ops import exchange as ops
from graphshard.ops.float_order import from_order_keys, order_keys
from graphshard.ops.stack import stack_ranks
from graphshard.shard.halo import HaloPlan
from graphshard.testing import run_ranks

SETTINGS = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
# One rank that exchanges with itself: its halo rows are copies of its own rows 2, 0, 2.
SELF = (torch.tensor([2, 0, 2]), [3], [3])

_OVER_COPIES = {"sum": "sum", "max": "amax", "min": "amin", "prod": "prod"}


@dataclass(frozen=True)
class World:
    """Nodes dealt to ranks, with arbitrary halos; ``rows[r]``: the global nodes of r's owned + halo rows."""

    num_nodes: int
    owned: list[list[int]]
    halos: list[list[int]]
    plans: list[HaloPlan]

    @property
    def size(self):
        return len(self.owned)

    @property
    def rows(self):
        return [o + h for o, h in zip(self.owned, self.halos, strict=True)]

    def args(self, rank):
        plan = self.plans[rank]
        return plan.send_index, list(plan.send_splits), list(plan.recv_splits)


def build_world(num_nodes, owner, halo_sets):
    ranks = range(len(halo_sets))
    owned = [[node for node in range(num_nodes) if owner[node] == rank] for rank in ranks]
    # [reader][writer]: the nodes that reader copies from writer.
    copies = [[[n for n in halo_sets[r] if owner[n] == w and w != r] for w in ranks] for r in ranks]
    halos = [[n for part in copies[r] for n in part] for r in ranks]
    plans = []
    for rank in ranks:
        sent = [owned[rank].index(n) for reader in ranks for n in copies[reader][rank]]
        plans.append(
            HaloPlan(
                len(owned[rank]),
                len(halos[rank]),
                torch.tensor(sent, dtype=torch.int64),
                tuple(len(copies[reader][rank]) for reader in ranks),
                tuple(len(copies[rank][writer]) for writer in ranks),
            )
        )
    return World(num_nodes, owned, halos, plans)


@st.composite
def worlds(draw, max_nodes=8):
    size, num_nodes = draw(st.integers(1, 4)), draw(st.integers(0, max_nodes))
    owner = [draw(st.integers(0, size - 1)) for _ in range(num_nodes)]
    nodes = st.lists(st.integers(0, num_nodes - 1), unique=True) if num_nodes else st.just([])
    return build_world(num_nodes, owner, [draw(nodes) for _ in range(size)])


def whole_numbers(*shape, seed=0):
    """Small whole numbers in float64: sums are exact in any order."""
    return torch.randint(-9, 10, shape, generator=torch.Generator().manual_seed(seed)).double()


# ---- values ------------------------------------------------------------------------------------------------


@SETTINGS
@given(world=worlds(), trailing=st.sampled_from([(), (1,), (3,), (2, 2), (0,), (2, 0)]))
def test_a_sync_gives_the_owners_rows(world, trailing):
    x = whole_numbers(world.num_nodes, *trailing)
    found = run_ranks(world.size, lambda r, name, _: ops.halo_sync(x[world.owned[r]], *world.args(r), name))
    for rank, rows in enumerate(world.rows):
        torch.testing.assert_close(found[rank], x[rows], rtol=0, atol=0)


@SETTINGS
@given(world=worlds(), reduce=st.sampled_from(["sum", "max", "min", "prod"]), integer=st.booleans())
def test_a_reduce_combines_all_copies_of_a_node(world, reduce, integer):
    terms = [whole_numbers(len(rows), 2, seed=r) for r, rows in enumerate(world.rows)]
    terms = [t.long() for t in terms] if integer else terms
    found = run_ranks(world.size, lambda r, name, _: ops.halo_reduce(terms[r], *world.args(r), reduce, name))
    for rank, nodes in enumerate(world.owned):
        for local, node in enumerate(nodes):
            copies = [
                terms[r][i] for r, rows in enumerate(world.rows) for i, n in enumerate(rows) if n == node
            ]
            expected = getattr(torch.stack(copies), _OVER_COPIES[reduce])(0)
            assert torch.equal(found[rank][local], expected)


def test_a_reduce_adds_in_rank_order():
    # Rank 0 owns one node that the others copy; in float32 the order of these terms shows.
    world = build_world(1, [0], [[], [0], [0], [0]])
    terms = [1.0, 1e8, -1e8, 0.5]
    for _ in range(5):
        found = run_ranks(
            4, lambda r, n, _: ops.halo_reduce(torch.tensor([terms[r]]), *world.args(r), "sum", n)
        )
        assert found[0].tolist() == [((torch.tensor(1.0) + 1e8) - 1e8 + 0.5).item()]


INTEGERS = (torch.bool, torch.uint8, torch.int16, torch.uint16, torch.int32, torch.int64)
FLOATS = (torch.float8_e4m3fn, torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64)


@pytest.mark.parametrize("dtype", [*INTEGERS, *FLOATS])
def test_rows_of_any_dtype_are_synced(dtype):
    world = build_world(4, [0, 0, 1, 1], [[2, 3], [0]])
    x = torch.tensor([[1, 0], [0, 1], [1, 1], [0, 0]]).to(dtype)

    def run(rank, name, _):
        own = torch.stack([x[node] for node in world.owned[rank]])
        return ops.halo_sync(own, *world.args(rank), name)

    for found, rows in zip(run_ranks(2, run), world.rows, strict=True):
        assert found.dtype == dtype
        assert [found[i].to(torch.complex128).tolist() for i in range(len(rows))] == [
            x[node].to(torch.complex128).tolist() for node in rows
        ]


@pytest.mark.parametrize("dtype", [torch.bool, torch.int16, torch.int64, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("reduce", ["sum", "max", "min"])
def test_reductions_of_any_dtype(dtype, reduce):
    world = build_world(2, [0, 1], [[1], [0]])
    terms = torch.tensor([[1, 0], [1, 1]]).to(dtype)  # by rank: own row, copy of the other's

    def run(rank, name, _):
        own = ops.halo_reduce(terms[rank], *world.args(rank), reduce, name)
        return own, ops.all_reduce(terms[rank], reduce, name)

    (first, both), (second, _) = run_ranks(2, run)
    combine = {"sum": torch.add, "max": torch.maximum, "min": torch.minimum}[reduce]
    if dtype == torch.bool:
        combine = torch.logical_and if reduce == "min" else torch.logical_or
    assert torch.equal(first, combine(terms[0, :1], terms[1, 1:]))  # type: ignore[operator]
    assert torch.equal(second, combine(terms[1, :1], terms[0, 1:]))  # type: ignore[operator]
    assert torch.equal(both, combine(terms[0], terms[1]))  # type: ignore[operator]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("reduce", ["max", "min"])
def test_an_extreme_over_ranks_keeps_nan_and_infinities(dtype, reduce):
    inf, nan = float("inf"), float("nan")
    values = [nan, -nan, -inf, -1.5, -0.0, 2.0, inf]
    first, second = (
        t.flatten() for t in torch.meshgrid(*[torch.tensor(values, dtype=dtype)] * 2, indexing="ij")
    )

    def run(rank, name, _):
        return ops.all_reduce((first, second)[rank], reduce, name)

    combine = {"max": torch.maximum, "min": torch.minimum}[reduce]
    for found in run_ranks(2, run):
        assert found.dtype == dtype
        torch.testing.assert_close(found, combine(first, second), rtol=0, atol=0, equal_nan=True)


def test_keys_of_floats_are_in_their_order():
    """What the backends compare: a NaN beats both infinities, on the side that the reduction looks at."""
    inf = float("inf")
    values = torch.tensor([-inf, -2.0, -1e-310, 0.0, 1e-310, 2.0, inf], dtype=torch.float64)
    nan = torch.tensor([float("nan"), -float("nan")], dtype=torch.float64)
    for dtype in (torch.float32, torch.float64):
        keys = order_keys(values.to(dtype), "max")
        assert torch.equal(keys, keys.sort().values)
        assert torch.equal(from_order_keys(keys), values.to(dtype))
        assert (order_keys(nan.to(dtype), "max") > keys.max()).all()
        assert (order_keys(nan.to(dtype), "min") < keys.min()).all()


def test_stacked_values_send_their_gradient_home():
    """The cotangent of a replicated value is a term on each rank: the terms are summed."""

    def run(rank, name, _):
        x = torch.full((2,), rank + 1.0, dtype=torch.float64, requires_grad=True)
        stacked = stack_ranks(x, name)
        (stacked * (rank + 1) * torch.tensor([[1.0], [10.0], [100.0]])).sum().backward()
        return stacked.detach(), x.grad

    for rank, (stacked, gradient) in enumerate(run_ranks(3, run)):
        assert stacked.tolist() == [[1, 1], [2, 2], [3, 3]]
        assert gradient.tolist() == [6 * 10**rank] * 2
    assert torch.equal(stack_ranks(torch.ones(2), ""), torch.ones(1, 2))


@pytest.mark.parametrize("simulated", [False, True])
def test_no_op_returns_its_input(simulated):
    def run(_, name, __):
        x, index, group = torch.ones(3, 2), torch.empty(0, dtype=torch.int64), name if simulated else ""
        for out in (
            ops.halo_sync(x, index, [0], [0], group),
            ops.halo_reduce(x, index, [0], [0], "sum", group),
            ops.all_reduce(x, "sum", group),
        ):
            assert torch.equal(out, x)
            assert out.untyped_storage().data_ptr() != x.untyped_storage().data_ptr()

    run_ranks(1, run)


# ---- gradients ---------------------------------------------------------------------------------------------


@SETTINGS
@given(world=worlds())
def test_sync_and_reduce_are_adjoint(world):
    x = whole_numbers(world.num_nodes, 2, seed=1)
    y = [whole_numbers(len(rows), 2, seed=2 + r) for r, rows in enumerate(world.rows)]

    def run(rank, name, _):
        mine = x[world.owned[rank]]
        forward = (ops.halo_sync(mine, *world.args(rank), name) * y[rank]).sum()
        back = (mine * ops.halo_reduce(y[rank], *world.args(rank), "sum", name)).sum()
        return forward, back

    found = run_ranks(world.size, run)
    assert sum(a for a, _ in found) == sum(b for _, b in found)


@settings(SETTINGS, max_examples=15)
@given(world=worlds(max_nodes=5))
def test_the_jacobians_across_ranks_are_the_selection_matrix_and_its_transpose(world):
    # A cotangent that is 1 in one row of one rank gives one row of the Jacobian, spread over the ranks.
    select = torch.cat([torch.eye(world.num_nodes)[rows] for rows in world.rows] or [torch.empty(0)])
    starts = torch.tensor([0] + [len(rows) for rows in world.rows]).cumsum(0).tolist()

    def run(rank, name, _):
        x = torch.zeros(len(world.owned[rank]), requires_grad=True)
        z = torch.zeros(len(world.rows[rank]), requires_grad=True)
        synced = ops.halo_sync(x, *world.args(rank), name)
        reduced = ops.halo_reduce(z, *world.args(rank), "sum", name)
        of_sync, of_reduce = [], []
        for row in range(starts[-1]):
            basis = torch.eye(starts[-1])[row, starts[rank] : starts[rank + 1]]
            of_sync.append(torch.autograd.grad(synced, x, basis, retain_graph=True)[0])
        for node in range(world.num_nodes):
            basis = torch.eye(world.num_nodes)[node, world.owned[rank]]
            of_reduce.append(torch.autograd.grad(reduced, z, basis, retain_graph=True)[0])
        return of_sync, of_reduce

    for rank, (of_sync, of_reduce) in enumerate(run_ranks(world.size, run)):
        for row, grad in enumerate(of_sync):
            assert torch.equal(grad, select[row, world.owned[rank]])
        for node, grad in enumerate(of_reduce):
            assert torch.equal(grad, select[starts[rank] : starts[rank + 1], node])


@pytest.mark.parametrize("simulated", [False, True])
def test_gradcheck_and_gradgradcheck(simulated):
    def run(_, name, __):
        group = name if simulated else ""
        x = torch.randn(4, 2, dtype=torch.float64, requires_grad=True)
        z = torch.randn(7, 2, dtype=torch.float64, requires_grad=True)
        cases = [
            (lambda x: ops.halo_sync(x, *SELF, group), x),
            (lambda z: ops.halo_reduce(z, *SELF, "sum", group), z),
            (lambda x: ops.all_reduce(x, "sum", group), x),
            (lambda x: ops.replicated_input(x, group).sin(), x),
            (lambda x: ops.replicated_output(x.sin(), group), x),
            (lambda x: ops.halo_reduce(ops.halo_sync(x, *SELF, group) ** 3, *SELF, "sum", group), x),
        ]
        for fn, value in cases:
            assert torch.autograd.gradcheck(fn, (value,))
            assert torch.autograd.gradgradcheck(fn, (value,))

    run_ranks(1, run)


def test_the_convention_gives_the_single_machines_gradients_twice():
    """loss = sum over nodes of (w * x)^3 with w on every rank; its gradients and a second gradient."""
    world = build_world(5, [0, 2, 2, 0, 2], [[], [], []])
    x, w = torch.randn(5, dtype=torch.float64), torch.randn((), dtype=torch.float64)

    def loss_of(w, x, group):
        total = ((ops.replicated_input(w, group) * x) ** 3).sum()
        return ops.replicated_output(ops.all_reduce(total, "sum", group), group)

    def run(rank, name, _):
        mine, weight = x[world.owned[rank]].clone().requires_grad_(), w.clone().requires_grad_()
        loss = loss_of(weight, mine, name)
        grads = torch.autograd.grad(loss, (weight, mine), create_graph=True)
        return loss.detach(), *(g.detach() for g in grads)

    x_one, w_one = x.clone().requires_grad_(), w.clone().requires_grad_()
    expected = loss_of(w_one, x_one, "")
    w_grad, x_grad = torch.autograd.grad(expected, (w_one, x_one))
    for rank, (loss, of_w, of_x) in enumerate(run_ranks(3, run)):
        torch.testing.assert_close(loss, expected.detach())
        torch.testing.assert_close(of_w, w_grad)
        torch.testing.assert_close(of_x, x_grad[world.owned[rank]])


@pytest.mark.parametrize("reduce", ["max", "min"])
def test_extremes_have_no_gradient(reduce):
    x = torch.ones(7, requires_grad=True)
    for out in (ops.halo_reduce(x, *SELF, reduce, ""), ops.all_reduce(x, reduce, "")):
        with pytest.raises(GraphshardError, match="no gradient"):
            out.sum().backward()


# ---- torch.library -----------------------------------------------------------------------------------------


# torch 2.15 reads .grad of a non-leaf in its own check.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
@pytest.mark.versions
@pytest.mark.parametrize("grad", [False, True])
def test_opcheck(grad):
    x, z = torch.randn(4, 2, requires_grad=grad), torch.randn(7, 2, requires_grad=grad)
    library = torch.ops.graphshard
    torch.library.opcheck(library.halo_sync.default, (x, *SELF, ""))
    torch.library.opcheck(library.halo_reduce.default, (z, *SELF, "sum", ""))
    torch.library.opcheck(library.all_reduce.default, (x, "sum", ""))
    for reduce in ("max", "min"):
        torch.library.opcheck(library.halo_reduce.default, (z.detach(), *SELF, reduce, ""))
        torch.library.opcheck(library.all_reduce.default, (x.detach(), reduce, ""))


# ---- counting ----------------------------------------------------------------------------------------------


def test_bytes_to_other_ranks_are_counted_forward_and_backward():
    world = build_world(3, [0, 0, 1], [[2], [0, 1]])  # rank 0 sends two rows and gets one

    def run(rank, name, _):
        x = torch.ones(len(world.owned[rank]), 4, requires_grad=True)  # a row is 16 bytes
        with ops.count_bytes() as whole:
            with ops.count_bytes() as forward:
                out = ops.halo_sync(x, *world.args(rank), name)
                ops.all_reduce(out.detach().sum(), "sum", name)
            out.sum().backward()
        ops.all_reduce(x.detach()[:1], "sum", name)
        return forward.halo_bytes, whole.halo_bytes, whole.reduce_bytes, whole.total

    assert run_ranks(2, run) == [(32, 48, 4, 52), (16, 48, 4, 52)]


def test_a_single_rank_sends_nothing():
    with ops.count_bytes() as counter:
        ops.halo_sync(torch.ones(3, 2), *SELF, "")
        ops.all_reduce(torch.ones(3), "sum", "")
    assert counter.total == 0


# ---- refusals ----------------------------------------------------------------------------------------------


def test_wrong_arguments_are_refused():
    x, index = torch.ones(4), torch.tensor([0])
    with pytest.raises(RuntimeMismatch, match="for 2 ranks, but the process group has 1"):
        ops.halo_sync(x, index, [0, 1], [0, 1], "")
    with pytest.raises(ShardError, match="sends 2 rows but lists 1"):
        ops.halo_sync(x, index, [2], [2], "")
    with pytest.raises(ShardError, match="as many rows as it sends"):
        ops.halo_sync(x, index, [1], [2], "")
    with pytest.raises(ShardError, match="fewer than the halo"):
        ops.halo_reduce(x[:0], index, [1], [1], "sum", "")
    with pytest.raises(GraphshardError, match="no reduction 'mean'"):
        ops.all_reduce(x, "mean", "")
    with pytest.raises(RuntimeMismatch, match="no process group named 'nobody'"):
        ops.all_reduce(x, "sum", "nobody")


def test_the_single_rank_group():
    x = torch.ones(2, requires_grad=True)
    assert ops.default_group() == ""
    assert (ops.group_size(""), ops.group_rank("")) == (1, 0)
    assert ops.all_gather_object({"a": 1}, "") == [{"a": 1}]
    assert ops.replicated_input(x, "") is x
    assert ops.replicated_output(x, "") is x
