"""Steps along edges: gathers, messages, scatters with every reduction, both flows, and new sets of edges."""

from __future__ import annotations

from fuzz.builder import GROUPS, WIDTH, Builder, Edges, NothingFits, Step, Value

ROW, SCALAR = (WIDTH,), ()


def gather(b: Builder) -> Value:
    """Node rows at one end of the edges."""
    a, edges = (
        b.pick("node", [ROW, SCALAR, (2, 2)], dtype=b.choose(["float", "float", "int", "bool"])),
        b.edge_set(),
    )
    end = b.choose([edges.src, edges.dst])
    forms = ["{a}[{i}]", "{a}.index_select(0, {i})", "torch.index_select({a}, 0, {i})"]
    if a.trailing == ROW:
        forms += [
            "{a}.gather(0, {i}.unsqueeze(-1).expand(-1, 4))",
            "F.embedding({i}, {a})",
            "{a}.take_along_dim({i}[:, None], 0)",
        ]
        if a.dtype != "float":
            raise NothingFits
    return b.emit(b.choose(forms).format(a=a, i=end), [a], edges.rows, a.trailing, a.dtype, exact=a.exact)


def message(b: Builder) -> Value:
    """Both ends of each edge at once."""
    a, edges = b.pick("node", [ROW]), b.edge_set()
    form, trailing = b.choose(
        [
            ("{a}[{s}] - {a}[{d}]", ROW), ("({a}[{s}] * {a}[{d}]).sum(-1)", SCALAR),
            ("torch.cat([{a}[{s}], {a}[{d}]], -1) @ self.cat.weight.t()", ROW),
            ("F.leaky_relu({a}[{s}] + {a}[{d}])", ROW), ("torch.stack([{a}[{s}], {a}[{d}]]).mean(0)", ROW),
        ]
    )  # fmt: skip
    return b.emit(form.format(a=a, s=edges.src, d=edges.dst), [a], edges.rows, trailing)


def scatter_sum(b: Builder) -> Value:
    """A sum or mean to one end of the edges."""
    edges = b.edge_set()
    m = b.pick(edges.rows, [ROW])
    end = b.choose([edges.dst, edges.src])
    form = b.choose(
        [
            "x.new_zeros({n}, 4).index_add(0, {i}, {m})",
            "torch.zeros({n}, 4, dtype=x.dtype).scatter_add(0, {i}.unsqueeze(-1).expand_as({m}), {m})",
            "x.new_zeros({n}, 4).scatter_reduce(0, {i}[:, None].expand(-1, 4), {m}, 'mean', include_self=False)",
            "x.new_zeros({n}, 4).index_add_(0, {i}, {m}, alpha=0.5)",
            "x.new_ones({n}, 4).scatter_reduce(0, {i}[:, None].expand(-1, 4), {m}, 'sum')",
            "x.new_zeros({n}, 4).index_put(({i},), {m}, accumulate=True)",
            "torch.zeros_like(x[:, :4]).scatter_reduce_(0, {i}.view(-1, 1).expand_as({m}), {m}, 'mean')",
            "x.new_full(({n}, 4), 0.5).index_reduce(0, {i}, {m}, 'mean')",
        ]
    )  # fmt: skip
    return b.emit(form.format(n="x.size(0)", i=end, m=m), [m], "node", ROW)


def scatter_onto(b: Builder) -> Value:
    """Into the rows of another value."""
    edges = b.edge_set()
    m, base = b.pick(edges.rows, [ROW]), b.pick("node", [ROW])
    end = b.choose([edges.dst, edges.src])
    form = b.choose(
        [
            "{base}.index_add(0, {i}, {m})", "{base}.clone().scatter_add_(0, {i}[:, None].expand_as({m}), {m})",
            "{base}.scatter_reduce(0, {i}[:, None].expand_as({m}), {m}, 'mean')",
            "{base}.scatter_reduce(0, {i}[:, None].expand_as({m}), {m}, 'sum', include_self=False)",
            "{base}.index_put(({i},), {m}, accumulate=True)",
            "{base}.scatter_reduce(0, {i}[:, None].expand_as({m}), {m}, 'mean', include_self=False)",
        ]
    )  # fmt: skip
    return b.emit(form.format(base=base, i=end, m=m), [m, base], "node", ROW)


