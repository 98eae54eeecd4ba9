"""The constants of a graph: computed in the first step, kept as long as the data stays the same.

::

    program   A = structure(..)  ax = A x  |  y = linear(ax, W)     the marked part, once  |  the rest, every step
              ------ once --------------->  ------ step ------->

The data is the same while every argument that the constants read is the same memory with the same version (which
PyTorch counts up at every write in place) and the same quick checksum: a write through ``x.data`` or NumPy is not
counted. Programs of one model share what they compute in the same way: training and evaluation keep one copy.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, fx

from graphshard.infer.constants import ONCE
from graphshard.ir.program import Program
from graphshard.ir.value_numbers import Table, structure_of
from graphshard.private.torch_tensors import Seen
from graphshard.ranks.checksums import quick_checksum
from graphshard.ranks.groups import device_of_numbers, resolve
from graphshard.ranks.memory import return_free_memory, return_mapped_pages

_LARGE = 1 << 20
"""Bytes that the constants read from which on memory is given back after they are computed."""


@dataclass(frozen=True)
class Split:
    """A program in two parts.

    Attributes:
        program: the whole.
        kept: the marked values that a step reads, in order.
        step: the rest of the program: takes the inputs, then the kept values.
        reads: the numbers of the inputs that the marked part reads.
        exchanges: whether ranks communicate in the marked part.
    """

    program: Program
    kept: tuple[fx.Node, ...]
    step: fx.GraphModule
    reads: tuple[int, ...]
    exchanges: bool


def split(program: Program) -> Split | None:
    """Cut a program; None where nothing is marked."""
    once = [n for n in program.graph.nodes if n.meta.get(ONCE)]
    if not once:
        return None
    marked = set(once)
    kept = tuple(n for n in once if any(user not in marked for user in n.users))
    graph, made = fx.Graph(), dict[fx.Node, fx.Node]()
    placeholders = list(program.graph.find_nodes(op="placeholder"))
    for node in (*placeholders, *kept):
        made[node] = graph.placeholder(node.name)
    for node in program.graph.nodes:
        if node not in made and node not in marked:
            made[node] = graph.node_copy(node, lambda n: made[n])
    graph.eliminate_dead_code(lambda n: n.op in ("placeholder", "output"))
    read = {n for node in once for n in node.all_input_nodes if n.op == "placeholder"}
    reads = tuple(i for i, node in enumerate(placeholders) if node in read)
    # Whatever communicates is told over which group.
    groups = {spec.name for spec in program.inputs if (spec.kind, spec.target) == ("graph", "group")}
    exchanges = any(node.name in groups for node in read)
    return Split(program, kept, fx.GraphModule(program.module, graph), reads, exchanges)


@dataclass
class Constants:
    """The values of one model's constants, for the data of the last step.

    Attributes:
        data: the inputs that they were computed from, their versions and quick checksums; kept, so that no other takes
            their memory.
        values: by how they are computed.
        table: numbers the ways to compute something.
        numbers: of the kept values of each program, by these.
    """

    data: dict[Any, Read] = field(default_factory=dict)
    values: dict[int, Any] = field(default_factory=dict)
    table: Table = field(default_factory=dict)
    numbers: dict[int, tuple[Split, list[int]]] = field(default_factory=dict)

    def of(self, part: Split, inputs: Sequence[Any], group: str) -> list[Any]:
        """The kept values for these inputs of the program, computed where they are not known.

        Collective where the marked part communicates: all ranks compute if any of them has to.
        """
        numbers = self._numbers(part)
        read = _read(part, inputs)
        changed = any(key in self.data and not _is_same(self.data[key], new) for key, new in read.items())
        stale = changed or any(number not in self.values for number in numbers)
        if part.exchanges:
            stale = _any_rank(stale, group)
        if stale:
            if changed:
                self.values.clear()
                self.data.clear()
            with torch.inference_mode(False):  # a later step may train with them
                found = _compute(part, inputs)
            if not changed:  # data that changes in every step would pay for fresh pages in every step
                if _is_large(inputs[i] for i in part.reads):
                    return_free_memory()  # what led to them: the halo rows of wide features, unsorted edges
                return_mapped_pages(_read_once(part, inputs))  # edges, once their structure is there
            self.values.update(zip(numbers, found, strict=True))
            self.data.update(read)
        return [self.values[number] for number in numbers]

    def _numbers(self, part: Split) -> list[int]:
        if id(part) not in self.numbers:
            known = structure_of(part.program, self.table)
            self.numbers[id(part)] = part, [known[node] for node in part.kept]
        return self.numbers[id(part)][1]


def _is_large(values: Iterable[Any]) -> bool:
    """Whether what was freed beside these is worth the milliseconds that giving it back takes."""
    return sum(v.numel() * v.element_size() for v in values if isinstance(v, Tensor)) >= _LARGE


def _read_once(part: Split, inputs: Sequence[Any]) -> list[Tensor]:
    """The tensors that no step reads any more."""
    placeholders = list(part.step.graph.find_nodes(op="placeholder"))
    return [inputs[i] for i in part.reads if isinstance(inputs[i], Tensor) and not placeholders[i].users]


def apart(results: Sequence[Any], kept: Sequence[Any]) -> list[Any]:
    """The results of a step, those that are kept values (or views of them) as copies, which a caller may write to."""
    places = {t.untyped_storage().data_ptr() for value in kept for t in _tensors(value)}
    return [
        r.clone() if isinstance(r, Tensor) and r.untyped_storage().data_ptr() in places else r
        for r in results
    ]


def _tensors(value: Any) -> list[Tensor]:
    return [value] if isinstance(value, Tensor) and value.layout is torch.strided else []


Read = tuple[Any, tuple[int, ...]]
"""An input, a tensor as :class:`Seen`, and its quick checksum."""


def _read(part: Split, inputs: Sequence[Any]) -> dict[Any, Read]:
    """What the marked part reads; the user's tensors with checksums, which come from their device together."""
    specs = [(spec.kind, spec.target, spec.of) for spec in part.program.inputs]
    owned = [i for i in part.reads if specs[i][0] == "user" and isinstance(inputs[i], Tensor)]
    sums: dict[int, tuple[int, ...]] = {}
    if owned:
        found = torch.stack([quick_checksum(inputs[i]) for i in owned]).tolist()
        sums = {i: tuple(numbers) for i, numbers in zip(owned, found, strict=True)}
    return {specs[i]: (_seen(inputs[i]), sums.get(i, ())) for i in part.reads}


