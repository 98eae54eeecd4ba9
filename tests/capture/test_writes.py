"""What forward leaves on its modules is that of the call, or is refused: never the example's, never an old one."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import graphshard
from graphshard.testing import assert_equivalent, run_ranks

SEEN: list[Any] = []
WRITER = io.StringIO()
COUNT = 0


def graph() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "x": torch.randn(20, 4, generator=generator, dtype=torch.float64),
        "edge_index": torch.randint(0, 20, (2, 60), generator=generator),
    }


class Model(nn.Module):
    """An aggregation; ``write`` leaves something of it."""

    def __init__(self, write: Callable[[Any, Tensor], Any]) -> None:
        super().__init__()
        self.lin, self.write, self.h = nn.Linear(4, 3, dtype=torch.float64), write, None
        self.kept: list[Any] = []
        self.log: dict[str, Any] = {}
        self.mixed = {"epoch": 0}
        self.register_buffer("steps", torch.zeros(()))

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        out = self.lin(x.index_add(0, edge_index[1], x[edge_index[0]]))
        self.write(self, out)
        return out


def set_to(name: str, make: Callable[[Tensor], Any]) -> Callable[[Any, Tensor], Any]:
    return lambda m, out: setattr(m, name, make(out))


def leaves_log(m: Any, out: Tensor) -> None:
    m.log["penalty"] = out.abs().mean()


def fresh_list(m: Any, out: Tensor) -> None:
    m.kept = [out.mean(), out.sum()]


LEFT: dict[str, tuple[Callable[[Any, Tensor], Any], Callable[[Any], Any]]] = {
    "a loss": (set_to("h", lambda out: out.square().mean()), lambda m: m.h),
    "a loss of a submodule": (
        lambda m, out: setattr(m.lin, "loss", out.square().mean()),
        lambda m: m.lin.loss,
    ),
    "in a dict": (leaves_log, lambda m: m.log["penalty"]),
    "in a list": (fresh_list, lambda m: m.kept[0] + m.kept[1]),
    "detached": (set_to("h", lambda out: out.detach().std()), lambda m: m.h),
}


@pytest.mark.parametrize("name", LEFT)
@pytest.mark.parametrize("parts", [1, 2])
def test_a_loss_left_on_a_module_is_this_calls_with_its_gradient(name: str, parts: int) -> None:
    write, read = LEFT[name]
    data, plain = graph(), Model(write)
    shards = graphshard.partition(data, parts)

    def losses(model: nn.Module, owner: nn.Module, call: Callable[[], Tensor]) -> list[Tensor]:
        found = []
        for _ in range(3):
            call()
            loss = read(owner) + 0 * plain.lin.weight.sum().detach()
            if loss.requires_grad:
                model.zero_grad()
                loss.backward()
                with torch.no_grad():
                    for p in model.parameters():
                        p.sub_(0.1 * p.grad)  # type: ignore[operator]
            found.append(loss.detach())
        return found

    models = [Model(write) for _ in shards]
    for model in models:
        model.load_state_dict(plain.state_dict())
    expected = losses(plain, plain, lambda: plain(data["x"], data["edge_index"]))

    def rank(number: int, _: str, group: Any) -> list[Tensor]:
        ours = graphshard.distribute(models[number], group=group)
        return losses(ours, models[number], lambda: ours(shards[number]))

    for found in run_ranks(parts, rank):
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


def test_rows_left_on_a_module_are_all_rows_or_refused() -> None:
    data = graph()
    write = set_to("h", lambda out: out.detach())
    model = Model(write)
    out = graphshard.distribute(model)(graphshard.partition(data, 1)[0])
    assert torch.equal(model.h, out)  # type: ignore[arg-type]
    shards, models = graphshard.partition(data, 2), [Model(write), Model(write)]
    with pytest.raises(graphshard.CaptureError, match="this rank's rows alone"):
        run_ranks(2, lambda n, _, group: graphshard.distribute(models[n], group=group)(shards[n]))


def test_a_dict_that_the_script_holds_is_filled() -> None:
    model, data = Model(leaves_log), graph()
    log = model.log
    graphshard.distribute(model)(graphshard.partition(data, 1)[0])
    torch.testing.assert_close(log["penalty"], model(data["x"], data["edge_index"]).abs().mean())


def test_what_the_script_keeps_itself_stays() -> None:
    """A dict that forward makes anew is another one in each call; a key of the script's in its dict stays."""
    shard = graphshard.partition(graph(), 1)[0]
    model = Model(set_to("h", lambda out: {"mean": out.mean()}))
    ours = graphshard.distribute(model)
    ours(shard)
    first, before = model.h, model.h["mean"].item()  # type: ignore[index]
    with torch.no_grad():
        model.lin.bias.add_(1)
    ours(shard)
    assert first["mean"].item() == before != model.h["mean"].item()  # type: ignore[index]
    model = Model(leaves_log)
    ours = graphshard.distribute(model)
    for epoch in range(2):
        model.log["epoch"] = epoch
        if epoch:
            ours(shard)
        else:
            model.log.clear()
            ours(shard)
    assert model.log["epoch"] == 1


