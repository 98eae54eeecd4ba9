"""What capture replaces for a while: Python numbers of tensors, and layers that look at the data."""

from __future__ import annotations

import pytest
import torch
from support.equality import check_equal
from support.models import make, pyg
from support.programs import model_of, program_of
from support.strategies import fixed_case
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from graphshard.capture import shims
from graphshard.capture.layers import capturable_layers
from graphshard.errors import UnsupportedOperation

pytestmark = pytest.mark.versions


def test_names_are_given_back() -> None:
    forward, before = _BatchNorm.forward, dict(globals())
    with shims.symbolic_numbers(pyg.GCNConv(2, 2)), capturable_layers():
        from torch_geometric.utils import num_nodes

        assert vars(num_nodes)["int"] is not int
        assert _BatchNorm.forward is not forward
    assert "int" not in vars(num_nodes)
    assert _BatchNorm.forward is forward
    assert globals() == before


def test_the_shims_are_still_types() -> None:
    class Mine(nn.Module):
        pass

    with shims.symbolic_numbers(Mine()):
        assert isinstance(3, int)
        assert not isinstance("3", int)
        assert isinstance(2.5, float)
        assert issubclass(bool, int)
        assert int("101", 2) == 5
        assert int(torch.tensor(7)) == 7
        assert len([1, 2]) == len(torch.zeros(2, 3)) == 2
        assert float("inf") > float(torch.tensor(2.5)) == 2.5


def test_a_size_from_the_data_is_the_same_on_all_ranks() -> None:
    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        count = int(mask.sum()) + 1
        return self.lin(x) * torch.ones(count, dtype=x.dtype).sum() / float(count)

    for parts in (1, 4):
        case = fixed_case(parts=parts)
        check_equal(model_of(forward), case.tensors, case.assignment, parts)


def test_the_length_of_rows_is_their_number_on_one_machine() -> None:
    def forward(self, x: Tensor, edge_index: Tensor) -> list[Tensor]:
        rows = self.lin(x)
        messages = rows[edge_index[0]] - rows[edge_index[1]].sin()
        (one,) = torch.chunk(messages, chunks=1, dim=-2)
        return [rows.split(split_size=len(rows), dim=0)[0].tanh(), one.sin(), x.sum(0) / len(x)]

    for parts in (1, 3):
        case = fixed_case(parts=parts)
        check_equal(model_of(forward), case.tensors, case.assignment, parts)


def test_a_number_of_nodes_from_an_index_is_refused() -> None:
    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        count = int((edge_index[1] * 0 + 40).sum())  # more than there are nodes
        return torch.zeros(count, 5, dtype=x.dtype).index_add(0, edge_index[1], x[edge_index[0]])

    with pytest.raises(UnsupportedOperation, match="size it with num_nodes"):
        program_of(model_of(forward))


@pytest.mark.parametrize("sizes", [(6,), (6, 6)])
def test_layers_by_type_without_sorting(sizes: tuple[int, ...]) -> None:
    layers = make(lambda: nn.ModuleList(pyg.HeteroLinear(a, 6, 4, bias=i == 0) for i, a in enumerate(sizes)))

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        h = self.lin(x)
        for layer in self.layers:
            h = layer(h, z).tanh()
        return h

    case = fixed_case(parts=4)
    check_equal(model_of(forward, layers=layers), case.tensors, case.assignment, case.parts)


def test_a_layer_by_type_that_relies_on_sorted_rows() -> None:
    """Sorted on one machine; on a rank the rows of the first kind may follow some of the second."""

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        kinds = torch.cat([torch.zeros_like(edge_index[0]), torch.ones_like(edge_index[0])])
        return self.typed(torch.cat([x[edge_index[0]], x[edge_index[1]]]), kinds).tanh().sum(0)

    case = fixed_case(parts=3)
    typed = make(lambda: pyg.HeteroLinear(5, 4, 2, is_sorted=True))
    check_equal(model_of(forward, typed=typed), case.tensors, case.assignment, case.parts)
