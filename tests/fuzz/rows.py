"""Steps within each row: what runs on a rank without any communication."""

from __future__ import annotations

from fuzz.builder import GROUPS, WHOLE, WIDTH, Builder, NothingFits, Step

ROW, PAIRS, SCALAR = (WIDTH,), (2, 2), ()


def unary(b: Builder) -> None:
    """A function of each element."""
    form = b.choose(
        [
            "F.softsign({})", "{}.relu()", "-{}", "{}.sigmoid()", "F.leaky_relu({}, 0.2)", "F.elu({})",
            "{}.abs()", "F.softsign({}).exp()", "({}.abs() + 0.5).sqrt()", "{}.abs().log1p()",
            "{}.clamp(-1, 1)", "{}.detach()", "F.gelu({})", "F.softsign({}) ** 2", "{}.sin()", "{} * 0.5 + 1",
            "1 / ({}.abs() + 1)", "F.softplus({})", "{}.to(torch.float64)", "{}.clone().relu_()",
            "{}.clone().mul_(0.5).add_(1)",
        ]
    )  # fmt: skip
    a = b.pick(rows=_any(b))
    b.emit(form.format(a), [a], a.rows, a.trailing, exact=a.exact)


def binary(b: Builder) -> None:
    """Two values over the same rows."""
    form = b.choose(
        [
            "{0} + {1}", "{0} * F.softsign({1})", "{0} - {1}", "{0} / ({1}.abs() + 1)",
            "torch.lerp({0}, {1}, 0.3)", "{0}.clone().add_({1}, alpha=0.5)", "torch.addcmul({0}, {1}, {0})",
        ]
    )  # fmt: skip
    a = b.pick(rows=_any(b))
    c = b.like(a)
    b.emit(form.format(a, c), [a, c], a.rows, a.trailing, exact=a.exact and c.exact)


def extremes(b: Builder) -> None:
    """The larger or smaller of two values."""
    form = b.choose(["torch.maximum({}, {})", "torch.minimum({}, {})"])
    a = b.pick(exact=True)
    c = b.like(a, exact=True)
    b.emit(form.format(a, c), [a, c], a.rows, a.trailing, exact=True)


def scale(b: Builder) -> None:
    """A number for each row times its features."""
    a, s = b.pick(trailing=[ROW]), None
    s = b.pick(a.rows, [SCALAR])
    form = b.choose(["{} * {}.unsqueeze(-1)", "{} + {}.view(-1, 1)", "{} - {}[:, None]"])
    b.emit(form.format(a, s), [a, s], a.rows, ROW, exact=a.exact and s.exact)


def with_whole(b: Builder) -> None:
    """Rows with what every rank holds."""
    a, w = b.pick(trailing=[ROW]), b.pick(WHOLE, [ROW, SCALAR])
    form = b.choose(["{0} + {1}", "{0} * F.softsign({1})", "{1} - {0}", "torch.addcmul({0}, {0}, {1})"])
    b.emit(form.format(a, w), [a, w], a.rows, ROW)


def linear(b: Builder) -> None:
    """A dense layer, in one of its spellings."""
    a = b.pick(rows=_any(b), trailing=[ROW])
    form, trailing = b.choose(
        [
            ("self.lin({})", ROW),
            ("{} @ self.square", ROW),
            ("torch.einsum('nf,fo->no', {}, self.square)", ROW),
            ("F.linear({}, self.square, self.w)", ROW),
            ("{} @ self.w", SCALAR),
            ("self.mlp({})", ROW),
        ]
    )
    if a.rows == WHOLE and "einsum" in form:
        raise NothingFits
    b.emit(form.format(a), [a], a.rows, trailing)


def over_features(b: Builder) -> None:
    """Within the features of a row."""
    a = b.pick(trailing=[ROW])
    form, trailing = b.choose(
        [
            ("{}.sum(-1)", SCALAR), ("{}.mean(1)", SCALAR), ("{}.softmax(-1)", ROW), ("F.log_softmax({}, 1)", ROW),
            ("F.layer_norm({}, (4,), self.w, self.w)", ROW), ("{}.cumsum(1)", ROW), ("{}.flip(-1)", ROW),
            ("torch.roll({}, 1, 1)", ROW), ("{}[:, [2, 0, 1, 3]]", ROW), ("{}.square().sum(1).sqrt()", SCALAR),
            ("F.normalize({}, dim=-1)", ROW), ("{}[:, 1]", SCALAR), ("{}.view(-1, 2, 2)", PAIRS),
            ("{}.t()[2]", SCALAR), ("{}.t().contiguous().t()", ROW), ("{}.logsumexp(1)", SCALAR),
            ("F.pad({}[:, 1:], (1, 0))", ROW), ("{}.repeat(1, 2)[:, 2:6]", ROW), ("{}.var(1)", SCALAR),
            ("torch.stack({}.unbind(1)[::-1], 1)", ROW), ("torch.cat({}.chunk(2, -1)[::-1], -1)", ROW),
        ]
    )  # fmt: skip
    b.emit(form.format(a), [a], a.rows, trailing)


