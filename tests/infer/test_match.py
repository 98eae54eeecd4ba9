"""Patterns of calls: what fits, in how many ways, and what stands in the places of their words."""

from __future__ import annotations

import operator

import torch
from torch import fx

from graphshard.infer.match import call, either, match, matches

aten = torch.ops.aten


def nodes() -> dict[str, fx.Node]:
    """``sum(mul(exp(a), b), [1])`` and its parts."""
    graph = fx.Graph()
    a, b = graph.placeholder("a"), graph.placeholder("b")
    power = graph.call_function(aten.exp.default, (a,))
    product = graph.call_function(aten.mul.Tensor, (power, b))
    total = graph.call_function(aten.sum.dim_IntList, (product, [1]))
    return {"a": a, "b": b, "power": power, "product": product, "total": total}


def test_words_stand_for_what_is_there() -> None:
    n = nodes()
    pattern = call(aten.sum, call(aten.mul, call(aten.exp, "x"), "y", name="product"), "dims")
    assert match(pattern, n["total"]) == {"x": n["a"], "y": n["b"], "product": n["product"], "dims": [1]}


def test_every_argument_counts() -> None:
    n = nodes()
    assert match(call(aten.sum, "x"), n["total"]) is None
    assert match(call(aten.sum, "x", "dims", "keepdim"), n["total"]) is None
    found = match(call(aten.sum, "x", "dims", optional=("keepdim", "dtype")), n["total"])
    assert found == {"x": n["product"], "dims": [1], "keepdim": None, "dtype": None}
    n["total"].kwargs = {"dtype": torch.float64}
    assert match(call(aten.sum, "x", "dims"), n["total"]) is None


def test_a_product_that_commutes_fits_both_ways() -> None:
    n = nodes()
    assert match(call(aten.mul, "y", call(aten.exp, "x")), n["product"]) is None
    assert match(call(aten.mul, "y", call(aten.exp, "x"), commutes=True), n["product"]) == {
        "x": n["a"],
        "y": n["b"],
    }
    both = list(matches(call(aten.mul, "p", "q", commutes=True), n["product"]))
    assert [found["p"] for found in both] == [n["power"], n["b"]]


def test_one_of_several() -> None:
    n = nodes()
    pattern = either(call((aten.neg, aten.exp), "x"), call(aten.mul, "x", "y"), "x")
    assert match(pattern, n["power"]) == {"x": n["a"]}
    assert match(pattern, n["product"]) == {"x": n["power"], "y": n["b"]}
    assert match(pattern, 3) == {"x": 3}
    assert match(call(aten.exp, "x"), 3) is None
    assert match(call(operator.getitem, "x", "i"), n["power"]) is None
