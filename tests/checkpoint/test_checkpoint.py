"""Checkpoints: the same run goes on, on other numbers of ranks; a torn one is passed over; another model is refused."""

from __future__ import annotations

import copy
import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from support.wrapped import EDGES, N, X
from torch import Tensor, nn

import graphshard
from graphshard.testing import run_ranks

Y = torch.arange(N) % 3


class Net(nn.Module):
    """Embeddings of the nodes, dropout, a batch norm: all that a run has to keep."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.embedding = nn.Embedding(N, 4)
        self.lin = nn.Linear(4, width)
        self.norm = nn.BatchNorm1d(width)
        self.out = nn.Linear(width, 3)

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        h = x + self.embedding.weight
        h = self.lin(torch.zeros_like(h).index_add(0, edge_index[1], h[edge_index[0]]))
        out: Tensor = self.out(F.dropout(self.norm(h).relu(), 0.5, self.training))
        return out


def cut(parts: int, seed: int = 0) -> Any:
    method = torch.randint(0, parts, (N,), generator=torch.Generator().manual_seed(seed))
    return graphshard.partition({"x": X, "edge_index": EDGES, "y": Y}, parts, method=method)


def made(seed: int = 0, width: int = 4) -> Net:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Net(width).double()


def adam(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.Adam(parameters, lr=0.05, weight_decay=0.01)


def trained(
    parts: int,
    folder: Path,
    steps: int,
    *,
    first: int = 0,
    optimizer: Callable[[Any], torch.optim.Optimizer] = adam,
    seed: int = 0,
) -> list[Any]:
    """Losses and the state after steps that begin where the checkpoint in the folder is; which is then saved anew."""
    shards = cut(parts, seed=parts + seed)
    models = [made(seed=first) for _ in range(parts)]

    def rank(number: int, _name: str, group: Any) -> Any:
        model = graphshard.distribute(
            models[number],
            group=group,
            shard=shards[number],
            node_parameters=["embedding.weight"],
            seed=3 + first,
        )
        moves = optimizer(model.parameters())
        schedule = torch.optim.lr_scheduler.ExponentialLR(moves, 0.9)
        loaded = graphshard.load_checkpoint(folder, model, moves)
        if loaded is not None:
            schedule.load_state_dict(loaded.extra["schedule"])
        start, losses = 0 if loaded is None else loaded.step, []
        for _ in range(steps):
            moves.zero_grad()
            loss = F.cross_entropy(model(shards[number]), shards[number].y)
            loss.backward()
            moves.step()
            schedule.step()
            losses.append(loss.detach().item())
        graphshard.save_checkpoint(
            folder, model, moves, step=start + steps, extra={"schedule": schedule.state_dict()}
        )
        return losses, model.state_dict(), start

    return run_ranks(parts, rank)


OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "adam": adam,
    "momentum": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9),
    "amsgrad": lambda p: torch.optim.AdamW(p, lr=0.05, amsgrad=True),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_run_goes_on_on_other_numbers_of_ranks(name: str, tmp_path: Path) -> None:
    optimizer = OPTIMIZERS[name]
    whole, state, _ = trained(1, tmp_path / "whole", 8, optimizer=optimizer)[0]
    losses: list[float] = []
    runs = [(3, 2), (2, 3), (1, 1), (3, 2)] if name == "adam" else [(2, 4), (3, 4)]
    for number, (parts, steps) in enumerate(runs):
        # The model of a run that goes on begins with other weights: nothing of it may stay.
        found = trained(parts, tmp_path / "run", steps, first=number, optimizer=optimizer, seed=number)
        assert found[0][2] == len(losses)
        losses += found[0][0]
    assert losses == pytest.approx(whole, rel=1e-9)
    for ranks_state in (one[1] for one in found):
        for key, value in state.items():
            torch.testing.assert_close(ranks_state[key], value, rtol=1e-9, atol=1e-9)


def test_it_is_written_beside_training(tmp_path: Path) -> None:
    """What is written is a copy of the moment, whatever training does meanwhile."""
    model = made()
    steps = adam(model.parameters())
    before = copy.deepcopy(model.state_dict())
    writing = graphshard.save_checkpoint(tmp_path, model, steps, step=1, wait=False)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    second = graphshard.save_checkpoint(tmp_path, model, steps, step=2, wait=False, after=writing)
    second.wait()
    shutil.rmtree(second.path)
    again = made(seed=5)
    loaded = graphshard.load_checkpoint(tmp_path, again)
    assert loaded is not None
    assert (loaded.step, loaded.ranks, loaded.path) == (1, 1, writing.path)
    for key, value in before.items():
        assert torch.equal(again.state_dict()[key], value)


def test_the_last_k_are_kept_and_torn_ones_go(tmp_path: Path) -> None:
    model = made()
    for step in range(5):
        graphshard.save_checkpoint(tmp_path, model, step=step, keep=2)
        if step == 3:
            torn = tmp_path / "step-00000003-00000000"
            torn.mkdir()
    assert sorted(int(path.name.split("-")[1]) for path in tmp_path.iterdir()) == [3, 4]
    assert not torn.exists()


def _cut_off(folder: Path) -> None:
    file = next((folder / "rank-00001").glob("*.distcp"))
    file.write_bytes(file.read_bytes()[:-7])


def _flipped(folder: Path) -> None:
    file = next((folder / "rank-00000").glob("*.distcp"))
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 4
    file.write_bytes(bytes(content))


def _without_a_rank(folder: Path) -> None:
    (folder / "rank-00001.json").unlink()


def _edited(folder: Path) -> None:
    file = folder / "rank-00000.json"
    file.write_text(file.read_text().replace('"step"', '"stop"'))


def _no_text(folder: Path) -> None:
    (folder / "rank-00000.json").write_bytes(b"\xff\x00{")


DAMAGES = {
    "cut off": (_cut_off, "bytes instead of"),
    "a bit": (_flipped, "checksum"),
    "a rank that did not finish": (_without_a_rank, "rank 1 did not finish"),
    "edited": (_edited, "checksum"),
    "no text": (_no_text, "cannot be read"),
}


@pytest.fixture(scope="module")
def two_kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two checkpoints of two ranks, to be copied."""
    folder = tmp_path_factory.mktemp("kept")
    for _ in range(2):
        trained(2, folder, 1)
    return folder


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_one_is_passed_over_with_a_warning(name: str, two_kept: Path, tmp_path: Path) -> None:
    damage, said = DAMAGES[name]
    shutil.copytree(two_kept, tmp_path, dirs_exist_ok=True)
    newest = max(tmp_path.iterdir())
    damage(newest)
    model = made(seed=9)
    with pytest.warns(UserWarning, match=f"{newest.name} is passed over: .*{said}"):
        loaded = graphshard.load_checkpoint(tmp_path, model)
    assert loaded is not None
    assert loaded.step == 1
    shutil.rmtree(loaded.path)
    with (
        pytest.warns(UserWarning, match="is passed over"),
        pytest.raises(graphshard.CheckpointError, match="holds no checkpoint that is whole"),
    ):
        graphshard.load_checkpoint(tmp_path, model)


