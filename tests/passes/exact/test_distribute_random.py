"""distribute_random: every random op from uniform or normal numbers by global row ids."""

from __future__ import annotations

import torch
from support.programs import check_pass, model_of
from torch import Tensor

from graphshard.ops import local as local_ops
from graphshard.passes.exact.distribute_dropout import DistributeDropout
from graphshard.passes.exact.distribute_random import DistributeRandom


def _draws(self, x: Tensor, mask: Tensor) -> Tensor:
    noise = torch.randn_like(x) + torch.bernoulli(x.sigmoid())
    kept = torch.nn.functional.dropout(x[mask], 0.5) * torch.rand_like(x[mask])
    return noise + kept.sum(0) * torch.rand(5, dtype=x.dtype)


def test_four_sites_after_a_dropout() -> None:
    program = check_pass(
        model_of(_draws),
        [DistributeDropout()],
        DistributeRandom(),
        "random_like sigmoid random_like lt _to_copy add index index dropout_rows index random_like mul "
        "sum zeros random_like mul add",
        edits=4,
    )
    drawn = [n for n in program.graph.nodes if n.target is local_ops.random_like]
    assert [n.args[3] for n in drawn] == ["normal", "uniform", "uniform", "uniform"]
    assert sorted(n.args[5] for n in drawn) == [1, 2, 3, 4]  # 0 is the dropout's
    assert [str(n.args[1]) for n in drawn] == ["owned_ids", "owned_ids", "index_tensor_1", "None"]


def test_no_random_op() -> None:
    check_pass(model_of(lambda self, x: self.lin(x)), [], DistributeRandom(), "linear", edits=0)
