"""Compare a model on simulated ranks with the same model on one machine.

Every rank has its own deep copy of the model (its own leaves), and seeds its loss with 1.0, as real ranks do.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from support.local import LocalShard, local
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from graphshard import api
from graphshard.border import totals as reductions
from graphshard.check.fixed_random import without_dropout
from graphshard.ir.placement import Edges, Owned, Placed
from graphshard.ir.program import Program
from graphshard.options import Options
from graphshard.partitioning.partition import partition
from graphshard.shard.shard import Shard
from graphshard.testing import run_ranks

torch.set_num_threads(1)
TOLERANCE = 1e-9
SEED = 11

ROLES = {
    "x": "node",
    "z": "node",
    "batch": "node",
    "y": "node",
    "target": "node",
    "mask": "node",
    "mask2": "node",
    "edge_index": "edge_index",
    "edge_weight": "edge",
    "edge_attr": "edge",
    "edge_y": "edge",
    "adj": "adjacency",
    "class_weight": "replicated",
    "scale": "replicated",
}
"""The names that the tests give to tensors; every model's forward takes some of them."""


@dataclass
class Result:
    """What is compared: ``what -> tensor`` on the whole graph, in the original order."""

    values: dict[str, Tensor | None] = field(default_factory=dict)


class Compilations(dict[Any, Any]):
    """Compiled programs, shared by all copies of one model (a program does not depend on the instance)."""


@dataclass(frozen=True)
class Setting:
    """How the distributed model runs: which passes, and whether its inputs are constants of the graph."""

    options: Options = Options()  # noqa: RUF009 (frozen)
    fixed_inputs: bool = False


Loss = Callable[[Any, Any, Callable[..., Tensor], Callable[..., Tensor]], Tensor]
"""``loss(outputs, graph, mean, sum)``: outside of forward; ``graph`` is the shard or the whole graph."""


class Whole:
    """The whole graph with a shard's interface: ``graph.y``."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self.__dict__.update(tensors)


def float_inputs(tensors: Mapping[str, Tensor]) -> list[str]:
    """The names of the strided floating-point tensors."""
    return [n for n, t in tensors.items() if t.layout is torch.strided and t.is_floating_point()]


def arguments_of(model: nn.Module, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Forward's arguments by name."""
    import inspect

    return {n: tensors[n] for n in inspect.signature(model.forward).parameters if n in tensors}


