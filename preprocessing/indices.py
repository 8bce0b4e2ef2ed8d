"""Normalised difference indices of multispectral tiles, by the names of bands."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

INDICES = {"ndvi": ("B8", "B4"), "ndwi": ("B3", "B8"), "ndbi": ("B11", "B8")}
"Index = (first - second) / (first + second), Sentinel-2 bands (FG-MAE)."
EPSILON = 1e-5
_COMMON = {"green": "B3", "red": "B4", "nir": "B8", "swir1": "B11", "swir16": "B11"}
_LEAST = -32768
"Stored where an index is not a number."


def band_name(name: str) -> str:
    """Return one spelling for a band.

    Case, leading zeros and what surrounds the band do not count: B8, b08, B08_10m and T32_B08 are
    all B8. The common names green, red, nir and swir1 (or swir16) stand for B3, B4, B8 and B11.
    """
    plain = name.strip().lower()
    if plain in _COMMON:
        return _COMMON[plain]
    found = re.search(r"(?:^|[^a-z0-9])b0*(\d{1,2}a?)(?=$|[^a-z0-9])", plain)
    return f"B{found.group(1).upper()}" if found else name


def ndi(
    array: NDArray[Any], bands: Sequence[str], names: Sequence[str] = ("ndvi", "ndwi", "ndbi")
) -> NDArray[np.float32]:
    """Return normalised difference indices.

    Args:
        array: (C, H, W), any integer or float type; one band for each name in `bands`.
        bands: names of the channels, see `band_name`. B8A serves where B8 is missing.
        names: keys of `INDICES`.

    Returns:
        (len(names), H, W) float32; inside (-1, 1) where both bands are 0 or more, NaN where one is
        NaN.

    Raises:
        ValueError: an index is unknown, or a band that it needs is missing.
    """
    if len(bands) != len(array):
        raise ValueError(
            f"ndi: {len(array)} channels, {len(bands)} band names ({', '.join(bands) or 'none'}). "
            "Ingest with --channels to name every band."
        )
    unknown = [name for name in names if name not in INDICES]
    if unknown:
        raise ValueError(f"ndi: index {unknown[0]!r} is unknown. Known: {', '.join(INDICES)}.")
    planes = [
        _difference(*(_plane(array, bands, band) for band in INDICES[name])) for name in names
    ]
    return np.stack(planes)


def _plane(array: NDArray[Any], bands: Sequence[str], wanted: str) -> NDArray[np.float32]:
    return np.asarray(array[band_position(bands, wanted)], dtype=np.float32)


def band_position(bands: Sequence[str], wanted: str) -> int:
    """Return where a band is among named channels; B8A serves where B8 is missing.

    Raises:
        ValueError: it is not there.
    """
    known = [band_name(name) for name in bands]
    for spelling in (wanted, "B8A") if wanted == "B8" else (wanted,):
        if spelling in known:
            return known.index(spelling)
    raise ValueError(
        f"ndi: band {wanted} is missing; the sample has {', '.join(bands) or 'no named bands'}. "
        "Name the bands with --channels at ingest, or leave out the index that needs it."
    )


def band_numbers(names: Sequence[str], wanted: Sequence[str]) -> list[int]:
    """Return where each wanted channel is: under its very name, or under another spelling of it.

    Raises:
        ValueError: some are not there, or more than one channel may be meant.
    """
    found = {name: _spelled(names, name) for name in wanted}
    wrong = [name for name, places in found.items() if len(places) != 1]
    if wrong:
        raise ValueError(
            f"has the channels {list(names)}, the recipe wants {', '.join(wrong)} too"
            + (", which more than one of them may be" if found[wrong[0]] else "")
            + ". Change data.bands or model.groups, or ingest with --channels to name them."
        )
    return [found[name][0] for name in wanted]


def _spelled(names: Sequence[str], wanted: str) -> list[int]:
    exact = [number for number, name in enumerate(names) if name == wanted]
    same = band_name(wanted)
    return exact or [number for number, name in enumerate(names) if band_name(name) == same]


def _difference(first: NDArray[np.float32], second: NDArray[np.float32]) -> NDArray[np.float32]:
    total = first + second + np.float32(EPSILON)
    difference = first - second
    zeros = np.zeros_like(difference)
    return np.asarray(np.divide(difference, total, out=zeros, where=total != 0))


def ndi_to_int16(values: NDArray[np.float32]) -> NDArray[np.int16]:
    """Return indices in steps of 1/32767: off by at most 1/65534 in [-1, 1]; NaN is kept."""
    steps = np.rint(np.clip(values, -1, 1) * 32767)
    return np.where(np.isnan(steps), _LEAST, np.nan_to_num(steps)).astype(np.int16)


def int16_to_ndi(stored: NDArray[np.int16]) -> NDArray[np.float32]:
    """Return stored indices; NaN where they were."""
    values = stored.astype(np.float32) * np.float32(1 / 32767)
    values[stored == _LEAST] = np.nan
    return values
