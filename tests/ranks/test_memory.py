"""The allocator of the processes that graphshard starts: found, told to them, and left out where it is not wanted."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from graphshard import load_shard, partition
from graphshard.errors import GraphshardError
from graphshard.ranks import memory
from graphshard.ranks.memory import (
    allocator_environment,
    allocator_path,
    return_free_memory,
    return_mapped_pages,
    with_allocator,
)
from graphshard.tools.cli.app import app

linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="nothing is preloaded but on Linux")


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package of mimalloc's name, as pip leaves it."""
    path = tmp_path / "cmeel.prefix" / "lib" / "libmimalloc.so"
    path.parent.mkdir(parents=True)
    path.touch()
    about = tmp_path / "cmeel_mimalloc-3.4.3.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: cmeel-mimalloc\nVersion: 3.4.3\n")
    (about / "RECORD").write_text("cmeel.prefix/lib/libmimalloc.so,,\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delenv("GRAPHSHARD_ALLOCATOR", raising=False)
    monkeypatch.delenv("LD_PRELOAD", raising=False)
    return path


@pytest.fixture
def no_library(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> list[metadata.PackagePath]:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(memory.metadata, "files", missing)
    monkeypatch.delenv("GRAPHSHARD_ALLOCATOR", raising=False)


@linux
def test_it_is_found_by_what_pip_says_of_the_package(library: Path) -> None:
    assert allocator_path() == library.resolve()
    library.unlink()
    assert allocator_path() is None


@linux
def test_a_process_is_told_of_it(library: Path) -> None:
    path = str(library.resolve())
    assert allocator_environment({}) == {"LD_PRELOAD": path, "MIMALLOC_PURGE_DELAY": "-1"}
    assert allocator_environment({"MIMALLOC_PURGE_DELAY": "5"}) == {"LD_PRELOAD": path}
    own = "/lib/mine.so /lib/other.so"
    assert allocator_environment({"LD_PRELOAD": own})["LD_PRELOAD"] == f"{own}:{path}"
    again = f"{own}:{path}"
    assert allocator_environment({"LD_PRELOAD": again})["LD_PRELOAD"] == again


@linux
def test_it_can_be_left_out(library: Path) -> None:
    assert allocator_environment({"GRAPHSHARD_ALLOCATOR": "system"}) == {}
    with pytest.raises(
        GraphshardError, match="GRAPHSHARD_ALLOCATOR is 'tcmalloc': write mimalloc, or system"
    ):
        allocator_environment({"GRAPHSHARD_ALLOCATOR": "tcmalloc"})


@linux
def test_a_path_that_cannot_be_told(library: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "allocator_path", lambda: Path("/my packages/libmimalloc.so"))
    assert allocator_environment({}) == {}


def test_without_the_package_nothing_changes(no_library: None) -> None:
    before = dict(os.environ)
    assert allocator_path() is None
    assert allocator_environment() == {}
    with with_allocator():
        assert dict(os.environ) == before


@linux
def test_only_processes_that_are_started_meanwhile_have_it(
    library: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LD_PRELOAD", "")
    monkeypatch.delenv("MIMALLOC_PURGE_DELAY", raising=False)
    before = dict(os.environ)
    with with_allocator():
        assert os.environ["LD_PRELOAD"] == str(library.resolve())
        assert os.environ["MIMALLOC_PURGE_DELAY"] == "-1"
    assert dict(os.environ) == before


@linux
def test_the_command_prints_what_env_takes(library: Path) -> None:
    done = CliRunner().invoke(app, ["allocator"], catch_exceptions=False)
    assert done.exit_code == 0
    assert done.stdout.split() == [f"LD_PRELOAD={library.resolve()}", "MIMALLOC_PURGE_DELAY=-1"]


def test_the_command_prints_nothing_without_the_package(no_library: None) -> None:
    done = CliRunner().invoke(app, ["allocator"], catch_exceptions=False)
    assert done.exit_code == 0
    assert done.stdout == ""
    assert "graphshard[fast]" in done.stderr


_LAUNCH = """
import ctypes
from graphshard.ranks.launch import launch

def loaded():
    return hasattr(ctypes.CDLL(None), "mi_malloc")

if __name__ == "__main__":
    print(launch(loaded, 2), loaded())
"""


@linux
@pytest.mark.processes
@pytest.mark.parametrize(
    ("choice", "expected"), [("mimalloc", "[True, True] False"), ("system", "[False, False] False")]
)
def test_the_ranks_of_a_launch_have_it(tmp_path: Path, choice: str, expected: str) -> None:
    if allocator_path() is None:
        pytest.skip("cmeel-mimalloc is not installed")
    script = tmp_path / "script.py"
    script.write_text(_LAUNCH)
    environ = {n: v for n, v in os.environ.items() if n != "LD_PRELOAD"} | {"GRAPHSHARD_ALLOCATOR": choice}
    done = subprocess.run(
        [sys.executable, str(script)], env=environ, capture_output=True, text=True, check=True, timeout=120
    )
    assert done.stdout.strip() == expected


@linux
def test_freed_memory_can_be_given_back() -> None:
    assert return_free_memory()


@linux
def test_pages_of_a_file_are_let_go_and_read_again(tmp_path: Path) -> None:
    edges = torch.randint(0, 1000, (2, 1 << 20), generator=torch.Generator().manual_seed(0))
    parts = partition({"x": torch.randn(1000, 2), "edge_index": edges}, 1, num_nodes=1000)
    parts.save(tmp_path / "parts")
    shard = load_shard(tmp_path / "parts")
    whole, added = shard.edge_index, shard.edge_index.clone()
    whole[0, 100] += 1  # a page of its own from now on, which no file has
    added[0, 100] += 1
    before = _of_files()
    return_mapped_pages([whole, torch.ones(1 << 20), torch.ones(2, 2).t(), torch.eye(2).to_sparse()])
    assert _of_files() < before - (15 << 20)
    assert torch.equal(whole, added)


def _of_files() -> int:
    """Bytes of files that are in the memory of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("RssFile"))
