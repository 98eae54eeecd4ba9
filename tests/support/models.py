"""The models of the exactness tests: PyG layers, norms and activations, and GNNs written by hand.

Each entry of a table makes a new model; its forward names the tensors of ``strategies.Case`` that it takes.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from support.strategies import CLASSES, EDGE_FEATURES, FEATURES
from torch import Tensor, nn

with warnings.catch_warnings():
    # PyG scripts a class while it is imported, which torch calls deprecated.
    warnings.simplefilter("ignore", DeprecationWarning)
    import torch_geometric.nn as pyg

Factory = Callable[[], nn.Module]
HIDDEN = 4


class OnGraph(nn.Module):
    """A layer over ``x`` and ``edge_index``."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        return self.layer(x, edge_index)


class WithWeights(OnGraph):
    """A layer that also takes a weight for each edge."""

    def forward(self, x: Tensor, edge_index: Tensor, edge_weight: Tensor) -> Tensor:
        return self.layer(x, edge_index, edge_weight)


class WithAttributes(OnGraph):
    """A layer that also takes features of each edge."""

    def forward(self, x: Tensor, edge_index: Tensor, edge_attr: Tensor) -> Tensor:
        return self.layer(x, edge_index, edge_attr)


class OnRows(nn.Module):
    """A layer over rows of nodes, between a linear layer and a nonlinearity."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.lin, self.layer = nn.Linear(FEATURES, 6), layer

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(self.lin(x)).tanh()


class OnPoints(OnGraph):
    """A layer that takes positions and normals."""

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        return self.layer(x, x[:, :3], F.normalize(x[:, 2:]), edge_index)


class Typed(OnGraph):
    """A layer that takes node types, edge types and edge features."""

    def forward(self, x: Tensor, edge_index: Tensor, z: Tensor, edge_y: Tensor, edge_attr: Tensor) -> Tensor:
        return self.layer(x, edge_index, z, edge_y, edge_attr)


class Related(OnGraph):
    """A layer that takes edge types."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__(layer)
        self.lin = nn.Linear(FEATURES, 6)

    def forward(self, x: Tensor, edge_index: Tensor, edge_y: Tensor) -> Tensor:
        return self.layer(self.lin(x), edge_index, edge_y)


class Jump(nn.Module):
    """Two convolutions and jumping knowledge over both."""

    def __init__(self, mode: str) -> None:
        super().__init__()
        self.first, self.second = pyg.GCNConv(FEATURES, HIDDEN), pyg.SAGEConv(HIDDEN, HIDDEN)
        self.jump = pyg.JumpingKnowledge(mode, HIDDEN, 2)

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        first = self.first(x, edge_index).tanh()
        return self.jump([first, self.second(first, edge_index).tanh()])


def _mlp(norm: bool = False) -> nn.Module:
    middle = [nn.BatchNorm1d(6)] if norm else []
    return nn.Sequential(nn.Linear(FEATURES, 6), *middle, nn.Tanh(), nn.Linear(6, HIDDEN))


F_IN, EDGE = FEATURES, EDGE_FEATURES

