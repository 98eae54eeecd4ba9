"""The scripts of examples/ as a user runs them: under torchrun, on two ranks, against one machine."""

import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from support.repository import ROOT
from torch import Tensor, nn

pytest.importorskip("torch_geometric")

from torch_geometric.datasets import KarateClub

from graphshard.training.script import verify_script

pytestmark = pytest.mark.versions

EXAMPLES = ROOT / "examples"

Losses = list[float]
State = dict[str, Tensor]


def under_torchrun(script: Path, folder: Path) -> tuple[Losses, State]:
    """The losses that the training script prints, and the weights that it saves."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*command, str(script)],
        cwd=folder,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    printed = re.findall(r"^epoch (\d+): loss (\S+)$", done.stdout, re.MULTILINE)
    assert [int(epoch) for epoch, _ in printed] == list(range(100))
    return [float(loss) for _, loss in printed], torch.load(folder / "gcn.pt", weights_only=True)


def on_one_machine(gcn: nn.Module) -> tuple[Losses, State]:
    """The script's loop in PyTorch and PyG alone."""
    data = KarateClub()[0]
    x, mask = data.x.double(), data.train_mask
    optimizer = torch.optim.Adam(gcn.parameters(), lr=0.01)
    losses = []
    for _ in range(100):
        loss = F.cross_entropy(gcn(x, data.edge_index)[mask], data.y[mask])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses, gcn.state_dict()


@pytest.mark.processes
def test_training_on_two_ranks_equals_one_machine(tmp_path: Path) -> None:
    script = EXAMPLES / "train_gcn_shards.py"
    losses, state = under_torchrun(script, tmp_path)
    torch.manual_seed(0)
    expected_losses, expected_state = on_one_machine(runpy.run_path(str(script))["GCN"](34, 4).double())
    assert losses[-1] < losses[0] / 2
    torch.testing.assert_close(losses, expected_losses, rtol=0, atol=1e-9)
    assert state.keys() == expected_state.keys()
    for name, value in state.items():
        torch.testing.assert_close(value, expected_state[name], rtol=0, atol=1e-9)


@pytest.mark.processes
def test_the_first_script_is_one_machine_s_but_for_three_lines() -> None:
    script = EXAMPLES / "train_gcn.py"
    changed = [line for line in script.read_text().splitlines() if re.search(r"# \d$", line)]
    assert [line.split("  #")[0].strip() for line in changed] == [
        *("import graphshard", "graphshard.init()", "model = graphshard.distribute(model)"),
    ]
    report = verify_script(script, num_parts=2, steps=100)
    assert report.passed, report.summary()


def test_five_nodes_prints_what_its_page_says(capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(str(EXAMPLES / "five_nodes.py"), run_name="__main__")
    printed = capsys.readouterr().out
    assert "rank 0: owned ['A', 'B'], halo ['C'], sends ['A', 'B'], edges [[0, 2], [1, 0]]" in printed
    assert printed.count(": PASS: ") == 2
    # Of the texts, those lines that say what was inserted; the page aligns them by hand.
    page = (EXAMPLES.parent / "docs" / "worked-example.md").read_text()
    inserted = {" ".join(line.split()) for line in printed.splitlines() if line.startswith(("+", "~"))}
    shown = [" ".join(line.split()) for line in page.splitlines() if line.startswith(("+ ", "~ "))]
    assert len(shown) > 8
    for line in shown:
        assert any(line in full for full in inserted), line
