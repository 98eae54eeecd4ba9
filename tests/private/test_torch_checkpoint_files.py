"""What ``graphshard.private.torch_checkpoint_files`` relies on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from graphshard.private.torch_checkpoint_files import read_tensors, write_tensors

pytestmark = pytest.mark.versions


def test_tensors_come_back_bit_by_bit_without_the_pickled_metadata(tmp_path: Path) -> None:
    tensors = {
        "model/weight": torch.rand(3, 4, dtype=torch.float64),
        "step": torch.tensor(3),
        "half": torch.rand(5).bfloat16(),
        "none": torch.empty(0, 3),
        "flags": torch.rand(7) > 0.5,
        "complex": torch.rand(2, dtype=torch.complex64),
    }
    layout = json.loads(json.dumps(write_tensors(tmp_path / "files", tensors)))
    (tmp_path / "files" / ".metadata").unlink()
    found = read_tensors(
        tmp_path / "files", layout, ["half", "model/weight", "none", "step", "flags", "complex"]
    )
    assert found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor)
    assert read_tensors(tmp_path / "files", layout, []) == {}


def test_nothing_is_written_for_no_tensor(tmp_path: Path) -> None:
    assert write_tensors(tmp_path / "files", {}) == {}
