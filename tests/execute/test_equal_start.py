"""Ranks start equal and stay so: rank 0's values at the first call, and what differs later is named before it acts."""

from __future__ import annotations

import copy
import re
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.equal_start import CUT, DATA, EDGES, Net, shards
from torch import Tensor, nn

import graphshard
from graphshard.errors import GraphshardError, RuntimeMismatch
from graphshard.execute import agreement
from graphshard.execute.python_state import Observed, describe
from graphshard.ranks import equal_start
from graphshard.ranks.launch import launch
from graphshard.testing import run_ranks


def state(model: nn.Module) -> dict[str, Tensor]:
    return {n: t.detach().clone() for n, t in (*model.named_parameters(), *model.named_buffers())}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def first_calls(models: list[Net], **given: Any) -> list[dict[str, Tensor]]:
    parts = shards(len(models), cut=CUT % len(models))

    def rank(number: int, _name: str, group: Any) -> dict[str, Tensor]:
        module = graphshard.distribute(models[number], group=group, **given).eval()
        held = list(module.parameters())
        out = parts[number].gather(module(parts[number]).detach(), group)
        assert all(a is b for a, b in zip(held, models[number].parameters(), strict=True))
        return {**state(module), "out": out}

    return run_ranks(len(models), rank)


@settings(max_examples=3, deadline=None)
@given(st.integers(2, 3), st.integers(0, 99), st.sampled_from([7, 64, 1 << 20]))
def test_the_first_call_makes_every_value_rank_0s(ranks: int, seed: int, message: int) -> None:
    models = [Net(seed + rank) for rank in range(ranks)]
    expected = copy.deepcopy(models[0]).eval()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(equal_start, "_MESSAGE", message)
        found = first_calls(models)
    wanted = state(expected)
    for one in found:
        torch.testing.assert_close(one.pop("out"), expected(DATA["x"], EDGES).detach())
        assert same(one, wanted)


def test_a_broadcast_that_is_left_out_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(equal_start, "broadcast_first", lambda tensor, group: None)
    found = first_calls([Net(0), Net(1)])
    assert not same(*found)


def test_values_that_are_equal_are_not_written() -> None:
    models = [Net(0), Net(0)]
    before = [p._version for p in models[1].parameters()]
    first_calls(models)
    assert [p._version for p in models[1].parameters()] == before


def test_what_ranks_tell_each_other_is_no_exchange_of_the_program() -> None:
    parts = shards()

    def rank(number: int, _name: str, group: Any) -> list[int]:
        options = graphshard.Options(hoist_graph_constants=False)
        module = graphshard.distribute(Net(number), group=group, options=options, check_every=1)
        sent = []
        for _ in range(2):
            with graphshard.count_bytes() as counter:
                module(parts[number])
            sent.append(counter.total)
        return sent

    for first, second in run_ranks(2, rank):
        assert first == second > 0


def other(change: Callable[[Net], Any]) -> Net:
    model = Net()
    change(model)
    return model


def replaced(name: str, value: Any) -> Callable[[Net], Any]:
    return lambda model: setattr(model, name, value)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (replaced("scale", 3.0), "attribute 'scale' is 1.0 on rank 0 but 3.0 on rank 1"),
        (lambda m: setattr(m.norm, "eps", 0.1), "attribute 'norm.eps' is 1e-05 on rank 0 but 0.1 on rank 1"),
        (lambda m: m.norm.eval(), "the mode of module 'norm' is training on rank 0 but evaluation on rank 1"),
        (lambda m: m.frozen.requires_grad_(), r"'frozen' is float64\[4\] on rank 0 but float64\[4\], req"),
        (replaced("frozen", nn.Parameter(torch.zeros(5))), r"'frozen' is float64\[4\] on rank 0 but float32\[5\]"),
        (lambda m: m.register_buffer("kept", torch.zeros(3)), r"'kept' is float64\[4\] on rank 0 but float32\[3\]"),
        (lambda m: m.register_buffer("more", torch.zeros(3)), r"buffer 'more' is missing on rank 0 but float32"),
        (replaced("norm", nn.Identity()), "the class of module 'norm' is .*BatchNorm1d on rank 0 but .*Identity"),
        (lambda m: setattr(m.again, "weight", nn.Parameter(m.again.weight.detach().clone())),
         "'again.weight' is .*, the same as parameter 'lin.weight' on rank 0"),
        (replaced("extra", {"sizes": [1, (2, torch.relu)]}), "attribute 'extra' is missing on rank 0"),
        (replaced("extra", torch.ones(2)), r"attribute 'extra' is missing on rank 0 but float32\[2\] with content"),
    ],
)  # fmt: skip
def test_models_that_differ_are_refused_with_the_difference(change: Callable[[Net], Any], said: str) -> None:
    parts, models, sentences = shards(), [Net(), other(change)], ["", ""]

    def rank(number: int, _name: str, group: Any) -> None:
        module = graphshard.distribute(models[number], group=group)
        with pytest.raises(RuntimeMismatch, match=said) as error:
            module(parts[number])
        sentences[number] = str(error.value)

    run_ranks(2, rank)
    assert sentences[0] == sentences[1]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"options": graphshard.Options.none()}, "the option sort_edges is True on rank 0 but False on rank 1"),
        ({"check_every": 3}, "the option check_every is 0 on rank 0 but 3 on rank 1"),
    ],
)  # fmt: skip
def test_options_that_differ_are_refused(given: dict[str, Any], said: str) -> None:
    parts, models = shards(), [Net(), Net()]

    def rank(number: int, _name: str, group: Any) -> None:
        module = graphshard.distribute(models[number], group=group, **(given if number else {}))
        with pytest.raises(RuntimeMismatch, match="the ranks disagree on the call") as error:
            module(parts[number])
        assert re.search(said, str(error.value)) or "more" in str(error.value)

    run_ranks(2, rank)


