"""Other methods than forward: named ones run on all ranks, others as they are written and not on rows of one rank."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from support.wrapped import EDGES, Net, X, net, shards
from torch import Tensor

import graphshard
from graphshard.errors import CaptureError, RuntimeMismatch, UnsupportedOperation
from graphshard.testing import run_ranks


class Calling(Net):
    """A method that calls forward, and one with a default."""

    def loss(self, x: Tensor, edge_index: Tensor, factor: float = 2.0) -> Tensor:
        return factor * self(x, edge_index).log().mean()


def test_named_methods_equal_one_machine_on_every_rank() -> None:
    plain = net()
    loss = plain.decode(plain.encode(X, EDGES), EDGES).mean()
    loss.backward()
    parts, models = shards(), [net(), net()]

    def rank(number: int, _name: str, group: Any) -> tuple[Tensor, Tensor]:
        part = parts[number]
        model = graphshard.distribute(models[number], group=group, methods=["encode", "decode"])
        z = model.encode(part)
        scores = model.decode(z, part.edge_index)
        graphshard.mean(scores, group).backward()
        assert (model.step, model.encode.__self__.training) == (2, True)
        return part.gather(z.detach(), group), model.lin.weight.grad

    for found, gradient in run_ranks(2, rank):
        torch.testing.assert_close(found, plain.encode(X, EDGES).detach())
        torch.testing.assert_close(gradient, plain.lin.weight.grad)


def test_a_method_may_call_forward_and_reads_attributes_modes_and_copies() -> None:
    plain = Calling(0.5).double()
    model = graphshard.distribute(plain, methods=("loss", "encode"), seed=1)
    first = [model.encode(X, EDGES) for _ in range(2)]
    assert not torch.equal(*first)
    assert model.step == 2
    model.eval()
    torch.testing.assert_close(model.loss(X, EDGES, factor=3.0), plain.loss(X, EDGES, 3.0))
    model.temperature = 0.5
    torch.testing.assert_close(model.loss(X, EDGES), plain.loss(X, EDGES))
    import copy

    torch.testing.assert_close(copy.deepcopy(model).loss(X, EDGES), plain.loss(X, EDGES))


def test_a_method_that_is_not_named_runs_on_whole_tensors_alone() -> None:
    parts, models = shards(), [net(), net()]

    def rank(number: int, _name: str, group: Any) -> None:
        model = graphshard.distribute(models[number], group=group)
        torch.testing.assert_close(model.encode(X, EDGES), models[number].encode(X, EDGES))
        for given in ((parts[number].x, EDGES), (parts[number],), ([X, parts[number].x],)):
            with pytest.raises(UnsupportedOperation, match=r'Net.encode\(\).*methods=\["encode"\]'):
                model.encode(*given)

    run_ranks(2, rank)
    alone = graphshard.distribute(net())
    torch.testing.assert_close(alone.encode(*(shards(1)[0].x, EDGES)), net().encode(X, EDGES))


def test_ranks_that_call_different_methods_are_told_apart() -> None:
    parts, models = shards(), [net(), net()]

    def rank(number: int, _name: str, group: Any) -> None:
        model = graphshard.distribute(models[number], group=group, methods=["encode"])
        with pytest.raises(
            RuntimeMismatch, match=r"the class of the model is .*Net on rank 0 but .*Net.encode"
        ):
            (model.encode if number else model)(parts[number])

    run_ranks(2, rank)


@pytest.mark.parametrize(
    ("name", "said"),
    [("encoed", "Net has no method 'encoed'"), ("lin", "no method 'lin'"), ("train", "'train' is a")],
)
def test_names_that_are_no_methods_are_refused(name: str, said: str) -> None:
    with pytest.raises(CaptureError, match=said):
        graphshard.distribute(net(), methods=[name])


class Resetting(Net):
    def reset_parameters(self, value: float = 0.0) -> None:
        """As PyG's layers do it: no version of the Parameter counts up."""
        self.lin.weight.data.uniform_(-1, 1 + value)


def test_parameters_that_a_method_resets_become_rank_0s_again() -> None:
    parts, models = shards(), [Resetting(), Resetting()]

    def rank(number: int, _name: str, group: Any) -> list[Tensor]:
        model = graphshard.distribute(models[number], group=group)
        model(parts[number])
        model.count()
        model(parts[number])
        model.reset_parameters(value=float(number))
        model(parts[number])
        return [p.detach().clone() for p in model.parameters()]

    first, second = run_ranks(2, rank)
    for one, other in zip(first, second, strict=True):
        assert torch.equal(one, other)


def test_a_method_that_changes_parameters_on_one_rank_alone_is_named() -> None:
    parts, models = shards(), [Resetting(), Resetting()]

    def rank(number: int, _name: str, group: Any) -> None:
        model = graphshard.distribute(models[number], group=group)
        model(parts[number])
        if number:
            model.reset_parameters()
        with pytest.raises(RuntimeMismatch, match="is nothing on rank 0 but parameters or buffers on rank 1"):
            model(parts[number])

    run_ranks(2, rank)
