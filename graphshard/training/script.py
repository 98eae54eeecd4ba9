"""``graphshard verify --script``: a user's own training script on one machine and on k processes, compared.

::

    python train.py         distribute(model) is the model itself --> record --+
    k processes, gloo       as under torchrun ----------------------> records --+--> report

The script is run as it is, under ``__main__``: its optimisers and backwards are observed, what it prints is compared
number by number, and it is stopped after some steps.
"""

from __future__ import annotations

import io
import os
import re
import runpy
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist
from torch import nn

import graphshard
from graphshard import api
from graphshard.api import DistributedModule
from graphshard.check.compare import by_key
from graphshard.check.probe import Value
from graphshard.errors import DataError, GraphshardError
from graphshard.ranks.launch import launch
from graphshard.training.judge import judge
from graphshard.training.observe import Observer, observed, seed_all, watching
from graphshard.training.record import RETURNED, Event, Record
from graphshard.training.report import TrainingReport
from graphshard.training.verify import ONE_RANK, PLAIN, read_records, taking_shards, write_record

_NUMBER = re.compile(r"(?<![\w.])[-+]?\d+(?:\.(\d+))?(?:[eE]([-+]?\d+))?(?![\w.]*\w)")


class _EnoughError(BaseException):
    """As many steps as were asked for; no ``except Exception`` of the script's stops it."""


@dataclass(frozen=True)
class _Run:
    """One run of a script, in processes; picklable.

    Attributes:
        path: of the script.
        arguments: what it finds in ``sys.argv`` behind its name.
        steps: of optimisers, after which it is stopped.
        seed: of Python's, NumPy's and PyTorch's numbers.
        plain: whether ``distribute(model)`` is the model itself.
        folder: for the records.
    """

    path: str
    arguments: tuple[str, ...]
    steps: int
    seed: int
    plain: bool
    folder: str


def verify_script(
    path: str | Path,
    arguments: Sequence[str] = (),
    num_parts: int = 2,
    *,
    steps: int = 5,
    seed: int = 0,
    timeout: float = 600.0,
    say: Callable[[str], None] = lambda _: None,
) -> TrainingReport:
    """Run a training script on one machine and on ``num_parts`` gloo processes, and compare after every step.

    The script is what torchrun would run; under this tool the process group is ready, and ``init_process_group`` finds
    it. On one machine ``graphshard.distribute(model)`` gives the model itself, unless the model draws random numbers:
    then it is the program on one rank.

    What is compared after each step of any optimiser: the values that ``backward`` was called of, gradients, weights,
    buffers; and the numbers that the script printed until then, as far as their digits go, except those that differ
    between two runs on one machine, as times do.

    Args:
        path: of the script; it runs in the working directory, as ``python PATH`` does.
        arguments: of the script.
        num_parts: how many processes.
        steps: of optimisers, all together, after which every run is stopped.
        seed: of Python's, NumPy's and PyTorch's random numbers before the script begins.
        timeout: seconds for each run.
        say: called with a line about what begins.

    Returns:
        A report; ``report.passed`` says whether everything was equal, ``report.summary()`` what was not.

    Raises:
        DataError: there is no such file, or the script steps no optimiser.
        GraphshardError: a process failed before anything differed.
    """
    if not Path(path).is_file():
        raise DataError(f"there is no script {str(path)!r}")
    if steps < 1:
        raise GraphshardError(f"verify compares at least one step, not {steps}")
    run = _Run(str(path), tuple(arguments), steps, seed, False, "")
    say(f"{path}: {steps} optimiser steps on {num_parts} ranks")
    ranks, error = _records(run, num_parts, timeout)
    plain = not any(rank.is_random for rank in ranks)
    alone = replace(run, plain=plain)
    say(f"{path}: the same on one machine ({PLAIN if plain else ONE_RANK})")
    one_machine = _finished(alone, timeout)
    found = judge(one_machine, ranks, ended=error is not None)
    failed = [row for row in found.rows if not row.passed]
    if failed and all(row.kind == "printed" for row in failed):
        say(f"{path}: once more on one machine, for printed numbers that differ between any two runs")
        again = _finished(alone, timeout)
        steady = _same_numbers(one_machine, again)
        found = judge(steady, [_only(rank, steady) for rank in ranks], ended=error is not None)
    if not one_machine.events:
        raise error or DataError(f"{path} makes no step of an optimiser of torch.optim: nothing was compared")
    if error is not None and all(row.passed for row in found.rows):
        raise error
    return TrainingReport(
        num_parts,
        found.dtype,
        "processes",
        found.rows,
        (),
        found.steps,
        PLAIN if plain else ONE_RANK,
        found.cause,
        None if error is None else _first_line(error),
    )


def _first_line(error: GraphshardError) -> str:
    return str(error).split("\n")[0]


def _finished(run: _Run, timeout: float) -> Record:
    records, error = _records(run, 1, timeout)
    if error is not None:
        raise error
    return records[0]


def _records(run: _Run, ranks: int, timeout: float) -> tuple[list[Record], GraphshardError | None]:
    """Each rank's record, also of a run that ended with an error."""
    with tempfile.TemporaryDirectory(prefix="graphshard-script-") as name:
        folder, error = Path(name), None
        try:
            launch(_run_script, ranks, (replace(run, folder=name),), timeout=timeout)
        except GraphshardError as failed:
            error = failed
        return read_records(folder, ranks), error


# ---- in a rank's process -----------------------------------------------------------------------------------


