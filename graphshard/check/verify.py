"""``verify``: run a model on one machine and on k ranks, and compare everything that training uses."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from graphshard.capture.examples import with_node_parameters
from graphshard.capture.export import capture
from graphshard.capture.writes import kept_apart
from graphshard.catalogue.table import EXCHANGES
from graphshard.check.compare import Difference, Key, by_key, compare
from graphshard.check.copies import copied
from graphshard.check.evaluate import Case, run_module, run_program, second
from graphshard.check.faults import Fault, plant
from graphshard.check.fixed_random import drop_dropout
from graphshard.check.module import check_capture
from graphshard.check.orders import order_spread
from graphshard.check.probe import Probed, Value, probe
from graphshard.check.report import Report, Row
from graphshard.check.rows import report_rows
from graphshard.errors import GraphshardError
from graphshard.execute.bind import bind
from graphshard.execute.run import Compiled, compile_captured
from graphshard.graph.data import as_graph_data
from graphshard.graph.roles import GivenRole, Member, Role, as_member
from graphshard.options import Options
from graphshard.partitioning.partition import partition
from graphshard.ranks.groups import default_group
from graphshard.ranks.launch import GRACE_SECONDS, launch
from graphshard.ranks.simulate import run_ranks
from graphshard.shard.files import load_shard, save
from graphshard.shard.node_parameters import GivenParameters, sets_of, with_owned_rows
from graphshard.shard.shard import Shard

EXACT = 1e-9
"""How far float64 may be off, relative to a value's scale: rounding of sums in another order."""

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
        node_parameters: those that hold one row for each node.
        options: which passes make the program faster.
    """

    training: bool
    dropout: bool
    dtype: torch.dtype | None
    roles: Mapping[str, Member]
    node_parameters: Mapping[str, str] = field(default_factory=dict)
    options: Options = Options()  # noqa: RUF009 (frozen)

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
    roles: Mapping[str, GivenRole] | None = None,
    node_parameters: GivenParameters = (),
    options: Options | None = None,
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
        roles, node_parameters, options: as for :func:`graphshard.distribute`.
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
    known = {name: as_member(role, name) for name, role in (roles or {}).items()}
    graph = as_graph_data(data, known)
    parts = Parts(partition(graph, 1)[0], list(partition(graph, num_parts, method=method)))
    base = make_model(model)
    rows: list[Row] = []
    setting = Setting(True, True, dtype, known, sets_of(node_parameters), options or Options())
    if transport == "threads":
        for run in _runs(base, parts, modes, setting):
            rows += run.on_threads(fault, timeout)
    elif runs := list(_runs(base, parts, modes, setting)):
        rows += _on_processes(runs, model, fault, timeout)
    name = str(dtype or "as given").removeprefix("torch.")
    return Report(num_parts, name, transport, rows, inexact=setting.options.inexact)


@dataclass(frozen=True)
class Parts:
    """The whole graph as one part, and the parts of the ranks."""

    whole: Shard
    shards: Sequence[Shard]


def _runs(base: nn.Module, parts: Parts, modes: Sequence[str], setting: Setting) -> Iterator[Verification]:
    """The runs that a verification consists of; a mode with dropout is run without it as well."""
    for mode in modes:
        run = Verification(base, parts, replace(setting, training=mode == "train"))
        yield run
        if run.prepared.compiled.has_dropout:
            without = run.prepared.without_dropout()
            yield Verification(base, parts, without.setting, without)


@dataclass(frozen=True)
class Prepared:
    """A model of the run's dtype and mode, its program, and how to make inputs for it."""

    model: nn.Module
    compiled: Compiled
    setting: Setting

    @property
    def probed(self) -> Probed:
        return probe(self.compiled)

    def without_dropout(self) -> Prepared:
        """The same program with its dropouts taken out, to compare with the untouched module."""
        setting = replace(self.setting, dropout=False)
        return Prepared(self.model, drop_dropout(self.compiled), setting)

    def case(self, probed: Probed, shard: Shard) -> Case:
        """Inputs on a shard: leaves of their own, the floating ones requiring gradients."""
        bound = bind(self.model, (_cast(shard, self.setting.dtype),), {}, self.setting.roles, "", {})
        names, members = [], []
        for name, leaf in zip(bound.signature.names, bound.signature.leaves, strict=True):
            if leaf in bound.signature.arguments:
                names += [name] if leaf.width == 1 else [f"{name}.indices", f"{name}.values"]
                roles = [leaf.role] if leaf.width == 1 else [Role.EDGE_INDEX, Role.ADJACENCY]
                members += [Member(role, leaf.of) for role in roles]
        flat = [t.detach().clone().requires_grad_(t.is_floating_point()) for t in bound.flat]
        return Case(probed, shard, flat, names, members, node_parameters=self.setting.node_parameters)

    def on(self, shard: Shard) -> nn.Module:
        """A copy of the model for one rank; node parameters hold the shard's rows."""
        return with_owned_rows(copied(self.model), self.setting.node_parameters, shard)


def make_model(model: Factory) -> nn.Module:
    """The module that a factory makes, or the module itself."""
    made = model if isinstance(model, nn.Module) else model()
    if not isinstance(made, nn.Module):
        raise GraphshardError(f"the model factory returned a {type(made).__name__}, not an nn.Module")
    return made


def _cast(shard: Shard, dtype: torch.dtype | None) -> Shard:
    return shard if dtype is None else shard.to(dtype)


