"""A capture is a photograph: what forward reads and a script changes later is noticed, on one rank and on several."""

from __future__ import annotations

import functools
import types
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import graphshard
from graphshard.testing import run_ranks

FACTOR = 1.0
TABLE = {"scale": 1.0}


def helper(h: Tensor, power: float = 1.0) -> Tensor:
    return h.abs() ** power


def other_helper(h: Tensor, power: float = 1.0) -> Tensor:
    return h.abs() ** power + 1


@dataclass
class Inner:
    gain: float = 1.0


class Config:
    """No dataclass: an object with attributes, some of them in another object, and a method."""

    shift = 0.0

    def __init__(self) -> None:
        self.alpha, self.inner, self.unread = 1.0, Inner(), 0

    def scaled(self) -> float:
        return self.alpha * self.inner.gain


class Slotted:
    __slots__ = ("beta",)

    def __init__(self) -> None:
        self.beta = 1.0


class Doubling:
    def __init__(self) -> None:
        self.times = 2.0

    def __call__(self, h: Tensor) -> Tensor:
        return h * self.times


class Net(nn.Module):
    """Reads a number from every place that there is."""

    flag = 1.0

    def __init__(self) -> None:
        super().__init__()
        self.lin = nn.Linear(3, 3, dtype=torch.float64)
        self.act: nn.Module = nn.Tanh()
        self.config, self.slotted, self.doubling = Config(), Slotted(), Doubling()
        self.space = types.SimpleNamespace(depth=types.SimpleNamespace(a=1.0))
        self.scales, self.nested, self.queue = [1.0, 2.0], {"a": [1.0]}, deque([1.0])
        self.partial = functools.partial(torch.mul, other=2.0)
        self.closed = closing(1.0)
        self.constant = torch.ones(3, dtype=torch.float64)

    def gain(self) -> float:
        return 1.0

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        h = helper(self.act(self.lin(x)) * self.gain()) * FACTOR * TABLE["scale"] * Net.flag
        h = h * self.scales[1] * self.nested["a"][0] * self.queue[0] * self.space.depth.a * self.slotted.beta
        return (
            self.partial(self.doubling(self.closed(h))) * self.config.scaled() * self.constant
            + self.config.shift
        )


def closing(factor: float) -> Any:
    def scaled(h: Tensor) -> Tensor:
        return h * factor

    def change(value: float) -> None:
        nonlocal factor
        factor = value

    scaled.change = change  # type: ignore[attr-defined]
    return scaled


def _global(model: Net) -> None:
    globals()["FACTOR"] += 1.0


CHANGES: dict[str, Callable[[Net], Any]] = {
    "activation": lambda m: setattr(m, "act", nn.Sigmoid()),
    "submodule of the same class": lambda m: setattr(
        m.act, "forward", types.MethodType(lambda s, h: 3 * h, m.act)
    ),
    "item of a list": lambda m: m.scales.__setitem__(1, 5.0),
    "item in a list in a dict": lambda m: m.nested["a"].__setitem__(0, 5.0),
    "deque": lambda m: m.queue.appendleft(4.0),
    "object": lambda m: setattr(m.config, "alpha", 4.0),
    "object in an object": lambda m: setattr(m.config.inner, "gain", 4.0),
    "attribute of a class": lambda m: setattr(Config, "shift", Config.shift + 1.0),
    "attribute of the model's class": lambda m: setattr(Net, "flag", Net.flag + 1.0),
    "nested namespace": lambda m: setattr(m.space.depth, "a", 4.0),
    "slots": lambda m: setattr(m.slotted, "beta", 4.0),
    "callable object": lambda m: setattr(m.doubling, "times", 4.0),
    "global": _global,
    "item of a global": lambda m: TABLE.update(scale=TABLE["scale"] + 1.0),
    "default": lambda m: setattr(helper, "__defaults__", ((helper.__defaults__ or (1.0,))[0] + 1.0,)),
    "closure": lambda m: m.closed.change(4.0),
    "partial": lambda m: setattr(m, "partial", functools.partial(torch.mul, other=4.0)),
    "method": lambda m: setattr(m, "gain", lambda: 4.0),
    "constant tensor": lambda m: setattr(m, "constant", 2 * m.constant),
    "constant tensor in place": lambda m: m.constant.mul_(3),
    "hook": lambda m: m.lin.register_forward_hook(lambda module, args, out: 2 * out),
    "pre hook": lambda m: m.lin.register_forward_pre_hook(lambda module, args: (2 * args[0],)),
    "weights tied": lambda m: setattr(m, "lin", nn.Linear(3, 3, bias=False, dtype=torch.float64)),
}