def scatter_extreme(b: Builder) -> Value:
    """A maximum, minimum or product to one end, ties included."""
    edges = b.edge_set()
    reduce = b.choose(["amax", "amin", "prod"])
    exact = reduce != "prod"
    m, base = b.pick(edges.rows, [ROW], exact=exact), b.pick("node", [ROW], exact=exact)
    end, include = b.choose([edges.dst, edges.src]), b.choose([True, False])
    start = b.choose(
        ["x.new_zeros(x.size(0), 4)", "{base}", "{base}.detach()", "x.new_full((x.size(0), 4), -0.5)"]
    )
    takes = [m, base] if "base" in start else [m]
    form = b.choose(
        ["{b}.scatter_reduce(0, {i}[:, None].expand_as({m}), {m}, '{r}', include_self={s})",
         "{b}.index_reduce(0, {i}, {m}, '{r}', include_self={s})"]
    )  # fmt: skip
    if reduce == "prod":
        form = form.replace("{m}, '", "F.softsign({m}), '")
    text = form.format(b=start.format(base=base), i=end, m=m, r=reduce, s=include)
    return b.emit(text, takes, "node", ROW, exact=exact)


def scatter_numbers(b: Builder) -> Value:
    """A number, or a count, for each node."""
    edges = b.edge_set()
    m, end = b.pick(edges.rows, [SCALAR]), b.choose([edges.dst, edges.src])
    form = b.choose(
        [
            "x.new_zeros(x.size(0)).index_add(0, {i}, {m})",
            "torch.zeros(x.size(0), dtype=x.dtype).scatter_add_(0, {i}, {m})",
            "x.new_zeros(x.size(0)).scatter_reduce(0, {i}, {m}, 'mean', include_self=False)",
            "x.new_zeros(x.size(0)).index_add(0, {i}, torch.ones_like({m})).clamp(min=1)",
            "1 / (x.new_zeros(x.size(0)).scatter_add(0, {i}, torch.ones_like({m})) + 1).sqrt()",
        ]
    )  # fmt: skip
    return b.emit(form.format(i=end, m=m), [m], "node", SCALAR)


def edge_softmax(b: Builder) -> Value:
    """Attention weights over the edges of each node at one end."""
    edges = b.edge_set()
    m, end = b.pick(edges.rows, [SCALAR]), b.choose([edges.dst, edges.src])
    b.take(m)
    top, power = b.fresh("t"), b.fresh("p")
    b.line(
        f"{top} = x.new_zeros(x.size(0)).scatter_reduce(0, {end}, {m}.detach(), 'amax', include_self=False)"
    )
    b.line(f"{power} = ({m} - {top}[{end}]).exp()")
    total = f"x.new_zeros(x.size(0)).index_add(0, {end}, {power})[{end}]"
    return b.emit(f"{power} / ({total} + 1e-16)", [m], edges.rows, SCALAR)


def weighted(b: Builder) -> Value:
    """Neighbour sum with a weight for each edge, in one line as layers write it."""
    edges = b.edge_set()
    a, w = b.pick("node", [ROW]), b.pick(edges.rows, [SCALAR])
    source, target = b.choose([(edges.src, edges.dst), (edges.dst, edges.src)])
    text = f"torch.zeros_like({a}).index_add(0, {target}, {a}[{source}] * {w}.view(-1, 1))"
    return b.emit(text, [a, w], "node", ROW)


