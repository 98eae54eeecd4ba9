"""What ``graphshard.private.torch_ops`` and ``pytree`` rely on."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from graphshard.private import pytree, torch_ops

pytestmark = pytest.mark.versions


def test_ops_have_the_classes_of_torch_ops() -> None:
    """``torch._ops`` names the classes of ``torch.ops.aten.relu.default``, of its packet and of a region's op."""
    assert isinstance(torch.ops.aten.relu.default, torch_ops.OpOverload)
    assert isinstance(torch.ops.aten.relu, torch_ops.OpOverloadPacket)
    assert isinstance(torch.ops.higher_order.wrap_with_set_grad_enabled, torch_ops.HigherOrderOperator)
    assert not isinstance(torch.ops.aten.relu.default, torch_ops.HigherOrderOperator)


def test_an_overload_has_a_schema() -> None:
    """``OpOverload._schema`` has a name, arguments with defaults, returns with types, and says what is written to."""
    schema = torch_ops.schema_of(torch.ops.aten.softmax.int)
    assert schema.name == "aten::softmax"
    assert [argument.name for argument in schema.arguments] == ["self", "dim", "dtype"]
    assert schema.arguments[2].has_default_value()
    assert schema.arguments[2].default_value is None
    assert isinstance(schema.returns[0].type, torch.TensorType)
    assert not schema.is_mutable
    assert torch_ops.schema_of(torch.ops.aten.relu_.default).is_mutable


def test_a_custom_op_knows_its_overload() -> None:
    """``torch.library.custom_op`` gives a ``CustomOpDef`` whose ``_opoverload`` is what a graph calls."""
    with torch.library._scoped_library("graphshard_test", "FRAGMENT"):

        @torch.library.custom_op("graphshard_test::twice", mutates_args=())
        def twice(x: Tensor) -> Tensor:
            return x * 2

        assert isinstance(twice, torch_ops.CustomOpDef)
        assert torch_ops.overload_of(twice) is torch.ops.graphshard_test.twice.default


def test_containers_are_flattened_in_order_with_their_paths() -> None:
    """``torch.utils._pytree`` flattens dicts in the order of their keys' insertion, and names each leaf's path."""
    value = {"b": [1, (2, None)], "a": 3}
    leaves, structure = pytree.tree_flatten(value)
    assert leaves == pytree.tree_leaves(value) == [1, 2, None, 3]
    assert isinstance(structure, pytree.TreeSpec)
    assert pytree.tree_unflatten(leaves, structure) == value
    assert pytree.tree_map(str, [1, (2,)]) == ["1", ("2",)]
    assert pytree.tree_flatten([1, [2]], is_leaf=lambda v: v == [2])[0] == [1, [2]]
    paths = [path for path, _ in pytree.tree_flatten_with_path(value)[0]]
    assert [pytree.keystr(path) for path in paths] == ["['b'][0]", "['b'][1][0]", "['b'][1][1]", "['a']"]
    assert isinstance(paths[0][0], pytree.MappingKey)
    assert paths[0][0].key == "b"
    assert getattr(paths[0][1], "idx", None) == 0