class ThreadVersion:
    """Another version on each simulated rank."""

    def __str__(self) -> str:
        return f"9.{threading.get_ident()}"


def test_another_version_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    parts, models = shards(), [Net(), Net()]
    monkeypatch.setattr(agreement, "__version__", ThreadVersion())
    with pytest.raises(RuntimeMismatch, match=r"graphshard's version is 9\.\d+ on rank 0 but 9\."):
        run_ranks(2, lambda r, _, group: graphshard.distribute(models[r], group=group)(parts[r]))


@pytest.mark.parametrize(
    "other_shards",
    [
        shards(cut=1 - CUT),
        shards(data={**DATA, "x": DATA["x"] + 1}),
        shards(data={**DATA, "edge_index": EDGES[:, torch.tensor([1, 0, *range(2, 9)])]}),
    ],
    ids=["cut", "features", "edges"],
)
def test_shards_of_other_partitions_are_refused(other_shards: Any) -> None:
    parts, models = [shards()[0], other_shards[1]], [Net(), Net()]
    with pytest.raises(RuntimeMismatch, match=r"the partition .* is [0-9a-f]{32} on rank 0 but [0-9a-f]{32}"):
        run_ranks(2, lambda r, _, group: graphshard.distribute(models[r], group=group)(parts[r]))


def test_ranks_that_cut_equal_data_alike_on_their_own_are_accepted() -> None:
    data, models = [{name: value.clone() for name, value in DATA.items()} for _ in range(2)], [Net(), Net()]
    parts = [graphshard.partition(data[rank], 2, seed=0)[rank].to(torch.float64) for rank in range(2)]
    run_ranks(2, lambda r, _, group: graphshard.distribute(models[r], group=group)(parts[r]))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda module: setattr(module._model, "scale", 2.0), "attribute 'scale' is 1.0 .* 2.0 on rank 1"),
        (lambda module: module.eval(), "the mode of the model is training on rank 0 but evaluation on rank 1"),
        (lambda module: module.lin.requires_grad_(False), "parameter 'lin.weight' is"),
    ],
)  # fmt: skip
def test_a_rank_that_changes_later_is_told_apart_before_an_exchange(change: Any, said: str) -> None:
    parts, models, sentences = shards(), [Net(), Net()], ["", ""]

    def rank(number: int, _name: str, group: Any) -> None:
        module = graphshard.distribute(models[number], group=group)
        module(parts[number]).sum().backward()
        if number:
            change(module)
        with graphshard.count_bytes() as sent, pytest.raises(RuntimeMismatch, match=said) as error:
            module(parts[number])
        assert sent.total == 0
        sentences[number] = str(error.value)

    run_ranks(2, rank)
    assert sentences[0] == sentences[1]


@settings(max_examples=3, deadline=None)
@given(st.sampled_from(sorted(state(Net()))), st.integers(1, 3))
def test_check_every_names_the_first_value_that_differs(name: str, every: int) -> None:
    parts, models = shards(), [Net(), Net()]

    def rank(number: int, _name: str, group: Any) -> None:
        module = graphshard.distribute(models[number], group=group, check_every=every)
        for step in range(every):
            module(parts[number])
            if number and step == 0:
                value = dict((*models[1].named_parameters(), *models[1].named_buffers()))[name]
                flat = value.data.view(-1) if value.is_contiguous() else value.data.t().view(-1)
                flat[0] = ~flat[0] if flat.dtype is torch.bool else flat[0] + 1
        with pytest.raises(
            RuntimeMismatch, match=rf"(parameter|buffer) '{re.escape(name)}' after {every} tr"
        ):
            module(parts[number])

    run_ranks(2, rank)


