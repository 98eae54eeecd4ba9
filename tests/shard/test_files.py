"""Shards on disk: a whole set or a clear refusal, never half a set."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import stat
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.shard_cases import assert_same, sharded

import graphshard
from graphshard.errors import ShardError
from graphshard.partitioning.partition import partition
from graphshard.shard import files as shard_io
from graphshard.shard.files import load_shard, save


@given(st.integers(1, 4), st.integers(0, 1000))
@settings(max_examples=10, deadline=None)
def test_roundtrip(tmp_path_factory: pytest.TempPathFactory, parts: int, seed: int) -> None:
    shards = sharded(parts, seed=seed)
    path = tmp_path_factory.mktemp("parts") / "set"
    shards.save(path)
    assert len(list(path.iterdir())) == parts + 1
    for shard in shards:
        assert_same(shard, load_shard(path, rank=shard.rank))


def test_same_shards_same_bytes(tmp_path: Path) -> None:
    save(sharded(), tmp_path / "a")
    save(sharded(), tmp_path / "b")
    names = sorted(file.name for file in (tmp_path / "a").iterdir())
    assert names == sorted(file.name for file in (tmp_path / "b").iterdir())
    for name in names:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_reads_only_its_own_file(tmp_path: Path) -> None:
    sharded().save(tmp_path / "p")
    next((tmp_path / "p").glob("rank-00001*")).unlink()
    assert load_shard(tmp_path / "p", 0, 2).rank == 0
    with pytest.raises(ShardError, match=r"rank-00001-of-00002-.* is missing"):
        load_shard(tmp_path / "p", 1, 2)


def test_rank_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sharded().save(tmp_path / "p")
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with pytest.raises(ShardError, match="made for 2 ranks, this job has 1"):
        load_shard(tmp_path / "p")
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert load_shard(tmp_path / "p").rank == 1
    monkeypatch.setenv("RANK", "one")
    with pytest.raises(ShardError, match="RANK is 'one', not a number"):
        load_shard(tmp_path / "p")


def test_wrong_job(tmp_path: Path) -> None:
    sharded(4).save(tmp_path / "p")
    with pytest.raises(
        ShardError, match=r"made for 4 ranks, this job has 2: run `graphshard partition` .* --parts 2"
    ):
        load_shard(tmp_path / "p", 0, 2)
    for rank in (4, -1):
        with pytest.raises(ShardError, match=rf"rank {rank} is out of range: .* shards 0\.\.3"):
            load_shard(tmp_path / "p", rank)


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "p"
    sharded().save(path)
    file = next(path.glob("rank-00000*"))
    good = file.read_bytes()
    for position in range(0, len(good), 97):
        file.write_bytes(good[:position] + bytes([good[position] ^ 1]) + good[position + 1 :])
        with pytest.raises(ShardError, match="checksum does not fit the manifest"):
            load_shard(path, 0)
    file.write_bytes(good[:-1])
    with pytest.raises(ShardError, match="is damaged: it has"):
        load_shard(path, 0, verify_checksum=False)
    file.write_bytes(b"\xff" * len(good))
    with pytest.raises(ShardError, match="is damaged"):
        load_shard(path, 0, verify_checksum=False)
    file.write_bytes(good)
    load_shard(path, 0)


def test_damaged_manifests_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "p"
    with pytest.raises(ShardError, match="there is no directory"):
        load_shard(path)
    sharded(1).save(path)
    file = path / "manifest.json"
    text = file.read_text()
    cases = {
        text[:-9]: "it is not JSON",
        "[]": "not a manifest of graphshard",
        json.dumps(json.loads(text) | {"version": 9}): "format version 9, this graphshard reads version 4",
        text.replace('"num_nodes": 9', '"num_nodes": 8'): "its checksum does not fit its content",
    }
    for content, message in cases.items():
        file.write_text(content)
        with pytest.raises(ShardError, match=message):
            load_shard(path)
    file.unlink()
    with pytest.raises(ShardError, match=r"manifest\.json is missing"):
        load_shard(path)


def test_only_an_older_set_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "p"
    path.mkdir()
    sharded(3).save(path)  # an empty directory is fine
    (path / "notes.txt").write_text("mine")
    sharded(2, seed=1).save(path)
    assert_same(sharded(2, seed=1)[1], load_shard(path, 1))
    assert len(list(path.glob("rank-*"))) == 2
    assert (path / "notes.txt").read_text() == "mine"
    other = tmp_path / "home"
    other.mkdir()
    (other / "manifest.json").write_text('{"format": "other"}')
    for target in (other, other / "manifest.json"):
        with pytest.raises(ShardError, match="exists and holds no shards"):
            sharded().save(target)
    with pytest.raises(ShardError, match="cannot write shards"):
        sharded().save(tmp_path / "no" / "such" / "parent")
    with pytest.raises(ShardError, match="every rank's shard"):
        save(sharded()[:1], tmp_path / "q")


class Crash(BaseException):
    """Not an Exception: nothing may catch it and tidy up, as after a power cut."""


def _crash_at(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """The ``step``-th write, sync, rename or removal of the module does not happen."""
    left = iter(range(step))

    def guarded(function):  # type: ignore[no-untyped-def]
        def run(*args, **kwargs):  # type: ignore[no-untyped-def]
            if next(left, None) is None:
                raise Crash
            return function(*args, **kwargs)

        return run

    for owner, name in (
        (Path, "replace"),
        (Path, "rename"),
        (Path, "unlink"),
        (shard_io, "write_streamed"),
        (shard_io, "sync"),
    ):
        monkeypatch.setattr(owner, name, guarded(getattr(owner, name)))


def test_a_crash_leaves_one_whole_set(tmp_path: Path) -> None:
    old, new = sharded(2), sharded(3, seed=5)
    seen = set()
    for step in range(40):
        path = tmp_path / f"p{step}"
        old.save(path)
        with pytest.MonkeyPatch.context() as patch:
            _crash_at(patch, step)
            try:
                new.save(path)
                finished = True
            except Crash:
                finished = False
        size = json.loads((path / "manifest.json").read_text())["world_size"]
        expected = {2: old, 3: new}[size]
        for shard in expected:
            assert_same(shard, load_shard(path, shard.rank))
        seen.add(size)
        new.save(path)  # and the leftovers are cleared by the next save
        assert len(list(path.iterdir())) == 4
        if finished:
            break
    assert finished
    assert seen == {2, 3}


def test_a_crash_of_a_first_save_leaves_nothing(tmp_path: Path) -> None:
    for step in range(6):
        with pytest.MonkeyPatch.context() as patch:
            _crash_at(patch, step)
            with pytest.raises(Crash):
                sharded().save(tmp_path / "p")
        assert list(tmp_path.iterdir()) == []


def test_readers_during_a_save_see_one_set(tmp_path: Path) -> None:
    path = tmp_path / "p"
    sets = [sharded(2, seed=seed) for seed in (0, 1)]
    sets[0].save(path)
    done = threading.Event()

    def write() -> None:
        for turn in range(20):
            sets[turn % 2].save(path)
        done.set()

    writer = threading.Thread(target=write)
    writer.start()
    wholes = [s[0].x for s in sets]
    while not done.is_set():
        with suppress(ShardError):  # of the old manifest, read just before its files were removed
            x = load_shard(path, 0).x
            assert any(torch.equal(x.local(), whole.local()) for whole in wholes)
    writer.join()


def test_complex_is_refused(tmp_path: Path) -> None:
    data = {"z": torch.zeros(3, dtype=torch.complex64), "edge_index": torch.zeros(2, 1).long()}
    with pytest.raises(ShardError, match="'z' is complex"):
        partition(data, 1).save(tmp_path / "p")
    assert list(tmp_path.iterdir()) == []


def _save_in_a_process(shards: Any, path: Path) -> Any:
    process = multiprocessing.get_context("fork").Process(target=shards.save, args=(path,))
    process.start()
    return process


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork.*:DeprecationWarning")
def test_two_saves_at_once_leave_one_whole_set(tmp_path: Path) -> None:
    sets = {2: sharded(2), 3: sharded(3, seed=5)}
    for number in range(6):
        path = tmp_path / f"p{number}"
        if number % 2:
            sets[2].save(path)
        saves = [_save_in_a_process(shards, path) for shards in sets.values()]
        for process in saves:
            process.join()
            assert process.exitcode == 0
        size = json.loads((path / "manifest.json").read_text())["world_size"]
        for shard in sets[size]:
            assert_same(shard, load_shard(path, shard.rank))
        assert len(list(path.iterdir())) == size + 1


def test_the_present_directory_is_written_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for shards in (sharded(2), sharded(3, seed=5)):
        shards.save(".")
        for shard in shards:
            assert_same(shard, load_shard(".", shard.rank, len(shards)))
        assert len(list(tmp_path.iterdir())) == len(shards) + 1
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path / "other")
    Path("notes").touch()
    with pytest.raises(ShardError, match="holds no shards"):
        sharded().save(".")
    assert [path.name for path in Path().iterdir()] == ["notes"]


def test_a_crash_in_an_empty_directory_leaves_none_or_a_whole_set(tmp_path: Path) -> None:
    for step in range(40):
        path = tmp_path / f"p{step}"
        path.mkdir()
        with pytest.MonkeyPatch.context() as patch:
            _crash_at(patch, step)
            try:
                sharded(2).save(path)
                break
            except Crash:
                pass
        if not (path / "manifest.json").exists():
            with pytest.raises(ShardError, match="holds no shards"):
                load_shard(path, 0)
            sharded(2).save(path)
        for shard in sharded(2):
            assert_same(shard, load_shard(path, shard.rank))
        assert len(list(path.iterdir())) >= 3


def test_a_failed_save_leaves_a_directory_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sharded(2).save(tmp_path / "old")
    (tmp_path / "empty").mkdir()
    before = {name: sorted((tmp_path / name).iterdir()) for name in ("old", "empty")}
    monkeypatch.setattr(shard_io.ShardFiles, "finish", _no_space)
    for name, files in before.items():
        with pytest.raises(ShardError, match="No space left"):
            sharded(3).save(tmp_path / name)
        assert sorted((tmp_path / name).iterdir()) == files


def test_a_failed_save_over_a_set_of_another_version_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not that the set which it was to replace is of another version; and that set keeps its files."""
    sharded(2).save(tmp_path)
    files, manifest = set(tmp_path.iterdir()), tmp_path / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"version": 4', '"version": 3'))
    monkeypatch.setattr(shard_io.ShardFiles, "finish", _no_space)
    with pytest.raises(ShardError, match="No space left"):
        sharded(3).save(tmp_path)
    assert files <= set(tmp_path.iterdir())


