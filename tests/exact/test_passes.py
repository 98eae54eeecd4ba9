"""Every choice of the passes that make a program faster is exact, with inputs that need gradients and without.

Two steps each: the second one reads the constants that the first one computed.
"""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.equality import Compilations, Setting, check_equal, distributed
from support.models import CONVS, LAYERS, WRITTEN, Stack, make
from support.strategies import Case, cases, examples, fixed_case
from torch import nn

from graphshard import Options

NAMES = [name for name in Options.choices() if name not in Options(narrow_halo_rows=True).inexact]
options = st.sets(st.sampled_from(NAMES)).map(
    lambda chosen: Options(**{name: name in chosen for name in NAMES})  # type: ignore[arg-type]
)


def check(
    model: nn.Module, case: Case, chosen: Options, fixed: bool, programs: Compilations | None = None
) -> None:
    setting = Setting(chosen, fixed)
    # A float32 submodule rounds what differs by 1e-16 to another float32.
    single = any(p.dtype == torch.float32 for p in model.parameters())
    arguments = (model, case.tensors, case.assignment, case.parts, programs)
    check_equal(*arguments, backwards=2, setting=setting, least=1e-3, tolerance=1e-6 if single else 1e-9)


@examples(10)
@given(
    names=st.lists(st.sampled_from(sorted(CONVS)), min_size=1, max_size=3),
    chosen=options,
    fixed=st.booleans(),
    first=cases(min_nodes=2),
    second=cases(min_nodes=2),
)
def test_stacks(names: list[str], chosen: Options, fixed: bool, first: Case, second: Case) -> None:
    model = make(lambda: Stack([(CONVS[n](), nn.Identity(), nn.Tanh()) for n in names], True, 0.0))
    programs = Compilations()
    for case in (first, second):
        check(model, case, chosen, fixed, programs)


@pytest.mark.parametrize("chosen", [Options(), Options(overlap_halo_syncs=True)], ids=["fast", "overlapped"])
@pytest.mark.parametrize("name", [*LAYERS, *WRITTEN])
def test_a_layer_with_fixed_inputs(name: str, chosen: Options) -> None:
    factory = LAYERS.get(name) or WRITTEN[name]
    check(make(factory), fixed_case(parts=4), chosen, True)


@examples(5)
@given(name=st.sampled_from([*LAYERS, *WRITTEN]), left_out=st.sampled_from(NAMES), case=cases(min_nodes=2))
def test_all_passes_but_one(name: str, left_out: str, case: Case) -> None:
    factory = LAYERS.get(name) or WRITTEN[name]
    chosen = Options(**{"overlap_halo_syncs": True, left_out: False})  # type: ignore[arg-type]
    check(make(factory), case, chosen, fixed=True)


def test_dropout_is_the_same_with_and_without_the_passes() -> None:
    model = make(lambda: Stack([(CONVS[n](), nn.Identity(), nn.Tanh()) for n in ("gat", "gcn")], True, 0.5))
    case, found = fixed_case(parts=3), []
    for chosen in (Options(), Options.none()):
        setting = Setting(chosen, True)
        arguments = (case.tensors, case.assignment, case.parts, Compilations(), None)
        found.append(distributed(model, *arguments, setting=setting)[0])
    for name, value in found[0].items():
        torch.testing.assert_close(value, found[1][name], rtol=1e-9, atol=1e-11)
