"""``verify_training``: a user's training step on one machine and on k ranks, compared after every step."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from graphshard.api import DistributedModule, distribute
from graphshard.check.verify import Factory, make_model
from graphshard.errors import GraphshardError
from graphshard.execute.bind import from_shard
from graphshard.graph.data import as_graph_data
from graphshard.graph.roles import GivenRole, as_member
from graphshard.options import Options
from graphshard.partitioning.partition import partition
from graphshard.ranks.groups import default_is
from graphshard.ranks.launch import launch
from graphshard.ranks.simulate import run_ranks
from graphshard.ranks.turns import RandomState
from graphshard.shard.files import load_shard, save
from graphshard.shard.node_parameters import GivenParameters
from graphshard.shard.shard import Shard
from graphshard.training.judge import judge
from graphshard.training.observe import Observer, observed, seed_all, watching
from graphshard.training.record import Record
from graphshard.training.report import TrainingReport

Step = Callable[[Any, Any, Any], Any]
"""``step(model, optimizer, data)``: one step of training, which may return metrics."""

PLAIN, ONE_RANK = "plain PyTorch", "the program on one rank"


@dataclass(frozen=True)
class _Task:
    """What every run does; picklable where the user's functions are."""

    model: Factory
    step: Step
    optimizer: Callable[[nn.Module], Any] | None
    steps: int
    seed: int
    dtype: torch.dtype | None
    roles: Mapping[str, GivenRole] | None
    node_parameters: GivenParameters
    options: Options | None


def verify_training(
    model: Factory,
    step: Step,
    data: Any,
    num_parts: int = 2,
    *,
    steps: int = 5,
    optimizer: Callable[[nn.Module], Any] | None = None,
    whole: bool = False,
    dtype: torch.dtype | None = torch.float64,
    seed: int = 0,
    method: Any = "metis",
    transport: str = "threads",
    roles: Mapping[str, GivenRole] | None = None,
    node_parameters: GivenParameters = (),
    options: Options | None = None,
    timeout: float = 600.0,
) -> TrainingReport:
    """Run a training step of yours on one machine and on ``num_parts`` ranks, and compare after every step.

    What :func:`graphshard.verify` proves of a model, this proves of what stands around it: the loss, the optimiser,
    the metrics. After each step of each optimiser the losses that were differentiated, the gradients, the weights and
    the buffers are compared, and at the end of ``step`` what it returned. The report names the first difference and
    what it may come from.

    On one machine plain PyTorch runs the model, without graphshard. Where the model draws random numbers it is the
    program on one rank, since PyTorch's own dropout masks depend on the order of rows.

    Args:
        model: the module, or a function without arguments that makes it.
        step: ``step(model, optimizer, data)`` makes one step of training: forward, loss, ``backward``, the optimiser's
            step. What it returns (a number, a tensor, or a dict or sequence of these) is compared as well.
        data: what :func:`graphshard.partition` takes.
        num_parts: how many ranks.
        steps: how often ``step`` is called.
        optimizer: ``optimizer(model)`` makes what ``step`` is given as its second argument: an optimiser, or whatever
            else a run has of its own, such as two optimisers and a schedule. By default Adam with a learning rate of
            0.01.
        whole: whether ``step`` is given all of ``data`` on every rank; by default it is given the rank's shard.
        dtype: to run in. In float64 a value may be off by 1e-9 of its size; in anything else by 1e-4, which finds
            no small fault. None leaves model and data as they are.
        seed: of Python's, NumPy's and PyTorch's random numbers, alike in all runs.
        method: how to partition, as for :func:`graphshard.partition`.
        transport: "threads" (simulated ranks: your step finds its rank's group where it passes no ``group`` to
            graphshard's functions; ``torch.distributed``'s own functions find none) or "processes" (real gloo
            processes; the functions must then be picklable, as those of an importable module are).
        roles, node_parameters, options: as for :func:`graphshard.distribute`.
        timeout: seconds for each run.

    Returns:
        A report; ``report.passed`` says whether everything was equal, ``report.summary()`` what was not.

    Raises:
        UnsupportedOperation, CaptureError: the model is refused.
        GraphshardError: a rank failed before anything differed, or an option is unknown.

    Example:
        >>> import torch, graphshard
        >>> class Mean(torch.nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.lin = torch.nn.Linear(2, 1)
        ...     def forward(self, x, edge_index):
        ...         return self.lin(torch.zeros_like(x).index_add(0, edge_index[1], x[edge_index[0]]))
        >>> def step(model, optimizer, data):
        ...     optimizer.zero_grad()
        ...     loss = graphshard.mean(model(data).square())
        ...     loss.backward()
        ...     optimizer.step()
        ...     return loss
        >>> edges = torch.tensor([[0, 1, 2, 2, 3, 4, 0], [1, 2, 0, 3, 4, 2, 3]])
        >>> graph = {"x": torch.rand(5, 2), "edge_index": edges}
        >>> graphshard.verify_training(Mean, step, graph, num_parts=2, steps=2).passed
        True
    """
    if transport not in ("threads", "processes"):
        raise GraphshardError(f"no transport {transport!r}; choose threads or processes")
    if steps < 1:
        raise GraphshardError(f"verify_training makes at least one step, not {steps}")
    task = _Task(model, step, optimizer, steps, seed, dtype, roles, node_parameters, options)
    before = RandomState.now()
    try:
        return _verify(task, _Cut(data, whole, method, task), num_parts, transport, timeout)
    finally:
        before.restore()


