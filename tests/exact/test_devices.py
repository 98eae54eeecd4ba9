"""A model is captured on the device of its data; what it creates lies there too.

No GPU is needed: the "meta" device has no values, but every op checks that its tensors share a device.
"""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from support.programs import model_of
from torch import Tensor, nn

import graphshard
from graphshard.capture.export import capture
from graphshard.execute.bind import bind
from graphshard.execute.run import compile_captured
from graphshard.options import Options


def creates(self: Any, x: Tensor, edge_index: Tensor) -> Tensor:
    src, dst = edge_index
    size = x.size(0)
    degree = torch.zeros(size, device=x.device, dtype=x.dtype).index_add(
        0, dst, torch.ones(dst.size(0), device=x.device, dtype=x.dtype)
    )
    position = torch.arange(size, device=x.device).to(x.dtype) / size
    messages = self.lin(x)[src] / degree.clamp(min=1)[dst].unsqueeze(-1)
    return torch.zeros(size, 6, device=x.device, dtype=x.dtype).index_add(
        0, dst, messages
    ) + position.unsqueeze(1)


def devices_of(model: nn.Module, device: str, options: Options) -> set[torch.device]:
    """The devices of everything that the compiled program makes or names."""
    edges = torch.tensor([[0, 1, 2, 2, 3], [1, 2, 0, 3, 1]])
    shard = graphshard.partition({"x": torch.rand(4, 5, dtype=torch.float64), "edge_index": edges}, 1)[0].to(
        torch.device(device)
    )
    own = copy.deepcopy(model).to(device)
    program = compile_captured(capture(own, bind(own, (shard,), {}, {}, "", {}).signature), options).program
    named = [n.kwargs["device"] for n in program.graph.nodes if n.kwargs.get("device") is not None]
    values = [v for n in program.graph.nodes if isinstance(v := n.meta.get("val"), Tensor)]
    made = [v.device for v in values if v.is_floating_point()]  # ids of nodes come with the shard
    assert named
    return {torch.device(d) for d in (*named, *made)}


@pytest.mark.parametrize("options", [Options(), Options.none()], ids=["faster", "plain"])
@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_a_program_makes_its_tensors_where_the_data_is(device: str, options: Options) -> None:
    assert devices_of(model_of(creates), device, options) == {torch.device(device)}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
def test_a_gpu_gives_what_the_module_gives() -> None:
    model = model_of(creates).cuda()
    edges = torch.randint(0, 50, (2, 300))
    graph = {"x": torch.rand(50, 5, dtype=torch.float64), "edge_index": edges}
    shard = graphshard.partition(graph, 1)[0].to(torch.device("cuda"))
    torch.testing.assert_close(graphshard.distribute(model)(shard), model(shard.x, shard.edge_index))
