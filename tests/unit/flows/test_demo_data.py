"""The demo's raw inputs: same bytes by seed, true motion, files broken on purpose."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
from rasterio.io import MemoryFile

from flows import demo_data, demo_fields, demo_tiles, demo_videos


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make a few files of each kind only."""
    monkeypatch.setattr(demo_data, "IMAGES_A_CLASS", 6)
    monkeypatch.setattr(demo_data, "VIDEOS_A_CLASS", 1)
    monkeypatch.setattr(demo_data, "WELLS_A_TREATMENT", 6)
    monkeypatch.setattr(demo_data, "TILES_A_CLASS", 8)


def digest(folder: Path) -> str:
    """Return one hash over the names and bytes of all files below a folder."""
    total = hashlib.sha256()
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        total.update(str(path.relative_to(folder)).encode())
        total.update(path.read_bytes())
    return total.hexdigest()


@pytest.mark.usefixtures("small")
def test_same_seed_same_bytes_other_seed_others(tmp_path: Path) -> None:
    kinds = ("image", "video", "satellite")
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        demo_data.make_demo_data(tmp_path / name, seed, kinds)
    assert digest(tmp_path / "a") == digest(tmp_path / "b") != digest(tmp_path / "c")


@pytest.mark.usefixtures("small")
def test_each_modality_is_a_folder_of_class_folders(tmp_path: Path) -> None:
    places = demo_data.make_demo_data(tmp_path)
    classes = {m: sorted(p.name for p in places[m].iterdir()) for m in places}
    assert classes["image"] == ["bricks", "clouds", "grass", "pebbles", "ripples", "trunks"]
    assert classes["video"] == ["bob", "drift", "orbit", "swarm"]
    assert classes["microscopy"] == ["control", "elongated", "enlarged", "fragmented"]
    assert classes["satellite"] == ["crop", "forest", "urban", "water"]
    sizes = {
        cv2.imread(str(p)).shape for p in places["image"].rglob("*_00[0-5].*") if p.stat().st_size
    }
    assert len(sizes) > 3
    truth = json.loads((tmp_path / "motion.json").read_text())
    assert sorted(truth) == [f"{kind}/{kind}_00.mp4" for kind in classes["video"]]


def test_only_the_modalities_asked_for(tmp_path: Path, small: None) -> None:
    assert list(demo_data.make_demo_data(tmp_path, modalities=("satellite",))) == ["satellite"]
    assert [p.name for p in tmp_path.iterdir()] == ["satellite"]
    with pytest.raises(ValueError, match=r"modality 'radar' is unknown\. Known: image, video"):
        demo_data.make_demo_data(tmp_path, modalities=("radar",))


def patch(frame: np.ndarray, centre: tuple[float, float], size: int) -> np.ndarray:
    """Return the pixels around a place, to a fraction of a pixel."""
    return cv2.getRectSubPix(frame.astype(np.float32), (size, size), centre)


@pytest.mark.parametrize("kind", demo_videos.KINDS)
def test_objects_and_background_move_as_the_truth_says(kind: str) -> None:
    rng = np.random.default_rng([0, 1])
    motion = demo_videos.plan_motion(kind, rng, frames=8)
    frames = demo_videos.render(motion, rng)
    top = motion.movers[-1].centres  # laid last: nothing covers it
    size = 2 * int(motion.movers[-1].radius * 0.45)
    along = patch(frames[0], top[0], size) - patch(frames[6], top[6], size)
    stayed = patch(frames[0], top[0], size) - patch(frames[6], top[0], size)
    assert np.abs(along).mean() < min(12, np.abs(stayed).mean())

    corner = (20.0, 12.0)
    free = all(np.hypot(x - 20, y - 12) > 40 for m in motion.movers for x, y in m.centres)
    if free:
        moved = (corner[0] + 6 * motion.background[0], corner[1] + 6 * motion.background[1])
        assert np.abs(patch(frames[0], corner, 15) - patch(frames[6], moved, 15)).mean() < 6


def test_field_is_written_as_one_16_bit_page_a_channel(tmp_path: Path) -> None:
    field = demo_fields.paint_field("enlarged", np.random.default_rng(0))
    assert field.shape == (5, 128, 128) and field.dtype == np.uint16
    path = tmp_path / "w1.tif"
    path.write_bytes(demo_fields.encode_channel(field[0]))
    with tifffile.TiffFile(path) as file:
        assert len(file.pages) == 1
        assert np.array_equal(file.asarray(), field[0])


def test_tile_keeps_place_bands_and_nodata() -> None:
    rng = np.random.default_rng(0)
    bands = demo_tiles.cut_by_swath(demo_tiles.paint_tile("water", rng), rng)
    data = demo_tiles.encode_tile(bands, (1, 2), demo_data.FIRST_DAY)
    with MemoryFile(data) as memory, memory.open() as tile:
        assert np.array_equal(tile.read(), bands)
        assert tile.descriptions == demo_tiles.BANDS
        assert (tile.crs.to_epsg(), tile.nodata, tile.res) == (32632, 0, (10.0, 10.0))
        assert tile.bounds.left == 600_000 + 2 * 640
        assert tile.tags()["SENSING_TIME"] == "2023-04-03T10:20:31Z"
        assert 0.1 < (tile.read(1) == 0).mean() < 0.8


def test_broken_files_and_copies_are_there(tmp_path: Path, small: None) -> None:
    places = demo_data.make_demo_data(tmp_path)
    texts = [
        p for p in tmp_path.rglob("*") if p.is_file() and p.read_bytes() == demo_data.NOT_A_PICTURE
    ]
    assert len(texts) == 3
    copies = list(tmp_path.rglob("* (copy).*"))
    assert len(copies) == 3
    sites = {p.name.rsplit("_", 2)[0] for p in places["microscopy"].rglob("*.tif")}
    counts = [len(list(places["microscopy"].rglob(f"{site}_*.tif"))) for site in sites]
    assert sorted(counts)[:2] == [4, 5]