def graph() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "x": torch.randn(20, 3, generator=generator, dtype=torch.float64),
        "edge_index": torch.randint(0, 20, (2, 70), generator=generator),
    }


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_after_the_first_call_is_noticed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for owner, attribute in ((Config, "shift"), (Net, "flag"), (helper, "__defaults__")):
        monkeypatch.setattr(owner, attribute, getattr(owner, attribute))
    monkeypatch.setitem(globals(), "FACTOR", FACTOR)
    monkeypatch.setitem(TABLE, "scale", TABLE["scale"])
    data, model = graph(), Net()
    shard = graphshard.partition(data, 1)[0]
    ours = graphshard.distribute(model, options=graphshard.Options.none())
    before = ours(shard)
    CHANGES[name](model)
    expected, found = model(data["x"], data["edge_index"]), ours(shard)
    assert not torch.allclose(before, expected)
    torch.testing.assert_close(found, expected)
    assert ours.stages(shard)[-1] is ours.stages(shard)[-1]  # known from now on


def test_a_hook_taken_away_and_a_function_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    data, model = graph(), Net()
    shard = graphshard.partition(data, 1)[0]
    handle = model.lin.register_forward_hook(lambda module, args, out: 2 * out)
    ours = graphshard.distribute(model, options=graphshard.Options.none())
    ours(shard)
    handle.remove()
    torch.testing.assert_close(ours(shard), model(data["x"], data["edge_index"]))
    monkeypatch.setitem(globals(), "helper", other_helper)
    torch.testing.assert_close(ours(shard), model(data["x"], data["edge_index"]))


@dataclass
class Setting:
    """What a script changes between calls in the property below."""

    scale: float = 1.0
    layers: list[float] = field(default_factory=lambda: [1.0])
    square: bool = False


class Set(nn.Module):
    def __init__(self, setting: Setting) -> None:
        super().__init__()
        self.setting = setting

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        h = x * self.setting.scale
        for factor in self.setting.layers:
            h = h + factor * h.index_add(0, edge_index[1], h[edge_index[0]])
        return h.square() if self.setting.square else h


@settings(max_examples=4, deadline=None)
@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("scale"), st.sampled_from([1.0, 2.0])),
            st.tuples(st.just("layers"), st.sampled_from([0.5, 1.5])),
            st.tuples(st.just("square"), st.booleans()),
        ),
        max_size=4,
    )
)
def test_no_sequence_of_changes_leaves_an_old_program(changes: list[tuple[str, Any]]) -> None:
    data, setting = graph(), Setting()
    model = Set(setting)
    shard = graphshard.partition(data, 1)[0]
    ours = graphshard.distribute(model, options=graphshard.Options.none())
    for name, value in [("scale", 1.0), *changes]:
        if name == "layers":
            setting.layers[-1] = value
        else:
            setattr(setting, name, value)
        torch.testing.assert_close(ours(shard), model(data["x"], data["edge_index"]))


def test_what_forward_does_not_read_captures_nothing_anew() -> None:
    model = Net()
    shard = graphshard.partition(graph(), 1)[0]
    ours = graphshard.distribute(model, options=graphshard.Options.none())
    ours(shard)
    first = ours.stages(shard)
    model.config.unread += 1
    assert ours.stages(shard) is first


def test_a_global_that_differs_between_ranks_is_named() -> None:
    shards = graphshard.partition(graph(), 2)

    def rank(number: int, _: str, group: Any) -> None:
        net = Net()
        net.closed = closing(1.0 + number)
        graphshard.distribute(net, group=group)(shards[number])

    with pytest.raises(graphshard.RuntimeMismatch, match="the variable 'factor'"):
        run_ranks(2, rank)


BAKED: dict[str, Callable[[Any], Any]] = {
    "the shard": lambda shard: lambda h: h - shard.x.mean(0),
    "a tensor of it": lambda shard: functools.partial(lambda x, h: h - x.mean(0), shard.x),
    "what is made of it": lambda shard: functools.partial(lambda mean, h: h - mean, shard.x.mean(0)),
    "a number made of it": lambda shard: lambda h: h * shard.x.mean().item(),
    "its size": lambda shard: lambda h: h / shard.x.local().size(0),
}


class Reading(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function, self.lin = function, nn.Linear(3, 2, dtype=torch.float64)

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        return self.lin(self.function(x.index_add(0, edge_index[1], x[edge_index[0]])))


@pytest.mark.parametrize("name", BAKED)
def test_values_of_a_shard_that_are_no_argument_are_refused(name: str) -> None:
    shards = graphshard.partition(graph(), 2, method=torch.arange(20) // 13)

    def rank(number: int, _: str, group: Any) -> None:
        graphshard.distribute(Reading(BAKED[name](shards[number])), group=group)(shards[number])

    with pytest.raises(graphshard.GraphshardError, match=r"argument|differ|is .* on rank 0"):
        run_ranks(2, rank)


def test_a_constant_that_all_ranks_share_is_exact() -> None:
    data = graph()
    shards, mean = graphshard.partition(data, 2), data["x"].mean(0)
    make = functools.partial(Reading, lambda h: h - mean)
    expected_model = make()
    expected = expected_model(data["x"], data["edge_index"])

    def rank(number: int, _: str, group: Any) -> Tensor:
        model = make()
        model.load_state_dict(expected_model.state_dict())
        shard = shards[number]
        return shard.gather(graphshard.distribute(model, group=group)(shard), group=group)

    for found in run_ranks(2, rank):
        torch.testing.assert_close(found, expected.detach())
