"""What published models do beside plain layers: norms over graphs, compiled helpers, Functions of their own."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from support.models import Reversed
from torch import Tensor, nn

import graphshard
from graphshard.capture.explain import explained
from graphshard.capture.replacements import REPLACED


def neighbours(h: Tensor, edge_index: Tensor) -> Tensor:
    return torch.zeros_like(h).index_add(0, edge_index[1], h[edge_index[0]])


def graph(nodes: int = 30, edges: int = 90, features: int = 4) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "x": torch.rand(nodes, features, generator=generator, dtype=torch.float64),
        "edge_index": torch.randint(0, nodes, (2, edges), generator=generator),
    }


def passes(model: nn.Module, data: dict[str, Tensor], parts: int = 3) -> bool:
    return graphshard.verify(model.double(), data, parts).passed


# ---- norms over the graphs of a batch ----------------------------------------------------------------------


class VirtualNode(nn.Module):
    """OGB's: a state for each graph, normalised over the graphs."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(4, 8), norm, nn.ReLU(), nn.Linear(8, 4))

    def forward(self, x: Tensor, edge_index: Tensor, batch: Tensor) -> Tensor:
        h = x + neighbours(x, edge_index)
        state = h.new_zeros(int(batch.max()) + 1, 4).index_add(0, batch, h)
        return h + self.mlp(state)[batch]


NORMS = {
    "plain": lambda: nn.BatchNorm1d(8),
    "no running statistics": lambda: nn.BatchNorm1d(8, track_running_stats=False),
    "mean of all batches": lambda: nn.BatchNorm1d(8, momentum=None),
    "not affine": lambda: nn.BatchNorm1d(8, affine=False),
}


