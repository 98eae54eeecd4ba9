"""The kernels' machine code on disk: never of other sources, never of other arguments, and not needed at all."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.repository import ROOT

pytest.importorskip("numba")

FILES = (
    *(f"kernels/{name}" for name in ("dropout_loops", "edge_loops", "extreme_loops", "machine_code")),
    *("kernels/numba_kernels", "kernels/vectors", "private/numba_internals"),
)

# Row 0 reads the rows 1 and 2 of the table: sums are 1 + 2 in each column, maxima 2 with one tie.
PROGRAM = """
import sys
import numpy as np
from graphshard.kernels import numba_kernels as loops
from graphshard.kernels.vectors import AHEAD

def results(dtype):
    start, col = np.array([0, 2]), np.array([1, 2] + [0] * AHEAD)
    table = np.arange(6, dtype=dtype) // 2
    out, ties = np.empty(2, dtype), np.empty(2, dtype)
    loops.sums(start, col, None, None, 1, 0, table, 1, 2, out, 2, 0, 0, 1)
    sums = out.tolist()
    loops.sums(start, col, np.full(2, 2, dtype), None, 1, 0, table, 1, 2, out, 2, 0, 0, 1)
    weighted = out.tolist()
    loops.largest(start, col, table, 2, out, ties, 0, 1)
    return sums + weighted + out.tolist() + ties.tolist()

print(*(x for name in sys.argv[1:] for x in results(np.dtype(name))))
"""
RIGHT = [3.0, 3.0, 6.0, 6.0, 2.0, 2.0, 1.0, 1.0]


def install(folder: Path) -> Path:
    """The compiled kernels as a package of their own: importing it does not import torch."""
    package = folder / "graphshard"
    for room in ("kernels", "private"):
        (package / room).mkdir(parents=True)
    for name in ("__init__", "kernels/__init__", "private/__init__"):
        (package / f"{name}.py").touch()
    for name in FILES:
        (package / f"{name}.py").write_bytes((ROOT / "graphshard" / f"{name}.py").read_bytes())
    return folder


def edit(folder: Path, name: str, old: str, new: str) -> None:
    """Change one place of a file, and neither its size nor its time."""
    file = folder / "graphshard" / f"{name}.py"
    text, kept = file.read_text(), file.stat()
    assert old in text
    assert len(old) == len(new)
    file.write_text(text.replace(old, new, 1))
    os.utime(file, ns=(kept.st_atime_ns, kept.st_mtime_ns))


def start(folder: Path, *dtypes: str, **env: str) -> subprocess.Popen[str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("NUMBA_", "XDG_", "PYTHON", "COV_"))}
    settings = {"PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"} | env
    command = [sys.executable, "-c", PROGRAM, *(dtypes or ["float32"])]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, env=kept | settings, cwd=folder, stdout=pipe, stderr=pipe, text=True)


def ended(process: subprocess.Popen[str]) -> tuple[list[float], str]:
    """The results, and what was said beside them."""
    stdout, stderr = process.communicate(timeout=200)
    assert process.returncode == 0, stderr
    return [float(word) for word in stdout.split()], stderr


def run(folder: Path, *dtypes: str, **env: str) -> tuple[list[float], str]:
    return ended(start(folder, *dtypes, **env))


def code_in(folder: Path) -> dict[Path, int]:
    """numba's files under a folder, and when each was written."""
    return {file: file.stat().st_mtime_ns for file in folder.rglob("*.nb[ic]")}


EDITS = {
    "kernels/vectors": ("self.zero = self.constant(0.0)", "self.zero = self.constant(1.0)"),
    "kernels/edge_loops": ("[block.zero] * block.count, add", "[block.full] * block.count, add"),
    "kernels/extreme_loops": ("one = block.constant(1.0)", "one = block.constant(5.0)"),
    "kernels/numba_kernels": ("rowptr[i + 1], i * columns", "rowptr[i + 0], i * columns"),
    "kernels/machine_code": ("numba numbers the files", "numba Numbers the files"),
    "private/numba_internals": ("a type of numba, as", "A type of numba, as"),
}


