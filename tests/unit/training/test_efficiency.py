"""The papers' mechanisms save what they promise, in FLOPs."""

from __future__ import annotations

import pytest

from benchmarks.efficiency import CASES, Case, count


def named(case: Case) -> object:
    large = case.fast.encoder != "Ti"
    return pytest.param(case, id=case.name, marks=pytest.mark.slow if large else ())


@pytest.mark.parametrize("case", map(named, CASES))
def test_a_mechanism_saves_what_it_promises(case: Case) -> None:
    saved = case.ratio(count(case.slow), count(case.fast))
    assert case.least <= saved <= case.most