def test_an_empty_folder_is_a_run_that_begins(tmp_path: Path) -> None:
    assert graphshard.load_checkpoint(tmp_path, made()) is None
    assert graphshard.load_checkpoint(tmp_path / "none", made()) is None


def test_another_run_is_refused(tmp_path: Path) -> None:
    model = made()
    graphshard.save_checkpoint(tmp_path, model, step=1)
    with pytest.raises(
        graphshard.CheckpointError, match=r"another model: 'lin.weight' is float64\[4, 4\] in it and"
    ):
        graphshard.load_checkpoint(tmp_path, made(width=5))
    with pytest.raises(graphshard.CheckpointError, match="another model: 'weight' is missing in it and"):
        graphshard.load_checkpoint(tmp_path, nn.Linear(2, 2))
    with pytest.raises(graphshard.CheckpointError, match="saved without an optimiser"):
        graphshard.load_checkpoint(tmp_path, model, adam(model.parameters()))
    graphshard.save_checkpoint(tmp_path, model, adam(model.parameters()), step=2)
    with pytest.raises(graphshard.CheckpointError, match="of another optimiser"):
        graphshard.load_checkpoint(tmp_path, model, adam(model.lin.parameters()))


def test_what_cannot_be_kept_is_named(tmp_path: Path) -> None:
    model = made()
    schedule = torch.optim.lr_scheduler.ExponentialLR(adam(model.parameters()), 0.9)
    with pytest.raises(
        graphshard.CheckpointError, match=r"extra/schedule is a .*ExponentialLR, and .*state_dict"
    ):
        graphshard.save_checkpoint(tmp_path, model, step=1, extra={"schedule": schedule})
    with pytest.raises(graphshard.CheckpointError, match="key that is no text"):
        graphshard.save_checkpoint(tmp_path, model, step=1, extra={(1, 2): 3})  # type: ignore[dict-item]
    with pytest.raises(graphshard.CheckpointError, match="at least 1"):
        graphshard.save_checkpoint(tmp_path, model, step=1, keep=0)
    assert not any(tmp_path.iterdir())


def test_a_folder_that_cannot_be_written_is_one_sentence_on_every_rank(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    models = [made(), made()]

    def rank(number: int, _name: str, group: Any) -> None:
        model = graphshard.distribute(models[number], group=group)
        with pytest.raises(graphshard.CheckpointError, match=r"rank 0: cannot write the checkpoint .*file"):
            graphshard.save_checkpoint(tmp_path / "file", model, step=1)
        with pytest.raises(
            graphshard.CheckpointError, match="every rank saves the same step, but these save 0, 1"
        ):
            graphshard.save_checkpoint(tmp_path, model, step=number)

    run_ranks(2, rank)


def test_random_streams_go_on(tmp_path: Path) -> None:
    model = made()
    state = torch.get_rng_state(), random.getstate(), np.random.get_state()
    try:
        graphshard.save_checkpoint(
            tmp_path, model, step=1, extra={"nan": float("nan"), "pair": (1, None), "x": X}
        )
        drawn = torch.rand(3), random.random(), np.random.rand(2)
        loaded = graphshard.load_checkpoint(tmp_path, model)
        again = torch.rand(3), random.random(), np.random.rand(2)
    finally:
        torch.set_rng_state(state[0])
        random.setstate(state[1])
        np.random.set_state(state[2])
    assert torch.equal(drawn[0], again[0])
    assert drawn[1] == again[1]
    assert np.array_equal(drawn[2], again[2])
    assert loaded is not None
    assert loaded.extra["nan"] != loaded.extra["nan"]
    assert loaded.extra["pair"] == (1, None)
    assert torch.equal(loaded.extra["x"], X)


def test_nothing_of_a_checkpoint_is_run(tmp_path: Path) -> None:
    """A pickle among its files is another file than the manifest says, and is not read."""
    model = made()
    path = graphshard.save_checkpoint(tmp_path, model, step=1).path
    (path / "rank-00000" / ".metadata").write_bytes(b"cos\nabort\n(tR.")
    assert graphshard.load_checkpoint(tmp_path, model) is not None
    manifest = json.loads((path / "rank-00000.json").read_text())
    assert manifest["format"] == "graphshard checkpoint"
