"""Run one configuration: simulated ranks against one machine, on a few graphs, and its program as text."""

from __future__ import annotations

import copy
import inspect
import re
import time
import traceback
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from itertools import product
from typing import Any

import torch
from torch import nn

from graphshard.check.faults import Fault
from graphshard.check.report import Row
from graphshard.check.verify import Parts, Prepared, Setting, Verification
from graphshard.errors import CaptureError, UnsupportedOperation
from graphshard.execute.run import compile_captured
from graphshard.graph.roles import as_member
from graphshard.options import Options
from graphshard.preview import HaloCounts, describe
from graphshard.shard.node_parameters import sets_of
from graphshard.tools.zoo.configuration import Configuration
from graphshard.tools.zoo.graphs import ROLES, cut_graph

# What PyG says where an optional package of its own is missing.
_MISSING = re.compile(r"(torch|pyg)[-_](cluster|lib|sparse|scatter|spline[-_]conv)|No module named", re.I)

# The places that an error names: graphshard/ir/source.py and capture/explain.py write them.
_MODULE = r"in (?:module '[^']*' \(\w+\)|[A-Z_]\w*)"
_LINE = r"[^\s`]+:\d+: `[^`]*`"


class Result(StrEnum):
    """How a configuration ends."""

    exact = "exact"
    refused = "refused"
    wrong = "wrong"
    missing = "not runnable"


@dataclass(frozen=True)
class Outcome:
    """How one configuration ended.

    Attributes:
        name: the configuration's.
        group: its file in the zoo.
        result: exact, refused, wrong or not runnable.
        reason: why, where it is not exact: the first sentence of a refusal, or what differs.
        kind: the reason without names and places: refusals that have it in common are one gap.
        seconds: the time it took.
    """

    name: str
    group: str
    result: Result
    reason: str = ""
    kind: str = ""
    seconds: float = 0.0

    def as_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return asdict(self)


def run_configuration(
    group: str, configuration: Configuration, seeds: Sequence[int], fault: Fault | None = None
) -> Outcome:
    """Compare a configuration on the graphs of these numbers; whatever it raises is part of the outcome.

    Args:
        group: the configuration's.
        configuration: what runs.
        seeds: the graphs.
        fault: a fault to plant in the program, for tests of the comparison itself.
    """
    start = time.perf_counter()
    result, reason, kind = Result.exact, "", ""
    default = torch.get_default_dtype()
    # Some modules make tensors of the default dtype while they run.
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)
    try:
        base = configuration.make().train(configuration.training)
        _run_untouched(copy.deepcopy(base), configuration)
        if failures := _failures(base, configuration, seeds, fault):
            result, reason, kind = Result.wrong, "; ".join(map(_describe, failures[:4])), "values differ"
    except ImportError as error:
        result, reason, kind = Result.missing, *[" ".join(str(error).split())] * 2
    except (CaptureError, UnsupportedOperation) as error:
        result, reason, kind = Result.refused, first_sentence(str(error)), kind_of(str(error))
    except Exception as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        text = " ".join(str(error).split())[:400]
        reason = f"{type(error).__name__} at {place.filename.rsplit('/', 1)[-1]}:{place.lineno}: {text}"
        result, kind = Result.wrong, type(error).__name__
    finally:
        torch.set_default_dtype(default)
    return Outcome(configuration.name, group, result, reason, kind, time.perf_counter() - start)


def tensor_names(model: nn.Module) -> list[str]:
    """The tensors of a graph that forward takes."""
    return [name for name in inspect.signature(model.forward).parameters if name in ROLES]


def _run_untouched(model: nn.Module, configuration: Configuration) -> None:
    """The module itself on the first graph: it says so if it needs an optional package of PyG's.

    Raises:
        ImportError: it does.
    """
    names = tensor_names(model)
    graph = cut_graph(0, names, edges=configuration.edges).graph
    try:
        model(**{name: graph[name] for name in names})
    except RuntimeError as error:
        if _MISSING.search(str(error)):
            raise ImportError(str(error)) from error
        raise


def _failures(
    base: nn.Module, configuration: Configuration, seeds: Sequence[int], fault: Fault | None
) -> list[Row]:
    names = tensor_names(base)
    roles = {name: as_member(ROLES[name], name) for name in names}
    setting = Setting(
        configuration.training, True, torch.float64, roles, sets_of(configuration.node_parameters)
    )
    prepared: dict[bool, Prepared | None] = {True: None, False: None}
    rows: list[Row] = []
    for seed in seeds:
        cut = cut_graph(seed, names, edges=configuration.edges)
        sharded = cut.sharded()
        parts = Parts(cut.whole(), list(sharded))
        run = Verification(base, parts, setting, prepared[True])
        rows += run.on_threads(fault, timeout=60.0)
        if prepared[True] is None:
            render_all(run.prepared, sharded.report.halo_by_plan)
        prepared[True] = run.prepared
        if run.prepared.compiled.has_dropout:
            plain = prepared[False] or run.prepared.without_dropout()
            rows += Verification(base, parts, plain.setting, plain).on_threads(fault, timeout=60.0)
            prepared[False] = plain
    if not rows:
        raise AssertionError("nothing was compared")
    return [row for row in rows if not row.passed]


def render_all(prepared: Prepared, halo: HaloCounts) -> None:
    """Render the program as ``graphshard diff`` does with each of its options: it never raises.

    Args:
        prepared: the model and its stages.
        halo: the halo nodes of each part; rendered with these and without.
    """
    compiled, train = prepared.compiled, prepared.setting.training
    plain = compile_captured(compiled.captured, Options.none()).stages
    for stages, counts, between in product((compiled.stages, plain), (None, halo), (False, True)):
        str(describe(prepared.model, stages, halo=counts, between=between, train=train))


def _describe(row: Row) -> str:
    return f"{row.kind} {row.name} is off by {row.relative:.1e}" + (
        f" ({row.problem})" if row.problem else ""
    )


def first_sentence(message: str) -> str:
    """A refusal without the advice that follows it."""
    return " ".join(message.split()).split(". Instead: ", 1)[0].removesuffix(".")


def kind_of(message: str) -> str:
    """A refusal without the names and places of one model."""
    text = first_sentence(message)
    text = re.sub(rf" \({_MODULE}(?:, {_LINE})?\)| \({_LINE}\)| \(node \w+\)", "", text)
    text = re.sub(rf" {_MODULE}(?=:| |$)", "", text)
    return re.sub(r"example inputs \(.*?\)", "example inputs", text)
