"""Programs as text: names, sizes, module headings and the user's line."""

import torch
from support.models_for_golden import HandWritten
from torch import fx, nn
from torch.utils import _pytree as pytree

from graphshard.capture.examples import Signature
from graphshard.capture.export import capture
from graphshard.ir.placement import Edges, Halo, Joined, Kept, Owned, Placed, Size, replicated
from graphshard.ir.program import Input, Output, Program
from graphshard.passes.pipeline import EXACT, Pipeline
from graphshard.preview import argument_specs
from graphshard.show.names import Names, dtype_text, op_name, plural
from graphshard.show.printing import render, render_text


def stages_of(model):
    specs = argument_specs(model, None, {})
    leaves, structure = pytree.tree_flatten(((), specs))
    return Pipeline(EXACT).run(capture(model, Signature(tuple(leaves), structure, tuple(specs))).program)


def small_program():
    """A program by hand, with the numbered names that torch.export gives."""
    graph = fx.Graph()
    nodes = {name: graph.placeholder(name) for name in ("w", "x", "mask", "group", "num_nodes")}
    nodes["w"].meta = {"val": torch.empty(4, 8), "placement": replicated(2)}
    nodes["x"].meta = {"val": torch.empty(16, 4), "placement": Placed((Owned(), None))}
    nodes["mask"].meta = {"val": torch.empty(16, dtype=torch.bool), "placement": Placed((Owned(),))}
    nodes["group"].meta = {"val": "", "placement": Size()}
    nodes["num_nodes"].meta = {"val": 16, "placement": Size()}
    aten = torch.ops.aten

    def call(name, target, *args, val=None, rows=None, **kwargs):
        node = graph.create_node("call_function", target, args, kwargs, name=name)
        dims = (rows, *[None] * (val.dim() - 1)) if isinstance(val, torch.Tensor) and val.dim() else ()
        node.meta = {"val": val, "placement": rows if isinstance(rows, Size) else Placed(dims)}
        return node

    keep = call(
        "gt_17", aten.gt.Scalar, nodes["mask"], 0, val=torch.empty(16, dtype=torch.bool), rows=Owned()
    )
    kept_rows = Kept(Owned(), "gt_17")
    kept = call("index_9", aten.index.Tensor, nodes["x"], [keep], val=torch.empty(7, 4), rows=kept_rows)
    size = call("sym_size_int_31", aten.sym_size.int, kept, 0, val=7, rows=Size((kept_rows,)))
    made = call(
        "zeros_5",
        aten.zeros.default,
        [size, 4],
        device="cpu",
        dtype=torch.float32,
        val=torch.empty(7, 4),
        rows=kept_rows,
    )
    total = call("sum_3", aten.sum.default, made, val=torch.empty(()))
    reduced = call(
        "sum_3_all",
        torch.ops.graphshard.all_reduce.default,
        total,
        "sum",
        nodes["group"],
        val=torch.empty(()),
    )
    mean = call("div_8", aten.div.Tensor, reduced, nodes["num_nodes"], val=torch.empty(()))
    graph.output((mean,))
    kinds = ("parameter", "user", "user", "graph", "graph")
    targets = ("lin.weight", "0", "1", "group", "num_nodes")
    inputs = [Input(n, k, t) for n, k, t in zip(nodes, kinds, targets, strict=True)]
    return Program(fx.GraphModule(nn.Module(), graph), inputs, [Output("user", "")])


def test_lines_of_a_program_by_hand():
    program = small_program()
    assert [f"{line.code:<36} {line.type:<14} {line.placement}".rstrip() for line in render(program)] == [
        "gt = gt(mask, 0)                     bool[n]        Owned",
        "index = index(x, [gt])               f32[n[gt], 4]  Owned[gt]",
        "zeros = zeros([n[gt], 4], dtype=f32) f32[n[gt], 4]  Owned[gt]",
        "sum = sum(zeros)                     f32[]          Replicated",
        'sum_all = all_reduce(sum, "sum")     f32[]          Replicated',
        "div = div(sum_all, N)                f32[]          Replicated",
        "return div",
    ]
    assert render_text(program).startswith(
        "inputs: x f32[n, 4] Owned, mask bool[n] Owned; 1 parameter\n    gt = gt(mask, 0)  "
    )


def test_names_do_not_clash_with_inputs():
    program = small_program()
    mask = next(n for n in program.graph.nodes if n.name == "mask")
    mask._rename("gt")
    program.inputs[2] = Input("gt", "user", "1")
    assert [line.name for line in render(program)][:2] == ["gt_1", "index"]


def test_sizes():
    names = Names([])
    joined = Joined((Kept(Edges(), "m"), Owned()))
    assert [names.size(rows) for rows in (Owned(), Halo(), Edges(), joined)] == ["n", "n+h", "e", "e[m]+n"]


def test_dtypes_and_plurals():
    kinds = (torch.float32, torch.bfloat16, torch.int64, torch.uint8, torch.complex64, torch.bool)
    assert [dtype_text(d) for d in kinds] == ["f32", "bf16", "i64", "u8", "c64", "bool"]
    assert (plural(1, "row"), plural(2000, "row"), plural(0, "row")) == ("1 row", "2,000 rows", "0 rows")


def test_headings_and_lines_of_the_user():
    lines = render(stages_of(HandWritten())[-1].program)
    headings = [line.module for line in lines]
    assert list(dict.fromkeys(headings)) == [
        "HandWritten",
        *("layers.0 (MeanLayer)", "layers.0.lin (Linear)", "layers.1 (MeanLayer)", "layers.1.lin (Linear)"),
        "",
    ]
    assert {line.where.split(":")[0] for line in lines if line.name != "return"} == {"models_for_golden.py"}


def test_a_captured_program_without_placements():
    first = stages_of(HandWritten())[0].program
    lines = {line.name: line for line in render(first)}
    assert lines["select"].type == "i64[e]"
    assert lines["select"].placement == ""
    assert op_name(next(n for n in first.graph.nodes if n.op == "placeholder")) == "placeholder"
