"""From the arguments of one call to what capture and the program need: a shard, a signature, flat tensors.

Tensors of a shard are recognised by the mark the shard put on them; the ranks decide together what others are
(computed from them, or the same on every rank): ``unmarked.py``.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from graphshard.capture.examples import Signature, TensorSpec
from graphshard.capture.refusals import check_arguments
from graphshard.errors import CaptureError, DataError, ShardError
from graphshard.execute.unmarked import Agreed, decide
from graphshard.graph.roles import Member, Role
from graphshard.private import pytree
from graphshard.private.pyg import is_data
from graphshard.shard.placed import PlacedTensor, member_of, name_of, plain
from graphshard.shard.shard import Shard, shard_of, shard_tensor_of


@dataclass(frozen=True)
class Bound:
    """One call, bound.

    Attributes:
        shard: that it runs on.
        signature: of it.
        flat: the program's flat user inputs, plain.
        names: what placed ones are called.
    """

    shard: Shard
    signature: Signature
    flat: list[Tensor]
    names: list[str | None]


def _with_data(
    model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any], tuple[str, ...]]:
    """The arguments, with dicts of tensors for those that are a whole graph; and the names of these.

    A shard is one where forward has no argument of the name of any of its tensors that it needs, but needs one value
    alone: ``forward(self, data)``.
    """
    parameters = inspect.signature(model.forward).parameters
    if len(args) == 1 and isinstance(args[0], Shard) and not kwargs and not _takes_all(model, args[0], _has):
        return args, kwargs, ()
    named = _by_name(model, args, kwargs)
    whole = {name: value for name, value in named.items() if isinstance(value, Shard)}
    if not whole:
        return args, kwargs, ()
    if any(parameters.get(name) is None or _is_variadic(parameters[name]) for name in named):
        raise CaptureError(
            f"forward takes the graph in *args or **kwargs ({', '.join(whole)}): name the argument, as in "
            "forward(self, data)"
        )
    return (), {**named, **{name: _tensors_of(value) for name, value in whole.items()}}, tuple(whole)


def data_taken_whole(model: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """The PyG ``Data`` or ``HeteroData`` that forward takes as one argument, as in ``forward(self, data)``; None where
    there is none, or it is to be taken apart by the names of forward's arguments.

    Raises:
        CaptureError: there are two, or tensors beside it, or a tensor of it requires a gradient.
    """
    values = [*args, *kwargs.values()]
    given, rest = [v for v in values if is_data(v)], [v for v in values if not is_data(v)]
    if not given or (not kwargs and not rest and not _takes_all(model, given[0], hasattr)):
        return None
    if len(given) > 1 or any(isinstance(leaf, Tensor) for leaf in pytree.tree_leaves(rest)):
        raise CaptureError(
            f"forward takes a {type(given[0]).__name__} beside other tensors: put these into it, and pass it alone"
        )
    (data,) = given
    stores = data.stores if hasattr(data, "stores") else [data]
    held = [(n, t) for store in stores for n, t in store.items() if isinstance(t, Tensor)]
    if wanted := [n for n, t in held if t.requires_grad]:
        raise CaptureError(
            f"{', '.join(wanted)} of the data that forward takes require a gradient, which a graph as one "
            "object does not carry: partition() the data and set requires_grad on the shard's tensors"
        )
    return data


def _takes_all(model: nn.Module, graph: Any, has: Callable[[Any, str], bool]) -> bool:
    """Whether forward needs one argument, which is no tensor of the graph."""
    needed = _needed(model)
    return len(needed) == 1 and not has(graph, needed[0])


def _parameters(model: nn.Module) -> dict[str, inspect.Parameter]:
    """Forward's parameters but for ``*args`` and ``**kwargs``."""
    every = inspect.signature(model.forward).parameters
    return {name: p for name, p in every.items() if not _is_variadic(p)}


def _needed(model: nn.Module) -> list[str]:
    """The names of those without a default."""
    return [name for name, p in _parameters(model).items() if p.default is p.empty]


def _is_variadic(parameter: inspect.Parameter) -> bool:
    return parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)


def _tensors_of(graph: Shard) -> dict[str, Any]:
    """The tensors of a shard: attribute -> tensor, or type -> tensor."""
    heads = dict.fromkeys(graph.paths.get(name, (name,))[0] for name in graph.tensors)
    return {str(head): graph.argument(str(head)) for head in heads}


