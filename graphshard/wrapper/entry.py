"""A method of the user's module in the place of forward: a module of its own that shares all of the other's state.

::

    entry = entry_of(net, "encode")
    entry(x, edge_index)        net.encode(x, edge_index)
    vars(entry) is vars(net)    parameters, submodules, attributes and modes: one set, whoever writes there
"""

from __future__ import annotations

from typing import Any

from torch import nn

from graphshard.errors import CaptureError


def check_methods(model: nn.Module, methods: tuple[str, ...], taken: type[nn.Module]) -> None:
    """Refuse names that are no methods of the model, or that the distributed module has itself.

    Raises:
        CaptureError: names the method.
    """
    for name in methods:
        if not callable(getattr(model, name, None)) or isinstance(getattr(model, name), nn.Module):
            raise CaptureError(f"methods={list(methods)}: {type(model).__name__} has no method {name!r}")
        if hasattr(taken, name):
            raise CaptureError(
                f"methods={list(methods)}: {name!r} is a method of the distributed module itself; forward needs no "
                "mention, and any other has to be called something else"
            )


def entry_of(model: nn.Module, name: str) -> nn.Module:
    """The module whose forward is the model's method of that name."""
    kind = type(model)
    entry_class: Any = type(
        f"{kind.__name__}.{name}",
        (_Entry,),
        {"forward": staticmethod(getattr(model, name)), "__module__": kind.__module__},
    )
    entry: nn.Module = object.__new__(entry_class)
    object.__setattr__(entry, "__dict__", vars(model))
    return entry


class _Entry(nn.Module):
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        # The hooks of the model are forward's: a method runs without them.
        return self.forward(*args, **kwargs)
