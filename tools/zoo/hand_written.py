"""GNNs in plain torch: the forms in which people write message passing themselves."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from graphshard.tools.zoo.configuration import CLASSES as C
from graphshard.tools.zoo.configuration import EDGE_FEATURES as E
from graphshard.tools.zoo.configuration import FEATURES as F
from graphshard.tools.zoo.configuration import HIDDEN as H
from graphshard.tools.zoo.configuration import Configuration, model

REDUCES = ("sum", "mean", "prod", "amax", "amin")


def parts() -> dict[str, Any]:
    return {
        "lin": nn.Linear(F, H),
        "out": nn.Linear(H, C),
        "weight": nn.Parameter(torch.linspace(-1, 1, H)),
        "classes": nn.Buffer(torch.linspace(0.5, 2, C)),
    }


def written(name: str, forward: Callable[..., Any], **options: Any) -> Configuration:
    return model(name, forward, parts, **options)


def spread(index: Tensor, like: Tensor) -> Tensor:
    """``[R]`` -> ``[R, columns]``, as scatter wants its index."""
    return index.view(-1, 1).expand(-1, like.size(1))


def index_add(m: Any, x: Tensor, edge_index: Tensor) -> Any:
    h, (src, dst) = m.lin(x), edge_index
    return h + torch.zeros_like(h).index_add_(0, dst, h[src])


def index_add_by_source(m: Any, x: Tensor, edge_index: Tensor, edge_weight: Tensor) -> Any:
    h = m.lin(x)
    return h.index_add(0, edge_index[0], h[edge_index[1]] * edge_weight[:, None]).tanh()


def index_add_undirected(m: Any, x: Tensor, edge_index: Tensor) -> Any:
    both = torch.cat([edge_index, edge_index.flip(0)], 1)
    h = m.lin(x)
    return torch.zeros_like(h).index_add(0, both[1], h[both[0]].relu())


def scatter_add(m: Any, x: Tensor, edge_index: Tensor) -> Any:
    h = m.lin(x)
    out = h.new_zeros(h.size(0), H)
    out.scatter_add_(0, spread(edge_index[1], h), h.index_select(0, edge_index[0]))
    return out.div_(2).relu_()


def index_put(m: Any, x: Tensor, edge_index: Tensor) -> Any:
    h = m.lin(x)
    out = torch.zeros_like(h)
    return out.index_put_((edge_index[1],), h[edge_index[0]], accumulate=True)


def scatter_reduce(reduce: str, include_self: bool) -> Callable[..., Any]:
    def forward(m: Any, x0: Tensor, edge_index: Tensor) -> Any:
        index = spread(edge_index[1], x0)
        h = x0 * m.scale
        return h.scatter_reduce(0, index, h[edge_index[0]], reduce, include_self=include_self)

    return forward


def scatter_reduce_by_source(reduce: str) -> Callable[..., Any]:
    def forward(m: Any, x0: Tensor, edge_index: Tensor) -> Any:
        index = spread(edge_index[0], x0)
        h = x0 * m.scale
        return torch.zeros_like(h).scatter_reduce(0, index, h[edge_index[1]], reduce, include_self=False)

    return forward


def index_reduce(reduce: str) -> Callable[..., Any]:
    def forward(m: Any, x0: Tensor, edge_index: Tensor) -> Any:
        h = x0 * m.scale
        return torch.zeros_like(h).index_reduce(
            0, edge_index[1], h[edge_index[0]], reduce, include_self=False
        )

    return forward


def scaled() -> dict[str, Any]:
    """An integer scale keeps ties of integer features ties."""
    return {"scale": nn.Parameter(torch.tensor([1.0, -1.0, 2.0, 1.0]))}


def sparse_mm(m: Any, x: Tensor, adj: Tensor) -> Any:
    h = torch.relu(torch.sparse.mm(adj, m.lin(x)))
    return adj @ m.out(h)


def sparse_attention(m: Any, x: Tensor, adj: Tensor) -> Any:
    h = m.lin(x)
    return torch.sparse.mm(adj, h) * (torch.sparse.mm(adj, torch.ones_like(h[:, :1])) + 1).reciprocal()


def edge_softmax(m: Any, x: Tensor, edge_index: Tensor) -> Any:
    n, h = x.size(0), m.lin(x)
    loops = torch.arange(n)
    src, dst = torch.cat([edge_index[0], loops]), torch.cat([edge_index[1], loops])
    score = nn.functional.leaky_relu((h[src] * h[dst] * m.weight).sum(-1))
    top = torch.full((n,), -1e30).scatter_reduce(0, dst, score.detach(), "amax")
    e = (score - top[dst]).exp()
    total = torch.zeros(n).scatter_add(0, dst, e)
    return torch.zeros_like(h).index_add(0, dst, h[src] * (e / total[dst])[:, None])


def symmetric_norm(m: Any, x: Tensor, edge_index: Tensor) -> Any:
    src, dst = edge_index
    ones, zeros = x.new_ones(src.size(0)), x.new_zeros(x.size(0))
    w = zeros.index_add(0, src, ones).clamp(min=1)[src] * zeros.index_add(0, dst, ones).clamp(min=1)[dst]
    h = m.lin(x)
    return torch.zeros_like(h).index_add(0, dst, h[src] * w.rsqrt()[:, None])


def bincount_degree(m: Any, x: Tensor, edge_index: Tensor) -> Any:
    degree = torch.bincount(edge_index[1], minlength=x.size(0)).clamp(min=1)
    h = m.lin(x)
    return torch.zeros_like(h).index_add(0, edge_index[1], h[edge_index[0]]) / degree[:, None]


def kept_edges(m: Any, x: Tensor, edge_index: Tensor, edge_weight: Tensor) -> Any:
    keep = edge_index[0] != edge_index[1]
    edge_index, w = edge_index[:, keep], edge_weight[keep]
    loops = torch.arange(x.size(0)).unsqueeze(0).repeat(2, 1)
    edge_index = torch.cat([edge_index, loops], 1)
    w = torch.cat([w, w.new_full((x.size(0),), 0.5)])
    h = m.lin(x)
    return torch.zeros_like(h).index_add(0, edge_index[1], h[edge_index[0]] * w[:, None])


def edge_outputs(m: Any, x: Tensor, edge_index: Tensor, edge_attr: Tensor) -> tuple[Tensor, Tensor]:
    h = m.lin(x)
    e = (h[edge_index[0]] - 2 * h[edge_index[1]] + edge_attr.mean(1, keepdim=True)).sigmoid()
    return torch.zeros_like(h).index_add(0, edge_index[1], e), e.sum(-1)


def edge_loss(m: Any, x: Tensor, edge_index: Tensor, edge_y: Tensor) -> Any:
    h = m.lin(x)
    score = (h[edge_index[0]] * h[edge_index[1]]).sum(-1)
    return nn.functional.binary_cross_entropy_with_logits(score, edge_y)


def categories(m: Any, z: Tensor, edge_index: Tensor) -> Any:
    h = m.embedding(z)
    return torch.zeros_like(h).index_add(0, edge_index[1], h[edge_index[0]]) + m.lin(
        nn.functional.one_hot(z, 4).to(h)
    )


def node_numbers(m: Any, x: Tensor, edge_index: Tensor) -> Any:
    src, dst = edge_index
    n = x.size(0)
    w = (src < dst).to(x) + (src - dst).abs().to(x) / n + (src * n + dst) % 7 + (src == 0).to(x)
    h = m.lin(x) + torch.arange(n).to(x)[:, None] / n
    return torch.zeros_like(h).index_add(0, dst, h[src] * w[:, None])


def sinusoids(m: Any, x: Tensor, pos: Tensor, edge_index: Tensor) -> Any:
    angles = pos[:, :1] * torch.tensor([1.0, 0.5])
    h = m.lin(x) + torch.cat([angles.sin(), angles.cos()], 1)
    distance = (pos[edge_index[0]] - pos[edge_index[1]]).norm(dim=1, keepdim=True)
    return torch.zeros_like(h).index_add(0, edge_index[1], h[edge_index[0]] * (-distance).exp())


def recurrent(m: Any, x: Tensor, edge_index: Tensor) -> Any:
    h = m.lin(x)
    for _ in range(2):
        message = torch.zeros_like(h).index_add(0, edge_index[1], m.message(h)[edge_index[0]])
        h = m.cell(message, h)
    return h


def long_recurrent(m: Any, x: Tensor, edge_index: Tensor) -> Any:
    h = m.lin(x)
    c = torch.zeros_like(h)
    message = torch.zeros_like(h).index_add(0, edge_index[1], h[edge_index[0]])
    h, c = m.cell(message, (h, c))
    return h * c


def _cell(make: Callable[..., Any]) -> Callable[..., Any]:
    return lambda: parts() | {"cell": make(), "message": nn.Linear(H, H)}


def multi_head(m: Any, x: Tensor, edge_index: Tensor) -> Any:
    h = m.lin(x).view(x.size(0), 2, H // 2)
    message = h[edge_index[0]].transpose(1, 2).reshape(-1, H).view(-1, H // 2, 2).permute(0, 2, 1)
    out = torch.zeros_like(h).index_add(0, edge_index[1], message.contiguous())
    return torch.einsum("nhd,nhd->nh", out, h)


def aliases(m: Any, x: Tensor, edge_index: Tensor) -> Any:
    h = m.lin(x)
    z = torch.zeros(x.size(0), H)
    view = z.view(-1, 2, H // 2)
    z.index_add_(0, edge_index[1], h[edge_index[0]])
    z += 1
    return view.sum(1) + z[:, :2]


def no_grad(m: Any, x: Tensor, edge_index: Tensor) -> Any:
    h, (src, dst) = m.lin(x), edge_index
    with torch.no_grad():
        target = torch.zeros_like(h).index_add(0, dst, h[src])
    return h * target + torch.zeros_like(h).index_add(0, dst, h[src].detach() * m.weight)


def checkpointed(m: Any, x: Tensor, edge_index: Tensor) -> Any:
    from torch.utils.checkpoint import checkpoint

    return m.out(checkpoint(lambda v: index_add(m, v, edge_index).tanh(), x, use_reentrant=False))


def mixed_precision(m: Any, x: Tensor, edge_index: Tensor) -> Any:
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=False):
        return index_add(m, x, edge_index)


def small_indices(m: Any, x: Tensor, edge_index: Tensor) -> Any:
    src, dst = edge_index.to(torch.int32)
    h = m.lin(x)
    return torch.zeros_like(h).index_add(0, dst, h.index_select(0, src))


def gathered(m: Any, x: Tensor, edge_index: Tensor) -> Any:
    h = m.lin(x)
    message = torch.gather(h, 0, spread(edge_index[0], h)) + torch.take_along_dim(
        h, spread(edge_index[1], h), 0
    )
    return torch.zeros_like(h).scatter_add(0, spread(edge_index[1], h), message)


def dropouts(m: Any, x: Tensor, edge_index: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    h = nn.functional.dropout(m.lin(x), 0.3, m.training)
    e = nn.functional.dropout(nn.functional.dropout(h[edge_index[0]], 0.2, m.training), 0.2, m.training)
    out = torch.zeros_like(h).index_add(
        0, edge_index[1], e * nn.functional.dropout(m.weight, 0.4, m.training)
    )
    return out, nn.functional.dropout(h[mask], 0.4, m.training).sum(0)


def by_relation(m: Any, x: Tensor, edge_index: Tensor, edge_type: Tensor) -> Any:
    out = m.lin(x)
    for i, lin in enumerate(m.relations):
        pairs = edge_index[:, edge_type == i]
        out = out.index_add(0, pairs[1], lin(x[pairs[0]]))
    return out


def power_iteration(m: Any, x: Tensor, edge_index: Tensor) -> Any:
    rank = torch.full((x.size(0), 1), 1 / x.size(0))
    degree = torch.zeros_like(rank).index_add(0, edge_index[0], torch.ones(edge_index.size(1), 1))
    for _ in range(3):
        share = (rank / degree.clamp(min=1))[edge_index[0]]
        rank = 0.15 / x.size(0) + 0.85 * torch.zeros_like(rank).index_add(0, edge_index[1], share)
    return m.lin(x) * rank


def laplacian_penalty(m: Any, x: Tensor, edge_index: Tensor, edge_weight: Tensor) -> Any:
    h = m.lin(x)
    return (edge_weight * (h[edge_index[0]] - h[edge_index[1]]).square().sum(1)).sum() / h.square().sum()


WRITTEN = (
    *(index_add, index_add_by_source, index_add_undirected, scatter_add, index_put, sparse_mm),
    *(sparse_attention, edge_softmax, symmetric_norm, bincount_degree, kept_edges, edge_outputs),
    *(edge_loss, node_numbers, sinusoids, multi_head),
    *(aliases, no_grad, checkpointed, mixed_precision, small_indices, gathered, dropouts),
    *(power_iteration, laplacian_penalty),
)

CONFIGURATIONS: list[Configuration] = [
    *(written(f.__name__.replace("_", " "), f) for f in WRITTEN),
    *(
        model(f"scatter_reduce {r}{', self' if own else ''}", scatter_reduce(r, own), scaled)
        for r in REDUCES
        for own in (False, True)
    ),
    *(model(f"scatter_reduce {r} by source", scatter_reduce_by_source(r), scaled) for r in REDUCES),
    *(model(f"index_reduce {r}", index_reduce(r), scaled) for r in ("mean", "prod", "amax", "amin")),
    model("categories", categories, lambda: {"embedding": nn.Embedding(4, H), "lin": nn.Linear(4, H)}),
    model("recurrent, GRU", recurrent, _cell(lambda: nn.GRUCell(H, H))),
    model("recurrent, RNN", recurrent, _cell(lambda: nn.RNNCell(H, H))),
    model("recurrent, LSTM", long_recurrent, _cell(lambda: nn.LSTMCell(H, H))),
    model(
        "by relation",
        by_relation,
        lambda: parts() | {"relations": nn.ModuleList(nn.Linear(F, H) for _ in range(3))},
    ),
    model(
        "edge network",
        lambda m, x, edge_index, edge_attr: torch.zeros(x.size(0), H).index_add(
            0,
            edge_index[1],
            torch.bmm(m.net(edge_attr).view(-1, H, F), x[edge_index[0]].unsqueeze(2)).squeeze(2),
        ),
        lambda: {"net": nn.Linear(E, F * H)},
    ),
]
