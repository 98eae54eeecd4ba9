"""What README.md and docs/ tell a user to type: every command and every block of code, run or checked.

``./do JOB`` is run as the graphshard command that it stands for; the jobs of ``do`` itself run these very tests.
"""

from __future__ import annotations

import ast
import importlib.util
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from support.pages import PAGES, ROOT, Block, blocks, commands_in_text
from torch.distributed.run import get_args_parser
from typer.testing import CliRunner

pytest.importorskip("torch_geometric")

from graphshard.tools.cli.app import app

pytestmark = pytest.mark.versions

SHELL = [(block, command) for block in blocks("sh") for command in block.commands()]
DO_JOBS = re.findall(r"^ {4}(\w+)\)", (ROOT / "do").read_text(), re.MULTILINE)
RUN_BY_TESTS = (
    *("examples/train_gcn.py", "examples/train_gcn_shards.py", "examples/five_nodes.py"),  # test_examples
    *("tools/bench/small.py", "tools/bench/compiling.py"),  # test_bench
)


def graphshard_arguments(command: str) -> list[str] | None:
    """The arguments of the graphshard command that a command line runs; None where it runs another program."""
    program, *rest = shlex.split(command)
    if program == "graphshard" or (program == "./do" and rest[0] not in DO_JOBS):
        return rest
    return None


def problem_with(arguments: list[str]) -> str:
    """What is wrong with a command line of graphshard's: no such subcommand or option; empty if nothing."""
    own = arguments[: arguments.index("--")] if "--" in arguments else arguments
    done = CliRunner().invoke(app, [*own, "--help"])  # parsed, but not run
    return done.output if done.exit_code else ""


def check_other(command: str) -> None:
    """A command that is not graphshard's: its script or module is there, and is run by a test."""
    words = [word for word in shlex.split(command) if not re.fullmatch(r"[A-Z_]+=\S+", word)]
    if words[0] == "env":  # and the variables that another command prints
        words = words[words.index("torchrun") :]
    program, rest = words[0].rpartition("/")[2], words[1:]
    if program == "do":
        assert rest[0] in DO_JOBS, command
    elif program == "torchrun":
        parsed = get_args_parser().parse_args(rest)
        if parsed.module or parsed.no_python:
            assert parsed.training_script == "graphshard"
            assert not problem_with(parsed.training_script_args)
        else:
            assert parsed.training_script in RUN_BY_TESTS
    elif rest[0] == "-m":
        assert importlib.util.find_spec(rest[1]) is not None, command
    else:
        assert program == "python", command
        assert rest[0] in RUN_BY_TESTS


def test_blocks_say_what_they_are() -> None:
    found = list(blocks())
    assert {block.language for block in found} == {"", "python", "sh"}
    assert sum(page.read_text().count("\n```") for page in PAGES) == 2 * len(found)
    for block in found:
        assert block.language or not block.text.startswith(("import ", "def ", "./do ", "graphshard ")), (
            block.name
        )


def test_files_and_folders_that_pages_name_are_there() -> None:
    """Whole from the root, or as a page says them inside of the package: ``capture/export.py``."""
    named = {
        (page.name, path)
        for page in PAGES
        for path in re.findall(r"`([a-z_]+/(?:[a-z_]+/)*[a-z_]+(?:\.py|\.md|/))`", page.read_text())
    }
    assert len(named) > 50
    missing = [n for n in named if not any((base / n[1]).exists() for base in (ROOT, ROOT / "graphshard"))]
    assert not missing


def test_the_training_listing_is_the_file_word_for_word() -> None:
    first = next(block for block in blocks("python") if block.page.name == "README.md")
    assert first.text == (ROOT / "examples" / "train_gcn.py").read_text()


def test_every_block_of_python_runs(tmp_path: Path) -> None:
    files = [_as_file(block, tmp_path) for block in blocks("python") if block.reason is None]
    run_all = "import runpy, sys\nfor file in sys.argv[1:]: runpy.run_path(file)"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", run_all, *map(str, files)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def _as_file(block: Block, folder: Path) -> Path:
    """A file of the block, with the line numbers of its page."""
    ast.parse(block.text, block.name)
    file = folder / f"{block.page.stem}_{block.line}.py"
    file.write_text("\n" * (block.line - 1) + block.text)
    return file


@pytest.mark.processes
@pytest.mark.parametrize(("block", "command"), SHELL, ids=[f"{b.name}: {c}" for b, c in SHELL])
def test_every_shell_command_runs(
    block: Block, command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = graphshard_arguments(command)
    if arguments is None:
        check_other(command)
        return
    assert not problem_with(arguments)
    if block.reason is None:
        monkeypatch.chdir(tmp_path)
        for name, value in (("PYTHONWARNINGS", ""), ("GRAPHSHARD_DEBUG", ""), ("OMP_NUM_THREADS", "1")):
            monkeypatch.setenv(name, value)
        done = CliRunner().invoke(app, arguments)
        assert done.exit_code == 0, done.output
        assert done.stdout


@pytest.mark.parametrize(("page", "command"), list(commands_in_text()))
def test_every_command_in_the_text_is_one(page: str, command: str) -> None:
    arguments = graphshard_arguments(command)
    if arguments is None:
        check_other(command)
    else:
        assert not problem_with(arguments)


@pytest.mark.parametrize(
    "wrong", ["./do diff gat karate --part 3", "./do difff gat", "graphshard bench speed"]
)
def test_a_command_that_is_none_is_found(wrong: str) -> None:
    arguments = graphshard_arguments(wrong)
    assert arguments is not None
    assert "No such" in problem_with(arguments)