def from_shard(model: nn.Module, shard: Shard) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Forward's arguments taken from a shard by name (by position where the data was a sequence).

    Raises:
        ShardError: forward needs an argument that the shard does not have.
    """
    if shard.positional:
        heads = dict.fromkeys(shard.paths.get(name, (name,))[0] for name in shard.tensors)
        return tuple(shard.argument(str(head)) for head in heads), {}
    kwargs = {name: v for name in _parameters(model) if (v := _argument(shard, name)) is not None}
    for name in _needed(model):
        if name not in kwargs:
            raise ShardError(
                f"forward needs {name!r}, which the shard does not have (it has "
                f"{', '.join(shard.tensors)}); add it to the data before partition(), or pass it"
            )
    return (), kwargs


def _no_argument(model: nn.Module, shard: Shard) -> str:
    """Why a forward without arguments cannot be cut: it reads a graph that the model holds whole."""
    rows = (*shard.sizes.nodes.values(), *shard.sizes.edges.values())
    held = [name for name, b in model.named_buffers() if not set(rows).isdisjoint(b.shape)]
    held += [
        name
        for module in model.modules()
        for name, t in vars(module).items()
        if isinstance(t, Tensor) and not set(rows).isdisjoint(t.shape)
    ]
    graph = f", in {', '.join(map(repr, held))}," if held else ""
    return (
        f"forward takes no argument, so the graph that it runs on{graph} is the model's own and whole on every rank: "
        f"make it arguments of forward, as in forward(self, {', '.join(map(str, shard.tensors))})"
    )


def _has(shard: Shard, name: str) -> bool:
    return shard.positional or _argument(shard, name) is not None


def _argument(shard: Shard, name: str) -> Any:
    try:
        return shard.argument(name)
    except KeyError:
        return None


def names_of(model: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[str]:
    """What each flattened argument is called: forward's parameter name and the path inside it."""
    return [
        name for argument, value in _by_name(model, args, kwargs).items() for name in _nested(argument, value)
    ]


def _nested(name: str, value: Any) -> list[str]:
    return [name + pytree.keystr(path) for path, _ in pytree.tree_flatten_with_path(value)[0]]


def bind(
    model: nn.Module,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    roles: Mapping[str, Member],
    group: str,
    agreed: Agreed,
) -> Bound:
    """Bind one call of the distributed module.

    Args:
        model: the user's module.
        args, kwargs: the call's arguments, or a single Shard.
        roles: roles the user gave, by argument name.
        group: the process group's name; a new kind of unmarked argument is agreed on over it.
        agreed: roles that the ranks agreed on before; added to.

    Raises:
        ShardError: a tensor does not fit the shard, or an argument is missing.
        RuntimeMismatch: the ranks disagree on what a tensor is.
        CaptureError: an argument that cannot be captured.
    """
    args, kwargs, data = _with_data(model, args, kwargs)
    if len(args) == 1 and isinstance(args[0], Shard) and not kwargs:
        given = args[0]
        args, kwargs = from_shard(model, given)
        if not args and not kwargs:
            raise CaptureError(_no_argument(model, given))
    names = names_of(model, args, kwargs)
    leaves, structure = pytree.tree_flatten((args, kwargs))
    check_arguments({n: v for n, v in zip(names, leaves, strict=True) if not isinstance(v, Tensor)})
    tensors = {n: v for n, v in zip(names, leaves, strict=True) if isinstance(v, Tensor)}
    shard, found = _place(tensors, roles, group, agreed)
    specs, flat = [], []
    called: list[str | None] = []
    for name, leaf in zip(names, leaves, strict=True):
        if not isinstance(leaf, Tensor):
            specs.append(leaf)
            continue
        value = shard.tensors[name] if name in shard.tensors and leaf.layout is not torch.strided else leaf
        value = plain(value)
        specs.append(_spec(name, value, found[name], shard))
        parts = [value.indices(), value.values()] if found[name].role is Role.ADJACENCY else [value]
        flat += parts
        called += [name_of(leaf)] if isinstance(leaf, PlacedTensor) else [None] * len(parts)
    device = flat[0].device if flat else torch.device("cpu")
    signature = Signature(tuple(specs), structure, tuple(names), shard.schema, device=device, data=data)
    return Bound(shard, signature, flat, called)


