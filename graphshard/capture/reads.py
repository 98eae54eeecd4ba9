"""What Python objects a forward can reach besides tensors: attributes, globals, closures, defaults, hooks.

::

    modules -> attributes, classes, hooks            (place, value)   what a capture bakes in
       |                                        ->
       +----> code of forward -> names it reads      guards           whether anything of it is another object now

The code of the user's own functions is read for the names of globals, closures and attributes in it; libraries are
not looked into. What is found are *places*, as a message says them, with a value each: a plain Python value, a
tensor, a function, or an object that holds nothing that is looked into.
"""

from __future__ import annotations

import argparse
import builtins
import collections
import dis
import functools
import hashlib
import sys
import types
import weakref
from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass, field, is_dataclass
from enum import Enum
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from graphshard.capture.calls import is_library
from graphshard.private.torch_modules import BOOKKEEPING, children_of, forward_hooks, state_of
from graphshard.private.torch_ops import CustomOpDef, HigherOrderOperator, OpOverload, OpOverloadPacket
from graphshard.private.torch_tensors import version_of

PLAIN = (
    bool,
    int,
    float,
    complex,
    str,
    bytes,
    torch.dtype,
    torch.device,
    type(None),
    np.generic,
    range,
    slice,
)
_FUNCTIONS = (types.BuiltinFunctionType, types.MethodType, types.FunctionType)
_OPS = (CustomOpDef, HigherOrderOperator, OpOverload, OpOverloadPacket)
_BY_STATE = (np.ndarray, Set, np.random.Generator)
_RECORDS = (types.SimpleNamespace, argparse.Namespace)
_SEES_ALL = frozenset({"vars", "asdict", "globals", "locals", "eval", "exec", "__dict__"})
_DEPTH = 8
_MISSING = object()


class Place(NamedTuple):
    """Where a value stands.

    Attributes:
        path: of the module whose attribute it is, or is inside of; None outside of modules.
        name: of the attribute; outside of modules, what a message calls the place.
        inside: the way from the attribute to the value: ``[1].alpha``.
    """

    path: str | None
    name: str
    inside: str = ""

    def __str__(self) -> str:
        if self.path is None:
            return self.name + self.inside
        return f"attribute {(f'{self.path}.{self.name}' if self.path else self.name) + self.inside!r}"

    def then(self, inside: str) -> Place:
        return self._replace(inside=self.inside + inside)


@dataclass(frozen=True)
class Same:
    """An object as a key: equal to itself alone, and kept, so that no other takes its id."""

    value: Any = field(compare=False)
    number: int

    @classmethod
    def of(cls, value: Any) -> Same:
        return cls(value, id(value))


@dataclass(frozen=True)
class _Names:
    """What a piece of code names: globals, attributes and texts, with the line of each attribute's last write."""

    globals: frozenset[str]
    attributes: frozenset[str]
    imports: frozenset[str]
    lines: Mapping[str, int]


def _names_of(code: types.CodeType) -> _Names:
    found: dict[str, set[str]] = {"GLOBAL": set(), "ATTR": set(), "IMPORT": set()}
    lines: dict[str, int] = {}
    line, inner = code.co_firstlineno, [c for c in code.co_consts if isinstance(c, types.CodeType)]
    for step in dis.get_instructions(code):
        line = step.starts_line if isinstance(step.starts_line, int) and step.starts_line > 1 else line
        name = step.argval
        if not isinstance(name, str):
            continue
        if step.opname in ("LOAD_GLOBAL", "LOAD_NAME", "STORE_GLOBAL"):
            found["GLOBAL"].add(name)
        elif step.opname in ("LOAD_ATTR", "LOAD_METHOD", "STORE_ATTR", "IMPORT_FROM", "LOAD_SUPER_ATTR"):
            found["ATTR"].add(name)
        elif step.opname == "IMPORT_NAME":
            found["IMPORT"].add(name)
        elif step.opname == "LOAD_CONST" and name.isidentifier():
            found["ATTR"].add(name)  # getattr(config, "alpha")
        if step.opname in ("STORE_ATTR", "STORE_GLOBAL"):
            lines[name] = line
        else:
            lines.setdefault(name, line)
    parts = [_names_of(c) for c in inner]
    for part in parts:
        lines = {**part.lines, **lines}
    return _Names(
        frozenset(found["GLOBAL"]).union(*(p.globals for p in parts)),
        frozenset(found["ATTR"]).union(*(p.attributes for p in parts)),
        frozenset(found["IMPORT"]).union(*(p.imports for p in parts)),
        lines,
    )