def _verify(task: _Task, cut: _Cut, num_parts: int, transport: str, timeout: float) -> TrainingReport:
    run = _on_threads if transport == "threads" else _on_processes
    ranks, error = run(task, cut, num_parts, timeout)
    reference = PLAIN if not any(rank.is_random for rank in ranks) else ONE_RANK
    one_machine = _one_machine(task, cut, plain=reference == PLAIN)
    found = judge(one_machine, ranks, ended=error is not None)
    if error is not None and all(row.passed for row in found.rows):
        raise error
    ended = None if error is None else str(error)
    return TrainingReport(
        num_parts, found.dtype, transport, found.rows, (), found.steps, reference, found.cause, ended
    )


@dataclass
class _Cut:
    """What each rank's step is given."""

    data: Any
    whole: bool
    method: Any
    task: _Task
    _parts: dict[int, list[Shard]] = field(default_factory=dict)

    def parts(self, count: int) -> list[Any]:
        """One for each rank: its shard, or a copy of the whole data."""
        if self.whole:
            return [as_dtype(copy.deepcopy(self.data), self.task.dtype) for _ in range(count)]
        dtype = self.task.dtype
        return [shard if dtype is None else shard.to(dtype) for shard in self.shards(count)]

    def shards(self, count: int) -> list[Shard]:
        if count not in self._parts:
            roles = {name: as_member(role, name) for name, role in (self.task.roles or {}).items()}
            graph = as_graph_data(self.data, roles)
            method = "metis" if count == 1 else self.method
            self._parts[count] = list(partition(graph, count, method=method))
        return self._parts[count]


def as_dtype(data: Any, dtype: torch.dtype | None) -> Any:
    """PyG data, a mapping or a sequence with its floating tensors in a dtype; what is none of these as it is."""
    if dtype is None:
        return data
    if isinstance(data, torch.Tensor):
        return data.to(dtype) if data.is_floating_point() else data
    if hasattr(data, "apply"):  # PyG's Data and HeteroData
        return data.apply(lambda t: as_dtype(t, dtype))
    if isinstance(data, Mapping):
        return {key: as_dtype(value, dtype) for key, value in data.items()}
    if type(data) in (list, tuple):
        return type(data)(as_dtype(value, dtype) for value in data)
    return data


def _on_threads(
    task: _Task, cut: _Cut, num_parts: int, timeout: float
) -> tuple[list[Record], GraphshardError | None]:
    """Each rank's record, also of a run that ended with an error."""
    parts, records = cut.parts(num_parts), [Record() for _ in range(num_parts)]

    def rank(number: int, _: str, __: Any) -> None:
        _run(task, parts[number], records[number], plain=False)

    with watching():
        try:
            run_ranks(num_parts, rank, timeout=timeout, own_random=True)
        except GraphshardError as error:
            return records, error
    return records, None


