"""What a script would take for this graph's and is the example's: outputs that are no tensors, draws, derivatives."""

from __future__ import annotations

import dataclasses
import random
import re
from collections import namedtuple
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import graphshard

HERE = re.escape(__file__)

Pair = namedtuple("Pair", ["rows", "name"])


@dataclasses.dataclass
class Result:
    rows: Tensor


class Model(nn.Module):
    """A linear layer and a forward from outside."""

    def __init__(self, function: Callable[[Any, Tensor, Tensor], Any]) -> None:
        super().__init__()
        self.lin, self.function = nn.Linear(4, 3), function

    def forward(self, x: Tensor, edge_index: Tensor) -> Any:
        return self.function(self, x, edge_index)


def graph() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "x": torch.randn(20, 4, generator=generator),
        "edge_index": torch.randint(0, 20, (2, 60), generator=generator),
    }


def message(function: Callable[[Any, Tensor, Tensor], Any]) -> str:
    with pytest.raises(graphshard.CaptureError) as caught:
        graphshard.distribute(Model(function))(graphshard.partition(graph(), 1)[0])
    assert "\n" not in str(caught.value)
    return str(caught.value)


DATA_DEPENDENT: dict[str, Callable[[Any, Tensor, Tensor], Any]] = {
    "a size": lambda m, x, e: (m.lin(x), x.size(0)),
    "a length": lambda m, x, e: {"h": m.lin(x), "n": len(x)},
    "edges of a node": lambda m, x, e: (m.lin(x), e.size(1) / x.size(0)),
    "an item": lambda m, x, e: [m.lin(x), x.mean().item()],
    "a shape": lambda m, x, e: (m.lin(x), x.shape),
    "a condition": lambda m, x, e: (m.lin(x), str(x.size(0))),
    "a list": lambda m, x, e: (m.lin(x), e[0].tolist()),
}


@pytest.mark.parametrize("name", DATA_DEPENDENT)
def test_a_number_of_the_example_is_not_returned(name: str) -> None:
    assert re.search("Python number that depends|another structure", message(DATA_DEPENDENT[name]))


OBJECTS: dict[str, Callable[[Any, Tensor, Tensor], Any]] = {
    "a dataclass": lambda m, x, e: Result(m.lin(x)),
    "a distribution": lambda m, x, e: torch.distributions.Normal(m.lin(x), 1.0),
    "an array": lambda m, x, e: (m.lin(x), m.lin(x).detach().numpy()),
    "in a dict": lambda m, x, e: {"q": torch.distributions.Categorical(logits=m.lin(x))},
}


@pytest.mark.parametrize("name", OBJECTS)
def test_an_object_is_not_returned(name: str) -> None:
    assert "return its tensors" in message(OBJECTS[name])


def test_what_no_graph_changes_is_returned() -> None:
    model = Model(lambda m, x, e: Pair(m.lin(x), {"layers": 2, "dim": x.size(1), "off": None, "kind": "gcn"}))
    data = graph()
    found = graphshard.distribute(model)(graphshard.partition(data, 1)[0])
    assert found.name == {"layers": 2, "dim": 4, "off": None, "kind": "gcn"}
    torch.testing.assert_close(found.rows, model.lin(data["x"]))


DRAWS: dict[str, Callable[[Any, Tensor, Tensor], Any]] = {
    "random.random": lambda m, x, e: m.lin(x) if random.random() < 2 else x,
    "random.choice": lambda m, x, e: m.lin(x) * random.choice([1.0, 2.0]),
    "np.random.rand": lambda m, x, e: m.lin(x) * float(np.random.rand()),
    "np.random.permutation": lambda m, x, e: m.lin(x)[:, torch.from_numpy(np.random.permutation(3))],
    "a generator of its own": lambda m, x, e: m.lin(x) * random.Random(0).gauss(0, 1),
}


@pytest.mark.parametrize("name", DRAWS)
def test_draws_of_python_and_numpy_are_refused(name: str) -> None:
    said = message(DRAWS[name])
    assert "forward draws from" in said
    assert name.startswith("np.") or re.search(HERE, said)


@pytest.mark.versions
def test_negative_sampling_in_forward_names_the_line() -> None:
    utils = pytest.importorskip("torch_geometric.utils")

    def forward(m: Any, x: Tensor, e: Tensor) -> Tensor:
        other = utils.negative_sampling(e, x.size(0))
        return (m.lin(x)[other[0]] * m.lin(x)[other[1]]).sum(-1).mean()

    said = message(forward)
    assert "negative edges as pairs" in said
    assert re.search(HERE, said)


def test_a_derivative_in_forward_names_the_line() -> None:
    def forces(m: Any, x: Tensor, e: Tensor) -> Tensor:
        x = x.detach().requires_grad_()
        return torch.autograd.grad(m.lin(x).square().sum(), x, create_graph=True)[0]

    def backward(m: Any, x: Tensor, e: Tensor) -> Tensor:
        x = x.detach().requires_grad_()
        m.lin(x).square().sum().backward()
        return m.lin(x) * x.grad.sum()  # type: ignore[union-attr]

    for function in (forces, backward):
        said = message(function)
        assert "takes a derivative by itself" in said
        assert re.search(HERE, said)


def test_a_write_into_a_parameter_names_it() -> None:
    def momentum(m: Any, x: Tensor, e: Tensor) -> Tensor:
        with torch.no_grad():
            m.lin.weight.mul_(0.99)
        return m.lin(x)

    said = message(momentum)
    assert "writes into the parameter 'lin.weight'" in said
    assert re.search(HERE, said)