def _seen(value: Any) -> Any:
    return Seen.now(value) if isinstance(value, Tensor) else value


def _is_same(old: Read, new: Read) -> bool:
    """Whether an input is what it was: the same memory, not written to since; anything but a tensor by value."""
    (a, before), (b, after) = old, new
    if not isinstance(a, Seen) or not isinstance(b, Seen):
        return bool(a == b)
    return a.is_still(b.tensor) and before == after


def _any_rank(mine: bool, group: str) -> bool:
    """Whether it is so on any rank."""
    pg = resolve(group)
    if pg is None:
        return mine
    flag = torch.tensor([mine], dtype=torch.int32, device=device_of_numbers(pg))
    dist.all_reduce(flag, op=dist.ReduceOp.MAX, group=pg)
    return bool(flag.item())


def _compute(part: Split, inputs: Sequence[Any]) -> list[Any]:
    """Every marked value that a step reads; what only leads to them is freed on the way."""
    marked = [n for n in part.program.graph.nodes if n.meta.get(ONCE)]
    left = {node: sum(user in marked for user in node.users) for node in marked}
    placeholders = part.program.graph.find_nodes(op="placeholder")
    known: dict[fx.Node, Any] = dict(zip(placeholders, inputs, strict=True))
    with torch.no_grad():
        for node in marked:
            args, kwargs = fx.map_arg((node.args, node.kwargs), lambda n: known[n])
            known[node] = node.target(*args, **kwargs)
            for value in node.all_input_nodes:
                if value in left:
                    left[value] -= 1
                    if not left[value] and value not in part.kept:
                        del known[value]
    return [known[node] for node in part.kept]
