"""Weights that each rank writes for itself are noticed at the next call; an optimiser's steps are not looked at."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any

import pytest
import torch
from support.wrapped import Net, shards
from torch import nn
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

import graphshard
from graphshard.testing import run_ranks


def drawn(model: Any, rank: int) -> None:
    torch.manual_seed(rank)
    model.lin.reset_parameters()


def loaded(model: Any, rank: int) -> None:
    if rank == 0:
        model.load_state_dict({name: value + 1 for name, value in model.state_dict().items()})


def added(model: Any, rank: int) -> None:
    with torch.no_grad():
        model.lin.bias += rank


def clamped(model: Any, _rank: int) -> None:
    with torch.no_grad():
        model.lin.weight.clamp_(-0.1, 0.1)


def trained(
    act: Callable[[Any, int], None], optimizer: Callable[[Any], torch.optim.Optimizer] | None = None
) -> list[Any]:
    parts, models = shards(), [Net(), Net()]

    def rank(number: int, _name: str, group: Any) -> Any:
        model = graphshard.distribute(models[number], group=group)
        steps = (optimizer or (lambda p: torch.optim.SGD(p, 0.1)))(model.parameters())
        for _ in range(2):
            steps.zero_grad()
            model(parts[number]).sum().backward()
            steps.step()
        act(model, number)
        return model(parts[number]).detach().sum().item()

    return run_ranks(2, rank)


@pytest.mark.parametrize("act", [drawn, loaded, added])
def test_what_one_rank_writes_is_named(act: Callable[[Any, int], None]) -> None:
    with pytest.raises(
        graphshard.RuntimeMismatch, match=r"lin\.(weight|bias)' after 2 training|wrote to param"
    ):
        trained(act)


def test_what_all_ranks_write_alike_is_right() -> None:
    one, two = trained(clamped)
    assert one == two


class ByHand(torch.optim.Optimizer):
    def __init__(self, params: Any) -> None:
        super().__init__(params, {})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for p in group["params"]:
                p.add_(p.grad, alpha=-0.1)


def test_steps_of_an_optimiser_compare_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    from graphshard.execute import agreement

    compared: list[nn.Module] = []

    def values_of(call: Any) -> dict[str, str]:
        compared.append(call.model)
        return {}

    monkeypatch.setattr(agreement, "values_of", values_of)
    trained(lambda _model, _rank: None)
    trained(lambda _model, _rank: None, ByHand)
    assert not compared
    trained(clamped)
    assert len(compared) == 2


def test_a_module_may_be_collected_while_an_optimiser_makes_a_step() -> None:
    held = [graphshard.distribute(Net())]
    plain = torch.nn.Linear(2, 2)

    def forget(*_: object) -> None:
        held.clear()
        gc.collect()

    hooks = [register_optimizer_step_pre_hook(forget), register_optimizer_step_post_hook(forget)]
    try:
        torch.optim.SGD(plain.parameters()).step()
    finally:
        for hook in hooks:
            hook.remove()
    assert not held
