"""distribute_batch_norm: statistics of all ranks in training mode, plain rows in eval mode."""

from __future__ import annotations

import pytest
from support.programs import check_pass, model_of
from torch import Tensor, nn

from graphshard.passes.exact.distribute_batch_norm import DistributeBatchNorm


def _normalised(self, x: Tensor) -> Tensor:
    return self.norm(x)


MEAN = "sum sym_size div"
TRAINING = f"{MEAN} sub mul {MEAN} add rsqrt mul"
RUNNING = "sym_size sub truediv detach view detach view mul lerp lerp"


@pytest.mark.parametrize(
    ("norm", "train", "after", "example"),
    [
        (nn.BatchNorm1d(5), True, f"add {TRAINING} mul add {RUNNING}", "training"),
        (nn.BatchNorm1d(5, affine=False), True, f"add {TRAINING} {RUNNING}", "not_affine"),
        (nn.BatchNorm1d(5, track_running_stats=False), True, f"{TRAINING} mul add", "no_running_statistics"),
        (nn.BatchNorm1d(5), False, "sub add rsqrt mul mul add", "eval"),
    ],
    ids=["training", "not affine", "no running statistics", "eval"],
)
def test_batch_norm(norm: nn.Module, train: bool, after: str, example: str) -> None:
    model = model_of(_normalised, norm=norm).train(train)
    check_pass(model, [], DistributeBatchNorm(), after, edits=1, example=example)
