"""A function that was called before with arguments of the same kind: what a further call does not work out anew."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from graphshard.border.beside import beside_of
from graphshard.border.counts import RowCount
from graphshard.border.function_program import Arguments, FunctionProgram
from graphshard.border.values import Naming, digest, names_of, placed_outputs
from graphshard.execute.agreement import agree_on_function
from graphshard.execute.constants import Constants
from graphshard.execute.run import State, graph_inputs, run
from graphshard.ir.placement import Given
from graphshard.kernels.random_bits import random_key
from graphshard.ranks.groups import drawn_number
from graphshard.shard.placed import PlacedTensor, new_name, plain
from graphshard.shard.shard import Shard


@dataclass(frozen=True)
class Kind:
    """A call, as far as a program depends on it.

    Attributes:
        func: the function.
        key: equal for calls that run the same program.
        tensors: its arguments that are tensors, in order.
        placed: those of them that are placed.
    """

    func: Callable[..., Any]
    key: Hashable
    tensors: list[Tensor]
    placed: list[PlacedTensor]


def kind_of(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Kind:
    """What kind of call it is."""
    tensors: list[Tensor] = []
    given: dict[str, int] = {}
    structure = _structure((args, kwargs), tensors, given)
    placed = [t for t in tensors if isinstance(t, PlacedTensor)]
    key = func, torch.is_grad_enabled(), torch.get_default_dtype(), structure
    return Kind(func, key, tensors, placed)


def _structure(value: Any, tensors: list[Tensor], given: dict[str, int]) -> Hashable:
    """How arguments are nested, and of what kind each is; tensors are noted in the order of a pytree."""
    if isinstance(value, PlacedTensor):
        tensors.append(value)
        origin, part = value.origin, value.part
        rows = None if origin.given is None else given.setdefault(origin.given, len(given))
        shape = (
            part.shape if origin.dim is None else (*part.shape[: origin.dim], *part.shape[origin.dim + 1 :])
        )
        return origin.kind, rows, part.dtype, shape, part.device, value.requires_grad
    if isinstance(value, Tensor):
        tensors.append(value)
        return Tensor, value.dtype, value.shape, value.device, value.layout, value.requires_grad
    if isinstance(value, (tuple, list)):
        return type(value), tuple([_structure(v, tensors, given) for v in value])
    if isinstance(value, dict):
        return dict, tuple([(k, _structure(v, tensors, given)) for k, v in value.items()])
    if isinstance(value, slice):
        value = (slice, value.start, value.stop, value.step)
    return _plain_kind(value, given)


def _plain_kind(value: Any, given: dict[str, int]) -> Hashable:
    """Of what kind a leaf is that is no tensor."""
    if isinstance(value, RowCount):
        rows = value.rows
        return RowCount, given.get(rows.name, -1) if isinstance(rows, Given) else str(rows)
    if isinstance(value, float):
        return float, repr(value)  # nan is not equal to itself, and -0.0 is to 0.0
    return type(value), value if isinstance(value, Hashable) else id(value)


class Known:
    """A compiled function on one shard.

    Args:
        function: compiled.
        arguments: of its first call.
        shard, group: this rank's, and the process group's name.
    """

    def __init__(self, function: FunctionProgram, arguments: Arguments, shard: Shard, group: str) -> None:
        self.function, self._shard, self._group = function, shard, group
        self.func = arguments.function.func
        self._words, self._short = arguments.words, digest(arguments.words)
        compiled = function.compiled
        self.single = not function.writes and compiled.captured.returns_one
        self._given = arguments.given
        self._parts = graph_inputs(shard, group, (0, 0))

    @property
    def is_random(self) -> bool:
        """Whether it draws random numbers: then it gives something else in every call."""
        return self.function.compiled.has_dropout

    def run(self, tensors: Sequence[Tensor]) -> list[Any]:
        """What the program returns, placed. Collective where it communicates."""
        if self.function.communicates:
            agree_on_function(
                self._words, self._shard.rank, tensors[0].device, self._group, beside_of(self._shard)
            )
        given, ids = self._rows_handed_in(tensors)
        graph = self._parts | {("given_ids", (name,)): places for name, places in ids.items()}
        if self.is_random:
            graph["dropout_key", ()] = random_key(drawn_number(self._group), 0)
        compiled = self.function.compiled
        outputs = run(compiled, State({}, {}), [plain(t) for t in tensors], graph, Constants())
        names = names_of(tensors)
        # The same function of the same values gives the same again, which masks are known by.
        known = not self.is_random and None not in names
        call = digest(f"{self._short}:{names}") if known else new_name()
        naming = Naming(compiled.program, names, given, call)
        outside = {given[name]: places for name, places in ids.items()}
        return placed_outputs(outputs, self._shard, self._group, naming, outside, call)

    def _rows_handed_in(self, tensors: Sequence[Tensor]) -> tuple[dict[str, str], dict[str, Tensor]]:
        """Rows that other programs made: their name in the program -> outside, and -> their places in the whole."""
        given: dict[str, str] = {}
        ids: dict[str, Tensor] = {}
        if not self._given:
            return given, ids
        for tensor in tensors:
            outside = tensor.origin.given if isinstance(tensor, PlacedTensor) else None
            if outside is None or outside in given.values():
                continue
            name = self._given[len(given)]
            given[name] = outside
            if tensor.ids is not None:  # type: ignore[attr-defined]
                ids[name] = tensor.ids  # type: ignore[attr-defined]
        return given, ids