def _on_processes(
    task: _Task, cut: _Cut, num_parts: int, timeout: float
) -> tuple[list[Record], GraphshardError | None]:
    with tempfile.TemporaryDirectory(prefix="graphshard-training-") as name:
        folder = Path(name)
        if not cut.whole:
            save(cut.shards(num_parts), folder / "shards")
        job = (task, cut.data if cut.whole else None, name)
        try:
            launch(_rank_job, num_parts, job, timeout=timeout)
        except GraphshardError as error:
            return read_records(folder, num_parts), error
        return read_records(folder, num_parts), None


def _rank_job(task: _Task, data: Any, folder: str) -> None:
    """One rank's process."""
    if data is None:
        shard = load_shard(Path(folder) / "shards")
        given: Any = shard if task.dtype is None else shard.to(task.dtype)
    else:
        given = as_dtype(data, task.dtype)
    record = Record()
    try:
        with watching():
            _run(task, given, record, plain=False)
    finally:
        write_record(record, Path(folder))


def write_record(record: Record, folder: Path) -> None:
    """Write this rank's record to a folder that all ranks of a run have."""
    rank = torch.distributed.get_rank()
    torch.save(record.as_plain(), folder / f"record-{rank}.part")
    (folder / f"record-{rank}.part").rename(folder / f"record-{rank}.pt")


def read_records(folder: Path, count: int) -> list[Record]:
    """The records of all ranks; an empty one of a rank that left none."""
    files = [folder / f"record-{rank}.pt" for rank in range(count)]
    return [
        Record.from_plain(torch.load(file, weights_only=True)) if file.exists() else Record()
        for file in files
    ]


def _one_machine(task: _Task, cut: _Cut, *, plain: bool) -> Record:
    record = Record()
    with watching(), default_is(""):
        _run(task, cut.parts(1)[0], record, plain=plain)
    return record


def _run(task: _Task, data: Any, record: Record, *, plain: bool) -> None:
    """The user's loop on one rank; what happens goes to ``record``."""
    seed_all(task.seed)
    base = make_model(copy.deepcopy(task.model) if isinstance(task.model, nn.Module) else task.model)
    if task.dtype is not None:
        base = base.to(task.dtype)
    module = taking_shards(base) if plain else _distributed(task, base, data)
    chosen = _adam(module) if task.optimizer is None else task.optimizer(module)
    observer = Observer(lambda: {"": module})
    observer.record = record
    seed_all(task.seed)
    with ExitStack() as stack:
        stack.callback(lambda: setattr(record, "is_random", getattr(module, "is_random", False)))
        stack.enter_context(observed(observer))
        for number in range(1, task.steps + 1):
            observer.step = number
            try:
                result = task.step(module, chosen, data)
            except BaseException:
                observer.interrupted()
                raise
            observer.returned(result)


def _distributed(task: _Task, base: nn.Module, data: Any) -> DistributedModule:
    shard = data if isinstance(data, Shard) and task.node_parameters else None
    return distribute(
        base, roles=task.roles, shard=shard, node_parameters=task.node_parameters, options=task.options
    )


def _adam(module: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.Adam(module.parameters(), lr=0.01)


def taking_shards(module: nn.Module) -> nn.Module:
    """The user's own module, which may be called with the shard of a single rank as a distributed one is."""
    forward = module.forward

    def taking(*args: Any, **kwargs: Any) -> Any:
        if len(args) == 1 and not kwargs and isinstance(args[0], Shard):
            args, kwargs = from_shard(_Signature(forward), args[0])  # type: ignore[arg-type]
        return forward(*args, **kwargs)

    object.__setattr__(module, "forward", taking)
    return module


@dataclass(frozen=True)
class _Signature:
    """A forward, where a module is asked for the names of its arguments."""

    forward: Callable[..., Any]
