"""What ``graphshard train --checkpoint`` keeps, and how ``--resume`` goes on from it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from graphshard.checkpoint.folder import found_in
from graphshard.checkpoint.load import load_checkpoint
from graphshard.checkpoint.save import Writing, save_checkpoint
from graphshard.errors import CheckpointError
from graphshard.tools.training.epoch import Epoch


@dataclass(frozen=True)
class Keeping:
    """Where checkpoints go.

    Attributes:
        folder: of the run; a disk that every rank reaches.
        every: epochs between two of them; the last epoch is kept in any case.
        resume: go on from the newest one.
    """

    folder: Path
    every: int
    resume: bool

    @classmethod
    def checked(cls, folder: Path | None, every: int, resume: bool) -> Keeping | None:
        """None without a folder; refuses to mix two runs.

        Raises:
            CheckpointError: the folder holds a run, and it is not to be resumed.
        """
        if folder is None:
            return None
        if not resume and found_in(folder):
            raise CheckpointError(
                f"{folder} holds checkpoints of a run: --resume goes on from them; else give another directory"
            )
        return cls(folder, every, resume)


class Keeper:
    """The checkpoints of one training run; collective on its ranks.

    Args:
        keeping: where and how often; None keeps nothing.
        model, optimizer: of the run.
        epochs: how many the run is to have.
    """

    def __init__(
        self, keeping: Keeping | None, model: nn.Module, optimizer: torch.optim.Optimizer, epochs: int
    ) -> None:
        self._keeping, self._model, self._optimizer, self._last = keeping, model, optimizer, epochs
        self._writing: Writing | None = None

    def resumed(self) -> list[Epoch]:
        """The epochs that the run has behind it."""
        if self._keeping is None or not self._keeping.resume:
            return []
        loaded = load_checkpoint(self._keeping.folder, self._model, self._optimizer)
        return [] if loaded is None else [Epoch(**epoch) for epoch in loaded.extra["epochs"]]

    def keep(self, epochs: Sequence[Epoch]) -> None:
        """Keep the run where it stands, if it is time to; written while training goes on."""
        if self._keeping is None:
            return
        number = epochs[-1].number
        if number % self._keeping.every and number != self._last:
            return
        extra: dict[str, Any] = {"epochs": [asdict(epoch) for epoch in epochs]}
        self._writing = save_checkpoint(
            self._keeping.folder,
            self._model,
            self._optimizer,
            step=number,
            extra=extra,
            wait=number == self._last,
            after=self._writing,
        )
