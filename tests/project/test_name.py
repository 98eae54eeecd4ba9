"""What the package is called, which version it is, and what importing it costs."""

import importlib
import os
import subprocess
import sys
import tomllib

import pytest
from support.repository import ROOT

import graphshard

VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]


def python(*args, cwd=None):
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, *args], env=environment, cwd=cwd, capture_output=True, text=True, check=True
    ).stdout


def test_every_public_name_is_there():
    for name in graphshard.__all__:
        assert getattr(graphshard, name) is not None
    assert set(graphshard.__all__) <= set(dir(graphshard))
    with pytest.raises(AttributeError, match="'no_such_name'"):
        graphshard.no_such_name  # noqa: B018


def test_a_public_name_is_where_type_checkers_read_it():
    """The imports under TYPE_CHECKING and the table of homes say the same."""
    text = (ROOT / "graphshard" / "__init__.py").read_text()
    for home, names in graphshard._HOMES.items():
        module = importlib.import_module(f"graphshard.{home}")
        assert f"from graphshard.{home} import" in text
        assert all(getattr(module, name) is getattr(graphshard, name) for name in names)
    assert {name for names in graphshard._HOMES.values() for name in names} == set(graphshard.__all__)


def test_the_function_is_public_whatever_was_imported_before():
    code = "import graphshard.partitioning, graphshard.check.verify, graphshard; "
    code += "print(callable(graphshard.partition), callable(graphshard.verify), callable(graphshard.diff))"
    assert python("-c", code).split() == ["True"] * 3


def test_the_version(tmp_path):
    assert graphshard.__version__ == VERSION
    assert python("-m", "graphshard", "--version", cwd=tmp_path).strip() == f"graphshard {VERSION}"
    assert f"## {VERSION}" in (ROOT / "CHANGELOG.md").read_text()


@pytest.mark.parametrize("command", ["", "train", "verify", "diff", "partition", "coverage", "bench"])
def test_help_does_not_import_torch(command):
    args = [*command.split(), "--help"]
    code = f"""
import sys
from graphshard.tools.cli.app import app
try:
    app({args!r}, prog_name="graphshard")
except SystemExit as done:
    assert not done.code
print({{"torch", "numpy", "networkx"}} & set(sys.modules))
"""
    assert python("-c", code).strip().endswith("set()")


def test_the_licence_travels():
    text = (ROOT / "LICENSE").read_text()
    assert "Apache License" in text.splitlines()[0].strip() or "Apache License" in text[:400]
    assert "END OF TERMS AND CONDITIONS" in text