@pytest.mark.parametrize("name", NORMS)
def test_a_batch_norm_over_graphs(name: str) -> None:
    torch.manual_seed(0)
    data = graph(40) | {"batch": torch.arange(40) // 10}
    assert passes(VirtualNode(NORMS[name]()), data)


def test_graphs_of_other_numbers_and_orders() -> None:
    torch.manual_seed(0)
    data = graph(40) | {"batch": torch.arange(40) % 7}
    assert passes(VirtualNode(nn.BatchNorm1d(8)), data, 4)


def test_an_integer_that_is_no_graph_stays_a_valid_class() -> None:
    """A category of two values would be none of an embedding of one row: zeros are tried first."""

    class Typed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.kinds, self.norm = nn.Embedding(1, 4), nn.BatchNorm1d(4)

        def forward(self, x: Tensor, edge_index: Tensor, kind: Tensor) -> Tensor:
            return self.norm(neighbours(x + self.kinds(kind), edge_index))

    assert passes(Typed(), graph() | {"kind": torch.zeros(30, dtype=torch.int64)})


def test_a_category_of_one_kind_beside_the_graphs() -> None:
    class TypedVirtualNode(VirtualNode):
        def __init__(self) -> None:
            super().__init__(nn.BatchNorm1d(8))
            self.kinds = nn.Embedding(1, 4)

        def forward(self, x: Tensor, edge_index: Tensor, batch: Tensor, kind: Tensor) -> Tensor:
            return super().forward(x + self.kinds(kind), edge_index, batch)

    torch.manual_seed(0)
    numbers = {"batch": torch.arange(40) // 10, "kind": torch.zeros(40, dtype=torch.int64)}
    assert passes(TypedVirtualNode(), graph(40) | numbers)


class Standardised(nn.Module):
    """NaN for one graph, without an error: nothing would be compared."""

    factor = 1.0

    def __init__(self) -> None:
        super().__init__()
        self.lin = nn.Linear(4, 4)

    def forward(self, x: Tensor, edge_index: Tensor, batch: Tensor) -> Tensor:
        state = x.new_zeros(int(batch.max()) + 1, 4).index_add(0, batch, self.lin(neighbours(x, edge_index)))
        state = (state - state.mean(0)) / state.std(0)
        return state[batch] * (self.factor if torch.compiler.is_compiling() else 1.0)


def test_examples_on_which_numbers_are_finite_are_preferred() -> None:
    torch.manual_seed(0)
    data = graph(40) | {"batch": torch.arange(40) // 10}
    assert passes(Standardised(), data)
    escaping = Standardised()
    escaping.factor = 1.5
    with pytest.raises(graphshard.CaptureError, match="output 0 differs"):
        passes(escaping, data)


# ---- helpers under torch.compile and torch.jit -------------------------------------------------------------


@torch.compile(backend="eager")
def compiled_step(h: Tensor) -> Tensor:
    return h.tanh() * 2


class UsesCompiled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lin, self.inner = nn.Linear(4, 4), torch.compile(nn.Linear(4, 4), backend="eager")

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        return neighbours(compiled_step(self.lin(x)), edge_index)


class UsesCompiledModule(UsesCompiled):
    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        return self.inner(neighbours(self.lin(x), edge_index))


class UsesCompiledLambda(UsesCompiled):
    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        return torch.compile(lambda h: h.relu() + 1, backend="eager")(neighbours(self.lin(x), edge_index))


@pytest.mark.parametrize("model", [UsesCompiled, UsesCompiledModule, UsesCompiledLambda])
def test_what_is_compiled_runs_as_it_is_written(model: type[nn.Module]) -> None:
    torch.manual_seed(0)
    assert passes(model(), graph(), 2)


# ---- custom Functions --------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def _table() -> Iterator[None]:
    before = dict(REPLACED)
    yield
    REPLACED.clear()
    REPLACED.update(before)


class Square(torch.autograd.Function):
    """With a backward of its own, as one that saves memory has."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return 2 * x * grad


class Same(torch.autograd.Function):
    """The identity on one machine, as a library's own exchange is."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, _group: object = None) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad, None


class Custom(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lin = nn.Linear(4, 4)

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        h = Same.apply(self.lin(x), None)
        return neighbours(Square.apply(h), edge_index)


def test_a_replaced_function_is_exact() -> None:
    torch.manual_seed(0)
    graphshard.replace(Square, lambda x: x * x)
    graphshard.replace(Same, lambda x, _group=None: x)
    assert passes(Custom(), graph())


def test_the_refusal_says_how_to_replace() -> None:
    graphshard.replace(Same, lambda x, _group=None: x)
    with pytest.raises(
        graphshard.CaptureError, match=r"Function Square .*graphshard\.replace\(Square, function\)"
    ):
        passes(Custom(), graph())


@pytest.mark.parametrize(
    "wrong", [lambda x: x * x * 1.01, lambda x: x * x.detach(), lambda x: (x * x).detach()]
)
def test_an_equivalent_that_is_none_is_found(wrong: Any) -> None:
    torch.manual_seed(0)
    graphshard.replace(Same, lambda x, _group=None: x)
    graphshard.replace(Square, wrong)
    with pytest.raises(graphshard.CaptureError):
        passes(Custom(), graph())


def test_a_wrong_gradient_of_an_input_alone_is_found() -> None:
    """No parameter stands before the Function, so no parameter's gradient tells."""

    class ReversesInput(Custom):
        def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
            return self.lin(neighbours(Reversed.apply(x), edge_index))

    graphshard.replace(Reversed, lambda x: x.clone())
    data = graph()
    data["x"].requires_grad_()
    with pytest.raises(
        graphshard.CaptureError, match=r"place of Reversed .* the gradient of argument 0 differs"
    ):
        graphshard.distribute(ReversesInput().double())(data["x"], data["edge_index"])


def test_a_gradient_of_an_input_that_escapes_capture_is_found() -> None:
    class Escapes(Custom):
        def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
            if torch.compiler.is_compiling():
                x = x.detach() + 1.01 * (x - x.detach())
            return self.lin(neighbours(x, edge_index))

    data = graph()
    data["x"].requires_grad_()
    with pytest.raises(graphshard.CaptureError, match="the gradient of input 0 differs"):
        graphshard.distribute(Escapes().double())(data["x"], data["edge_index"])


def test_a_subclass_is_not_replaced_with_it() -> None:
    class Other(Square):
        pass

    class Uses(Custom):
        def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
            return neighbours(Other.apply(self.lin(x)), edge_index)

    graphshard.replace(Square, lambda x: x * x)
    with pytest.raises(graphshard.CaptureError, match="Function Other"):
        passes(Uses(), graph())


@pytest.mark.parametrize(("function", "equivalent"), [(torch.relu, torch.relu), (int, int), (Square, 3)])
def test_only_a_function_is_replaced(function: Any, equivalent: Any) -> None:
    with pytest.raises(graphshard.GraphshardError, match=r"replace\(\) takes"):
        graphshard.replace(function, equivalent)


# ---- copies, and words of torch.export's own ---------------------------------------------------------------


class Retraces(nn.Module):
    """Its copy is traced anew, which patches nn.Module for the whole process: no thread may copy it beside another."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(*[nn.Linear(4, 4) for _ in range(30)])
        self.code = torch.fx.symbolic_trace(self.net)

    def __getstate__(self) -> dict[str, Any]:
        state = self.__dict__.copy()
        state["_modules"] = {"net": self.net}
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.code = torch.fx.symbolic_trace(self.net)

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        return neighbours(self.code(x), edge_index)


def test_ranks_do_not_copy_the_model_beside_each_other() -> None:
    torch.manual_seed(0)
    assert passes(Retraces(), graph(), 8)


class Sparse(Custom):
    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        scipy = pytest.importorskip("scipy.sparse")
        ones = torch.ones(edge_index.size(1)).numpy()
        return self.lin(x) * float(scipy.coo_matrix((ones, edge_index.numpy())).sum())


def test_code_that_is_not_torchs_is_named() -> None:
    with pytest.raises(
        graphshard.CaptureError, match=r"hands a tensor to code that is not PyTorch's .*NumPy"
    ):
        passes(Sparse(), graph())


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ("We found a fake tensor in the exported program constant's list", "register it as a buffer"),
        ("Cannot cast FakeTensor(..., size=(3,)) to number", "write the step with torch ops"),
    ],
)
def test_words_of_torch_export_come_with_what_to_do(said: str, meant: str) -> None:
    assert meant in str(explained(RuntimeError(said), nn.Linear(1, 1)))


def test_a_scripted_submodule_is_named() -> None:
    class Scripted(Custom):
        def __init__(self) -> None:
            super().__init__()
            with pytest.warns():
                self.code = torch.jit.script(nn.Linear(4, 4))

        def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
            return neighbours(self.code(x), edge_index)

    data = graph()
    with pytest.raises(graphshard.CaptureError, match=r"module 'code' .* compiled by torch\.jit"):
        graphshard.distribute(Scripted())(data["x"].float(), data["edge_index"])
