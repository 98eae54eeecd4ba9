"""Each family of rules refuses what would be wrong on several ranks, by op, module and line."""

from __future__ import annotations

import re

import pytest
import torch
import torch.nn.functional as F
from support.models import make
from support.programs import model_of, refusal
from torch import Tensor, nn

CASES: dict[str, tuple[str, str]] = {}
FORWARDS: dict[str, object] = {}


def refused(op: str, why: str):
    """A forward that is refused at ``op`` with a sentence that holds ``why``."""

    def note(forward):
        FORWARDS[forward.__name__] = forward
        CASES[forward.__name__] = (op, why)
        return forward

    return note


# ---- pointwise -----------------------------------------------------------------------------------------------


@refused("aten.add", "do not belong together")
def masks_of_different_names(self, x: Tensor, mask: Tensor, mask2: Tensor) -> Tensor:
    return (x[mask] + x[mask2]).sum()


@refused("aten.mul", "do not belong together")
def joined_in_another_order(self, x: Tensor, edge_attr: Tensor) -> Tensor:
    return (torch.cat([x[:, 0], edge_attr[:, 0]]) * torch.cat([edge_attr[:, 0], x[:, 0]])).sum()


@refused("aten.mul", "do not belong together")
def joined_mask_against_rows_in_another_order(
    self, x: Tensor, edge_index: Tensor, edge_attr: Tensor, mask: Tensor
):
    flags = torch.zeros(x.size(0) + edge_index.size(1), dtype=x.dtype)
    flags[torch.cat([mask, mask[edge_index[1]]])] = 1.0
    return (flags * torch.cat([edge_attr[:, 0], x[:, 0]])).sum()


@refused("aten.sub", "all-pairs")
def all_pairs_by_broadcast(self, x: Tensor) -> Tensor:
    return (x.unsqueeze(0) - x.unsqueeze(1)).sum(-1)


@refused("aten.randperm", "shuffles rows")
def shuffled_rows(self, x: Tensor) -> Tensor:
    return x[torch.randperm(x.size(0))]


# ---- shape ---------------------------------------------------------------------------------------------------


@refused("aten.squeeze", "one")
def squeezed_rows(self, x: Tensor) -> Tensor:
    return (x @ self.lin.weight[0]).squeeze(-1)


@refused("aten.repeat", "all-pairs")
def repeated_over_edges(self, x: Tensor, edge_index: Tensor) -> Tensor:
    return x[:, :1].repeat(1, edge_index.size(1)).sum()


@refused("aten.view", "merges or splits")
def merged_rows(self, x: Tensor) -> Tensor:
    return self.lin(x).view(-1)


@refused("aten.select", "one of the rows")
def first_row(self, x: Tensor) -> Tensor:
    return x[0]


@refused("aten.slice", "order")
def all_but_the_first_row(self, x: Tensor) -> Tensor:
    return x[1:]


@refused("aten.cat", "every rank holds whole")
def a_row_more(self, x: Tensor) -> Tensor:
    return torch.cat([self.lin(x), self.weight[None]])


@refused("aten.flip", "spread over the ranks")
def flipped_rows(self, x: Tensor) -> Tensor:
    return x.flip(0)


# ---- create --------------------------------------------------------------------------------------------------


@refused("aten.zeros", "two row sets")
def dense_adjacency(self, x: Tensor, edge_index: Tensor) -> Tensor:
    return torch.zeros(x.size(0), x.size(0)).sum() * x


@refused("aten.arange", "cannot index")
def numbers_in_floats(self, x: Tensor) -> Tensor:
    return x * torch.arange(x.size(0), dtype=x.dtype)[:, None]


@refused("aten.arange", "by their position")
def numbers_of_edges(self, x: Tensor, edge_index: Tensor) -> Tensor:
    return torch.arange(edge_index.size(1))


@refused("aten.zeros", "as a size")
def size_from_arithmetic(self, x: Tensor) -> Tensor:
    return x.sum() + torch.zeros(x.size(0) * x.size(0)).sum()


# ---- gather --------------------------------------------------------------------------------------------------


@refused("aten.index", "not node numbers")
def argmax_as_node_numbers(self, x: Tensor) -> Tensor:
    return x[x.argmax(1)]


@refused("aten.index", "not node numbers")
def chosen_from_two_indices(self, x: Tensor, edge_index: Tensor) -> Tensor:
    return x[torch.where(edge_index[0] < edge_index[1], edge_index[0], edge_index[1])]


@refused("aten.index", "every rank holds whole by local node numbers")
def table_by_node_number(self, x: Tensor, edge_index: Tensor) -> Tensor:
    return self.table[edge_index[0]]


@refused("aten.index", "by number")
def permuted_edges(self, x: Tensor, edge_index: Tensor, edge_y: Tensor) -> Tensor:
    return edge_y[edge_index[0]]


@refused("aten.index_put", "by source node")
def written_by_source_and_class(self, x: Tensor, edge_index: Tensor, edge_y: Tensor) -> Tensor:
    y = x.clone()
    y[edge_index[0], edge_y] = 1.0
    return y


@refused("aten.nonzero_numpy", "by their position")
def numbers_of_kept_edges(self, x: Tensor, edge_index: Tensor) -> Tensor:
    return edge_index[:, (edge_index[0] != edge_index[1]).nonzero(as_tuple=True)[0]].sum()


@refused("aten.embedding", "how often an index occurs")
def gradients_by_frequency(self, z: Tensor, x: Tensor) -> Tensor:
    return self.counted(z) + x.sum()


