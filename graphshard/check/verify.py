"""``verify``: run a model on one machine and on k ranks, and compare everything that training uses."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from graphshard.arguments import bind
from graphshard.capture.check import check_capture, drop_dropout
from graphshard.capture.export import capture
from graphshard.check.compare import Difference, Key, by_key, compare, scale_of
from graphshard.check.evaluate import Case, run_module, run_program
from graphshard.check.faults import Fault, plant
from graphshard.check.orders import order_spread
from graphshard.check.probe import Probed, Value, probe
from graphshard.check.report import Report, Row
from graphshard.errors import GraphshardError
from graphshard.graphdata import as_graph_data
from graphshard.groups import default_group
from graphshard.launch import launch
from graphshard.partition import partition
from graphshard.roles import Role, as_role
from graphshard.runtime import Compiled, compile_captured
from graphshard.shard import Shard
from graphshard.shard_io import load_shard, save
from graphshard.simulate import run_ranks

EXACT = 1e-9
"""How far float64 may be off, relative to a value's scale: rounding of sums in another order."""

FLOOR = 1e-4
"""The smallest scale of a value, relative to the largest of its kind."""

Factory = Callable[[], nn.Module] | nn.Module


@dataclass(frozen=True)
class Setting:
    """One of the runs that a verification consists of; picklable, so that ranks can repeat it.

    Attributes:
        training: the mode of the model.
        dropout: whether dropouts are active. With dropout the reference is the same program on one rank,
            since PyTorch's own masks depend on the order of rows; without, it is the untouched module.
        dtype: floating dtype of model and data; None leaves both as they are.
        roles: given by the user.
        fault: planted in the distributed program, for tests of the check itself.
    """

    training: bool
    dropout: bool
    dtype: torch.dtype | None
    roles: Mapping[str, Role]
    fault: Fault | None = None

    @property
    def label(self) -> str:
        return ("train" if self.training else "eval") + ("" if self.dropout else " without dropout")


def verify(
    model: Factory,
    data: Any,
    num_parts: int = 3,
    *,
    dtype: torch.dtype | None = torch.float64,
    modes: Sequence[str] = ("train", "eval"),
    method: Any = "metis",
    transport: str = "threads",
    roles: Mapping[str, Role | str] | None = None,
    fault: Fault | None = None,
    timeout: float = 600.0,
) -> Report:
    """Compare the distributed program on ``num_parts`` ranks with the single machine, value by value.

    Outputs, the gradient of every parameter and every floating-point input, and buffers after the step are
    compared with the untouched module; the values of every halo sync, halo reduce and all-reduce with those
    of the same program on one rank (a softmax can hide a wrong maximum from everything behind it). Outputs
    are weighted by distinct numbers, so that no two errors cancel in a gradient.

    Args:
        model: the module, or a function without arguments that makes it.
        data: what :func:`graphshard.partition` takes.
        num_parts: how many ranks.
        dtype: to run in. In float64 a value may be off by 1e-9 of its scale. In any other dtype the bound is
            measured: 4 times what the single machine itself differs by when nodes and edges are listed in
            another order, which is all that a partition changes, plus 16 units of rounding.
        modes: "train", "eval" or both.
        method: how to partition, as for :func:`graphshard.partition`.
        transport: "threads" (ranks simulated in this process, the same ops) or "processes" (real gloo
            processes; ``model`` must then be picklable, as a function of an importable module is).
        roles: as for :func:`graphshard.distribute`.
        fault: a fault to plant, for tests of the check itself.
        timeout: seconds for each run.

    Returns:
        A report; ``report.passed`` says whether everything was equal.

    Raises:
        UnsupportedOperation, CaptureError: the model is refused.
        GraphshardError: a rank died or took too long, or an option is unknown.

    Example:
        >>> import torch, graphshard
        >>> class Copy(torch.nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.weight = torch.nn.Parameter(torch.rand(2, 2))
        ...     def forward(self, x, edge_index):
        ...         return torch.zeros_like(x).index_add(0, edge_index[1], x[edge_index[0]]) @ self.weight
        >>> edges = torch.tensor([[0, 1, 2, 2, 3, 4, 0], [1, 2, 0, 3, 4, 2, 3]])
        >>> graphshard.verify(Copy, {"x": torch.rand(5, 2), "edge_index": edges}, num_parts=2).passed
        True
    """
    if transport not in ("threads", "processes"):
        raise GraphshardError(f"no transport {transport!r}; choose threads or processes")
    if unknown := set(modes) - {"train", "eval"}:
        raise GraphshardError(f"no mode {unknown.pop()!r}; choose train, eval or both")
    known = {name: as_role(role, name) for name, role in (roles or {}).items()}
    graph = as_graph_data(data, known)
    whole, shards = partition(graph, 1)[0], partition(graph, num_parts, method=method)
    rows: list[Row] = []
    base = _make(model)
    for mode in modes:
        settings = [Setting(mode == "train", True, dtype, known, fault)]
        prepared = _prepare(base, whole, settings[0])
        if prepared.compiled.has_dropout:
            settings.append(replace(settings[0], dropout=False))
        for setting in settings:
            rows += _run(model, base, whole, shards, setting, transport, timeout)
    return Report(num_parts, str(dtype or "as given").removeprefix("torch."), transport, rows)


