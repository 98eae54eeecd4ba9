"""What ranks compare before they exchange anything: a few numbers in each call, and words where these differ.

::

    rank 0   facts --> digest --+                       +--> run
                                +--> equal on all? -- yes
    rank 1   facts --> digest --+                  -- no --> exchange the facts, name what differs, raise

Facts are all that decides the program and its result: the model's classes, attributes, modes and shapes, options,
the partition, versions. Every rank sees the same digests, so either all exchange their facts or none does.
"""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from graphshard.capture.examples import TensorSpec
from graphshard.errors import RuntimeMismatch, module_called
from graphshard.execute.bind import Bound
from graphshard.execute.python_state import Array, Observed, attributes, describe
from graphshard.execute.unmarked import check_all
from graphshard.graph.roles import Role
from graphshard.options import Options
from graphshard.ranks.checksums import Contents, checksum, digest_of, words_of
from graphshard.ranks.groups import all_gather_numbers, all_gather_object
from graphshard.shard.placed import plain
from graphshard.version import __version__

Facts = dict[str, str]
"""What decides a result -> its value, both as a message says them."""

_MOST_NAMED = 4


@dataclass(frozen=True)
class Call:
    """One call of a distributed module, as far as ranks must agree on it.

    Attributes:
        model: the rank's module.
        own_rows: ``state_dict`` keys of the parameters of which each rank holds rows of its own.
        bound: the arguments.
        options: of the passes.
        check_every: how often values are compared.
        step: how many training forwards there were.
        observed: what its forward reads besides tensors.
        equal: whether the rank takes its parameters for equal to rank 0's; else this call makes them so.
        written: whether something else than an optimiser wrote to them since the last call.
        decided: what its forward decides by its buffers.
    """

    model: nn.Module
    own_rows: frozenset[str]
    bound: Bound
    options: Options
    check_every: int
    step: int
    observed: Observed
    equal: bool = True
    written: bool = False
    decided: Sequence[bool] = ()


def same_on_ranks(model: nn.Module, own_rows: frozenset[str]) -> Iterator[tuple[str, Tensor]]:
    """(what it is called in messages, tensor) of every parameter and buffer that all ranks hold alike.

    Tied ones come once. Own rows, and parameters that have no shape yet, are left out.
    """
    for name, parameter in model.named_parameters():
        if name not in own_rows and not is_lazy(parameter):
            yield f"parameter {name!r}", parameter
    for name, buffer in model.named_buffers():
        if name not in own_rows and not is_lazy(buffer):
            yield f"buffer {name!r}", buffer


def facts_of(call: Call) -> Facts:
    """All that must be equal on all ranks, but the values of parameters and buffers."""
    bound = call.bound
    return {
        "graphshard's version": str(__version__),
        "torch's version": torch.__version__,
        "torch's default dtype": str(torch.get_default_dtype()),
        "the partition (of one save, or of equal data cut alike)": bound.shard.partition_id,
        "torch.is_grad_enabled()": str(torch.is_grad_enabled()),
        "the option check_every": str(call.check_every),
        "the device": bound.signature.device.type,
        **{
            f"the option {f.name}": describe(getattr(call.options, f.name), str) for f in fields(call.options)
        },
        **{
            f"argument {name!r}": str(leaf)
            for name, leaf in zip(bound.signature.names, bound.signature.leaves, strict=True)
        },
        **_modules(call.model, call.observed.written),
        **dict(call.observed.facts(_content)),
        **_tensors(call.model, call.own_rows),
        "the arguments' structure": str(bound.signature.structure),
    }


def sums_of(model: nn.Module, own_rows: frozenset[str]) -> list[list[int]]:
    """A checksum of every parameter and buffer that all ranks hold alike."""
    return list(_sums_by_name(model, own_rows).values())


def values_of(call: Call) -> Facts:
    """A checksum of every parameter and buffer that all ranks hold alike, as facts."""
    return {
        f"the checksum of {name} after {call.step} training steps": "".join(words_of(sums))
        for name, sums in _sums_by_name(call.model, call.own_rows).items()
    }


def _sums_by_name(model: nn.Module, own_rows: frozenset[str]) -> dict[str, list[int]]:
    """What it is called -> its checksum; one copy from the device for all of them."""
    sums = {name: checksum(tensor) for name, tensor in same_on_ranks(model, own_rows)}
    if not sums:
        return {}
    device = next(iter(sums.values())).device
    return dict(zip(sums, torch.stack([s.to(device) for s in sums.values()]).tolist(), strict=True))


def digest(facts: Mapping[str, str]) -> int:
    """63 bits that differ where the facts do, their order included."""
    text = "\0".join(part for item in facts.items() for part in item)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest()) >> 1