@refused("aten.embedding", "sparse gradients")
def sparse_gradients(self, z: Tensor, x: Tensor) -> Tensor:
    return self.sparse(z) + x.sum()


# ---- scatter -------------------------------------------------------------------------------------------------


@refused("aten.scatter", "the last to come wins")
def overwritten_by_its_targets(self, x: Tensor, edge_index: Tensor) -> Tensor:
    return x[:, 0].scatter(0, edge_index[0], x[edge_index[1], 0])


@refused("aten.index_put", "the last of them")
def overwritten_groups(self, x: Tensor, z: Tensor) -> Tensor:
    y = x.new_zeros(4, x.size(1))
    y[z] = x
    return y


@refused("aten.scatter_add", "by node number")
def node_numbers_into_a_whole_table(self, x: Tensor, edge_index: Tensor) -> Tensor:
    return self.table[:, 0].scatter_add(0, edge_index[1], x.new_ones(edge_index.size(1)))


@refused("aten.index_put", "by source node")
def overwritten_by_source(self, x: Tensor, edge_index: Tensor) -> Tensor:
    y = x.clone()
    y[edge_index[0]] = 1.0
    return y


@refused("aten.index_put", "do not belong to")
def masked_rows_of_another_mask(self, x: Tensor, mask: Tensor, mask2: Tensor) -> Tensor:
    y = x.clone()
    y[mask] = x[mask2]
    return y


@refused("aten.index_put", "every rank holds whole")
def whole_rows_through_a_mask(self, x: Tensor, mask: Tensor) -> Tensor:
    y = self.lin(x).clone()
    y[mask] = self.table[:7]  # as many as the mask of capture's example keeps
    return y


# ---- reduce --------------------------------------------------------------------------------------------------


@refused("aten.sort", "runs along the rows")
def sorted_edges(self, x: Tensor, edge_index: Tensor) -> Tensor:
    return edge_index[1].sort()[0]


@refused("aten.cumsum", "runs along the rows")
def running_sum(self, x: Tensor) -> Tensor:
    return x.cumsum(0)


@refused("aten.median", "reduces the rows")
def median_of_rows(self, x: Tensor) -> Tensor:
    return x.median(0)[0]


@refused("aten.argmax", "not in dim 0")
def number_of_an_element(self, x: Tensor) -> Tensor:
    return x.t().argmax()


@refused("aten._unique2", "no placement rule")
def unique_nodes(self, x: Tensor, edge_index: Tensor) -> Tensor:
    return edge_index[1].unique()


# ---- matmul --------------------------------------------------------------------------------------------------


@refused("aten.matmul", "rows by rows")
def all_pairs(self, x: Tensor) -> Tensor:
    return x @ x.t()


@refused("aten.bmm", "rows by rows")
def all_pairs_by_head(self, x: Tensor) -> Tensor:
    q = self.lin(x).view(x.size(0), 2, 3).transpose(0, 1)
    return torch.bmm(q, q.transpose(1, 2)).softmax(-1).sum()


# ---- training ------------------------------------------------------------------------------------------------


@refused("aten.scaled_dot_product_attention", "attend to every row")
def attention_over_nodes(self, x: Tensor) -> Tensor:
    q = self.lin(x)[None]
    return F.scaled_dot_product_attention(q, q, q)


@refused("aten.roll", "runs along the rows")
def rolled_rows(self, x: Tensor) -> Tensor:
    return x.roll(1, 0)


@refused("aten.kthvalue", "runs along the rows")
def second_largest_row(self, x: Tensor) -> Tensor:
    return x.kthvalue(2, 0)[0]


@refused("aten.einsum", "dense matrix")
def gram_matrix_by_einsum(self, x: Tensor) -> Tensor:
    return torch.einsum("nf,mf->nm", x, x).sum()


@refused("aten.eye", "nodes by nodes")
def identity_of_nodes(self, x: Tensor) -> Tensor:
    return torch.eye(x.size(0)).sum() * x


@refused("aten.isin", "spread over the ranks")
def values_of_other_nodes(self, x: Tensor, edge_index: Tensor) -> Tensor:
    return torch.isin(x[:, 0], x[:, 1])[:, None] * x


@refused("aten.slice_scatter", "writes a slice of the rows")
def written_slice_of_rows(self, x: Tensor) -> Tensor:
    return torch.slice_scatter(x, self.table[:3, :5], 0, 0, 3)


@refused("aten.lstm", "at random")
def lstm_with_dropout(self, x: Tensor) -> Tensor:
    return self.dropping(x[:, None])[0]


@pytest.mark.parametrize("name", CASES)
def test_refused(name: str) -> None:
    op, why = CASES[name]
    model = model_of(
        FORWARDS[name],  # type: ignore[arg-type]
        counted=nn.Embedding(4, 6, scale_grad_by_freq=True),
        sparse=nn.Embedding(4, 6, sparse=True),
        dropping=nn.LSTM(5, 3, 2, dropout=0.5, batch_first=True),
    )
    model.table = nn.Parameter(torch.rand(40, 6, dtype=torch.float64))
    message = refusal(model)
    assert message.startswith(op + " "), message
    assert why in message
    assert re.search(r"test_refusals\.py:\d+: `.+`", message), message


class Inner(nn.Module):
    def forward(self, h: Tensor) -> Tensor:
        return h.cumsum(0)


class Outer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([nn.Identity(), Inner()])

    def forward(self, x: Tensor) -> Tensor:
        return self.blocks[1](x)


def test_a_refusal_names_the_module() -> None:
    message = refusal(make(Outer))
    assert "in module 'blocks.1' (Inner)" in message
    assert "`return h.cumsum(0)`" in message
