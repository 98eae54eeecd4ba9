"""Capture a module with torch.export: a flat ATen graph in which every gather by edge is visible."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from graphshard.capture.calls import refuse_unseen_calls
from graphshard.capture.clean import prepare
from graphshard.capture.decisions import Decider, Decisions, may_decide
from graphshard.capture.examples import Signature, dynamic_shapes, example_inputs, sizes_for
from graphshard.capture.explain import explained, first_line, user_place
from graphshard.capture.fixed_sizes import FixedSizeError, StopAtFixedSize
from graphshard.capture.functions import capturable_functions
from graphshard.capture.layers import capturable_layers
from graphshard.capture.outputs import check_kinds, check_same, has_other_values
from graphshard.capture.refusals import (
    check_arguments,
    check_module,
    refuse_adjacency_in_layers,
    refuse_custom_functions,
)
from graphshard.capture.replacements import REPLACED, replaced_functions
from graphshard.capture.shims import symbolic_numbers
from graphshard.capture.to_program import to_program
from graphshard.capture.writes import Attribute, find_writes, kept_apart, refuse_observers, taken
from graphshard.errors import CaptureError, GraphshardError
from graphshard.ir.program import Program
from graphshard.private import pytree
from graphshard.private.fake_tensors import without_cache
from graphshard.private.pyg import without_segment_matmul
from graphshard.private.torch_export import import_tracer
from graphshard.private.torch_export_errors import is_about_the_model, is_fixed_size


@dataclass
class Captured:
    """A captured module.

    Attributes:
        program: the graph, its placeholders placed.
        signature: the arguments it was captured for.
        outputs: what forward returned, each tensor replaced by its number among the program's user outputs.
        structure: how the outputs make up the return value, and what forward leaves on its modules.
        written: the attributes in which forward leaves something.
        in_place: those of them whose list or dict stays the same object.
        decisions: what forward decided by buffers.
    """

    program: Program
    signature: Signature
    outputs: list[Any] = field(default_factory=list)
    structure: pytree.TreeSpec | None = None
    written: tuple[Attribute, ...] = ()
    in_place: frozenset[Attribute] = frozenset()
    decisions: Decisions = field(default_factory=Decisions)

    def restore_outputs(self, values: Sequence[Tensor]) -> Any:
        """Forward's return value, and a list of what it leaves, from the user outputs of the program."""
        leaves = [values[o.number] if isinstance(o, OutputNumber) else o for o in self.outputs]
        assert self.structure is not None
        return pytree.tree_unflatten(leaves, self.structure)

    @property
    def returns_one(self) -> bool:
        """Whether forward returns a tensor and nothing else, or as the first of a pair with an empty list, and leaves
        nothing."""
        return len(self.outputs) == 1 and isinstance(self.outputs[0], OutputNumber)

    def left_numbers(self) -> list[list[int]]:
        """For each attribute in ``written`` the numbers of its tensors among the user outputs."""
        assert self.structure is not None
        _, left = pytree.tree_unflatten(self.outputs, self.structure)
        return [
            [leaf.number for leaf in pytree.tree_leaves(value) if isinstance(leaf, OutputNumber)]
            for value in left
        ]


@dataclass(frozen=True)
class OutputNumber:
    """Stands for a tensor in a flattened return value."""

    number: int


@dataclass
class _Way:
    """Keeps what forward decided: an attribute of a module is put back when torch.export has traced it."""

    decisions: Decisions = field(default_factory=Decisions)


class _Flat(nn.Module):
    """The user's module with flat tensor inputs and outputs."""

    def __init__(self, model: nn.Module, signature: Signature, written: tuple[Attribute, ...]) -> None:
        super().__init__()
        self.model = model
        self.signature = signature
        self.written = written
        self.watch = False
        cut = {name for name, _ in signature.parameters}
        self.real_buffers = {
            name: buffer for name, buffer in model.named_buffers() if name not in cut and may_decide(buffer)
        }
        self.way = _Way()
        self.train(model.training)
        # train() reaches into the user's submodules: it must leave their own modes alone.

    def train(self, mode: bool = True) -> _Flat:
        self.training = mode
        return self

    def forward(self, *flat: Tensor) -> tuple[Tensor, ...]:
        with kept_apart(self.model) if self.written else contextlib.nullcontext():
            return self._run(flat)

    def _run(self, flat: Sequence[Tensor]) -> tuple[Tensor, ...]:
        args, kwargs = self.signature.restore(flat)
        with StopAtFixedSize(flat) if self.watch else contextlib.nullcontext(), self._deciding():
            if parameters := self.signature.restore_parameters(flat):
                result = torch.func.functional_call(self.model, parameters, args, kwargs)
            else:
                result = self.model(*args, **kwargs)
            left = taken(self.model, self.written)
            leaves = pytree.tree_leaves((result, left))
        check_kinds((result, left))
        return tuple(leaf for leaf in leaves if isinstance(leaf, Tensor))

    @contextlib.contextmanager
    def _deciding(self) -> Iterator[None]:
        """Inside the block forward decides by the real buffers."""
        traced = {name: buffer for name, buffer in self.model.named_buffers() if name in self.real_buffers}
        if not traced:
            yield
            return
        with Decider(self.real_buffers, traced) as decider:
            yield
        self.way.decisions = decider.decisions.trimmed()


