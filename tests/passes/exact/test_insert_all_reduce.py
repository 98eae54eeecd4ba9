"""insert_all_reduce: terms are added over the ranks, counts that are read as numbers too."""

from __future__ import annotations

from support.programs import check_pass, model_of
from torch import Tensor

from graphshard.passes.exact.insert_all_reduce import InsertAllReduce


def _means(self, x: Tensor, mask: Tensor, edge_index: Tensor) -> Tensor:
    return x.sum(0) / x.size(0) + x[mask].sum(0) / x[mask].size(0) + edge_index.size(1)


def test_sums_and_counts() -> None:
    program = check_pass(
        model_of(_means),
        [],
        InsertAllReduce(),
        "sum all_reduce div index sym_size global_count sum all_reduce div add add",
        edits=5,
    )
    graph_parts = {spec.target for spec in program.inputs if spec.kind == "graph"}
    assert graph_parts == {"group", "num_nodes", "num_edges"}  # whole counts are known to the shard


def _twice(self, x: Tensor) -> Tensor:
    total = x.sum(0)
    return total * total.tanh()


def test_a_term_that_is_read_twice_is_reduced_once() -> None:
    check_pass(model_of(_twice), [], InsertAllReduce(), "sum all_reduce tanh mul", edits=1)