@dataclass
class Guards:
    """What was looked at, as it was: whether all of it is the same objects is found out in microseconds."""

    dicts: list[tuple[Any, list[Any], list[int], frozenset[str]]] = field(default_factory=list)
    lists: list[tuple[Any, list[int]]] = field(default_factory=list)
    names: list[tuple[Any, str, Any]] = field(default_factory=list)
    slots: list[tuple[Any, str, Any]] = field(default_factory=list)
    cells: list[tuple[types.CellType, Any]] = field(default_factory=list)
    functions: list[tuple[Any, tuple[Any, ...]]] = field(default_factory=list)
    tensors: list[tuple[Tensor, int]] = field(default_factory=list)
    kinds: list[tuple[Tensor | None, Any]] = field(default_factory=list)
    others: list[tuple[Any, Any]] = field(default_factory=list)
    held: list[Any] = field(default_factory=list)

    def hold(self) -> bool:
        """Whether nothing has changed since."""
        return (
            all(
                list(map(id, d.values())) == ids and list(d) == keys
                if not skipped
                else _without(d, skipped) == (keys, ids)
                for d, keys, ids, skipped in self.dicts
            )
            and all(d.get(name, _MISSING) is value for d, name, value in self.names)
            and all(list(map(id, values)) == ids for values, ids in self.lists)
            and all(getattr(owner, name, None) is value for owner, name, value in self.slots)
            and all(_content(cell) is value for cell, value in self.cells)
            and all(_made_of(f) == parts for f, parts in self.functions)
            and all(_kind(t) == kind for t, kind in self.kinds)
            and all(version_of(t) == version for t, version in self.tensors)
            and all(_state(value) == state for value, state in self.others)
        )

    def ids_in(self, value: Any) -> dict[Any, int] | None:
        """The ids of what a list or dict held, by key or position; None of what was not there."""
        for d, keys, ids, _ in self.dicts:
            if d is value:
                return dict(zip(keys, ids, strict=True))
        return next((dict(enumerate(ids)) for values, ids in self.lists if values is value), None)

    def restore(self) -> None:
        """Put every container, global and closure variable back to what it held."""
        self._restore_containers()
        for d, name, value in self.names:
            if isinstance(d, dict) and d.get(name, _MISSING) is not value:
                d.pop(name) if value is _MISSING else d.update({name: value})
        for owner, name, value in self.slots:
            if getattr(owner, name, None) is not value:
                setattr(owner, name, value)
        for cell, value in self.cells:
            if value is not _MISSING and _content(cell) is not value:
                cell.cell_contents = value

    def _restore_containers(self) -> None:
        kept = {id(value): value for value in self.held}
        for d, keys, ids, skipped in self.dicts:
            if isinstance(d, dict) and not skipped and (list(d), list(map(id, d.values()))) != (keys, ids):
                d.clear()
                d.update(zip(keys, (kept[i] for i in ids), strict=True))
        for values, ids in self.lists:
            if isinstance(values, (list, collections.deque)) and list(map(id, values)) != ids:
                values.clear()
                values.extend(kept[i] for i in ids)


def _without(d: Mapping[str, Any], skipped: frozenset[str]) -> tuple[list[str], list[int]]:
    keys = [key for key in d if key not in skipped]
    return keys, [id(d[key]) for key in keys]


