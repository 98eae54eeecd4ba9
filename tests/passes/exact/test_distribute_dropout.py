"""distribute_dropout: masks from global row ids; behind a mask, from the ids that it keeps."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from support.programs import check_pass, model_of
from torch import Tensor, nn

from graphshard.kernels.random_bits import random_key
from graphshard.ops import dropout
from graphshard.passes.exact.distribute_dropout import DistributeDropout


def _drops(self, x: Tensor, mask: Tensor) -> Tensor:
    kept = F.dropout(x[mask], 0.5).sum(0)
    return F.dropout(x, 0.5)[mask].sum(0) + kept + F.dropout(self.weight, 0.1)[:5]


def test_three_sites() -> None:
    program = check_pass(
        model_of(_drops),
        [],
        DistributeDropout(),
        "index index dropout_rows sum dropout_rows index sum add dropout_rows slice add",
        edits=3,
    )
    sites = [n.args[5] for n in program.graph.nodes if n.target is dropout.dropout_rows]
    assert sorted(sites) == [0, 1, 2]
    assert [n.args[1].name for n in program.graph.nodes if n.name == "dropout_1"] == ["owned_ids"]


def test_dropout_of_a_dropout() -> None:
    """As APPNP drops its edge weights again in every step."""

    def forward(self, x: Tensor, edge_weight: Tensor) -> Tensor:
        once = F.dropout(edge_weight, 0.5)
        return x.sum() + F.dropout(F.dropout(once, 0.5), 0.5).sum() + once.sum()

    program = check_pass(
        model_of(forward),
        [],
        DistributeDropout(),
        "dropout_rows sum dropout_rows dropout_rows sum add sum add",
        edits=3,
    )
    rows = [n for n in program.graph.nodes if n.target is dropout.dropout_rows]
    assert [n.args[5] for n in rows] == [0, 1, 2]
    assert all(n.args[1].name == "edge_ids" for n in rows)


def test_eval_mode_has_nothing_to_do() -> None:
    model = model_of(lambda self, x: self.drop(x), drop=nn.Dropout(0.5))
    check_pass(model.eval(), [], DistributeDropout(), "clone", edits=0)


def _keep(ids: torch.Tensor, width: int, p: float, step: int = 0, site: int = 0) -> torch.Tensor:
    ones = torch.ones(ids.numel(), width, dtype=torch.float64)
    return dropout.dropout_rows(ones, ids, 0, p, random_key(5, step), site) != 0


def test_a_mask_keeps_what_p_says_and_differs_between_sites_and_steps() -> None:
    masks = [_keep(torch.arange(3000), 7, 0.3, step, site) for step in range(2) for site in range(2)]
    for mask in masks:
        assert abs(float(mask.double().mean()) - 0.7) < 0.02
        assert abs(float((mask[:, :-1] & mask[:, 1:]).double().mean()) - 0.49) < 0.02
        assert abs(float((mask[:-1] & mask[1:]).double().mean()) - 0.49) < 0.02
    for i, one in enumerate(masks):
        for other in masks[i + 1 :]:
            assert abs(float((one & other).double().mean()) - 0.49) < 0.02


def test_a_mask_does_not_depend_on_the_order_of_rows() -> None:
    order = torch.randperm(50)
    assert torch.equal(_keep(order, 4, 0.5), _keep(torch.arange(50), 4, 0.5)[order])


def test_a_large_seed() -> None:
    """PyTorch's seeds have 64 bits, an int64 one less: the largest still draws a mask of its own."""
    x = torch.ones(4, 64, dtype=torch.float64)
    large, small = (
        dropout.dropout_rows(x, torch.arange(4), 0, 0.5, random_key(seed, 1), 0) for seed in (2**64 - 1, 1)
    )
    assert 0 < int(large.count_nonzero()) < x.numel()
    assert not torch.equal(large, small)