def order_of_features(b: Builder) -> None:
    """Extremes and sorting within a row."""
    a = b.pick(trailing=[ROW], exact=True)
    form, trailing = b.choose(
        [("{}.amax(-1)", SCALAR), ("{}.max(1).values", SCALAR), ("{}.sort(-1).values", ROW),
         ("{}.topk(2, -1).values.sum(1)", SCALAR), ("{}.median(1).values", SCALAR)]
    )  # fmt: skip
    b.emit(form.format(a), [a], a.rows, trailing)


def two_features(b: Builder) -> None:
    """Features of two values joined or compared."""
    a = b.pick(trailing=[ROW])
    c = b.like(a)
    form, trailing = b.choose(
        [
            ("torch.cat([{0}[:, :2], {1}[:, 2:]], 1)", ROW), ("({0} * {1}).sum(-1)", SCALAR),
            ("torch.stack([{0}, {1}], 1).mean(1)", ROW), ("torch.cat([{0}, {1}], -1).view(-1, 2, 4).sum(1)", ROW),
            ("F.cosine_similarity({0}, {1} + 2, dim=1)", SCALAR), ("F.pairwise_distance({0}, {1})", SCALAR),
            ("torch.einsum('nf,nf->n', {0}, {1})", SCALAR), ("self.cat(torch.cat([{0}, {1}], 1))", ROW),
        ]
    )  # fmt: skip
    b.emit(form.format(a, c), [a, c], a.rows, trailing)


def heads(b: Builder) -> None:
    """``[rows, 2, 2]``."""
    a = b.pick(trailing=[PAIRS])
    c = b.like(a)
    form, trailing = b.choose(
        [
            ("{0}.flatten(1)", ROW), ("{0}.transpose(1, 2)", PAIRS), ("torch.bmm({0}, F.softsign({1}))", PAIRS),
            ("{0}.mean(1).repeat(1, 2)", ROW), ("({0} * self.square[:2, :2]).sum(dim=(1, 2))", SCALAR),
            ("{0}.reshape(-1, 4)", ROW), ("{0} @ self.square[:2, :2]", PAIRS), ("{0}.permute(0, 2, 1) + {1}", PAIRS),
            ("torch.einsum('nij,njk->nik', {0}, F.softsign({1}))", PAIRS), ("{0}[:, 0, 1]", SCALAR),
        ]
    )  # fmt: skip
    takes = [a, c] if "{1}" in form else [a]
    b.emit(form.format(a, c), takes, a.rows, trailing)


def compare(b: Builder) -> None:
    """A condition on each row."""
    a = b.pick(trailing=[SCALAR], dtype=b.choose(["float", "int"]), exact=True)
    form = b.choose(["{} > 0", "{} <= 1", "({} * 2).ne(1)", "({} > 0) & ({} < 1)"])
    b.emit(form.format(a, a), [a], a.rows, SCALAR, "bool", exact=True)


def compare_two(b: Builder) -> None:
    a = b.pick(trailing=[SCALAR], dtype=b.choose(["float", "int"]), exact=True)
    c = b.like(a, exact=True)
    form = b.choose(["{} > {}", "torch.eq({}, {})", "torch.logical_xor({} > 0, {} > 0)"])
    b.emit(form.format(a, c), [a, c], a.rows, SCALAR, "bool", exact=True)


def conditions(b: Builder) -> None:
    a = b.pick(dtype="bool")
    c = b.like(a)
    form = b.choose(["~{}", "{} & {}", "{} | {}", "{} ^ {}"])
    takes = [a] if form == "~{}" else [a, c]
    b.emit(form.format(*takes), takes, a.rows, SCALAR, "bool", exact=True)


def chosen(b: Builder) -> None:
    """Rows picked by a condition."""
    a = b.pick(trailing=[ROW])
    c, m = b.like(a), b.pick(a.rows, [SCALAR], "bool")
    form = b.choose(
        ["torch.where({2}.unsqueeze(-1), {0}, {1})", "{0}.masked_fill({2}[:, None], 0.5)", "{0} * {2}.unsqueeze(1)"]
    )  # fmt: skip
    takes = [a, c, m] if "{1}" in form else [a, m]
    b.emit(form.format(a, c, m), takes, a.rows, ROW, exact=all(v.exact for v in takes))


