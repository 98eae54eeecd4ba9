"""From an exported program to the graph that passes work on: functional, deduplicated, without asserts.

- class losses become opaque ops, since their decomposition over masked rows fails;
- regions are inlined: of ``torch.no_grad()`` with their inputs detached, since decomposition would drop the
  region and let gradients through (measured), of ``enable_grad`` and a disabled autocast as they are;
- the graph is made functional (functional.py): in-place ops make new tensors, a few composite ops are taken apart
  (composites.py), ``detach`` stays. Never the core-ATen table: it turns ``detach`` into ``alias`` and doubles gradients
  silently (measured);
- common subexpressions are merged *before* placement, since row sets are told apart by their mask node.
"""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import fx
from torch.export import ExportedProgram

from graphshard.capture.functional import Functional, functional
from graphshard.errors import CaptureError
from graphshard.ir.calls import calls
from graphshard.ir.source import where
from graphshard.ops.losses import OPAQUE
from graphshard.private import pytree
from graphshard.private.fake_tensors import fake_mode_of
from graphshard.private.torch_export import SIZE_ASSERTS, region_of, regions_of

aten = torch.ops.aten


def prepare(exported: ExportedProgram) -> Functional:
    """Opaque losses, inlined no_grad regions, functional ops."""
    graph = exported.graph_module.graph
    while regions := regions_of(graph):
        _inline_region(exported.graph_module, regions[0])
    for node in list(graph.nodes):
        node.target = OPAQUE.get(node.target, node.target)
    exported.graph_module.recompile()
    return functional(exported)


def _inline_region(module: fx.GraphModule, node: fx.Node) -> None:
    """Put the ops of a region in its place; without gradients, its inputs are detached."""
    region = region_of(node)
    if region is None:
        raise CaptureError(
            f"the region {node.target} cannot be captured exactly{where(node)}; torch.no_grad(), torch.enable_grad() "
            "and a disabled autocast can: cast the model and the data instead of using autocast in forward"
        )
    inputs = list(region.inputs)
    body = getattr(module, str(region.body.target))
    if not region.grad and regions_of(body.graph):
        raise CaptureError(
            f"a region inside torch.no_grad() cannot be captured exactly{where(node)}; move it out"
        )
    graph = node.graph
    mapping: dict[fx.Node, Any] = {}
    with graph.inserting_before(node):
        for inner in body.graph.nodes:
            if inner.op == "placeholder":
                outer = inputs.pop(0)
                mapping[inner] = (
                    _detached(graph, outer) if isinstance(outer, fx.Node) and not region.grad else outer
                )
            elif inner.op == "output":
                results = [mapping[n] if isinstance(n, fx.Node) else n for n in inner.args[0]]
            else:
                mapping[inner] = graph.node_copy(inner, lambda n: mapping[n])
                if inner.op == "get_attr":  # the body of an inner region
                    target = f"{region.body.target}_{inner.target}"
                    setattr(module, target, getattr(body, str(inner.target)))
                    mapping[inner].target = target
    for user in list(node.users):
        assert user.target is operator.getitem
        user.replace_all_uses_with(results[user.args[1]])  # type: ignore[index]
        graph.erase_node(user)
    graph.erase_node(node)
    graph.eliminate_dead_code(lambda n: n.op != "get_attr" or bool(n.users))


def _detached(graph: fx.Graph, value: fx.Node) -> fx.Node:
    example = value.meta.get("val")
    if not isinstance(example, torch.Tensor) or not example.is_floating_point():
        return value
    node = graph.call_function(torch.ops.aten.detach.default, (value,))
    node.meta = {k: v for k, v in value.meta.items() if k in ("val", "stack_trace", "nn_module_stack")}
    return node


def unpack_constant_indices(found: Functional) -> None:
    """``ei[[1, 0]]`` as ``stack([ei[1], ei[0]])``: which rows of an ``edge_index`` it picks is then plain.

    Nodes and edges, of which a graph has any number, stay picked by their numbers.
    """
    names = found.signature.inputs_to_lifted_tensor_constants
    graph = found.module.graph
    for node in list(graph.nodes):
        if node.target is not torch.ops.aten.index.Tensor or len(node.args[1]) != 1:
            continue
        source, (index,) = node.args
        while calls(index, *_COPIES):
            index = index.args[0]
        constant = found.constants.get(names.get(index.name, ""))
        if constant is None or constant.dim() != 1 or constant.dtype != torch.int64:
            continue
        if not isinstance(source.meta["val"].size(0), int):
            continue
        with graph.inserting_before(node):
            rows = [_like(graph, node, torch.ops.aten.select.int, source, 0, int(i)) for i in constant]
            stacked = _like(graph, node, torch.ops.aten.stack.default, rows, 0)
        node.replace_all_uses_with(stacked)
        graph.erase_node(node)


