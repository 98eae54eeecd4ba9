"""What ``torch_export``, ``torch_export_errors``, ``fake_tensors`` and ``symbolic_sizes`` rely on."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from support.repository import ROOT
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from torch.export import Dim, ExportedProgram

from graphshard.private import torch_export, torch_export_errors
from graphshard.private.fake_tensors import FakeTensor, fake_mode_of, unknown_size, without_cache
from graphshard.private.symbolic_sizes import NotedSizes, expression, is_same_size
from graphshard.private.torch_graphs import rename

pytestmark = pytest.mark.versions


class Model(nn.Module):
    def __init__(self, run: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.run = run

    def forward(self, x: Tensor) -> Any:
        return self.run(x)


def export(run: Callable[[Tensor], Any] | nn.Module, *, any_rows: bool = True) -> ExportedProgram:
    module = run if isinstance(run, nn.Module) else Model(run)
    shapes = ({0: Dim("rows", min=4, max=1 << 20)},) if any_rows else None
    return torch.export.export(module, (torch.ones(7, 3),), dynamic_shapes=shapes, strict=False)


def error_of(run: Callable[[Tensor], Any] | nn.Module) -> Exception:
    with pytest.raises(Exception) as caught:  # noqa: PT011 (each test asks what it says)
        export(run)
    return caught.value


def test_torch_export_imports_its_tracer_by_name() -> None:
    """``torch.export._trace`` is a module: the forkserver of local ranks skips in silence what is not there."""
    assert importlib.util.find_spec(torch_export.TRACER) is not None


# ---- errors


def test_a_decision_by_data_is_told_by_words() -> None:
    """An ``if`` on a tensor's value raises an error that :func:`is_data_dependent` knows."""
    error = error_of(lambda x: x if x.sum().item() > 0 else -x)
    assert torch_export_errors.is_data_dependent(error), f"torch.export says: {type(error)}: {error}"


def test_a_fixed_number_of_rows_is_told_by_words() -> None:
    """A condition on the number of rows raises an error that :func:`is_fixed_size` knows, a ``UserError``."""
    error = error_of(lambda x: x if x.size(0) == 7 else -x)
    assert torch_export_errors.is_fixed_size(error), f"torch.export says: {type(error)}: {error}"
    assert torch_export_errors.is_about_the_model(error)
    assert not torch_export_errors.is_about_the_model(ValueError(str(error)))
    assert not torch_export_errors.is_data_dependent(error)


def test_a_fake_tensor_has_no_numpy_array() -> None:
    """``x.numpy()`` inside of a trace raises one of two errors that are known by their words."""
    error = str(error_of(lambda x: torch.from_numpy(x.numpy() * 2)))
    words = (torch_export_errors.NO_NUMPY, torch_export_errors.FAKE_TENSOR_CAST)
    assert any(said in error for said in words), f"torch.export says: {error}"


def test_a_tensor_that_is_kept_is_told_by_words() -> None:
    """A module that keeps a tensor of one trace as an attribute's entry is told so, when or after it is exported."""
    kept: list[Tensor] = []

    def run(x: Tensor) -> Tensor:
        if not kept:
            kept.append(x.new_ones(3) * 2)
        return x + kept[0]

    export(run, any_rows=False)
    error = str(error_of(run))
    assert torch_export_errors.FAKE_TENSOR_KEPT in error, f"torch.export says: {error}"


def test_a_parameter_that_is_a_plain_tensor_is_told_by_words() -> None:
    """A module that hands out plain tensors as its parameters, as compiled ones did, is told so."""

    class Handing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self._parameters["weight"] = torch.ones(3)  # type: ignore[assignment]

        def forward(self, x: Tensor) -> Tensor:
            return x * self._parameters["weight"]  # type: ignore[operator]

    error = str(error_of(Handing()))
    assert torch_export_errors.NOT_A_PARAMETER in error, f"torch.export says: {error}"


# ---- regions