def test_verify_compares_what_is_left() -> None:
    assert_equivalent(Model(set_to("h", lambda out: out.square().mean())), graph(), 2)


def test_what_training_leaves_makes_no_new_program_in_evaluation() -> None:
    model = Model(lambda m, out: setattr(m, "h", out.mean()) if m.training else None)
    shard = graphshard.partition(graph(), 1)[0]
    ours = graphshard.distribute(model)
    programs = []
    for _ in range(2):
        for mode in (True, False):
            ours.train(mode)
            ours(shard)
            programs.append(ours.stages(shard))
    assert programs[0] is programs[2]
    ours(shard)
    assert ours.stages(shard) is programs[3]


def count(m: Any, out: Tensor) -> None:
    m.calls = getattr(m, "calls", 0) + 1


def append(m: Any, out: Tensor) -> None:
    m.kept.append(out.detach())


def moving(m: Any, out: Tensor) -> None:
    m.h = out.mean().detach() if m.h is None else 0.9 * m.h + 0.1 * out.mean().detach()


def cache(m: Any, out: Tensor) -> None:
    m.h = out.detach() if m.h is None else m.h
    out += m.h


def to_global(m: Any, out: Tensor) -> None:
    SEEN.append(out)


def counts_globally(m: Any, out: Tensor) -> None:
    global COUNT  # noqa: PLW0603 (what is to be refused)
    COUNT += 1


REFUSED: dict[str, tuple[Callable[[Any, Tensor], Any], str]] = {
    "a counter": (count, "attribute 'calls'.*test_writes.py"),
    "a list that grows": (append, "attribute 'kept'"),
    "a moving average": (moving, "attribute 'h'.*test_writes.py"),
    "the first graph's": (cache, "attribute 'h'"),
    "a global list": (to_global, "the global 'SEEN'"),
    "a global number": (counts_globally, "the global 'COUNT'"),
    "a dict of more": (
        lambda m, out: m.mixed.update(loss=out.mean()),
        "attribute 'mixed'.*holds other values",
    ),
    "a size": (set_to("h", lambda out: out.size(0)), "depends on the graph.*attribute 'h'"),
    "a number": (set_to("h", lambda out: out.mean().item()), "depends on the graph.*attribute 'h'"),
    "an object": (set_to("h", lambda out: torch.distributions.Normal(out, 1.0)), "keeps a Normal"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_a_call_keeps_for_the_next_is_refused(name: str) -> None:
    write, said = REFUSED[name]
    model = Model(write)
    with pytest.raises(graphshard.CaptureError, match=said):
        graphshard.distribute(model)(graphshard.partition(graph(), 1)[0])
    assert model.h is None  # nothing of the examples is left
    assert model.kept == []
    assert SEEN == []
    assert COUNT == 0


def test_an_evaluation_that_reads_what_training_left_is_refused() -> None:
    class Reads(nn.Module):
        last: Any = None

        def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
            if self.training:
                self.last = x.mean()
                return x
            return x - self.last

    shard = graphshard.partition(graph(), 1)[0]
    ours = graphshard.distribute(Reads())
    ours(shard)
    with pytest.raises(graphshard.CaptureError, match="attribute 'last'"):
        ours.eval()(shard)


class Keeping:
    """A hook that is an object."""

    def __init__(self) -> None:
        self.values: list[Any] = []

    def __call__(self, module: nn.Module, args: Any, out: Any) -> None:
        self.values.append(out)


def on_the_module(module: Any, args: Any, out: Tensor) -> None:
    module.seen = out.detach()
    module.times = getattr(module, "times", 0) + 1


def void(_: Any) -> None:
    """What a hook that only looks returns."""


def hooks() -> dict[str, Callable[..., None]]:
    kept: list[Any] = []
    found: dict[str, Any] = {}

    def stores(module: nn.Module, args: Any, out: Any) -> None:
        found["h"] = out

    return {
        "a closure": stores,
        "a method": lambda module, args, out: kept.append(out),
        "an object": Keeping(),
        "on the module": on_the_module,
        "a bound method": Keeping().__call__,
        "a writer": lambda module, args, out: void(WRITER.write(str(out))),
        "a print": lambda module, args, out: print(out.mean().item()),
    }


@pytest.mark.parametrize("name", hooks())
@pytest.mark.parametrize("at", ["", "lin"])
def test_a_hook_that_keeps_what_it_sees_is_refused(name: str, at: str) -> None:
    model = Model(lambda m, out: None)
    model.get_submodule(at).register_forward_hook(hooks()[name])
    with pytest.raises(graphshard.CaptureError, match=r"hook|variable|attribute"):
        graphshard.distribute(model)(graphshard.partition(graph(), 1)[0])


def test_a_hook_that_changes_the_result_is_captured() -> None:
    model, data = Model(lambda m, out: None), graph()
    model.lin.register_forward_hook(lambda module, args, out: out.tanh())
    found = graphshard.distribute(model)(graphshard.partition(data, 1)[0])
    torch.testing.assert_close(found, model(data["x"], data["edge_index"]))
