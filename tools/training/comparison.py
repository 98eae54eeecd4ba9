"""``train --compare``: the same training on one machine, twice, and how far it is from what the ranks did.

- *one rank*: the same program on the whole graph, with the same dropout masks, since a mask is a function of
  the seed, the step and the node's number in the whole graph.
- *PyTorch*: the untouched module, trained with plain PyTorch. PyTorch draws its masks in the order of rows, so
  this needs a model without dropout.

In float64 the loss curves must agree to 1e-6; what remains is rounding of sums in another order (measured, 200
epochs of gcn on Cora: 4e-16). In float32 nothing is demanded of a curve: rounding is 5e8 times larger and every
step may amplify it, since Adam divides by the size of the gradient, so that noise in a gradient near zero moves a
weight visibly (measured: 1e-6 of the loss and 4e-3 of the weights for gcn, 7e-6 and 4e-2 in 60 epochs of gin).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

import graphshard
from graphshard.graph.data import GraphData
from graphshard.shard.shard import Shard
from graphshard.tools.training.job import Job, Trained
from graphshard.tools.training.loop import History, train, train_eagerly
from graphshard.tools.training.progress import progress

TOLERANCE = 1e-6
"""How far two loss curves may be apart in float64."""


@dataclass(frozen=True)
class Comparison:
    """Two training runs side by side.

    Attributes:
        reference: "one rank" or "PyTorch".
        dropout: whether dropout was active.
        loss: largest difference of the losses of one epoch.
        weights: largest difference of a value of the final state.
        weights_relative: the same, relative to the largest value of its tensor.
        accuracy: of the test nodes (of another split where there are none) on the ranks and in the reference;
            None where forward returns the loss.
        tolerance: how large ``loss`` may be; None where nothing is demanded.
    """

    reference: str
    dropout: bool
    loss: float
    weights: float
    weights_relative: float
    accuracy: tuple[float, float] | None
    tolerance: float | None

    @property
    def passed(self) -> bool:
        return self.tolerance is None or self.loss <= self.tolerance

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self) | {"passed": self.passed}


def one_rank(job: Job, result: Trained, graph: GraphData) -> Comparison:
    """Against the same program on one rank, from the same initial weights."""
    model, whole = _start(job, result, graph)
    with progress("one rank", job.recipe.epochs, show=job.show_progress, lines=1) as on_epoch:
        reference = train(
            graphshard.distribute(model, seed=job.seed, options=job.options), whole, job.recipe, on_epoch
        )
    return _compare("one rank", job, result, reference)


def pytorch(job: Job, result: Trained, graph: GraphData) -> Comparison:
    """Against the untouched module, which has no dropout, from the same initial weights."""
    model, whole = _start(job, result, graph)
    with progress("PyTorch", job.recipe.epochs, show=job.show_progress, lines=1) as on_epoch:
        reference = train_eagerly(model, whole, job.recipe, on_epoch)
    return _compare("PyTorch", job, result, reference)


def _start(job: Job, result: Trained, graph: GraphData) -> tuple[nn.Module, Shard]:
    model = result.target().to(job.dtype)
    model.load_state_dict(dict(result.history.initial))
    return model, graphshard.partition(graph, 1)[0].to(job.dtype)


def _compare(name: str, job: Job, result: Trained, reference: History) -> Comparison:
    found = result.history
    weights, relative = state_difference(found.final, reference.final)
    return Comparison(
        reference=name,
        dropout=result.has_dropout,
        loss=max(abs(a - b) for a, b in zip(found.losses, reference.losses, strict=True)),
        weights=weights,
        weights_relative=relative,
        accuracy=_accuracies(found, reference),
        tolerance=TOLERANCE if job.dtype == torch.float64 else None,
    )


def state_difference(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> tuple[float, float]:
    """The largest absolute difference of any value, and the largest relative to its tensor's magnitude."""
    largest = relative = 0.0
    for name, expected in other.items():
        if not expected.numel():
            continue
        difference = float((one[name].double() - expected.double()).abs().max())
        scale = float(expected.double().abs().max())
        largest = max(largest, difference)
        relative = max(relative, difference / scale if scale else difference)
    return largest, relative


def _accuracies(found: History, reference: History) -> tuple[float, float] | None:
    last, other = found.epochs[-1].accuracy, reference.epochs[-1].accuracy
    split = next((name for name in ("test", "val", "train") if name in last), None)
    return None if split is None else (last[split], other[split])
