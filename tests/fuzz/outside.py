"""Random scripts around a model: what they compute with a shard's tensors equals one machine's, or is refused.

::

    v0 = out * d.y.unsqueeze(-1)
    v1 = v0[d.mask]
    v2 = F.cross_entropy(v1, d.y[d.mask], weight=W, reduction="sum")
    v3 = torch.autograd.grad(v2, d.x, create_graph=True)[0]

Every value is compared, and the gradients of a sum of them all.
"""

from __future__ import annotations

import copy
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from hypothesis import strategies as st
from support.local import local
from torch import Tensor, nn

import graphshard
from fuzz.check import EXACT, FAILED, INVALID, REFUSED, Verdict
from graphshard import PlacedTensor
from graphshard.testing import run_ranks
from graphshard.tools.zoo.run import first_sentence, kind_of

WIDTH, CLASSES = 3, 3
F64 = torch.float64


class Net(nn.Module):
    """One aggregation, and a head that a script may call by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.lin, self.head = nn.Linear(4, WIDTH, dtype=F64), nn.Linear(WIDTH, WIDTH, dtype=F64)
        self.scale = nn.Parameter(torch.tensor(0.7, dtype=F64))

    def forward(self, x: Tensor, edge_index: Tensor) -> tuple[Tensor, Tensor]:
        h = self.lin(x)
        h = h.index_add(0, edge_index[1], h[edge_index[0]].tanh())
        return h, h.square().mean(0)


@dataclass(frozen=True)
class Value:
    """What the generator knows of a variable: whose rows, how many columns (0: none), and of what kind."""

    name: str
    rows: str
    columns: int
    kind: str = "float"


NODE, EDGE, PAIR, WHOLE = "node", "edge", "pair", ""
GIVEN = (
    Value("out", NODE, WIDTH),
    Value("pooled", WHOLE, WIDTH),
    Value("d.y", NODE, 0, "label"),
    Value("d.target", NODE, WIDTH),
    Value("d.mask", NODE, 0, "bool"),
    Value("d.edge_value", EDGE, 0),
    Value("d.pair_value", PAIR, 0),
)
_UNARY = (
    "{}.tanh()",
    "{}.sigmoid() * 2",
    "F.softplus({})",
    "-{}",
    "{} * net.scale",
    "{}.clone()",
    "{}.abs().sqrt()",
)
_UNARY_WIDE = (
    "{}.softmax(-1)",
    "F.normalize({}, dim=-1)",
    "net.head({})",
    "{}.flip(-1)",
    "{}.view({}.size(0), -1)",
)
_NARROW = ("{}.sum(-1)", "{}.mean(-1)", "{}[:, 0]", "{}.norm(dim=-1)", "{}.max(dim=-1).values", "{}.std(-1)")
_BINARY = ("{} + {}", "{} * {}", "torch.maximum({}, {})", "{} - 0.5 * {}", "torch.where({} > 0.1, {}, 0.3)")
_REDUCED = (
    "{}.mean()",
    "{}.sum()",
    "{}.square().mean()",
    "{}.norm()",
    "graphshard.mean({})",
    "graphshard.sum({})",
)
_REDUCED_WIDE = ("{}.mean(0)", "{}.sum(0)", "{}.var(0)", "{}.amax(0)", "{}.t() @ {}")
_BOOL = ("{} > 0.1", "{} <= 0.4", "({} * 3).sin() > 0")
_PAIRED = (
    "F.mse_loss({}, {}, reduction={r!r})",
    "F.l1_loss({}, {}, reduction={r!r})",
    "F.smooth_l1_loss({}, {})",
)
_CLASSED = (
    "F.cross_entropy({}, {}, reduction={r!r})",
    "F.cross_entropy({}, {}, weight=W, reduction={r!r})",
    "F.cross_entropy({}, {}, ignore_index=1, label_smoothing=0.1)",
    "F.nll_loss({}.log_softmax(-1), {}, weight=W)",
    "F.multi_margin_loss({}, {})",
)


@dataclass(frozen=True)
class FuzzedScript:
    """Lines, and the names that they leave."""

    lines: tuple[str, ...]
    values: tuple[Value, ...]

    @property
    def source(self) -> str:
        body = "".join(f"    {line}\n" for line in self.lines)
        names = ", ".join(v.name for v in self.values)
        return f"def script(d, net, out, pooled):\n{body}    return [{names}]\n"


@st.composite
def fuzzed_scripts(draw: st.DrawFn) -> FuzzedScript:
    """Some lines, each of a random function of earlier values that fit it."""
    known, lines, made = list(GIVEN), list[str](), list[Value]()
    for number in range(draw(st.integers(1, 7))):
        makers = [make for make in MAKERS if make(draw, known, number, False) is not None]
        found = draw(st.sampled_from(makers))(draw, known, number, True)
        if found is None:  # what was drawn for the first argument leaves none for the second
            continue
        line, value = found
        lines.append(line)
        made.append(value)
        known.append(value)
    return FuzzedScript(tuple(lines), tuple(made))


Made = tuple[str, Value] | None


def _pick(draw: Any, known: list[Value], fits: Callable[[Value], bool], really: bool) -> Value | None:
    found = [v for v in known if fits(v)]
    if not found:
        return None
    return draw(st.sampled_from(found)) if really else found[-1]


def _is_rows(v: Value) -> bool:
    return v.rows != WHOLE and v.kind == "float"


def _unary(draw: Any, known: list[Value], number: int, really: bool) -> Made:
    v = _pick(draw, known, _is_rows, really)
    if v is None:
        return None
    wide = v.columns == WIDTH
    form = draw(st.sampled_from(_UNARY + (_UNARY_WIDE if wide else ()))) if really else _UNARY[0]
    return f"v{number} = {form.replace('{}', v.name)}", Value(f"v{number}", v.rows, v.columns)


def _narrow(draw: Any, known: list[Value], number: int, really: bool) -> Made:
    v = _pick(draw, known, lambda v: _is_rows(v) and v.columns == WIDTH, really)
    if v is None:
        return None
    form = draw(st.sampled_from(_NARROW)) if really else _NARROW[0]
    return f"v{number} = {form.format(v.name)}", Value(f"v{number}", v.rows, 0)


def _binary(draw: Any, known: list[Value], number: int, really: bool) -> Made:
    a = _pick(draw, known, _is_rows, really)
    assert a is not None
    b = _pick(draw, known, lambda v: _is_rows(v) and (v.rows, v.columns) == (a.rows, a.columns), really)
    assert b is not None
    form = draw(st.sampled_from(_BINARY)) if really else _BINARY[0]
    return f"v{number} = {form.format(a.name, b.name)}", Value(f"v{number}", a.rows, a.columns)


def _broadcast(draw: Any, known: list[Value], number: int, really: bool) -> Made:
    a = _pick(draw, known, lambda v: _is_rows(v) and v.columns == WIDTH, really)
    b = _pick(draw, known, lambda v: v.rows == WHOLE and v.columns in (0, WIDTH), really)
    if a is None or b is None:
        return None
    form = draw(st.sampled_from(("{} - {}", "{} * {}"))) if really else "{} - {}"
    return f"v{number} = {form.format(a.name, b.name)}", Value(f"v{number}", a.rows, WIDTH)


def _reduced(draw: Any, known: list[Value], number: int, really: bool) -> Made:
    v = _pick(draw, known, lambda v: v.kind == "float", really)
    assert v is not None
    wide = v.rows != WHOLE and v.columns == WIDTH
    form = draw(st.sampled_from(_REDUCED + (_REDUCED_WIDE if wide else ()))) if really else _REDUCED[0]
    columns = {"{}.t() @ {}": -1}.get(form, WIDTH if form in _REDUCED_WIDE else 0)
    return f"v{number} = {form.replace('{}', v.name)}", Value(f"v{number}", WHOLE, columns)


def _truth(draw: Any, known: list[Value], number: int, really: bool) -> Made:
    v = _pick(draw, known, lambda v: _is_rows(v) and v.columns == 0, really)
    if v is None:
        return None
    form = draw(st.sampled_from(_BOOL)) if really else _BOOL[0]
    return f"v{number} = {form.format(v.name)}", Value(f"v{number}", v.rows, 0, "bool")


def _logic(draw: Any, known: list[Value], number: int, really: bool) -> Made:
    a = _pick(draw, known, lambda v: v.kind == "bool", really)
    assert a is not None
    b = _pick(draw, known, lambda v: v.kind == "bool" and v.rows == a.rows, really)
    assert b is not None
    form = draw(st.sampled_from(("{} & {}", "~{} | {}", "{} ^ ~{}"))) if really else "{} & {}"
    return f"v{number} = {form.format(a.name, b.name)}", Value(f"v{number}", a.rows, 0, "bool")


def _kept(draw: Any, known: list[Value], number: int, really: bool) -> Made:
    mask = _pick(draw, known, lambda v: v.kind == "bool", really)
    assert mask is not None
    v = _pick(draw, known, lambda v: v.rows == mask.rows and v is not mask, really)
    if v is None:
        return None
    return f"v{number} = {v.name}[{mask.name}]", Value(
        f"v{number}", f"{v.rows}[{mask.name}]", v.columns, v.kind
    )


def _ends(draw: Any, known: list[Value], number: int, really: bool) -> Made:
    v = _pick(draw, known, lambda v: v.rows == NODE and v.kind == "float", really)
    assert v is not None
    index, rows = draw(st.sampled_from((("d.edge_index", EDGE), ("d.pairs", PAIR)))) if really else ("", EDGE)
    end = draw(st.integers(0, 1)) if really else 0
    return f"v{number} = {v.name}[{index}[{end}]]", Value(f"v{number}", rows, v.columns)


def _scattered(draw: Any, known: list[Value], number: int, really: bool) -> Made:
    v = _pick(draw, known, lambda v: v.rows == EDGE and v.columns == WIDTH and v.kind == "float", really)
    if v is None:
        return None
    return f"v{number} = torch.zeros_like(out).index_add(0, d.edge_index[1], {v.name})", Value(
        f"v{number}", NODE, WIDTH
    )


def _predicted(draw: Any, known: list[Value], number: int, really: bool) -> Made:
    v = _pick(draw, known, lambda v: _is_rows(v) and v.columns == WIDTH, really)
    if v is None:
        return None
    return f"v{number} = {v.name}.argmax(-1)", Value(f"v{number}", v.rows, 0, "label")


def _hits(draw: Any, known: list[Value], number: int, really: bool) -> Made:
    a = _pick(draw, known, lambda v: v.kind == "label", really)
    assert a is not None
    b = _pick(draw, known, lambda v: v.kind == "label" and v.rows == a.rows, really)
    assert b is not None
    return f"v{number} = ({a.name} == {b.name})", Value(f"v{number}", a.rows, 0, "bool")


def _loss(draw: Any, known: list[Value], number: int, really: bool) -> Made:
    a = _pick(draw, known, lambda v: _is_rows(v) and v.columns == WIDTH, really)
    assert a is not None
    y = _pick(draw, known, lambda v: v.kind == "label" and v.rows == a.rows, really)
    b = _pick(draw, known, lambda v: _is_rows(v) and (v.rows, v.columns) == (a.rows, a.columns), really)
    form, other = (_PAIRED[0], b) if y is None else (_CLASSED[0], y)
    if really:
        forms = [(f, b) for f in _PAIRED] + [(f, y) for f in _CLASSED if y is not None]
        form, other = draw(st.sampled_from(forms))
    assert other is not None
    reduction = draw(st.sampled_from(("mean", "sum"))) if really else "mean"
    return f"v{number} = {form.format(a.name, other.name, r=reduction)}", Value(f"v{number}", WHOLE, 0)


def _derived(draw: Any, known: list[Value], number: int, really: bool) -> Made:
    v = _pick(draw, known, lambda v: v.rows == WHOLE and v.columns == 0 and v.kind == "float", really)
    if v is None:
        return None
    of, value = ("d.x", Value(f"v{number}", NODE, 4)), Value(f"v{number}", WHOLE, -1)
    if really and draw(st.booleans()):
        return _derivative(number, v, "net.lin.weight"), value
    return _derivative(number, v, of[0]), of[1]


def _derivative(number: int, v: Value, of: str) -> str:
    return (
        f"v{number} = torch.autograd.grad({v.name} + 0 * (out.sum() + d.x.sum() + net.lin.weight.sum()), {of}, "
        "create_graph=True)[0]"
    )


def _written(draw: Any, known: list[Value], number: int, really: bool) -> Made:
    mask = _pick(draw, known, lambda v: v.kind == "bool", really)
    assert mask is not None
    v = _pick(draw, known, lambda v: _is_rows(v) and v.rows == mask.rows, really)
    if v is None:
        return None
    return f"v{number} = {v.name} * 1.0; v{number}[{mask.name}] = 0.25", Value(
        f"v{number}", v.rows, v.columns
    )


MAKERS: tuple[Callable[[Any, list[Value], int, bool], Made], ...] = (
    *(_unary, _narrow, _binary, _broadcast, _reduced, _truth, _logic, _kept, _ends, _scattered),
    *(_predicted, _hits, _loss, _derived, _written),
)

ROLES = {
    **dict.fromkeys(("x", "y", "target", "mask"), "node"),
    "edge_index": "edge_index",
    "edge_value": "edge",
    "pairs": "pairs",
    "pair_value": "edge:pairs",
}


def data_of(nodes: int, edges: int, pairs: int, seed: int) -> dict[str, Tensor]:
    """A graph with labels, a mask, and values of edges and pairs."""
    g = torch.Generator().manual_seed(seed)
    return {
        "x": torch.randn(nodes, 4, generator=g, dtype=F64),
        "edge_index": torch.randint(nodes, (2, edges), generator=g),
        "y": torch.randint(CLASSES, (nodes,), generator=g),
        "target": torch.rand(nodes, WIDTH, generator=g, dtype=F64),
        "mask": torch.rand(nodes, generator=g) < 0.5,
        "edge_value": torch.rand(edges, generator=g, dtype=F64),
        "pairs": torch.randint(nodes, (2, pairs), generator=g),
        "pair_value": torch.rand(pairs, generator=g, dtype=F64),
    }


class _Whole:
    def __init__(self, data: dict[str, Tensor]) -> None:
        self.__dict__.update({name: value.clone() for name, value in data.items()})


def judge_script(script: FuzzedScript, data: dict[str, Tensor], cut: list[int], parts: int) -> Verdict:
    """Compare a script on simulated ranks with one machine."""
    scope: dict[str, Any] = {"torch": torch, "F": F, "graphshard": graphshard}
    scope["W"] = torch.tensor([0.2, 1.0, 3.0], dtype=F64)
    exec(script.source, scope)
    torch.manual_seed(0)
    net = Net()
    nets = [copy.deepcopy(net) for _ in range(parts)]
    try:
        expected = _evaluated(scope["script"], net, net, _Whole(data), lambda v: v)
    except Exception:
        return Verdict(INVALID)
    if not all(
        bool(t.isfinite().all()) for t in expected.values() if t is not None and t.is_floating_point()
    ):
        return Verdict(INVALID)
    shards = graphshard.partition(data, parts, roles=ROLES, method=torch.tensor(cut) % parts)

    def rank(number: int, _: str, group: Any) -> Any:
        shard, model = shards[number], graphshard.distribute(nets[number], group=group)

        def whole(value: Any) -> Any:
            return local(shard.gather(value, group)) if isinstance(value, PlacedTensor) else value

        return _evaluated(scope["script"], nets[number], model, shard, whole)

    try:
        for found in run_ranks(parts, rank, timeout=120):
            _compare(found, expected)
    except (graphshard.CaptureError, graphshard.UnsupportedOperation) as error:
        return Verdict(REFUSED, first_sentence(str(error)), kind_of(str(error)))
    except Exception as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        text = f"{type(error).__name__} at {place.name}: {' '.join(str(error).split())[:400]}"
        return Verdict(FAILED, f"{text} (cut {cut})", f"{type(error).__name__} at {place.name}")
    return Verdict(EXACT)


def _evaluated(
    script: Callable[..., Any], net: Net, model: Any, d: Any, whole: Callable[[Any], Any]
) -> dict[str, Tensor | None]:
    d.x.requires_grad_()
    out, pooled = model(d.x, d.edge_index)
    values = script(d, net, out, pooled)
    found: dict[str, Tensor | None] = {f"value {i}": whole(v).detach() for i, v in enumerate(values)}
    floats = [v for v in values if v.is_floating_point() and v.requires_grad]
    loss = sum((v * v).sum() for v in [out, *floats])
    assert isinstance(loss, Tensor)
    loss.backward()
    found |= {f"gradient of {name}": p.grad for name, p in net.named_parameters()}
    found["gradient of x"] = None if d.x.grad is None else whole(d.x.grad)
    return found


def _compare(found: dict[str, Tensor | None], expected: dict[str, Tensor | None]) -> None:
    for name, right in expected.items():
        mine = found[name]
        assert (mine is None) == (right is None), f"{name} is {mine} instead of {right}"
        if mine is None or right is None:
            continue
        assert mine.shape == right.shape, f"{name} is {list(mine.shape)} instead of {list(right.shape)}"
        assert mine.dtype == right.dtype, f"{name} is {mine.dtype} instead of {right.dtype}"
        if not right.is_floating_point():
            assert torch.equal(mine, right), f"{name} differs"
        elif right.numel():
            scale = max(float(right.abs().max()), 1e-3)
            assert float((mine - right).abs().max()) <= 1e-8 * scale, f"{name} is off"
