"""What a script computes outside of forward with what a shard gave it: the value of one machine, or refused."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from support.local import local
from support.models import Reversed
from torch import Tensor, nn

import graphshard
from graphshard import PlacedTensor
from graphshard.testing import run_ranks

NODES, EDGES, PAIRS, CLASSES = 30, 90, 14, 3
F64 = torch.float64


class Net(nn.Module):
    """Two outputs, one of nodes and one of the graph."""

    def __init__(self) -> None:
        super().__init__()
        self.lin = nn.Linear(4, CLASSES, dtype=F64)
        self.head = nn.Linear(CLASSES, CLASSES, dtype=F64)
        self.scale = nn.Parameter(torch.tensor(1.3, dtype=F64))

    def forward(self, x: Tensor, edge_index: Tensor) -> tuple[Tensor, Tensor]:
        h = self.lin(x)
        h = h.index_add(0, edge_index[1], h[edge_index[0]])
        return h, h.square().mean(0)


def graph(seed: int = 0) -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(seed)
    y = torch.randint(0, CLASSES, (NODES,), generator=g)
    noisy = y.clone()
    noisy[::4] = -100
    return {
        "x": torch.randn(NODES, 4, generator=g, dtype=F64),
        "edge_index": torch.randint(0, NODES, (2, EDGES), generator=g),
        "y": y,
        "noisy": noisy,
        "target": torch.rand(NODES, CLASSES, generator=g, dtype=F64),
        "train_mask": torch.rand(NODES, generator=g) < 0.4,
        "test_mask": torch.rand(NODES, generator=g) < 0.3,
        "edge_y": torch.rand(EDGES, generator=g, dtype=F64),
        "edge_label_index": torch.randint(0, NODES, (2, PAIRS), generator=g),
        "edge_label": torch.randint(0, 2, (PAIRS,), generator=g).to(F64),
        "train_idx": torch.randperm(NODES, generator=g)[:11],
    }


ROLES = {
    **dict.fromkeys(("x", "y", "noisy", "target", "train_mask", "test_mask"), "node"),
    "edge_index": "edge_index",
    "edge_y": "edge",
    "edge_label_index": "pairs",
    "edge_label": "edge:edge_label_index",
    "train_idx": "index",
}


@dataclass
class Script:
    """What stands around a model: ``d`` is the shard or the whole graph."""

    model: Any
    net: Net
    d: Any
    out: Any
    pooled: Any


WEIGHT = torch.tensor([0.2, 1.0, 3.0], dtype=F64)


def temperature(s: Script) -> Any:
    return F.cross_entropy(s.out / s.net.scale.exp(), s.d.y)


def decode(s: Script) -> Any:
    source, target = s.d.edge_label_index
    return (s.out[source] * s.out[target]).sum(-1)


def accuracy(s: Script) -> Any:
    pred = s.out.argmax(dim=-1)
    return int((pred[s.d.test_mask] == s.d.y[s.d.test_mask]).sum()) / int(s.d.test_mask.sum())


def confusion(s: Script) -> Any:
    one_hot = F.one_hot(s.out.argmax(-1), CLASSES).to(F64)
    return one_hot.t() @ F.one_hot(s.d.y, CLASSES).to(F64)


def penalty(s: Script) -> Any:
    loss = F.cross_entropy(s.out, s.d.y)
    (grad,) = torch.autograd.grad(loss, s.net.lin.weight, create_graph=True)
    return loss + grad.square().sum()


def squared_forces(s: Script) -> Any:
    (force,) = torch.autograd.grad((s.net.scale * s.out).square().sum(), s.d.x, create_graph=True)
    return (force - s.d.x).square().mean()


def in_place(s: Script) -> Any:
    h = s.out * 1.0
    h[s.d.train_mask] = 0.0
    h.mul_(2.0)
    h += s.d.target
    return h


def mean_and_sum(s: Script) -> Any:
    return graphshard.mean(s.pooled.square()) + graphshard.sum(s.out.tanh()) * 0.01


def kept_rows(s: Script) -> Any:
    kept, wanted = s.out[s.d.train_mask], s.d.target[s.d.train_mask]
    best = kept.max(dim=1).values > 0.1
    return (kept[best] - wanted[best]).abs()


CHOSEN = torch.tensor([0, 5, 28, 5, -1])
LOSSES: dict[str, Callable[[Script], Any]] = {
    "cross entropy of a mask": lambda s: F.cross_entropy(s.out[s.d.train_mask], s.d.y[s.d.train_mask]),
    "class weights": lambda s: F.cross_entropy(s.out, s.d.y, weight=WEIGHT, label_smoothing=0.1),
    "ignored labels": lambda s: F.cross_entropy(s.out, s.d.noisy, weight=WEIGHT),
    "a sum": lambda s: F.cross_entropy(s.out, s.d.y, reduction="sum"),
    "no reduction": lambda s: F.cross_entropy(s.out, s.d.y, reduction="none"),
    "a split index": lambda s: F.cross_entropy(s.out[s.d.train_idx], s.d.y[s.d.train_idx]),
    "numbers of nodes": lambda s: F.cross_entropy(s.out[CHOSEN], s.d.y[CHOSEN]) + s.out[CHOSEN].std(),
    "a mask turned round": lambda s: F.mse_loss(s.out[~s.d.train_mask], s.d.target[~s.d.train_mask]),
    "two masks": lambda s: F.l1_loss(
        s.out[s.d.train_mask & s.d.test_mask], s.d.target[s.d.train_mask & s.d.test_mask]
    ),
    "batchmean": lambda s: F.kl_div(s.out.log_softmax(-1), s.d.target.softmax(-1), reduction="batchmean"),
    "a learned temperature": temperature,
    "a plain head": lambda s: F.cross_entropy(s.net.head(s.out).relu(), s.d.y),
    "pairs": lambda s: F.binary_cross_entropy_with_logits(
        decode(s), s.d.edge_label, pos_weight=torch.tensor(2.0, dtype=F64)
    ),
    "edges": lambda s: (s.out[s.d.edge_index[0]].sum(-1) * s.d.edge_y).mean(),
    "a gradient penalty": penalty,
    "forces": squared_forces,
    "a norm": lambda s: s.out.norm() + torch.linalg.vector_norm(s.out[s.d.train_mask], 1),
    "a spread": lambda s: s.out.std(0) + s.out.var(0, unbiased=False),
    "an extreme": lambda s: s.out.max() - s.out[s.d.test_mask].amin(0),
    "a value that every rank has": lambda s: F.mse_loss(s.pooled, WEIGHT),
    "graphshard.mean and sum": mean_and_sum,
    "rows": lambda s: F.normalize(s.out, dim=-1),
    "a view": lambda s: s.out.view(s.out.size(0), -1).reshape(s.out.shape[0], CLASSES, 1).squeeze(-1),
    "joined": lambda s: torch.cat([s.out, s.d.target], dim=1),
    "rows of a mask": kept_rows,
    "written in place": in_place,
    "a product over rows": lambda s: s.out.t() @ s.d.target,
}
VALUES: dict[str, Callable[[Script], Any]] = {
    "an accuracy": accuracy,
    "a confusion matrix": confusion,
    "sizes": lambda s: (
        tuple(s.out.shape),
        s.out.size(0),
        len(s.out),
        s.out.numel(),
        s.out[s.d.train_mask].shape[0],
    ),
    "a truth": lambda s: bool((s.out > -1e9).all()),
    "a number": lambda s: s.out.sum().item(),
    "a count": lambda s: float(s.d.train_mask.sum()),
    "kinds": lambda s: (s.out.dim(), str(s.out.dtype), s.out.requires_grad, s.out.is_floating_point()),
    "a list": lambda s: [round(v, 9) for v in s.pooled.tolist()],
    "predictions": lambda s: s.out.topk(2, dim=-1).indices,
    "a mean of labels": lambda s: (s.out.softmax(-1).argmax(-1) == s.d.y).float().mean(),
}


def evaluated(
    script: Callable[[Script], Any], net: Net, model: Any, d: Any, whole: Callable[[Any], Any]
) -> Any:
    """The value, and the gradients of what a loss of it gives."""
    d.x.requires_grad_()
    out, pooled = model(d.x, d.edge_index)
    found = script(Script(model, net, d, out, pooled))
    if not isinstance(found, Tensor) or not found.requires_grad:
        return whole(found), {}
    (found * found).sum().backward()
    grads = {name: p.grad for name, p in net.named_parameters()}
    return whole(found).detach(), grads | {"x": None if d.x.grad is None else whole(d.x.grad)}


class Whole:
    """The whole graph, read as a shard is."""

    def __init__(self, data: dict[str, Tensor]) -> None:
        self.__dict__.update({name: value.clone() for name, value in data.items()})


def compared(script: Callable[[Script], Any], parts: int, cut: Any = "metis", seed: int = 0) -> None:
    """One machine against simulated ranks."""
    torch.manual_seed(0)
    data, net = graph(seed), Net()
    nets = [copy.deepcopy(net) for _ in range(parts)]
    expected, wanted = evaluated(script, net, net, Whole(data), lambda v: v)
    shards = graphshard.partition(data, parts, roles=ROLES, method=cut)

    def rank(number: int, _: str, group: Any) -> Any:
        shard, model = shards[number], graphshard.distribute(nets[number], group=group)

        def whole(value: Any) -> Any:
            return local(shard.gather(value, group)) if isinstance(value, PlacedTensor) else value

        return evaluated(script, nets[number], model, shard, whole)

    for found, grads in run_ranks(parts, rank):
        if isinstance(expected, Tensor):
            assert found.shape == expected.shape
            torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
        else:
            assert found == (pytest.approx(expected, rel=1e-9) if isinstance(expected, float) else expected)
        for name, grad in wanted.items():
            assert (grads[name] is None) == (grad is None), name
            if grad is not None:
                torch.testing.assert_close(grads[name], grad, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_and_its_gradients_equal_one_machine(name: str) -> None:
    compared(LOSSES[name], 3)


@pytest.mark.parametrize("name", VALUES)
def test_a_value_equals_one_machine(name: str) -> None:
    compared(VALUES[name], 2)


@given(
    st.lists(st.integers(0, 2), min_size=NODES, max_size=NODES),
    st.integers(0, 5),
    st.sampled_from([n for n in LOSSES if n not in ("an extreme", "a spread")]),
)
@settings(max_examples=4, deadline=None)
def test_any_cut_gives_the_same(cut: list[int], seed: int, name: str) -> None:
    """Parts without a node, a training node or a pair as well."""
    compared(LOSSES[name], 3, torch.tensor(cut), seed)


REFUSED: dict[str, tuple[Callable[[Script], Any], str]] = {
    "a list of rows": (lambda s: s.out.tolist(), r"tolist reads numbers .*gather.*local\(\)"),
    "a row": (lambda s: s.out[0], "of rows of the graph"),
    "the first rows": (lambda s: s.out[:7], "of rows of the graph"),
    "rows in order": (lambda s: s.out.sort(0), "of rows of the graph"),
    "every row": (lambda s: list(s.out), "reads numbers"),
    "a whole mask": (lambda s: s.out[graph()["train_mask"]], "scatter"),
    "rows of two masks": (lambda s: F.mse_loss(s.out[s.d.train_mask], s.d.target[s.d.test_mask]), "rows"),
    "nodes with edges": (lambda s: s.out[:, 0] + s.d.edge_y, "rows"),
    "a backward of rows": (lambda s: s.out.backward(torch.ones(7, 3)), "a plain tensor"),
    "a function with a backward of its own": (
        lambda s: Reversed.apply(s.out).mean(),
        "Reversed, an autograd",
    ),
    "a value of such a function": (
        lambda s: Reversed.apply(s.out.mean()) * s.out,
        "Reversed, an autograd",
    ),
    "a list of parts": (lambda s: s.out.split(10), "of rows of the graph"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_exact_is_refused_with_the_line(name: str) -> None:
    script, words = REFUSED[name]
    with pytest.raises(graphshard.GraphshardError, match=words) as refused:
        compared_alone(script)
    assert "test_functions.py" in str(refused.value) or name == "a backward of rows"


def compared_alone(script: Callable[[Script], Any]) -> None:
    shards = graphshard.partition(graph(), 2, roles=ROLES)
    net = Net()
    nets = [copy.deepcopy(net) for _ in shards]

    def rank(number: int, _: str, group: Any) -> None:
        model, shard = graphshard.distribute(nets[number], group=group), shards[number]
        out, pooled = model(shard.x, shard.edge_index)
        script(Script(model, nets[number], shard, out, pooled))

    run_ranks(2, rank)


def test_ranks_that_do_not_compute_the_same_are_told_apart() -> None:
    def script(s: Script) -> None:
        if s.d.rank == 0:
            print(s.out.mean())
        s.model(s.d.x, s.d.edge_index)

    with pytest.raises(
        graphshard.RuntimeMismatch, match=r"rank 0 calls torch.Tensor.mean where rank 1 calls the"
    ):
        compared_alone(script)


def test_a_hook_is_given_gradients_of_the_whole() -> None:
    seen: list[Any] = []

    def script(s: Script) -> None:
        s.out.register_hook(lambda grad: seen.append((grad.shape, float(grad.sum()))))
        s.out.sum().backward()

    compared_alone(script)
    assert seen == [((NODES, CLASSES), float(NODES * CLASSES))] * 2


def test_what_is_local_is_this_ranks() -> None:
    def script(s: Script) -> None:
        mine = s.out.local()
        assert type(mine) is Tensor
        assert mine.shape == (s.d.num_owned, CLASSES)
        mine.sum().backward()
        assert "holds Owned" in repr(s.out)
        assert "same on every rank" in repr(s.pooled)

    compared_alone(script)


def test_rows_are_gathered_in_the_order_of_one_machine() -> None:
    data, expected = graph(), graph()["target"][graph()["train_mask"]]

    def script(s: Script) -> None:
        kept = s.d.gather(s.d.target[s.d.train_mask])
        assert torch.equal(local(kept), expected)
        assert torch.equal(s.d.gather(s.d.edge_index).local(), data["edge_index"])
        assert torch.equal(s.d.gather(s.d.edge_index[0]).local(), data["edge_index"][0])

    compared_alone(script)


def test_a_shard_is_changed_before_it_is_saved_without_other_ranks() -> None:
    for shard in graphshard.partition(graph(), 2, roles=ROLES):
        shard.x = F.normalize(shard.x, dim=-1)
        assert shard.x.shape == (NODES, 4)
        with pytest.raises(graphshard.ShardError, match=r"one of 2 parts, and this job has 1 rank\(s\)"):
            shard.x.mean()


def test_one_rank_of_one_has_plain_tensors() -> None:
    (shard,) = graphshard.partition(graph(), 1, roles=ROLES)
    out, _ = graphshard.distribute(Net())(shard.x, shard.edge_index)
    assert type(shard.x) is type(out) is Tensor


def test_a_model_takes_what_another_gave() -> None:
    """Two modules, as a generator and a discriminator, or a teacher and a student."""

    def script(s: Script) -> Any:
        again, _ = s.model(torch.cat([s.out, s.out[:, :1]], dim=1), s.d.edge_index)
        return F.cross_entropy(again, s.d.y)

    compared(script, 3)


def test_rows_kept_by_draws_of_two_calls_are_not_taken_for_the_same() -> None:
    """The same call twice; what it draws differs."""

    def script(s: Script) -> None:
        first, second = (F.dropout(s.out, 0.5)[:, 0] > 0 for _ in range(2))
        s.out[first] - s.out[second]

    with pytest.raises(graphshard.GraphshardError, match="different rows"):
        compared_alone(script)


def test_what_was_gathered_goes_into_a_model_of_whole_tensors() -> None:
    data = graph()

    def script(s: Script) -> Any:
        rows = s.d.gather(s.d.x) if isinstance(s.d, graphshard.Shard) else s.d.x
        out, _ = s.model(rows, data["edge_index"])
        return out.sin().sum()

    compared(script, 2)


@pytest.mark.parametrize("what", ["a head", "a draw", "a number"])
def test_plain_tensors_that_differ_between_ranks_are_named(what: str) -> None:
    """Each rank made them for itself, as without ``graphshard.init``."""

    def script(s: Script) -> Any:
        made = torch.full((CLASSES,), 1.0 + s.d.rank, dtype=F64)
        if what == "a head":
            head = nn.Linear(CLASSES, CLASSES, dtype=F64)
            nn.init.constant_(head.weight, s.d.rank)
            return F.cross_entropy(head(s.out), s.d.y)
        return (
            F.cross_entropy(s.out * made, s.d.y)
            if what == "a draw"
            else (s.pooled * made).sum() + s.out.sum()
        )

    with pytest.raises(
        graphshard.RuntimeMismatch, match=r"argument 1 of .*test_functions.py.* on rank 0 but .* on rank 1"
    ):
        compared_alone(script)


def test_a_plain_tensor_that_differs_is_named_by_the_next_call_of_the_model() -> None:
    def script(s: Script) -> Any:
        shifted = s.out + float(s.d.rank) * torch.ones((), dtype=F64)
        return s.model(torch.cat([shifted, shifted[:, :1]], dim=1), s.d.edge_index)

    with pytest.raises(graphshard.RuntimeMismatch, match=r"argument 1 of torch.Tensor.add"):
        compared_alone(script)


def test_a_backward_of_its_own_is_refused_where_backward_begins() -> None:
    with pytest.raises(
        graphshard.UnsupportedOperation, match=r"Reversed, an autograd\.Function whose backward"
    ):
        compared_alone(lambda s: Reversed.apply(s.out.sum()).backward())  # type: ignore[no-untyped-call]


def test_a_draw_from_a_value_that_all_hold_is_compared() -> None:
    def script(s: Script) -> Any:
        own = torch.Generator().manual_seed(s.d.rank)
        drawn = torch.normal(s.pooled.detach(), 1.0, generator=own)
        return (s.out * drawn).sum()

    with pytest.raises(graphshard.RuntimeMismatch, match=r"the result of torch.normal .*test_functions"):
        compared_alone(script)

    def alike(s: Script) -> Any:
        drawn = torch.normal(s.pooled.detach(), 1.0, generator=torch.Generator().manual_seed(1))
        return (s.out * drawn).sum()

    compared_alone(alike)


def test_a_value_is_computed_with_when_the_ranks_are_gone() -> None:
    """As after ``destroy_process_group``: a loss that was kept, beside plain numbers."""
    kept: list[Any] = []
    compared_alone(lambda s: kept.append((s.pooled.detach(), s.out.detach())))
    pooled, out = kept[0]
    assert float((pooled + torch.ones(CLASSES, dtype=F64)).sum()) == pytest.approx(
        float(pooled.sum()) + CLASSES
    )
    with pytest.raises(graphshard.GraphshardError):
        out.mean()
