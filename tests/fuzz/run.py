"""Fuzz for a while: ``PYTHONPATH=tests python -m fuzz.run --minutes 60 [--jobs 2] [--seed 0] [--outside]``.

With ``--outside`` what is drawn is a script around a model, else a model. Prints how many programs were exact, refused
(by reason) and failed; writes each kind of failure, with the simplest program that was found for it, to ``--out``. The
exit code is 1 if any failed.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import time
import warnings
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from support.strategies import Case, cases

from fuzz.check import FAILED, Verdict, judge
from fuzz.outside import FuzzedScript, data_of, fuzzed_scripts, judge_script
from fuzz.program import FuzzedProgram, fuzzed_programs


@dataclass
class Tally:
    """Results so far; of each kind of failure the shortest program."""

    results: Counter[str] = field(default_factory=Counter)
    refusals: Counter[str] = field(default_factory=Counter)
    failures: dict[str, tuple[str, str]] = field(default_factory=dict)

    def add(self, program: FuzzedProgram | FuzzedScript, verdict: Verdict) -> None:
        self.results[verdict.result] += 1
        if verdict.result == "refused":
            self.refusals[verdict.kind] += 1
        if verdict.result == FAILED:
            known = self.failures.get(verdict.kind)
            if known is None or len(program.source) < len(known[0]):
                self.failures[verdict.kind] = (program.source, verdict.reason)

    def merge(self, other: Tally) -> None:
        self.results.update(other.results)
        self.refusals.update(other.refusals)
        for kind, found in other.failures.items():
            known = self.failures.get(kind)
            if known is None or len(found[0]) < len(known[0]):
                self.failures[kind] = found


def _of_one_seed(count: int) -> settings:
    """That many examples, not shrunk: a failure does not stop a batch."""
    return settings(
        max_examples=count,
        deadline=None,
        database=None,
        phases=(Phase.generate,),
        suppress_health_check=list(HealthCheck),
    )


def run_batch(number: int, count: int) -> Tally:
    """``count`` programs of one seed, each on two graphs. Failures do not stop it."""
    tally = Tally()
    warnings.simplefilter("ignore")  # of ops in beta, and of variances of one row

    @seed(number)
    @_of_one_seed(count)
    @given(
        program=fuzzed_programs(), first=cases(30, min_edges=1), second=cases(30, min_nodes=2, min_edges=1)
    )
    def batch(program: FuzzedProgram, first: Case, second: Case) -> None:
        tally.add(program, judge(program, [first, second]))

    batch()
    return tally


def run_outside(number: int, count: int) -> Tally:
    """``count`` scripts of one seed, each on a graph and a cut of its own."""
    tally = Tally()
    warnings.simplefilter("ignore")

    @seed(number)
    @_of_one_seed(count)
    @given(
        script=fuzzed_scripts(),
        sizes=st.tuples(st.integers(6, 30), st.integers(6, 80), st.integers(5, 20), st.integers(0, 99)),
        cut=st.lists(st.integers(0, 2), min_size=30, max_size=30),
        parts=st.integers(2, 3),
    )
    def batch(script: FuzzedScript, sizes: tuple[int, int, int, int], cut: list[int], parts: int) -> None:
        tally.add(script, judge_script(script, data_of(*sizes), cut[: sizes[0]], parts))

    batch()
    return tally


def main() -> int:
    """Run batches on every job until the time is over; the exit code."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--minutes", type=float, default=1.0)
    options.add_argument("--jobs", type=int, default=multiprocessing.cpu_count())
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--batch", type=int, default=25)
    options.add_argument("--outside", action="store_true")
    options.add_argument("--out", type=Path, default=Path("fuzz.json"))
    chosen = options.parse_args()
    end, total, number = time.monotonic() + 60 * chosen.minutes, Tally(), chosen.seed
    with multiprocessing.get_context("spawn").Pool(chosen.jobs, maxtasksperchild=4) as pool:
        waiting: list[Any] = []
        while waiting or time.monotonic() < end:
            while len(waiting) < chosen.jobs and time.monotonic() < end:
                batch = run_outside if chosen.outside else run_batch
                waiting.append(pool.apply_async(batch, (number, chosen.batch)))
                number += 1
            waiting[0].wait(1.0)
            for done in [w for w in waiting if w.ready()]:
                waiting.remove(done)
                total.merge(done.get())
                _write(chosen.out, total)
    _write(chosen.out, total)
    print(json.dumps({"programs": total.results.total(), **total.results}))
    for kind, count in total.refusals.most_common():
        print(f"{count:6} refused: {kind}")
    for kind, (source, reason) in total.failures.items():
        print(f"FAILED {kind}\n{reason}\n{source}")
    return int(bool(total.failures))


def _write(path: Path, tally: Tally) -> None:
    failures = {
        kind: {"reason": reason, "source": source} for kind, (source, reason) in tally.failures.items()
    }
    document = {"results": tally.results, "refusals": tally.refusals, "failures": failures}
    path.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    raise SystemExit(main())
