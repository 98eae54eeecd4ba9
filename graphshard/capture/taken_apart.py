"""Composite ops of a graph taken apart one by one, each into the steps that torch records for it alone.

torch's ``run_decompositions`` traces the whole graph three times over, whatever is in it. Most graphs hold few ops that
do not stay as they are, such as ``expand_as``, ``reshape``, ``to`` or ``dropout``, and all that these need is known
where they stand: the example values of their operands.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx
from torch.fx.experimental.proxy_tensor import make_fx

from graphshard.capture.composites import decompositions, own_definitions
from graphshard.ir.program import fake_mode
from graphshard.private import pytree
from graphshard.private.torch_ops import OpOverload, has_composite_kernel, schema_of

aten = torch.ops.aten


def _batch_norm(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    training: bool,
    momentum: float,
    eps: float,
    cudnn_enabled: bool,  # noqa: ARG001 (the schema's)
) -> Tensor:
    """``torch.nn.functional.batch_norm`` by the ops in which torch's decomposition leaves it."""
    out: Tensor
    if not training:
        out, *_ = aten._native_batch_norm_legit_no_training(
            x, weight, bias, running_mean, running_var, momentum, eps
        )
    elif running_mean is None or running_var is None:
        out, *_ = aten._native_batch_norm_legit.no_stats(x, weight, bias, training, momentum, eps)
    else:
        out, _, _, mean, var = aten._native_batch_norm_legit_functional(
            x, weight, bias, running_mean, running_var, training, momentum, eps
        )
        running_mean.copy_(mean)
        running_var.copy_(var)
    return out


_DEFINITIONS = own_definitions() | {aten.batch_norm.default: _batch_norm}


def take_apart(graph: fx.Graph) -> bool:
    """Replace each call of an op with a definition of ours, and of a composite op that may return its operand.

    Returns:
        Whether that was possible. If not, the graph is half rewritten, and has to be left to torch.
    """
    sizes = _sizes_of_inputs(graph)
    # Nodes that are erased on the way are not come to.
    return all(_take_apart(node, sizes) for node in graph.nodes if node.op == "call_function")


def _take_apart(node: fx.Node, sizes: dict[str, fx.Node]) -> bool:
    if _is_left_to_torch(node.target):
        return False
    if node.target is aten.lift_fresh_copy.default:
        _copy_constant(node)
    target: Any = node.target
    steps = _DEFINITIONS.get(target)
    if steps is None and not _may_return_an_operand(target):
        if (symbol := _symbol(node)) is not None:
            sizes.setdefault(symbol, node)
        return True
    # The steps of ours are written in ops that stay; those of torch in ops that are taken apart further.
    recorded = _recorded(node, steps or target.decompose, keep_composites=steps is not None)
    if recorded is None:
        return False
    made = _put_before(node, *recorded, sizes)
    return made is not None and all(_take_apart(step, sizes) for step in made)


def _copy_constant(node: fx.Node) -> None:
    """A tensor made in forward: the export has lifted it, and detaches its copy, which has no gradient anyway."""
    node.target = aten.clone.default
    for user in list(node.users):
        if user.target is aten.detach_.default:
            user.replace_all_uses_with(node)
            user.graph.erase_node(user)


def _is_left_to_torch(target: Any) -> bool:
    """Composite ops by torch's own definitions, and the norm whose schema does not say that it writes."""
    if target is aten.native_batch_norm.default:
        return True
    return target in decompositions() and target not in _DEFINITIONS


def _may_return_an_operand(target: Any) -> bool:
    """Whether it is a composite op whose result may be its operand or a view of it: ``reshape``, ``dropout``."""
    if not isinstance(target, OpOverload) or not has_composite_kernel(target):
        return False
    schema = schema_of(target)
    unclear = torch.Tag.maybe_aliasing_or_mutating in target.tags
    return unclear or any(argument.alias_info is not None for argument in schema.arguments)


def _recorded(
    node: fx.Node, steps: Callable[..., Any], *, keep_composites: bool
) -> tuple[fx.GraphModule, list[fx.Node]] | None:
    """The graph of the steps on the example values of a call, and its operands; None where it has none."""
    leaves, structure = pytree.tree_flatten((node.args, node.kwargs))
    places = [i for i, leaf in enumerate(leaves) if isinstance(leaf, fx.Node)]
    examples = [leaves[i].meta.get("val") for i in places]
    mode = fake_mode(examples)
    if mode is None or any(example is None for example in examples):
        return None

    def run(*values: Any) -> Any:
        given = list(leaves)
        for i, value in zip(places, values, strict=True):
            given[i] = value
        args, kwargs = pytree.tree_unflatten(given, structure)
        return steps(*args, **kwargs)

    with mode:
        return make_fx(run, pre_dispatch=keep_composites)(*examples), [leaves[i] for i in places]


def _put_before(
    node: fx.Node, body: fx.GraphModule, operands: list[fx.Node], sizes: dict[str, fx.Node]
) -> list[fx.Node] | None:
    """The steps in the place of a call: the new nodes. None where the graph of the steps is not one of ops alone."""
    placed: dict[fx.Node, Any] = dict(zip(body.graph.find_nodes(op="placeholder"), operands, strict=True))
    made, result = [], None
    for step in body.graph.nodes:
        if step.op == "output":
            (result,) = step.args
        elif step.op == "call_function":
            known = sizes.get(_symbol(step) or "")
            placed[step] = known or _copied(step, node, placed)
            if known is None:
                made.append(placed[step])
        elif step.op != "placeholder":
            return None
    if not isinstance(result, fx.Node):
        return None
    node.replace_all_uses_with(placed[result])
    node.graph.erase_node(node)
    return made


def _copied(step: fx.Node, origin: fx.Node, placed: dict[fx.Node, Any]) -> fx.Node:
    """A step before the op that it is of, at its place in the source."""
    with origin.graph.inserting_before(origin):
        node = origin.graph.node_copy(step, placed.__getitem__)
    kept = {k: v for k, v in origin.meta.items() if k in ("stack_trace", "nn_module_stack", "custom")}
    node.meta = kept | {"val": step.meta.get("val")}
    return node


def _sizes_of_inputs(graph: fx.Graph) -> dict[str, fx.Node]:
    """A node for each size of an input that is any number, of the first input that has it: where torch reads it too."""
    sizes: dict[str, fx.Node] = {}
    with graph.inserting_before(next(node for node in graph.nodes if node.op != "placeholder")):
        for node in graph.find_nodes(op="placeholder"):
            value = node.meta.get("val")
            for dim, size in enumerate(value.shape if isinstance(value, Tensor) else ()):
                if isinstance(size, torch.SymInt) and str(size) not in sizes:
                    sizes[str(size)] = graph.call_function(aten.sym_size.int, (node, dim))
                    sizes[str(size)].meta = {"val": size}
    return sizes


def _symbol(node: fx.Node) -> str | None:
    """The expression of a size that a node computes; None of anything else."""
    value = node.meta.get("val")
    return str(value) if isinstance(value, torch.SymInt) else None
