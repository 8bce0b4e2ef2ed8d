"""decord, the second decoder of clips, for the videos that it reads exactly.

Measured on real and made videos (tests/unit/preprocessing/test_video_decord.py): where
`decord_safe` finds nothing, decord's frames are bit-equal to PyAV's at full size, whatever the
rotation. Scaled ones are not: PyAV scales while it converts to RGB, here RGB is scaled afterwards
(both by area means; about 1 grey level apart). So the decoder is part of what an ingest is. PyAV
stays the default: decord took 1.1 to 2.2 times its CPU at full size and 2 to 4.4 times scaled to
128, it holds the whole file in memory, and it shows damaged frames, concealed, where PyAV refuses
them: `choose_decoder` looks for those first, by a pass of PyAV's.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from preprocessing.errors import DecodeError
from preprocessing.source import Source, as_source
from preprocessing.video_probe import VideoIndex, opened

DECODERS = ("pyav", "decord")
MAX_BYTES = 128 * 2**20
"size of a file that decord may hold in memory (it does so up to three times)"
_CODECS = ("h264", "hevc", "vp9", "mpeg4")
_CONTAINERS = ("mov", "matroska", "avi")
_PIXEL_FORMATS = ("yuv420p", "yuvj420p")
_ANY_RECOVERED_FRAME = 1e-9
"share of frames that decord may replace by others before it raises"


@dataclass(frozen=True, slots=True)
class DecoderChoice:
    """Which decoder reads a video."""

    name: str
    reason: str = ""
    "why it is not the one that was asked for"


def decord_safe(index: VideoIndex) -> str:
    """Return why decord may show wrong frames of a video; empty if it does not."""
    reasons = {
        "frames without times": index.counted,
        "an edit list": index.edit_list,
        "open GOPs": index.open_gop,
        "a variable frame rate": index.variable_rate,
        "no keyframe at its start": index.keyframes[:1] != (0,),
        f"container {index.container}": index.container not in _CONTAINERS,
        f"codec {index.codec}": index.codec not in _CODECS,
        f"pixels of {index.pixel_format}": index.pixel_format not in _PIXEL_FORMATS,
        f"{index.video_streams} video streams": index.video_streams != 1,
    }
    found = [reason for reason, holds in reasons.items() if holds]
    return f"the video has {', '.join(found)}" if found else ""


def choose_decoder(data: bytes | Source, index: VideoIndex, wanted: str = "pyav") -> DecoderChoice:
    """Return the decoder for a video: the wanted one, or PyAV where decord would not be exact.

    Args:
        data: the video file.
        index: what `probe_video` said of it.
        wanted: one of `DECODERS`.
    """
    if wanted not in DECODERS:
        raise ValueError(f"decoder is {wanted!r}; it must be one of {', '.join(DECODERS)}.")
    if wanted == "pyav":
        return DecoderChoice("pyav")
    raw = as_source(data)
    reason = decord_safe(index)
    if not reason and len(raw) > MAX_BYTES:
        reason = f"the file has {len(raw)} bytes, decord holds at most {MAX_BYTES} in memory"
    if not reason:
        try:
            _open(raw, index)
            _check_frames(raw, index)
        except DecodeError as error:
            reason = error.detail
    return DecoderChoice("pyav", reason) if reason else DecoderChoice("decord")


def decord_clips(
    data: bytes | Source,
    index: VideoIndex,
    clips: Sequence[Sequence[int]],
    size: tuple[int, int],
) -> Iterator[tuple[list[int], NDArray[np.uint8]]]:
    """Yield (ids, frames) of each clip, as `decode_clips` does, for a video that is safe.

    Args:
        size: (width, height) of upright frames.

    Raises:
        DecodeError: decord cannot read the file, or counts other frames or times than the index.
    """
    from decord import (  # type: ignore[import-untyped]
        DECORDError,
        DECORDLimitReachedError,
    )

    reader = _open(as_source(data), index)
    for clip in clips:
        try:
            frames: NDArray[np.uint8] = reader.get_batch(list(clip)).asnumpy()
        except (DECORDError, DECORDLimitReachedError) as error:
            raise DecodeError("decode_error", f"decord: {_first_line(error)}") from error
        if frames.shape[1:3] != size[::-1]:
            scaled = [cv2.resize(frame, size, interpolation=cv2.INTER_AREA) for frame in frames]
            frames = np.stack(scaled)
        yield list(clip), frames


def _open(source: Source, index: VideoIndex) -> Any:
    """Return a reader of one thread that agrees with the index on number, times and size."""
    from decord import DECORDError, DECORDLimitReachedError, VideoReader

    try:
        reader = VideoReader(source.file(), num_threads=1, fault_tol=_ANY_RECOVERED_FRAME)
        # Its thread reads ahead: damage anywhere may show at any call.
        shape = reader[0].shape
        starts = reader.get_frame_timestamp(range(len(reader)))[:, 0].astype(np.float64)
    except (DECORDError, DECORDLimitReachedError, RuntimeError) as error:
        raise DecodeError("decode_error", f"decord: {_first_line(error)}") from error
    if len(reader) != index.frames:
        raise DecodeError(
            "decode_error", f"decord counts {len(reader)} frames, the index {index.frames}"
        )
    ticks = np.asarray(index.pts, np.float64) - index.pts[0]
    apart = np.abs(starts - starts[0] - ticks * float(index.time_base)).max()
    step = float(np.diff(ticks).min()) if len(ticks) > 1 else 1.0
    if apart > step * float(index.time_base) / 2:  # decord keeps times in float32
        raise DecodeError("decode_error", f"decord's times differ from the index by {apart:.3g} s")
    if shape[:2] != (index.height, index.width):
        raise DecodeError(
            "decode_error", f"decord's frames are {shape}, not {index.height}x{index.width}"
        )
    return reader


def _check_frames(source: Source, index: VideoIndex) -> None:
    """Decode every frame once with PyAV, which tells damaged ones from whole ones."""
    with opened(source, index.container) as (container, stream):
        whole = sum(not frame.is_corrupt for frame in container.decode(stream))
    if whole != index.frames:
        raise DecodeError("decode_error", f"{index.frames - whole} frames are damaged")


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]