def _by_name(model: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments, in order, by the name of forward's parameter."""
    parameters = list(inspect.signature(model.forward).parameters.values())
    variadic = next((p.name for p in parameters if p.kind is p.VAR_POSITIONAL), "arg")
    named: dict[str, Any] = {}
    for i, value in enumerate(args):
        own = i < len(parameters) and parameters[i].kind is not parameters[i].VAR_POSITIONAL
        named[parameters[i].name if own else f"{variadic}{i}"] = value
    return named | dict(kwargs)


def _place(
    tensors: dict[str, Tensor],
    given: Mapping[str, Member],
    group: str,
    agreed: Agreed,
) -> tuple[Shard, dict[str, Member]]:
    marks = {name: mark for name, t in tensors.items() if (mark := shard_tensor_of(t)) is not None}
    placed = {name: t for name, t in tensors.items() if isinstance(t, PlacedTensor) and name not in marks}
    shards = {id(s): s for t in tensors.values() if (s := shard_of(t)) is not None}
    if len(shards) > 1:
        raise ShardError("the arguments are tensors of different shards; pass tensors of one shard")
    if not shards:
        raise ShardError(
            "the arguments hold no tensor of a graph; pass this rank's shard, its tensors, or whole ones"
        )
    shard = next(iter(shards.values()))
    sure = {name: mark.member for name, mark in marks.items() if mark.sure}
    sure |= {name: _member(name, value) for name, value in placed.items()}
    members = sure | {
        name: _known(member, name, shard)
        for name, member in given.items()
        if name in tensors and name not in sure
    }
    unknown = {name: plain(t) for name, t in tensors.items() if name not in members}
    if unknown:
        fits = {name: mark.member for name, mark in marks.items() if not mark.sure}
        members |= decide(unknown, fits, shard, group, agreed)
    return shard, members


def _member(name: str, value: PlacedTensor) -> Member:
    """What a tensor that was computed from others is."""
    member = member_of(value.placement)
    if member is None:
        raise ShardError(
            f"argument {name!r} is no rows of all nodes or edges, as forward takes them, but {value.placement}: pass "
            "the tensors of the shard and let forward choose rows of them"
        )
    return member


def _known(member: Member, name: str, shard: Shard) -> Member:
    """A role that the user gave, which must speak of a set of the shard."""
    if member.role is Role.INDEX:
        raise ShardError(
            f"argument {name!r} is given the role {str(member)!r}: numbers of nodes are cut with the graph, put "
            "them into the data and give partition(..., roles=) the role"
        )
    nodes = member.role is Role.NODE
    sets = shard.node_sets if nodes else shard.edge_sets
    if member.role is not Role.REPLICATED and member.of not in sets:
        known = ", ".join(repr(f"{member.role.value}:{of}" if of else member.role.value) for of in sets)
        raise ShardError(f"argument {name!r} is given the role {str(member)!r}; this graph has {known}")
    return member


def whole_arguments(model: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments that hold tensors, by the name of forward's parameter."""
    return {
        name: value
        for name, value in _by_name(model, args, kwargs).items()
        if any(isinstance(t, Tensor) for t in pytree.tree_leaves(value))
    }


def from_data(
    model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any], dict[str, int]]:
    """Arguments taken by name from a single PyG ``Data`` or ``HeteroData``, and the numbers of nodes that it says.

    Raises:
        DataError: forward needs an argument that it does not have.
    """
    if len(args) != 1 or kwargs or not is_data(args[0]):
        return args, kwargs, {}
    (data,) = args
    found = {name: v for name in _parameters(model) if (v := getattr(data, name, None)) is not None}
    for name in _needed(model):
        if name not in found:
            raise DataError(
                f"forward needs {name!r}, which the {type(data).__name__} does not have: pass forward's arguments"
            )
    if hasattr(data, "node_types"):
        return (), found, {t: int(data[t].num_nodes) for t in data.node_types}
    return (), found, {"": int(data.num_nodes)}


def _spec(name: str, value: Tensor, member: Member, shard: Shard) -> TensorSpec:
    role, own = member.role, shard.own_sizes
    counts = {Role.NODE: own.nodes, Role.EDGE: own.edges, Role.INDEX: own.edges}.get(role)
    if counts is not None and (value.dim() == 0 or value.size(0) != counts[member.of]):
        raise ShardError(
            f"argument {name!r} is a {member} tensor of shape {list(value.shape)}, but this rank's shard "
            f"has {counts[member.of]} rows"
        )
    trailing: tuple[int, ...] = {
        Role.EDGE_INDEX: (2,),
        Role.PAIRS: (2,),
        Role.ADJACENCY: (),
        Role.REPLICATED: tuple(value.shape),
    }.get(role, tuple(value.shape[1:]))
    return TensorSpec(role, value.dtype, trailing, member.of, value.requires_grad)