class Agreement:
    """Comparisons of one distributed module; facts that were digested before are not put into words again."""

    def __init__(self) -> None:
        self._digests: dict[Hashable, int] = {}
        self._contents = Contents()

    def reach(self, call: Call, key: Hashable, captures: bool, values: bool, group: str) -> bool:
        """Meet all ranks and find out whether they are about to do the same. Collective.

        Args:
            call: this rank's.
            key: what a capture of the model depends on.
            captures: whether this rank has to capture the model for this call.
            values: compare the values of parameters and buffers as well.
            group: the process group's name.

        Returns:
            Whether any rank has to capture.

        Raises:
            RuntimeMismatch: on every rank, with the same sentence: the ranks differ.
        """
        known = (key, _outside(call))
        if known not in self._digests:
            self._digests[known] = digest(facts_of(call))
        now = {
            "the number of training steps": str(call.step),
            "this call's comparison of values": str(values),
            "whether something else than an optimiser wrote to parameters since the last call": str(
                call.written
            ),
            "what changed since the ranks were made equal (by a method of the model)": (
                "nothing" if call.equal else "parameters or buffers"
            ),
        }
        if (beside := call.bound.shard.beside) is not None and beside.since:
            now |= {f"{name}, outside of the model,": content for name, content in beside.since}
        if call.decided:
            now["what forward decides by its buffers"] = str(call.decided)
        for name, tensor in _held_alike(call.bound):
            now[f"the content of argument {name!r}"] = " ".join(self._contents.of(name, tensor))
        if values:
            now |= values_of(call)
        mine = [self._digests[known], digest(now), call.bound.shard.rank, int(captures)]
        everyone = all_gather_numbers(mine, call.bound.signature.device, group)
        check_functions(everyone, "", group)
        check_all(everyone, [], group)
        if any(other[:2] != everyone[0][:2] for other in everyone):
            raise RuntimeMismatch(_sentence(all_gather_object(facts_of(call) | now, group)))
        if beside is not None:
            beside.since.clear()
        for rank, (_, _, shard, _) in enumerate(everyone):
            if shard != rank:
                raise RuntimeMismatch(
                    f"rank {rank} holds shard {shard}: each rank must hold the shard of its own number"
                )
        return any(other[-1] for other in everyone)


_FUNCTION = -2
"""Opens the numbers of ranks that call a function of placed tensors; see ``unmarked.py`` for the others."""


def agree_on_function(
    words: str, rank: int, device: torch.device, group: str, beside: Beside | None = None
) -> None:
    """Meet all ranks and find out whether they call the same function of placed tensors. Collective.

    Args:
        words: what is called. rank: of the shard. device: of the tensors. group: the process group's name.
        beside: the plain tensors that functions were given since the ranks agreed last.

    Raises:
        RuntimeMismatch: on every rank: they do not, or they hold other tensors beside.
    """
    mine = 0 if beside is None else beside.digest
    everyone = all_gather_numbers([_FUNCTION, digest({"": words}), mine, rank], device, group)
    if any(other[:2] != everyone[0][:2] for other in everyone):
        check_functions(everyone, words, group)
    if beside is None:
        return
    if any(other[2] != everyone[0][2] for other in everyone):
        raise RuntimeMismatch(_other_beside(all_gather_object(beside.since, group)))
    beside.since.clear()


class Beside(Protocol):
    """Plain tensors that functions were given beside rows; see ``graphshard.border.beside``."""

    since: list[tuple[str, str]]

    @property
    def digest(self) -> int: ...


def _other_beside(everyone: list[list[tuple[str, str]]]) -> str:
    for rank, theirs in enumerate(everyone):
        for (name, mine), (_, other) in zip(everyone[0], theirs, strict=False):
            if mine != other:
                return (
                    f"{name} is {_short(mine)} on rank 0 but {_short(other)} on rank {rank}: a plain tensor beside "
                    "rows of the graph is one that every rank holds alike. Let ranks make it alike (graphshard.init() "
                    "seeds all as rank 0), give rows of this rank by shard.scatter(whole, 'node'), or keep the module "
                    "inside of the distributed one"
                )
    return "some ranks give more plain tensors beside rows of the graph than others"


