"""``distribute``: a module that trains on one machine, as a module that trains on every rank."""

from __future__ import annotations

import copy
import functools
import types
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parameter import is_lazy

from graphshard.border.values import as_placed_outputs
from graphshard.border.whole import Cut, Whole, is_whole
from graphshard.capture.examples import Signature, with_node_parameters
from graphshard.capture.export import capture
from graphshard.capture.own_thread import ONE_CAPTURE, in_own_thread
from graphshard.capture.refusals import refuse_scripted
from graphshard.capture.writes import kept_apart, put
from graphshard.check.gradients import with_lost_gradients
from graphshard.check.module import check_capture, check_size, small_sizes
from graphshard.errors import (
    CaptureError,
    GraphshardError,
    ShardError,
    UnsupportedOperation,
)
from graphshard.execute.agreement import Agreement, Call, same_on_ranks, sums_of
from graphshard.execute.baked import check_baked
from graphshard.execute.bind import Bound, bind
from graphshard.execute.constants import Constants
from graphshard.execute.python_state import Observed
from graphshard.execute.run import Compiled, State, compile_captured, graph_inputs, run
from graphshard.graph.roles import GivenRole, Member, as_member
from graphshard.ir.program import Pass, Stage
from graphshard.options import Options
from graphshard.private import pytree
from graphshard.private.torch_modules import as_parameters, share_state
from graphshard.ranks.equal_start import become_first
from graphshard.ranks.groups import (
    all_gather_object,
    default_group,
    drawn_number,
    group_size,
    meet_threads,
)
from graphshard.shard.node_parameters import GivenParameters, NodeParameters, sets_of, with_owned_rows
from graphshard.shard.own_rows import OwnRows, with_plain_rows
from graphshard.shard.placed import plain
from graphshard.shard.shard import Shard
from graphshard.version import warn_of_newer
from graphshard.wrapper.attributes import Transparent
from graphshard.wrapper.entry import check_methods, entry_of
from graphshard.wrapper.progress import Progress
from graphshard.wrapper.refusals import check_model, check_own_state, check_surroundings
from graphshard.wrapper.written import Written

__all__ = ["DistributedModule", "distribute"]


_MOST_WAYS = 16

Key = tuple[Hashable, int]
"""What a capture depends on, and which of the ways that forward's buffers lead to."""

_OF_ONE_PROCESS = (
    "_whole",
    "_compiled",
    "_constants",
    "_agreed",
    "_agreement",
    "_small",
    "_observed",
    "_written",
    "_entries",
)
"""What a copy of a distributed module, or one from a file, makes anew."""


