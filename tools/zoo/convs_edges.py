"""``torch_geometric.nn.conv`` with attention, features of edges, positions and types."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch_geometric import nn as pyg

from graphshard.tools.zoo.configuration import EDGE_FEATURES as E
from graphshard.tools.zoo.configuration import FEATURES as F
from graphshard.tools.zoo.configuration import HIDDEN as H
from graphshard.tools.zoo.configuration import Configuration, layer, mlp, model
from graphshard.tools.zoo.convs import BACK, DEGREES, SCALERS
from graphshard.tools.zoo.forwards import (
    attributes,
    edges,
    hidden,
    initial,
    initial_weights,
    positions,
    types,
)
from graphshard.tools.zoo.graphs import RELATIONS

R = RELATIONS


def _returns_attention(m: Any, x: Tensor, edge_index: Tensor) -> tuple[Tensor, Tensor]:
    out, (_, alpha) = m.layer(x, edge_index, return_attention_weights=True)
    return out, alpha


ATTENTION = [
    *(
        configuration
        for name, conv in (("GATConv", pyg.GATConv), ("GATv2Conv", pyg.GATv2Conv))
        for configuration in (
            layer(edges, name, lambda conv=conv: conv(F, H)),
            layer(edges, f"{name}, heads", lambda conv=conv: conv(F, H, heads=3)),
            layer(edges, f"{name}, mean of heads", lambda conv=conv: conv(F, H, heads=3, concat=False)),
            layer(edges, f"{name}, residual", lambda conv=conv: conv(F, H, heads=2, residual=True)),
            layer(edges, f"{name}, no self loops", lambda conv=conv: conv(F, H, add_self_loops=False)),
            layer(attributes, f"{name}, edge_dim", lambda conv=conv: conv(F, H, heads=2, edge_dim=E)),
            layer(
                attributes,
                f"{name}, edge_dim, no self loops",
                lambda conv=conv: conv(F, H, edge_dim=E, add_self_loops=False),
            ),
            layer(
                attributes,
                f"{name}, edge_dim, filled with max",
                lambda conv=conv: conv(F, H, edge_dim=E, fill_value="max"),
            ),
            layer(
                attributes,
                f"{name}, edge_dim, filled with 0.5",
                lambda conv=conv: conv(F, H, edge_dim=E, fill_value=0.5),
            ),
            layer(edges, f"{name}, dropout", lambda conv=conv: conv(F, H, heads=2, dropout=0.5)),
            layer(edges, f"{name}, no bias", lambda conv=conv: conv(F, H, bias=False)),
            layer(edges, f"{name}, target_to_source", lambda conv=conv: conv(F, H, flow=BACK)),
            layer(_returns_attention, f"{name}, returns attention", lambda conv=conv: conv(F, H)),
        )
    ),
    layer(edges, "GATv2Conv, shared weights", lambda: pyg.GATv2Conv(F, H, share_weights=True)),
    layer(edges, "TransformerConv", lambda: pyg.TransformerConv(F, H, heads=2)),
    layer(edges, "TransformerConv, beta", lambda: pyg.TransformerConv(F, H, heads=2, beta=True)),
    layer(
        edges,
        "TransformerConv, mean of heads",
        lambda: pyg.TransformerConv(F, H, heads=2, concat=False, root_weight=False),
    ),
    layer(attributes, "TransformerConv, edge_dim", lambda: pyg.TransformerConv(F, H, edge_dim=E)),
    layer(edges, "TransformerConv, dropout", lambda: pyg.TransformerConv(F, H, dropout=0.4)),
    layer(edges, "TransformerConv, target_to_source", lambda: pyg.TransformerConv(F, H, flow=BACK)),
    layer(edges, "AGNNConv", pyg.AGNNConv),
    layer(edges, "AGNNConv, fixed, no self loops", lambda: pyg.AGNNConv(False, add_self_loops=False)),
    layer(edges, "FeaStConv", lambda: pyg.FeaStConv(F, H, heads=2)),
    layer(edges, "FeaStConv, no self loops", lambda: pyg.FeaStConv(F, H, add_self_loops=False)),
    layer(initial, "FAConv", lambda: pyg.FAConv(H, eps=0.2)),
    layer(initial_weights, "FAConv, not normalized", lambda: pyg.FAConv(H, normalize=False)),
    layer(initial, "FAConv, no self loops, dropout", lambda: pyg.FAConv(H, 0.1, 0.4, add_self_loops=False)),
    layer(edges, "SuperGATConv, MX, eval", lambda: pyg.SuperGATConv(F, H, heads=2), training=False),
    layer(
        edges,
        "SuperGATConv, SD, eval",
        lambda: pyg.SuperGATConv(F, H, heads=2, concat=False, attention_type="SD"),
        training=False,
    ),
    layer(edges, "SuperGATConv, negative sampling", lambda: pyg.SuperGATConv(F, H)),
]

FEATURED = [
    layer(attributes, "GINEConv", lambda: pyg.GINEConv(mlp(F, H), edge_dim=E)),
    layer(attributes, "GINEConv, train_eps", lambda: pyg.GINEConv(nn.Linear(F, H), 0.1, True, edge_dim=E)),
    layer(attributes, "GMMConv", lambda: pyg.GMMConv(F, H, dim=E, kernel_size=2)),
    layer(
        attributes,
        "GMMConv, separate gaussians",
        lambda: pyg.GMMConv(F, H, dim=E, kernel_size=2, separate_gaussians=True),
    ),
    layer(attributes, "NNConv", lambda: pyg.NNConv(F, H, mlp(E, F * H))),
    layer(attributes, "NNConv, max", lambda: pyg.NNConv(F, H, mlp(E, F * H), aggr="max", root_weight=False)),
    layer(attributes, "CGConv", lambda: pyg.CGConv(F, dim=E)),
    layer(attributes, "CGConv, batch norm, mean", lambda: pyg.CGConv(F, E, aggr="mean", batch_norm=True)),
    layer(edges, "CGConv, no edge features", lambda: pyg.CGConv(F)),
    layer(edges, "ResGatedGraphConv", lambda: pyg.ResGatedGraphConv(F, H)),
    layer(attributes, "ResGatedGraphConv, edge_dim", lambda: pyg.ResGatedGraphConv(F, H, edge_dim=E)),
    *(
        layer(edges, f"GENConv, {aggr}", lambda aggr=aggr: pyg.GENConv(F, H, aggr=aggr))
        for aggr in ("softmax", "powermean", "add", "max")
    ),
    layer(edges, "GENConv, softmax learned", lambda: pyg.GENConv(F, H, learn_t=True)),
    layer(edges, "GENConv, powermean learned", lambda: pyg.GENConv(F, H, "powermean", learn_p=True)),
    layer(edges, "GENConv, msg_norm", lambda: pyg.GENConv(F, H, msg_norm=True, learn_msg_scale=True)),
    layer(attributes, "GENConv, edge_dim, layer norm", lambda: pyg.GENConv(F, H, edge_dim=E, norm="layer")),
    layer(
        edges,
        "PNAConv",
        lambda: pyg.PNAConv(F, H, ["mean", "min", "max", "std"], SCALERS[:3], DEGREES),
    ),
    layer(
        attributes,
        "PNAConv, edge_dim, towers, all scalers",
        lambda: pyg.PNAConv(F, H, ["sum", "var"], SCALERS, DEGREES, edge_dim=E, towers=2, post_layers=2),
    ),
    layer(
        edges,
        "PNAConv, train_norm",
        lambda: pyg.PNAConv(F, H, ["mean"], SCALERS[:3], DEGREES, train_norm=True),
    ),
    layer(attributes, "PDNConv", lambda: pyg.PDNConv(F, H, E, 6)),
    layer(attributes, "PDNConv, not normalized", lambda: pyg.PDNConv(F, H, E, 6, False, normalize=False)),
    layer(edges, "GeneralConv", lambda: pyg.GeneralConv(F, H)),
    layer(attributes, "GeneralConv, edge features", lambda: pyg.GeneralConv(F, H, E, aggr="mean")),
    layer(
        edges,
        "GeneralConv, attention",
        lambda: pyg.GeneralConv(F, H, heads=2, attention=True, l2_normalize=True),
    ),
    layer(
        edges,
        "GeneralConv, dot product, undirected",
        lambda: pyg.GeneralConv(F, H, attention=True, attention_type="dot_product", directed_msg=False),
    ),
]


def _points(m: Any, x: Tensor, pos: Tensor, normal: Tensor, edge_index: Tensor) -> Any:
    return m.layer(x, pos, normal, edge_index)


POINTS = [
    layer(positions, "PointNetConv", lambda: pyg.PointNetConv(mlp(F + 3, H), nn.Linear(H, H))),
    layer(
        positions,
        "PointNetConv, no self loops",
        lambda: pyg.PointNetConv(mlp(F + 3, H), add_self_loops=False),
    ),
    layer(_points, "PPFConv", lambda: pyg.PPFConv(mlp(F + 4, H), nn.Linear(H, H))),
    layer(positions, "PointTransformerConv", lambda: pyg.PointTransformerConv(F, H)),
    layer(
        positions,
        "PointTransformerConv, networks",
        lambda: pyg.PointTransformerConv(F, H, mlp(3, H), mlp(H, H), add_self_loops=False),
    ),
    layer(
        positions,
        "PointGNNConv",
        lambda: pyg.PointGNNConv(mlp(F, 3), mlp(F + 3, H), mlp(H, F)),
    ),
]


def _relations(m: Any, x: Tensor, edge_index: Tensor, edge_type: Tensor) -> Any:
    """A dict of relations, as a heterogeneous graph with one type of nodes has it."""
    kinds = {("n", f"r{i}", "n"): edge_index[:, edge_type == i] for i in range(R)}
    return m.layer({"n": x}, kinds)["n"]


METADATA = (["n"], [("n", f"r{i}", "n") for i in range(R)])


def _heat(
    m: Any, x: Tensor, edge_index: Tensor, node_type: Tensor, edge_type: Tensor, edge_attr: Tensor
) -> Any:
    return m.layer(x, edge_index, node_type, edge_type, edge_attr)


def _typed_attributes(m: Any, x: Tensor, edge_index: Tensor, edge_type: Tensor, edge_attr: Tensor) -> Any:
    return m.layer(x, edge_index, edge_type, edge_attr)


TYPED = [
    *(
        configuration
        for name, conv in (("RGCNConv", pyg.RGCNConv), ("FastRGCNConv", pyg.FastRGCNConv))
        for configuration in (
            layer(types, name, lambda conv=conv: conv(F, H, R)),
            layer(types, f"{name}, bases", lambda conv=conv: conv(F, H, R, num_bases=2)),
            layer(types, f"{name}, blocks", lambda conv=conv: conv(F, 2 * F, R, num_blocks=F)),
            layer(
                types, f"{name}, add, no root", lambda conv=conv: conv(F, H, R, aggr="add", root_weight=False)
            ),
            model(
                f"{name}, embeddings of categories",
                lambda m, z, edge_index, edge_type: m.layer(m.embedding(z), edge_index, edge_type),
                lambda conv=conv: {"layer": conv(F, H, R), "embedding": nn.Embedding(4, F)},
            ),
        )
    ),
    layer(types, "RGCNConv, max", lambda: pyg.RGCNConv(F, H, R, aggr="max")),
    *(
        layer(
            types,
            f"RGATConv, {mechanism}, {mode}",
            lambda mechanism=mechanism, mode=mode: pyg.RGATConv(
                F, H, R, attention_mechanism=mechanism, attention_mode=mode, heads=2
            ),
        )
        for mechanism in ("across-relation", "within-relation")
        for mode in ("additive-self-attention", "multiplicative-self-attention")
    ),
    layer(_typed_attributes, "RGATConv, edge_dim, bases", lambda: pyg.RGATConv(F, H, R, 2, edge_dim=E)),
    layer(types, "RGATConv, blocks, f-scaled", lambda: pyg.RGATConv(F, F, R, num_blocks=F, mod="f-scaled")),
    layer(types, "FiLMConv", lambda: pyg.FiLMConv(F, H, R)),
    layer(edges, "FiLMConv, one relation, max", lambda: pyg.FiLMConv(F, H, aggr="max")),
    layer(_heat, "HEATConv", lambda: pyg.HEATConv(F, H, R, R, 2, E, 2, heads=2)),
    layer(
        _relations,
        "HeteroConv, one node type",
        lambda: pyg.HeteroConv({kind: pyg.SAGEConv(F, H) for kind in METADATA[1]}),
    ),
    layer(_relations, "HGTConv, one node type", lambda: pyg.HGTConv(F, H, METADATA, heads=2)),
    layer(_relations, "HANConv, one node type", lambda: pyg.HANConv(F, H, METADATA, heads=2)),
]


def _hyperedges(m: Any, x: Tensor, edge_index: Tensor) -> Any:
    return m.layer(x, edge_index, num_edges=x.size(0))


def _hyperedge_features(m: Any, x: Tensor, edge_index: Tensor) -> Any:
    return m.layer(x, edge_index, hyperedge_attr=x * 0.5, num_edges=x.size(0))


def _integers(m: Any, z: Tensor, edge_index: Tensor) -> Any:
    return m.layer(z, edge_index)


def _global(m: Any, x0: Tensor, edge_index: Tensor, batch: Tensor) -> Any:
    return m.layer(x0, edge_index, batch)


OTHER = [
    layer(_hyperedges, "HypergraphConv", lambda: pyg.HypergraphConv(F, H)),
    layer(edges, "HypergraphConv, edges counted", lambda: pyg.HypergraphConv(F, H)),
    layer(
        _hyperedge_features,
        "HypergraphConv, attention",
        lambda: pyg.HypergraphConv(F, H, use_attention=True, heads=2),
    ),
    layer(_integers, "WLConv", pyg.WLConv, training=False),
    layer(hidden, "GPSConv, no local conv", lambda: pyg.GPSConv(H, None, heads=2)),
    layer(_global, "GPSConv, GIN, batch", lambda: pyg.GPSConv(H, pyg.GINConv(mlp(H, H)), heads=2)),
    layer(
        _global,
        "GPSConv, performer",
        lambda: pyg.GPSConv(H, pyg.GCNConv(H, H), heads=2, attn_type="performer"),
    ),
    layer(edges, "PANConv", lambda: pyg.PANConv(F, H, filter_size=2)),
    layer(attributes, "SplineConv", lambda: pyg.SplineConv(F, H, dim=E, kernel_size=2)),
    model(
        "GravNetConv",
        lambda m, x, batch: m.layer(x, batch),
        lambda: {"layer": pyg.GravNetConv(F, H, 2, 2, k=3)},
    ),
    model(
        "DynamicEdgeConv",
        lambda m, x, batch: m.layer(x, batch),
        lambda: {"layer": pyg.DynamicEdgeConv(mlp(2 * F, H), k=3)},
    ),
    model(
        "XConv",
        lambda m, x, pos: m.layer(x, pos),
        lambda: {"layer": pyg.XConv(F, H, dim=3, kernel_size=3, hidden_channels=2)},
    ),
    layer(edges, "FusedGATConv", lambda: pyg.FusedGATConv(F, H, add_self_loops=False)),
    layer(edges, "CuGraphSAGEConv", lambda: pyg.CuGraphSAGEConv(F, H)),
    layer(edges, "CuGraphGATConv", lambda: pyg.CuGraphGATConv(F, H)),
    layer(edges, "CuGraphRGCNConv", lambda: pyg.CuGraphRGCNConv(F, H, R)),
]

CONFIGURATIONS: list[Configuration] = [*ATTENTION, *FEATURED, *POINTS, *TYPED, *OTHER]