def region(run: Callable[[Tensor], Any]) -> tuple[ExportedProgram, Any]:
    exported = export(run)
    (node,) = torch_export.regions_of(exported.graph)
    return exported, torch_export.region_of(node)


def no_grad(x: Tensor) -> Tensor:
    with torch.no_grad():
        y = x * 2
    return x + y


def enable_grad(x: Tensor) -> Tensor:
    with torch.enable_grad():
        y = x * 2
    return x + y


def without_autocast(x: Tensor) -> Tensor:
    with torch.autocast("cpu", enabled=False):
        y = x * 2
    return x + y


def with_autocast(x: Tensor) -> Tensor:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        return x @ x.t()


def test_torch_export_names_its_grad_mode_region_wrap_with_set_grad_enabled() -> None:
    """Its arguments are whether gradients are recorded, the graph of the body, and the inputs."""
    exported, found = region(no_grad)
    assert found is not None, "torch.no_grad() is no wrap_with_set_grad_enabled"
    assert not found.grad
    body = getattr(exported.graph_module, str(found.body.target))
    assert any(n.target is torch.ops.aten.mul.Tensor for n in body.graph.nodes)
    assert [n.name for n in found.inputs] == ["x"]


def test_grad_mode_that_is_on_may_be_a_region_too() -> None:
    """``torch.enable_grad()`` where gradients are off is a region with gradients."""
    with torch.no_grad():
        _, found = region(enable_grad)
    assert found is not None
    assert found.grad


def test_torch_export_names_its_autocast_region_wrap_with_autocast() -> None:
    """Its third argument is whether it is enabled, its fifth the graph of the body; an enabled one is refused."""
    exported, found = region(without_autocast)
    assert found is not None, "a disabled autocast is no wrap_with_autocast"
    assert found.grad
    assert hasattr(exported.graph_module, str(found.body.target))
    assert [n.name for n in found.inputs] == ["x"]
    _, enabled = region(with_autocast)
    assert enabled is None


# ---- what else is in a graph


def test_torch_export_asserts_sizes_with_known_ops() -> None:
    """Of a size that the data decides, the ops that compute nothing and that no user reads are ``SIZE_ASSERTS``."""

    def run(x: Tensor) -> Tensor:
        found = x[x[:, 0] > 0]
        torch._check(found.size(0) > 2)
        return found.to(torch.float64)

    nodes = [n for n in export(run).graph.nodes if n.op == "call_function" and not n.users]
    assert nodes, "torch.export asserts nothing any more"
    unknown = [n for n in nodes if getattr(n.target, "overloadpacket", None) not in torch_export.SIZE_ASSERTS]
    assert not unknown, f"torch.export asserts by {[str(n.target) for n in unknown]} too"


def test_paths_of_modules_are_read_in_every_form() -> None:
    """``meta["nn_module_stack"]`` of a trace, strict or not, gives the path that the user would write."""
    model = nn.Sequential(nn.Sequential(nn.Linear(3, 3)))
    for strict in (False, True):
        exported = torch.export.export(model, (torch.ones(4, 3),), strict=strict)
        stacks = [n.meta["nn_module_stack"] for n in exported.graph.nodes if "nn_module_stack" in n.meta]
        paths = {torch_export.written_path(list(stack.values())[-1][0]) for stack in stacks}
        assert "0.0" in paths, f"a stack has the form {stacks[-1]}"
    assert torch_export.written_path("getattr(L['self'].convs, '0')") == "convs.0"
    assert torch_export.written_path("L['self']._modules['convs']") == "convs"


def test_a_node_is_renamed_to_a_name_that_is_free() -> None:
    """``torch.fx.Node._rename`` sets the name, and a number behind it where the name is taken."""
    graph = torch.fx.Graph()
    first, second = graph.placeholder("a"), graph.placeholder("b")
    rename(first, "x")
    rename(second, "x")
    assert (first.name, second.name) == ("x", "x_1")


# ---- fake tensors and symbolic sizes


