"""Which passes make a program faster, and which of your own run beside them."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, fields, make_dataclass
from typing import Any

from graphshard.errors import GraphshardError
from graphshard.ir.program import Pass
from graphshard.passes.pipeline import EXACT, FASTER, purpose

_OWN = {step.name: step for step in FASTER}


def _is_chosen(step: Pass) -> bool:
    """Whether a pass runs unless it is left out."""
    return bool(getattr(step, "chosen", True))


# A field for each pass: their order, names and defaults are said once, in the pipeline.
_Choices: Any = make_dataclass(
    "_Choices",
    [(name, "bool | Pass", field(default=_is_chosen(step))) for name, step in _OWN.items()],
    frozen=True,
)


@dataclass(frozen=True)
class Options(_Choices):  # type: ignore[misc]
    __doc__ = f"""Which passes make the program faster; every combination is exact, but for ``narrow_halo_rows``.

    A pass is True, False, or, where it has options of its own, the pass itself: ``Options(bucket_gradients=
    BucketGradients(size=1 << 20))``, from ``graphshard.passes.faster``.

    Attributes:
        {
        f"{chr(10)}        ".join(
            f"{s.name}: {purpose(s)}{'' if _is_chosen(s) else '; off by default'}." for s in FASTER
        )
    }
        passes: your own, run on the exact program, in this order, before those that make it faster; see
            ``docs/passes.md``. They are trusted no more than graphshard's: the finished program is compared with the
            module.

    Raises:
        GraphshardError: an object among ``passes`` is no pass, two passes have one name, or what stands for one of
            graphshard's is another.
    """

    passes: tuple[Pass, ...] = ()

    def __post_init__(self) -> None:
        for step in self.passes:
            if isinstance(step, type) or not (
                isinstance(getattr(step, "name", None), str) and hasattr(step, "run")
            ):
                raise GraphshardError(
                    f"{step!r} is no pass: a pass is an object with a name and run(program) -> int"
                )
        for name in self.choices():
            given = getattr(self, name)
            if not isinstance(given, (bool, type(_OWN[name]))):
                raise GraphshardError(
                    f"the option {name} is True, False or a {type(_OWN[name]).__name__}, not {given!r}"
                )
        names = Counter((*self.choices(), *(step.name for step in self.passes)))
        if twice := [name for name, times in names.items() if times > 1]:
            raise GraphshardError(f"two passes are called {twice[0]!r}: give yours another name")

    @classmethod
    def choices(cls) -> tuple[str, ...]:
        """The names of graphshard's own passes that can be chosen, in the order in which they run."""
        return tuple(f.name for f in fields(_Choices))

    @classmethod
    def none(cls) -> Options:
        """Only the passes that make a program exact."""
        nothing: dict[str, Any] = dict.fromkeys(cls.choices(), False)
        return cls(**nothing)

    @property
    def inexact(self) -> tuple[str, ...]:
        """The chosen passes that change results beyond rounding in another order."""
        return tuple(step.name for step in self._faster() if getattr(step, "inexact", False))

    def _faster(self) -> tuple[Pass, ...]:
        given = ((getattr(self, name), step) for name, step in _OWN.items())
        return tuple(step if choice is True else choice for choice, step in given if choice is not False)

    def all_passes(self) -> tuple[Pass, ...]:
        """Every pass that these options ask for, in order."""
        return (*EXACT, *self.passes, *self._faster())