@dataclass(frozen=True)
class _Prepared:
    """A model of the run's dtype and mode, its program, and how to make inputs for it."""

    model: nn.Module
    compiled: Compiled
    setting: Setting

    @property
    def probed(self) -> Probed:
        return probe(self.compiled)

    def case(self, probed: Probed, shard: Shard) -> Case:
        """Inputs on a shard: leaves of their own, the floating ones requiring gradients."""
        bound = bind(self.model, (_cast(shard, self.setting.dtype),), {}, self.setting.roles, "", {})
        names, roles = [], []
        for name, leaf in zip(bound.signature.names, bound.signature.leaves, strict=True):
            if leaf in bound.signature.tensors:
                names += [name] if leaf.width == 1 else [f"{name}.indices", f"{name}.values"]
                roles += [leaf.role] if leaf.width == 1 else [Role.EDGE_INDEX, Role.ADJACENCY]
        flat = [t.detach().clone().requires_grad_(t.is_floating_point()) for t in bound.flat]
        return Case(probed, shard, flat, names, roles)


def _make(model: Factory) -> nn.Module:
    made = model if isinstance(model, nn.Module) else model()
    if not isinstance(made, nn.Module):
        raise GraphshardError(f"the model factory returned a {type(made).__name__}, not an nn.Module")
    return made


def _cast(shard: Shard, dtype: torch.dtype | None) -> Shard:
    return shard if dtype is None else shard.to(dtype)


def _prepare(base: nn.Module, whole: Shard, setting: Setting) -> _Prepared:
    model = copy.deepcopy(base)
    if setting.dtype is not None:
        model = model.to(setting.dtype)
    model.train(setting.training)
    bound = bind(model, (_cast(whole, setting.dtype),), {}, setting.roles, "", {})
    compiled = compile_captured(capture(model, bound.signature))
    check_capture(model, compiled)
    return _Prepared(model, compiled if setting.dropout else drop_dropout(compiled), setting)


def _run(
    source: Factory,
    base: nn.Module,
    whole: Shard,
    shards: Sequence[Shard],
    setting: Setting,
    transport: str,
    timeout: float,
) -> list[Row]:
    prepared = _prepare(base, whole, setting)
    reference = reference_values(prepared, whole)
    if transport == "threads":
        found = _on_threads(prepared, shards, reference, timeout)
    else:
        found = _on_processes(source, base, shards, setting, reference, timeout)
    return _rows(setting, reference, found, _tolerance(prepared, whole, reference))


def _tolerance(
    prepared: _Prepared, whole: Shard, reference: Mapping[Key, Value]
) -> Callable[[Key, float], float]:
    """How far a value may be off, relative to its scale (the caller adds the units of rounding)."""
    if prepared.setting.dtype is torch.float64:
        return lambda _key, _scale: EXACT
    spread = order_spread(prepared.probed, prepared.model, prepared.case, whole, reference)
    return lambda key, scale: 4 * spread.get(key, 0.0) / scale if scale else 0.0


def reference_values(prepared: _Prepared, whole: Shard) -> dict[Key, Value]:
    """The single machine's values: the untouched module's, and the exchanges' of the program on one rank."""
    probed = prepared.probed
    mine = by_key(run_program(copy.deepcopy(prepared.model), prepared.case(probed, whole), ""))
    if prepared.setting.dropout and prepared.compiled.has_dropout:
        return mine
    ids = {name: value for (kind, name), value in mine.items() if kind == "output"}
    eager = by_key(
        run_module(copy.deepcopy(prepared.model), prepared.case(probed, whole), ids, dropout=False)
    )
    exchanges = {
        key: value for key, value in mine.items() if key[0] in ("halo sync", "halo reduce", "all-reduce")
    }
    return eager | exchanges


