"""Parameters with a row for each node (embeddings), cut like any node tensor: a rank holds its owned rows.

::

    user's module       embedding.weight [N, d]      lin.weight
                              |  owned rows              |  the same Parameter
    rank's twin         embedding.weight [n, d]      lin.weight
                              |  gather                  |
    state_dict()        embedding.weight [N, d]      lin.weight

The optimiser then holds moments for n rows only, and a gradient arrives where its row lives, so nothing is
summed over ranks. What leaves the job is whole again and does not depend on the number of ranks.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from graphshard.errors import ShardError
from graphshard.graph.roles import Member, Role
from graphshard.ops.exchange import all_reduce
from graphshard.private.torch_modules import buffers_of, children_of, parameters_of, with_state
from graphshard.ranks.equal_start import rows_of_first
from graphshard.ranks.groups import all_gather_numbers
from graphshard.shard.optimizers import OptimizerWatch
from graphshard.shard.own_rows import OwnRows, RowsParameter, own_rows
from graphshard.shard.placed import Origin, PlacedTensor, plain
from graphshard.shard.shard import Shard

GivenParameters = Sequence[str] | Mapping[str, str]
"""``state_dict`` keys, or key -> node type where the graph has several."""


def sets_of(given: GivenParameters) -> dict[str, str]:
    """``state_dict`` key -> node set; that of a homogeneous graph has no name."""
    return dict(given) if isinstance(given, Mapping) else dict.fromkeys(given, "")


def with_owned_rows(
    model: nn.Module, sets: Mapping[str, str], shard: Shard, group: str | None = None
) -> nn.Module:
    """A twin of ``model`` whose node parameters and buffers hold the shard's owned rows only; all else is shared.

    Args:
        model: with whole parameters ``[N, ...]``; not changed.
        sets: ``state_dict`` key -> node set of the node parameters; tied ones need one of their names.
        shard: this rank's. group: the process group's name.

    Returns:
        A module with Parameters of its own, ``[n, ...]``, for these and everything tied to them.

    Raises:
        ShardError: there is no such parameter or node set, or it does not have one row for each node.
    """
    if not sets:
        return model
    every = state_of(model)
    twins: dict[int, Tensor] = {}
    for name, of in sets.items():
        if name not in every:
            raise ShardError(
                f"the model has no parameter or buffer {name!r}; it has {', '.join(every) or 'none'}"
            )
        whole = every[name]
        nodes = shard.node_set(of).num_nodes
        if whole.dim() == 0 or whole.size(0) != nodes:
            raise ShardError(
                f"the node parameter {name!r} must have one row for each of the {nodes} nodes, but its shape is "
                f"{list(whole.shape)}"
            )
        placed = shard.scatter(whole.detach(), Member(Role.NODE, of))
        twins[id(whole)] = _stored(placed, whole, group)
    return _twin(model, twins, {})


def _stored(placed: Tensor, whole: Tensor, group: str | None) -> Tensor:
    """The rows of a table, as the module keeps them: on one rank of one plain ones."""
    rows, parameter = plain(placed).clone(), isinstance(whole, nn.Parameter)
    if not isinstance(placed, PlacedTensor):
        return nn.Parameter(rows, whole.requires_grad) if parameter else rows
    origin = Origin(placed.shard, placed.placement, group)
    kind = RowsParameter if parameter else OwnRows
    return own_rows(rows, origin, kind, whole.requires_grad)


def state_of(model: nn.Module) -> dict[str, Tensor]:
    """Every parameter and buffer under each of its names."""
    parameters: dict[str, Tensor] = dict(model.named_parameters(remove_duplicate=False))
    return parameters | dict(model.named_buffers(remove_duplicate=False))


def _twin(module: nn.Module, rows: Mapping[int, Tensor], made: dict[int, nn.Module]) -> nn.Module:
    """``module`` itself where nothing below it changes, else a shallow copy with the new tensors."""
    if id(module) in made:
        return made[id(module)]
    children = {
        name: child if child is None else _twin(child, rows, made)
        for name, child in children_of(module).items()
    }
    parameters, buffers, old = parameters_of(module), buffers_of(module), children_of(module)
    own: dict[str, Any] = {name: rows.get(id(p), p) for name, p in parameters.items()}
    kept = {name: b if b is None else rows.get(id(b), b) for name, b in buffers.items()}
    changed = any(own[name] is not p for name, p in parameters.items())
    changed |= any(kept[name] is not b for name, b in buffers.items())
    changed |= any(children[name] is not c for name, c in old.items())
    made[id(module)] = twin = with_state(module, own, kept, children) if changed else module
    return twin


class NodeParameters:
    """The node parameters of one distributed module: how they leave the job, and how they come in.

    Args:
        twin: the module that holds their owned rows.
        sets: their ``state_dict`` keys -> node set; those of tied ones are found.
        shard: the rank's.
        group: the process group's name; ``""`` for a single rank.
        model: the user's module, with whole tables. They are kept until :meth:`start_equal`.
    """

    def __init__(
        self, twin: nn.Module, sets: Mapping[str, str], shard: Shard, group: str, model: nn.Module
    ) -> None:
        self.sets, self._shard, self._group = dict(sets), shard, group
        parameters = {name: p for name, p in model.named_parameters(remove_duplicate=False) if name in sets}
        self._watch = OptimizerWatch(parameters)
        self._keys = _tied(twin, sets)
        every = state_of(model)
        self._whole: dict[str, Tensor] | None = {name: every[name].detach() for name in sets}

    @property
    def keys(self) -> frozenset[str]:
        """All ``state_dict`` keys of node parameters, those of tied ones included."""
        return frozenset(self._keys)

    def row_ids(self, key: str) -> Tensor | None:
        """int64 global ids of the rows that the rank holds of a node parameter; None of any other."""
        return self._shard.node_set(self._keys[key]).owned_ids if key in self._keys else None

    def rows_of(self, twin: nn.Module) -> Iterator[tuple[Tensor, str, Tensor]]:
        """(tensor, node set, int64 global ids of its rows) of each of them."""
        every = state_of(twin)
        for key, of in self._keys.items():
            yield every[key], of, self._shard.node_set(of).owned_ids

    @torch.no_grad()
    def start_equal(self, twin: nn.Module) -> None:
        """Cut every rank's rows from rank 0's tables, and let go of the whole ones. Collective, once.

        A table is rank 0's as it was when ``distribute`` cut it or when a whole one was loaded since. Rows that
        were changed by hand after that stay as they are, on every rank: no other rank has a copy of them.
        """
        if self._whole is None:
            return
        every = state_of(twin)
        for name, of in self.sets.items():
            rows, whole = plain(every[name]), self._whole.pop(name)
            ids = self._shard.node_set(of).owned_ids
            as_cut = torch.equal(whole[ids.to(whole.device)].to(rows), rows)
            untouched = all_gather_numbers([int(as_cut)], rows.device, self._group)
            if all(one for (one,) in untouched):
                for part, values in rows_of_first(whole.to(rows.dtype), ids.to(rows.device), self._group):
                    if not torch.equal(rows[part], values):
                        rows[part] = values
        self._whole = None

    def check(self, shard: Shard) -> None:
        """Refuse a call on another part of the graph; the gradients that it leads to are one rank's rows.

        Raises:
            ShardError: the rows belong to other nodes.
        """
        if shard is not self._shard and not all(
            torch.equal(shard.node_set(of).owned_ids, self._shard.node_set(of).owned_ids)
            for of in self.sets.values()
        ):
            raise ShardError(
                "the model's node parameters were cut for another shard: call it with the shard that was given "
                "to distribute()"
            )

    def __getstate__(self) -> dict[str, Any]:
        # It is over the Parameters of one module in one process.
        return {name: value for name, value in self.__dict__.items() if name != "_watch"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._watch = OptimizerWatch({})

    def __deepcopy__(self, memo: dict[int, Any]) -> NodeParameters:
        twin = copy.copy(self)  # of the same shard
        if self._whole is not None:
            vars(twin)["_whole"] = dict(self._whole)
        return twin

    def attach(self, module: nn.Module) -> None:
        """Make ``module.state_dict()`` whole, and ``load_state_dict`` take whole parameters."""
        # partial: torch writes an attribute on the hook, which a bound method does not take.
        module.register_state_dict_post_hook(partial(NodeParameters._make_whole, self))  # type: ignore[no-untyped-call]
        module.register_load_state_dict_pre_hook(partial(NodeParameters._take_owned, self))  # type: ignore[no-untyped-call]

    def _make_whole(self, _module: nn.Module, state: dict[str, Any], prefix: str, _meta: Any) -> None:
        for key, of in self._keys.items():
            if prefix + key in state:  # a buffer may be left out
                state[prefix + key] = self._gather(state[prefix + key], of)

    def _take_owned(self, _module: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
        for key, of in self._keys.items():
            if prefix + key in state:
                whole = state[prefix + key]
                state[prefix + key] = self._scatter(whole, of)
                if self._whole is not None and key in self._whole:
                    self._whole[key] = whole.detach()

    def gather_optimizer(
        self, twin: nn.Module, optimizer: torch.optim.Optimizer, state: dict[str, Any]
    ) -> dict[str, Any]:
        """The optimiser's state with all rows. Collective."""
        return self._mapped(twin, optimizer, state, self._gather)

    def scatter_optimizer(
        self, twin: nn.Module, optimizer: torch.optim.Optimizer, state: dict[str, Any]
    ) -> dict[str, Any]:
        """The rows of a whole optimiser's state that this rank keeps."""
        return self._mapped(twin, optimizer, state, lambda whole, of: plain(self._scatter(whole, of)))

    def _mapped(
        self,
        twin: nn.Module,
        optimizer: torch.optim.Optimizer,
        state: dict[str, Any],
        change: Callable[[Tensor, str], Tensor],
    ) -> dict[str, Any]:
        """``state`` with ``change`` applied to what has a row for each row of a node parameter."""
        every = state_of(twin)
        cut = {id(every[name]): of for name, of in self.sets.items()}
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        numbers = [n for group in state["param_groups"] for n in group["params"]]
        mapped = dict(state["state"])
        for parameter, number in zip(parameters, numbers, strict=True):
            if id(parameter) in cut and number in mapped:
                of = cut[id(parameter)]
                # Moments have the parameter's shape; a step count has none.
                mapped[number] = {
                    key: change(value, of) if isinstance(value, Tensor) and value.dim() else value
                    for key, value in mapped[number].items()
                }
        return {**state, "state": mapped}

    def _gather(self, rows: Tensor, of: str) -> Tensor:
        """``[n, ...]`` on each rank -> ``[N, ...]`` on every rank: a sum to which each row has one term."""
        nodes, rows = self._shard.node_set(of), plain(rows).detach()
        whole = rows.new_zeros((nodes.num_nodes, *rows.shape[1:]))
        whole[nodes.owned_ids.to(rows.device)] = rows
        flags = whole.dtype == torch.bool
        total: Tensor = all_reduce(whole.to(torch.uint8) if flags else whole, "sum", self._group)
        return total.to(whole.dtype)

    def _scatter(self, whole: Tensor, of: str) -> Tensor:
        """``[N, ...]`` -> this rank's ``[n, ...]``, of the whole graph."""
        return self._shard.scatter(whole, Member(Role.NODE, of))


def _tied(model: nn.Module, sets: Mapping[str, str]) -> dict[str, str]:
    """All ``state_dict`` keys of the tensors called so, with their node set."""
    every = state_of(model)
    wanted = {id(every[name]): of for name, of in sets.items()}
    return {name: wanted[id(p)] for name, p in every.items() if id(p) in wanted}
