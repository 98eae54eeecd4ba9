"""The models of PyG's examples: exact on three ranks, or refused for the reason that is written here."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from support import pyg_examples as examples
from support.models import make
from torch import nn

import graphshard
from graphshard.errors import CaptureError, GraphshardError, UnsupportedOperation

torch.set_num_threads(1)

EXACT: dict[str, Callable[[], nn.Module]] = {
    "gcn": examples.Gcn,
    "gcn, its loss": examples.GcnLoss,
    "gat": examples.Gat,
    "sgc": examples.Sgc,
    "appnp": examples.Appnp,
    "arma": examples.Arma,
    "tagcn": examples.Tagcn,
    "gcn2": examples.Gcn2,
    "pna, nodes": examples.PnaNodes,
    "rgcn": examples.Rgcn,
    "autoencoder": examples.Autoencoder,
    "infomax, features mirrored": lambda: examples.Infomax(shuffled=False),
    "label propagation": examples.LabelPropagation,
    "correct and smooth": examples.CorrectAndSmooth,
    "gin": examples.Gin,
    "pna": examples.Pna,
}

REFUSED: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "sgc, cached": (lambda: examples.Sgc(cached=True), "'conv'.*cached=True.*set cached=False"),
    "infomax, features shuffled": (lambda: examples.Infomax(shuffled=True), "randperm"),
}


def check(factory: Callable[[], nn.Module], mode: str) -> None:
    data = examples.citations()
    roles = dict.fromkeys(data, "node") | dict.fromkeys(("edge_type", "edge_attr"), "edge")
    roles["edge_index"] = "edge_index"
    parts = torch.arange(data["y"].numel()) % 7 % 3
    report = graphshard.verify(make(factory), data, 3, modes=[mode], method=parts, roles=roles)
    assert report.passed, report.failures


@pytest.mark.parametrize("name", EXACT)
def test_exact(name: str) -> None:
    check(EXACT[name], "train")


def test_super_gat_is_exact_without_negative_pairs() -> None:
    check(examples.SuperGat, "eval")


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str) -> None:
    factory, reason = REFUSED[name]
    with pytest.raises((CaptureError, UnsupportedOperation), match=reason):
        check(factory, "train")


def test_super_gat_refuses_to_sample_negative_pairs() -> None:
    with pytest.raises(GraphshardError, match=r"SuperGATConv|looking at the data|captured program"):
        check(examples.SuperGat, "train")
