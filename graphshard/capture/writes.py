"""What forward leaves on its modules: found by running it on examples, and given back after each run of a program.

::

    run on examples:   before ---- forward ----> after        what differs was written
    forward again, from before and from after:                the same results? then a call depends on no other

A tensor (or a list, tuple or dict of tensors and plain values) that every call writes anew becomes an output of the
program, which is put on the module after each run. What a call keeps for the next is refused.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from graphshard.capture.calls import is_library
from graphshard.capture.outputs import check_kinds, check_same
from graphshard.capture.reads import Place, Reads
from graphshard.errors import CaptureError, module_called
from graphshard.private import pytree
from graphshard.private.torch_modules import forward_hooks

Attribute = tuple[str, str]
"""A module's path and the name of one of its attributes."""


def taken(model: nn.Module, attributes: Sequence[Attribute]) -> list[Any]:
    """What forward has left, by attribute, in copies of its lists and dicts; a call that left nothing has None."""
    found = [vars(model.get_submodule(path)).get(name) for path, name in attributes]
    return [pytree.tree_map(lambda leaf: leaf, value) for value in found]


def put(
    model: nn.Module, attributes: Sequence[Attribute], values: Sequence[Any], in_place: frozenset[Attribute]
) -> None:
    """Leave on the modules what a run of the program gave; lists and dicts in which forward writes are filled."""
    for (path, name), value in zip(attributes, values, strict=True):
        owner = model.get_submodule(path)
        there = vars(owner).get(name)
        if (path, name) in in_place and isinstance(there, dict) and isinstance(value, dict):
            there.update(value)
        elif (path, name) in in_place and isinstance(there, list) and isinstance(value, list):
            there[:] = value
        else:
            setattr(owner, name, value)


@contextmanager
def kept_apart(model: nn.Module) -> Iterator[None]:
    """Put all that forward changes back when the block ends: attributes, and what lists, dicts and globals held."""
    reads = Reads(model)
    try:
        yield
    finally:
        reads.guards.restore()


@contextmanager
def refuse_observers(model: nn.Module) -> Iterator[None]:
    """While forward runs on examples, refuse forward hooks of the user that only look: they would see no data.

    Raises:
        CaptureError: names the module and the hook.
    """
    before = [(hooks, dict(hooks)) for module in model.modules() for hooks in forward_hooks(module).values()]
    paths = {
        id(hooks): path for path, module in model.named_modules() for hooks in forward_hooks(module).values()
    }
    try:
        for hooks, own in before:
            for number, hook in own.items():
                if not is_library(_file_of(hook)):
                    hooks[number] = _watched(hook, module_called(paths[id(hooks)]))
        yield
    finally:
        for hooks, own in before:
            hooks.update(own)


def _file_of(hook: Any) -> str:
    """The file of a hook's code; "" where it is not known."""
    while isinstance(hook, functools.partial):
        hook = hook.func
    code = getattr(hook, "__code__", None) or getattr(type(hook).__call__, "__code__", None)
    return str(getattr(code, "co_filename", ""))


def _watched(hook: Any, module: str) -> Callable[..., Any]:
    def called(*args: Any, **kwargs: Any) -> Any:
        result = hook(*args, **kwargs)
        if result is None:
            name = getattr(hook, "__qualname__", type(hook).__qualname__)
            raise CaptureError(
                f"the forward hook {name} of {module} ({_file_of(hook)}) changes nothing: a program would not call it, "
                "and it would see the example graph alone; remove it, and return from forward what it looks at"
            )
        return result

    return called


def find_writes(
    model: nn.Module, run: Callable[[int], Any], known: frozenset[Attribute]
) -> tuple[tuple[Attribute, ...], frozenset[Attribute]]:
    """The attributes that every forward of a model writes; and those of them that stay the same list or dict.

    Args:
        model: the module, in the mode of the call.
        run: runs it on examples, drawn with this seed.
        known: what programs of other modes leave on it.

    Raises:
        CaptureError: forward keeps something for a later call, or writes where a program cannot: names the module, the
            attribute and the line.
    """
    before = Reads(model)
    try:
        run(0)
        after = Reads(model)
        written = _written(before, after)
        if not written and not known:
            return (), frozenset()
        in_place = frozenset(at for at in written if _is_filled(model, before, after, at))
        names = tuple(sorted(written | known))
        first, found = _twice(model, run, before, names, known - written)
        _check_alike(after, names, first, found)
        for (path, name), value in zip(names, first[1], strict=True):
            if (path, name) in written:
                _check_value(after, path, name, value)
        _check_constant(after, names, written, first[1], _values_after(model, run, before, names))
    finally:
        before.guards.restore()
    return tuple(sorted(written)), in_place


