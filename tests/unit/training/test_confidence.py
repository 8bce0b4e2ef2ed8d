"""How sure an accuracy is: groups stay whole, and copies of a sample count once."""

from __future__ import annotations

import pytest
import torch

from training.confidence import interval, split_groups


def test_groups_are_never_split() -> None:
    labels = [("dog", "cat")[i % 2] for i in range(10) for _ in range(6)]
    groups = [f"video {i}" for i in range(10) for _ in range(6)]
    splits = [split_groups(labels, groups, seed) for seed in range(3)]
    for taught, asked in splits:
        assert sorted(taught + asked) == list(range(60))
        assert not {groups[i] for i in taught} & {groups[i] for i in asked}
        assert {labels[i] for i in asked} == {"dog", "cat"}
        assert len(asked) == 12
    assert len({tuple(asked) for _, asked in splits}) > 1
    with pytest.raises(ValueError, match="single group of samples"):
        split_groups(["dog", "dog", "cat"], ["a", "a", "b"], 0)


def test_copies_make_nothing_surer() -> None:
    """20 answers, and the same with 30 copies of each: the interval stays, if groups are known."""
    right = torch.arange(20) % 4 != 0
    groups = [str(i) for i in range(20)]
    low, high = interval([right], [groups])
    assert 0.5 < low < 0.75 < high < 1.0
    copies, whose = right.repeat(30), groups * 30
    copied = interval([copies], [whose])
    assert copied == pytest.approx((low, high), abs=0.02)
    careless = interval([copies], [[str(i) for i in range(600)]])
    assert careless[1] - careless[0] < 0.4 * (high - low)
