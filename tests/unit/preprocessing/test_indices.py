"""Normalised difference indices by names of bands."""

from __future__ import annotations

import numpy as np
import pytest

from preprocessing.indices import band_name, int16_to_ndi, ndi, ndi_to_int16


@pytest.mark.parametrize(
    ("spelling", "band"),
    [
        ("B8", "B8"),
        ("b08", "B8"),
        ("B8A", "B8A"),
        ("b8a", "B8A"),
        ("B08_10m", "B8"),
        ("T32UPU_20200601_B11", "B11"),
        ("nir", "B8"),
        ("Red", "B4"),
        ("VV", "VV"),
    ],
)
def test_spellings(spelling: str, band: str) -> None:
    assert band_name(spelling) == band


def test_values() -> None:
    tile = np.array([[[1000]], [[3000]], [[500]], [[0]]], np.uint16)
    found = ndi(tile, ["B04", "B08", "B03", "B11"])[:, 0, 0]
    np.testing.assert_allclose(found, (2000 / 4000, -2500 / 3500, -1), atol=1e-6)


def test_dark_pixels_are_zero_and_missing_ones_stay_missing() -> None:
    tile = np.zeros((2, 1, 2), np.float32)
    tile[0, 0, 1] = np.nan
    found = ndi(tile, ["red", "nir"], ["ndvi"])
    assert found[0, 0, 0] == 0
    assert np.isnan(int16_to_ndi(ndi_to_int16(found)))[0, 0].tolist() == [False, True]


def test_b8a_serves_for_b8() -> None:
    tile = np.array([[[1.0]], [[3.0]]], np.float32)
    assert ndi(tile, ["B4", "B8A"], ["ndvi"])[0, 0, 0] == pytest.approx(0.5, abs=1e-5)


@pytest.mark.parametrize(
    ("bands", "names", "message"),
    [
        (["B4", "B8"], ["ndbi"], "band B11 is missing; the sample has B4, B8"),
        (["B4", "B8"], ["evi"], "index 'evi' is unknown. Known: ndvi"),
        (["B4"], ["ndvi"], r"2 channels, 1 band names \(B4\)"),
    ],
)
def test_errors_name_what_was_seen(bands: list[str], names: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ndi(np.ones((2, 3, 3), np.float32), bands, names)
