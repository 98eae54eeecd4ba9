"""What ``graphshard.private.torch_checkpoint`` relies on."""

from __future__ import annotations

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from graphshard.private.torch_checkpoint import Region, in_backward, region

pytestmark = pytest.mark.versions


def test_a_region_is_known_again_in_backward() -> None:
    """Hooks on saved tensors close over the ``_CheckpointFrame`` of a region, in its first run and in backward."""
    seen: list[tuple[Region | None, bool]] = []

    def run(x: torch.Tensor) -> torch.Tensor:
        seen.append((region(), in_backward()))
        return x.sin().sin()

    assert region() is None
    checkpoint(run, torch.ones(2, requires_grad=True), use_reentrant=False).sum().backward()
    (first, early), (again, late) = seen
    assert first is not None
    assert again is not None
    assert (first.again, again.again, early, late) == (False, True, False, True)
    assert first.frame is again.frame
    assert first.run is not again.run


def test_other_hooks_are_no_region() -> None:
    with torch.autograd.graph.saved_tensors_hooks(lambda x: x, lambda x: x):
        assert region() is None