LAYERS: dict[str, Factory] = {
    "gcn": lambda: OnGraph(pyg.GCNConv(F_IN, HIDDEN)),
    "gcn, edge weights": lambda: WithWeights(pyg.GCNConv(F_IN, HIDDEN)),
    "gcn, improved": lambda: WithWeights(pyg.GCNConv(F_IN, HIDDEN, improved=True)),
    "gcn, not normalised": lambda: WithWeights(pyg.GCNConv(F_IN, HIDDEN, normalize=False)),
    "gcn, no self loops": lambda: WithWeights(pyg.GCNConv(F_IN, HIDDEN, add_self_loops=False)),
    "gcn, target to source": lambda: OnGraph(pyg.GCNConv(F_IN, HIDDEN, flow="target_to_source")),
    "sage mean": lambda: OnGraph(pyg.SAGEConv(F_IN, HIDDEN)),
    "sage max": lambda: OnGraph(pyg.SAGEConv(F_IN, HIDDEN, aggr="max")),
    "sage sum": lambda: OnGraph(pyg.SAGEConv(F_IN, HIDDEN, aggr="sum", root_weight=False)),
    "sage, normalised and projected": lambda: OnGraph(
        pyg.SAGEConv(F_IN, HIDDEN, normalize=True, project=True)
    ),
    "sage, target to source": lambda: OnGraph(pyg.SAGEConv(F_IN, HIDDEN, flow="target_to_source")),
    "gat": lambda: OnGraph(pyg.GATConv(F_IN, HIDDEN, heads=2)),
    "gat, edge features, residual": lambda: WithAttributes(
        pyg.GATConv(F_IN, HIDDEN, heads=2, edge_dim=EDGE, add_self_loops=False, residual=True)
    ),
    "gat, edge features, self loops": lambda: WithAttributes(
        pyg.GATConv(F_IN, HIDDEN, heads=2, concat=False, edge_dim=EDGE)
    ),
    "gatv2": lambda: WithAttributes(
        pyg.GATv2Conv(F_IN, HIDDEN, heads=2, edge_dim=EDGE, add_self_loops=False, residual=True)
    ),
    "gatv2, self loops": lambda: OnGraph(
        pyg.GATv2Conv(F_IN, HIDDEN, heads=2, concat=False, share_weights=True)
    ),
    "gin": lambda: OnGraph(pyg.GINConv(_mlp(), train_eps=True)),
    "gine": lambda: WithAttributes(pyg.GINEConv(_mlp(), edge_dim=EDGE, train_eps=True)),
    "transformer": lambda: WithAttributes(
        pyg.TransformerConv(F_IN, HIDDEN, heads=2, beta=True, edge_dim=EDGE)
    ),
    "transformer, mean of heads": lambda: OnGraph(
        pyg.TransformerConv(F_IN, HIDDEN, heads=2, concat=False, root_weight=False)
    ),
    "appnp": lambda: WithWeights(pyg.APPNP(3, 0.1)),
    "graph conv": lambda: WithWeights(pyg.GraphConv(F_IN, HIDDEN)),
    "jump cat": lambda: Jump("cat"),
    "jump max": lambda: Jump("max"),
    "jump lstm": lambda: Jump("lstm"),
    "gated graph": lambda: WithWeights(pyg.GatedGraphConv(F_IN, 2)),
    "mf": lambda: OnGraph(pyg.MFConv(F_IN, HIDDEN, max_degree=3)),
    "ppf": lambda: OnPoints(pyg.PPFConv(nn.Linear(F_IN + 4, HIDDEN), nn.Linear(HIDDEN, 2))),
    "heat": lambda: Typed(pyg.HEATConv(F_IN, HIDDEN, 4, 3, 2, EDGE, 2, heads=2)),
    "relations in blocks": lambda: Related(pyg.RGCNConv(6, 6, 3, num_blocks=2)),
}
"""One layer each; exact in train and eval mode."""

ROWS: dict[str, Factory] = {
    "batch norm": lambda: OnRows(nn.BatchNorm1d(6)),
    "batch norm of pyg": lambda: OnRows(pyg.BatchNorm(6)),
    "batch norm, no running statistics": lambda: OnRows(nn.BatchNorm1d(6, track_running_stats=False)),
    "batch norm, not affine": lambda: OnRows(nn.BatchNorm1d(6, affine=False, momentum=0.4)),
    "layer norm": lambda: OnRows(nn.LayerNorm(6)),
    "batch norm, mean over all batches": lambda: OnRows(nn.BatchNorm1d(6, momentum=None)),
    "instance norm of pyg": lambda: OnRows(pyg.InstanceNorm(6)),
    "instance norm of pyg, tracked": lambda: OnRows(
        pyg.InstanceNorm(6, affine=True, track_running_stats=True)
    ),
    "layer norm of pyg, node": lambda: OnRows(pyg.LayerNorm(6, mode="node")),
    "layer norm of pyg, graph": lambda: OnRows(pyg.LayerNorm(6)),
    "pair norm": lambda: OnRows(pyg.PairNorm()),
    "prelu": lambda: OnRows(nn.PReLU()),
    "prelu, one weight per channel": lambda: OnRows(nn.PReLU(6)),
    "relu": lambda: OnRows(nn.ReLU()),
    "elu": lambda: OnRows(nn.ELU()),
    "leaky relu": lambda: OnRows(nn.LeakyReLU(0.1)),
    "gelu": lambda: OnRows(nn.GELU()),
    "silu": lambda: OnRows(nn.SiLU()),
    "softmax over features": lambda: OnRows(nn.Softmax(1)),
}
"""Norms and activations; N > 1, as batch norm wants."""


class Written(nn.Module):
    """A GNN written by hand: parameters to use, and forward in a subclass."""

    def __init__(self) -> None:
        super().__init__()
        self.lin, self.out = nn.Linear(FEATURES, 6), nn.Linear(6, CLASSES)
        self.weight = nn.Parameter(torch.linspace(-1, 1, 6))


def _spread(index: Tensor, like: Tensor) -> Tensor:
    return index.view(-1, 1).expand(-1, like.size(1))


