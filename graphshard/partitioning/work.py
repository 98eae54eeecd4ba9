"""A folder of unfinished work: what each finished step left, so that a killed run goes on behind the last of them."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from graphshard.errors import PartitionError

_STATE = "state.json"


class Work:
    """The folder, and what is done.

    Attributes:
        folder: of it.
    """

    def __init__(self, folder: Path, asked: Mapping[str, Any], cheap: Collection[str] = ()) -> None:
        """Begin, or go on.

        Args:
            folder: of the work; its parent must exist.
            asked: plain values that decide the result: work on anything else is not gone on with.
            cheap: steps that are nothing to lose: work that came no further is begun anew.

        Raises:
            PartitionError: the folder holds work on something else.
        """
        self.folder = folder
        self._asked = json.loads(json.dumps(asked))
        self._done: dict[str, Any] = {}
        folder.mkdir(exist_ok=True)
        if (folder / _STATE).exists():
            state = self._read()
            if state["asked"] != self._asked and state["done"].keys() <= set(cheap):
                self._write()
                return
            if state["asked"] != self._asked:
                differ = [key for key in self._asked if state["asked"].get(key) != self._asked[key]]
                raise PartitionError(
                    f"{folder} holds unfinished work with other {' and '.join(differ)}: remove it to begin anew, or "
                    "ask for the same again to go on with it"
                )
            self._done = state["done"]
        else:
            self._write()

    def _read(self) -> dict[str, Any]:
        try:
            state: dict[str, Any] = json.loads((self.folder / _STATE).read_text())
            return {"asked": dict(state["asked"]), "done": dict(state["done"])}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise PartitionError(
                f"{self.folder / _STATE} is damaged ({error}): remove {self.folder} to begin anew"
            ) from None

    def _write(self) -> None:
        draft = self.folder / f"{_STATE}.draft"
        with draft.open("w") as stream:
            json.dump({"asked": self._asked, "done": self._done}, stream)
            stream.flush()
            os.fsync(stream.fileno())
        draft.replace(self.folder / _STATE)

    def step(self, name: str, run: Callable[[], Any]) -> Any:
        """What a step came to, as JSON has it; it runs where it did not before."""
        if name not in self._done:
            self._done[name] = run()
            self._write()
        return self._done[name]

    def came_to(self, name: str) -> Any:
        """What a step came to that ran; KeyError where it did not."""
        return self._done[name]

    def keep(self, name: str, array: Any) -> None:
        """Write an array that later steps read, whole or not at all."""
        draft = self.folder / f"{name}.draft.npy"
        np.save(draft, array)
        draft.replace(self.folder / f"{name}.npy")

    def take(self, name: str) -> Any:
        """An array that an earlier step kept."""
        return np.load(self.folder / f"{name}.npy")

    def drop(self, *patterns: str) -> None:
        """Remove files that no later step reads."""
        for pattern in patterns:
            for file in self.folder.glob(pattern):
                file.unlink()

    def remove(self) -> None:
        """Remove the folder, when all is done."""
        shutil.rmtree(self.folder, ignore_errors=True)
