"""Whole slides: tissue is cut out of a pyramid of tiles, in memory that the slide's size does not
touch."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray

from pipelines.ingest_spec import IngestSpec
from tests.integration.field_sets import paint_slide, write_slide
from tests.integration.outcomes import ingest_all, run_json, run_with_peak

EDGE = 16384
"of the huge slide: 768 MiB of pixels"
TISSUE = slice(5120, 6656)


@pytest.mark.parametrize("compression", ["jpeg", "zlib", "none"])
def test_tissue_tiles_are_windows_of_the_full_picture(tmp_path: Path, compression: str) -> None:
    (tmp_path / "raw").mkdir()
    path = tmp_path / "raw" / "slide.tif"
    write_slide(path, paint_slide("loose", np.random.default_rng(3), 1024), compression)
    words = ("--tile", "128", "--overlap", "32", "--min-tissue", "0.4")
    outcome = ingest_all(tmp_path / "store", "microscopy", str(path.parent), *words)
    whole = tifffile.imread(path)
    stored = {tuple(s.metadata["tile"]): s for s in outcome.samples[str(path)]}
    kept = 0
    for top in [*range(0, 1024 - 128, 96), 1024 - 128]:
        for left in [*range(0, 1024 - 128, 96), 1024 - 128]:
            tile = whole[top : top + 128, left : left + 128].astype(int)
            share = float((tile.max(-1) - tile.min(-1) >= 20).mean())
            assert ((top, left) in stored) == (share >= 0.4), (top, left, share)
            if (top, left) in stored:
                kept += 1
                assert stored[top, left].metadata["tissue_share"] == pytest.approx(share, abs=1e-6)
                assert stored[top, left].metadata["channels"] == ["R", "G", "B"]
                np.testing.assert_array_equal(stored[top, left].array().transpose(1, 2, 0), tile)
    assert kept == len(stored) > 5


def test_a_slide_without_tissue_is_refused_and_says_why(tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    write_slide(tmp_path / "raw" / "glass.tif", np.full((512, 512, 3), 240, np.uint8))
    words = (str(tmp_path / "raw"), "--tile", "128", "--min-tissue", "0.1")
    outcome = ingest_all(tmp_path / "store", "microscopy", *words)
    (reject,) = outcome.rejects.values()
    assert reject["reason_class"] == "no_valid_data"
    assert "16 have less tissue than 10% (--min-tissue)" in reject["detail"]


def test_parts_from_before_the_filter_keep_their_names() -> None:
    assert "min_tissue" not in IngestSpec(modality="microscopy").to_json()
    assert IngestSpec(modality="microscopy", min_tissue=0.5).to_json()["min_tissue"] == 0.5


def tiles_of(tissue: NDArray[np.uint8]) -> Iterator[NDArray[np.uint8]]:
    """Yield the tiles of the huge slide, row by row."""
    glass = np.full((512, 512, 3), 243, np.uint8)
    for top in range(0, EDGE, 512):
        for left in range(0, EDGE, 512):
            inside = TISSUE.start <= top < TISSUE.stop and TISSUE.start <= left < TISSUE.stop
            y, x = top - TISSUE.start, left - TISSUE.start
            yield tissue[y : y + 512, x : x + 512] if inside else glass


@pytest.mark.slow
def test_memory_does_not_grow_with_a_slide(tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    tissue = paint_slide("dense", np.random.default_rng(4), TISSUE.stop - TISSUE.start)
    with tifffile.TiffWriter(tmp_path / "raw" / "huge.tif", bigtiff=True) as file:
        file.write(
            tiles_of(tissue), shape=(EDGE, EDGE, 3), dtype=np.uint8, tile=(512, 512),
            photometric="rgb", compression="jpeg",
        )  # fmt: skip
    write_slide(tmp_path / "small.tif", tissue[:1024, :1024])
    peaks = []
    for name, source in (("small", tmp_path / "small.tif"), ("huge", tmp_path / "raw")):
        fixed = ("--modality", "microscopy", "--tile", "256", "--min-tissue", "0.5", "--direct")
        place = ("--dataset", "set", "--workers", "1", "--store", str(tmp_path / name))
        code, said, peak = run_with_peak("ingest", str(source), *fixed, *place)
        assert code == 0, said
        peaks.append(peak)
    report = run_json("ls", "set", "--samples", "1000", store=tmp_path / "huge")
    assert len(report["samples"]) > 5
    assert peaks[1] - peaks[0] < 200, peaks
