"""Frames of every kind of video equal those of a plain PyAV pass, whatever the order and seeks."""

from __future__ import annotations

import numpy as np
import pytest

from preprocessing.videos import decode_clips, plan_clips, probe_video
from tests.unit.preprocessing.raw_media import SHARED, needs_shared
from tests.unit.preprocessing.video_media import FRAMES, KINDS, plain_frames

HEADLESS = {"headless transport stream": FRAMES - 12, "headless matroska": FRAMES - 12}
SHOWN = {"edit list": FRAMES - 17, **HEADLESS}
"frames that are shown, where they are not all"
OPEN = {"MPEG-2, program stream", "open GOP", "HEVC, open GOP", "MPEG-4, open GOP"}


@pytest.mark.parametrize("kind", KINDS)
def test_index_and_frames_are_those_of_a_plain_pass(kind: str) -> None:
    data = KINDS[kind]()
    index = probe_video(data)
    times, frames = plain_frames(data)
    assert index.frames == len(times) == SHOWN.get(kind, FRAMES)
    assert [(pts - index.pts[0]) * index.time_base for pts in index.pts] == [
        time - times[0] for time in times
    ]
    assert (index.height, index.width) == frames[0].shape[:2]
    order = np.random.default_rng(0).permutation(index.frames).tolist()
    clips = [list(range(index.frames)), *(order[k : k + 3] for k in range(0, index.frames, 3))]
    for ids, found in decode_clips(data, index, clips):
        assert np.array_equal(found, [frames[i] for i in ids]), ids


@pytest.mark.parametrize("kind", ["B-frames", "rotated by 90", "10 bits", "edit list"])
def test_scaled_frames_are_those_that_pyav_scales(kind: str) -> None:
    data = KINDS[kind]()
    index = probe_video(data)
    _, frames = plain_frames(data, 48, 32)
    for ids, found in decode_clips(data, index, [[5, 2, 2, 30]], short_side=32):
        assert np.array_equal(found, [frames[i] for i in ids])


def test_the_index_says_what_makes_a_video_hard() -> None:
    indices = {kind: probe_video(make()) for kind, make in KINDS.items()}
    assert {kind for kind, index in indices.items() if index.open_gop} == OPEN
    assert {kind for kind, index in indices.items() if index.variable_rate} == {"variable rate"}
    assert {kind for kind, index in indices.items() if index.edit_list} == {"edit list"}
    assert indices["10 bits"].pixel_format == "yuv420p10le"
    assert [indices[f"rotated by {angle}"].rotation for angle in (90, 180, 270)] == [270, 180, 90]


REAL = sorted(f for f in (SHARED / "videos").rglob("*") if f.suffix in (".mkv", ".mov", ".webm"))


@needs_shared
@pytest.mark.parametrize("name", [f.name for f in REAL[::6]])
def test_clips_of_real_videos(name: str) -> None:
    """The whole collection is held by `test_real_videos_decode_as_a_plain_pass_decodes_them`."""
    data = next(f for f in REAL if f.name == name).read_bytes()
    index = probe_video(data)
    clips = plan_clips(index, frames=3, stride=max(1, index.frames // 7))
    _, frames = plain_frames(data)
    for ids, found in decode_clips(data, index, clips[::-1]):
        assert np.array_equal(found, [frames[i] for i in ids]), ids
