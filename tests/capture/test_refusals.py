"""What cannot be distributed exactly is refused: one sentence with the op, the module and the user's line."""

from __future__ import annotations

import copy
import re
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import graphshard
from graphshard.testing import run_ranks

pyg = pytest.importorskip("torch_geometric.nn")

HERE = re.escape(__file__)


def data() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "x": torch.randn(20, 4, generator=generator),
        "edge_index": torch.randint(0, 20, (2, 60), generator=generator),
    }


def refused(model: nn.Module, error: type[Exception], *parts: str, **more: Any) -> str:
    """The message with which a model is refused; it must hold every part."""
    shard = graphshard.partition(data() | more, 1)[0]
    with pytest.raises(error) as caught:
        graphshard.distribute(model)(shard)
    message = str(caught.value)
    for part in parts:
        assert re.search(part, message), f"{part!r} is not in: {message}"
    assert "\n" not in message
    return message


class Wrapped(nn.Module):
    """A model with one conv of a given kind."""

    def __init__(self, conv: nn.Module) -> None:
        super().__init__()
        self.conv = conv

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        return self.conv(x, edge_index)


@pytest.mark.versions
def test_a_conv_that_caches_the_first_graph_names_its_module() -> None:
    model = Wrapped(pyg.GCNConv(4, 4, cached=True))
    refused(model, graphshard.CaptureError, r"module 'conv' \(GCNConv", "cached=True", "set cached=False")


@pytest.mark.versions
def test_a_data_dependent_branch_names_the_line() -> None:
    class Branch(nn.Module):
        def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
            if x.sum() > 0:
                return x
            return -x

    refused(
        Branch(), graphshard.CaptureError, HERE, r"if x\.sum\(\) > 0", "looking at the data", r"torch\.where"
    )


def test_an_int_of_a_tensor_says_to_pass_sizes() -> None:
    class Counts(nn.Module):
        def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
            return x.new_zeros(int(edge_index.max()) + 1)

    refused(Counts(), graphshard.UnsupportedOperation, "max", HERE, r"int\(edge_index\.max\(\)\)", "Instead")


@pytest.mark.versions
def test_an_op_without_a_rule_names_op_module_and_line() -> None:
    class Spectrum(nn.Module):
        def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
            return torch.linalg.svd(x)[1]

    refused(
        Spectrum(), graphshard.UnsupportedOperation, "svd", "no placement rule", HERE, "Spectrum", "Instead"
    )


@pytest.mark.versions
def test_a_special_case_for_a_size_is_refused() -> None:
    class Special(nn.Module):
        def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
            return x * 2 if x.size(0) == 20 else x * (x.size(0) > 100)

    refused(Special(), graphshard.CaptureError, "special way|Constraint")


