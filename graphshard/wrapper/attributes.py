"""Attributes of the user's module, read and written through the distributed one.

::

    model = distribute(net)
    model.temperature = 0.1     -> net.temperature
    model.reset_parameters()    -> net.reset_parameters()
    model.seed, model.step      the wrapper's own

What the wrapper keeps for itself it sets while it is made; every name that is set later is the user's module's.
"""

from __future__ import annotations

import functools
import types
from collections.abc import Callable, Iterator
from typing import Any

from torch import Tensor, nn

from graphshard.errors import CaptureError, UnsupportedOperation
from graphshard.private import pytree
from graphshard.shard.shard import Shard, shard_of


class Transparent(nn.Module):
    """A module around another, ``_model``, whose attributes are the other's but for its own.

    A subclass calls :meth:`seal` at the end of its ``__init__``.
    """

    _model: nn.Module

    def seal(self) -> None:
        """From here on a new attribute is one of the user's module, and what its class overrides is called there."""
        for name in _overridden(type(self._model), type(self)):
            self.__dict__[name] = functools.partial(self._forwarded, name)
        self.__dict__["_sealed"] = True

    def _forwarded(self, name: str, *args: Any, **kwargs: Any) -> Any:
        found = getattr(self._model, name)(*args, **kwargs)
        return self if found is self._model else found

    def __getstate__(self) -> dict[str, Any]:
        left_out = {"_sealed", *_overridden(type(self._model), type(self))}
        return {name: value for name, value in self.__dict__.items() if name not in left_out}

    def __getitem__(self, key: Any) -> Any:
        return self._model[key]  # type: ignore[index]

    def __iter__(self) -> Iterator[Any]:
        return iter(self._model)  # type: ignore[call-overload, no-any-return]

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            model = self.__dict__.get("_model")
            if model is None or (name.startswith("__") and name.endswith("__")):
                raise
        value = getattr(model, name)
        return alone(value, name, model) if isinstance(value, types.MethodType) else value

    def __setattr__(self, name: str, value: Any) -> None:
        if not self.__dict__.get("_sealed") or self._keeps(name):
            if self.__dict__.get("_sealed") and _has_own(self._model, name):
                raise CaptureError(
                    f"{name!r} is an attribute of the distributed module and of {type(self._model).__name__}: set the "
                    "one of your module on the module that you passed to distribute()"
                )
            super().__setattr__(name, value)
        else:
            setattr(self._model, name, value)

    def __delattr__(self, name: str) -> None:
        if self._keeps(name):
            super().__delattr__(name)
        else:
            delattr(self._model, name)

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *dir(self._model)})  # type: ignore[no-untyped-call]

    def _keeps(self, name: str) -> bool:
        return name in self.__dict__ or isinstance(getattr(type(self), name, None), property)


def _overridden(kind: type[nn.Module], wrapper: type[nn.Module]) -> list[str]:
    """The methods of ``nn.Module`` that a class writes anew (``state_dict``), and the wrapper's does not."""
    names = [name for name in vars(nn.Module) if not name.startswith("_") and name != "forward"]
    return [
        name
        for name in names
        if callable(getattr(kind, name))
        and getattr(kind, name) is not getattr(nn.Module, name)
        and getattr(wrapper, name) is getattr(nn.Module, name)
    ]


def _has_own(model: nn.Module, name: str) -> bool:
    """Whether the user gave the module an attribute of a name that ``nn.Module`` does not use itself."""
    return hasattr(model, name) and not hasattr(nn.Module(), name)


def alone(method: Callable[..., Any], name: str, model: nn.Module) -> Callable[..., Any]:
    """A method of the user's module that runs as it is written, and so on whole tensors alone.

    Raises:
        UnsupportedOperation: when called with a shard, or a tensor of one, of several ranks.
    """

    @functools.wraps(method)
    def call(*args: Any, **kwargs: Any) -> Any:
        for value in pytree.tree_leaves((args, kwargs)):
            shard = value if isinstance(value, Shard) else None
            shard = shard_of(value) if isinstance(value, Tensor) else shard
            if isinstance(shard, Shard) and shard.world_size > 1:
                raise UnsupportedOperation(
                    f"{type(model).__name__}.{name}() is called with rows of one of {shard.world_size} ranks, but it "
                    f'was not captured and would run on these alone: distribute(model, methods=["{name}"]) makes it '
                    "run on all ranks, as forward does"
                )
        return method(*args, **kwargs)

    return call
