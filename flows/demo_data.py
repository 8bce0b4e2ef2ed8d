"""The demo's raw inputs, made the way a lab has them on disk: the same bytes for the same seed.

Each modality is a folder of class folders. Among the good files lie a few broken ones and exact
copies, so that the books of an ingest have every kind of entry.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path

import numpy as np

from flows import demo_fields, demo_images, demo_tiles, demo_videos

MODALITIES = ("image", "video", "microscopy", "satellite")
IMAGES_A_CLASS = 60
VIDEOS_A_CLASS = 12
WELLS_A_TREATMENT = 10
SITES_A_WELL = 2
TILES_A_CLASS = 40
NOT_A_PICTURE = (
    b"This is not the file that its name says; a broken download often looks like this.\n"
)
FIRST_DAY = date(2023, 4, 3)


def make_demo_data(
    folder: Path, seed: int = 0, modalities: tuple[str, ...] = MODALITIES
) -> dict[str, Path]:
    """Write small raw inputs of each modality below `folder`, over what is there.

    Args:
        folder: gets a folder a modality, each with class folders; `motion.json` beside them holds
            the true motion of every object in the videos.
        seed: other seeds give other inputs.
        modalities: which to make, of image, video, microscopy, satellite.

    Returns:
        The folder of each modality: a source for `headrace ingest`.
    """
    unknown = [name for name in modalities if name not in _MAKERS]
    if unknown:
        raise ValueError(
            f"make_demo_data: modality {unknown[0]!r} is unknown. Known: {', '.join(_MAKERS)}."
        )
    places = {name: folder / name for name in modalities}
    for name, place in places.items():
        _MAKERS[name](place, seed)
    return places


def _generator(seed: int, *purpose: int) -> np.random.Generator:
    return np.random.default_rng([seed, *purpose])


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def _make_images(folder: Path, seed: int) -> None:
    for kind_id, kind in enumerate(demo_images.SCENES):
        for i in range(IMAGES_A_CLASS):
            ending = "png" if i % 6 == 5 else "jpg"
            rgb = demo_images.paint_scene(kind, _generator(seed, 0, kind_id, i))
            _write(
                folder / kind / f"{kind}_{i:03d}.{ending}", demo_images.encode_scene(rgb, ending)
            )
    first = (folder / "bricks" / "bricks_000.jpg").read_bytes()
    _write(folder / "bricks" / "bricks_000 (copy).jpg", first)
    _write(folder / "grass" / "grass_cut_short.jpg", first[: len(first) // 2])
    _write(folder / "clouds" / "clouds_empty.jpg", b"")
    _write(folder / "trunks" / "trunks_text.jpg", NOT_A_PICTURE)


def _make_videos(folder: Path, seed: int) -> None:
    truth = {}
    for kind_id, kind in enumerate(demo_videos.KINDS):
        for i in range(VIDEOS_A_CLASS):
            rng = _generator(seed, 1, kind_id, i)
            motion = demo_videos.plan_motion(kind, rng, frames=48 + int(rng.integers(16)))
            data = demo_videos.encode_video(demo_videos.render(motion, rng), motion.fps)
            _write(folder / kind / f"{kind}_{i:02d}.mp4", data)
            truth[f"{kind}/{kind}_{i:02d}.mp4"] = motion.to_json()
    _write(folder.parent / "motion.json", json.dumps(truth, sort_keys=True).encode())
    rng = _generator(seed, 1, 99)
    frames = demo_videos.render(demo_videos.plan_motion("drift", rng, frames=40), rng)
    cut = demo_videos.encode_video(frames, demo_videos.FPS)
    _write(folder / "drift" / "drift_cut_short.mp4", cut[: len(cut) * 6 // 10])
    _write(folder / "bob" / "bob_text.mp4", NOT_A_PICTURE)
    _write(folder / "orbit" / "orbit_blink.mp4", demo_videos.encode_video(frames[:5], 24))
    copy = (folder / "swarm" / "swarm_00.mp4").read_bytes()
    _write(folder / "swarm" / "swarm_00 (copy).mp4", copy)


def _make_fields(folder: Path, seed: int) -> None:
    for kind_id, treatment in enumerate(demo_fields.TREATMENTS):
        for i in range(WELLS_A_TREATMENT):
            well = f"{'BCDEFG'[kind_id]}{i + 2:02d}"
            for site in range(1, SITES_A_WELL + 1):
                field = demo_fields.paint_field(treatment, _generator(seed, 2, kind_id, i, site))
                for number, (channel, plane) in enumerate(
                    zip(demo_fields.CHANNELS, field, strict=True), start=1
                ):
                    name = f"P1_{well}_s{site}_w{number}_{channel}.tif"
                    _write(folder / treatment / name, demo_fields.encode_channel(plane))
    (folder / "control" / "P1_B04_s2_w5_Mito.tif").unlink()
    cut = folder / "enlarged" / "P1_D07_s1_w3_RNA.tif"
    cut.write_bytes(cut.read_bytes()[:4000])
    other = np.full((96, 96), 700, np.uint16)
    _write(folder / "elongated" / "P1_C05_s2_w2_ER.tif", demo_fields.encode_channel(other))


def _make_tiles(folder: Path, seed: int) -> None:
    for kind_id, cover in enumerate(demo_tiles.COVERS):
        for i in range(TILES_A_CLASS):
            rng = _generator(seed, 3, kind_id, i)
            bands = demo_tiles.paint_tile(cover, rng)
            if i % 8 == 7:
                bands = demo_tiles.cut_by_swath(bands, rng)
            day = FIRST_DAY + timedelta(days=5 * int(rng.integers(36)))
            name = f"S2A_{day:%Y%m%d}_T32TQM_r{kind_id:02d}c{i:03d}.tif"
            _write(folder / cover / name, demo_tiles.encode_tile(bands, (kind_id, i), day))
    good = demo_tiles.encode_tile(
        demo_tiles.paint_tile("crop", _generator(seed, 3, 99)), (9, 0), FIRST_DAY
    )
    empty = np.zeros((len(demo_tiles.BANDS), demo_tiles.SIZE, demo_tiles.SIZE), np.uint16)
    beyond = demo_tiles.encode_tile(empty, (9, 1), FIRST_DAY)
    _write(folder / "crop" / "S2A_20230403_T32TQM_r09c000.tif", good[: len(good) * 7 // 10])
    _write(folder / "water" / "S2A_20230403_T32TQM_r09c001.tif", beyond)
    _write(folder / "urban" / "S2A_20230403_T32TQM_r09c002.tif", NOT_A_PICTURE)
    twin = sorted((folder / "forest").glob("S2A_*_r01c000.tif"))[0]
    _write(folder / "forest" / f"{twin.stem} (copy).tif", twin.read_bytes())


_MAKERS: dict[str, Callable[[Path, int], None]] = {
    "image": _make_images,
    "video": _make_videos,
    "microscopy": _make_fields,
    "satellite": _make_tiles,
}
