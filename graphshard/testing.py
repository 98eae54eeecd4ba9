"""For your own tests: a model on simulated ranks against the single machine, in one process.

::

    def test_my_model_is_exact():
        graphshard.testing.assert_equivalent(MyModel, {"x": x, "edge_index": edge_index}, num_parts=3)
"""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

from rich.console import Console

from graphshard.check.report import Report
from graphshard.check.verify import Factory, verify
from graphshard.ranks.simulate import run_ranks
from graphshard.training import TrainingReport, verify_training

__all__ = ["assert_equivalent", "assert_training_equivalent", "run_ranks"]

_WIDTH = 120


def assert_equivalent(model: Factory, data: Any, num_parts: int = 3, **settings: Any) -> Report:
    """Assert that a model gives on ``num_parts`` ranks what it gives on one machine.

    Outputs, the gradient of every parameter and every floating-point input, buffers after the step, and the values
    of every exchange are compared, in training and in evaluation mode, as :func:`graphshard.verify` does.

    Args:
        model: the module, or a function without arguments that makes it.
        data: what :func:`graphshard.partition` takes: a mapping of tensors, a PyG ``Data`` or ``HeteroData``.
        num_parts: how many ranks.
        settings: as for :func:`graphshard.verify`: ``dtype``, ``modes``, ``method``, ``transport``, ``roles``,
            ``node_parameters``, ``options``, ``timeout``.

    Returns:
        The report of all that was compared.

    Raises:
        AssertionError: a value differs; the message is a table of those that do.
        UnsupportedOperation, CaptureError: the model is refused.

    Example:
        >>> import torch
        >>> from graphshard.testing import assert_equivalent
        >>> class Copy(torch.nn.Module):
        ...     def forward(self, x, edge_index):
        ...         return torch.zeros_like(x).index_add(0, edge_index[1], x[edge_index[0]])
        >>> edges = torch.tensor([[0, 1, 2, 2, 3, 4, 0], [1, 2, 0, 3, 4, 2, 3]])
        >>> assert_equivalent(Copy(), {"x": torch.rand(5, 2), "edge_index": edges}, num_parts=2).passed
        True
    """
    report = verify(model, data, num_parts, **settings)
    if not report.passed:
        raise AssertionError(f"{report.summary()}\n{_failures(report)}")
    return report


def assert_training_equivalent(
    model: Factory,
    step: Callable[[Any, Any, Any], Any],
    data: Any,
    num_parts: int = 2,
    **settings: Any,
) -> TrainingReport:
    """Assert that a training step does on ``num_parts`` ranks what it does on one machine, step by step.

    Losses, gradients, weights, buffers and what the step returns are compared, as :func:`graphshard.verify_training`
    does.

    Args:
        model: the module, or a function without arguments that makes it.
        step: ``step(model, optimizer, data)``, one step of training.
        data: what :func:`graphshard.partition` takes.
        num_parts: how many ranks.
        settings: as for :func:`graphshard.verify_training`: ``steps``, ``optimizer``, ``whole``, ``dtype``, ``seed``,
            ``method``, ``transport``, ``roles``, ``node_parameters``, ``options``, ``timeout``.

    Returns:
        The report of all that was compared.

    Raises:
        AssertionError: something differs; the message says what differs first and what it may come from.
        UnsupportedOperation, CaptureError: the model is refused.
    """
    report = verify_training(model, step, data, num_parts, **settings)
    if not report.passed:
        raise AssertionError(f"{report.summary()}\n{_failures(report)}")
    return report


def _failures(report: Report) -> str:
    stream = io.StringIO()
    Console(file=stream, width=_WIDTH).print(report.table(everything=False))
    return stream.getvalue().rstrip()