def new_edges(b: Builder) -> None:
    """Another set of edges: some of them, both directions, self loops added or removed."""
    edges = b.edge_set()
    if edges.rows.count("#") > 2:
        raise NothingFits
    kind = b.choose(["masked", "no loops", "both", "loops", "flipped", "index"])
    src, dst, rows = b.fresh("s"), b.fresh("d"), f"{edges.rows}#{len(b.lines)}"
    if kind == "masked":
        m = b.pick(edges.rows, [SCALAR], "bool")
        b.take(m)
        b.line(f"{src}, {dst} = {edges.src}[{m}], {edges.dst}[{m}]")
        rows = f"{edges.rows}[{m}]"
    elif kind == "no loops":
        m = b.emit(f"{edges.src} != {edges.dst}", [], edges.rows, SCALAR, "bool", exact=True)
        b.take(m)
        b.line(f"{src}, {dst} = {edges.src}[{m}], {edges.dst}[{m}]")
        rows = f"{edges.rows}[{m}]"
    elif kind == "both":
        b.line(f"{src}, {dst} = torch.cat([{edges.src}, {edges.dst}]), torch.cat([{edges.dst}, {edges.src}])")
        _carried(b, edges.rows, rows, "torch.cat([{0}, {0}])")
    elif kind == "loops":
        own = "torch.arange(x.size(0))"
        b.line(f"{src}, {dst} = torch.cat([{edges.src}, {own}]), torch.cat([{edges.dst}, {own}])")
        _carried(b, edges.rows, rows, "torch.cat([{0}, {1}])")
    elif kind == "flipped":
        b.line(f"{src}, {dst} = {edges.dst}, {edges.src}")
        rows = edges.rows
    else:
        b.line(f"{src}, {dst} = torch.stack([{edges.src}, {edges.dst}]).flip(0)")
        rows = edges.rows
    b.edges.append(Edges(rows, src, dst))


def _carried(b: Builder, old: str, new: str, form: str) -> None:
    """Values of the old edges for the new ones."""
    for trailing in (ROW, SCALAR):
        a, own = b.pick(old, [trailing]), b.pick("node", [trailing])
        takes = [a, own] if "{1}" in form else [a]
        b.emit(form.format(a, own), takes, new, trailing, exact=all(v.exact for v in takes))


def numbers_of_nodes(b: Builder) -> Value:
    """Node numbers read as numbers."""
    edges = b.edge_set()
    form, rows, trailing, dtype = b.choose(
        [
            ("{s} < {d}", edges.rows, SCALAR, "bool"),
            ("{s} == {d}", edges.rows, SCALAR, "bool"),
            ("({s} - {d}).double() * 0.01", edges.rows, SCALAR, "float"),
            ("({s} + {d}) % 4", edges.rows, SCALAR, "int"),
            ("torch.arange(x.size(0)).double() * 0.1", "node", SCALAR, "float"),
            ("torch.arange(x.size(0), device=x.device) % 3", "node", SCALAR, "int"),
        ]
    )
    return b.emit(form.format(s=edges.src, d=edges.dst), [], rows, trailing, dtype, exact=True)


def pool(b: Builder) -> Value:
    """Rows reduced into groups, and back to the rows."""
    groups = b.pick(dtype="int", trailing=[SCALAR])
    if groups.name != "z" and not groups.name.startswith("edge_y"):
        groups = b.emit(f"{groups} % 4", [groups], groups.rows, SCALAR, "int", exact=True)
    reduce = b.choose(["sum", "mean", "amax", "amin", "prod"])
    m = b.pick(groups.rows, [ROW], exact=reduce in ("amax", "amin"))
    value = f"F.softsign({m})" if reduce == "prod" else str(m)
    form = b.choose(
        ["x.new_zeros({g}, 4).scatter_reduce(0, {i}[:, None].expand_as({m}), {v}, '{r}', include_self=False)",
         "x.new_ones({g}, 4).scatter_reduce(0, {i}[:, None].expand_as({m}), {v}, '{r}')",
         "x.new_zeros({g}, 4).index_add(0, {i}, {v})"]
    )  # fmt: skip
    pooled = b.emit(form.format(g=GROUPS, i=groups, m=m, v=value, r=reduce), [m, groups], "groups", ROW)
    return b.emit(f"{pooled}[{groups}]", [pooled], groups.rows, ROW)


STEPS: tuple[Step, ...] = (
    gather, gather, message, scatter_sum, scatter_sum, scatter_onto, scatter_extreme, scatter_extreme, scatter_numbers,
    edge_softmax, weighted, new_edges, numbers_of_nodes, pool,
)  # fmt: skip
