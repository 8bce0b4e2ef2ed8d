"""Videos: frames by time, clips, rotation, what is refused, and the motion of a stored clip."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
from av.video.frame import PictureType

from preprocessing.errors import DecodeError
from preprocessing.video_codec import rasterise_vectors
from preprocessing.videos import (
    clip_vectors,
    decode_clip,
    decode_clips,
    decode_frames,
    encode_clip,
    motion_score,
    plan_clips,
    probe_video,
)
from tests.unit.preprocessing.raw_media import (
    SHARED,
    moving_clip,
    needs_shared,
    numbered_video,
    numbers_of,
    smooth,
)


def reason(data: bytes) -> str:
    with pytest.raises(DecodeError) as caught:
        probe_video(data)
    return caught.value.reason_class


@pytest.mark.parametrize("format", ["mp4", "matroska", "avi", "mpegts"])
@pytest.mark.parametrize("bframes", [0, 2])
def test_any_frame_is_found_in_any_order(format: str, bframes: int) -> None:
    data = numbered_video(30, gop=8, bframes=bframes, format=format)
    index = probe_video(data)
    assert (index.frames, index.width, index.height, index.codec) == (30, 64, 48, "h264")
    wanted = [29, 0, 13, 13, 7, 8, 22]
    assert numbers_of(decode_frames(data, index, wanted)) == wanted
    for single in (0, 7, 8, 9, 29):
        assert numbers_of(decode_frames(data, index, [single])) == [single]


def test_frames_without_times_are_counted() -> None:
    data = numbered_video(20)
    index = replace(probe_video(data), counted=True)
    clips = [[15, 3], [2, 19]]
    found = [numbers_of(frames) for _, frames in decode_clips(data, index, clips)]
    assert found == clips


def test_clips_far_apart_are_reached_by_seeking() -> None:
    data = numbered_video(60, gop=10)
    index = probe_video(data)
    assert index.keyframes == (0, 10, 20, 30, 40, 50)
    clips = [[1, 2], [43, 45], [11, 58]]
    assert [numbers_of(f) for _, f in decode_clips(data, index, clips)] == clips


def test_variable_rate_is_seen_and_sampled_by_time() -> None:
    times = [0, 40, 80, 500, 540, 1500, 1540, 2000]
    data = numbered_video(8, times=times, format="matroska")
    index = probe_video(data)
    assert index.variable_rate and not probe_video(numbered_video(8)).variable_rate
    assert [index.seconds(i) for i in range(8)] == pytest.approx([t / 1000 for t in times])
    assert [index.frame_at(s) for s in (0, 0.039, 0.04, 0.4, 1.0, 9)] == [0, 0, 1, 2, 4, 7]
    assert plan_clips(index, frames=2, fps=2.0) == [[0, 3], [4, 5]]


def test_clips_follow_each_other_and_share_no_frame() -> None:
    index = probe_video(numbered_video(30))
    assert plan_clips(index, frames=4, stride=3) == [[0, 3, 6, 9], [12, 15, 18, 21]]
    assert plan_clips(index, frames=10) == [list(range(a, a + 10)) for a in (0, 10, 20)]
    assert plan_clips(index, frames=3, segments=[(0.2, 0.4), (1.0, 1.15)]) == [
        [5, 6, 7],
        [25, 26, 27],
    ]
    assert plan_clips(index, frames=5, fps=5) == [[0, 5, 10, 15, 20]]


def test_a_short_video_stands_still_at_its_end_and_one_frame_is_too_short() -> None:
    index = probe_video(numbered_video(5))
    assert plan_clips(index, frames=8) == [[0, 1, 2, 3, 4, 4, 4, 4]]
    assert plan_clips(index, frames=4, stride=2) == [[0, 2, 4, 4]]
    assert plan_clips(index, frames=4, fps=12.5) == [[0, 2, 2, 2]]
    assert plan_clips(index, frames=5) == [[0, 1, 2, 3, 4]]
    message = r"5 frames in 0\.200 s hold no clip of 8 at stride 5"
    with pytest.raises(DecodeError, match=message) as caught:
        plan_clips(index, frames=8, stride=5)
    assert caught.value.reason_class == "too_short"
    with pytest.raises(DecodeError, match=r"1 frames in .* hold no clip of 2"):
        plan_clips(probe_video(numbered_video(1)), frames=2)
    with pytest.raises(ValueError, match="give one of them"):
        plan_clips(probe_video(numbered_video(30)), frames=3, stride=2, fps=3.0)


def test_every_segment_is_a_piece_of_the_video() -> None:
    index = probe_video(numbered_video(30))
    assert plan_clips(index, frames=5, segments=[(1.0, 2.1)]) == [[25, 26, 27, 28, 29]]
    assert plan_clips(index, frames=2, fps=5, segments=[(0.4, 0.8)]) == [[10, 15]]
    bad = {
        (1.0, 0.5): "segment from 1.0 to 0.5 s: start must be before end",
        (0.5, 0.5): "segment from 0.5 to 0.5 s: start must be before end",
        (-1.0, 0.5): "segment from -1.0 to 0.5 s: start must be before end and not negative",
        (float("nan"), 1.0): "segment from nan to 1.0 s: start must be before end",
        (1.2, 1.9): "segment from 1.2 to 1.9 s: the video lasts 1.200 s",
        (0.5, 2.3): "segment from 0.5 to 2.3 s: the video lasts 1.200 s",
        (0.2, 0.3): "30 frames in 1.200 s hold no clip of 5 at stride 1 from 0.2 to 0.3 s",
    }
    for segment, detail in bad.items():
        with pytest.raises(DecodeError) as caught:
            plan_clips(index, frames=5, segments=[(0.0, 1.0), segment])
        assert caught.value.reason_class == "too_short"
        assert caught.value.detail.startswith(detail)


def test_a_change_of_size_within_a_video_is_refused() -> None:
    data = numbered_video(6)
    index = replace(probe_video(data), width=32, height=24)
    with pytest.raises(DecodeError, match="shape_mismatch: a frame is 64x48, the first one is 32"):
        decode_frames(data, index, [0], short_side=8)


def test_frames_are_scaled_to_a_short_side_but_never_enlarged() -> None:
    data = numbered_video(3)
    index = probe_video(data)
    assert decode_frames(data, index, [0], short_side=24).shape == (1, 24, 32, 3)
    assert decode_frames(data, index, [0], short_side=100).shape == (1, 48, 64, 3)
    with pytest.raises(ValueError, match="frame ids \\[3\\] of a video of 3 frames"):
        decode_frames(data, index, [3])


@pytest.mark.parametrize("format", ["mp4", "matroska", "avi"])
def test_every_cut_is_refused(format: str) -> None:
    data = numbered_video(12, format=format)
    for end in np.linspace(16, len(data) - 1, 12).astype(int):
        assert reason(data[:end]) == "truncated", f"{format} cut at {end} of {len(data)}"


def test_what_is_no_video_is_refused_and_opens_nothing(tmp_path: Path) -> None:
    assert reason(b"") == "empty_file"
    assert reason(b"text " * 50) == "unrecognised_format"
    (tmp_path / "clip.mp4").write_bytes(numbered_video(3))
    playlist = f"ffconcat version 1.0\nfile '{tmp_path}/clip.mp4'\n".encode()
    assert reason(playlist) == "unrecognised_format"


def test_damage_between_whole_ends_is_refused() -> None:
    data = bytearray(encode_clip(moving_clip(), 25))
    data[len(data) // 2 : len(data) // 2 + 2000] = bytes(2000)
    index = probe_video(bytes(data))
    with pytest.raises(DecodeError) as caught:
        decode_frames(bytes(data), index, range(index.frames))
    assert caught.value.reason_class == "decode_error"


def test_a_stored_clip_is_the_same_bytes_again_and_close_to_its_source() -> None:
    clip = moving_clip()
    data = encode_clip(clip, 12.5)
    assert data == encode_clip(clip.copy(), 12.5)
    stored = decode_clip(data)
    assert stored.shape == clip.shape and stored.dtype == np.uint8
    assert np.abs(stored.astype(int) - clip).mean() < 4
    index = probe_video(data)
    assert (index.fps, index.keyframes, index.codec) == (12.5, (0,), "h264")
    with av.open(io.BytesIO(data)) as source:
        kinds = [PictureType(frame.pict_type).name for frame in source.decode(video=0)]
    assert kinds == ["I"] + ["P"] * (len(clip) - 1)


def test_odd_edges_lose_one_pixel() -> None:
    clip = np.stack([smooth(33, 47, seed=s) for s in range(2)])
    assert decode_clip(encode_clip(clip, 30)).shape == (2, 32, 46, 3)


def test_motion_is_that_of_the_scene() -> None:
    clip = moving_clip(6)
    field = clip_vectors(encode_clip(clip, 25))
    assert field.shape == (6, 128, 128, 2) and not field[0].any()
    for t in range(1, 6):
        square = field[t, 24 + 3 * t : 72 + 3 * t, 16 + 7 * t : 64 + 7 * t].reshape(-1, 2)
        assert np.median(square, 0) == pytest.approx((-7, -3), abs=0.25)
        ground = field[t, 110:].reshape(-1, 2)
        assert np.median(ground, 0) == pytest.approx((2, 0), abs=0.25)


def test_vectors_fill_their_blocks() -> None:
    names = ("source", "w", "h", "dst_x", "dst_y", "motion_x", "motion_y", "motion_scale")
    vectors = np.zeros(3, [(name, np.int32) for name in names])
    vectors[0] = (-1, 16, 8, 8, 4, 8, -4, 4)
    vectors[1] = (-1, 8, 8, 20, 12, 4, 0, 4)
    vectors[2] = (1, 16, 16, 8, 24, 99, 99, 4)  # from the future: not frame-to-frame motion
    field = rasterise_vectors(vectors, 30, 26)
    expected = np.zeros((30, 26, 2), np.float32)
    expected[:8, :16] = (2, -1)
    expected[8:16, 16:24] = (1, 0)
    assert np.array_equal(field, expected)
    assert not rasterise_vectors(None, 30, 26).any()


def test_the_motion_score_tells_still_from_moving() -> None:
    still = np.repeat(smooth(64, 64)[None], 4, 0)
    assert motion_score(still) == motion_score(still[:1]) == 0
    assert 0.01 < motion_score(moving_clip()) < 1


@needs_shared
@pytest.mark.slow
def test_real_videos_decode_as_a_plain_pass_decodes_them() -> None:
    """Against PyAV without seeking, in one thread: FFmpeg's VP8 is a race with slice threads."""
    names = ("*.mp4", "*.mkv", "*.webm", "*.mov")
    for file in sorted(f for name in names for f in (SHARED / "videos").rglob(name)):
        data = file.read_bytes()
        index = probe_video(data)
        picked = np.random.default_rng(0).permutation(index.frames)[:4].tolist()
        with av.open(io.BytesIO(data)) as source:
            source.streams.video[0].thread_type = "NONE"
            for k, frame in enumerate(source.decode(video=0)):
                if k in picked:
                    expected = np.rot90(
                        frame.to_ndarray(format="rgb24"), round(frame.rotation / 90)
                    )
                    found = decode_frames(data, index, [k])[0]
                    assert np.array_equal(found, expected), f"{file.name}, frame {k}"
        assert index.frames == k + 1, file.name