def test_a_change_of_any_source_is_compiled_anew(tmp_path: Path) -> None:
    top = install(tmp_path / "top")
    # A name that the edit of edge_loops.py can use, of the same length as `zero`.
    vectors = top / "graphshard" / "kernels" / "vectors.py"
    zero = "        self.zero = self.constant(0.0)\n"
    vectors.write_text(
        vectors.read_text().replace(zero, zero + zero.replace("zero", "full").replace("0.0", "7.0"))
    )
    assert run(top) == (RIGHT, "")
    before = code_in(top)
    found = {}
    for name, (old, new) in EDITS.items():
        edit(top, name, old, new)
        found[name] = run(top)[0]
        edit(top, name, new, old)
    assert found == {
        "kernels/vectors": [4.0, 4.0, 7.0, 7.0, *RIGHT[4:]],
        "kernels/edge_loops": [10.0, 10.0, 13.0, 13.0, *RIGHT[4:]],
        "kernels/extreme_loops": [*RIGHT[:6], 5.0, 5.0],
        "kernels/numba_kernels": [0.0, 0.0, 0.0, 0.0, *RIGHT[4:]],
        "kernels/machine_code": RIGHT,
        "private/numba_internals": RIGHT,
    }
    after = code_in(top)
    assert len(after) == len(before) * (1 + len(EDITS))
    # The sources of the beginning find their code again.
    assert run(top) == (RIGHT, "")
    assert code_in(top) == after


def test_versions_and_processes_share_a_folder(tmp_path: Path) -> None:
    old, new, shared = install(tmp_path / "old"), install(tmp_path / "new"), tmp_path / "shared"
    edit(new, "kernels/vectors", *EDITS["kernels/vectors"])
    changed = [4.0, 4.0, 7.0, 7.0, *RIGHT[4:]]
    # All at once, each in its own order: which process writes what is left to chance.
    orders = [("float32", "float64"), ("float64", "float32")]
    started = [(top, start(top, *o, NUMBA_CACHE_DIR=str(shared))) for top in (old, new) for o in orders]
    for top, process in started:
        assert ended(process) == ((RIGHT if top == old else changed) * 2, "")
    written = code_in(shared)
    # An index and the machine code for two dtypes of one loop with one kind of weights, of another with two.
    assert len(written) == 2 * ((1 + 2) + (1 + 4))
    for top, right in ((old, RIGHT), (new, changed)):
        assert run(top, *orders[0], NUMBA_CACHE_DIR=str(shared)) == (right * 2, "")
    assert code_in(shared) == written
    assert not code_in(tmp_path / "old")


def test_the_users_folder_is_used_where_the_sources_are_read_only(tmp_path: Path) -> None:
    top = install(tmp_path / "top")
    (top / "graphshard" / "kernels" / "__pycache__").touch()  # no folder: not even root can write there
    # numba's choice of folders for the user's own functions is not the kernels'.
    env = {"XDG_CACHE_HOME": str(tmp_path / "user"), "NUMBA_CACHE_LOCATOR_CLASSES": "InTreeCacheLocator"}
    assert run(top, **env) == (RIGHT, "")
    assert code_in(tmp_path / "user")


def test_no_folder_at_all_is_one_warning(tmp_path: Path) -> None:
    top = install(tmp_path / "top")
    (top / "graphshard" / "kernels" / "__pycache__").touch()
    nowhere = {"HOME": "/proc/nowhere", "NUMBA_CACHE_DIR": "/proc/nowhere"}
    found, said = run(top, "float32", "float64", **nowhere)
    assert found == RIGHT * 2
    assert said.count("RuntimeWarning: ") == 1
    assert "compiled anew in every process" in said
    assert "/proc/nowhere" in said
    assert "set NUMBA_CACHE_DIR" in said


def test_code_that_cannot_be_read_is_one_warning(tmp_path: Path) -> None:
    top = install(tmp_path / "top")
    run(top)
    for file in code_in(top):
        file.write_bytes(b"")
    found, said = run(top)
    assert found == RIGHT
    assert said.count("RuntimeWarning: ") == 1
    assert "cannot be used" in said


@pytest.mark.parametrize("error", ["ImportError", "OSError"])
def test_a_broken_numba_is_one_warning_and_torchs_kernels(tmp_path: Path, error: str) -> None:
    (tmp_path / "numba").mkdir()
    (tmp_path / "numba" / "__init__.py").write_text(f"raise {error}('numba needs another NumPy')\n")
    program = (
        "import torch\n"
        "import graphshard.kernels.preloaded\n"  # what the ranks' forkserver imports
        "from graphshard.kernels.interface import kernels_for\n"
        "print(*(type(kernels_for(torch.ones(1, dtype=d))).__name__ for d in (torch.float32, torch.float64)))"
    )
    root = str(ROOT)
    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), root]), "PYTHONWARNINGS": "default"}
    command = [sys.executable, "-c", program]
    done = subprocess.run(
        command, env=env, cwd=tmp_path, capture_output=True, text=True, timeout=200, check=True
    )
    assert done.stdout.split() == ["TorchKernels"] * 2
    assert done.stderr.count("RuntimeWarning: ") == 1
    assert f"{error}: numba needs another NumPy" in done.stderr
    assert "repair numba, or uninstall it" in done.stderr
