"""Simulated ranks: the collectives' values, and that every way to disagree is an error, soon."""

import operator
import threading
import time

import pytest
import torch
import torch.distributed as dist

from graphshard.errors import GraphshardError, RuntimeMismatch
from graphshard.ops import exchange as ops
from graphshard.ranks.groups import resolve
from graphshard.testing import run_ranks


def test_results_come_in_rank_order():
    assert run_ranks(3, lambda rank, _, group: (rank, group.rank(), group.size())) == [
        (0, 0, 3),
        (1, 1, 3),
        (2, 2, 3),
    ]
    assert run_ranks(1, lambda *_: threading.current_thread()) == [threading.current_thread()]


@pytest.mark.parametrize("size", [1, 2, 4])
def test_the_collectives_of_torch_distributed(size):
    def run(rank, _, group):
        mine = torch.tensor([rank, -rank], dtype=torch.float64)
        found = {}
        for name in ("SUM", "AVG", "MAX", "MIN"):
            found[name] = mine.clone()
            dist.all_reduce(found[name], op=getattr(dist.ReduceOp, name), group=group)
        found["gathered"] = [torch.empty_like(mine) for _ in range(size)]  # type: ignore[assignment]
        dist.all_gather(found["gathered"], mine, group=group)
        found["into"] = torch.empty(2 * size, dtype=torch.float64)
        gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor  # its older name
        gather(found["into"], mine, group=group)
        found["broadcast"] = mine.clone()
        dist.broadcast(found["broadcast"], group_src=size - 1, group=group)
        found["exchanged"] = torch.empty(size, dtype=torch.float64)
        dist.all_to_all_single(found["exchanged"], 10.0 * rank + torch.arange(size).double(), group=group)
        dist.barrier(group=group)
        return found

    total = size * (size - 1) / 2
    for rank, found in enumerate(run_ranks(size, run)):
        assert found["SUM"].tolist() == [total, -total]
        assert found["AVG"].tolist() == [total / size, -total / size]
        assert found["MAX"].tolist() == [size - 1, 0]
        assert found["MIN"].tolist() == [0, 1 - size]
        assert [t.tolist() for t in found["gathered"]] == [[r, -r] for r in range(size)]
        assert found["into"].view(size, 2).tolist() == [[r, -r] for r in range(size)]
        assert found["broadcast"].tolist() == [size - 1, 1 - size]
        assert found["exchanged"].tolist() == [10.0 * r + rank for r in range(size)]


def test_objects_are_gathered():
    found = run_ranks(3, lambda r, name, _: ops.all_gather_object({"rank": r, "pad": "x" * r}, name))
    assert found == [[{"rank": r, "pad": "x" * r} for r in range(3)]] * 3


def test_a_reduction_is_the_same_bits_on_every_rank():
    terms = torch.randn(4, 50)
    found = run_ranks(4, lambda r, name, _: ops.all_reduce(terms[r], "sum", name))
    expected = terms[0] + terms[1] + terms[2] + terms[3]
    assert all(torch.equal(part, expected) for part in found)


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (lambda x, name: ops.all_reduce(x, "max", name), r"all_reduce_sum\(float32\[3\]\) .* all_reduce_max"),
        (lambda x, name: ops.all_reduce(x[:2], "sum", name), r"float32\[3\]\) on rank 0 but .*float32\[2\]"),
        (lambda x, name: ops.all_reduce(x.double(), "sum", name), "float32.* on rank 0 but .*float64"),
        (lambda x, name: dist.barrier(group=resolve(name)), r"on rank 0 but barrier\(\) on rank 2"),
        (lambda x, name: None, "on rank 0 but return from its function on rank 2"),
    ],
)
def test_another_collective_on_one_rank_is_named(other, said):
    """A rank that runs another sequence of collectives than the others is found at once."""

    def run(rank, name, _):
        x = torch.ones(3)
        ops.all_reduce(x, "sum", name)
        return other(x, name) if rank == 2 else ops.all_reduce(x, "sum", name)

    with pytest.raises(RuntimeMismatch, match=f"collective 1 is .*{said}"):
        run_ranks(3, run)