def test_examples_of_a_graph_are_fake_tensors_of_one_mode() -> None:
    """``meta["val"]`` is a ``FakeTensor`` with a ``fake_mode``, in which ops run and a tensor becomes a fake one."""
    values = [n.meta["val"] for n in export(lambda x: x * 2).graph.nodes if n.op != "output"]
    assert all(isinstance(value, FakeTensor) for value in values)
    (mode,) = {fake_mode_of(value) for value in values}
    assert fake_mode_of(torch.ones(1)) is None
    with mode:
        assert isinstance(mode.from_tensor(torch.ones(2)) + torch.ones(2), FakeTensor)


def test_an_unknown_size_equals_no_other() -> None:
    """``ShapeEnv.create_unbacked_symint`` makes a symbol of its own, which a fake tensor takes as a size."""
    value = export(lambda x: x * 2).graph.find_nodes(op="placeholder")[0].meta["val"]
    mode = fake_mode_of(value)
    one, other = unknown_size(mode), unknown_size(mode)
    assert is_same_size(one, one)
    assert not is_same_size(one, other)
    assert not is_same_size(one, value.size(0))
    with mode:
        assert is_same_size(torch.empty(one, dtype=torch.int64).size(0), one)


def test_sizes_are_compared_without_a_condition() -> None:
    """``SymInt.node.expr`` is equal for equal sizes: comparing them fixes nothing. An int is itself."""
    found: list[bool] = []

    def run(x: Tensor) -> Tensor:
        rows = torch.cat([x, x]).size(0)
        found.extend([is_same_size(rows, 2 * x.size(0)), is_same_size(rows, x.size(0)), is_same_size(7, 7)])
        return x

    export(run)
    assert found == [True, False, False]
    assert expression(3) == 3


@pytest.mark.parametrize(
    ("look", "fixed"),
    [
        (lambda x: x.size(0) + 1, False),
        (lambda x: x.size(0) == 7, True),
        (lambda x: x.size(0) % 7 == 0, True),
        (lambda x: int(x.size(0)), True),
    ],
)
def test_a_trace_notes_conditions_on_a_size(look: Callable[[Tensor], Any], fixed: bool) -> None:
    """``ShapeEnv.guards`` grows by conditions with ``free_symbols``; ``replace`` knows what became a constant."""
    found: list[bool] = []

    def run(x: Tensor) -> Tensor:
        noted = NotedSizes(x.shape)
        before = noted.is_fixed()
        if look(x):
            pass
        found.extend([before, noted.is_fixed()])
        return x

    refused = None
    try:
        export(run)
    except Exception as error:
        refused = error
    assert refused is None or (fixed and torch_export_errors.is_about_the_model(refused))
    assert found == [False, fixed], "ShapeEnv notes conditions in another way"


def test_importing_graphshard_does_not_import_torch_dynamo() -> None:
    """``torch._dynamo`` takes a second, and who captures no model needs none of it."""
    program = "import sys, graphshard.api, graphshard.tools.cli.train; print('torch._dynamo' in sys.modules)"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["False"]


def test_a_mode_made_without_the_cache_has_none() -> None:
    """``FakeTensorMode.cache_enabled`` is ``torch._dynamo.config.fake_tensor_cache_enabled`` when it is made."""
    assert FakeTensorMode().cache_enabled
    with without_cache():
        assert not FakeTensorMode().cache_enabled
    assert FakeTensorMode().cache_enabled


def test_the_first_capture_of_a_process_is_as_any_other() -> None:
    """Importing ``torch._dynamo`` draws random numbers; where forward is watched for such draws it is imported."""
    program = """
import sys, torch, graphshard
assert "torch._dynamo" not in sys.modules

class Sum(torch.nn.Module):
    def forward(self, x, edge_index):
        return torch.zeros_like(x).index_add(0, edge_index[1], x[edge_index[0]])

model = graphshard.distribute(Sum())
print(tuple(model(torch.rand(5, 3), torch.tensor([[0, 1], [1, 2]])).shape), "torch._dynamo" in sys.modules)
"""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "(5, 3) True"