def test_check_every_finds_two_values_that_changed_places() -> None:
    parts, models = shards(), [Net(), Net()]

    def rank(number: int, _name: str, group: Any) -> None:
        module = graphshard.distribute(models[number], group=group, check_every=1)
        module(parts[number])
        if number:
            models[1].lin.bias.data = models[1].lin.bias.data.flip(0)
        module(parts[number])

    with pytest.raises(
        RuntimeMismatch, match=r"the checksum of parameter 'lin\.bias' after 1 training steps"
    ):
        run_ranks(2, rank)


def test_check_every_lets_equal_ranks_train() -> None:
    parts, models = shards(), [Net(0), Net(1)]

    def rank(number: int, _name: str, group: Any) -> dict[str, Tensor]:
        module = graphshard.distribute(models[number], group=group, check_every=1)
        optimizer = torch.optim.Adam(module.parameters(), lr=0.01)
        for _ in range(4):
            optimizer.zero_grad()
            graphshard.mean(module(parts[number]).square().sum(1), group).backward()
            optimizer.step()
        return state(module)

    assert same(*run_ranks(2, rank))


def test_check_every_is_a_number_of_steps() -> None:
    with pytest.raises(GraphshardError, match="not -1"):
        graphshard.distribute(Net(), check_every=-1)


# ---- parameters with a row for each node -----------------------------------------------------------------------


class Table(nn.Module):
    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.embedding, self.lin = nn.Embedding(6, 3), nn.Linear(3, 2)

    def forward(self, edge_index: Tensor) -> Tensor:
        x = self.embedding.weight
        return self.lin(torch.zeros_like(x).index_add(0, edge_index[1], x[edge_index[0]]))


def tables_after(act: Callable[[nn.Module, int], Any], message: int) -> list[dict[str, Tensor]]:
    roles: Any = {"edge_index": "edge_index"}
    parts = graphshard.partition({"edge_index": EDGES}, 2, method=CUT, roles=roles, num_nodes=6)
    models = [Table(0), Table(1)]

    def rank(number: int, _name: str, group: Any) -> dict[str, Tensor]:
        module = graphshard.distribute(
            models[number], shard=parts[number], node_parameters=["embedding.weight"], group=group
        )
        act(module, number)
        module(parts[number])
        return {name: value.clone() for name, value in module.state_dict().items()}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(equal_start, "_MESSAGE", message)
        return run_ranks(2, rank)


@pytest.mark.parametrize("message", [1, 30, 1 << 20])
def test_rows_of_node_parameters_are_cut_from_rank_0s_table(message: int) -> None:
    one, two = tables_after(lambda module, rank: None, message)
    assert same(one, Table(0).state_dict())
    assert same(two, Table(0).state_dict())


def test_a_state_loaded_before_the_first_call_is_rank_0s_too() -> None:
    states = [Table(5 + rank).state_dict() for rank in range(2)]
    one, two = tables_after(lambda module, rank: module.load_state_dict(states[rank]), 30)
    assert same(one, Table(5).state_dict())
    assert same(two, Table(5).state_dict())


def test_rows_changed_by_hand_stay() -> None:
    def act(module: nn.Module, rank: int) -> None:
        module.get_parameter("embedding.weight").local().data.fill_(7.0 + rank)  # type: ignore[attr-defined]

    one, two = tables_after(act, 30)
    assert same(one, two)
    assert torch.equal(one["embedding.weight"][:, 0], 7.0 + CUT)


def test_copies_of_a_module_have_equal_attributes_and_one_with_another_table_has_not() -> None:
    """An ``nn.LSTM`` lists its weights in an attribute: they are its parameters, whose values no capture keeps."""

    class Holder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm, self.table = nn.LSTM(2, 3), [torch.ones(2)]

    model = Holder()
    assert Observed().key(model.lstm) == Observed().key(copy.deepcopy(model.lstm))
    assert Observed().key(model) == Observed().key(model)
    assert Observed().key(model) != Observed().key(copy.deepcopy(model))  # another tensor is another constant


# ---- attributes as text ----------------------------------------------------------------------------------------

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.tuples(inner, inner)
        | st.dictionaries(st.text(max_size=2), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(VALUES, VALUES)
def test_text_of_values_is_equal_where_the_values_are(one: Any, two: Any) -> None:
    def text(value: Any) -> str:
        return describe(value, str)

    assert text(copy.deepcopy(one)) == text(one)
    assert (text(one) == text(two)) == (repr(one) == repr(two))


def test_processes_start_equal_and_are_told_what_differs() -> None:
    from support import launch_jobs

    found = launch(launch_jobs.start_equal, 2, timeout=120)
    weights, sentences = zip(*found, strict=True)
    assert torch.equal(*weights)
    assert sentences[0] == sentences[1]
    assert "attribute 'scale' is 1.0 on rank 0 but 2.0 on rank 1" in sentences[0]
