"""For your own tests: a model on simulated ranks against the single machine, in one process.

::

    def test_my_model_is_exact():
        graphshard.testing.assert_equivalent(MyModel, {"x": x, "edge_index": edge_index}, num_parts=3)
"""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any, TypeVar

import torch.distributed as dist
from rich.console import Console

from graphshard.check.report import Report
from graphshard.check.verify import Factory, verify
from graphshard.private import pytree
from graphshard.ranks import simulate
from graphshard.shard.placed import plain
from graphshard.training import TrainingReport, verify_training

__all__ = ["assert_equivalent", "assert_training_equivalent", "run_ranks"]

_WIDTH = 120
T = TypeVar("T")


def run_ranks(
    world_size: int,
    fn: Callable[[int, str, dist.ProcessGroup], T],
    *,
    timeout: float = 60.0,
    own_random: bool = False,
) -> list[T]:
    """Run ``fn(rank, group_name, group)`` on every simulated rank, a thread each; the results in rank order.

    The threads inherit whether gradients are recorded and the context variables, and share all that is global in a
    process; with ``own_random`` not the random generators: then one rank runs at a time. Functions with ``group=None``
    take the rank's simulated group; ``torch.distributed``'s own need ``group=``. For tensors on the CPU.

    Args:
        world_size: the number of ranks, at least 1. timeout: seconds for the whole run of several.
        fn: what a rank runs; all must run the same sequence of collectives.
        own_random: whether each rank draws from Python's, NumPy's and PyTorch's generators as if it was alone,
            beginning where they stand now; afterwards they stand there again.

    Returns:
        What each rank returned. Tensors of the whole graph come back as the plain tensors of the rank's own rows: the
        other ranks, with which they are the whole, are gone.

    Raises:
        RuntimeMismatch: the ranks ran different collectives, or the time is over.
        BaseException: what ``fn`` raised, with a note of the rank; of several, the lowest rank's.

    Example:
        >>> from graphshard.testing import run_ranks
        >>> run_ranks(2, lambda rank, name, group: (rank, group.size()))
        [(0, 2), (1, 2)]
    """
    results = simulate.run_ranks(world_size, fn, timeout=timeout, own_random=own_random)
    return [pytree.tree_map(plain, result) for result in results]


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