def _written(before: Reads, after: Reads) -> frozenset[Attribute]:
    """The attributes of modules that differ; anything else that differs is refused."""
    old, new = ({place: r.leaf(value) for place, value in r.found} for r in (before, after))
    changed = [place for place in {**old, **new} if old.get(place, _NOTHING) != new.get(place, _NOTHING)]
    for place in changed:
        if place.path is None:
            name = place.name.split("'")[1] if "'" in place.name else place.name
            raise CaptureError(
                f"forward changes {place}{after.line_of(name)}, which a captured program would not do: return the "
                "value from forward and keep it outside, or register it as a buffer"
            )
        if place.name in ("forward_hook", "forward_pre_hook"):
            raise CaptureError(
                f"a {place.name} of {module_called(place.path)} keeps what it is given, which would be values of "
                "the example graph: remove it, and return the value from forward"
            )
    return frozenset((str(p.path), p.name) for p in changed)


_NOTHING = object()


def _is_filled(model: nn.Module, before: Reads, after: Reads, at: Attribute) -> bool:
    """Whether forward writes into a list or dict that was there; refused where it holds something else besides."""
    value = vars(model.get_submodule(at[0])).get(at[1])
    old = before.guards.ids_in(value)
    if old is None:
        return False
    parts = value.items() if isinstance(value, dict) else enumerate(value or ())
    if any(old.get(key) == id(part) for key, part in parts):
        raise CaptureError(
            f"forward writes into {Place(*at)}{after.line_of(at[1])}, which holds other values too; write what forward "
            "leaves into an attribute of its own"
        )
    return True


def _twice(
    model: nn.Module,
    run: Callable[[int], Any],
    before: Reads,
    names: tuple[Attribute, ...],
    stale: frozenset[Attribute],
) -> tuple[tuple[Any, list[Any]], tuple[Any, list[Any]] | Exception]:
    """Result and attributes of a call on other examples: as the first one, and after another call."""
    before.guards.restore()
    first = run(1), taken(model, names)
    before.guards.restore()
    run(0)
    for path, name in stale:
        vars(model.get_submodule(path)).pop(name, None)  # a call that reads it will say so
    try:
        result = run(1)
    except Exception as error:
        return first, error
    return first, (
        result,
        [None if name in stale else v for name, v in zip(names, taken(model, names), strict=True)],
    )


def _values_after(
    model: nn.Module, run: Callable[[int], Any], before: Reads, names: tuple[Attribute, ...]
) -> list[Any]:
    before.guards.restore()
    run(2)
    return taken(model, names)


def _check_alike(reads: Reads, names: Sequence[Attribute], first: Any, second: Any) -> None:
    """Refuse a forward that gives something else after another call than as the first."""
    if isinstance(second, Exception):
        differing = list(names)
    else:
        pairs = zip(names, first[1], second[1], strict=True)
        differing = [at for at, a, b in pairs if not (b is None and a is not None) and not _alike(a, b)]
        if not differing and _alike(first[0], second[0]):
            return
    path, name = (differing or list(names))[0]
    raise CaptureError(
        f"forward keeps a state between calls: {Place(path, name)}{reads.line_of(name)} is written in one call and "
        "read in the next, which a program would not do. Register it as a buffer in __init__ and write into it "
        f"(self.{name}.copy_(...)), or pass it as an argument and return it from forward"
    )


def _check_value(reads: Reads, path: str, name: str, value: Any) -> None:
    try:
        check_kinds(value)
    except CaptureError:
        raise CaptureError(
            f"forward keeps a {type(value).__name__} in {Place(path, name)}{reads.line_of(name)}, which would hold "
            "values of the example graph: return its tensors from forward"
        ) from None


def _check_constant(
    reads: Reads,
    names: Sequence[Attribute],
    written: frozenset[Attribute],
    first: list[Any],
    second: list[Any],
) -> None:
    """Refuse Python numbers that depend on the graph or its data."""
    for at, a, b in zip(names, first, second, strict=True):
        if at in written:
            try:
                check_same(a, b)
            except CaptureError:
                raise CaptureError(
                    f"forward writes a Python value that depends on the graph or its data into {Place(*at)}"
                    f"{reads.line_of(at[1])}; a program would leave that of the example there. Keep a tensor (without "
                    ".item()), or return it from forward"
                ) from None


def _alike(a: Any, b: Any) -> bool:
    """Whether two results are the same: tensors up to rounding."""
    (one, structure), (other, second) = pytree.tree_flatten(a), pytree.tree_flatten(b)
    if structure != second:
        return False
    return all(_same(x, y) for x, y in zip(one, other, strict=True))


def _same(a: Any, b: Any) -> bool:
    if not isinstance(a, Tensor) or not isinstance(b, Tensor):
        return type(a) is type(b) and (repr(a) == repr(b) or a is b)
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    if not a.is_floating_point():
        return torch.equal(a, b)
    return torch.allclose(a, b, rtol=1e-4, atol=1e-6, equal_nan=True)


__all__ = ["Attribute", "find_writes", "kept_apart", "put", "refuse_observers", "taken"]