def prepare(base: nn.Module, whole: Shard, setting: Setting) -> Prepared:
    """Cast, capture and compile a copy of a model for one run."""
    model = copied(base)
    if setting.dtype is not None:
        model = model.to(setting.dtype)
    model.train(setting.training)
    model = with_owned_rows(model, setting.node_parameters, whole)
    bound = bind(model, (_cast(whole, setting.dtype),), {}, setting.roles, "", {})
    signature = with_node_parameters(bound.signature, model, setting.node_parameters)
    # What a module keeps of the examples (a loss term, an attention) would not let it be copied.
    with kept_apart(model):
        compiled = compile_captured(capture(model, signature), setting.options)
        check_capture(model, compiled)
    return Prepared(model, compiled if setting.dropout else drop_dropout(compiled), setting)


class Verification:
    """One run, ready to be repeated: the program, the single machine's values, and how far to be off.

    Args:
        base: the model, in its own dtype; not changed.
        parts: the graph.
        setting: which run.
        prepared: of an earlier run of the same model and setting, on another graph or cut another way.
    """

    def __init__(
        self, base: nn.Module, parts: Parts, setting: Setting, prepared: Prepared | None = None
    ) -> None:
        self.base, self.parts, self.setting = base, parts, setting
        self.prepared = prepared or prepare(base, parts.whole, setting)
        self.reference = reference_values(self.prepared, parts.whole)
        self._allowed = _tolerance(self.prepared, parts.whole, self.reference)

    def on_threads(self, fault: Fault | None = None, timeout: float = 600.0) -> list[Row]:
        """The rows of a run on ranks that are simulated in this process."""
        probed = _with_fault(self.prepared.probed, fault)
        cases = [self.prepared.case(probed, shard) for shard in self.parts.shards]
        models = [self.prepared.on(shard) for shard in self.parts.shards]

        def rank(number: int, group: str, _: Any) -> dict[Key, Difference]:
            return compare(run_program(models[number], cases[number], group), self.reference)

        return self.rows(run_ranks(len(cases), rank, timeout=timeout))

    def rows(self, found: Sequence[Mapping[Key, Difference]]) -> list[Row]:
        """The report's rows of what each rank found."""
        return report_rows(self.setting.label, self.reference, found, self._allowed)


def _on_processes(
    runs: Sequence[Verification], source: Factory, fault: Fault | None, timeout: float
) -> list[Row]:
    """The rows of runs on gloo processes, which are started once; each makes its model from ``source``."""
    first = runs[0]
    with tempfile.TemporaryDirectory(prefix="graphshard-verify-") as name:
        folder = Path(name)
        save(first.parts.shards, folder / "shards")
        torch.save(first.base.state_dict(), folder / "state.pt")
        for number, run in enumerate(runs):
            stored = [(v.kind, v.name, v.value, v.ids, v.dim) for v in run.reference.values()]
            torch.save(stored, folder / f"reference-{number}.pt")
        job = (source, name, [run.setting for run in runs], fault)
        limit = timeout * len(runs) + GRACE_SECONDS
        ranks = launch(_rank_job, len(first.parts.shards), job, timeout=timeout, run_timeout=limit)
    return [row for run, *found in zip(runs, *ranks, strict=True) for row in run.rows(found)]


def _rank_job(
    source: Factory, folder: str, settings: Sequence[Setting], fault: Fault | None
) -> list[dict[Key, Difference]]:
    """One rank's process: its own shard and model, the references of the runs from their files."""
    shard = load_shard(Path(folder) / "shards")
    base = make_model(source)
    base.load_state_dict(torch.load(Path(folder) / "state.pt", weights_only=True))
    differences = []
    for number, setting in enumerate(settings):
        stored = torch.load(Path(folder) / f"reference-{number}.pt", weights_only=True, mmap=True)
        prepared = prepare(base, shard, setting)
        case = prepared.case(_with_fault(prepared.probed, fault), shard)
        values = run_program(prepared.model, case, default_group())
        differences.append(compare(values, by_key([Value(*fields) for fields in stored])))
    return differences


def _with_fault(probed: Probed, fault: Fault | None) -> Probed:
    return probed if fault is None else replace(probed, compiled=plant(probed.compiled, fault))


def _tolerance(
    prepared: Prepared, whole: Shard, reference: Mapping[Key, Value]
) -> Callable[[Key, float], float]:
    """How far a value may be off, relative to its scale (the caller adds the units of rounding)."""
    if prepared.setting.dtype is torch.float64:
        return lambda _key, _scale: EXACT
    spread = order_spread(prepared.probed, prepared.on, prepared.case, whole, reference)
    return lambda key, scale: 4 * spread.get(key, 0.0) / scale if scale else 0.0


def reference_values(prepared: Prepared, whole: Shard) -> dict[Key, Value]:
    """The single machine's values: the untouched module's, and the exchanges' of the program on one rank."""
    probed = prepared.probed
    mine = by_key(run_program(copied(prepared.model), prepared.case(probed, whole), ""))
    if prepared.setting.dropout and prepared.compiled.has_dropout:
        return mine
    ids = {name: value for (kind, name), value in mine.items() if kind == "output"}
    eager = by_key(run_module(copied(prepared.model), prepared.case(probed, whole), ids, dropout=False))
    exchanges = {key: value for key, value in mine.items() if key[0] in EXCHANGES}
    again = {} if prepared.compiled.split is None else by_key(second(list(eager.values())))
    return eager | exchanges | again
