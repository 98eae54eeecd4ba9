"""A fault in each guard of the border is found by what the tests of the border check."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from border.test_functions import Script, compared_alone
from border.test_whole import Net, check, graph
from torch import Tensor

import graphshard
from graphshard.border import known, whole
from graphshard.border.values import Naming
from graphshard.execute import agreement
from graphshard.ops import gather


def two_masks(s: Script) -> Any:
    return F.mse_loss(s.out[s.d.train_mask], s.d.target[s.d.test_mask])


def refused(script: Callable[[Script], Any]) -> None:
    with pytest.raises(graphshard.GraphshardError):
        compared_alone(script)


def draws(s: Script) -> Any:
    first, second = (F.dropout(s.out, 0.5)[:, 0] > 0 for _ in range(2))
    return s.out[first] - s.out[second]


def on_one_rank(s: Script) -> None:
    if s.d.rank == 0:
        s.out.mean()
    else:
        s.out.sum()


def whole_loss(model: Any) -> Any:
    data = graph()
    return F.cross_entropy(model(data["x"], data["edge_index"])[data["mask"]], data["y"][data["mask"]])


def whole_training() -> None:
    def body(model: Any) -> Any:
        loss = whole_loss(model)
        loss.backward()
        return loss.detach()

    check(Net, body)


def whole_penalty() -> None:
    def body(model: Any) -> Any:
        parameters = list(model.parameters())
        grads = torch.autograd.grad(whole_loss(model), parameters, create_graph=True)
        torch.stack([g.square().sum() for g in grads]).sum().backward()
        return grads[0].detach()

    check(Net, body)


def _half(take: Callable[..., Tensor]) -> Callable[..., Tensor]:
    return lambda *args: take(*args) * 0.5


def _cut_off(take: Callable[..., Tensor]) -> Callable[..., Tensor]:
    return lambda *args: take(*args).detach()


def same_name(_self: Naming, _rows: Any) -> str:
    return "the same"


FAULTS: dict[str, tuple[Any, str, Any, Callable[[], None]]] = {
    "rows of every mask are called alike": (Naming, "_text", same_name, lambda: refused(two_masks)),
    "draws are named as if they were repeated": (
        known.Known,
        "is_random",
        property(lambda _self: False),
        lambda: refused(draws),
    ),
    "ranks do not compare functions": (
        agreement,
        "check_functions",
        lambda *_: None,
        lambda: refused_at_once(on_one_rank),
    ),
    "a row of the gathered gradient is lost": (gather, "take_rows", _half(gather.take_rows), whole_training),
    "the second derivative of a gather is cut off": (
        gather,
        "take_rows",
        _cut_off(gather.take_rows),
        whole_penalty,
    ),
    "a changed tensor stays cut as it was": (
        whole.Whole,
        "_facts_of",
        lambda _self, name, _tensor: name,
        lambda: check(Net, written_between),
    ),
}


def refused_at_once(script: Callable[[Script], Any]) -> None:
    """With the sentence that names both calls, and not by a rank that waits in vain."""
    with pytest.raises(graphshard.RuntimeMismatch, match="every rank must run the same lines"):
        compared_alone(script)


def written_between(model: Any) -> Any:
    data = graph()
    first = model(data["x"], data["edge_index"]).detach()
    data["x"].mul_(2.0)
    return first, model(data["x"], data["edge_index"]).detach()


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_found(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    where, what, fault, proof = FAULTS[name]
    proof()  # passes as it is
    monkeypatch.setattr(where, what, fault)
    with pytest.raises((Exception, pytest.fail.Exception)):
        proof()