def check_functions(everyone: list[list[int]], mine: str, group: str) -> None:
    """Either every rank calls one function of placed tensors or none does. Collective where they differ.

    Raises:
        RuntimeMismatch: on every rank, with the same sentence.
    """
    calls = [numbers[0] == _FUNCTION for numbers in everyone]
    if not any(calls) or (all(calls) and len({numbers[1] for numbers in everyone}) == 1):
        return
    words = all_gather_object(mine, group)
    other = next(rank for rank, numbers in enumerate(everyone) if numbers[:2] != everyone[0][:2])
    said = [str(words[rank]).partition("(")[0] if calls[rank] else "the model" for rank in (0, other)]
    if said[0] == said[1]:
        said[1] += " with other arguments"
    raise RuntimeMismatch(
        f"rank 0 calls {said[0]} where rank {other} calls {said[1]}: what is computed with rows of the graph is "
        "computed by all ranks together, so every rank must run the same lines (print on one rank what all have "
        "computed)"
    )


def _held_alike(bound: Bound) -> Iterator[tuple[str, Tensor]]:
    """The arguments that every rank is to hold alike."""
    flat = iter(bound.flat)
    for name, leaf in zip(bound.signature.names, bound.signature.leaves, strict=True):
        if isinstance(leaf, TensorSpec):
            tensors = [next(flat) for _ in range(leaf.width)]
            if leaf.role is Role.REPLICATED:
                yield name, tensors[0]


def _outside(call: Call) -> Hashable:
    """What facts depend on besides the attributes and arguments that a capture depends on."""
    tensors = (*call.model.parameters(), *call.model.buffers())
    return (
        torch.is_grad_enabled(),
        torch.get_default_dtype(),
        call.bound.shard.partition_id,
        tuple((id(t), t.dtype, None if is_lazy(t) else t.shape, t.requires_grad) for t in tensors),
    )


def _sentence(everyone: list[Facts]) -> str:
    first = everyone[0]
    rank, other = next(
        (rank, facts) for rank, facts in enumerate(everyone) if list(facts.items()) != list(first.items())
    )
    found = [
        f"{name} is {_short(first.get(name))} on rank 0 but {_short(other.get(name))} on rank {rank}"
        for name in {**first, **other}
        if first.get(name) != other.get(name)
    ] or [f"the modules or parameters of rank {rank} are made in another order than those of rank 0"]
    more = f"; and {len(found) - _MOST_NAMED} more" if len(found) > _MOST_NAMED else ""
    return (
        f"the ranks disagree on the call: {'; '.join(found[:_MOST_NAMED])}{more}. Every rank must make the same "
        "model, with the same options and of one partition's shards, and call it in the same way"
    )


def _short(value: str | None) -> str:
    if value is None:
        return "missing"
    return value if len(value) <= 80 else f"{value[:60]}... ({digest({'': value}):x})"


def _modules(model: nn.Module, written: frozenset[tuple[str, str]]) -> Facts:
    facts = {}
    for path, module in model.named_modules():
        kind = type(module)
        facts[f"the class of {module_called(path)}"] = f"{kind.__module__}.{kind.__qualname__}"
    for path, name, value in attributes(model):
        if (path, name) in written:
            continue
        if name == "training":
            facts[f"the mode of {module_called(path)}"] = "training" if value else "evaluation"
        else:
            facts[f"attribute {(f'{path}.{name}' if path else name)!r}"] = describe(value, _content)
    return facts


def _tensors(model: nn.Module, own_rows: frozenset[str]) -> Facts:
    facts: Facts = {}
    first: dict[int, str] = {}
    kinds = {
        "parameter": model.named_parameters(remove_duplicate=False),
        "buffer": model.named_buffers(remove_duplicate=False),
    }
    for kind, named in kinds.items():
        for name, tensor in named:
            called = f"{kind} {name!r}"
            facts[called] = _tensor(tensor, name in own_rows)
            if id(tensor) in first:
                facts[called] += f", the same as {first[id(tensor)]}"
            first.setdefault(id(tensor), called)
    return facts


def _tensor(tensor: Tensor, own_rows: bool) -> str:
    if is_lazy(tensor):
        return "not initialised"
    sizes = ["rows", *tensor.shape[1:]] if own_rows else list(tensor.shape)
    grad = ", requires_grad" if tensor.requires_grad else ""
    text = f"{str(tensor.dtype).removeprefix('torch.')}[{', '.join(map(str, sizes))}]{grad}"
    # A sparse one is not made equal: it must be.
    return text if tensor.layout is torch.strided else f"{text}, {tensor.layout}, {_content(tensor)}"


def _content(array: Array) -> str:
    """A tensor or array that is no parameter or buffer: capture bakes it in, so its content must be equal."""
    if isinstance(array, np.ndarray):
        if array.dtype == object:
            return "an array of objects"
        kind, array = str(array.dtype), torch.from_numpy(array.copy().reshape(-1).view(np.uint8))
    else:
        kind = str(array.dtype).removeprefix("torch.")
    return f"{kind}{list(plain(array).shape)} with content {digest_of([('', array)])[:8]}"
