"""Random programs are exact on any partition or refused; and the fuzzer notices where one is neither.

``PYTHONPATH=tests python -m fuzz.run --minutes 60`` tries thousands more.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from support.strategies import Case, cases, examples, fixed_case

from fuzz.check import EXACT, FAILED, INVALID, REFUSED, judge
from fuzz.program import HEADER, FuzzedProgram, fuzzed_programs
from fuzz.run import Tally
from graphshard.ops import exchange as ops
from graphshard.ops import streamed

pytestmark = [
    pytest.mark.filterwarnings("ignore:index_reduce:UserWarning"),
    pytest.mark.filterwarnings("ignore:var:UserWarning"),
]


def returning(expression: str) -> FuzzedProgram:
    return FuzzedProgram(f"{HEADER}    return [{expression}]\n")


@examples(10)
@given(program=fuzzed_programs(), first=cases(30, min_edges=1), second=cases(30, min_nodes=2, min_edges=1))
def test_random_programs(program: FuzzedProgram, first: Case, second: Case) -> None:
    verdict = judge(program, [first, second])
    assert verdict.result != FAILED, f"{verdict.reason}\n{program.source}"


def test_programs_are_long_and_hardly_ever_refused() -> None:
    """Else the test above would say little."""
    results: Counter[str] = Counter()
    lengths: list[int] = []

    @examples(8)
    @given(program=fuzzed_programs())
    def count(program: FuzzedProgram) -> None:
        results[judge(program, [fixed_case(parts=2)]).result] += 1
        lengths.append(program.source.count("\n"))

    count()
    assert results[EXACT] >= 0.9 * results.total()
    assert max(lengths) > 12


def test_verdicts(monkeypatch: pytest.MonkeyPatch) -> None:
    neighbours = returning("x.new_zeros(x.size(0), 4).index_add(0, dst, h[src])")
    case = fixed_case(parts=3)
    assert judge(neighbours, [case]).result == EXACT
    assert judge(returning("x[:0].amax(0)"), [case]).result == INVALID
    refused = judge(returning("h.sort(0).values"), [case])
    assert refused.result == REFUSED
    assert refused.kind == "aten.sort runs along the rows Owned, which are spread over the ranks"

    def nothing_comes(out: Any, *_: Any) -> None:
        out.zero_()

    for place in (ops, streamed):
        monkeypatch.setattr(place, "exchange", nothing_comes)
    failed = judge(neighbours, [case])
    assert failed.result == FAILED
    assert "output 0 is off by" in failed.reason


def test_the_shortest_program_of_each_failure_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ops, "exchange", lambda out, *_: out.zero_())
    short, long = returning("h[src]"), returning("h[src], e * 2")
    case, first, second = fixed_case(parts=3), Tally(), Tally()
    first.add(long, judge(long, [case]))
    second.add(short, judge(short, [case]))
    first.merge(second)
    assert first.results == {FAILED: 2}
    assert [source for source, _ in first.failures.values()] == [short.source]