def written(b: Builder) -> None:
    """A copy, written into in place."""
    a = b.pick(trailing=[ROW])
    c, m = b.like(a), b.pick(a.rows, [SCALAR], "bool")
    write = b.choose(
        [
            "[{m}] = 0.3", "[{m}] = {c}[{m}]", "[:, 0] = {c}[:, 1]", "[:, 1:3] += {c}[:, 1:3]", "[~{m}, 2] = 1.5",
            "[..., -1] = 0.0", ".mul_({c})", ".masked_fill_({m}.view(-1, 1), 2.0)", "[:, [3, 0]] = {c}[:, :2]",
        ]
    )  # fmt: skip
    out = b.emit(f"{a}.clone()", [a, *([c] if "{c}" in write else []), *([m] if "{m}" in write else [])],
                 a.rows, ROW, exact=a.exact and c.exact)  # fmt: skip
    b.line(f"{out}{write.format(c=c, m=m)}")


def aliased(b: Builder) -> None:
    """A view of a copy that is written to afterwards, through the copy or through the view."""
    a = b.pick(trailing=[ROW])
    c = b.like(a)
    view = b.choose(["{}.view(-1, 2, 2)", "{}.t()", "{}[:, 1]", "{}.unsqueeze(1)"])
    copy = b.emit(f"{a}.clone()", [a, c], a.rows, ROW, exact=a.exact and c.exact)
    alias = b.fresh("a")
    b.line(f"{alias} = {view.format(copy)}")
    b.line(b.choose([f"{copy}.add_({c})", f"{alias}.mul_(2)", f"{copy}[:, 1] = {c}[:, 0]"]))
    b.emit(f"{copy} * {alias}.sum()", [copy], a.rows, ROW)


def integers(b: Builder) -> None:
    a = b.pick(dtype="int")
    form, trailing, dtype = b.choose(
        [
            ("{}.double()", SCALAR, "float"), ("F.one_hot({}, 4).double()", ROW, "float"),
            ("({} + 1) % 4", SCALAR, "int"), ("self.table[{}]", ROW, "float"), ("self.embedding({})", ROW, "float"),
            ("F.embedding({}, self.square)", ROW, "float"), ("self.table.index_select(0, {})", ROW, "float"),
        ]
    )  # fmt: skip
    b.emit(form.format(a), [a], a.rows, trailing, dtype, exact=True)


def numbers(b: Builder) -> None:
    """A condition as a number."""
    a = b.pick(dtype="bool")
    form, dtype = b.choose([("{}.double()", "float"), ("{}.long()", "int"), ("{} * 1.5", "float")])
    if dtype == "float" and "1.5" in form:
        form = "{}.to(torch.float64) * 1.5"
    b.emit(form.format(a), [a], a.rows, SCALAR, dtype, exact=True)


def kept(b: Builder) -> None:
    """Only the rows that a mask keeps."""
    a = b.pick(trailing=[ROW, SCALAR])
    m = b.pick(a.rows, [SCALAR], "bool")
    b.emit(f"{a}[{m}]", [a, m], f"{a.rows}[{m}]", a.trailing, exact=a.exact)


def kept_labels(b: Builder) -> None:
    a = b.pick(dtype="int")
    m = b.pick(a.rows, [SCALAR], "bool")
    b.emit(f"{a}[{m}]", [a, m], f"{a.rows}[{m}]", SCALAR, "int", exact=True)


def joined(b: Builder) -> None:
    """Rows of two values, one after the other."""
    a = b.pick(trailing=[ROW])
    c = b.pick(trailing=[ROW])
    if "+" in a.rows + c.rows:
        raise NothingFits
    b.emit(f"torch.cat([{a}, {c}])", [a, c], f"{a.rows}+{c.rows}", ROW, exact=a.exact and c.exact)


def _any(b: Builder) -> list[str]:
    """Every row set, WHOLE included."""
    return sorted({v.rows for v in b.values})


assert GROUPS == WIDTH  # one_hot(z, 4), tables of 4 rows

STEPS: tuple[Step, ...] = (
    unary, binary, linear, scale, with_whole, over_features, two_features, extremes, order_of_features, heads,
    compare, compare_two, conditions, chosen, written, aliased, integers, numbers, kept, kept_labels, joined,
)  # fmt: skip