class IndexAdd(Written):
    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        h, (src, dst) = self.lin(x), edge_index
        return h + torch.zeros_like(h).index_add_(0, dst, h[src])


class ScatterAddInPlace(Written):
    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        h, src, dst = self.lin(x), edge_index[0], edge_index[1]
        out = h.new_zeros(h.size(0), 6)
        out.scatter_add_(0, _spread(dst, h), h.index_select(0, src))
        out.index_add_(0, src, h[dst] * self.weight)
        return out.div_(2).relu_()


class ScatterReduce(Written):
    """Every reduction by destination; integer weights, so that ties stay ties."""

    def __init__(self, reduce: str, include_self: bool) -> None:
        super().__init__()
        self.reduce, self.include_self = reduce, include_self
        with torch.no_grad():
            for p in self.parameters():
                p.copy_(torch.randint(-2, 3, p.shape))

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        h = self.lin(x)
        index = _spread(edge_index[1], h)
        return h.scatter_reduce(0, index, h[edge_index[0]], self.reduce, include_self=self.include_self)


class SymmetricNorm(Written):
    """Normalised by out-degree and in-degree: a scatter by source."""

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        src, dst = edge_index
        ones = x.new_ones(src.size(0))
        zeros = x.new_zeros(x.size(0))
        out_degree, in_degree = zeros.index_add(0, src, ones), zeros.index_add(0, dst, ones)
        w = (out_degree.clamp(min=1)[src] * in_degree.clamp(min=1)[dst]).rsqrt()
        h = self.lin(x)
        return torch.zeros_like(h).index_add(0, dst, h[src] * w[:, None])


class BySource(Written):
    """Messages against the edges, into a base that is not zero."""

    def forward(self, x: Tensor, edge_index: Tensor, edge_weight: Tensor) -> Tensor:
        h = self.lin(x)
        return h.index_add(0, edge_index[0], h[edge_index[1]] * edge_weight[:, None]).tanh()


class Undirected(Written):
    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        both = torch.cat([edge_index, edge_index.flip(0)], 1)
        h = self.lin(x)
        return torch.zeros_like(h).index_add(0, both[1], h[both[0]].relu())


class Attention(Written):
    """A softmax over the in-edges of each node, step by step, with self loops."""

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        n = x.size(0)
        loops = torch.arange(n, device=x.device)
        src = torch.cat([edge_index[0], loops])
        dst = torch.cat([edge_index[1], loops])
        h = self.lin(x)
        score = F.leaky_relu((h[src] * h[dst] * self.weight).sum(-1))
        top = torch.full((n,), -1e30, dtype=x.dtype).scatter_reduce(0, dst, score.detach(), "amax")
        e = (score - top[dst]).exp()
        total = torch.zeros(n, dtype=x.dtype).scatter_add(0, dst, e)
        return torch.zeros_like(h).index_add(0, dst, h[src] * (e / total[dst])[:, None])


