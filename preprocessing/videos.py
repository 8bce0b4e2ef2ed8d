"""Videos: clips planned by frame ids, frames decoded by presentation time, motion scored.

The parts: `video_containers` (what the bytes are), `video_probe` (the index), `video_codec` (stored
clips), `video_decord` (a second decoder).
"""

from __future__ import annotations

import bisect
from collections.abc import Iterator, Sequence
from itertools import pairwise

import cv2
import numpy as np
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from numpy.typing import NDArray

from preprocessing.errors import DecodeError
from preprocessing.source import Source
from preprocessing.video_codec import (
    clip_vectors,
    decode_clip,
    encode_clip,
    rasterise_vectors,
    to_rgb,
)
from preprocessing.video_decord import choose_decoder, decord_clips
from preprocessing.video_probe import VideoIndex, opened, probe_video

__all__ = [
    "VideoIndex",
    "choose_decoder",
    "clip_vectors",
    "decode_clip",
    "decode_clips",
    "decode_frames",
    "encode_clip",
    "motion_score",
    "plan_clips",
    "probe_video",
    "rasterise_vectors",
]

SEGMENT_GRACE = 1.0
"seconds by which a segment may end after its video"


def plan_clips(
    index: VideoIndex,
    *,
    frames: int,
    stride: int | None = None,
    fps: float | None = None,
    segments: Sequence[tuple[float, float]] | None = None,
) -> list[list[int]]:
    """Return the frame ids of consecutive clips that share no time.

    A video that is shorter than a clip, but has two frames at the pace, is one clip whose last
    frame stands still: its id is repeated.

    Args:
        frames: frames of a clip.
        stride: source frames between two clip frames; 1 if neither this nor `fps` is given.
        fps: clip frames a second instead: each is the frame shown at its time.
        segments: (start, end) in seconds after the first frame; by default the whole video. An end
            may pass the video's by a second, as rounded annotations do; it is cut.

    Raises:
        DecodeError: too_short, if the video is one frame, or a segment holds not one clip.
    """
    if stride is not None and fps is not None:
        raise ValueError(f"plan_clips: stride is {stride} and fps is {fps}; give one of them.")
    if frames < 1 or (stride or 1) < 1 or (fps is not None and fps <= 0):
        raise ValueError(f"plan_clips: {frames=}, {stride=}, {fps=}; all must be positive.")
    duration = index.duration
    clips: list[list[int]] = []
    for begin, end in segments or [(0.0, duration)]:
        if segments:
            _check_segment(begin, end, duration)
        if fps is not None:
            found = _clips_by_time(index, frames, fps, begin, min(end, duration))
        else:
            found = _clips_by_stride(index, frames, stride or 1, begin, end)
        if not found and not segments:
            found = _one_short_clip(index, frames, stride or 1, fps)
        if not found:
            pace = f"{fps} frames a second" if fps else f"stride {stride or 1}"
            where = f" from {begin} to {end} s" if segments else ""
            raise DecodeError(
                "too_short",
                f"{index.frames} frames in {duration:.3f} s hold no clip of {frames} at {pace}"
                f"{where}",
            )
        clips += found
    return clips


def _one_short_clip(
    index: VideoIndex, frames: int, stride: int, fps: float | None
) -> list[list[int]]:
    """Return the clip of a video that ends before the clip does; none if nothing can move in it."""
    single = [[i] for i in range(0, index.frames, stride)]
    if fps is not None:
        single = _clips_by_time(index, 1, fps, 0.0, index.duration)
    ids = [i for (i,) in single]
    if len(set(ids)) < 2:
        return []
    return [ids + ids[-1:] * (frames - len(ids))]


def _check_segment(begin: float, end: float, duration: float) -> None:
    """Refuse a segment that is not a piece of the video."""
    if not 0 <= begin < end:  # not a number, too
        raise DecodeError(
            "too_short",
            f"segment from {begin} to {end} s: start must be before end and not negative",
        )
    if begin >= duration or end > duration + SEGMENT_GRACE:
        raise DecodeError(
            "too_short", f"segment from {begin} to {end} s: the video lasts {duration:.3f} s"
        )