def weights_for(rows: int, like: Tensor, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (
        torch.rand((rows, *like.shape[1:]), generator=generator, dtype=torch.float64).sub(0.3).to(like.dtype)
    )


def single_machine(
    model: nn.Module,
    tensors: Mapping[str, Tensor],
    kinds: list[str],
    loss: Loss | None,
    backwards: int = 1,
    setting: Setting | None = None,
) -> dict[str, Tensor | None]:
    """The reference: the user's module, run eagerly on the whole graph. ``kinds``: one for each output."""
    model = copy.deepcopy(model)
    tensors = {n: t.clone() for n, t in tensors.items()}
    for name in float_inputs(tensors):
        tensors[name].requires_grad_(not (setting or Setting()).fixed_inputs)
    with without_dropout():
        for _ in range(backwards):
            out = model(**arguments_of(model, tensors))
            if loss is not None:
                total = loss(out, Whole(tensors), torch.mean, torch.sum)
            else:
                terms = []
                for i, leaf in enumerate(_floats(out)):
                    if leaf.requires_grad:
                        rows = leaf.size(0) if leaf.dim() and kinds[i] != "whole" else 1
                        w = weights_for(rows, leaf if kinds[i] != "whole" else leaf.unsqueeze(0), i)
                        terms.append((leaf * (w if kinds[i] != "whole" else w[0])).sum().double())
                total = torch.stack(terms).sum() if terms else None  # type: ignore[assignment]
            if total is not None and total.requires_grad:
                total.backward()
    found: dict[str, Tensor | None] = {f"output {i}": t.detach() for i, t in enumerate(_tensors(out))}
    found["loss"] = None if total is None else total.detach()
    found |= {f"gradient of {n}": p.grad for n, p in model.named_parameters()}
    found |= {f"buffer {n}": b for n, b in model.named_buffers()}
    return found | {f"gradient of input {n}": tensors[n].grad for n in float_inputs(tensors)}


def distributed(
    model: nn.Module,
    tensors: Mapping[str, Tensor],
    assignment: Tensor,
    parts: int,
    compilations: Compilations,
    loss: Loss | None,
    backwards: int = 1,
    setting: Setting | None = None,
) -> tuple[dict[str, Tensor | None], list[str]]:
    """The model on ``parts`` simulated ranks, gathered to the original order; and the kinds of its outputs."""
    setting = setting or Setting()
    roles = {n: ROLES[n] for n in tensors}
    shards = partition(dict(tensors), parts, method=assignment, roles=roles, num_nodes=assignment.numel())
    models = [copy.deepcopy(model) for _ in range(parts)]
    kinds = _compile(model, tensors, assignment, roles, compilations, setting)

    def rank_program(rank: int, _name: str, group: Any) -> dict[str, Tensor | None]:
        shard, own = shards[rank], models[rank]
        before, keys = list(own.parameters()), list(own.state_dict())
        for name in float_inputs(shard.tensors):
            shard.tensors[name].requires_grad_(not setting.fixed_inputs)
        module = api.distribute(own, group=group, seed=SEED, options=setting.options)
        module._compiled = compilations
        for _ in range(backwards):
            out = local(module(shard))
            if loss is not None:
                total: Tensor | None = loss(
                    out,
                    LocalShard(shard),
                    lambda v: reductions.mean(v, group),
                    lambda v: reductions.sum(v, group),
                )
            else:
                total = _weighted(out, kinds, shard, group)
            if total is not None and total.requires_grad:
                total.backward()
        assert all(a is b for a, b in zip(before, module.parameters(), strict=True))
        assert keys == list(module.state_dict())
        found: dict[str, Tensor | None] = {f"output {i}": t.detach() for i, t in enumerate(_tensors(out))}
        found["loss"] = None if total is None else total.detach()
        found |= {f"gradient of {n}": p.grad for n, p in own.named_parameters()}
        found |= {f"buffer {n}": b for n, b in own.named_buffers()}
        return found | {
            f"gradient of input {n}": local(shard.tensors[n].grad) for n in float_inputs(shard.tensors)
        }

    ranks = run_ranks(parts, rank_program)
    merged: dict[str, Tensor | None] = {}
    number = 0
    for what in ranks[0]:
        values = [r[what] for r in ranks]
        if what.startswith("output "):
            merged[what] = _merge(values, kinds[number], shards)
            number += 1
        elif what.startswith("gradient of input "):
            role = ROLES[what.removeprefix("gradient of input ")]
            merged[what] = _merge(values, role if role != "replicated" else "whole", shards)
        else:
            merged[what] = _same_on_all(what, values)
    return merged, kinds


def _compile(
    model: nn.Module,
    tensors: Mapping[str, Tensor],
    assignment: Tensor,
    roles: Mapping[str, str],
    compilations: Compilations,
    setting: Setting,
) -> list[str]:
    """Compile once, for all ranks; the kind of each tensor that forward returns."""
    module = api.distribute(copy.deepcopy(model), options=setting.options)
    module._compiled = compilations
    whole = partition(
        dict(tensors), 1, method=torch.zeros_like(assignment), roles=roles, num_nodes=assignment.numel()
    )
    for name in float_inputs(whole[0].tensors):
        whole[0].tensors[name].requires_grad_(not setting.fixed_inputs)
    return output_kinds(module.stages(whole[0])[-1].program)


def output_kinds(program: Program) -> list[str]:
    """ "node", "edge" or "whole" for each tensor that forward returns, by its placement."""
    kinds = []
    for value, spec in zip(program.output_node().args[0], program.outputs, strict=True):  # type: ignore[arg-type]
        if spec.kind == "user":
            placed = value.meta["placement"]
            assert isinstance(placed, Placed)
            assert placed.sharded in ((), (0,)), "tests compare rows in dim 0"
            rows = placed.dims[0] if placed.sharded else None
            kinds.append({None: "whole", Owned(): "node", Edges(): "edge"}[rows])  # type: ignore[index]
    return kinds


def _tensors(out: Any) -> list[Tensor]:
    return [leaf for leaf in pytree.tree_leaves(out) if isinstance(leaf, Tensor)]


def _floats(out: Any) -> list[Tensor]:
    return [t for t in _tensors(out) if t.is_floating_point()]


def _weighted(out: Any, kinds: list[str], shard: Shard, group: Any) -> Tensor | None:
    """A sum with another weight for each element; a replicated output is used as a loss is."""
    floats = [k for k, t in zip(kinds, _tensors(out), strict=True) if t.is_floating_point()]
    terms = []
    for i, leaf in enumerate(_floats(out)):
        if not leaf.requires_grad:
            continue
        if floats[i] == "whole":
            terms.append((leaf * weights_for(1, leaf.unsqueeze(0), i)[0]).sum().double())
        else:
            rows = shard.num_nodes if floats[i] == "node" else shard.num_edges
            w = local(shard.scatter(weights_for(rows, leaf, i), floats[i]))
            terms.append(reductions.sum(leaf * w, group).double())
    return torch.stack(terms).sum() if terms else None


def _merge(values: list[Tensor | None], kind: str, shards: Any) -> Tensor | None:
    if kind == "whole":
        return _same_on_all("a replicated value", values)
    if all(v is None for v in values):
        return None
    assert all(v is not None for v in values), "a gradient on some ranks only"
    ids = [s.node_ids[: s.num_owned] if kind == "node" else s.edge_ids for s in shards]
    rows = torch.cat(values)  # type: ignore[arg-type]
    merged = torch.empty_like(rows)
    merged[torch.cat(ids)] = rows
    return merged


def _same_on_all(what: str, values: list[Tensor | None]) -> Tensor | None:
    first = values[0]
    for other in values[1:]:
        assert (first is None) == (other is None), f"{what} exists on some ranks only"
        if first is not None and other is not None:
            assert torch.equal(first.isnan(), other.isnan()), f"{what} is NaN on some ranks only"
            difference = (first.detach().double().nan_to_num() - other.detach().double().nan_to_num()).abs()
            assert not difference.numel() or float(difference.max()) <= 1e-12 * _scale(first), (
                f"{what} differs between ranks"
            )
    return first


def _scale(t: Tensor) -> float:
    t = t.detach().double().nan_to_num(0, 0, 0).abs()
    return max(float(t.max()), 1e-30) if t.numel() else 1.0


def proves_something(values: Iterable[Tensor | None]) -> bool:
    """Whether some number of a reference is finite, if it has numbers at all: NaN equals NaN."""
    numbers = [t for t in values if t is not None and t.is_floating_point() and t.numel()]
    return not numbers or any(bool(t.isfinite().any()) for t in numbers)


def assert_equal(
    got: dict[str, Tensor | None],
    expected: dict[str, Tensor | None],
    tolerance: float,
    least: float = 0.0,
) -> None:
    """Every value equal to ``tolerance`` relative to its largest entry, with NaN in the same places."""
    assert list(got) == list(expected)
    assert proves_something(expected.values()), "the reference has no finite number: nothing is compared"
    magnitude = max(
        (_scale(t) for n, t in expected.items() if t is not None and "gradient" in n), default=1.0
    )
    for what, wanted in expected.items():
        value, reference = got[what], wanted
        assert (value is None) == (reference is None), f"{what}: {value} instead of {reference}"
        if value is None or reference is None:
            continue
        value, reference = value.detach(), reference.detach()
        assert value.shape == reference.shape, (
            f"{what}: {list(value.shape)} instead of {list(reference.shape)}"
        )
        assert value.dtype == reference.dtype, f"{what}: {value.dtype} instead of {reference.dtype}"
        if not reference.is_floating_point():
            assert torch.equal(value, reference), f"{what} differs"
            continue
        assert torch.equal(value.isnan(), reference.isnan()), f"{what}: NaN in other places"
        assert torch.equal(value.isinf(), reference.isinf()), f"{what}: infinite in other places"
        difference = (value.double().nan_to_num(0, 0, 0) - reference.double().nan_to_num(0, 0, 0)).abs()
        worst = float(difference.max()) if difference.numel() else 0.0
        # A gradient that is 0 but for rounding is compared with the size of the other gradients.
        floor = max(least, 1e-3 * magnitude if "gradient" in what else 0.0)
        loose = 1e5 if reference.dtype == torch.float32 else 1.0
        assert worst <= loose * tolerance * max(_scale(reference), floor), f"{what} is off by {worst}"


def check_equal(
    model: nn.Module,
    tensors: Mapping[str, Tensor],
    assignment: Tensor,
    parts: int,
    compilations: Compilations | None = None,
    *,
    loss: Loss | None = None,
    backwards: int = 1,
    one_rank: bool = False,
    tolerance: float = TOLERANCE,
    least: float = 0.0,
    setting: Setting | None = None,
) -> None:
    """Assert that ``parts`` ranks compute what one machine does.

    Args:
        model: stays as it is: every run works on a copy.
        tensors: the whole graph, under the names of ``ROLES``.
        assignment: the part of each node.
        parts: number of ranks; more than there are nodes is fine.
        compilations: shared between calls with the same model, to compile once.
        loss: computed outside of forward; by default a weighted sum of all outputs.
        backwards: forwards and backwards before gradients are compared.
        one_rank: compare with the program on one rank instead of the eager module: with dropout.
        tolerance: relative to the largest entry of each tensor.
        setting: which passes run, and whether inputs need gradients; by default all do.
        least: or to this size where a tensor's entries are smaller: it may be 0 on paper.
    """
    compilations = Compilations() if compilations is None else compilations
    state = {n: t.clone() for n, t in model.state_dict().items()}
    got, kinds = distributed(model, tensors, assignment, parts, compilations, loss, backwards, setting)
    if one_rank:
        whole = torch.zeros_like(assignment)
        expected, _ = distributed(model, tensors, whole, 1, compilations, loss, backwards, setting)
    else:
        floats = [k for k, t in zip(kinds, _kept_outputs(got), strict=True) if t.is_floating_point()]
        expected = single_machine(model, tensors, floats, loss, backwards, setting)
    assert_equal(got, expected, tolerance, least)
    for name, value in model.state_dict().items():
        assert torch.equal(value, state[name]), f"{name} of the user's module changed"


def _kept_outputs(found: dict[str, Tensor | None]) -> list[Tensor]:
    return [t for n, t in found.items() if n.startswith("output ") and t is not None]