class Readouts(Written):
    """Global values that flow back into the nodes."""

    def forward(self, x: Tensor, edge_index: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        h = self.lin(x)
        mean, total = h.mean(0), h.sum(0, keepdim=True)
        centred = h - x.sum(0)[:1] / x.size(0) + torch.sigmoid(mean) * self.weight
        gated = centred * total.tanh() + total.mean() / edge_index.size(1)
        return gated, mean, (h * h).mean() + h.std() + h.var(0).sum()


class Masks(Written):
    def forward(self, x: Tensor, mask: Tensor, mask2: Tensor) -> tuple[Tensor, Tensor]:
        h = self.lin(x)
        kept = h[mask]
        count = kept.size(0) + 1
        share = h[mask & ~mask2].sum(0) / count
        above = h[h.mean(1) > h.mean()].sum(0)
        h = h.masked_fill(mask2[:, None], 0.5)
        h = torch.where(mask[:, None], h, self.weight)
        h = h.clone()
        h[mask] = h[mask] * share
        return h, kept.sum(0) / mask.sum().clamp(min=1) + above


class NodeNumbers(Written):
    """Node numbers as values."""

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        src, dst = edge_index
        n = x.size(0)
        w = (src < dst).to(x.dtype) + (src - dst).abs().to(x.dtype) / n + (src * n + dst) % 7
        w = w + (src == dst).to(x.dtype) * 2 + (src == 0).to(x.dtype) + dst.bool().to(x.dtype)
        place = torch.arange(n).to(x.dtype)[:, None] / n
        h = self.lin(x) + place
        return torch.zeros_like(h).index_add(0, dst, h[src] * w[:, None])


class SmallIndices(Written):
    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        src, dst = edge_index.to(torch.int32)
        h = self.lin(x)
        return torch.zeros_like(h).index_add(0, dst, h.index_select(0, src))


class KeptEdges(Written):
    """Edges without self loops, by a mask, and their weights by the same mask."""

    def forward(self, x: Tensor, edge_index: Tensor, edge_weight: Tensor) -> Tensor:
        keep = edge_index[0] != edge_index[1]
        edge_index, w = edge_index[:, keep], edge_weight[keep]
        loops = torch.arange(x.size(0)).unsqueeze(0).repeat(2, 1)
        edge_index = torch.cat([edge_index, loops], 1)
        w = torch.cat([w, w.new_full((x.size(0),), 0.5)])
        h = self.lin(x)
        return torch.zeros_like(h).index_add(0, edge_index[1], h[edge_index[0]] * w[:, None])


class Heads(Written):
    """Views with empty parts: ``view(n, -1)`` of no rows."""

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        h = self.lin(x).view(x.size(0), 2, 3)
        message = h[edge_index[0]].transpose(1, 2).reshape(-1, 6).view(-1, 3, 2).permute(0, 2, 1)
        out = torch.zeros_like(h).index_add(0, edge_index[1], message.contiguous())
        return out.view(x.size(0), -1) * h.flatten(1)


class EdgeOutputs(Written):
    """Rows of edges leave the program, after a batch norm over edges."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(6)

    def forward(self, x: Tensor, edge_index: Tensor, edge_attr: Tensor) -> tuple[Tensor, Tensor]:
        h = self.lin(x)
        e = self.norm(h[edge_index[0]] - 2 * h[edge_index[1]] + edge_attr.mean(1, keepdim=True))
        return torch.zeros_like(h).index_add(0, edge_index[1], e), e.sum(-1)


class NoGrad(Written):
    """A region without gradients, and values detached at several places."""

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        h, (src, dst) = self.lin(x), edge_index
        with torch.no_grad():
            target = torch.zeros_like(h).index_add(0, dst, h[src])
            scale = self.weight * 2
        other = torch.zeros_like(h).index_add(0, dst, h[src].detach() * self.weight)
        return h * target * scale + other * h.detach() + h.clone().detach().requires_grad_(False)


class Aliases(Written):
    """In-place writes seen through views."""

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        h = self.lin(x)
        z = torch.zeros(x.size(0), 6, dtype=x.dtype)
        v = z.view(-1, 2, 3)
        z.index_add_(0, edge_index[1], h[edge_index[0]])
        z += 1
        return v.sum(1) + z.t()[:3].t()


class Embedded(Written):
    """Integer features, and a submodule in single precision."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(4, 6, padding_idx=0)
        self.small = nn.Linear(6, 6).to(torch.float32)

    def forward(self, x: Tensor, z: Tensor, edge_index: Tensor) -> Tensor:
        h = self.lin(x) + self.embedding(z)
        h = torch.zeros_like(h).index_add(0, edge_index[1], h[edge_index[0]])
        return self.small(h.float()).double() + self.out.weight[h.argmax(1) % CLASSES]


class Contractions(Written):
    """Products over the rows: ``h.T @ h`` and what follows from it."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = self.lin(x)
        gram = h.t() @ h
        return h @ gram / x.size(0), torch.mm(x.t(), h)


class Replicated(Written):
    """An argument and a parameter that leave the program as they came."""

    def forward(self, x: Tensor, scale: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return self.out(self.lin(x)) * scale, self.weight, scale * 2


class Unused(Written):
    """Parameters that are unused, frozen, or used without effect on the output."""

    def __init__(self) -> None:
        super().__init__()
        self.unused, self.frozen = nn.Linear(2, 2), nn.Linear(6, 6)
        self.frozen.requires_grad_(False)

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        h = self.frozen(self.lin(x))
        self.out(h)
        return torch.zeros_like(h).index_add(0, edge_index[1], h[edge_index[0]])


class Sparse(Written):
    """Products with a sparse adjacency."""

    def forward(self, x: Tensor, adj: Tensor) -> Tensor:
        h = torch.relu(torch.sparse.mm(adj, self.lin(x)))
        return adj @ self.out(h) + torch.sparse.mm(adj, (adj @ h)[:, :CLASSES])


WRITTEN: dict[str, Factory] = {
    **{
        cls.__name__: cls
        for cls in (
            IndexAdd,
            ScatterAddInPlace,
            SymmetricNorm,
            BySource,
            Undirected,
            Attention,
            Masks,
            NodeNumbers,
            SmallIndices,
            KeptEdges,
            Heads,
            NoGrad,
            Aliases,
            Embedded,
            Contractions,
            Replicated,
            Unused,
        )
    },
    **{
        f"scatter {reduce}{', with self' if own else ''}": lambda reduce=reduce, own=own: ScatterReduce(  # type: ignore[misc]
            reduce, own
        )
        for reduce in ("sum", "mean", "prod", "amax", "amin")
        for own in (False, True)
    },
}
"""Written by hand; any graph."""

ON_LARGER: dict[str, Factory] = {"Readouts": Readouts, "EdgeOutputs": EdgeOutputs}
"""Written by hand; N > 1 and E > 1, for variances."""


class Stack(nn.Module):
    """Layers with norms, activations, dropout and residuals between them."""

    def __init__(
        self, steps: Sequence[tuple[nn.Module, nn.Module, nn.Module]], residual: bool, p: float
    ) -> None:
        super().__init__()
        self.convs = nn.ModuleList(step[0] for step in steps)
        self.norms = nn.ModuleList(step[1] for step in steps)
        self.activations = nn.ModuleList(step[2] for step in steps)
        self.inlet, self.outlet = nn.Linear(FEATURES, 6), nn.Linear(6, CLASSES)
        self.residual, self.p = residual, p

    def forward(self, x: Tensor, edge_index: Tensor, edge_attr: Tensor, edge_weight: Tensor) -> Tensor:
        h = self.inlet(x)
        for conv, norm, activation in zip(self.convs, self.norms, self.activations, strict=True):
            extra: dict[str, Any] = {}
            if getattr(conv, "edge_dim", None) is not None or isinstance(conv, pyg.GINEConv):
                extra["edge_attr"] = edge_attr
            elif isinstance(conv, pyg.GCNConv | pyg.GraphConv | pyg.APPNP):
                extra["edge_weight"] = edge_weight
            g = activation(norm(conv(h, edge_index, **extra)))
            g = F.dropout(g, self.p, self.training)
            h = h + g if self.residual else g
        return self.outlet(h)


CONVS: dict[str, Factory] = {
    "gcn": lambda: pyg.GCNConv(6, 6),
    "gcn bare": lambda: pyg.GCNConv(6, 6, add_self_loops=False, bias=False),
    "graph": lambda: pyg.GraphConv(6, 6, aggr="mean"),
    "sage": lambda: pyg.SAGEConv(6, 6),
    "sage max": lambda: pyg.SAGEConv(6, 6, aggr="max"),
    "sage sum": lambda: pyg.SAGEConv(6, 6, aggr="sum", normalize=True),
    "gat": lambda: pyg.GATConv(6, 3, heads=2),
    "gat edges": lambda: pyg.GATConv(6, 6, heads=2, concat=False, edge_dim=EDGE, add_self_loops=False),
    "gatv2": lambda: pyg.GATv2Conv(6, 3, heads=2, residual=True),
    "gin": lambda: pyg.GINConv(nn.Linear(6, 6), train_eps=True),
    "gine": lambda: pyg.GINEConv(nn.Linear(6, 6), edge_dim=EDGE),
    "transformer": lambda: pyg.TransformerConv(6, 3, heads=2, beta=True, edge_dim=EDGE),
    "appnp": lambda: pyg.APPNP(2, 0.2),
}
"""From 6 features to 6."""

NORMS: dict[str, Factory] = {
    "none": nn.Identity,
    "batch": lambda: nn.BatchNorm1d(6),
    "batch of pyg": lambda: pyg.BatchNorm(6),
    "layer": lambda: nn.LayerNorm(6),
    "layer of pyg": lambda: pyg.LayerNorm(6, mode="node"),
    "graph": lambda: pyg.LayerNorm(6, mode="graph"),
}

ACTIVATIONS: dict[str, Factory] = {
    "relu": nn.ReLU,
    "prelu": nn.PReLU,
    "elu": nn.ELU,
    "tanh": nn.Tanh,
    "leaky": lambda: nn.LeakyReLU(0.2),
}


def make(factory: Factory, seed: int = 0) -> nn.Module:
    """A float64 model with known weights; single-precision submodules stay as they are.

    Not for a simulated rank: the default dtype is every thread's.
    """
    assert threading.current_thread() is threading.main_thread()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        default = torch.get_default_dtype()
        torch.set_default_dtype(torch.float64)
        try:
            return factory()
        finally:
            torch.set_default_dtype(default)


class Reversed(torch.autograd.Function):
    """The identity, with the gradient of its opposite: Ganin et al., Domain-adversarial training, 2016."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return -grad
