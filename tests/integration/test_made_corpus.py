"""Files of every reason class and awkward ones, made here, beside good ones: the outcomes."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image, ImageOps

from preprocessing.errors import REASON_CLASSES
from tests.integration import made_files
from tests.integration.made_files import Corpus
from tests.integration.outcomes import Outcome, Stored, ingest_all
from tests.integration.raw import (
    FIELD_PATTERN,
    make_fields,
    make_images,
    make_stacks,
    make_tiles,
    make_videos,
)
from tests.integration.test_ingest import tree_hash

MADE: dict[str, tuple[Callable[[], Corpus], Callable[..., Path], tuple[str, ...]]] = {
    "image": (made_files.image_corpus, make_images, ()),
    "video": (made_files.video_corpus, make_videos, ("--frames", "8")),
    "microscopy": (made_files.microscopy_corpus, make_stacks, ()),
    "satellite": (made_files.satellite_corpus, make_tiles, ()),
}
BY_FIELDS = {"incomplete_channels", "shape_mismatch"}
"classes of several files, tested below"
NEVER = {"too_small"}
"documented: a picture of one pixel is a picture"


def run_made(tmp_path: Path, modality: str) -> Outcome:
    """Ingest the made files of a modality beside three good ones."""
    make_corpus, make_good, words = MADE[modality]
    raw = tmp_path / "raw"
    make_good(raw / "good", count=3)
    for name, (data, _) in make_corpus().items():
        (raw / name).write_bytes(data)
    return ingest_all(tmp_path / "store", modality, str(raw), *words)


@pytest.mark.parametrize("modality", MADE)
def test_every_made_file_gets_its_outcome(modality: str, tmp_path: Path) -> None:
    corpus = MADE[modality][0]()
    outcome = run_made(tmp_path, modality)
    assert outcome.reasons() == {name: reason for name, (_, reason) in corpus.items() if reason}
    written = {uri.rpartition("/")[2] for uri in outcome.samples if "/good/" not in uri}
    assert written == {name for name, (_, reason) in corpus.items() if not reason}
    assert outcome.report["inputs"] == len(corpus) + 3
    assert outcome.report["duplicates"] == outcome.report["skipped"] == 0
    assert all(row["detail"] and row["content_hash"] for row in outcome.rejects.values())
    first = tree_hash(tmp_path / "store")
    (tmp_path / "store").rename(tmp_path / "first")
    run_made_again = ingest_all(
        tmp_path / "store", modality, str(tmp_path / "raw"), *MADE[modality][2]
    )
    assert run_made_again.report["snapshot"] == 1
    assert tree_hash(tmp_path / "store") == first, "a reject's detail or a payload is not the same"


def test_all_classes_are_made() -> None:
    made = {reason for make, _, _ in MADE.values() for _, reason in make().values()}
    assert made - {""} == set(REASON_CLASSES) - BY_FIELDS - NEVER


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[bytes, Stored]]:
    """The accepted pictures by name: raw bytes, and what was stored."""
    outcome = run_made(tmp_path_factory.mktemp("pictures"), "image")
    raw = made_files.image_accepts()
    by_name = {uri.rpartition("/")[2]: samples[0] for uri, samples in outcome.samples.items()}
    return {name: (data, by_name[name]) for name, (data, _) in raw.items()}


@pytest.mark.parametrize("name", made_files.image_accepts())
def test_an_awkward_picture_is_stored_as_pillow_sees_it(
    name: str, pictures: dict[str, tuple[bytes, Stored]]
) -> None:
    raw, stored = pictures[name]
    image = Image.open(io.BytesIO(raw))
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):
        expected = np.repeat((np.asarray(image) >> 8).astype(np.uint8)[..., None], 3, 2)
    elif image.mode == "RGBA":
        expected = np.asarray(image)[..., :3]
    else:
        expected = np.asarray(image.convert("RGB"))
    seen = stored.array()
    assert seen.dtype == np.uint8 and seen.shape == expected.shape == tuple(stored.row["shape"])
    if name == "cmyk.jpg":  # two ways to turn ink into light; neither may give a negative
        assert np.abs(seen.astype(int) - expected).mean() < 12
    else:
        assert np.array_equal(seen, expected)
    assert stored.payload == raw or stored.row["ext"] == "png"


def test_awkward_videos_keep_times_and_stand_upright(tmp_path: Path) -> None:
    outcome = run_made(tmp_path, "video")
    found = {uri.rpartition("/")[2]: samples for uri, samples in outcome.samples.items()}
    uneven, turned, odd = (found[name][0] for name in ("uneven.mp4", "turned.mp4", "odd.mp4"))
    times = [0, 0.033, 0.067, 0.1, 0.7, 0.733, 1.5, 1.533]
    assert uneven.metadata["seconds"] == pytest.approx(times, abs=6e-4)
    levels = uneven.array().mean((1, 2, 3))
    assert levels == pytest.approx(5 + 4 * np.arange(8), abs=3)
    assert turned.array().shape == (8, 90, 60, 3)
    assert odd.array().shape == (8, 60, 90, 3)  # 4:2:0: an odd edge loses one pixel
    upright = np.stack([made_files.smooth(61, 91, seed=seed)[:60, :90] for seed in range(8)])
    assert np.abs(np.rot90(turned.array(), 1, (1, 2)).astype(int) - upright).mean() < 8
    assert np.abs(odd.array().astype(int) - upright).mean() < 8


@pytest.mark.parametrize("modality", ["microscopy", "satellite"])
def test_awkward_rasters_keep_their_values_and_say_what_is_valid(
    modality: str, tmp_path: Path
) -> None:
    corpus = MADE[modality][0]()
    outcome = run_made(tmp_path, modality)
    for uri, samples in outcome.samples.items():
        name = uri.rpartition("/")[2]
        if name not in corpus:
            continue
        raw = tifffile.imread(io.BytesIO(corpus[name][0]))
        if modality == "satellite":
            raw = np.moveaxis(raw, -1, 0) if raw.shape[-1] == 4 else raw
        stored = tifffile.imread(io.BytesIO(samples[0].payload))
        assert np.array_equal(stored, raw, equal_nan=raw.dtype.kind == "f")
        assert stored.dtype == np.dtype(raw.dtype.type)
        assert np.isfinite(samples[0].array()).all()
        nodata = samples[0].metadata.get("nodata")
        valid = np.isfinite(raw) & (True if nodata is None else raw != nodata)
        assert samples[0].metadata["valid_share"] == pytest.approx(valid.all(0).mean(), abs=1e-6)
        if modality == "satellite":
            assert samples[0].metadata["crs"] == (None if name == "no_crs.tif" else "EPSG:32633")


def test_fields_that_lack_or_mismatch_a_channel_are_refused_whole(tmp_path: Path) -> None:
    raw = make_fields(tmp_path / "raw", wells=3)
    (raw / "P1_B02_s1_w2_ER.tif").unlink()
    tifffile.imwrite(raw / "P1_B03_s2_w3_RNA.tif", np.ones((20, 48), np.uint16))
    words = ("--pattern", FIELD_PATTERN)
    outcome = ingest_all(tmp_path / "store", "microscopy", str(raw), *words)
    assert outcome.reasons() == {
        "P1_B02_s1_w1_DNA.tif": "incomplete_channels",
        "P1_B02_s1_w3_RNA.tif": "incomplete_channels",
        **{
            f"P1_B03_s2_w{n}_{channel}.tif": "shape_mismatch"
            for n, channel in enumerate(("DNA", "ER", "RNA"), 1)
        },
    }
    assert len(outcome.samples) == 4
    assert all(s[0].metadata["channels"] == ["DNA", "ER", "RNA"] for s in outcome.samples.values())


def test_scenes_that_lack_or_misplace_a_band_are_refused_whole(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    raw.mkdir()
    values = np.random.default_rng(8).integers(1, 4000, (4, 3, 1, 24, 24)).astype(np.uint16)
    for scene in range(4):
        for band in range(3):
            if (scene, band) != (1, 2):
                name = f"{'abcd'[scene]}_B0{band + 2}.tif"
                (raw / name).write_bytes(made_files.geotiff(values[scene, band]))
    other = made_files.geotiff(values[2, 0], crs="EPSG:32634")
    (raw / "c_B02.tif").write_bytes(other)
    pattern = r"(?P<scene>[a-d])_(?P<band>B\d\d)\.tif$"
    outcome = ingest_all(tmp_path / "store", "satellite", str(raw), "--pattern", pattern)
    assert outcome.reasons() == {
        **{f"b_B0{n}.tif": "incomplete_channels" for n in (2, 3)},
        **{f"c_B0{n}.tif": "shape_mismatch" for n in (2, 3, 4)},
    }
    assert len(outcome.samples) == 2


def test_a_file_of_other_channels_than_named_is_refused(tmp_path: Path) -> None:
    raw = make_stacks(tmp_path / "raw", count=3)
    make_stacks(raw / "more", count=1, channels=2)
    words = ("--channels", "DNA,ER,RNA")
    outcome = ingest_all(tmp_path / "store", "microscopy", str(raw), *words)
    assert list(outcome.reasons().values()) == ["incomplete_channels"]
    assert len(outcome.samples) == 3


def test_a_file_of_other_channels_does_not_end_the_run(tmp_path: Path) -> None:
    raw = make_stacks(tmp_path / "raw", count=3)
    make_stacks(raw / "more", count=1, channels=2)
    outcome = ingest_all(tmp_path / "store", "microscopy", str(raw))
    assert outcome.report["inputs"] == 4
    json.dumps(outcome.report)
