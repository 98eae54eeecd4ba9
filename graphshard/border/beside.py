"""Plain tensors beside rows: every rank is to hold the same, which the ranks compare when they agree on something next.

::

    rank 0   head(out)  weight 3fa1 --+
                                      +--> with the agreement of F.cross_entropy(...): 3fa1 is not 77b0, raise
    rank 1   head(out)  weight 77b0 --+

So a head that each rank made for itself, or a draw of one rank alone, is named before a loss is made of it; no message
more is sent.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from graphshard.private import pytree
from graphshard.private.torch_functions import Draws
from graphshard.private.torch_tensors import Seen
from graphshard.ranks.checksums import quick_checksum
from graphshard.shard.placed import PlacedTensor
from graphshard.shard.shard import Shard

_FEW = 64


@dataclass
class Beside:
    """What was given beside rows since the ranks agreed last.

    Attributes:
        since: what each is called, and its content.
    """

    since: list[tuple[str, str]] = field(default_factory=list)
    _known: dict[Hashable, Seen] = field(default_factory=dict)
    _draws: dict[Hashable, bool] = field(default_factory=dict)

    def note(self, tensors: Sequence[Tensor], called: Callable[[], str], key: Hashable) -> None:
        """Take down the plain tensors of one call that were not given to it before."""
        for number, tensor in enumerate(tensors):
            if isinstance(tensor, PlacedTensor) or _may_differ(tensor):
                continue
            known = self._known.get((key, number))
            if known is None or not known.is_still(tensor):
                self._known[key, number] = Seen.now(tensor.detach())
                self.since.append((f"argument {number} of {called()}", _content(tensor)))

    def watched(self, run: Callable[[], Any], called: Callable[[], str], key: Hashable) -> Any:
        """Run a function of values that every rank holds whole; take down what it gives if it draws random numbers.

        Args:
            run: the function. called: what it is called.
            key: of calls of one kind: whether they draw is found out once.
        """
        if key not in self._draws:
            with Draws() as draws:  # type: ignore[no-untyped-call]
                found = run()
            self._draws[key] = draws.seen
        else:
            found = run()
        if self._draws[key]:
            drawn = [v for v in pytree.tree_leaves(found) if isinstance(v, Tensor) and not _may_differ(v)]
            self.since += [(f"the result of {called()}", _content(v)) for v in drawn]
        return found

    @property
    def digest(self) -> int:
        """A number of all of them; 0 where there is none."""
        return zlib.crc32(repr(self.since).encode()) if self.since else 0


def beside_of(shard: Shard) -> Beside:
    """Those of a shard's tensors."""
    if shard.beside is None:
        shard.__dict__["beside"] = Beside()
    found: Beside = shard.beside
    return found


def _may_differ(tensor: Tensor) -> bool:
    """Whether it was computed where sums are made in any order: its last bits say nothing."""
    return tensor.grad_fn is not None and tensor.device.type != "cpu"


def _content(tensor: Tensor) -> str:
    plain = tensor.detach()
    numbers: Any = plain.tolist() if plain.numel() <= _FEW else quick_checksum(plain).tolist()
    return f"{tensor.dtype} {list(tensor.shape)} {numbers}"