def _clips_by_stride(
    index: VideoIndex, frames: int, stride: int, begin: float, end: float
) -> list[list[int]]:
    """Cut the frames shown in [begin, end) into clips."""
    every = range(index.frames)
    ids = every[
        bisect.bisect_left(every, begin, key=index.seconds) : bisect.bisect_left(
            every, end, key=index.seconds
        )
    ]
    reach = (frames - 1) * stride + 1
    starts = range(0, len(ids) - reach + 1, frames * stride)
    return [list(ids[start : start + reach : stride]) for start in starts]


def _clips_by_time(
    index: VideoIndex, frames: int, fps: float, begin: float, end: float
) -> list[list[int]]:
    """Sample [begin, end) every 1/fps seconds; a frame shown for long appears more than once."""
    ticks = int(np.floor((end - begin) * fps + 1e-6))
    ids = [index.frame_at(begin + tick / fps) for tick in range(ticks)]
    return [ids[start : start + frames] for start in range(0, ticks - frames + 1, frames)]


def decode_frames(
    data: bytes | Source,
    index: VideoIndex,
    frame_ids: Sequence[int],
    *,
    short_side: int | None = None,
    decoder: str = "pyav",
) -> NDArray[np.uint8]:
    """Return (T, H, W, 3) uint8 RGB: the frames of the given ids, upright, in the given order.

    Args:
        data: the video file.
        index: what `probe_video` said of it.
        frame_ids: any ids, repeated ones too.
        short_side: scale the shorter edge down to this, by area means; nothing is enlarged.
        decoder: pyav, or decord where `choose_decoder` allows it.

    Raises:
        DecodeError: a frame does not decode.
    """
    clips = [list(frame_ids)]
    return next(decode_clips(data, index, clips, short_side=short_side, decoder=decoder))[1]


def decode_clips(
    data: bytes | Source,
    index: VideoIndex,
    clips: Sequence[Sequence[int]],
    *,
    short_side: int | None = None,
    decoder: str = "pyav",
) -> Iterator[tuple[list[int], NDArray[np.uint8]]]:
    """Yield (ids, frames) of each clip; consecutive clips cost one pass over the video.

    Args and errors are those of `decode_frames`; only the frames of one clip are held at a time.
    """
    bad = [i for clip in clips for i in clip if not 0 <= i < index.frames]
    if bad:
        raise ValueError(f"decode_clips: frame ids {bad[:5]} of a video of {index.frames} frames.")
    size = shown_size(index, short_side)
    if decoder == "decord":
        yield from decord_clips(data, index, clips, size)
        return
    with opened(data, index.container) as (source, stream):
        reader = _FrameReader(source, stream, index, size)
        for clip in clips:
            yield list(clip), _read_clip(reader, clip, size)


def _read_clip(
    reader: _FrameReader, clip: Sequence[int], size: tuple[int, int]
) -> NDArray[np.uint8]:
    """Return the frames of a clip; each is decoded once, in ascending order."""
    places: dict[int, list[int]] = {}
    for place, frame_id in enumerate(clip):
        places.setdefault(frame_id, []).append(place)
    frames = np.empty((len(clip), size[1], size[0], 3), np.uint8)
    for frame_id in sorted(places):
        frames[places[frame_id]] = reader.read(frame_id)
    return frames


def shown_size(index: VideoIndex, short_side: int | None) -> tuple[int, int]:
    """Return (width, height) of upright frames once the shorter edge is scaled down."""
    short = min(index.width, index.height)
    if short_side is None or short <= short_side:
        return index.width, index.height
    return (
        max(1, round(index.width * short_side / short)),
        max(1, round(index.height * short_side / short)),
    )


