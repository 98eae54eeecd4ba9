"""What may stand around a call: checkpoints, modes, inference_mode, wrappers; and what is refused by its name."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import pytest
import torch
from support.wrapped import EDGES, X, net, shards
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

import graphshard
from graphshard.errors import CaptureError, UnsupportedOperation
from graphshard.testing import run_ranks


def gradients(
    forward: Callable[[Any], Tensor], group: Any = None, number: int = 0, parts: int = 1
) -> list[Tensor]:
    """Of two steps, with dropout: the second's masks are others."""
    plain = net(0.5)
    model = graphshard.distribute(plain, seed=3, group=group)
    found = []
    for _ in range(2):
        plain.zero_grad()
        graphshard.sum(forward((model, shards(parts)[number])).square(), group).backward()
        assert plain.lin.weight.grad is not None
        found.append(plain.lin.weight.grad.clone())
    return [*found, torch.tensor(float(model.step))]


def plainly(given: Any) -> Tensor:
    model, shard = given
    return model(shard)  # type: ignore[no-any-return]


def checkpointed(given: Any) -> Tensor:
    model, shard = given
    return checkpoint(model, shard.x, shard.edge_index, use_reentrant=False)  # type: ignore[no-any-return]


def twice(call: Callable[..., Any]) -> Callable[[Any], Tensor]:
    def forward(given: Any) -> Tensor:
        model, shard = given
        return call(lambda x: model(x, shard.edge_index) - 2 * model(x, shard.edge_index).tanh(), shard.x)  # type: ignore[no-any-return]

    return forward


def inside(function: Callable[..., Any], x: Tensor) -> Any:
    return checkpoint(function, x, use_reentrant=False)


def directly(function: Callable[..., Any], x: Tensor) -> Any:
    return function(x)


def two_regions(given: Any) -> Tensor:
    return checkpointed(given) + 3 * checkpointed(given).sin()


def two_calls(given: Any) -> Tensor:
    return plainly(given) + 3 * plainly(given).sin()


@pytest.mark.parametrize(
    ("with_checkpoint", "without"),
    [(checkpointed, plainly), (twice(inside), twice(directly)), (two_regions, two_calls)],
    ids=["the model", "two calls in a region", "two regions"],
)
def test_a_checkpoint_repeats_the_random_numbers_of_its_first_run(with_checkpoint: Any, without: Any) -> None:
    for one, other in zip(gradients(with_checkpoint), gradients(without), strict=True):
        torch.testing.assert_close(one, other)


def test_a_checkpoint_on_ranks() -> None:
    expected = gradients(plainly)

    def rank(number: int, _name: str, group: Any) -> list[Tensor]:
        return gradients(checkpointed, group, number, 2)

    for found in run_ranks(2, rank):
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one, other)


def test_a_backward_twice_through_a_checkpoint() -> None:
    plain = net(0.5)
    out = checkpointed((graphshard.distribute(plain, seed=3), shards(1)[0]))
    found = [
        torch.autograd.grad(out.square().sum(), plain.lin.weight, retain_graph=True)[0] for _ in range(2)
    ]
    torch.testing.assert_close(*found)


def test_a_reentrant_checkpoint_with_dropout_is_refused_and_without_is_right() -> None:
    for p in (0.0, 0.5):
        plain, x = net(p), X.clone().requires_grad_()
        model = graphshard.distribute(plain)
        out = checkpoint(model, x, EDGES, use_reentrant=True)
        if p:
            with pytest.raises(UnsupportedOperation, match=r"inside of a backward.*use_reentrant=False"):
                out.square().sum().backward()
        else:
            out.square().sum().backward()
            (expected,) = torch.autograd.grad(plain(x, EDGES).square().sum(), plain.lin.weight)
            torch.testing.assert_close(plain.lin.weight.grad, expected)
            assert model.step == 1


class Counting(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **(kwargs or {}))


MODES: dict[str, Callable[[], contextlib.AbstractContextManager[Any]]] = {
    "flops": lambda: FlopCounterMode(display=False),
    "functions": Counting,
    "profiler": torch.autograd.profiler.profile,
    "anomaly": torch.autograd.detect_anomaly,
    "hooks": torch.autograd.graph.save_on_cpu,
    "device": lambda: torch.device("cpu"),
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.filterwarnings("ignore:Anomaly Detection")
def test_a_mode_around_the_first_call_changes_nothing(mode: str) -> None:
    plain, expected = net(), net()
    model = graphshard.distribute(plain)
    with MODES[mode]():
        model(X, EDGES).square().sum().backward()
    expected(X, EDGES).square().sum().backward()
    torch.testing.assert_close(plain.lin.weight.grad, expected.lin.weight.grad)


@pytest.mark.parametrize("first", [torch.inference_mode, torch.no_grad])
def test_a_first_call_without_gradients_and_then_training(first: Any) -> None:
    plain, expected = net(), net()
    model = graphshard.distribute(plain)
    with first():
        torch.testing.assert_close(model(X, EDGES), plain(X, EDGES))
    model(X, EDGES).square().sum().backward()
    expected(X, EDGES).square().sum().backward()
    torch.testing.assert_close(plain.lin.weight.grad, expected.lin.weight.grad)


def test_transforms_of_functions_are_refused_by_name() -> None:
    model = graphshard.distribute(net())
    for transform in (
        torch.func.grad(lambda x: model(x, EDGES).sum()),
        torch.func.vmap(lambda x: model(x, EDGES)),
    ):
        with pytest.raises(CaptureError, match=r"a transform of torch.func"):
            transform(X if transform.__name__ == "grad" else X.unsqueeze(0))


@pytest.mark.parametrize(
    ("wrap", "said"),
    [
        (nn.DataParallel, "the model is wrapped in DataParallel: pass the module inside, .module"),
        (lambda m: nn.Sequential(nn.DataParallel(m)), "module '0' is wrapped in DataParallel"),
        (
            lambda m: torch.compile(m, backend="eager"),
            "torch.compile .OptimizedModule.: pass the module that was",
        ),
        (lambda m: torch.jit.trace(m, (X, EDGES)), "the model is wrapped in torch.jit"),
        (graphshard.distribute, "distributed already"),
        (lambda m: m.forward, "takes an nn.Module, not a method"),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_what_is_wrapped_already_is_refused_by_that_name(wrap: Any, said: str) -> None:
    with pytest.raises(CaptureError, match=said):
        graphshard.distribute(wrap(net()))
