"""Moments: exact, whatever the order of merging."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from preprocessing.statistics import Moments, measure

ARRAYS = {
    "uint8 HWC": np.random.default_rng(0).integers(0, 256, (33, 17, 3), np.uint8),
    "uint8 THWC": np.random.default_rng(1).integers(0, 256, (4, 9, 7, 3), np.uint8),
    "uint16 HWC": np.random.default_rng(2).integers(0, 65536, (31, 8, 2), np.uint16),
    "int16 HWC": np.random.default_rng(3).integers(-32768, 32767, (31, 8, 2), np.int16),
    "int32 HWC": np.random.default_rng(4).integers(-(2**31), 2**31 - 1, (5, 6, 2), np.int32),
    "float32 HWC": np.random.default_rng(5).normal(size=(13, 11, 4)).astype(np.float32),
}


@pytest.mark.parametrize("name", ARRAYS)
def test_moments_are_those_of_numpy(name: str) -> None:
    array = ARRAYS[name]
    moments = measure(array, channels_last=True)
    pixels = array.reshape(-1, array.shape[-1]).astype(np.float64)
    assert moments.mean() == pytest.approx(pixels.mean(0), rel=1e-12)
    assert moments.variance() == pytest.approx(pixels.var(0), rel=1e-9)
    assert measure(np.moveaxis(array, -1, 0), channels_last=False) == moments
    if array.dtype.kind != "f":
        exact = [sum(int(v) ** 2 for v in array[..., c].ravel()) for c in range(array.shape[-1])]
        assert list(moments.squares) == exact


def test_sums_beyond_float64_stay_exact() -> None:
    array = np.full((1, 1500, 1500), 65535, np.uint16)
    array[0, 0, 0] = 65534
    moments = measure(array, channels_last=False)
    assert moments.squares[0] == 65535**2 * (1500**2 - 1) + 65534**2


@given(st.permutations(range(6)), st.integers(1, 5))
def test_any_order_and_grouping_of_merges_gives_equal_moments(order: list[int], cut: int) -> None:
    rng = np.random.default_rng(7)
    parts = [
        measure(rng.normal(size=(5, 4, 2)).astype(np.float32) * 10.0**k, True) for k in range(6)
    ]

    def merged(indices: list[int]) -> Moments:
        total = Moments.empty()
        for i in indices:
            total = total.merge(parts[i])
        return total

    assert merged(order[:cut]).merge(merged(order[cut:])) == merged(list(range(6)))


def test_json_keeps_everything() -> None:
    moments = measure(ARRAYS["float32 HWC"], channels_last=True)
    assert Moments.from_json(json.loads(json.dumps(moments.to_json()))) == moments
    assert Moments.from_json(Moments.empty().to_json()) == Moments.empty()


@pytest.mark.parametrize("name", ["uint8 HWC", "uint16 HWC", "float32 HWC"])
def test_invalid_values_do_not_count(name: str) -> None:
    array = ARRAYS[name]
    valid = np.random.default_rng(9).random(array.shape[:2]) < 0.5
    moments = measure(array, channels_last=True, valid=valid)
    assert moments.mean() == pytest.approx(array[valid].mean(0, dtype=np.float64))
    assert moments == measure(array, True, np.repeat(valid[..., None], array.shape[-1], 2))
    assert moments == measure(np.moveaxis(array, -1, 0), False, valid)


def test_what_is_not_finite_does_not_count() -> None:
    array = np.array(
        [[[1, np.nan], [3, np.inf]], [[np.nan, np.nan], [-np.inf, np.nan]]], np.float32
    )
    moments = measure(array, channels_last=False)
    assert moments.count == (2, 0)
    assert moments.mean() == [2.0, 0.0] and moments.variance() == [1.0, 0.0]


def test_a_constant_channel_has_no_variance() -> None:
    moments = measure(np.full((50, 50, 1), 0.1, np.float32), channels_last=True)
    assert moments.variance()[0] == pytest.approx(0, abs=1e-12) and moments.variance()[0] >= 0


def test_two_axes_are_one_channel() -> None:
    assert measure(np.arange(6, dtype=np.uint8).reshape(2, 3), channels_last=True).count == (6,)


def test_different_channels_do_not_merge() -> None:
    with pytest.raises(ValueError, match="3 channels meet 2"):
        measure(ARRAYS["uint8 HWC"], True).merge(measure(ARRAYS["uint16 HWC"], True))
