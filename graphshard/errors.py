"""Every error that graphshard raises on purpose.

An error says one clear sentence: what is wrong, where, and what to do instead.
"""


class GraphshardError(Exception):
    """Base of every error of the package: ``except graphshard.GraphshardError`` catches them all.

    A traceback ends with the entry of ``docs/refusals.md`` that says what it means and what to do.
    """

    def __init__(self, *args: object) -> None:
        super().__init__(*args)
        kind = next((c.__name__ for c in type(self).__mro__ if c.__module__ == __name__), "")
        if kind != GraphshardError.__name__:
            self.add_note(f"what it means, and the way out: docs/refusals.md, {kind}")


class CaptureError(GraphshardError):
    """The model could not be turned into a graph, or the graph does not compute what the model does."""


class UnsupportedOperation(GraphshardError):
    """An operation cannot be distributed exactly; names the op, the module path and the source line."""


class PartitionError(GraphshardError):
    """The graph or the assignment of nodes to parts is not valid (an edge past the nodes, a bad part)."""


class ShardError(GraphshardError):
    """A shard on disk is missing, truncated, corrupt or made for another world size."""


class PlacementError(GraphshardError):
    """A pass left a program whose placements do not fit: a bug in a pass, never the user's fault."""


class RuntimeMismatch(GraphshardError):
    """The ranks disagree: other roles, other ``requires_grad``, another world size."""


class CheckpointError(GraphshardError):
    """A checkpoint cannot be written or read, or is of another model, optimiser or graph."""


class DataError(GraphshardError):
    """A data source (file, built-in name, option) cannot be read or is not a graph with features."""


def module_called(path: str | None) -> str:
    """``module 'convs.0'``, as messages name a module by its path; the whole model has none."""
    return f"module {path!r}" if path else "the model"
