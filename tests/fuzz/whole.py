"""Steps over all rows: reductions, normalisations and losses, whose results every rank holds."""

from __future__ import annotations

from fuzz.builder import WHOLE, WIDTH, Builder, Step, Value

ROW, SCALAR = (WIDTH,), ()


def reduce(b: Builder) -> Value:
    """Over the rows, or over everything."""
    a = b.pick(trailing=[ROW])
    form, trailing = b.choose(
        [
            ("{}.sum(0)", ROW), ("{}.mean(0)", ROW), ("{}.sum()", SCALAR), ("{}.mean()", SCALAR),
            ("{}.var(0, correction=0)", ROW), ("{}.logsumexp(0)", ROW), ("{}.square().sum().sqrt()", SCALAR),
            ("{}.norm()", SCALAR), ("({}.var(0, unbiased=False) + 1e-3).sqrt()", ROW), ("F.softsign({}).prod(0)", ROW),
            ("{}.sum(0, keepdim=True).squeeze(0)", ROW), ("{}.norm(dim=0)", ROW), ("{}.sum(0) / {}.size(0)", ROW),
            ("{}.mean((0, 1))", SCALAR), ("torch.var_mean({}, 0, correction=0)[1]", ROW), ("{}.abs().sum(0)", ROW),
            ("{}.t().mean(1)", ROW), ("{}.t() @ {} @ self.w", ROW), ("torch.einsum('nf,ng->f', {}, {})", ROW),
        ]
    )  # fmt: skip
    return b.emit(form.replace("{}", str(a)), [a], WHOLE, trailing)


def extreme(b: Builder) -> Value:
    """Over the rows; ties share a gradient or the first takes it."""
    a = b.pick(trailing=[ROW], exact=True)
    form, trailing, dtype = b.choose(
        [
            ("{}.amax(0)", ROW, "float"), ("{}.max(0).values", ROW, "float"), ("{}.min()", SCALAR, "float"),
            ("{}.amin((0, 1))", SCALAR, "float"), ("{}.max()", SCALAR, "float"), ("{}[:, 1].argmax()", SCALAR, "int"),
            ("torch.aminmax({}[:, 0])[1]", SCALAR, "float"), ("{}.min(0, keepdim=True)[0].squeeze(0)", ROW, "float"),
        ]
    )  # fmt: skip
    return b.emit(form.format(a), [a], WHOLE, trailing, dtype)


def counts(b: Builder) -> Value:
    """How many rows a condition holds for, and sizes as numbers."""
    m = b.pick(dtype="bool")
    form = b.choose(["{}.sum() / {}.numel()", "{}.double().mean()", "{}.any().double()", "{}.all() * self.w.sum()",
                     "{}.sum().double() / {}.size(0)", "self.w.sum() / {}.size(0)"])  # fmt: skip
    return b.emit(form.replace("{}", str(m)), [m], WHOLE, SCALAR)


def normalise(b: Builder) -> Value:
    """Rows by what is known of all rows."""
    a = b.pick(trailing=[ROW])
    form = b.choose(
        [
            "{a} - {a}.mean(0)", "({a} - {a}.mean(0)) / ({a}.var(0, unbiased=False) + 1e-3).sqrt()",
            "{a}.softmax(0)", "self.bn({a})", "{a} / ({a}.norm() + 1)", "{a} / ({a}.abs().sum(0, keepdim=True) + 1)",
            "F.batch_norm({a}, None, None, self.w, self.w, True, 0.1, 1e-3)", "{a}.log_softmax(dim=0)",
            "F.instance_norm({a}.t().unsqueeze(0), eps=1e-3).squeeze(0).t()", "{a} @ ({a}.t() @ {a}).softmax(-1)",
            "{a} - {a}.sum(0) / {a}.size(0)",
        ]
    )  # fmt: skip
    return b.emit(form.format(a=a), [a], a.rows, ROW)


def between_whole(b: Builder) -> Value:
    """Among values that every rank holds."""
    a = b.pick(WHOLE, [ROW])
    c = b.like(a)
    form, trailing = b.choose([("{} * {}", ROW), ("self.lin({} + {})", ROW), ("({} * {}).sum()", SCALAR),
                               ("torch.outer({}, {}).mean(0)", ROW)])  # fmt: skip
    return b.emit(form.format(a, c), [a, c], WHOLE, trailing)


def loss(b: Builder) -> Value:
    """A loss over the rows."""
    a = b.pick(trailing=[ROW])
    form = b.choose(
        [
            "F.mse_loss({a}, {c})", "F.l1_loss({a}, {c}.detach() + 10)", "F.smooth_l1_loss({a}, {c}, reduction='sum')",
            "F.binary_cross_entropy_with_logits({a}, {c}.sigmoid().detach())", "F.huber_loss({a}, {c})",
            "F.kl_div({a}.log_softmax(1), {c}.softmax(1), reduction='batchmean')",
            "F.binary_cross_entropy({a}.sigmoid(), {c}.sigmoid().detach())", "F.cosine_embedding_loss({a}, {c} + 2, torch.ones_like({a}[:, 0]))",  # noqa: E501
        ]
    )  # fmt: skip
    c = b.like(a)
    return b.emit(form.format(a=a, c=c), [a, c], WHOLE, SCALAR)


def class_loss(b: Builder) -> Value:
    """A loss over classes."""
    y = b.pick(dtype="int", trailing=[SCALAR])
    a = b.pick(y.rows, [ROW])
    form = b.choose(
        [
            "F.cross_entropy({a}, {y} % 4)", "F.nll_loss({a}.log_softmax(-1), {y} % 4)",
            "F.cross_entropy({a}, {y} % 4, reduction='sum')", "F.cross_entropy({a}, {y} % 4, label_smoothing=0.1)",
            "F.cross_entropy({a}, {y} % 4, weight=self.w.detach().abs() + 0.1)",
            "F.cross_entropy({a}, {y} % 4, ignore_index=1, reduction='sum')",
            "F.cross_entropy({a}, {y} % 4, reduction='none').mean()", "F.multi_margin_loss({a}, {y} % 4)",
        ]
    )  # fmt: skip
    return b.emit(form.format(a=a, y=y), [a, y], WHOLE, SCALAR)


STEPS: tuple[Step, ...] = (
    reduce,
    reduce,
    extreme,
    counts,
    normalise,
    normalise,
    between_whole,
    loss,
    class_loss,
)
