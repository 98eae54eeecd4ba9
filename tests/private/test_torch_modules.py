"""What ``graphshard.private.torch_modules``, ``torch_tensors`` and ``torch_serialization`` rely on."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from graphshard.private import torch_modules
from graphshard.private.torch_serialization import unsafe_class
from graphshard.private.torch_tensors import entries_of, version_of

pytestmark = pytest.mark.versions


def test_a_module_keeps_its_state_in_four_dicts() -> None:
    """Two modules that share ``_parameters``, ``_buffers``, ``_modules`` and the names of buffers are one state."""
    model, other = nn.Sequential(nn.Linear(2, 2)), nn.Module()
    model.register_buffer("kept", torch.ones(1))
    model.register_buffer("left_out", torch.ones(1), persistent=False)
    torch_modules.share_state(other, model)
    assert other.state_dict().keys() == model.state_dict().keys() == {"kept", "0.weight", "0.bias"}
    other.to(torch.float64)
    assert {p.dtype for p in model.parameters()} == {torch.float64}
    assert model.get_buffer("left_out").dtype == torch.float64
    model.register_parameter("new", nn.Parameter(torch.ones(1)))
    assert "new" in dict(other.named_parameters())


def test_entries_that_are_none_and_shared_submodules_are_in_the_dicts() -> None:
    """``nn.Module._parameters`` has what is None, ``_modules`` both names of one submodule."""
    linear, model = nn.Linear(2, 2, bias=False), nn.Module()
    model.a = model.b = linear
    model.register_module("none", None)
    assert torch_modules.parameters_of(linear) == {"weight": linear.weight, "bias": None}
    assert torch_modules.children_of(model) == {"a": linear, "b": linear, "none": None}


def test_a_shallow_copy_takes_other_parameters() -> None:
    """A copied module reads ``_parameters`` and ``_modules`` of its own; the first one stays as it is."""
    linear, weight = nn.Linear(2, 2, bias=False), nn.Parameter(torch.zeros(2, 2))
    twin = torch_modules.with_state(linear, {"weight": weight, "bias": None}, {}, {})
    assert twin.get_parameter("weight") is weight
    assert not twin(torch.ones(1, 2)).any()
    assert linear.weight is not weight


def test_forward_hooks_and_state_stand_in_dicts() -> None:
    """``_forward_pre_hooks`` and ``_forward_hooks`` hold what was registered; ``_parameters``, ``_buffers`` tensors."""
    norm = nn.BatchNorm1d(2)
    assert torch_modules.forward_hooks(norm) == {"forward_pre_hook": {}, "forward_hook": {}}
    hook, pre = (lambda *_: None), (lambda *_: None)
    norm.register_forward_hook(hook)
    norm.register_forward_pre_hook(pre)
    found = torch_modules.forward_hooks(norm)
    assert [list(hooks.values()) for hooks in found.values()] == [[pre], [hook]]
    parameters, buffers = torch_modules.state_of(norm)
    assert set(parameters) == {"weight", "bias"}
    assert set(buffers) == {"running_mean", "running_var", "num_batches_tracked"}
    assert {"_parameters", "_modules", "_forward_hooks"} <= torch_modules.BOOKKEEPING
    assert "training" not in torch_modules.BOOKKEEPING


def test_backward_hooks_stand_in_two_dicts() -> None:
    """``_backward_hooks`` and ``_backward_pre_hooks`` hold what was registered."""
    for name in ("register_full_backward_hook", "register_full_backward_pre_hook"):
        linear = nn.Linear(2, 2)
        assert not torch_modules.has_backward_hooks(linear)
        getattr(linear, name)(lambda *_: None)
        assert torch_modules.has_backward_hooks(linear), name


def test_batch_norms_share_a_class_and_check_the_number_of_dims() -> None:
    """``_BatchNorm`` is the class of all, with a ``forward`` of its own, and has ``_check_input_dim``."""
    assert "forward" in vars(torch_modules.BatchNorm)
    for norm in (nn.BatchNorm1d(2), nn.BatchNorm2d(2)):
        assert isinstance(norm, torch_modules.BatchNorm)
        assert "forward" not in vars(type(norm))
    torch_modules.check_input_dim(nn.BatchNorm1d(2), torch.ones(3, 2))
    with pytest.raises(ValueError, match="expected 2D or 3D"):
        torch_modules.check_input_dim(nn.BatchNorm1d(2), torch.ones(2))


def test_a_batch_of_one_row_is_refused_by_a_function_that_can_be_replaced() -> None:
    """``F.batch_norm`` calls ``F._verify_batch_size`` in training mode."""
    one = torch.ones(1, 2)
    with torch_modules.without_batch_size_check():
        F.batch_norm(one, None, None, training=True)
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        F.batch_norm(one, None, None, training=True)


def test_a_tensor_counts_what_is_written_to_it() -> None:
    """``Tensor._version`` goes up with each write, by way of a view too; an inference tensor has none."""
    tensor = torch.zeros(2)
    first = version_of(tensor)
    tensor.add_(1)
    second = version_of(tensor)
    tensor[:1].add_(1)
    assert first < second < version_of(tensor)
    with torch.inference_mode():
        assert version_of(torch.zeros(2)) == 0


def test_a_sparse_tensor_shows_its_entries_uncoalesced() -> None:
    """``Tensor._indices`` and ``_values`` have doubled entries as they are."""
    sparse = torch.sparse_coo_tensor(
        torch.tensor([[1, 1]]), torch.tensor([2.0, 3.0]), (3,), is_coalesced=False
    )
    indices, values = entries_of(sparse)
    assert indices.tolist() == [[1, 1]]
    assert values.tolist() == [2.0, 3.0]


class Unsafe:
    pass


def test_torch_load_names_the_class_that_it_refuses(tmp_path: Path) -> None:
    """The message of ``torch.load(weights_only=True)`` has the words ``Unsupported global: GLOBAL`` and the name."""
    file = tmp_path / "unsafe.pt"
    torch.save({"x": Unsafe()}, file)
    with pytest.raises(pickle.UnpicklingError) as caught:
        torch.load(file, weights_only=True)
    assert unsafe_class(caught.value) == f"{Unsafe.__module__}.Unsafe", f"torch.load says: {caught.value}"
    assert unsafe_class(pickle.UnpicklingError("pickle data was truncated")) is None


def test_a_flop_counter_is_told_of_modules_by_hooks_of_all() -> None:
    """``ModuleTracker``'s hooks are its methods, in two global dicts; what else is there stays."""
    seen: list[str] = []
    handle = nn.modules.module.register_module_forward_hook(lambda *_: seen.append("other"))
    try:
        with FlopCounterMode(display=False) as counter:
            with torch_modules.without_module_trackers():
                nn.Linear(2, 2)(torch.ones(1, 2))
            assert seen == ["other"]
            assert set(counter.get_flop_counts()) == {"Global"}
            nn.Linear(2, 2)(torch.ones(1, 2))
        assert "Linear" in counter.get_flop_counts()
    finally:
        handle.remove()


def test_wrappers_are_known_by_their_classes() -> None:
    """``OptimizedModule`` and FSDP's classes stand in the modules that define them."""
    from torch.distributed import fsdp

    linear = nn.Linear(2, 2)
    compiled: Any = torch.compile(linear, backend="eager")
    assert torch_modules.is_compiled(compiled)
    assert not torch_modules.is_compiled(linear)
    assert not torch_modules.is_fully_sharded(linear)
    assert issubclass(type("Sharded", (fsdp.FSDPModule, nn.Linear), {}), fsdp.FSDPModule)
    assert hasattr(fsdp, "FullyShardedDataParallel")