def test_a_dropped_backward_is_found():
    """requires_grad on one rank only: its backward communicates, the other's does not."""

    def run(rank, name, _):
        x = torch.ones(1, requires_grad=rank == 0)
        out = ops.halo_sync(x, torch.tensor([0]), [int(rank == 1), int(rank == 0)], [rank, 1 - rank], name)
        if out.requires_grad:
            out.sum().backward()

    with pytest.raises(RuntimeMismatch, match=r"all_to_all\(float32\[\*, 1\]\) on rank 0 but return"):
        run_ranks(2, run)


def test_plans_that_do_not_fit_each_other_are_found():
    def run(rank, name, _):
        splits = [int(rank == 1), int(rank == 0)]
        expected = [2 * n for n in splits] if rank == 1 else splits
        return ops.halo_sync(torch.ones(2), torch.tensor([0]), splits, expected, name)

    with pytest.raises(RuntimeMismatch, match="rank 0 sends 1 rows to rank 1, which expects 2"):
        run_ranks(2, run)


@pytest.mark.parametrize("culprit", [0, 1, 2])
def test_an_error_on_one_rank_releases_the_others_and_is_raised(culprit):
    def run(rank, name, group):
        dist.barrier(group=group)
        if rank == culprit:
            raise KeyError("planted")
        dist.barrier(group=group)

    started = time.monotonic()
    with pytest.raises(KeyError, match="planted") as caught:
        run_ranks(3, run)
    assert caught.value.__notes__ == [f"raised on simulated rank {culprit} of 3"]
    assert time.monotonic() - started < 5


def test_the_lowest_ranks_error_is_raised_and_a_single_ranks_too():
    meet = threading.Barrier(2)

    def run(rank, *_):
        meet.wait()
        raise ValueError(rank)

    with pytest.raises(ValueError, match="0"):
        run_ranks(2, run)
    with pytest.raises(ZeroDivisionError):
        run_ranks(1, lambda *_: operator.truediv(1, 0))


def test_a_rank_that_does_not_come_is_named_in_time():
    release = threading.Event()

    def run(rank, _, group):
        if rank == 1:
            release.wait(30)
        dist.barrier(group=group)

    try:
        with pytest.raises(
            RuntimeMismatch, match=r"rank 0 waits in collective 0 \(barrier.*\[1\] did not come"
        ):
            run_ranks(2, run, timeout=0.3)
        with pytest.raises(RuntimeMismatch, match=r"timed out: rank\(s\) \[0, 1\] of 2 still run"):
            run_ranks(2, lambda *_: release.wait(30), timeout=0.2)
    finally:
        release.set()


def test_nothing_stays_behind():
    names = run_ranks(2, lambda _, name, __: name)
    assert len(set(names)) == 2
    for name in names:
        with pytest.raises(RuntimeMismatch, match="no process group"):
            ops.group_size(name)
    with pytest.raises(ZeroDivisionError):
        run_ranks(2, lambda _, name, __: names.append(name) or 1 / 0)  # type: ignore[func-returns-value]
    with pytest.raises(RuntimeMismatch, match="no process group"):
        ops.group_size(names[-1])


def test_ranks_inherit_whether_gradients_are_recorded():
    with torch.no_grad():
        assert run_ranks(2, lambda *_: torch.is_grad_enabled()) == [False, False]
    assert run_ranks(2, lambda *_: torch.is_grad_enabled()) == [True, True]


def test_wrong_use_is_refused():
    with pytest.raises(GraphshardError, match="at least one rank"):
        run_ranks(0, lambda *_: None)
    with pytest.raises(GraphshardError, match="know sum, avg, max and min"):
        run_ranks(1, lambda _, __, g: dist.all_reduce(torch.ones(1), dist.ReduceOp.PRODUCT, group=g))
