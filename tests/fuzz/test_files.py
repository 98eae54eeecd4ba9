"""A few of the damaged files that ``fuzz.files`` makes by the thousand."""

from __future__ import annotations

import pytest

from fuzz.files import KINDS, batch


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_damaged_is_refused_or_the_same(kind: str) -> None:
    outcomes = [outcome for _, outcome in batch(kind, range(7, 67))]
    assert set(outcomes) == {"refused", "same"}
    assert outcomes.count("refused") > 40
