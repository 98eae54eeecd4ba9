"""What every test runs in."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from graphshard.capture.functional import equal_graphs_once


@pytest.fixture(autouse=True, scope="module")
def _equal_graphs_are_decomposed_once() -> Iterator[None]:
    """A capture's slowest step is done once for graphs of a file that are equal to the last constant.

    Each test still exports its models, so that what it reads is found; half of the graphs of a file are then known.
    """
    with equal_graphs_once():
        yield
