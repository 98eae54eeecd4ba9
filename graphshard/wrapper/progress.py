"""What forward and the other captured methods of one distributed module count together.

::

    out = checkpoint(model, x, edge_index)     forward, step 7: the random numbers of step 7
    out.sum().backward()                       forward again: the same numbers, and no step more

A region under ``torch.utils.checkpoint`` runs once more in backward. Its calls take the steps of the first run.
"""

from __future__ import annotations

import weakref
from typing import Any

from graphshard.errors import UnsupportedOperation
from graphshard.private.torch_checkpoint import Region, in_backward, region


class Progress:
    """How far a distributed module has come.

    Attributes:
        seed: of the random numbers; None until the first call settles it.
        step: how many calls there were in training mode or with random numbers, of forward and every captured method.
        trained: how many of them were in training mode.
        equal: whether the ranks hold the same parameters: since the first call.
    """

    def __init__(self, seed: int | None) -> None:
        self.seed, self.step, self.trained, self.equal = seed, 0, 0, False
        self._start_anew()

    def _start_anew(self) -> None:
        self._steps: weakref.WeakKeyDictionary[Any, list[int]] = weakref.WeakKeyDictionary()
        self._again: weakref.WeakKeyDictionary[Any, int] = weakref.WeakKeyDictionary()

    def __getstate__(self) -> dict[str, Any]:
        return {"seed": self.seed, "step": self.step, "trained": self.trained, "equal": self.equal}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._start_anew()

    def begin(self, training: bool, draws: bool) -> int:
        """The step of a call, whose random numbers it takes; the next call in training mode has another.

        Args:
            training: whether the call is one in training mode.
            draws: whether it draws random numbers.

        Raises:
            UnsupportedOperation: it is called in a backward, and which call it repeats is not known.
        """
        now = region()
        if now is not None and now.again:
            return self._of_first_run(now)
        if in_backward():
            if draws:
                raise UnsupportedOperation(
                    "forward runs inside of a backward, as checkpoint(..., use_reentrant=True) or one checkpoint "
                    "inside of another does, and would draw new random numbers: use_reentrant=False, and not nested"
                )
            return self.step
        step = self.step
        self.step += training or draws
        self.trained += training
        if now is not None:
            self._steps.setdefault(now.frame, []).append(step)
        return step

    def _of_first_run(self, now: Region) -> int:
        number = self._again.get(now.run, 0)
        self._again[now.run] = number + 1
        return self._steps[now.frame][number]
