"""Models whose forward returns the loss."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from graphshard.tools.zoo.configuration import Configuration
from graphshard.tools.zoo.hand_written import written

LOSSES: dict[str, Callable[..., Any]] = {
    "cross_entropy": lambda m, x, y: nn.functional.cross_entropy(m.out(m.lin(x)), y),
    "cross_entropy, mask": lambda m, x, y, mask: nn.functional.cross_entropy(m.out(m.lin(x))[mask], y[mask]),
    "cross_entropy, class weights, smoothing": lambda m, x, y: nn.functional.cross_entropy(
        m.out(m.lin(x)), y, m.classes, label_smoothing=0.1
    ),
    "cross_entropy, class weights, ignored": lambda m, x, y: nn.functional.cross_entropy(
        m.out(m.lin(x)), y, m.classes, ignore_index=1
    ),
    "cross_entropy, probabilities": lambda m, x, target: nn.functional.cross_entropy(
        m.out(m.lin(x)), target.softmax(1)
    ),
    "cross_entropy, rows": lambda m, x, y: nn.functional.cross_entropy(m.out(m.lin(x)), y, reduction="none"),
    "nll_loss": lambda m, x, y: nn.functional.nll_loss(m.out(m.lin(x)).log_softmax(1), y),
    "binary_cross_entropy_with_logits": lambda m, x, labels: nn.functional.binary_cross_entropy_with_logits(
        m.out(m.lin(x)), labels
    ),
    "binary_cross_entropy": lambda m, x, labels: nn.functional.binary_cross_entropy(
        m.out(m.lin(x)).sigmoid(), labels
    ),
    "mse_loss": lambda m, x, target: nn.functional.mse_loss(m.out(m.lin(x)), target),
    "l1_loss, sum": lambda m, x, target: nn.functional.l1_loss(m.out(m.lin(x)), target, reduction="sum"),
    "smooth_l1_loss": lambda m, x, target: nn.functional.smooth_l1_loss(m.out(m.lin(x)), target),
    "huber_loss": lambda m, x, target: nn.functional.huber_loss(m.out(m.lin(x)), target),
    "kl_div": lambda m, x, target: nn.functional.kl_div(
        m.out(m.lin(x)).log_softmax(1), target.softmax(1), reduction="batchmean"
    ),
    "cosine_embedding": lambda m, x, target: (
        1 - nn.functional.cosine_similarity(m.out(m.lin(x)), target)
    ).mean(),
    "bpr": lambda m, x, edge_index: (
        -nn.functional.logsigmoid(
            (m.lin(x)[edge_index[0]] * m.lin(x)[edge_index[1]]).sum(1)
            - (m.lin(x)[edge_index[0]] * m.lin(x)[edge_index[1]].flip(1)).sum(1)
        ).mean()
    ),
}

CONFIGURATIONS: list[Configuration] = [written(f"loss {name}", f) for name, f in LOSSES.items()]