class _FrameReader:
    """An open video that decodes forward, and seeks only where that skips frames."""

    def __init__(
        self, source: InputContainer, stream: VideoStream, index: VideoIndex, size: tuple[int, int]
    ) -> None:
        self.source, self.stream, self.index = source, stream, index
        scaled = size if size != (index.width, index.height) else (0, 0)
        self.size = scaled[::-1] if index.rotation in (90, 270) else scaled
        "(width, height) before rotation; zeros to leave them"
        self.frames: Iterator[VideoFrame] = iter(source.decode(stream))
        self.last = -1
        "id of the frame decoded last"

    def read(self, wanted: int) -> NDArray[np.uint8]:
        """Return (H, W, 3) uint8 of a frame.

        Raises:
            DecodeError: decode_error, if the frame is damaged or never comes.
        """
        keyframes = self.index.keyframes
        place = bisect.bisect_right(keyframes, wanted) - 1
        if wanted <= self.last or (place >= 0 and keyframes[place] > self.last + 1):
            self._seek(place)
        frame = self._decode_until(wanted)
        back = 1
        while frame is None and place >= 0:
            # Frames just behind an open keyframe need what lies before it; the start always serves.
            place, back = place - back, back * 2
            self._seek(place)
            frame = self._decode_until(wanted)
        if frame is None:
            raise DecodeError(
                "decode_error",
                f"frame {wanted} of {self.index.frames} is in the index but does not decode",
            )
        return self._pixels(frame)

    def _pixels(self, frame: VideoFrame) -> NDArray[np.uint8]:
        """Return (H, W, 3) uint8 of a decoded frame, scaled and upright."""
        turned = self.index.rotation in (90, 270)
        shown = (frame.height, frame.width) if turned else (frame.width, frame.height)
        if shown != (self.index.width, self.index.height):
            raise DecodeError(
                "shape_mismatch",
                f"a frame is {shown[0]}x{shown[1]}, the first one is "
                f"{self.index.width}x{self.index.height} (width x height)",
            )
        return upright(to_rgb(frame, *self.size), self.index.rotation)

    def _decode_until(self, wanted: int) -> VideoFrame | None:
        """Return a frame, None if it is passed over or damaged."""
        for frame in self.frames:
            found = self._id_of(frame)
            if found == wanted:
                return None if frame.is_corrupt else frame
            if found is not None and found > wanted:
                return None
        return None

    def _id_of(self, frame: VideoFrame) -> int | None:
        """Return which frame this is; None for one that is not shown."""
        found: int | None = None
        if self.index.counted:
            found = self.last + 1
        elif frame.pts is not None:
            place = bisect.bisect_left(self.index.pts, frame.pts)
            if place < self.index.frames and self.index.pts[place] == frame.pts:
                found = place
        self.last = self.last if found is None else found
        return found

    def _seek(self, place: int) -> None:
        """Stand before a keyframe, by its place among the keyframes; below 0 at the start."""
        sought = place >= 0 and not self.index.counted
        time = self.index.seek_times[place] if sought else self.index.seek_start
        self.source.seek(time, stream=self.stream, backward=True)
        self.frames, self.last = iter(self.source.decode(self.stream)), -1


def upright(pixels: NDArray[np.uint8], rotation: int) -> NDArray[np.uint8]:
    """Return (H, W, 3) pixels turned counter-clockwise by a multiple of 90 degrees."""
    return np.rot90(pixels, rotation // 90) if rotation else pixels


def motion_score(frames: NDArray[np.uint8]) -> float:
    """Return how much a clip moves: the mean absolute change of brightness between its frames.

    Args:
        frames: (T, H, W, 3) uint8.

    Returns:
        0 (still, or one frame) to 1; measured at a quarter of the size, where noise counts little.
    """
    height, width = frames.shape[1:3]
    size = max(1, width // 4), max(1, height // 4)
    gray = [
        cv2.cvtColor(cv2.resize(frame, size, interpolation=cv2.INTER_AREA), cv2.COLOR_RGB2GRAY)
        for frame in frames
    ]
    changes = [float(cv2.absdiff(a, b).mean()) for a, b in pairwise(gray)]
    return sum(changes) / len(changes) / 255 if changes else 0.0
