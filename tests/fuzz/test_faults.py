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


def test_a_rank_and_a_launcher_are_killed(tmp_path: Path) -> None:
    for folder in ("whole", "one", "two"):
        (tmp_path / folder).mkdir()
    expected = undisturbed(tmp_path / "whole")
    for seed, (folder, fault) in enumerate([("one", "a rank is killed"), ("two", "the launcher is killed")]):
        outcome = hit_and_resumed(tmp_path / folder, fault, expected, seed)
        assert not outcome.problem
        assert outcome.epoch > 0