def _no_space(_: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_what_a_killed_save_left_in_a_directory_is_removed_by_the_next(tmp_path: Path) -> None:
    for name in ("rank-00000-of-00009-0123abcd.safetensors", f".writing-{'0' * 32}"):
        (tmp_path / name).touch()
    sharded(2).save(tmp_path)
    assert len(list(tmp_path.iterdir())) == 3


def test_what_a_killed_save_left_is_removed_by_the_next(tmp_path: Path) -> None:
    left, other = tmp_path / f".p-{'0' * 32}", tmp_path / ".p-of-mine"
    for folder in (left, other):
        folder.mkdir()
        (folder / "file").touch()
    sharded(2).save(tmp_path / "p")
    assert sorted(path.name for path in tmp_path.iterdir()) == [other.name, "p"]


def test_files_follow_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        sharded(2).save(tmp_path / "p")
    finally:
        os.umask(before)
    assert {stat.S_IMODE(file.stat().st_mode) for file in (tmp_path / "p").iterdir()} == {0o640}


class Mean(torch.nn.Module):
    def forward(self, x: torch.Tensor, edge_index: torch.Tensor) -> torch.Tensor:
        return torch.zeros_like(x).index_add(0, edge_index[1], x[edge_index[0]])


def _cut_short(file: Path) -> None:
    with file.open("r+b") as stream:
        stream.truncate(64)


def _one_byte(file: Path) -> None:
    with file.open("r+b") as stream:
        stream.seek(-1, os.SEEK_END)
        stream.write(b"\x07")


@pytest.mark.parametrize("write", [_cut_short, _one_byte])
@pytest.mark.parametrize("moved", [lambda s: s, lambda s: s.to(torch.float64)])
def test_a_file_that_is_written_to_later_is_said(tmp_path: Path, write: Any, moved: Any) -> None:
    """Tensors lie in the file: of one that was cut short, reading them would end the process (SIGBUS)."""
    data = {"x": torch.rand(8, 2), "edge_index": torch.randint(0, 8, (2, 20))}
    partition(data, 1).save(tmp_path / "p")
    shard, model = load_shard(tmp_path / "p"), graphshard.distribute(Mean())
    shard = moved(shard)
    model(shard)
    (file,) = (tmp_path / "p").glob("rank-00000*")
    write(file)
    with pytest.raises(ShardError, match="was written to since this shard was loaded from it"):
        model(shard)


def test_a_file_that_is_replaced_or_removed_later_is_read_as_it_was(tmp_path: Path) -> None:
    data = {"x": torch.rand(8, 2), "edge_index": torch.randint(0, 8, (2, 20))}
    partition(data, 1).save(tmp_path / "p")
    shard, model = load_shard(tmp_path / "p"), graphshard.distribute(Mean())
    expected = model(shard)
    partition(data | {"x": torch.zeros(8, 2)}, 1).save(tmp_path / "p")
    assert torch.equal(model(shard), expected)