class DistributedModule(Transparent):
    """The distributed form of a module; see :func:`distribute`.

    Attributes and methods that are not here are those of the user's module. It can be copied, pickled and saved: the
    process group and the compiled programs are no part of a file, where it is loaded the default group is its own.

    Attributes:
        seed: of random numbers, the same on every rank. None: each call that needs random numbers draws a seed from
            torch's generator (rank 0's), as dropout does on one machine; a run that is resumed goes on with the
            generator's state, which ``torch.get_rng_state`` gives and ``torch.set_rng_state`` takes.
        step: how many calls there were in training mode or with random numbers. With a seed of
            your own these are a function of (seed, step): keep ``step`` in a checkpoint and set it when you resume.
        training: the mode of the user's module.
    """

    def __init__(
        self,
        model: nn.Module,
        roles: Mapping[str, GivenRole] | None = None,
        seed: int | None = None,
        group: dist.ProcessGroup | None = None,
        node_parameters: NodeParameters | None = None,
        options: Options | None = None,
        check_every: int | None = None,
        whole_parameters: Mapping[str, str] | None = None,
        methods: Sequence[str] = (),
    ) -> None:
        super().__init__()
        # One set of Parameters, the same state_dict keys, and .to() reaches both.
        share_state(self, model)
        self._progress = Progress(seed)
        # Not a submodule: that would add its name to every key.
        object.__setattr__(self, "_model", model)
        self._roles = {name: as_member(role, name) for name, role in (roles or {}).items()}
        self._group = group
        self._options = options or Options()
        self._node_parameters = node_parameters
        self._own_rows = frozenset[str]() if node_parameters is None else node_parameters.keys
        if node_parameters is not None:
            node_parameters.attach(self)
        self._whole_parameters = dict(whole_parameters or {})
        self._check_every, self._methods = check_every or 0, tuple(methods)
        self._start_anew()
        self.seal()

    def _start_anew(self) -> None:
        """Nothing is captured, cut, agreed on or kept yet."""
        self._whole = Whole()
        self._compiled: dict[Any, Compiled] = {}
        self._constants = Constants()
        self._agreed: dict[Any, tuple[Member, ...]] = {}
        self._agreement = Agreement()
        self._small: set[Any] = set()
        self._observed = Observed()
        self._written = Written()
        self._entries: dict[str, DistributedModule] = {}

    @property
    def seed(self) -> int | None:
        return self._progress.seed

    @seed.setter
    def seed(self, seed: int | None) -> None:
        self._progress.seed = seed

    @property
    def step(self) -> int:
        return self._progress.step

    @step.setter
    def step(self, step: int) -> None:
        self._progress.step = step

    @property
    def training(self) -> bool:
        return self._model.training

    @training.setter
    def training(self, mode: bool) -> None:
        if "_model" in self.__dict__:  # nn.Module's own __init__ sets it before there is one
            self._model.training = mode

    @property
    def group_name(self) -> str:
        """The process group's name; ``""`` without one."""
        return default_group() if self._group is None else str(self._group.group_name)

    @property
    def is_random(self) -> bool:
        """Whether a program that was captured so far draws random numbers: dropout masks, noise."""
        return any(compiled.has_dropout for compiled in self._compiled.values())

    def row_ids(self, name: str) -> torch.Tensor | None:
        """int64 global ids of the rows of a node parameter; None of a parameter that every rank has whole."""
        return None if self._node_parameters is None else self._node_parameters.row_ids(name)

    def train(self, mode: bool = True) -> DistributedModule:
        """As the user's module: the mode is passed on to it and its submodules."""
        self._model.train(mode)
        return self

    def __getattr__(self, name: str) -> Any:
        if name in self.__dict__.get("_methods", ()):
            return self._entry(name).forward
        value = super().__getattr__(name)
        return self._watched(value) if isinstance(value, types.FunctionType) else value

    def _watched(self, method: Callable[..., Any]) -> Callable[..., Any]:
        """A method of the user's: where it changed parameters (``reset_parameters``), the ranks start equal anew."""

        @functools.wraps(method)
        def call(*args: Any, **kwargs: Any) -> Any:
            if not self._progress.equal or group_size(self.group_name) == 1:
                return method(*args, **kwargs)
            before = sums_of(self._model, self._own_rows)
            try:
                return method(*args, **kwargs)
            finally:
                self._progress.equal = sums_of(self._model, self._own_rows) == before

        return call

    def _entry(self, name: str) -> DistributedModule:
        """This module with a method of the user's in the place of forward: all but its programs is shared."""
        if name not in self._entries:
            entry = copy.copy(self)
            entry.__dict__.update(
                _model=entry_of(self._model, name),
                _constants=self._constants,
                _group=self._group,
                _whole=self._whole,
            )
            self._entries[name] = entry
        return self._entries[name]

    def __getstate__(self) -> dict[str, Any]:
        kept = {name: value for name, value in super().__getstate__().items() if name not in _OF_ONE_PROCESS}
        return kept | {"_group": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self._start_anew()
        self.seal()

    def __deepcopy__(self, memo: dict[int, Any]) -> DistributedModule:
        twin = type(self).__new__(type(self))
        memo[id(self)] = twin
        twin.__setstate__(copy.deepcopy(self.__getstate__(), memo))
        twin.__dict__["_group"] = self._group
        return twin

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """As the user's forward, on this rank's part of the graph; a shard gives all arguments at once.

        Raises:
            UnsupportedOperation, CaptureError: the module cannot be distributed exactly.
            ShardError: the arguments do not fit the shard, or the shard not the number of ranks.
            RuntimeMismatch: the ranks disagree on the model, its options, the partition or the call.
        """
        check_surroundings()
        group = self.group_name
        bound, cut = self._bind(args, kwargs)
        if bound.shard.world_size != group_size(group):
            raise ShardError(
                f"the shard is one of {bound.shard.world_size} parts, but this job has {group_size(group)} "
                "rank(s); partition the data into as many parts as there are ranks"
            )
        bound.shard.check_source()
        key = self._key(bound.signature)
        captures = self._agree(bound, key, group)
        self._start_equal(group)
        # torch.export sets flags of the whole process, which change what an optimiser computes (in torch 2.13 its
        # step count is then a float32 tensor). Simulated ranks are threads: none captures while another still runs.
        if captures:
            meet_threads(group)
        try:
            compiled = self._compile(bound.signature, key)
        except (CaptureError, UnsupportedOperation) as error:
            raise _with_hint(error, self._model, bound) from None
        self._check_small(bound.shard, compiled)
        if captures:
            check_baked(compiled, bound.shard, group)
            meet_threads(group)
        step = self._progress.begin(self.training, compiled.has_dropout)
        graph = graph_inputs(bound.shard, group, self._random_key(compiled, step, group))
        outputs = run(compiled, self._state(cut), bound.flat, graph, self._constants)
        if cut is None:
            result, left = as_placed_outputs(outputs, bound.shard, group, bound.names)
        else:
            result, left = cut.gather(outputs).restore()
        put(self._model, compiled.captured.written, left, compiled.captured.in_place)
        return result

    def _random_key(self, compiled: Compiled, step: int, group: str) -> tuple[int, int]:
        """Seed and step of this call's random numbers; collective where it has any."""
        if self.seed is not None:
            return self.seed, step
        return (drawn_number(group) if compiled.has_dropout else 0), 0

    def stages(self, *args: Any, **kwargs: Any) -> list[Stage]:
        """Every stage of the program for these arguments, the captured one first."""
        signature = self._bind(args, kwargs)[0].signature
        return self._compile(signature, self._key(signature)).stages

    def optimizer_state_dict(self, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
        """``optimizer.state_dict()`` with the moments of node parameters whole, as one machine has them.

        Collective: every rank calls it, and gets the same.
        """
        state = optimizer.state_dict()
        if self._node_parameters is None:
            return state
        return self._node_parameters.gather_optimizer(self._model, optimizer, state)

    def load_optimizer_state_dict(self, optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
        """``optimizer.load_state_dict(state)`` of a whole state: each rank keeps the rows of its own nodes."""
        if self._node_parameters is not None:
            state = self._node_parameters.scatter_optimizer(self._model, optimizer, state)
        optimizer.load_state_dict(state)

    def _bind(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Bound, Cut | None]:
        """The call as the program takes it; how it was cut, where it passes whole tensors."""
        cut = None
        if is_whole(args, kwargs) and self._node_parameters is None:
            counts = {of: len(self._model.get_parameter(key)) for key, of in self._whole_parameters.items()}
            args, kwargs = pytree.tree_map(plain, (args, kwargs))
            cut = self._whole.cut(self._model, args, kwargs, self._roles, counts, self.group_name)
            args, kwargs = cut.args, cut.kwargs
        elif self._whole_parameters:
            raise ShardError(
                "node_parameters are cut by the shard: pass distribute(..., shard=shard) as well, or call the model "
                "with whole tensors"
            )
        bound = bind(self._model, args, kwargs, self._roles, self.group_name, self._agreed)
        if self._node_parameters is not None:
            self._node_parameters.check(bound.shard)
        sets = self._whole_parameters if self._node_parameters is None else self._node_parameters.sets
        if sets:
            bound = replace(bound, signature=with_node_parameters(bound.signature, self._model, sets))
        return bound, cut

    def _state(self, cut: Cut | None) -> State:
        """The module's tensors; of whole node parameters this rank's rows."""
        state = State.of(self._model)
        if cut is None or not self._whole_parameters:
            return state
        rows = {key: cut.take(state.parameters[key], of) for key, of in self._whole_parameters.items()}
        return replace(state, parameters={**state.parameters, **rows})

    def _key(self, signature: Signature) -> Key:
        """What a capture depends on."""
        base = (
            self._observed.key(self._model),
            torch.is_grad_enabled(),
            signature.leaves,
            signature.names,
            str(signature.structure),
            signature.parameters,
            signature.schema,
            signature.data,
            signature.device,
        )
        return base, self._way(base)

    def _way(self, base: Hashable) -> int:
        """Which of the ways that forward was captured on its buffers lead to; one more where none of them is."""
        number, buffers = 0, None
        while (way := self._compiled.get((base, number))) is not None:
            decisions = way.captured.decisions
            if not decisions.tape:
                return number
            buffers = dict(self._model.named_buffers()) if buffers is None else buffers
            if decisions.hold(buffers):
                return number
            number += 1
        return number

    def _compile(self, signature: Signature, key: Key) -> Compiled:
        if key not in self._compiled:
            with ONE_CAPTURE, kept_apart(self._model):
                _check_ways(key)
                self._compiled[key] = in_own_thread(lambda: self._captured(signature))
        compiled = self._compiled[key]
        if not self._observed.written.issuperset(compiled.captured.written):
            self._observed.add(compiled.captured.written)
            self._compiled.setdefault(self._key(signature), compiled)
        return compiled

    def _captured(self, signature: Signature) -> Compiled:
        # torch.func.functional_call puts tensors in their places.
        with with_plain_rows(self._model), as_parameters(self._model):
            compiled = compile_captured(
                capture(self._model, signature, self._observed.written), self._options
            )
            check_capture(self._model, compiled)
            return with_lost_gradients(self._model, compiled)

    def _check_small(self, shard: Shard, compiled: Compiled) -> None:
        """A model may treat a graph of a few nodes or edges in a special way: then it is refused."""
        sizes = small_sizes(shard.sizes)
        if sizes is not None and (id(compiled), sizes.key) not in self._small:
            with ONE_CAPTURE, kept_apart(self._model), with_plain_rows(self._model):
                in_own_thread(lambda: check_size(self._model, compiled, sizes))
            self._small.add((id(compiled), sizes.key))

    def _agree(self, bound: Bound, key: Key, group: str) -> bool:
        """Find out before the first exchange whether all ranks do the same; whether any captures the model."""
        if group_size(group) == 1:
            return False
        trained = self._progress.trained
        written = self._written.since_last(self._held_alike())
        call = Call(
            self._model,
            self._own_rows,
            bound,
            self._options,
            self._check_every,
            trained,
            self._observed,
            self._progress.equal,
            written,
            self._compiled[key].captured.decisions.found if key in self._compiled else [],
        )
        due = self._check_every and self.training and trained % self._check_every == 0
        values = self._progress.equal and bool(written or due)
        return self._agreement.reach(call, key, key not in self._compiled, values, group)

    def _held_alike(self) -> Iterator[torch.Tensor]:
        """The parameters that every rank holds alike, and that have a shape."""
        return (p for p in self._model.parameters() if not isinstance(p, OwnRows) and not is_lazy(p))

    def _start_equal(self, group: str) -> None:
        """What ranks begin with is rank 0's: once, before the first call."""
        if self._progress.equal:
            return
        self.seed = all_gather_object(self.seed, group)[0]
        if group_size(group) > 1:
            named = same_on_ranks(self._model, self._own_rows)
            become_first((tensor for _, tensor in named if tensor.layout is torch.strided), group)
        if self._node_parameters is not None:
            self._node_parameters.start_equal(self._model)
        self._progress.equal = True
        self._written.since_last(self._held_alike())


def _check_ways(key: Key) -> None:
    if key[1] >= _MOST_WAYS:
        raise CaptureError(
            f"forward decides by its buffers what to compute, and did so in {_MOST_WAYS} ways already: each is a "
            "program of its own. Compute both and take torch.where"
        )


def _with_hint(error: GraphshardError, model: nn.Module, bound: Bound) -> GraphshardError:
    """A parameter with a row for each node looks like any other to capture: say what may be meant."""
    if data := bound.signature.data:
        held = ", ".join(map(str, bound.shard.tensors))
        error = type(error)(
            f"{error}. (forward's argument {data[0]!r} is the whole graph as one object, with {held})"
        )
    known = {name for name, _ in bound.signature.parameters}
    sets = {count: of for of, count in bound.shard.sizes.nodes.items()}
    found = {
        name: sets[tensor.size(0)]
        for name, tensor in (*model.named_parameters(), *model.named_buffers())
        if name not in known and not is_lazy(tensor) and tensor.dim() and tensor.size(0) in sets
    }
    if not found:
        return error
    given = list(found) if bound.shard.schema.homogeneous else found
    return type(error)(
        f"{error}. As many rows as there are nodes have the parameters or buffers {', '.join(map(repr, found))}: if "
        f"these are rows of the nodes, pass distribute(..., shard=shard, node_parameters={given})"
    )


def distribute(
    model: nn.Module,
    *,
    roles: Mapping[str, GivenRole] | None = None,
    seed: int | None = None,
    group: dist.ProcessGroup | None = None,
    shard: Shard | None = None,
    node_parameters: GivenParameters = (),
    options: Options | None = None,
    passes: Sequence[Pass] = (),
    check_every: int | None = None,
    methods: Sequence[str] = (),
) -> DistributedModule:
    """Turn a single-machine GNN into one that trains on every rank, with the same results.

    The model is captured on its first call in each mode, the halo exchange is inserted before each neighbour
    aggregation, and every reduction over nodes or edges becomes one over all ranks. Outputs, loss and every
    gradient equal the single machine's, or the model is refused.

    At the first call parameters and buffers become rank 0's, in place, as in DistributedDataParallel. Every call
    begins with a message of a few numbers, in which the ranks find out whether they run the same model, attributes,
    modes, options and versions on shards of one partition.

    Args:
        model: any ``nn.Module`` over plain tensors: PyG layers, or hand-written gathers and scatters. But for
            those values it is not changed; the result shares its Parameters and buffers, under the same
            ``state_dict`` keys.
        roles: for arguments that are no tensors of a shard and whose role dtype and shape do not decide:
            name -> "node", "edge", "edge_index", "pairs", "adjacency" or "replicated", with the name of the set
            behind a colon where there are several (``"node:paper"``).
        seed: of the dropout masks, which are a function of (seed, step, call site, global node or edge id)
            and so the same on any number of ranks. Two modules with one seed draw the same numbers. By default each
            call draws a seed from torch's generator on rank 0.
        group: the process group; by default torch.distributed's, or a single rank where none is initialised.
        shard: this rank's; needed for ``node_parameters``.
        node_parameters: names of the parameters and buffers that have a row for each node, such as
            ``"embedding.weight"`` of an ``nn.Embedding(num_nodes, d)`` that forward uses whole, or a buffer of
            positional encodings; of a heterogeneous graph a mapping of these names to node types. The result
            has Parameters of its own for them, with the rows of this rank's nodes, so that an optimiser over
            ``parameters()`` holds state for no other row. ``state_dict()`` and ``optimizer_state_dict()``
            bring all rows together (every rank must call them), loading cuts them again.
        options: which passes make the program faster; by default all. The same on every rank.
        passes: your own, beside those of ``options``: see ``Options.passes``. The same on every rank.
        check_every: compare the values of parameters and buffers over the ranks before every n-th training
            step, bit by bit, and name the first that differs; by default never. For training that changes
            weights outside of forward and backward; reads every parameter once.
        methods: names of other methods of the model that are captured and run as forward is, such as ``["encode",
            "decode"]``: ``model.encode(shard.x, shard.edge_index)``. Any other method runs as it is written, and is
            refused where it is called with rows of one of several ranks.

    Returns:
        A module to call with a shard, ``model(shard)``, or with its tensors, ``model(shard.x,
        shard.edge_index)``. Row-wise outputs hold this rank's owned rows (``shard.gather`` brings all
        together); replicated ones (a loss) are global. Gradients of parameters are summed over the ranks in
        backward. Its other attributes are those of ``model``, to read and to write.

    Raises:
        CaptureError: ``model`` is not a module, or wrapped already (``DistributedDataParallel``), or has no such
            method.
        ShardError: a node parameter does not exist or does not fit the graph, or ``shard`` is missing.

    Example:
        >>> import torch, graphshard
        >>> from torch import nn
        >>> class Mean(nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.lin = nn.Linear(2, 3)
        ...     def forward(self, x, edge_index):
        ...         src, dst = edge_index[0], edge_index[1]
        ...         return self.lin(torch.zeros_like(x).index_add(0, dst, x[src]))
        >>> edge_index = torch.tensor([[0, 1, 2, 2, 3, 4, 0], [1, 2, 0, 3, 4, 2, 3]])
        >>> graph = {"x": torch.rand(5, 2), "edge_index": edge_index}
        >>> model = Mean()
        >>> shard = graphshard.partition(graph, num_parts=1)[0]
        >>> torch.allclose(graphshard.distribute(model)(shard), model(graph["x"], edge_index))
        True
    """
    warn_of_newer(torch.__version__)
    check_model(model)
    refuse_scripted(model)
    if isinstance(model, DistributedModule):
        raise CaptureError("the model is distributed already")
    check_methods(model, tuple(methods), DistributedModule)
    if check_every is not None and check_every < 0:
        raise CaptureError(f"check_every is a number of training steps, not {check_every}")
    chosen = options or Options()
    options = replace(chosen, passes=(*chosen.passes, *passes))
    if not node_parameters:
        return DistributedModule(
            model, roles, seed, group, options=options, check_every=check_every, methods=methods
        )
    sets = sets_of(node_parameters)
    if shard is None:
        known = [name for name, _ in model.named_parameters(remove_duplicate=False)]
        if unknown := sets.keys() - set(known):
            raise ShardError(
                f"the model has no parameter {min(unknown)!r}; it has {', '.join(known) or 'none'}"
            )
        return DistributedModule(
            model,
            roles,
            seed,
            group,
            options=options,
            check_every=check_every,
            whole_parameters=sets,
            methods=methods,
        )
    if shard.world_size > 1:
        check_own_state(model)
    name = default_group() if group is None else str(group.group_name)
    twin = with_owned_rows(model, sets, shard, name)
    cut = NodeParameters(twin, sets, shard, name, model)
    return DistributedModule(twin, roles, seed, group, cut, options, check_every, methods=methods)
