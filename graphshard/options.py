"""Which passes make a program faster."""

from __future__ import annotations

from dataclasses import dataclass, fields


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

    @classmethod
    def none(cls) -> Options:
        """Only the passes that make a program exact."""
        return cls(**{field.name: False for field in fields(cls)})

    @property
    def inexact(self) -> tuple[str, ...]:
        """The chosen passes that change results beyond rounding in another order."""
        return ("narrow_halo_rows",) if self.narrow_halo_rows else ()
