"""stack_reductions: each rank's own product or norm, stacked, and reduced once more."""

from __future__ import annotations

from support.programs import check_pass, model_of
from torch import Tensor

from graphshard.passes.exact.stack_reductions import StackReductions


def _products(self, x: Tensor) -> Tensor:
    return x.prod(0) + x.logsumexp(0) + x.norm(dim=0) + x.prod(1).sum()


def test_over_rows_and_over_features() -> None:
    program = check_pass(
        model_of(_products),
        [],
        StackReductions(),
        "prod stack_ranks prod logsumexp stack_ranks logsumexp add "
        "linalg_vector_norm stack_ranks linalg_vector_norm add prod sum add",
        edits=3,
    )
    own = next(n for n in program.graph.nodes if n.name == "prod" or n.name.startswith("prod_"))
    assert str(own.meta["placement"]) == "Partial(stack)"


def _infinite(self, x: Tensor) -> Tensor:
    return x.norm(p=float("inf"), dim=0) + x.norm(p=float("-inf"), dim=0)


def test_infinite_norms_are_extremes() -> None:
    check_pass(model_of(_infinite), [], StackReductions(), "abs amax abs amin add", edits=2)
