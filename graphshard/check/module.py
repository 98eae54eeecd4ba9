"""Check a compiled program against the untouched module, on a second example of another size."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from graphshard.capture.examples import Signature, example_inputs, sizes_for
from graphshard.capture.export import run_and_take
from graphshard.check.compare import largest_difference
from graphshard.check.fixed_random import drop_dropout, without_dropout
from graphshard.errors import CaptureError
from graphshard.execute.run import Compiled, State, graph_inputs, program_inputs
from graphshard.graph.schema import Schema, Sizes
from graphshard.private import pytree
from graphshard.shard.halo import HaloPlan
from graphshard.shard.parts import EdgeShard, NodeShard
from graphshard.shard.shard import Shard

Values = dict[str, Tensor | None]
"""Outputs and gradients by name; None where there is no gradient."""


def whole_graph(schema: Schema, sizes: Sizes) -> Shard:
    """The shard of a single rank, without tensors."""
    node_sets = {
        name: NodeShard(
            count,
            {plan: HaloPlan.single(count) for plan in schema.plans(name)},
            {plan: torch.arange(count) for plan in schema.plans(name)},
        )
        for name, count in sizes.nodes.items()
    }
    edge_sets = {
        e.name: EdgeShard(e, sizes.edges[e.name], torch.arange(sizes.edges[e.name])) for e in schema.edges
    }
    return Shard(0, 1, node_sets, edge_sets, {}, {})


def check_capture(model: nn.Module, compiled: Compiled) -> None:
    """Outputs and parameter gradients of the program on one rank must equal the module's.

    Raises:
        CaptureError: they do not: something in the module escaped capture.
    """
    _, sizes = sizes_for(model, compiled.captured.signature)
    # Twice: what a module keeps between calls may agree with the captured call by chance.
    for seed in (1, 2):
        check_size(model, compiled, sizes, seed)


SMALL = 4
"""From this size on a graph is captured for; below, a model may have taken another branch."""
_ENOUGH = 53


def small_sizes(sizes: Sizes) -> Sizes | None:
    """Sizes to check for a graph that has a very small set; None for any other. Large sets need not be as large."""
    if min((*sizes.nodes.values(), *sizes.edges.values())) >= SMALL:
        return None
    nodes, edges = (
        {name: min(count, _ENOUGH) for name, count in counts.items()} for counts in (sizes.nodes, sizes.edges)
    )
    return Sizes(nodes, edges)


def check_size(model: nn.Module, compiled: Compiled, sizes: Sizes, seed: int = 1) -> None:
    """The same for a graph of these sizes, the number of nodes and edges of a very small graph included.

    Raises:
        CaptureError: the module does something else on a graph of this size.
    """
    signature = compiled.captured.signature
    flat = example_inputs(signature, sizes, seed)
    rows = signature.restore_parameters(flat)
    inputs = _inputs_with_gradient(signature, flat)
    trainable = signature.restore_trainable(flat)
    for value in (*trainable.values(), *inputs.values()):
        value.requires_grad_()
    state = State.of(model)
    state = State({**state.parameters, **rows}, {**state.buffers, **rows})
    plain = drop_dropout(compiled).program
    graph = graph_inputs(whole_graph(signature.schema, sizes).to(signature.device), "", (0, 0))
    graph |= {
        ("given_ids", (name,)): torch.arange(count, device=signature.device)
        for name, count in sizes.given.items()
    }

    def program() -> list[Tensor]:
        results = plain.module(*program_inputs(plain, state, flat, graph))
        return plain.user_values(results)

    def eager(values: Mapping[str, Tensor], inputs: Sequence[Tensor]) -> list[Tensor]:
        with without_dropout():
            result = run_and_take(model, signature, inputs, compiled.captured.written, values)
        return [leaf for leaf in pytree.tree_leaves(result) if isinstance(leaf, Tensor)]

    own = {n: p for n, p in model.named_parameters() if n not in rows}
    wanted = {n: p for n, p in {**own, **trainable, **inputs}.items() if p.requires_grad}
    ours = _evaluate(program(), wanted)
    theirs = _evaluate(eager({}, flat), wanted)
    _compare(ours, theirs, _Rounding(signature, own, flat, eager, theirs))


def _compare(ours: Values, theirs: Values, rounding: _Rounding) -> None:
    """Refuse a value that differs by more than rounding; what rounding does is measured where it may matter."""
    for name, expected in theirs.items():
        got = ours.get(name)
        if (got is None) != (expected is None) and not (_is_zero(got) and _is_zero(expected)):
            raise CaptureError(
                f"the captured program and the model disagree on whether {name} exists; please report this "
                "model"
            )
        if got is None or expected is None or close(got, expected):
            continue
        distance = _distance(got, expected)
        if not rounding.explains(name, distance):
            raise CaptureError(
                f"the captured program does not compute what the model does: {name} differs by {distance:.2g}, where "
                f"rounding explains {rounding.bound(name):.2g}. Something in forward escaped capture (state kept "
                "between calls, a Python side effect, code that runs differently under torch.export)"
            )


class _Rounding:
    """How far rounding may move each value: a few times what the model does to a last bit of all that it reads.

    Monte Carlo arithmetic (Parker, 1997): parameters and inputs are changed by up to a unit of rounding, at random.
    A gradient that is zero on paper (of a bias before a batch norm) is such noise alone, and a value at the kink of
    a rectifier falls to either side. Tried until a difference is explained, and not at all where there is none.

    A module that gives something else when it is called once more keeps a state: that is no rounding.
    """

    def __init__(
        self,
        signature: Signature,
        parameters: Mapping[str, Tensor],
        flat: Sequence[Tensor],
        eager: Callable[[Mapping[str, Tensor], Sequence[Tensor]], list[Tensor]],
        exact: Values,
    ) -> None:
        self._signature, self._parameters, self._flat = signature, parameters, flat
        self._eager, self._exact = eager, exact
        self._largest = dict.fromkeys(exact, 0.0)
        self._scales: dict[str, float] = {}
        for name, value in exact.items():
            kind = name.split()[0]
            self._scales[kind] = max(self._scales.get(kind, 0.0), 0.0 if value is None else _magnitude(value))
        self._generator = torch.Generator().manual_seed(0)
        self._left = _TRIALS

    def bound(self, name: str) -> float:
        """What the trials so far explain, and a few units of rounding of the largest value of the kind."""
        value = self._exact[name]
        unit = torch.finfo(value.dtype).eps if value is not None and value.is_floating_point() else 0.0
        return _MARGIN * self._largest[name] + _UNITS * unit * self._scales[name.split(maxsplit=1)[0]]

    def explains(self, name: str, distance: float) -> bool:
        """Whether a difference is no more than rounding."""
        while distance > self.bound(name) and self._left:
            self._try()
        return distance <= self.bound(name)

    def _try(self) -> None:
        self._left -= 1
        wanted = {n: p for n, p in self._parameters.items() if p.requires_grad}
        wanted |= self._rows(self._flat)
        # Devices that add in any order differ from run to run in gradients that are noise; a CPU does not.
        kinds = ("output", "the") if self._signature.device.type == "cpu" else ("output",)
        if not _same(_evaluate(self._eager({}, self._flat), wanted), self._exact, kinds):
            self._left = 0
            return
        moved = {n: _moved(p, self._generator) for n, p in self._parameters.items()}
        inputs = [_moved(t, self._generator) for t in self._flat]
        leaves = {n: p for n, p in moved.items() if p.requires_grad} | self._rows(inputs)
        for name, value in _evaluate(self._eager(moved, inputs), leaves).items():
            reference = self._exact.get(name)
            if value is not None and reference is not None:
                self._largest[name] = max(self._largest[name], _distance(value, reference))

    def _rows(self, flat: Sequence[Tensor]) -> dict[str, Tensor]:
        return self._signature.restore_trainable(flat) | _inputs_with_gradient(self._signature, flat)


def _inputs_with_gradient(signature: Signature, flat: Sequence[Tensor]) -> dict[str, Tensor]:
    """The arguments whose gradient a backward computes, by what they are called."""
    return {name: flat[place] for name, place in gradient_inputs(signature).items()}


def gradient_inputs(signature: Signature) -> dict[str, int]:
    """What the arguments whose gradient a backward computes are called -> their places among the flat inputs."""
    found, place = {}, 0
    for number, spec in enumerate(signature.tensors):
        if spec.needs_grad and spec.dtype.is_floating_point and number < len(signature.arguments):
            found[f"input {number}"] = place + spec.width - 1
        place += spec.width
    return found


def _same(values: Values, others: Values, kinds: tuple[str, ...]) -> bool:
    """Whether two runs of the module gave the same, in what is called by one of these first words."""
    for name, other in others.items():
        value = values.get(name)
        if not name.startswith(kinds) or (value is None and other is None):
            continue
        if value is None or other is None or not close(value, other):
            return False
    return True


_TRIALS = 12
_MARGIN, _UNITS = 12.0, 64
"""The program sums in an order of its own, in which errors of several operations add up."""


def _moved(tensor: Tensor, generator: torch.Generator) -> Tensor:
    """A floating tensor with each number changed by up to a unit of rounding; a leaf that needs what it needed."""
    if not tensor.is_floating_point():
        return tensor
    noise = torch.rand(tensor.shape, generator=generator, dtype=torch.float64).to(tensor.device) * 2 - 1
    changed = tensor.detach().double() * (1 + noise * torch.finfo(tensor.dtype).eps)
    return changed.to(tensor.dtype).requires_grad_(tensor.requires_grad)


def _distance(got: Tensor, expected: Tensor) -> float:
    """The largest difference; infinite where shapes, dtypes or the places of what is not finite differ."""
    if got.shape != expected.shape or got.dtype != expected.dtype:
        return math.inf
    return largest_difference(got, expected)


def _evaluate(outputs: Sequence[Tensor], parameters: Mapping[str, Tensor]) -> Values:
    """The outputs, and the gradient of each parameter."""
    found: Values = {f"output {i}": t.detach() for i, t in enumerate(outputs)}
    terms = [_weighted(t) for t in outputs if t.requires_grad and t.is_floating_point()]
    if not terms or not parameters:
        return found
    total = torch.stack(terms).sum()
    grads = torch.autograd.grad(total, list(parameters.values()), allow_unused=True)
    return found | {f"the gradient of {n}": g for n, g in zip(parameters, grads, strict=True)}


def _weighted(t: Tensor) -> Tensor:
    """A sum with a different weight for each element, so that no two errors cancel."""
    weights = torch.linspace(0.5, 1.5, max(t.numel(), 1), dtype=torch.float64, device=t.device)
    return (t.double().reshape(-1) * weights[: t.numel()]).sum()


def _is_zero(t: Tensor | None) -> bool:
    return t is None or not bool(t.any())


def _magnitude(t: Tensor) -> float:
    return float(t.double().abs().nan_to_num(0, 0, 0).max()) if t.numel() else 0.0


def close(got: Tensor, expected: Tensor) -> bool:
    """Equal up to the rounding of another order of summation, NaN where NaN is expected."""
    if got.shape != expected.shape or got.dtype != expected.dtype:
        return False
    if not expected.is_floating_point():
        return bool(torch.equal(got, expected))
    tolerance = {torch.float64: 1e-8, torch.float32: 1e-3}.get(expected.dtype, 5e-2)
    allowed = tolerance * max(_magnitude(expected), 1e-6)
    return bool(torch.allclose(got, expected, rtol=tolerance, atol=allowed, equal_nan=True))
