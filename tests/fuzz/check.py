"""One fuzzed program: equal on every partition, refused with a reason, or a bug."""

from __future__ import annotations

import copy
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from support.equality import Compilations, arguments_of, check_equal, proves_something
from support.strategies import Case
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from fuzz.program import FuzzedProgram, module_of
from graphshard.errors import CaptureError, UnsupportedOperation
from graphshard.tools.zoo.run import first_sentence, kind_of

EXACT, REFUSED, INVALID, FAILED = "exact", "refused", "invalid", "failed"


@dataclass(frozen=True)
class Verdict:
    """What came of a program.

    Attributes:
        result: exact, refused, invalid (one machine cannot run it on any of the graphs) or failed.
        reason: of a refusal or failure. kind: the same without names and places.
    """

    result: str
    reason: str = ""
    kind: str = ""


def judge(program: FuzzedProgram, cases: Sequence[Case]) -> Verdict:
    """Compare a program on simulated ranks with one machine, on each graph that one machine can run it on."""
    model, programs, ran = module_of(program), Compilations(), 0
    for case in cases:
        if not _runs(model, case):
            continue
        ran += 1
        try:
            check_equal(model, case.tensors, case.assignment, case.parts, programs, least=1e-3)
        except (CaptureError, UnsupportedOperation) as error:
            return Verdict(REFUSED, first_sentence(str(error)), kind_of(str(error)))
        except Exception as error:
            place = traceback.extract_tb(error.__traceback__)[-1]
            text = f"{type(error).__name__} at {place.name}: {' '.join(str(error).split())[:400]}"
            return Verdict(FAILED, f"{text} ({case})", f"{type(error).__name__} at {place.name}")
    return Verdict(EXACT if ran else INVALID)


def _runs(model: nn.Module, case: Case) -> bool:
    """Whether one machine can run the program on this graph, to numbers that can be compared.

    A maximum over no row is an error; a program whose every value is NaN proves nothing.
    """
    own: Any = copy.deepcopy(model)
    try:
        result = own(**arguments_of(own, case.tensors))
    except (RuntimeError, IndexError, ValueError):
        return False
    return proves_something(leaf for leaf in pytree.tree_leaves(result) if isinstance(leaf, Tensor))
