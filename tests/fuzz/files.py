"""Damaged files: what is read is refused in one sentence, or is what was written.

::

    python -m fuzz.files --count 10000 --seed 0

Files of torch.save and numpy.savez, and folders of shards with their manifests, are changed at random: bits, bytes,
pieces that are lost, repeated or made up, entries of a manifest, whose checksum is then made anew in half of the cases.
Each is read in a process that is watched, so that a crash of the interpreter and a hang are seen as well.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import random
import shutil
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from support.local import local
from torch import Tensor

import graphshard
from graphshard.errors import GraphshardError
from graphshard.graph.roles import Member, Role
from graphshard.shard.manifest import MANIFEST, manifest_checksum
from graphshard.tools.data.sources import load_data

_MOST_SECONDS = 60.0
_BATCH = 250
Content = dict[str, Tensor]


@dataclass(frozen=True)
class Kind:
    """One form in which a graph is kept.

    Attributes:
        write: the file, or folder, in a folder. read: what it holds.
    """

    write: Callable[[Path], None]
    read: Callable[[Path], Content]


def _graph() -> Any:
    return load_data("sbm:nodes=60,degree=4,features=4")


def _write_npz(folder: Path) -> None:
    np.savez(folder / "g.npz", **{name: t.numpy() for name, t in _graph().tensors.items()})  # type: ignore[arg-type]


def _read_graph(file: Path) -> Content:
    return dict(load_data(str(file)).tensors)


def _read_shards(folder: Path) -> Content:
    found: Content = {}
    for rank in range(2):
        shard = graphshard.load_shard(folder / "g", rank=rank, world_size=2)
        found |= {f"{rank} {name}": local(tensor) for name, tensor in shard.tensors.items()}
        ids = shard.row_ids(Member(Role.NODE))
        assert ids is not None
        found[f"{rank} ids"] = ids
    return found


KINDS = {
    "npz": Kind(_write_npz, lambda folder: _read_graph(folder / "g.npz")),
    "pt": Kind(
        lambda folder: torch.save(dict(_graph().tensors), folder / "g.pt"),
        lambda folder: _read_graph(folder / "g.pt"),
    ),
    "shards": Kind(
        lambda folder: graphshard.partition(dict(_graph().tensors), 2).save(folder / "g"), _read_shards
    ),
}


def damaged(content: bytes, chance: random.Random) -> bytes:
    """Some bytes of a file changed."""
    data, place = bytearray(content), chance.randrange(len(content))
    length = chance.choice([1, 1, 4, 64, 1024])
    piece = bytes(data[place : place + length])
    match chance.choice(["bit", "bit", "bytes", "zeros", "lost", "repeated", "made up", "end", "swapped"]):
        case "bit":
            data[place] ^= 1 << chance.randrange(8)
        case "bytes":
            data[place : place + length] = chance.randbytes(len(piece))
        case "zeros":
            data[place : place + length] = bytes(len(piece))
        case "lost":
            del data[place : place + length]
        case "repeated":
            data[place:place] = piece
        case "made up":
            data[place:place] = chance.randbytes(length)
        case "end":
            del data[place:]
        case "swapped":
            other = chance.randrange(len(data))
            data[place], data[other] = data[other], data[place]
    return bytes(data)


_VALUES: tuple[Any, ...] = (
    None,
    True,
    -1,
    0,
    1,
    2**40,
    2**70,
    0.5,
    "",
    "x",
    "../x",
    [],
    [0],
    {},
    "\0",
    "node",
)


def edited(manifest: Any, chance: random.Random) -> Any:
    """An entry of a manifest changed, somewhere in it."""
    if isinstance(manifest, dict) and manifest:
        key = chance.choice(list(manifest))
        if chance.random() < 0.2:
            return {k: v for k, v in manifest.items() if k != key}
        deeper = isinstance(manifest[key], (dict, list)) and chance.random() < 0.8
        return manifest | {key: edited(manifest[key], chance) if deeper else chance.choice(_VALUES)}
    if isinstance(manifest, list) and manifest:
        place = chance.randrange(len(manifest))
        changed = list(manifest)
        changed[place : place + 1] = chance.choice([[], [edited(changed[place], chance)], changed[:2]])
        return changed
    return chance.choice(_VALUES)


def attempt(kind: str, pristine: Path, expected: Content, seed: int) -> str:
    """Damage a copy and read it: "refused", "same", "other content", or what was raised.

    A manifest with a new checksum was not damaged but written by somebody: it may say something else.
    """
    chance = random.Random(seed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shutil.copytree(pristine, folder, dirs_exist_ok=True)
        files = sorted(file for file in folder.rglob("*") if file.is_file())
        file, sealed = chance.choice(files), False
        if file.name == MANIFEST and chance.random() < 0.7:
            manifest = edited(json.loads(file.read_text()), chance)
            if isinstance(manifest, dict) and chance.random() < 0.5:
                manifest["sha256"], sealed = manifest_checksum(manifest), True
            file.write_text(json.dumps(manifest))
        else:
            file.write_bytes(damaged(file.read_bytes(), chance))
        try:
            found = KINDS[kind].read(folder)
        except GraphshardError as error:
            return "refused" if str(error).strip() else "refused without a word"
        except Exception as error:
            return f"uncaught {type(error).__name__}: {error}"
        if sealed or _is_same(found, expected):
            return "same"
        return "other content"


def _is_same(found: Content, expected: Content) -> bool:
    return found.keys() == expected.keys() and all(torch.equal(found[n], expected[n]) for n in expected)


def batch(kind: str, seeds: range) -> list[tuple[int, str]]:
    """The outcomes of some seeds, in this process."""
    with tempfile.TemporaryDirectory() as name, warnings.catch_warnings():
        warnings.simplefilter("error")
        pristine = Path(name)
        KINDS[kind].write(pristine)
        expected = KINDS[kind].read(pristine)
        return [(seed, attempt(kind, pristine, expected, seed)) for seed in seeds]


def _watched(kind: str, seeds: range) -> list[tuple[int, str]]:
    """The same in a process of its own: one that dies or hangs is an outcome."""
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=lambda: sender.send(batch(kind, seeds)), daemon=True)
    process.start()
    sender.close()
    try:
        if not receiver.poll(_MOST_SECONDS):
            return [(seeds.start, f"hang in {seeds}")]
        return receiver.recv()  # type: ignore[no-any-return]
    except EOFError:
        process.join()
        return [(seeds.start, f"the interpreter ended with {process.exitcode} in {seeds}")]
    finally:
        process.kill()
        process.join()
        receiver.close()


def main() -> int:
    """Run ``--count`` damages of all kinds; the exit status is 1 if any is not as it should be."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    wanted = parser.parse_args()
    outcomes: Counter[str] = Counter()
    for first in range(0, wanted.count, _BATCH):
        kind = list(KINDS)[first // _BATCH % len(KINDS)]
        seeds = range(wanted.seed + first, wanted.seed + min(first + _BATCH, wanted.count))
        for seed, outcome in _watched(kind, seeds):
            outcomes[f"{kind}: {outcome}"] += 1
            if outcome not in ("refused", "same"):
                print(f"{kind}, seed {seed}: {outcome}", flush=True)
        print(f"{sum(outcomes.values())} of {wanted.count}", file=sys.stderr, flush=True)
    print(json.dumps(dict(sorted(outcomes.items())), indent=1))
    return int(any(not name.endswith((": refused", ": same")) for name in outcomes))


if __name__ == "__main__":
    raise SystemExit(main())
