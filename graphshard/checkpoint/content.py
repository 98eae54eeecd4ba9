"""What one rank saves of a run, and how a rank of another cut takes it up.

::

    weights, buffers, moments     the same on every rank: rank 0 saves them
    node parameters, moments      rows of this rank's nodes, with the nodes' numbers: every rank saves its own
    random streams, seed, step    rank 0's, which are every rank's
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from graphshard.api import DistributedModule
from graphshard.checkpoint.document import decoded, encoded
from graphshard.errors import CheckpointError
from graphshard.ranks.turns import RandomState
from graphshard.shard.own_rows import OwnRows
from graphshard.shard.placed import plain


@dataclass
class Content:
    """What one rank saves.

    Attributes:
        document: all that is no tensor, as JSON, with what stands for tensors.
        tensors: name -> tensor on the CPU, a copy.
    """

    document: dict[str, Any] = field(default_factory=dict)
    tensors: dict[str, Tensor] = field(default_factory=dict)


def taken(model: nn.Module, optimizer: torch.optim.Optimizer | None, extra: Any, rank: int) -> Content:
    """A copy of what this rank saves.

    Args:
        model: distributed, or not. optimizer: over its parameters. extra: the user's own, as JSON and tensors.
        rank: of this process.

    Raises:
        CheckpointError: a state holds what a checkpoint cannot keep.
    """
    content = Content()
    cut = _Cut(model)

    def keep(path: str, tensor: Tensor) -> dict[str, str]:
        of = cut.set_of(tensor)
        if of is not None:
            content.tensors[f"rows/{path}"] = _copy(tensor)
            content.tensors[f"ids/{of}"] = cut.ids[of].cpu()
            return {"rows": f"rows/{path}", "ids": f"ids/{of}"}
        if rank == 0:
            content.tensors[path] = _copy(tensor)
        return {"tensor": path}

    parts = {
        "model": dict(cut.module.state_dict(keep_vars=True)),
        "optimizer": None if optimizer is None else cut.with_rows(optimizer),
        "run": {name: getattr(model, name) for name in ("seed", "step")} if cut.distributed else None,
        "random": random_streams(),
        "extra": extra,
    }
    content.document = {name: encoded(value, name, keep) for name, value in parts.items()}
    return content


def put_back(
    content: Mapping[str, Any],
    read: Callable[[Mapping[str, str], Tensor | None], Tensor],
    model: nn.Module,
    optimizer: torch.optim.Optimizer | None,
) -> Any:
    """Give a model and its optimiser the state that a document describes; what was saved as ``extra``.

    Args:
        content: the document.
        read: gives the tensor for what stands in its place; of rows those of the nodes of given numbers, or of all.
        model, optimizer: as they were made for this run.

    Raises:
        CheckpointError: the model or the optimiser is another.
    """
    cut = _Cut(model)

    def tensor(place: Mapping[str, str]) -> Tensor:
        of = place.get("ids", "").removeprefix("ids/") if "rows" in place else None
        return read(place, None if of is None else cut.ids.get(of))

    _put_weights(cut, decoded(content["model"], tensor))
    if optimizer is not None:
        _put_moments(optimizer, decoded(content["optimizer"], tensor))
    run = decoded(content["run"], tensor)
    if run is not None and isinstance(model, DistributedModule):
        model.seed, model.step = run["seed"], run["step"]
    put_random_streams(decoded(content["random"], tensor))
    return decoded(content["extra"], tensor)


class _Cut:
    """A module as this process holds it: of node parameters the rows of its own nodes.

    Attributes:
        module: the user's module, with these rows.
        distributed: whether it is one of ``distribute``.
        ids: node set -> int64 numbers of the rank's nodes.
    """

    def __init__(self, model: nn.Module) -> None:
        self.distributed = isinstance(model, DistributedModule)
        self.module = model._model if isinstance(model, DistributedModule) else model
        self.ids: dict[str, Tensor] = {}
        self._sets: dict[int, str] = {}
        if isinstance(model, DistributedModule) and model._node_parameters is not None:
            for tensor, of, ids in model._node_parameters.rows_of(model._model):
                self.ids[of], self._sets[id(tensor)] = ids, of

    def set_of(self, tensor: Tensor) -> str | None:
        """The node set whose rows a tensor has; None of one that every rank has whole."""
        return self._sets.get(id(tensor))

    def with_rows(self, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
        """The optimiser's state; its moments of node parameters are known for rows."""
        state = optimizer.state_dict()
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        numbers = [n for group in state["param_groups"] for n in group["params"]]
        for parameter, number in zip(parameters, numbers, strict=True):
            of, rows = self.set_of(parameter), plain(parameter)
            for value in state["state"].get(number, {}).values() if of is not None else ():
                if isinstance(value, Tensor) and value.shape == rows.shape:
                    self._sets[id(value)] = str(of)
        return state


def _put_weights(cut: _Cut, saved: dict[str, Any]) -> None:
    own = cut.module.state_dict(keep_vars=True)
    for name in {**own, **saved}:
        one, other = (_kind(state.get(name), name in state) for state in (saved, own))
        if one != other:
            raise CheckpointError(
                f"the checkpoint is of another model: {name!r} is {one} in it and {other} here"
            )
    with torch.no_grad():
        for name, tensor in own.items():
            if isinstance(tensor, OwnRows):
                tensor.local().copy_(saved[name])
    rest = {name: value for name, value in saved.items() if not isinstance(own[name], OwnRows)}
    cut.module.load_state_dict(rest, strict=False)


def _kind(value: Any, there: bool) -> str:
    if not there:
        return "missing"
    if not isinstance(value, Tensor):
        return "no tensor"
    return f"{str(value.dtype).removeprefix('torch.')}{list(plain(value).shape)}"


def _put_moments(optimizer: torch.optim.Optimizer, state: Any) -> None:
    if state is None:
        raise CheckpointError("the checkpoint was saved without an optimiser: load it without one")
    try:
        optimizer.load_state_dict(state)
    except (ValueError, KeyError) as error:
        raise CheckpointError(f"the checkpoint is of another optimiser: {error}") from error


def _copy(tensor: Tensor) -> Tensor:
    part: Tensor = plain(tensor).detach()
    return part.to("cpu", copy=True).contiguous()


def random_streams() -> dict[str, Any]:
    """Where the generators of PyTorch, Python and NumPy stand."""
    found = vars(RandomState.now())
    return found | ({"cuda": torch.cuda.get_rng_state()} if torch.cuda.is_available() else {})


def put_random_streams(streams: dict[str, Any]) -> None:
    """Let the generators go on from where they stood."""
    cuda = streams.pop("cuda", None)
    RandomState(**streams).restore()
    if cuda is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(cuda)