_COPIES = (aten.clone, aten.detach, aten.lift_fresh_copy, aten.alias)


def _like(graph: fx.Graph, origin: fx.Node, target: Any, *args: Any) -> fx.Node:
    """A call at the source position of another; example values are recomputed by ``tidy``."""
    node = graph.call_function(target, args)
    node.meta = {k: v for k, v in origin.meta.items() if k in ("stack_trace", "nn_module_stack")}
    return node


def tidy(module: fx.GraphModule) -> fx.GraphModule:
    """Without asserts on sizes, without duplicates, without dead code; same placeholders and output."""
    graph = module.graph
    for node in reversed(list(graph.nodes)):
        if _is_assert(node):
            graph.erase_node(node)
    # Only a size's asserts keep these alive; they have no effect of their own.
    graph.eliminate_dead_code(_is_impure)
    renamed = _merge_duplicates(graph)
    graph.eliminate_dead_code(_is_impure)
    _refresh_examples(graph, renamed)
    _spell_out_sizes(graph)
    module.recompile()
    return module


def _merge_duplicates(graph: fx.Graph) -> set[fx.Node]:
    """One node for calls that compute the same; every random call stays its own.

    Returns the nodes that now read an example value of another shape: masked rows are counted by a symbol.

    torch's CSEPass is not used: it takes ``add(x, 1)`` and ``add(x, 1.0)`` for the same call.
    """
    known: dict[Any, fx.Node] = {}
    renamed: set[fx.Node] = set()
    for node in list(graph.nodes):
        if node.op != "call_function":
            continue
        if torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ()):
            continue
        leaves, structure = pytree.tree_flatten((node.args, node.kwargs))
        key = (
            node.target,
            tuple((type(v), repr(v) if isinstance(v, float) else v) for v in leaves),
            structure,
        )
        first = known.setdefault(key, node)
        if first is not node:
            if _symbols(first) != _symbols(node):
                renamed.update(node.users)
            node.replace_all_uses_with(first)
            graph.erase_node(node)
    return renamed


def _symbols(node: fx.Node) -> str:
    leaves = pytree.tree_leaves(node.meta.get("val"))
    return str([tuple(v.shape) if isinstance(v, torch.Tensor) else v for v in leaves])


def _refresh_examples(graph: fx.Graph, stale: set[fx.Node]) -> None:
    """Recompute the example values of the nodes that are stale or new, and of what follows from them.

    No others: running an op on examples may fix the number of nodes to that of the example, which export
    would have reported.
    """
    modes = (fake_mode_of(node.meta.get("val")) for node in graph.nodes)
    mode = next((mode for mode in modes if mode is not None), None)
    if mode is None:
        return
    with mode:
        for node in graph.nodes:
            is_stale = node in stale or "val" not in node.meta or not stale.isdisjoint(node.all_input_nodes)
            if node.op == "call_function" and is_stale:
                stale.add(node)
                args, kwargs = fx.map_arg((node.args, node.kwargs), lambda n: n.meta["val"])
                node.meta["val"] = node.target(*args, **kwargs)
                node.meta.pop("unbacked_bindings", None)


def _spell_out_sizes(graph: fx.Graph) -> None:
    """``view(x, [n, -1])`` cannot tell -1 where a rank holds no row: write the number that it stands for."""
    for node in graph.nodes:
        if node.target in (aten.view.default, aten.reshape.default, aten._unsafe_view.default):
            shape = zip(node.args[1], node.meta["val"].shape, strict=True)
            sizes = [int(s) if given == -1 and isinstance(s, int) else given for given, s in shape]
            node.update_arg(1, sizes)


def _is_assert(node: fx.Node) -> bool:
    return calls(node, *SIZE_ASSERTS)


def _is_impure(node: fx.Node) -> bool:
    return node.op in ("placeholder", "output")
