"""Which passes make a program faster, and which of your own run beside them."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, fields
from typing import Any

from graphshard.errors import GraphshardError
from graphshard.ir.program import Pass


@dataclass(frozen=True)
class Options:
    """Which passes make the program faster; every combination is exact, but for ``narrow_halo_rows``.

    Attributes:
        free_constants: what takes only a dtype, a device or a size from a value does not wait for it.
        lower_aggregations: gathers and scatters along constant edges become sparse matrix products.
        sort_edges: edges are numbered in the order of the rows that they are summed into.
        fold_scales: a constant factor of each row becomes part of the weights of its edges; changes rounding.
        reassociate_aggregations: a dense product stands where it makes an aggregation cheapest; changes rounding.
        move_halo_syncs: a sync stands where it is cheapest along ops that work row by row.
        overlap_halo_syncs: a sum over neighbours begins while their halo rows travel; off by default, for it needs a
            core that has nothing else to do, or a GPU.
        merge_halo_syncs: values that are synced at the same time travel in one message.
        narrow_halo_rows: halo rows and their gradients travel as bfloat16. **Inexact**; off by default, and ``verify``
            never passes.
        fuse_relu_dropout: a rectifier and the dropout of its result are one op, and neither is kept for backward.
        work_in_place: what writes a whole tensor writes over one that nobody reads again.
        bucket_gradients: gradients of several parameters are summed over the ranks in one all-reduce.
        hoist_graph_constants: what depends on the graph alone is computed once for each graph.
        passes: your own, run on the exact program, in this order, before those that make it faster; see
            ``docs/passes.md``. They are trusted no more than graphshard's: the finished program is compared with the
            module.

    Raises:
        GraphshardError: an object among ``passes`` is no pass, or two passes have one name.
    """

    free_constants: bool = True
    lower_aggregations: bool = True
    sort_edges: bool = True
    fold_scales: bool = True
    reassociate_aggregations: bool = True
    move_halo_syncs: bool = True
    overlap_halo_syncs: bool = False
    merge_halo_syncs: bool = True
    narrow_halo_rows: bool = False
    fuse_relu_dropout: bool = True
    work_in_place: bool = True
    bucket_gradients: bool = True
    hoist_graph_constants: bool = True
    passes: tuple[Pass, ...] = ()

    def __post_init__(self) -> None:
        for step in self.passes:
            if isinstance(step, type) or not (
                isinstance(getattr(step, "name", None), str) and hasattr(step, "run")
            ):
                raise GraphshardError(
                    f"{step!r} is no pass: a pass is an object with a name and run(program) -> int"
                )
        names = Counter((*self.choices(), *(step.name for step in self.passes)))
        if twice := [name for name, times in names.items() if times > 1]:
            raise GraphshardError(f"two passes are called {twice[0]!r}: give yours another name")

    @classmethod
    def choices(cls) -> tuple[str, ...]:
        """The names of graphshard's own passes that can be chosen, in the order in which they run."""
        return tuple(field.name for field in fields(cls) if isinstance(field.default, bool))

    @classmethod
    def none(cls) -> Options:
        """Only the passes that make a program exact."""
        nothing: dict[str, Any] = dict.fromkeys(cls.choices(), False)
        return cls(**nothing)

    @property
    def inexact(self) -> tuple[str, ...]:
        """The chosen passes that change results beyond rounding in another order."""
        return ("narrow_halo_rows",) if self.narrow_halo_rows else ()
