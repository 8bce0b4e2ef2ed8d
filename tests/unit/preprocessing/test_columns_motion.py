"""Codec motion against an extraction of its own, and masks that follow a known object."""

from __future__ import annotations

import io
from collections.abc import Callable

import av
import cv2
import numpy as np
import pytest
from av.codec.context import Flags2
from numpy.typing import NDArray

from pipelines.column_types import Stored
from pipelines.producers import column_spec, compute_one
from pipelines.producers_motion import seen_motion
from preprocessing.bits import unpack_mask
from preprocessing.flow import FLOW_STEP
from preprocessing.video_codec import encode_clip
from preprocessing.views import View

EDGE, THING, FRAMES, PATCH, TUBELET = 160, 40, 16, 16, 2
Path = Callable[[int], tuple[int, int]]


def right_and_down(t: int) -> tuple[int, int]:
    return 16 + 4 * t, 24 + 2 * t


def left(t: int) -> tuple[int, int]:
    return 100 - 5 * t, 60


def up_slowly(t: int) -> tuple[int, int]:
    return 70, 96 - 3 * t


PATHS = [right_and_down, left, up_slowly]


def moving_square(path: Path, seed: int = 0) -> Stored:
    """Return a stored clip in which a textured square follows a path over a still ground."""
    rng = np.random.default_rng(seed)
    noise = rng.integers(0, 255, (EDGE + THING, EDGE, 3), np.uint8)
    smooth = cv2.normalize(cv2.GaussianBlur(noise, (0, 0), 1.5), None, 0, 255, cv2.NORM_MINMAX)
    clip = np.repeat(smooth[None, :EDGE], FRAMES, 0)
    for t in range(FRAMES):
        x, y = path(t)
        clip[t, y : y + THING, x : x + THING] = smooth[EDGE:, :THING]
    return Stored(7 + seed, "mp4", encode_clip(clip, 25.0), {}, clip.shape)


def plain_vectors(data: bytes) -> NDArray[np.float64]:
    """Return the dense motion (T, H, W, 2) that PyAV exports, block by block."""
    fields = []
    with av.open(io.BytesIO(data)) as container:
        stream = container.streams.video[0]
        stream.codec_context.flags2 |= Flags2.export_mvs
        for frame in container.decode(stream):
            field = np.zeros((frame.height, frame.width, 2))
            side = frame.side_data.get("MOTION_VECTORS")
            for v in [] if side is None else side.to_ndarray():
                assert v["source"] == -1
                x, y = int(v["dst_x"]) - int(v["w"]) // 2, int(v["dst_y"]) - int(v["h"]) // 2
                box = slice(max(y, 0), y + int(v["h"])), slice(max(x, 0), x + int(v["w"]))
                scale = float(v["motion_scale"])
                field[box] = v["motion_x"] / scale, v["motion_y"] / scale
            fields.append(field)
    return np.stack(fields)


