"""Undocumented names of torch, PyG, numba and llvmlite are read in ``graphshard/private`` alone."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from torch import nn

from graphshard.tools import rooms

PACKAGES = ("torch", "torch_geometric", "numba", "llvmlite")
WHOLE = ("numba.core", "llvmlite")
"""Undocumented, or only of use to who writes code for numba: nothing of them at all."""
INTERNALS = re.compile(
    r"""
    \.node\.(expr|shape_env) | shape_env | create_unbacked_symint | fake_mode\b(?!_of)
    | getattr_static | getBackendName | \.name\(\)
    """,
    re.VERBOSE,
)
"""What is undocumented without an underscore, as text of an expression."""

ALLOWED = {
    "torch._check": "documented: https://docs.pytorch.org/docs/stable/torch.html#utilities",
    "aten._": "an op, by the name in its schema, as in PyTorch's list of its IR; rules have tests of their ops",
}
"""The expressions that may be read anywhere, by how they begin, each with its reason."""

DOCUMENTED = {"_replace"}
"""Of Python's ``collections.namedtuple``: an underscore keeps its methods apart from fields."""

OWN = {"_model", "_group", "_node_parameters", "_graphshard", "_make_whole", "_take_owned", "_exit"}
"""Names of graphshard's own classes, and ``os._exit``, where one part of the package reads them of another."""


def reads(source: str) -> Iterator[tuple[int, str]]:
    """(line, expression) of each undocumented name that a file reads."""
    tree = ast.parse(source)
    classes = [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef) and not is_module(node)]
    own_class = {inner for cls in classes for inner in ast.walk(cls)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            text = ast.unparse(node)
            if (is_private(node.attr) and not is_own(node, node in own_class)) or INTERNALS.search(text):
                yield node.lineno, text
        elif isinstance(node, ast.Call):
            yield from called(node)
        elif isinstance(node, ast.Import):
            yield from ((node.lineno, a.name) for a in node.names if is_internal(a.name))
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from ((node.lineno, name) for name in names if is_internal(name))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and is_internal(node.value):
            yield node.lineno, node.value


def called(node: ast.Call) -> Iterator[tuple[int, str]]:
    """What a call asks for by a name in a string: ``getattr(op, "_schema")``, ``patch.object(F, "_check")``."""
    text = ast.unparse(node)
    if text.endswith(".name()"):
        yield node.lineno, text
    if re.fullmatch(r"(get|has|set|del)attr|.*\bpatch\.object", ast.unparse(node.func)):
        strings = [a.value for a in node.args if isinstance(a, ast.Constant) and isinstance(a.value, str)]
        if any(is_private(name) and name not in OWN for name in strings):
            yield node.lineno, text


def is_private(name: str) -> bool:
    return (
        name.startswith("_")
        and name not in DOCUMENTED
        and not (name.startswith("__") and name.endswith("__"))
    )


def is_module(node: ast.ClassDef) -> bool:
    return any("Module" in ast.unparse(base) for base in node.bases)


def is_own(node: ast.Attribute, in_own_class: bool) -> bool:
    """A name of the object's own class, or of graphshard's; what torch's modules keep is not theirs who inherit it."""
    holder = node.value
    is_self = isinstance(holder, ast.Name) and holder.id in ("self", "cls")
    return (is_self and (in_own_class or node.attr not in INHERITED)) or node.attr in OWN


def is_internal(name: str) -> bool:
    """Whether a dotted name leads into something undocumented of one of the packages."""
    parts = name.split(".")
    if parts[0] not in PACKAGES or not re.fullmatch(r"[\w.]+", name):
        return False
    return any(map(is_private, parts)) or any(f"{name}.".startswith(f"{whole}.") for whole in WHOLE)


INHERITED = set(filter(is_private, dir(nn.BatchNorm1d(1))))
"""What a subclass of ``nn.Module`` finds in itself that torch does not document."""


def offences(source: str) -> list[str]:
    found = [(line, text) for line, text in reads(source) if not text.startswith(tuple(ALLOWED))]
    return [f"{line}: {text}" for line, text in found]


FILES = {name: path for name, path in rooms.modules().items() if rooms.room_of(f"{name}.") != "private"}


@pytest.mark.parametrize("name", FILES)
def test_nothing_undocumented_is_read_outside_of_private(name: str) -> None:
    found = offences(FILES[name].read_text(encoding="utf-8"))
    assert not found, (
        f"{FILES[name]} reads what no package documents; give it a function in graphshard/private"
    )


@pytest.mark.parametrize(
    "source",
    [
        "import torch\nx = torch._C._nn",
        "import torch._dynamo",
        "from torch.utils import _pytree as pytree",
        "from torch._subclasses import FakeTensor",
        "from torch.nn.modules.batchnorm import _BatchNorm",
        "from llvmlite import ir",
        "import llvmlite",
        "from numba.core import cgutils",
        "y = module._parameters",
        "self._buffers = {}",
        "self._check_input_dim(x)",
        "getattr(op, '_schema')",
        "mock.patch.object(F, '_verify_batch_size')",
        "v = tensor._version",
        "s = target._schema",
        "n = size.node.expr",
        "m = example.fake_mode",
        "b = pg.name()",
        "PRELOADED = ['torch.export._trace']",
    ],
)
def test_an_undocumented_name_would_be_found(source: str) -> None:
    assert offences(source)


@pytest.mark.parametrize(
    "source",
    ["import torch\ntorch._check(True)", "aten._to_copy.default", "self._x", "a.__name__", "a._replace(b=1)"],
)
def test_what_is_documented_may_be_read(source: str) -> None:
    assert not offences(source)


def test_every_file_of_private_has_a_test() -> None:
    tests = "".join(
        file.read_text(encoding="utf-8") for file in sorted(Path(__file__).parent.glob("test_*.py"))
    )
    files = {n.rpartition(".")[2] for n in rooms.modules() if rooms.room_of(f"{n}.") == "private"}
    assert all(re.search(rf"\b{file}\b", tests) for file in files), files