def capture(model: nn.Module, signature: Signature, known: frozenset[Attribute] = frozenset()) -> Captured:
    """Capture ``model`` in its present mode for arguments of this signature.

    Args:
        model: the module; it is left as it is.
        signature: of the arguments.
        known: the attributes in which programs of other modes leave something.

    Raises:
        CaptureError: the module cannot be captured exactly; names the module, the source line and the way out.
    """
    import_tracer()  # it draws random numbers, which the model would be blamed for
    check_module(model)
    check_arguments(
        {n: v for n, v in zip(signature.names, signature.leaves, strict=True) if v not in signature.tensors}
    )
    with (
        refuse_custom_functions(),
        refuse_unseen_calls(),
        kept_apart(model),
        refuse_observers(model),
        refuse_adjacency_in_layers(model),  # by a hook, which must not be taken for the user's
    ):
        signature, flat, _ = _first_run(model, signature)
    written, in_place = find_writes(model, _runner(model, signature, flat), known)
    result = _check_outputs(model, signature, flat, written)
    with _without_gradients(model):
        program, decisions = _program(model, signature, written, flat)
    leaves, structure = pytree.tree_flatten(result)
    numbers = iter(range(len(leaves)))
    outputs = [OutputNumber(next(numbers)) if isinstance(leaf, Tensor) else leaf for leaf in leaves]
    return Captured(program, signature, outputs, structure, written, in_place, decisions)


def _program(
    model: nn.Module, signature: Signature, written: tuple[Attribute, ...], flat: list[Tensor]
) -> tuple[Program, Decisions]:
    module = _Flat(model, signature, written)
    exported = _export(module, signature, flat)
    try:
        return to_program(prepare(exported), signature), module.way.decisions
    except GraphshardError:
        raise
    except Exception as error:
        raise explained(error, model) from error


def _runner(model: nn.Module, signature: Signature, flat: Sequence[Tensor]) -> Callable[[int], Any]:
    """Runs the module on the first examples (0), on others of the same size (1), and of another (2)."""
    first, second = sizes_for(model, signature)

    def run(number: int) -> Any:
        sizes = second if number == 2 else first
        return run_eagerly(
            model, signature, flat if not number else example_inputs(signature, sizes, seed=number)
        )

    return run


def run_and_take(
    model: nn.Module,
    signature: Signature,
    flat: Sequence[Tensor],
    written: Sequence[Attribute],
    parameters: Mapping[str, Tensor] | None = None,
) -> tuple[Any, list[Any]]:
    """Forward's result as of :func:`run_eagerly`, and what it leaves; the module stays as it is."""
    if not written:
        return run_eagerly(model, signature, flat, parameters), []
    with kept_apart(model):
        return run_eagerly(model, signature, flat, parameters), taken(model, written)


def _check_outputs(
    model: nn.Module, signature: Signature, flat: Sequence[Tensor], written: Sequence[Attribute]
) -> Any:
    """What forward returns and leaves; refused where it holds other than tensors that another graph changes."""
    found = run_and_take(model, signature, flat, written)
    check_kinds(found[0])
    if has_other_values(found[0]):
        _, sizes = sizes_for(model, signature)
        again = run_and_take(model, signature, example_inputs(signature, sizes, seed=3), written)
        check_same(found[0], again[0])
    return found


def _first_run(model: nn.Module, signature: Signature) -> tuple[Signature, list[Tensor], Any]:
    """Example inputs on which the module runs, best to finite numbers, and its result.

    Raises:
        CaptureError: the module fails on all examples, as it says of the plainest.
    """
    sizes, _ = sizes_for(model, signature)
    refused: CaptureError | None = None
    found: tuple[Signature, list[Tensor], Any] | None = None
    for tried in _with_two_graphs(signature):
        flat = example_inputs(tried, sizes)
        try:
            result = run_eagerly(model, tried, flat)
        except CaptureError as error:
            refused = refused or error
            continue
        found = found or (tried, flat, result)
        if _is_finite(result):
            return tried, flat, result
    if found is None:
        assert refused is not None
        raise refused
    return found