@pytest.mark.versions
def test_a_custom_autograd_function_names_its_line() -> None:
    class Double(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return 2 * x

        @staticmethod
        def backward(ctx: Any, grad: Tensor) -> Tensor:
            return 3 * grad

    class Custom(nn.Module):
        def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
            return Double.apply(x)

    refused(Custom(), graphshard.CaptureError, "autograd.Function Double", HERE, r"Double\.apply\(x\)")


def test_backward_hooks_are_refused() -> None:
    model = Wrapped(pyg.GCNConv(4, 4))
    model.conv.register_full_backward_hook(lambda *_: None)
    refused(model, graphshard.CaptureError, "backward hooks", "module 'conv'")


def test_a_python_int_argument_is_refused() -> None:
    class Sized(nn.Module):
        def forward(self, x: Tensor, edge_index: Tensor, num_nodes: int) -> Tensor:
            return x.new_zeros(num_nodes)

    shard = graphshard.partition(data(), 1)[0]
    with pytest.raises(graphshard.CaptureError, match=r"'num_nodes' is the Python int 20.*x\.size\(0\)"):
        graphshard.distribute(Sized())(shard.x, shard.edge_index, 20)


@pytest.mark.versions
def test_state_kept_between_calls_is_found_by_the_second_example() -> None:
    class Remembers(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.calls = 0

        def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
            self.calls += 1
            return x * self.calls

    refused(
        Remembers(),
        graphshard.CaptureError,
        "attribute 'calls'",
        "register it as a buffer|Register it as a buffer",
        HERE,
    )


def test_an_op_for_one_number_of_nodes_is_named() -> None:
    class Fourier(nn.Module):
        def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
            return torch.fft.fft(x, dim=0).real

    refused(Fourier(), graphshard.CaptureError, "fft_fft works for some numbers of nodes", HERE, "Fourier")


def test_a_running_sum_over_the_nodes_is_refused() -> None:
    class OverNodes(nn.Module):
        def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
            return x.cumsum(0)

    refused(OverNodes(), graphshard.UnsupportedOperation, "cumsum", "spread over the ranks", HERE)


def test_all_pairs_are_refused() -> None:
    class Pairs(nn.Module):
        def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
            return x @ x.t()

    refused(Pairs(), graphshard.UnsupportedOperation, "rows by rows")


def test_an_embedding_of_the_nodes_is_refused_not_read_by_local_numbers() -> None:
    class Table(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Embedding(20, 3)

        def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
            return self.table(torch.arange(x.size(0)))

    refused(Table(), graphshard.GraphshardError)


def test_a_missing_argument_names_it() -> None:
    class Needs(nn.Module):
        def forward(self, x: Tensor, edge_index: Tensor, weights: Tensor) -> Tensor:
            return x

    refused(Needs(), graphshard.ShardError, "forward needs 'weights'", "x, edge_index")


def test_plain_tensors_of_a_whole_graph_run_as_one_rank() -> None:
    graph, model = data(), Wrapped(pyg.GCNConv(4, 3))
    torch.testing.assert_close(graphshard.distribute(model)(**graph), model(**graph))


def test_two_shards_in_one_call_are_refused() -> None:
    first, second = graphshard.partition(data(), 2)
    with pytest.raises(graphshard.ShardError, match="different shards"):
        graphshard.distribute(Wrapped(pyg.GCNConv(4, 3)))(first.x, second.edge_index)


def test_a_shard_of_another_world_size_is_refused() -> None:
    shard = graphshard.partition(data(), 2)[0]
    with pytest.raises(graphshard.ShardError, match=r"one of 2 parts, but this job has 1 rank"):
        graphshard.distribute(Wrapped(pyg.GCNConv(4, 3)))(shard)


def test_a_model_is_distributed_once() -> None:
    model = graphshard.distribute(Wrapped(pyg.GCNConv(4, 3)))
    with pytest.raises(graphshard.CaptureError, match="already"):
        graphshard.distribute(model)
    with pytest.raises(graphshard.CaptureError, match=r"nn\.Module"):
        graphshard.distribute(lambda x: x)  # type: ignore[arg-type]


@pytest.mark.versions
def test_no_grad_regions_keep_their_gradient_out() -> None:
    """torch.export's decomposition drops the region; a naive capture would let gradients through."""

    class Frozen(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lin = nn.Linear(4, 4)

        def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
            h = self.lin(x)
            with torch.no_grad():
                scale = h.mean(0) * 2
            return h * scale

    assert graphshard.verify(Frozen(), data(), 3).passed


def test_autocast_is_refused() -> None:
    shard = graphshard.partition(data(), 1)[0]
    model = graphshard.distribute(Wrapped(pyg.GCNConv(4, 3)))
    with (
        torch.autocast("cpu", dtype=torch.bfloat16),
        pytest.raises(graphshard.CaptureError, match="autocast"),
    ):
        model(shard)


def test_a_changed_attribute_is_captured_anew() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.alpha = 2.0

        def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
            return x * self.alpha

    model, shard = Scaled(), graphshard.partition(data(), 1)[0]
    distributed = graphshard.distribute(model)
    assert torch.equal(distributed(shard), shard.x * 2)
    model.alpha = 3.0
    assert torch.equal(distributed(shard), shard.x * 3)


def test_a_special_case_for_tiny_graphs_is_refused_on_them_only() -> None:
    class Tiny(nn.Module):
        def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
            return x if x.size(0) > 3 else -x

    tiny = {"x": torch.ones(2, 4), "edge_index": torch.tensor([[0, 1, 1, 0, 1], [1, 0, 1, 0, 0]])}
    distributed = graphshard.distribute(Tiny())
    assert torch.equal(distributed(graphshard.partition(data(), 1)[0]), data()["x"])
    with pytest.raises(graphshard.CaptureError, match="does not compute what the model does"):
        distributed(graphshard.partition(tiny, 1)[0])


@pytest.mark.versions
def test_capture_leaves_nothing_behind_on_the_model() -> None:
    class Remembers(nn.Module):
        def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
            self.last = x * 2
            return x

    model = Remembers()
    shard = graphshard.partition(data(), 1)[0]
    graphshard.distribute(model).stages(shard)
    assert not hasattr(model, "last")


def test_a_replicated_output_mixed_with_rows_of_this_rank_alone_is_refused_in_backward() -> None:
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lin = nn.Linear(4, 3)

        def forward(self, x: Tensor, edge_index: Tensor) -> tuple[Tensor, Tensor]:
            h = self.lin(x)
            return h, h.mean(0)

    shards, models = graphshard.partition(data(), 2), [Both(), Both()]

    def rank(number: int, _: str, group: Any) -> None:
        out, average = graphshard.distribute(models[number], group=group)(shards[number])
        graphshard.mean((out.local() - average.local()) ** 2, group).backward()

    with pytest.raises(graphshard.RuntimeMismatch, match="combined with this rank's own rows"):
        run_ranks(2, rank)


def test_a_replicated_output_added_to_a_loss_is_exact() -> None:
    class WithPenalty(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lin = nn.Linear(4, 3)

        def forward(self, x: Tensor, edge_index: Tensor) -> tuple[Tensor, Tensor]:
            h = self.lin(x)
            return h, h.mean(0).square().sum()

    torch.manual_seed(0)
    graph = data() | {"x": data()["x"].double()}
    model, shards = WithPenalty().double(), graphshard.partition(graph, 2)
    models = [copy.deepcopy(model) for _ in shards]

    def rank(number: int, _: str, group: Any) -> None:
        out, penalty = graphshard.distribute(models[number], group=group)(shards[number])
        (graphshard.mean(out**2, group) + penalty).backward()

    run_ranks(2, rank)
    out, penalty = model(graph["x"], graph["edge_index"])
    ((out**2).mean() + penalty).backward()
    for copied in models:
        torch.testing.assert_close(copied.lin.weight.grad, model.lin.weight.grad)


@pytest.mark.parametrize(
    ("layer", "said"),
    [
        (lambda: pyg.GCNConv(-1, 3), r"'layer.lin' \(Linear"),
        (lambda: pyg.SAGEConv((-1, -1), 3), r"'layer.lin_l' \(Linear"),
        (lambda: nn.LazyLinear(3), r"'layer' \(LazyLinear"),
        (lambda: nn.LazyBatchNorm1d(affine=False), r"'layer' \(LazyBatchNorm1d"),
    ],
)
@pytest.mark.filterwarnings("ignore:Lazy modules are a new feature")
def test_a_layer_without_shapes_is_refused_by_its_name(layer: Any, said: str) -> None:
    class Lazy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.gcn = layer(), isinstance(layer(), pyg.MessagePassing)

        def forward(self, x: torch.Tensor, edge_index: torch.Tensor) -> Any:
            return self.layer(x, edge_index) if self.gcn else self.layer(x[edge_index[0]])

    with pytest.raises(graphshard.CaptureError, match=rf"module {said}.*is a lazy layer.*run the model once"):
        graphshard.distribute(Lazy())(torch.rand(20, 5), torch.randint(0, 20, (2, 70)))


@pytest.mark.parametrize(
    "layer",
    [
        lambda: pyg.GCNConv(5, 3),
        lambda: pyg.SAGEConv(5, 3),
        lambda: pyg.Sequential("x, adj_t", [(pyg.GATConv(5, 3), "x, adj_t -> x"), nn.ReLU()]),
    ],
)
@pytest.mark.parametrize("layout", ["coo", "csr"])
@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support")
def test_a_sparse_adjacency_into_a_layer_of_pyg_is_refused(layer: Any, layout: str) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = layer()

        def forward(self, x: Tensor, adj_t: Tensor) -> Any:
            return self.conv(x, adj_t)

    edges = torch.randint(0, 20, (2, 60)).unique(dim=1)
    adjacency = torch.sparse_coo_tensor(edges, torch.rand(edges.size(1)), (20, 20)).coalesce()
    given = adjacency.to_sparse_csr() if layout == "csr" else adjacency
    with pytest.raises(graphshard.GraphshardError, match=r"gets a sparse adjacency.*edge_weight instead"):
        graphshard.distribute(Net())(torch.rand(20, 5), given)