def _content(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # not set yet
        return _MISSING


def _made_of(f: types.FunctionType) -> tuple[Any, ...]:
    return f.__code__, id(f.__defaults__), id(f.__kwdefaults__)


def _kind(tensor: Tensor | None) -> Any:
    if tensor is None or is_lazy(tensor):
        return None
    return tensor.dtype, tensor.shape, tensor.requires_grad, tensor.device


def _state(value: Any) -> Any:
    """What tells whether an object without parts has changed: its content, or its state as text."""
    if isinstance(value, np.ndarray):
        return str(value.dtype), value.shape, _digest(value)
    if isinstance(value, np.random.Generator):
        return repr(value.bit_generator.state)
    return frozenset(map(repr, value)) if isinstance(value, Set) else repr(value)


def _digest(value: np.ndarray[Any, Any]) -> str:
    if value.dtype == object:
        return repr(value)
    return hashlib.blake2b(value.tobytes(), digest_size=16).hexdigest()


class Reads:
    """Everything that is found from a model.

    Args:
        model: the module.
        ignored: (module path, attribute) of what every forward writes before anything reads it.

    Attributes:
        found: what stands at each place.
        guards: tell whether it still does.
    """

    def __init__(self, model: nn.Module, ignored: frozenset[tuple[str, str]] = frozenset()) -> None:
        self._model, self._ignored = model, ignored
        self._names: dict[types.CodeType, _Names] = {}
        self._read: set[str] = {"forward", "__call__", "__getattr__", "__getitem__"}
        before = -1
        while len(self._read) != before:  # code that is reached names attributes, which hold code
            before = len(self._read)
            self._walk()

    @functools.cached_property
    def key(self) -> tuple[Any, ...]:
        """Equal where nothing differs that a capture bakes in."""
        return tuple((str(place), self.leaf(value)) for place, value in self.found)

    def facts(self) -> Iterator[tuple[str, Any]]:
        """(place, value) of plain values, arrays and enums outside of modules' own attributes, lists and dicts."""
        for place, value in self.found:
            outside = place.path is None or "." in place.inside
            if outside and isinstance(value, (*PLAIN, Enum, Tensor, np.ndarray)):
                yield str(place), value

    def leaf(self, value: Any) -> Any:
        """A value as part of a key."""
        if isinstance(value, Tensor):
            name = self._state.get(id(value))
            return name if name is not None else (Same.of(value), version_of(value))
        if isinstance(value, Enum):
            return type(value), value.name
        if isinstance(value, (*PLAIN, *_BY_STATE)) or type(value).__module__ == "itertools":
            return type(value), _state(value)
        if isinstance(value, types.FunctionType):
            return value.__code__
        return value if isinstance(value, _Text) else Same.of(value)

    def line_of(self, name: str) -> str:
        """`` (file:line)`` of the code that writes an attribute or global of this name, or names it."""
        for code, names in self._names.items():
            if name in names.lines:
                return f" ({code.co_filename}:{names.lines[name]})"
        return ""

    def _walk(self) -> None:
        self.found: list[tuple[Place, Any]] = []
        self.guards = Guards()
        self._seen: set[int] = set()
        self._state = {
            id(t): name for name, t in (*self._model.named_parameters(), *self._model.named_buffers())
        }
        self._all = bool(self._read & _SEES_ALL)
        self._own = {id(module) for module in self._model.modules()}
        for path, module in self._model.named_modules():
            self._module(path, module)

    def _add(self, place: Place, value: Any) -> None:
        self.found.append((place, value))
        self.guards.held.append(value)

    def _dict(self, d: Any, skipped: frozenset[str] = frozenset()) -> None:
        keys, ids = _without(d, skipped)
        self.guards.dicts.append((d, keys, ids, skipped))
        self.guards.held += [d[key] for key in keys]

    def _module(self, path: str, module: nn.Module) -> None:
        self._class(Place(path, "class"), type(module), _overrides(type(module)))
        ignored = frozenset(name for at, name in self._ignored if at == path)
        self._dict(vars(module), ignored)
        self._tensors(path, module)
        children = children_of(module)
        for name, child in children.items():
            self._add(Place(path, name), _Text("None" if child is None else "a submodule"))
        self._dict(children)
        for name, value in sorted(vars(module).items()):
            if name not in BOOKKEEPING and name not in ignored and not self._is_own(value):
                self._visit(Place(path, name), value, _DEPTH)
        for kind, hooks in forward_hooks(module).items():
            self._dict(hooks)
            for number, hook in enumerate(list(hooks.values())):
                self._visit(Place(path, kind, f"[{number}]"), hook, _DEPTH)

    def _tensors(self, path: str, module: nn.Module) -> None:
        """What a program takes for granted of parameters and buffers: all but their values."""
        for tensors in state_of(module):
            self._dict(tensors)
            for name, tensor in tensors.items():
                kind = _kind(tensor)
                self._add(Place(path, name), _Text(f"{self._state.get(id(tensor))} {kind}"))
                self.guards.kinds.append((tensor, kind))

    def _is_own(self, value: Any) -> bool:
        return isinstance(value, nn.Module) and id(value) in self._own

    def _visit(self, place: Place, value: Any, depth: int) -> None:
        """Describe a value, and what it holds."""
        self._read_class(type(value))
        if isinstance(value, (Tensor, *PLAIN, Enum)):
            self._add(place, value)
            if isinstance(value, Tensor) and id(value) not in self._state:
                self.guards.tensors.append((value, version_of(value)))
        elif isinstance(value, _BY_STATE) or type(value).__module__ == "itertools":
            self._add(place, value)
            self.guards.others.append((value, _state(value)))
        elif isinstance(value, weakref.ref):
            self._visit(place, value(), depth)
        elif id(value) in self._seen or self._is_own(value):
            return
        else:
            self._seen.add(id(value))
            self.guards.held.append(value)
            self._open(place, value, depth)

    def _open(self, place: Place, value: Any, depth: int) -> None:
        if isinstance(value, _OPS):  # torch keeps caches in them
            self._add(place, value)
        elif isinstance(value, types.FunctionType):
            self._function(place, value)
        elif isinstance(value, (*_FUNCTIONS, functools.partial)):
            self._callable(place, value, depth)
        elif isinstance(value, type):
            self._class(place, value, frozenset())
        elif isinstance(value, types.ModuleType):
            self._python_module(value, depth)
        elif depth and isinstance(value, Mapping):
            self._mapping(place, value, depth)
        elif depth and isinstance(value, (list, tuple, collections.deque)):
            self.guards.lists.append((value, list(map(id, value))))
            self.guards.held += value
            self._add(place, _Text(f"{type(value).__qualname__} of {len(value)}"))
            for i, part in enumerate(value):
                self._visit(place.then(f"[{i}]"), part, depth - 1)
        else:
            self._object(place, value, depth)

    def _mapping(self, place: Place, value: Mapping[Any, Any], depth: int) -> None:
        if isinstance(value, dict):
            self._dict(value)
        self._add(place, _Text(f"{type(value).__qualname__} of {list(map(str, value))}"))
        for key, part in list(value.items()):
            self._visit(place.then(f"[{key!r}]"), part, depth - 1)
        if not isinstance(value, dict):
            self._object(place, value, depth)

    def _callable(self, place: Place, value: Any, depth: int) -> None:
        if isinstance(value, functools.partial):
            parts = {"func": value.func, "args": value.args, "keywords": value.keywords}
        elif isinstance(value, types.MethodType):
            parts = {"__func__": value.__func__, "__self__": value.__self__}
        else:
            owner = getattr(value, "__self__", None)
            parts = {} if isinstance(owner, types.ModuleType) else {"__self__": owner}
            self._add(place, _Text(value.__qualname__) if parts else value)
        for name, part in parts.items():
            self._visit(place.then(f".{name}"), part, depth)

    def _function(self, place: Place, f: types.FunctionType) -> None:
        self._add(place, f)
        self.guards.functions.append((f, _made_of(f)))
        own = not is_library(f.__code__.co_filename)
        for name, cell in zip(f.__code__.co_freevars, f.__closure__ or (), strict=True):
            value = _content(cell)
            if name == "__class__" or not (own or isinstance(value, (*_FUNCTIONS, functools.partial))):
                continue
            self.guards.cells.append((cell, value))
            self._visit(Place(None, f"the variable {name!r} that {f.__qualname__} reads"), value, _DEPTH)
        if own:
            self._code(f)

    def _code(self, f: types.FunctionType) -> None:
        names = self._names.setdefault(f.__code__, _NONE)
        if names is _NONE:
            names = self._names[f.__code__] = _names_of(f.__code__)
        self._read |= names.attributes | (names.globals & _SEES_ALL)
        for i, value in enumerate(f.__defaults__ or ()):
            self._visit(Place(None, f"default {i} of {f.__qualname__}"), value, _DEPTH)
        for name, value in (f.__kwdefaults__ or {}).items():
            self._visit(Place(None, f"the default of {name!r} of {f.__qualname__}"), value, _DEPTH)
        for name in sorted(names.globals):
            if hasattr(builtins, name) and name not in f.__globals__:
                continue
            value = f.__globals__.get(name, _MISSING)
            self._global(f.__globals__, name, Place(None, f"the global {name!r} of {f.__module__}"), value)
        for name in sorted(names.imports):
            if name in sys.modules:
                self._visit(Place(None, f"the module {name}"), sys.modules[name], _DEPTH)

    def _global(self, d: Any, name: str, place: Place, value: Any, depth: int = _DEPTH) -> None:
        self.guards.names.append((d, name, value))
        self.guards.held.append(value)
        if value is _MISSING:
            self._add(place, _Text("missing"))
        else:
            self._visit(place, value, depth)

    def _python_module(self, module: types.ModuleType, depth: int) -> None:
        file = getattr(module, "__file__", None)
        self._add(Place(None, f"the module {module.__name__}"), _Text(""))
        if file is None or is_library(file) or not depth:
            return
        for name in sorted(self._read & vars(module).keys()):
            place = Place(None, f"the global {name!r} of {module.__name__}")
            self._global(vars(module), name, place, vars(module)[name], depth - 1)

    def _object(self, place: Place, value: Any, depth: int) -> None:
        self._add(place, _Text(f"{type(value).__module__}.{type(value).__qualname__}"))
        if not depth or _holds(value, self._model) or not _has_parts(value):
            self._add(place, value)
            return
        whole = self._all or isinstance(value, _RECORDS) or is_dataclass(value)
        whole = whole or hasattr(type(value), "__getattr__")
        held = getattr(value, "__dict__", {})
        names = list(held) if whole else sorted(self._read)
        if whole:
            self._dict(held)
        for name in names:
            if name in held or not whole:
                part = held.get(name, _MISSING)
                self.guards.names.append((held, name, part))
                self.guards.held.append(part)
                if part is not _MISSING:
                    self._visit(place.then(f".{name}"), part, depth - 1)
        for name in _slots(type(value)):
            part = getattr(value, name, None)
            self.guards.slots.append((value, name, part))
            self._visit(place.then(f".{name}"), part, depth - 1)

    def _class(self, place: Place, cls: type, names: frozenset[str]) -> None:
        self._add(place, cls)
        self._read |= names
        self._read_class(cls)

    def _read_class(self, cls: type) -> None:
        """The attributes and methods of the user's classes that code names."""
        for base in cls.__mro__:
            if base is object or id(base) in self._seen or _is_library_class(base):
                continue
            self._seen.add(id(base))
            self._dict(vars(base))
            for name, value in vars(base).items():
                if name in self._read or (isinstance(value, PLAIN) and not name.startswith("__")):
                    place = Place(None, f"{name!r} of the class {base.__qualname__}")
                    self._visit(place, _unwrapped(value), _DEPTH)


@dataclass(frozen=True)
class _Text:
    """Stands for an object of which its kind alone is said."""

    text: str


_NONE = _Names(frozenset(), frozenset(), frozenset(), {})


def _unwrapped(value: Any) -> Any:
    if isinstance(value, property):
        return value.fget
    return value.__func__ if isinstance(value, (staticmethod, classmethod)) else value


def _overrides(cls: type) -> frozenset[str]:
    """Methods of the user's classes that a library calls by their names, such as ``message``."""
    library = set().union(*(vars(base) for base in cls.__mro__ if _is_library_class(base)))
    own = set().union(*(vars(base) for base in cls.__mro__ if not _is_library_class(base)), ())
    return frozenset(name for name in library & own if not name.startswith("__"))


def _is_library_class(cls: type) -> bool:
    module = sys.modules.get(cls.__module__)
    if module is None or cls.__module__ == "builtins":
        return module is not None
    file = getattr(module, "__file__", None)
    return is_library(file) if file else module.__name__ != "__main__" and module.__spec__ is not None


def _holds(value: Any, model: nn.Module) -> bool:
    """Whether an object is a wrapper around the model."""
    return any(part is model for part in getattr(value, "__dict__", {}).values())


def _has_parts(value: Any) -> bool:
    return hasattr(value, "__dict__") or bool(list(_slots(type(value))))


def _slots(cls: type) -> Iterator[str]:
    if _is_library_class(cls):
        return
    for base in cls.__mro__:
        slots = vars(base).get("__slots__", ())
        yield from (slots,) if isinstance(slots, str) else slots
