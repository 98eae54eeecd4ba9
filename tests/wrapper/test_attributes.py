"""What a script does to its module it can do to the distributed one: attributes, methods, state."""

from __future__ import annotations

import pytest
import torch
from support.wrapped import EDGES, Net, X, net
from torch import nn

import graphshard
from graphshard.errors import CaptureError


def test_what_is_written_is_the_modules_and_is_read_by_forward() -> None:
    plain = net()
    model = graphshard.distribute(plain)
    model(X, EDGES)
    model.temperature = 0.1
    assert plain.temperature == 0.1
    torch.testing.assert_close(model(X, EDGES), plain(X, EDGES))
    model.scale = torch.ones(4, dtype=torch.float64)
    assert plain.get_buffer("scale") is model.scale
    torch.testing.assert_close(model(X, EDGES), plain(X, EDGES))


def test_nothing_of_the_wrapper_lands_on_the_module() -> None:
    plain = net()
    before = set(vars(plain))
    model = graphshard.distribute(plain, seed=1)
    model(X, EDGES)
    model.seed, model.step = 4, 7
    assert set(vars(plain)) == before
    assert (model.seed, model.step) == (4, 7)
    assert model.state_dict().keys() == plain.state_dict().keys()


def test_methods_properties_and_what_is_missing() -> None:
    class More(Net):
        @property
        def tempered(self) -> float:
            return self.temperature / 2

        @tempered.setter
        def tempered(self, value: float) -> None:
            self.temperature = 2 * value

    model = graphshard.distribute(More())
    model.reset_parameters(value=0.25)
    assert (model.lin.weight == 0.25).all()
    assert model.count() == sum(p.numel() for p in model.parameters())
    model.tempered = 2.0
    assert (model.temperature, model.tempered) == (4.0, 2.0)
    assert hasattr(model, "encode")
    assert {"encode", "temperature", "lin", "stages"} <= set(dir(model))
    del model.temperature
    assert not hasattr(model, "temperature")
    with pytest.raises(AttributeError, match="'More' object has no attribute 'temperature'"):
        model.temperature  # noqa: B018
    with pytest.raises(AttributeError):
        del model.temperature


def test_parameters_buffers_and_submodules_that_are_registered_later() -> None:
    plain = net()
    model = graphshard.distribute(plain)
    model.extra = nn.Parameter(torch.ones(2))
    model.register_buffer("left_out", torch.ones(3), persistent=False)
    model.add_module("head", nn.Linear(2, 2))
    model.lin = nn.Linear(4, 4).double()
    assert plain.extra is model.extra
    assert plain.lin is model.lin
    assert {"extra", "head.weight"} <= dict(plain.named_parameters()).keys()
    assert "left_out" not in plain.state_dict()
    with pytest.raises(KeyError, match="already exists"):
        model.register_parameter("temperature", nn.Parameter(torch.ones(1)))
    torch.testing.assert_close(model(X, EDGES), plain(X, EDGES))


def test_the_mode_is_the_modules() -> None:
    plain = net(0.5)
    model = graphshard.distribute(plain)
    model.training = False
    assert not plain.training
    torch.testing.assert_close(model(X, EDGES), plain(X, EDGES))
    plain.train()
    assert model.training
    assert not model.eval().lin.training


def test_a_name_of_both_is_refused_where_it_is_written() -> None:
    class Stepping(Net):
        step = 3

    model = graphshard.distribute(Stepping())
    with pytest.raises(
        CaptureError, match="'step' is an attribute of the distributed module and of Stepping"
    ):
        model.step = 4


def test_what_the_class_overrides_is_called_there() -> None:
    class Own(Net):
        def state_dict(self, *args: object, **kwargs: object) -> dict[str, object]:  # type: ignore[override]
            return {**super().state_dict(*args, **kwargs), "version": 2}  # type: ignore[arg-type, call-overload]

        def double(self) -> Own:
            self.temperature = 2.0
            return super().double()

    import copy

    for model in (graphshard.distribute(Own()), copy.deepcopy(graphshard.distribute(Own()))):
        assert model.state_dict()["version"] == 2
        assert model.double() is model
        assert model.temperature == 2.0


def test_parts_by_number() -> None:
    layers = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
    model = graphshard.distribute(layers)
    assert model[0] is layers[0]
    assert list(model) == list(layers)
    with pytest.raises(TypeError, match="'Net' object is not subscriptable"):
        graphshard.distribute(net())[0]


def test_a_functional_call_has_the_gradients_of_what_it_puts_in() -> None:
    """Before anything was captured, and after."""
    plain = net()
    model = graphshard.distribute(plain)
    for _ in range(2):
        given = {name: (2 * p).detach().requires_grad_() for name, p in plain.named_parameters()}
        found = torch.func.functional_call(model, given, (X, EDGES)).square().sum()
        expected = torch.func.functional_call(plain, given, (X, EDGES)).square().sum()
        for one, other in zip(
            torch.autograd.grad(found, list(given.values())),
            torch.autograd.grad(expected, list(given.values())),
            strict=True,
        ):
            torch.testing.assert_close(one, other)
        assert all(isinstance(p, nn.Parameter) for p in plain.parameters())
