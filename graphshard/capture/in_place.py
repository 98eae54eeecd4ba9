"""In-place ops as the ops that make a new tensor, where nothing else sees that the old one is written to.

An op that writes into a tensor is the same as one that makes another, if whoever reads the tensor later reads the new
one, and if nothing that shares memory with it is read later: no view of it, no base, no input. That is plain from the
schemas of the ops, and holds for nearly all that models write: sums by index into zeros, ``relu_`` of a fresh result.
Anything else is left to torch's own functionalization.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, fx

from graphshard.private.fake_tensors import fake_mode_of
from graphshard.private.torch_ops import OpOverload, has_composite_kernel, schema_of

_IN_PLACE = (
    # elementwise
    *("abs_", "add_.Tensor", "add_.Scalar", "addcdiv_", "addcmul_", "ceil_", "clamp_", "clamp_.Tensor"),
    *(
        "clamp_max_",
        "clamp_max_.Tensor",
        "clamp_min_",
        "clamp_min_.Tensor",
        "cos_",
        "detach_",
        "div_.Tensor",
        "div_.Scalar",
    ),
    *(
        "div_.Tensor_mode",
        "elu_",
        "exp_",
        "fill_.Scalar",
        "fill_.Tensor",
        "floor_",
        "hardtanh_",
        "leaky_relu_",
    ),
    *("log_", "log1p_", "masked_fill_.Scalar", "masked_fill_.Tensor", "mul_.Tensor", "mul_.Scalar", "neg_"),
    *("nan_to_num_", "reciprocal_", "relu_", "round_", "rsqrt_", "sigmoid_"),
    *("sign_", "sin_", "sqrt_", "square_", "sub_.Tensor", "sub_.Scalar", "tanh_", "tril_", "triu_"),
    # by index
    *("index_add_", "index_copy_", "index_fill_.int_Scalar", "index_put_", "scatter_.src", "scatter_.value"),
    *("scatter_add_", "scatter_reduce_.two"),
)


_NUMBERS = (int, float, torch.SymInt, torch.SymFloat, torch.SymBool)


@functools.cache
def _functional_ops() -> dict[Any, OpOverload[..., Any]]:
    """Each of them with the op that computes the same into a new tensor, which has its name without the last ``_``."""
    table = {}
    for name in _IN_PLACE:
        packet, _, overload = name.partition(".")
        written, made = (getattr(torch.ops.aten, n) for n in (packet, packet.removesuffix("_")))
        table[getattr(written, overload or "default")] = getattr(made, overload or "default")
    table[torch.ops.aten.pow_.Scalar] = torch.ops.aten.pow.Tensor_Scalar
    table[torch.ops.aten.pow_.Tensor] = torch.ops.aten.pow.Tensor_Tensor
    return table


def without_writes(graph: fx.Graph) -> bool:
    """Replace every in-place op of a graph.

    Returns:
        Whether none is left. If not, the graph is half rewritten.
    """
    memory: dict[fx.Node, set[fx.Node]] = {}
    order = {node: number for number, node in enumerate(graph.nodes)}
    for node in list(graph.nodes):
        if node.op == "call_function" and _writes(node.target):
            new = _made_anew(node, memory, order)
            if new is None:
                return False
            memory[new] = {new}
        else:
            memory[node] = shared = {node}
            for other in _may_share_memory(node):
                shared |= memory[other]
            for each in shared:
                memory[each] = shared
    return True


def _writes(target: Callable[..., Any]) -> bool:
    return isinstance(target, OpOverload) and bool(schema_of(target).is_mutable)


def _made_anew(
    node: fx.Node, memory: dict[fx.Node, set[fx.Node]], order: dict[fx.Node, int]
) -> fx.Node | None:
    """The node's op into a new tensor, which all that follows reads; None where that is not the same."""
    op, written = _functional_ops().get(node.target), node.args[0] if node.args else None
    if op is None or not isinstance(written, fx.Node):
        return None
    shared = memory[written]
    if any(each.op != "call_function" for each in shared):
        return None  # an input of the graph, or a constant
    later = order[node]
    if any(order[user] >= later for each in shared - {written} for user in each.users):
        return None
    example = _example(op, node)
    if not _is_alike(example, written.meta.get("val")):
        return None
    with node.graph.inserting_before(node):
        new = node.graph.call_function(op, node.args, node.kwargs)
    new.meta = dict(node.meta) | {"val": example}
    order[new] = later
    node.replace_all_uses_with(new)
    node.graph.erase_node(node)
    written.replace_all_uses_with(new, delete_user_cb=lambda user: order[user] > later)
    return new


def _example(op: OpOverload[..., Any], node: fx.Node) -> Any:
    args, kwargs = fx.map_arg((node.args, node.kwargs), lambda n: n.meta["val"])
    mode = fake_mode_of(args[0])
    if mode is None:
        return None
    with mode:
        return op(*args, **kwargs)


def _is_alike(new: Any, old: Any) -> bool:
    """Whether the op gives what would be written: in place it keeps the tensor's dtype."""
    return (
        isinstance(new, Tensor)
        and isinstance(old, Tensor)
        and (new.dtype, new.device, new.dim()) == (old.dtype, old.device, old.dim())
        and all(bool(a == b) for a, b in zip(new.shape, old.shape, strict=True))
    )


def _may_share_memory(node: fx.Node) -> Iterable[fx.Node]:
    """The operands in whose memory the result of a call may lie."""
    if node.op != "call_function" or node.target is operator.getitem:
        return node.all_input_nodes
    if not isinstance(node.target, OpOverload):  # a region, or arithmetic on sizes
        return () if isinstance(node.meta.get("val"), _NUMBERS) else node.all_input_nodes
    if has_composite_kernel(node.target):  # its schema may not say so: einsum, broadcast_tensors
        return node.all_input_nodes
    says_so = any(result.alias_info is not None for result in schema_of(node.target).returns)
    return node.all_input_nodes if says_so else ()
