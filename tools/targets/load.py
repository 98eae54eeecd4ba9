"""TARGET of the command line -> a factory of the user's model that other processes can repeat.

::

    gcn, sage, gat, gin                built in, sized for the data
    file.py:name   pkg.mod:name        a module, a module class or a function, both without arguments
"""

from __future__ import annotations

import copy
import functools
import importlib
import importlib.util
import inspect
import os
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

import torch
from torch import nn

from graphshard.errors import DataError, GraphshardError
from graphshard.graph.data import GraphData
from graphshard.tools.targets import models
from graphshard.tools.targets.models import Sizes

T = TypeVar("T")


@dataclass(frozen=True)
class Target:
    """Makes the model; equal in every process that has the same files and seed. Picklable.

    Attributes:
        spec: what the user wrote.
        sizes: of a built-in model; None for any other.
        seed: of torch's random numbers while the model is made; the caller's own state is left alone.
    """

    spec: str
    sizes: Sizes | None = None
    seed: int = 0

    @property
    def built_in(self) -> bool:
        return self.spec in models.NAMES

    def sized(self, features: int, classes: int) -> Target:
        """The same, a built-in model made for this many columns of x and classes."""
        assert self.sizes is not None
        return replace(self, sizes=replace(self.sizes, features=features, classes=classes))

    def without_dropout(self) -> Target:
        """The same built-in model with dropout 0."""
        assert self.sizes is not None
        return replace(self, sizes=replace(self.sizes, dropout=0.0))

    def __call__(self) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            if self.built_in:
                assert self.sizes is not None
                return models.build(self.spec, self.sizes)
            found = _find(self.spec)
            made = copy.deepcopy(found) if isinstance(found, nn.Module) else _call(self.spec, found)
        if not isinstance(made, nn.Module):
            raise DataError(f"{self.spec} returned a {type(made).__name__}, not an nn.Module")
        return made


def load_target(
    spec: str,
    data: GraphData | None = None,
    *,
    hidden: int = 16,
    layers: int = 2,
    dropout: float = 0.5,
    heads: int = 4,
    seed: int = 0,
) -> Target:
    """The factory that a TARGET names; the user's file is imported here, its model is not made yet.

    Args:
        spec: see the module's docstring.
        data: what a built-in model is sized for; without it, for 16 features and 4 classes, as ``sbm`` has.
        hidden, layers, dropout, heads: of a built-in model.
        seed: of the initial weights.

    Raises:
        DataError: no such file or name, the file fails to import (names the line), or the name is no model.
    """
    if spec in models.NAMES:
        target = Target(spec, Sizes(16, 4, hidden, layers, dropout, heads), seed)
        if data is None:
            return target
        if "x" not in data:
            raise DataError(f"the model {spec!r} needs features x, and {data.name} has none")
        return target.sized(data["x"].size(1), data.num_classes)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        found = _find(spec)
    if not isinstance(found, nn.Module):
        _check_factory(spec, found)
    return Target(spec, None, seed)


def load_pass(spec: str) -> Any:
    """The pass that a SPEC names, ``file.py:Name`` or ``pkg.mod:Name``: an object, or a class made without arguments.

    Raises:
        DataError: no such file or name, or the file fails to import.
    """
    if ":" not in spec:
        raise DataError(f"there is no pass {spec!r}: give file.py:Name or pkg.mod:Name")
    found = _find(spec)
    return _guarded(spec, found) if isinstance(found, type) else found


def _find(spec: str) -> Any:
    place, _, name = spec.rpartition(":")
    if not place or not name:
        known = ", ".join(models.NAMES)
        raise DataError(f"there is no model {spec!r}: use {known}, or file.py:name, or pkg.mod:name")
    module = _import_file(place) if place.endswith(".py") else _import_name(place)
    found: Any = module
    for part in name.split("."):
        if not hasattr(found, part):
            near = ", ".join(n for n in vars(module) if _could_be_model(getattr(module, n)))
            raise DataError(f"{place} has no {name!r}" + (f"; it has {near}" if near else ""))
        found = getattr(found, part)
    return found


def _could_be_model(value: Any) -> bool:
    """Whether to offer a name of the user's file: its modules, and the functions and models it defines."""
    return isinstance(value, nn.Module) or (
        (inspect.isfunction(value) or (inspect.isclass(value) and issubclass(value, nn.Module)))
        and value.__module__ not in ("torch", "torch.nn")
        and not value.__module__.startswith(("torch.", "torch_geometric"))
    )


@functools.cache
def _import_file(place: str) -> ModuleType:
    path = Path(place).resolve()
    if not path.is_file():
        raise DataError(f"there is no file {place}")
    name = f"graphshard_target_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # where inspect and pickle look for the user's classes
    _allow_imports_from(str(path.parent))
    _guarded(place, functools.partial(spec.loader.exec_module, module))
    return module


def _import_name(place: str) -> ModuleType:
    _allow_imports_from(os.getcwd())
    try:
        missing = importlib.util.find_spec(place) is None
    except ModuleNotFoundError:
        missing = True
    except (ImportError, ValueError) as error:
        raise DataError(f"cannot import {place}: {error}") from error
    if missing:
        raise DataError(f"there is no module {place!r} in this directory or among the installed packages")
    return _guarded(place, functools.partial(importlib.import_module, place))


def _allow_imports_from(folder: str) -> None:
    """As ``python file.py`` does: the user's neighbouring files can be imported."""
    if folder not in sys.path:
        sys.path.insert(0, folder)


def _check_factory(spec: str, found: Any) -> None:
    if not callable(found):
        raise DataError(
            f"{spec} is a {type(found).__name__}: give an nn.Module, or a function without arguments that "
            "returns one"
        )
    try:
        needed = [
            p.name
            for p in inspect.signature(found).parameters.values()
            if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
        ]
    except (TypeError, ValueError):
        return  # no signature to be had: calling it will tell
    if needed:
        raise DataError(
            f"{spec} needs arguments ({', '.join(needed)}): write a function without arguments that makes the "
            "model"
        )


def _call(spec: str, factory: Callable[[], Any]) -> Any:
    _check_factory(spec, factory)
    return _guarded(spec, factory)


def _guarded(what: str, call: Callable[[], T]) -> T:
    """Run the user's code; whatever it raises becomes one sentence with the user's line."""
    try:
        return call()
    except GraphshardError:
        raise
    except (Exception, SystemExit) as error:
        text = str(error).strip().partition("\n")[0]
        raise DataError(f"{what} fails{_where(error)}: {type(error).__name__}: {text}") from error


def _where(error: BaseException) -> str:
    """The deepest line outside of installed packages."""
    if isinstance(error, SyntaxError) and error.filename:
        return f" at {os.path.relpath(error.filename)}:{error.lineno}"
    frames = traceback.extract_tb(error.__traceback__)
    own = [f for f in frames if f.filename != __file__ and "importlib" not in f.filename]
    users = [f for f in own if "site-packages" not in f.filename] or own
    if not users:
        return ""
    return f" at {os.path.relpath(users[-1].filename)}:{users[-1].lineno}: `{users[-1].line}`"
