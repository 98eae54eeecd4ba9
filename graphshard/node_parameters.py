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
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from graphshard.errors import ShardError
from graphshard.ops import all_reduce
from graphshard.roles import Role
from graphshard.shard import Shard


def with_owned_rows(model: nn.Module, names: Sequence[str], shard: Shard) -> nn.Module:
    """A twin of ``model`` whose node parameters hold the shard's owned rows only; all else is shared.

    Args:
        model: with whole parameters ``[N, ...]``; not changed.
        names: ``state_dict`` keys of the node parameters; tied ones need one of their names.
        shard: this rank's.

    Returns:
        A module with Parameters of its own, ``[n, ...]``, for ``names`` and everything tied to them.

    Raises:
        ShardError: there is no such parameter, or it does not have one row for each node.
    """
    if not names:
        return model
    every = dict(model.named_parameters(remove_duplicate=False))
    twins: dict[int, nn.Parameter] = {}
    for name in names:
        if name not in every:
            raise ShardError(f"the model has no parameter {name!r}; it has {', '.join(every) or 'none'}")
        whole = every[name]
        if whole.dim() == 0 or whole.size(0) != shard.num_nodes:
            raise ShardError(
                f"the node parameter {name!r} must have one row for each of the {shard.num_nodes} nodes, but "
                f"its shape is {list(whole.shape)}"
            )
        rows = shard.scatter(whole.detach(), Role.NODE).clone()
        twins[id(whole)] = nn.Parameter(rows, whole.requires_grad)
    return _twin(model, twins, {})


def _twin(module: nn.Module, parameters: Mapping[int, nn.Parameter], made: dict[int, nn.Module]) -> nn.Module:
    """``module`` itself where nothing below it changes, else a shallow copy with the new Parameters."""
    if id(module) in made:
        return made[id(module)]
    children = {
        name: child if child is None else _twin(child, parameters, made)
        for name, child in module._modules.items()
    }
    own = {name: parameters.get(id(parameter), parameter) for name, parameter in module._parameters.items()}
    changed = any(own[n] is not p for n, p in module._parameters.items())
    changed |= any(children[n] is not c for n, c in module._modules.items())
    twin = module
    if changed:
        twin = copy.copy(module)
        vars(twin).update(_parameters=own, _modules=children)
    made[id(module)] = twin
    return twin


class NodeParameters:
    """The node parameters of one distributed module: how they leave the job, and how they come in.

    Args:
        twin: the module that holds their owned rows.
        names: their ``state_dict`` keys; those of tied ones are found.
        shard: the rank's.
        group: the process group's name; ``""`` for a single rank.
    """

    def __init__(self, twin: nn.Module, names: Sequence[str], shard: Shard, group: str) -> None:
        self.names, self._shard, self._group = tuple(names), shard, group
        self._keys = _tied(twin, names)

    def check(self, shard: Shard) -> None:
        """Refuse a call on another part of the graph.

        Raises:
            ShardError: the rows belong to other nodes.
        """
        if shard is not self._shard and not torch.equal(shard.node_ids, self._shard.node_ids):
            raise ShardError(
                "the model's node parameters were cut for another shard: call it with the shard that was given "
                "to distribute()"
            )

    def attach(self, module: nn.Module) -> None:
        """Make ``module.state_dict()`` whole, and ``load_state_dict`` take whole parameters."""
        # partial: torch writes an attribute on the hook, which a bound method does not take.
        module.register_state_dict_post_hook(partial(NodeParameters._make_whole, self))  # type: ignore[no-untyped-call]
        module.register_load_state_dict_pre_hook(partial(NodeParameters._take_owned, self))  # type: ignore[no-untyped-call]

    def _make_whole(self, _module: nn.Module, state: dict[str, Any], prefix: str, _meta: Any) -> None:
        for key in self._keys:
            state[prefix + key] = self._gather(state[prefix + key])

    def _take_owned(self, _module: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
        for key in self._keys:
            if prefix + key in state:
                state[prefix + key] = self._scatter(state[prefix + key])

    def gather_optimizer(
        self, twin: nn.Module, optimizer: torch.optim.Optimizer, state: dict[str, Any]
    ) -> dict[str, Any]:
        """The optimiser's state with all rows. Collective."""
        return self._mapped(twin, optimizer, state, self._shard.num_owned, self._gather)

    def scatter_optimizer(
        self, twin: nn.Module, optimizer: torch.optim.Optimizer, state: dict[str, Any]
    ) -> dict[str, Any]:
        """The rows of a whole optimiser's state that this rank keeps."""
        return self._mapped(twin, optimizer, state, self._shard.num_nodes, self._scatter)

    def _mapped(
        self,
        twin: nn.Module,
        optimizer: torch.optim.Optimizer,
        state: dict[str, Any],
        rows: int,
        change: Callable[[Tensor], Tensor],
    ) -> dict[str, Any]:
        """``state`` with ``change`` applied to what has a row for each row of a node parameter."""
        cut = {id(twin.get_parameter(name)) for name in self.names}
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        numbers = [n for group in state["param_groups"] for n in group["params"]]
        mapped = dict(state["state"])
        for parameter, number in zip(parameters, numbers, strict=True):
            if id(parameter) not in cut or number not in mapped:
                continue
            shape = (rows, *parameter.shape[1:])
            mapped[number] = {
                key: change(value) if isinstance(value, Tensor) and tuple(value.shape) == shape else value
                for key, value in mapped[number].items()
            }
        return {**state, "state": mapped}

    def _gather(self, rows: Tensor) -> Tensor:
        """``[n, ...]`` on each rank -> ``[N, ...]`` on every rank: a sum to which each row has one term."""
        shard, rows = self._shard, rows.detach()
        whole = rows.new_zeros((shard.num_nodes, *rows.shape[1:]))
        whole[shard.node_ids[: shard.num_owned].to(rows.device)] = rows
        total: Tensor = all_reduce(whole, "sum", self._group)
        return total

    def _scatter(self, whole: Tensor) -> Tensor:
        return self._shard.scatter(whole, Role.NODE)


def _tied(model: nn.Module, names: Sequence[str]) -> list[str]:
    """All ``state_dict`` keys of the Parameters called ``names``."""
    every = dict(model.named_parameters(remove_duplicate=False))
    wanted = {id(every[name]) for name in names}
    return [name for name, parameter in every.items() if id(parameter) in wanted]