def _distributed(prepared: _Prepared) -> Probed:
    fault = prepared.setting.fault
    return prepared.probed if fault is None else _with_fault(prepared.probed, fault)


def _with_fault(probed: Probed, fault: Fault) -> Probed:
    return replace(probed, compiled=plant(probed.compiled, fault))


def _on_threads(
    prepared: _Prepared, shards: Sequence[Shard], reference: Mapping[Key, Value], timeout: float
) -> list[dict[Key, Difference]]:
    probed = _distributed(prepared)
    cases = [prepared.case(probed, shard) for shard in shards]
    models = [copy.deepcopy(prepared.model) for _ in shards]

    def rank(number: int, group: str, _: Any) -> dict[Key, Difference]:
        return compare(run_program(models[number], cases[number], group), reference)

    return run_ranks(len(shards), rank, timeout=timeout)


def _on_processes(
    source: Factory,
    base: nn.Module,
    shards: Sequence[Shard],
    setting: Setting,
    reference: Mapping[Key, Value],
    timeout: float,
) -> list[dict[Key, Difference]]:
    with tempfile.TemporaryDirectory(prefix="graphshard-verify-") as name:
        folder = Path(name)
        save(shards, folder / "shards")
        torch.save(base.state_dict(), folder / "state.pt")
        torch.save(_as_tuples(reference), folder / "reference.pt")
        return launch(_rank_job, len(shards), (source, name, setting), timeout=timeout)


def _as_tuples(values: Mapping[Key, Value]) -> list[tuple[Any, ...]]:
    return [(v.kind, v.name, v.value, v.ids, v.dim) for v in values.values()]


def _rank_job(source: Factory, folder: str, setting: Setting) -> dict[Key, Difference]:
    """One rank's process: its own shard and model, the reference from the file."""
    shard = load_shard(Path(folder) / "shards")
    base = _make(source)
    base.load_state_dict(torch.load(Path(folder) / "state.pt", weights_only=True))
    stored = torch.load(Path(folder) / "reference.pt", weights_only=True, mmap=True)
    prepared = _prepare(base, shard, setting)
    case = prepared.case(_distributed(prepared), shard)
    values = run_program(prepared.model, case, default_group())
    return compare(values, by_key([Value(*fields) for fields in stored]))


def _rows(
    setting: Setting,
    reference: Mapping[Key, Value],
    found: Sequence[Mapping[Key, Difference]],
    allowed: Callable[[Key, float], float],
) -> list[Row]:
    largest: dict[str, float] = {}
    for (kind, _), value in reference.items():
        largest[kind] = max(largest.get(kind, 0.0), scale_of(value.value))
    rows = []
    for key in dict.fromkeys([*reference, *(k for ranks in found for k in ranks)]):
        parts = [ranks[key] for ranks in found if key in ranks]
        value = reference.get(key)
        scale = max(scale_of(value.value) if value else 0.0, FLOOR * largest.get(key[0], 0.0))
        difference = max((p.largest for p in parts), default=float("inf"))
        problem = next((p.problem for p in parts if p.problem and p.largest), None)
        counted = sum(p.rows for p in parts)
        if missing := _missing_rows(key, value, counted):
            difference, problem = float("inf"), missing
        relative = difference / scale if scale else difference
        rounding = 16 * _unit(value.value) if value is not None else 0.0
        tolerance = allowed(key, scale) + rounding
        rows.append(Row(setting.label, *key, difference, relative, scale, tolerance, counted, problem))
    return rows


def _missing_rows(key: Key, value: Value | None, counted: int) -> str | None:
    """Whether some row of the single machine is on no rank (halo rows are on several)."""
    if value is None or value.ids is None or key[0] == "halo sync":
        return None
    expected = value.ids.numel()
    return None if counted == expected else f"{counted} rows on all ranks, not {expected}"


def _unit(tensor: Tensor) -> float:
    return torch.finfo(tensor.dtype).eps if tensor.is_floating_point() else 0.0

