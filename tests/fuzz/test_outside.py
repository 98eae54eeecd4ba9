"""Random scripts around a model give one machine's values or are refused; and it is noticed where they do neither.

``PYTHONPATH=tests python -m fuzz.run --outside --minutes 60`` tries thousands more.
"""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.strategies import examples

from fuzz.check import EXACT, FAILED, INVALID, REFUSED
from fuzz.outside import NODE, FuzzedScript, Value, data_of, fuzzed_scripts, judge_script
from graphshard.border import values

CUT = [number % 3 for number in range(20)]


@examples(4)
@given(fuzzed_scripts(), st.lists(st.integers(0, 2), min_size=20, max_size=20), st.integers(0, 9))
def test_random_scripts(script: FuzzedScript, cut: list[int], seed: int) -> None:
    verdict = judge_script(script, data_of(20, 60, 9, seed), cut, 3)
    assert verdict.result != FAILED, f"{verdict.reason}\n{script.source}"


def verdict_of(expression: str) -> str:
    script = FuzzedScript((f"v0 = {expression}",), (Value("v0", NODE, 0),))
    return judge_script(script, data_of(20, 60, 9, 0), CUT, 3).result


def test_verdicts(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = "(out[d.mask] - d.target[d.mask]).square().mean()"
    assert verdict_of(kept) == EXACT
    assert verdict_of("out @ out") == INVALID
    assert verdict_of("out.sort(0).values") == REFUSED
    assert verdict_of("out.local().mean()") == INVALID
    monkeypatch.setattr(
        values, "same_on_all", lambda value, like: values.as_placed(torch.zeros_like(value), like)
    )
    monkeypatch.setattr(values.Naming, "rows", lambda self, rows: rows)  # of no meaning outside
    assert verdict_of(kept) in (FAILED, REFUSED)
