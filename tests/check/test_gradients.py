"""A gradient that is None on one machine is None on ranks, and one that is zero is zero: optimisers tell them apart."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import graphshard
from graphshard.testing import run_ranks

N = 12
GENERATOR = torch.Generator().manual_seed(0)
X = torch.rand(N, 4, generator=GENERATOR, dtype=torch.float64)
EDGES = torch.randint(0, N, (2, 40), generator=GENERATOR)


class Net(nn.Module):
    """``weights``: four matrices; ``forward``: which of them it reads, and how."""

    def __init__(self, used: Callable[[Any, Tensor], Any]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.c, self.d = (nn.Linear(4, 4).double() for _ in range(4))
        self.frozen = nn.Parameter(torch.rand(4).double(), requires_grad=False)
        self.used = used

    def forward(self, x: Tensor, edge_index: Tensor) -> Any:
        h = torch.zeros_like(x).index_add(0, edge_index[1], self.a(x)[edge_index[0]])
        return self.used(self, h)


def joined_and_cut(net: Net, h: Tensor) -> Tensor:
    return torch.cat([net.b(h), net.c(h)], -1)[:, :4]


def stacked_and_one_taken(net: Net, h: Tensor) -> Tensor:
    return torch.stack([net.b(h), net.c(h), h * net.frozen]).unbind(0)[0]


def never_read(net: Net, h: Tensor) -> Tensor:
    return net.b(h)


def read_and_thrown_away(net: Net, h: Tensor) -> Tensor:
    net.c(h)
    return net.b(h)


def detached(net: Net, h: Tensor) -> Tensor:
    with torch.no_grad():
        other = net.d(h)
    return net.b(h) + net.c(h).detach() + other


def no_columns(net: Net, h: Tensor) -> Tensor:
    return torch.cat([net.b(h), net.c(h)[:, :0]], -1)


def two_outputs(net: Net, h: Tensor) -> tuple[Tensor, Tensor]:
    both = torch.cat([net.c(h), net.d(h)], -1)
    return net.b(h), both[:, :4]


def two_outputs_one_loss(net: Net, h: Tensor) -> tuple[Tensor, Tensor]:
    return net.b(h).mean(), net.c(h).pow(2).sum()


def after_a_rectifier_of_nothing(net: Net, h: Tensor) -> Tensor:
    return net.b(h) + torch.zeros_like(h) * net.c(h)


CASES = [
    joined_and_cut,
    stacked_and_one_taken,
    never_read,
    read_and_thrown_away,
    detached,
    no_columns,
    two_outputs,
    two_outputs_one_loss,
    after_a_rectifier_of_nothing,
]


def trained(
    net: nn.Module, call: Callable[[], Any] | None, total: Callable[[Tensor], Tensor], output: int
) -> dict[str, Any]:
    """Steps of an optimiser whose weight decay moves what has a gradient of zeros."""
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9, weight_decay=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        found = net(X, EDGES) if call is None else call()
        found = found[output] if isinstance(found, tuple) else found
        total(found.square() if found.dim() else found).backward()
        optimizer.step()
    gradients = {n: None if p.grad is None else p.grad.clone() for n, p in net.named_parameters()}
    return gradients | {f"{n} itself": p.detach().clone() for n, p in net.named_parameters()}


def assert_same(found: dict[str, Any], wanted: dict[str, Any]) -> None:
    assert {n for n, g in found.items() if g is None} == {n for n, g in wanted.items() if g is None}
    for name, value in wanted.items():
        if value is not None:
            torch.testing.assert_close(found[name], value, rtol=1e-9, atol=1e-9, msg=name)


@pytest.mark.parametrize("used", CASES)
def test_the_same_gradients_exist(used: Any) -> None:
    model = graphshard.distribute(net := Net(used))
    found = [trained(net, lambda: model(X, EDGES), torch.sum, output) for output in (0, 1)]
    plain = Net(used)
    expected = [trained(plain, lambda: plain(X, EDGES), torch.sum, output) for output in (0, 1)]
    for one, other in zip(found, expected, strict=True):
        assert_same(one, other)


@pytest.mark.parametrize("used", [two_outputs, two_outputs_one_loss])
def test_the_same_gradients_exist_on_every_rank(used: Any) -> None:
    """Also on one that has no node."""
    expected = [trained(Net(used), None, torch.sum, output) for output in (0, 1)]
    parts = graphshard.partition({"x": X, "edge_index": EDGES}, 2, method=torch.zeros(N, dtype=torch.int64))
    nets = [Net(used), Net(used)]

    def rank(number: int, _name: str, group: Any) -> list[dict[str, Any]]:
        net = nets[number]
        model = graphshard.distribute(net, group=group)
        start = copy.deepcopy(net.state_dict())

        def total(value: Tensor) -> Tensor:
            return graphshard.sum(value, group) if value.dim() else value

        found = []
        for output in (0, 1):
            net.load_state_dict(start)
            found.append(trained(net, lambda: model(parts[number]), total, output))
        return found

    for found in run_ranks(2, rank):
        for one, other in zip(found, expected, strict=True):
            assert_same(one, other)


def test_an_input_that_is_cut_off_has_a_gradient_of_zeros() -> None:
    class Cut(nn.Module):
        def forward(self, x: Tensor, z: Tensor, edge_index: Tensor) -> Tensor:
            both = torch.cat([x[edge_index[0]], z[edge_index[1]]], -1)[:, :4]
            return torch.zeros_like(x).index_add(0, edge_index[1], both)

    x, z = X.clone().requires_grad_(), X.clone().requires_grad_()
    graphshard.distribute(Cut())(x, z, EDGES).sum().backward()
    assert z.grad is not None
    assert not z.grad.any()


def test_what_is_frozen_later_has_no_gradient_and_what_is_thawed_has_one() -> None:
    model = graphshard.distribute(net := Net(stacked_and_one_taken))
    net.c.requires_grad_(False)
    model(X, EDGES).sum().backward()
    assert net.c.weight.grad is None
    net.c.requires_grad_(True)
    model(X, EDGES).sum().backward()
    assert net.c.weight.grad is not None
    with torch.no_grad():
        assert not model(X, EDGES).requires_grad


def test_second_derivatives_pass_an_output_with_zeros() -> None:
    plain = Net(joined_and_cut)
    found = []
    for net, call in ((copy.deepcopy(plain), None), (copy.deepcopy(plain), graphshard.distribute)):
        out = (call(net) if call else net)(X, EDGES).square().sum()
        (first,) = torch.autograd.grad(out, net.b.weight, create_graph=True)
        found.append(torch.autograd.grad(first.square().sum(), net.a.weight)[0])
    torch.testing.assert_close(*found)