def _with_two_graphs(signature: Signature) -> Iterator[Signature]:
    """The signature; then with two graphs in every tensor that may number graphs, and in each alone."""
    yield signature
    may = [i for i, spec in enumerate(signature.tensors) if spec.may_number_graphs]
    chosen = [frozenset(may), *(frozenset([i]) for i in may)] if len(may) > 1 else [frozenset(may)] * len(may)
    for numbers in chosen:
        yield replace(signature, two_graphs=numbers)


def _is_finite(result: Any) -> bool:
    tensors = [t for t in pytree.tree_leaves(result) if isinstance(t, Tensor) and not t.is_meta]
    numbers = [t for t in tensors if t.is_floating_point()]
    return all(bool(t.isfinite().all()) for t in numbers)


def run_eagerly(
    model: nn.Module,
    signature: Signature,
    flat: Sequence[Tensor],
    parameters: Mapping[str, Tensor] | None = None,
) -> Any:
    """The untouched module on flat inputs; its buffers and the random state stay as they are.

    Args:
        parameters: what stands in the place of some of its parameters, by state_dict key.

    Raises:
        CaptureError: the module itself fails on the example inputs.
    """
    args, kwargs = signature.restore(flat)
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    before = dict(buffers)
    buffers.update(parameters or {})
    rows = signature.restore_parameters(flat)
    buffers.update(rows)
    try:
        with uncompiled(), torch.random.fork_rng(devices=_with_random_state(signature)):
            result = torch.func.functional_call(model, buffers, args, kwargs)
    except GraphshardError:
        raise
    except Exception as error:
        place = user_place(error, model)
        raise CaptureError(
            f"the model fails on example inputs ({_shapes(signature, flat)}){place}: "
            f"{type(error).__name__}: {first_line(error)}"
        ) from error
    # functional_call leaves in the mapping what the module holds after the call.
    for name, buffer in before.items():
        if buffers[name] is not rows.get(name, buffer):
            raise CaptureError(
                f"forward puts a new tensor in the place of the buffer {name!r}, which a captured program would "
                f"not do: write into it, as in self.{name}.copy_(...)"
            )
    return result


def uncompiled() -> contextlib.AbstractContextManager[Any]:
    """Run what is under ``torch.compile`` as it is written: its compiled code shows no ops to capture."""
    stance: contextlib.AbstractContextManager[Any] = torch.compiler.set_stance("force_eager")
    return stance


def _with_random_state(signature: Signature) -> list[torch.device]:
    """The devices, other than the CPU, whose random state a model may use."""
    return [signature.device] if signature.device.type == "cuda" else []


def _shapes(signature: Signature, flat: Sequence[Tensor]) -> str:
    names = [
        n for n, leaf in zip(signature.names, signature.leaves, strict=True) if leaf in signature.tensors
    ]
    if len(names) != len(flat):
        return f"{len(flat)} tensors"
    return ", ".join(f"{name} {list(t.shape)}" for name, t in zip(names, flat, strict=True))


def _export(flat_module: _Flat, signature: Signature, flat: list[Tensor]) -> ExportedProgram:
    problem: Exception | None = None
    for strict in (False, True):
        try:
            return _export_once(flat_module, signature, flat, strict=strict)
        except GraphshardError:
            raise
        except Exception as error:
            # The first error speaks of the user's code; strict mode's often of dynamo.
            problem = problem or error
    assert problem is not None
    if is_fixed_size(problem):
        flat_module.watch = True
        try:
            _export_once(flat_module, signature, flat, strict=False)
        except FixedSizeError as found:
            problem = found
        except Exception as error:
            if not is_about_the_model(error):  # then nothing was found that says more
                raise
    raise explained(problem, flat_module.model) from problem


def _export_once(
    flat_module: _Flat, signature: Signature, flat: list[Tensor], *, strict: bool
) -> ExportedProgram:
    with (
        _quiet(),
        without_cache(),
        without_segment_matmul(),  # PyG chooses a kernel by the data; the plain loop captures
        symbolic_numbers(flat_module.model),
        capturable_layers(),
        capturable_functions(),
        contextlib.nullcontext() if strict or not REPLACED else replaced_functions(),
        contextlib.nullcontext() if strict else uncompiled(),
        torch.random.fork_rng(devices=_with_random_state(signature)),
    ):
        shapes = (dynamic_shapes(signature),)
        return torch.export.export(flat_module, tuple(flat), dynamic_shapes=shapes, strict=strict)


@contextlib.contextmanager
def _without_gradients(model: nn.Module) -> Iterator[None]:
    """Put the parameters' gradients aside, of which torch.export would make examples too."""
    kept = [(parameter, parameter.grad) for parameter in model.parameters()]
    try:
        for parameter, _ in kept:
            parameter.grad = None
        yield
    finally:
        for parameter, grad in kept:
            parameter.grad = grad


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """torch.export logs and prints the graph so far when it fails; the error that is raised says it better."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


__all__ = ["Captured", "capture", "run_and_take", "run_eagerly", "uncompiled"]