def _run_script(run: _Run) -> None:
    record = Record()
    try:
        with _ready_group():
            observe_script(
                run.path, run.arguments, steps=run.steps, seed=run.seed, plain=run.plain, record=record
            )
    finally:
        write_record(record, Path(run.folder))


def observe_script(
    path: str | Path,
    arguments: Sequence[str] = (),
    *,
    steps: int = 5,
    seed: int = 0,
    plain: bool = False,
    record: Record | None = None,
) -> Record:
    """Run a training script in this process, as this rank, until its optimisers have made some steps.

    Args:
        path: of the script.
        arguments: of the script.
        steps: after which it is stopped.
        seed: of Python's, NumPy's and PyTorch's random numbers before it begins.
        plain: whether ``graphshard.distribute(model)`` is the model itself.
        record: where to write what happens, also if the script raises; by default a new one.

    Returns:
        What it did, and last the numbers that it printed.
    """
    modules: list[nn.Module] = []
    printed = io.StringIO()
    observer = Observer(lambda: _named(modules), on_event=lambda count: _stop(count, steps))
    observer.record = record = Record() if record is None else record
    try:
        with ExitStack() as stack:
            stack.enter_context(_as_main(str(path), arguments))
            stack.enter_context(_distributing(plain, modules))
            stack.enter_context(redirect_stdout(printed))
            stack.enter_context(watching())
            stack.enter_context(observed(observer))
            seed_all(seed)
            runpy.run_path(str(path), run_name="__main__")
    except _EnoughError:
        pass
    except SystemExit as left:
        if left.code not in (None, 0):
            raise
    except BaseException:
        observer.interrupted()
        raise
    finally:
        record.is_random = any(
            module.is_random for module in modules if isinstance(module, DistributedModule)
        )
    if record.events:
        record.events.append(_printed(record.events[-1].step, printed.getvalue()))
    return record


def _stop(count: int, steps: int) -> None:
    if count >= steps:
        raise _EnoughError


@contextmanager
def _as_main(path: str, arguments: Sequence[str]) -> Iterator[None]:
    """Arguments and the path of imports, as Python sets them for a script."""
    folder = os.path.dirname(os.path.abspath(path))
    with (
        mock.patch.object(sys, "argv", [path, *arguments]),
        mock.patch.object(sys, "path", [folder, *sys.path]),
    ):
        yield


@contextmanager
def _ready_group() -> Iterator[None]:
    """A script that makes the default process group finds the one that there is; it stays until all have left."""
    with (
        mock.patch.object(dist, "init_process_group", return_value=None),
        mock.patch.object(dist, "destroy_process_group", return_value=None),
    ):
        yield


@contextmanager
def _distributing(plain: bool, modules: list[nn.Module]) -> Iterator[None]:
    """``distribute`` tells which modules there are; with ``plain`` it gives the user's own module."""
    make = api.distribute

    def noted(model: nn.Module, *args: Any, **kwargs: Any) -> nn.Module:
        made = taking_shards(model) if plain else make(model, *args, **kwargs)
        modules.append(made)
        return made

    with (
        mock.patch.object(api, "distribute", noted),
        mock.patch.object(graphshard, "distribute", noted),
    ):
        yield


def _named(modules: Sequence[nn.Module]) -> dict[str, nn.Module]:
    """Prefixes of parameters' names: distributed modules first, then those that the script has under global names."""
    names = {id(value): name for name, value in _globals().items() if isinstance(value, nn.Module)}
    found = {}
    for number, module in enumerate(modules):
        default = "model" if number == 0 else f"model{number + 1}"
        found[f"{names.pop(id(module), default)}."] = module
    inside = {id(part) for module in modules for part in module.modules()}
    for name, value in _globals().items():
        if id(value) in names and id(value) not in inside:
            found.setdefault(f"{name}.", value)
    return found


def _globals() -> dict[str, Any]:
    return dict(vars(sys.modules["__main__"]))


# ---- what a script prints ----------------------------------------------------------------------------------


def _printed(step: int, text: str) -> Event:
    """Each printed number, named by its place and the words before it."""
    values, places = [], {}
    for number, line in enumerate(text.splitlines(), 1):
        for place, found in enumerate(_NUMBER.finditer(line), 1):
            words = " ".join(_NUMBER.sub("", line[: found.start()]).split())[-24:]
            name = f"line {number}, number {place} ({words})"
            places[name] = len(found[1] or "") - int(found[2] or 0)
            values.append(Value("printed", name, torch.tensor(float(found[0]), dtype=torch.float64)))
    return Event(step, RETURNED, by_key(values), places=places)


def _same_numbers(record: Record, other: Record) -> Record:
    """The record without the printed numbers that another run on one machine has not."""
    theirs = {key: v for event in other.events for key, v in event.values.items() if key[0] == "printed"}

    def steady(key: Any, value: Value) -> bool:
        return key[0] != "printed" or (key in theirs and torch.equal(theirs[key].value, value.value))

    return _kept(record, steady)


def _only(record: Record, known: Record) -> Record:
    """A rank's record with those of the printed numbers alone that are compared."""
    keys = {key for event in known.events for key in event.values}
    return _kept(record, lambda key, _: key[0] != "printed" or key in keys)


def _kept(record: Record, keep: Callable[[Any, Value], bool]) -> Record:
    events = [
        replace(event, values={k: v for k, v in event.values.items() if keep(k, v)})
        for event in record.events
    ]
    return Record(events, record.is_random)
