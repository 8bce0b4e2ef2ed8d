"""decord shows the same pixels where it is allowed, and gives way to PyAV where it is not."""

from __future__ import annotations

import numpy as np
import pytest

from preprocessing import video_decord
from preprocessing.errors import DecodeError
from preprocessing.video_decord import choose_decoder, decord_safe
from preprocessing.videos import decode_clips, decode_frames, plan_clips, probe_video
from tests.unit.preprocessing.raw_media import SHARED, needs_shared
from tests.unit.preprocessing.video_media import KINDS, textured_video

UNSAFE = {
    "HEVC, open GOP": "open GOPs",
    "MPEG-4, open GOP": "open GOPs",
    "open GOP": "open GOPs",
    "variable rate": "a variable frame rate",
    "edit list": "an edit list, no keyframe at its start",
    "10 bits": "pixels of yuv420p10le",
    "B-frames, mpegts": "container mpegts",
    "MPEG-2, transport stream": "container mpegts, codec mpeg2video",
    "MPEG-2, program stream": "open GOPs, container mpeg, codec mpeg2video",
    "headless transport stream": "container mpegts",
    "headless matroska": "decord counts 44 frames, the index 36",
    "VP8": "codec vp8",
    "flash": "container flv",
    "ASF": "container asf, codec wmv2",
}


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in UNSAFE])
def test_safe_videos_decode_to_the_same_pixels(kind: str) -> None:
    data = KINDS[kind]()
    index = probe_video(data)
    assert choose_decoder(data, index, "decord").name == "decord"
    order = np.random.default_rng(1).permutation(index.frames).tolist()
    clips = [list(range(index.frames)), *(order[k : k + 4] for k in range(0, index.frames, 4))]
    ours = decode_clips(data, index, clips)
    for (ids, found), (same, expected) in zip(
        decode_clips(data, index, clips, decoder="decord"), ours, strict=True
    ):
        assert ids == same and np.array_equal(found, expected), ids


def test_scaled_frames_are_close_and_have_the_same_size() -> None:
    data = KINDS["rotated by 90"]()
    index = probe_video(data)
    ours = decode_frames(data, index, range(8), short_side=32).astype(int)
    other = decode_frames(data, index, range(8), short_side=32, decoder="decord")
    assert other.shape == ours.shape == (8, 48, 32, 3)
    assert np.abs(ours - other).mean() < 2


@pytest.mark.parametrize("kind", UNSAFE)
def test_unsafe_videos_are_left_to_pyav(kind: str) -> None:
    data = KINDS[kind]()
    choice = choose_decoder(data, probe_video(data), "decord")
    assert choice.name == "pyav"
    assert choice.reason in (UNSAFE[kind], f"the video has {UNSAFE[kind]}")
    assert choose_decoder(data, probe_video(data)).reason == ""


def test_what_decord_holds_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(video_decord, "MAX_BYTES", 1000)
    data = textured_video(4)
    reason = choose_decoder(data, probe_video(data), "decord").reason
    assert reason == f"the file has {len(data)} bytes, decord holds at most 1000 in memory"


def test_an_index_of_other_frames_is_noticed() -> None:
    data, index = textured_video(12), probe_video(textured_video(13))
    assert choose_decoder(data, index, "decord").reason == "decord counts 12 frames, the index 13"
    with pytest.raises(DecodeError, match="decord counts 12 frames"):
        decode_frames(data, index, [0], decoder="decord")
    with pytest.raises(ValueError, match="decoder is 'opencv'; it must be one of pyav, decord"):
        choose_decoder(data, index, "opencv")


def test_damage_is_left_to_pyav_which_refuses_it() -> None:
    """decord conceals a damaged frame without a word."""
    data = bytearray(textured_video(g="48"))
    index = probe_video(bytes(data))
    begin = data.index(b"mdat")
    spot = begin + (data.index(b"moov") - begin) // 2
    data[spot : spot + 60] = bytes(60)
    choice = choose_decoder(bytes(data), index, "decord")
    assert choice.name == "pyav" and choice.reason
    with pytest.raises(DecodeError, match="decode_error"):
        decode_frames(bytes(data), index, range(index.frames))


@needs_shared
@pytest.mark.slow
def test_real_videos_that_are_safe_decode_to_the_same_pixels() -> None:
    safe = 0
    for file in sorted(f for f in (SHARED / "videos").rglob("*") if f.suffix in (".mkv", ".mp4")):
        data = file.read_bytes()
        index = probe_video(data)
        if decord_safe(index):
            continue
        safe += 1
        assert choose_decoder(data, index, "decord").name == "decord", file.name
        clips = plan_clips(index, frames=4, stride=max(1, index.frames // 10))
        for (ids, found), (_, expected) in zip(
            decode_clips(data, index, clips, decoder="decord"),
            decode_clips(data, index, clips),
            strict=True,
        ):
            assert np.array_equal(found, expected), (file.name, ids)
    assert safe > 20
