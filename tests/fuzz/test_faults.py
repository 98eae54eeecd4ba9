"""A run that is hit by a fault goes on to the weights of one that is not (``fuzz.faults`` goes on)."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from fuzz.faults import hit_and_resumed, undisturbed

pytestmark = [
    pytest.mark.processes,
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc"),
]


def test_a_launcher_is_killed(tmp_path: Path) -> None:
    for folder in ("whole", "hit"):
        (tmp_path / folder).mkdir()
    expected = undisturbed(tmp_path / "whole")
    outcome = hit_and_resumed(tmp_path / "hit", "the launcher is killed", expected, seed=0)
    assert not outcome.problem
    assert outcome.epoch > 0