@pytest.mark.parametrize("cell", [4, 8, 16])
@pytest.mark.parametrize("path", PATHS)
def test_motion_is_what_pyav_exports(path: Path, cell: int) -> None:
    stored = moving_square(path)
    column = compute_one(column_spec("motion", {"cell": cell}), stored)
    dense = plain_vectors(stored.payload)
    t, h, w, _ = dense.shape
    means = dense.reshape(t, h // cell, cell, w // cell, cell, 2).mean((2, 4))
    assert np.abs(column * FLOW_STEP - means).max() <= FLOW_STEP / 2 + 1e-5
    inside = np.zeros((h, w), bool)
    x, y = path(9)
    inside[y + 8 : y + THING - 8, x + 8 : x + THING - 8] = True
    moved = np.subtract(path(8), path(9))
    np.testing.assert_allclose(np.median(dense[9][inside], axis=0), moved, atol=0.5)


@pytest.mark.parametrize("source", ["flow", "motion"])
@pytest.mark.parametrize("path", PATHS)
def test_motion_masks_follow_the_object(path: Path, source: str) -> None:
    """The hidden box stays within one token of the object in at least 80 % of the frames."""
    stored = moving_square(path)
    array = compute_one(column_spec(source, {}), stored)
    view = {"kind": "center", "size": EDGE, "flip": False}
    mask = {"kind": "mgm", "source": source, "ratio": 0.1}
    asked = {"draws": 4, "views": 1, "view": view, "size": EDGE, "patch": PATCH, "mask": mask}
    spec = column_spec("masks", asked)
    with_input = Stored(stored.sample, "mp4", stored.payload, {}, stored.shape, {source: array})
    draws = compute_one(spec, with_input)
    edge = EDGE // PATCH
    near = []
    for packed in draws:
        masks = unpack_mask(packed, FRAMES // TUBELET * edge * edge).reshape(-1, edge, edge)
        for t in range(FRAMES):
            row, column = (np.argwhere(masks[t // TUBELET]) + 0.5).mean(0)
            x, y = path(t)
            away = row - (y + THING / 2) / PATCH, column - (x + THING / 2) / PATCH
            near.append(max(map(abs, away)) <= 1)
    assert np.mean(near) >= 0.8, f"{np.mean(near):.0%}"


@pytest.mark.parametrize("source", ["flow", "motion"])
@pytest.mark.parametrize("path", PATHS)
def test_visible_tokens_of_mgmae_follow_the_object(path: Path, source: str) -> None:
    """One token a tubelet is visible. Where the base frame's lies on the object, it stays within
    one token of the same place on it in at least 80 % of the frames."""
    stored = moving_square(path)
    array = compute_one(column_spec(source, {}), stored)
    view = {"kind": "center", "size": EDGE, "flip": False}
    edge, base = EDGE // PATCH, FRAMES // 2
    mask = {"kind": "mgmae", "source": source, "ratio": 0.99}
    asked = {"draws": 160, "views": 1, "view": view, "size": EDGE, "patch": PATCH, "mask": mask}
    with_input = Stored(stored.sample, "mp4", stored.payload, {}, stored.shape, {source: array})
    near, seen = [], 0
    for packed in compute_one(column_spec("masks", asked), with_input):
        shown = ~unpack_mask(packed, FRAMES // TUBELET * edge * edge)
        places = [np.argwhere(tubelet)[:, ::-1] for tubelet in shown.reshape(-1, edge, edge)]
        assert [len(place) for place in places] == [1] * (FRAMES // TUBELET)
        pixel = (places[base // TUBELET][0] + 0.5) * PATCH
        inside = pixel - path(base)
        if (inside < PATCH / 4).any() or (inside > THING - PATCH / 4).any():
            continue
        seen += 1
        for t in range(FRAMES):
            here = (places[t // TUBELET][0] + 0.5) * PATCH
            near.append(np.abs(here - (path(t) + inside)).max() <= PATCH)
    assert seen >= 3
    assert np.mean(near) >= 0.8, f"{np.mean(near):.0%}"


@pytest.mark.parametrize("path", PATHS)
def test_flow_and_motion_agree_on_the_object(path: Path) -> None:
    stored = moving_square(path)
    grid = (FRAMES // TUBELET, EDGE // PATCH, EDGE // PATCH)
    view = View(0, 0, EDGE, EDGE, EDGE)
    seen = {}
    for name in ("flow", "motion"):
        spec = column_spec(name, {})
        seen |= seen_motion(name, compute_one(spec, stored), spec.parameters, view, grid)
    t = 8
    x, y = path(t)
    rows = slice(-(-(y + 8) // 8), (y + THING - 8) // 8)
    columns = slice(-(-(x + 8) // 8), (x + THING - 8) // 8)
    wanted = np.subtract(path(t - 1), path(t))
    for field in (seen["backward"][t - 1], seen["motion"][t], -seen["forward"][t - 1]):
        inner = field[rows, columns].reshape(-1, 2)
        np.testing.assert_allclose(np.median(inner, axis=0), wanted, atol=1.0)
