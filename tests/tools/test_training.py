"""The training loop: the same curve, weights and accuracies on several ranks as on one machine."""

import copy

import pytest
import torch
from torch import nn

import graphshard
from graphshard.errors import DataError
from graphshard.testing import run_ranks
from graphshard.tools.data.sources import load_data
from graphshard.tools.targets.load import load_target
from graphshard.tools.training.loop import Recipe, train, train_eagerly

RECIPE = Recipe(epochs=8, lr=0.05)


@pytest.fixture(scope="module")
def karate():
    return load_data("karate")


@pytest.fixture(scope="module")
def whole(karate):
    return graphshard.partition(karate, 1)[0].to(torch.float64)


def train_on(ranks, model, graph, seed=0):
    """Every rank's history, on simulated ranks."""
    shards = graphshard.partition(graph, ranks)
    models = [copy.deepcopy(model) for _ in shards]

    def rank(number, _, group):
        distributed = graphshard.distribute(models[number], seed=seed, group=group)
        return train(distributed, shards[number].to(torch.float64), RECIPE)

    return run_ranks(ranks, rank)


def assert_same_run(ours, theirs):
    assert ours.losses == pytest.approx(theirs.losses, rel=1e-10)
    assert [e.accuracy for e in ours.epochs] == [e.accuracy for e in theirs.epochs]
    for name, value in theirs.final.items():
        torch.testing.assert_close(ours.final[name], value, rtol=1e-8, atol=1e-10)


def test_several_ranks_train_as_plain_pytorch_does(karate, whole):
    model = load_target("gcn", karate, dropout=0.0)().double()
    expected = train_eagerly(copy.deepcopy(model), whole, RECIPE)
    assert expected.losses[-1] < 0.7 * expected.losses[0]
    histories = train_on(3, model, karate)
    for history in histories:
        assert_same_run(history, expected)
    assert [e.halo_bytes for e in histories[0].epochs] == [e.halo_bytes for e in histories[2].epochs]
    assert histories[0].epochs[0].halo_bytes > 0
    assert histories[0].epochs[0].reduce_bytes > 0


def test_dropout_draws_the_same_masks_on_any_number_of_ranks(karate, whole):
    model = load_target("gcn", karate)().double()
    one = train(graphshard.distribute(copy.deepcopy(model), seed=5), whole, RECIPE)
    other = train(graphshard.distribute(copy.deepcopy(model), seed=6), whole, RECIPE)
    assert one.losses != other.losses
    assert_same_run(train_on(2, model, karate, seed=5)[0], one)
    assert (one.epochs[0].halo_bytes, one.epochs[0].reduce_bytes) == (0, 0)


def test_accuracy_is_of_the_splits_that_have_nodes(karate, whole):
    history = train_eagerly(load_target("gcn", karate)().double(), whole, RECIPE)
    assert list(history.epochs[-1].accuracy) == ["train", "test"]  # karate has no validation nodes
    assert 0.5 <= history.epochs[-1].accuracy["test"] <= 1
    assert [epoch.number for epoch in history.epochs] == list(range(1, 9))
    assert history.seconds > 0


class Gives(nn.Module):
    """Returns what it is told to."""

    def __init__(self, what):
        super().__init__()
        self.what, self.weight = what, nn.Parameter(torch.ones(34, 2, dtype=torch.float64))

    def forward(self, x):
        out = x @ self.weight
        return {"loss": out.sum(), "rows": out[:5], "list": [out], "nan": out.sum() * torch.nan}[self.what]


def test_a_scalar_is_the_loss(whole):
    history = train_eagerly(Gives("loss"), whole, RECIPE)
    assert history.losses[0] == pytest.approx(68)
    assert history.epochs[-1].accuracy == {}


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (Gives("rows"), "one row for each node, or the loss as a scalar"),
        (Gives("list"), "must return logits"),
        (Gives("nan"), "the loss is NaN in epoch 1"),
        (Gives("loss").requires_grad_(False), "no parameters"),
    ],
)
def test_what_cannot_be_trained_is_said(model, said, whole):
    with pytest.raises(DataError, match=said):
        train_eagerly(model, whole, RECIPE)


def test_data_without_labels_or_training_nodes_is_refused(karate):
    tensors = {name: karate[name] for name in ("x", "edge_index")}
    model = load_target("gcn", karate)
    with pytest.raises(DataError, match="no labels y"):
        train_eagerly(model(), graphshard.partition(tensors, 1)[0], RECIPE)
    tensors |= {"y": karate["y"], "train_mask": torch.zeros(34, dtype=torch.bool)}
    with pytest.raises(DataError, match="training mask may be empty"):
        train_eagerly(model(), graphshard.partition(tensors, 1)[0], RECIPE)
