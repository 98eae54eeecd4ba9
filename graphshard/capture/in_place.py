"""In-place ops as the ops that make a new tensor, where nothing else sees that the old one is written to.

An op that writes into a tensor is the same as one that makes another, if whoever reads the tensor later reads the new
one, and if nothing that shares memory with it is read later: no view of it, no base. That is plain from the schemas of
the ops, and holds for nearly all that models write: sums by index into zeros, ``relu_`` of a fresh result, running
statistics. Anything else is left to torch's own functionalization.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Collection, Iterable
from typing import Any

import torch
from torch import Tensor, fx

from graphshard.ir.program import fake_mode
from graphshard.private.torch_ops import OpOverload, has_composite_kernel, schema_of

aten = torch.ops.aten

_IN_PLACE = (
    # elementwise
    *("abs_", "add_.Tensor", "add_.Scalar", "addcdiv_", "addcmul_", "ceil_", "clamp_", "clamp_.Tensor"),
    *("clamp_max_", "clamp_max_.Tensor", "clamp_min_", "clamp_min_.Tensor", "cos_", "div_.Tensor"),
    *("div_.Scalar", "div_.Tensor_mode", "elu_", "exp_", "fill_.Scalar", "fill_.Tensor", "floor_"),
    *("hardtanh_", "leaky_relu_", "log_", "log1p_", "masked_fill_.Scalar", "masked_fill_.Tensor"),
    *("mul_.Tensor", "mul_.Scalar", "nan_to_num_", "neg_", "reciprocal_", "relu_", "round_", "rsqrt_"),
    *("sigmoid_", "sign_", "sin_", "sqrt_", "square_", "sub_.Tensor", "sub_.Scalar", "tanh_"),
    *("tril_", "triu_"),
    # by index
    *("index_add_", "index_copy_", "index_fill_.int_Scalar", "index_put_", "scatter_.src", "scatter_.value"),
    *("scatter_add_", "scatter_reduce_.two"),
)

_COMPOSITE_BUT_NEW = {
    *(aten.linear.default, aten.matmul.default, aten.conv1d.default, aten.conv2d.default),
    *(aten.layer_norm.default, aten.group_norm.default, aten.softmax.int, aten.log_softmax.int),
}
"""Composite ops that always make a new tensor. Of others not even their schemas tell: ``einsum`` may return a view."""

_NUMBERS = (int, float, torch.SymInt, torch.SymFloat, torch.SymBool)


@functools.cache
def _functional_ops() -> dict[Any, OpOverload[..., Any]]:
    """Each of them with the op that computes the same into a new tensor, which has its name without the last ``_``."""
    table = {}
    for name in _IN_PLACE:
        packet, _, overload = name.partition(".")
        written, made = (getattr(aten, n) for n in (packet, packet.removesuffix("_")))
        table[getattr(written, overload or "default")] = getattr(made, overload or "default")
    table[aten.pow_.Scalar] = aten.pow.Tensor_Scalar
    table[aten.pow_.Tensor] = aten.pow.Tensor_Tensor
    return table


def without_writes(graph: fx.Graph, buffers: Collection[str]) -> dict[str, fx.Node] | None:
    """Replace every in-place op of a graph.

    Args:
        graph: of ops whose schemas say what they write.
        buffers: the names of the inputs that may be written to.

    Returns:
        The last values of the buffers that are written, by their names. None where an in-place op is left: the graph
        is then half rewritten.
    """
    writes = _Writes(graph, frozenset(buffers))
    for node in list(graph.nodes):
        if node.op != "call_function" or not _writes(node.target):
            writes.reached(node)
        elif not writes.replaced(node):
            return None
    return writes.last


def _writes(target: Any) -> bool:
    return isinstance(target, OpOverload) and bool(schema_of(target).is_mutable)


class _Writes:
    """The in-place ops of a graph, from its first node to its last.

    Attributes:
        last: the values of the buffers that are written, so far.
    """

    def __init__(self, graph: fx.Graph, buffers: frozenset[str]) -> None:
        self.last: dict[str, fx.Node] = {}
        self._buffers = buffers
        self._order = {node: number for number, node in enumerate(graph.nodes)}
        self._memory: dict[fx.Node, set[fx.Node]] = {}
        self._copied: set[fx.Node] = set()  # a tensor that took their values reads them

    def reached(self, node: fx.Node) -> None:
        """Note what the result of a call may share memory with."""
        self._memory[node] = shared = {node}
        for other in _may_share_memory(node):
            shared |= self._memory[other]
        for each in shared:
            self._memory[each] = shared

    def replaced(self, node: fx.Node) -> bool:
        """Whether the node's op was replaced by one into a new tensor, which all that follows reads."""
        written = node.args[0] if node.args else None
        if not isinstance(written, fx.Node) or not self._is_seen_by_nobody_else(written, self._order[node]):
            return False
        new = self._values(node)
        if new is None or not _is_alike(new.meta.get("val"), written.meta.get("val")):
            return False
        later = self._order[node]
        node.replace_all_uses_with(new)
        node.graph.erase_node(node)
        written.replace_all_uses_with(new, delete_user_cb=lambda user: self._order[user] > later)
        names = [written.name] if written.op == "placeholder" else []
        names += [name for name, value in self.last.items() if value is written]
        self.last.update(dict.fromkeys(names, new))
        return True

    def _is_seen_by_nobody_else(self, written: fx.Node, when: int) -> bool:
        shared = self._memory[written]
        if not shared.isdisjoint(self._copied):
            return False
        if any(each.op != "call_function" and not self._is_written_buffer(each, written) for each in shared):
            return False  # a constant, or an input whose owner sees it
        return all(self._order[user] < when for each in shared - {written} for user in each.users)

    def _is_written_buffer(self, node: fx.Node, written: fx.Node) -> bool:
        return node is written and node.op == "placeholder" and node.name in self._buffers

    def _values(self, node: fx.Node) -> fx.Node | None:
        """What is in a tensor when it has been written to; None of an op without a functional form."""
        if node.target is aten.copy_.default:
            source = node.args[1]
            if not isinstance(source, fx.Node):
                return None
            self._copied.add(source)
            return source
        op = _functional_ops().get(node.target)
        example = None if op is None else _example(op, node)
        if op is None or example is None:
            return None
        with node.graph.inserting_before(node):
            new = node.graph.call_function(op, node.args, node.kwargs)
        new.meta = dict(node.meta) | {"val": example}
        self._order[new] = self._order[node]
        self._memory[new] = {new}
        return new


def _example(op: OpOverload[..., Any], node: fx.Node) -> Any:
    args, kwargs = fx.map_arg((node.args, node.kwargs), lambda n: n.meta["val"])
    mode = fake_mode(args)
    if mode is None:
        return None
    with mode:
        return op(*args, **kwargs)


def _is_alike(new: Any, old: Any) -> bool:
    """Whether the op gives what would be written: in place a tensor keeps its dtype and its shape."""
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
    if has_composite_kernel(node.target):
        return () if node.target in _COMPOSITE_BUT_NEW else node.all_input_nodes
    says_so = any(result.alias_info is not None for result in schema_of(node.target).returns)
    return node.all_input_nodes if says_so else ()
