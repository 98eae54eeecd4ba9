"""A torch that came out after the last test run works as far as it goes, and what is not known is said."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn

import graphshard
from graphshard.version import NEWEST_TORCH


def test_a_newer_torch_is_said_to_be_untested(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "__version__", "99.1.0+cpu")
    with pytest.warns(
        UserWarning, match=r"torch 99\.1\.0\+cpu is newer than 2\.\d+, the newest .* is not known"
    ):
        graphshard.distribute(nn.Linear(2, 2))


@pytest.mark.parametrize(
    "version", [f"{NEWEST_TORCH[0]}.{NEWEST_TORCH[1]}.9", "2.11.0+cu130", "2.14.0a0+git1234"]
)
def test_a_tested_one_is_not(version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "__version__", version)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        graphshard.distribute(nn.Linear(2, 2))
