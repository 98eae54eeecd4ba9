"""examples/train.sbatch, on a cluster of this machine alone: stand-ins for srun and scontrol."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.repository import ROOT

SCRIPT = ROOT / "examples" / "train.sbatch"

STAND_INS = {
    "scontrol": '#!/bin/bash\n[ "$*" = "show hostnames here" ] && echo localhost\n',
    "srun": '#!/bin/bash\nSLURM_NODEID=0 exec "$@"\n',
}


def test_the_page_has_it_word_for_word() -> None:
    assert SCRIPT.read_text() in (ROOT / "docs" / "several-machines.md").read_text()


@pytest.mark.processes
def test_it_trains(tmp_path: Path) -> None:
    for name, text in STAND_INS.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    slurm = {"SLURM_JOB_NODELIST": "here", "SLURM_NNODES": "1", "SLURM_CPUS_PER_TASK": "2"}
    path = os.pathsep.join((str(tmp_path), str(Path(sys.executable).parent), os.environ["PATH"]))
    done = subprocess.run(
        ["bash", str(SCRIPT)],
        cwd=tmp_path,
        env=os.environ | slurm | {"PATH": path, "PYTHONWARNINGS": "ignore"},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert list((tmp_path / "run").iterdir())
