"""Videos: raw bytes to clips of exact frames, and clips to small H.264 streams and back.

Frames are addressed by presentation time: one pass over the packets gives every frame's time, so that a frame's number
means the same with any frame rate, B-frames, open groups of pictures or edit lists.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import av
import cv2
import numpy as np
from av.codec.context import Flags2
from av.error import FFmpegError, InvalidDataError
from numpy.typing import NDArray

from preprocessing.errors import DecodeError

Frames = NDArray[np.uint8]
MAX_FRAME_PIXELS = 100_000_000
_X264 = {
    "crf": "18",
    "preset": "medium",
    "threads": "1",
    "x264-params": "bframes=0:ref=1:scenecut=0:weightp=0:me=umh:subme=7:threads=1:lookahead-threads=1",
}
"With one reference and no B-frames, the vectors of a P-frame are the motion from its predecessor."


@dataclass(frozen=True, slots=True)
class VideoIndex:
    """What one pass over the packets tells about the first video stream."""

    pts: tuple[int, ...]
    "presentation times of all frames, ascending, in units of `time_base`"
    time_base: Fraction
    width: int
    "after rotation"
    height: int
    rotation: int
    "quarter turns counter-clockwise, in degrees: 0, 90, 180 or 270"
    codec: str

    @property
    def fps(self) -> float:
        """Mean frames a second."""
        if len(self.pts) < 2:
            return 25.0
        return (len(self.pts) - 1) / float((self.pts[-1] - self.pts[0]) * self.time_base)

    def seconds(self, frame: int) -> float:
        """Return the time of a frame, counted from the first."""
        return round(float((self.pts[frame] - self.pts[0]) * self.time_base), 6)


@contextmanager
def _opened(data: bytes) -> Iterator[Any]:
    """Open the first video stream of some bytes."""
    if not data:
        raise DecodeError("empty_file", "0 bytes")
    try:
        with av.open(io.BytesIO(data), metadata_errors="ignore") as container:
            if not container.streams.video:
                kinds = ", ".join(stream.type for stream in container.streams) or "nothing"
                raise DecodeError("no_video_stream", f"holds {kinds}")
            stream = container.streams.video[0]
            stream.thread_type = "NONE"
            stream.codec_context.thread_count = 1
            yield container
    except InvalidDataError as error:
        raise DecodeError(_opening_class(data), f"cannot be opened ({error.strerror})") from error
    except FFmpegError as error:
        raise DecodeError("decode_error", str(error)) from error


def _opening_class(data: bytes) -> str:
    """Tell a file of a known container that was cut short, or is damaged, from one that is no video at all."""
    if data[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"free"):
        return "truncated" if _box_overruns(data) else "decode_error"
    known = data[:4] in (b"\x1aE\xdf\xa3", b"RIFF", b"OggS")
    return "decode_error" if known else "unrecognised_format"


def _box_overruns(data: bytes) -> bool:
    """Say whether a top-level box of an mp4 ends behind the file."""
    place = 0
    while place + 8 <= len(data):
        size = int.from_bytes(data[place : place + 4], "big")
        if size == 1:
            size = int.from_bytes(data[place + 8 : place + 16], "big")
        if size < 8:
            return False
        place += size
    return place > len(data)


def probe_video(data: bytes) -> VideoIndex:
    """Index the first video stream: one pass over its packets, and one decoded frame.

    Raises:
        DecodeError: unrecognised_format, truncated, no_video_stream, no_frames, too_large or decode_error.
    """
    with _opened(data) as container:
        stream = container.streams.video[0]
        if stream.width * stream.height > MAX_FRAME_PIXELS:
            raise DecodeError("too_large", f"frames of {stream.width}x{stream.height} px")
        declared = stream.frames
        times, ends = [], []
        for packet in container.demux(stream):
            if packet.size and packet.pts is not None and not packet.is_discard:
                times.append(packet.pts)
                ends.append((packet.pos or 0) + packet.size)
        if not times:
            raise DecodeError("no_frames", "a video track without a frame")
        if max(ends) > len(data) or (data[4:8] == b"ftyp" and _box_overruns(data)):
            raise DecodeError("truncated", f"the index names {declared} frames, the file ends after {len(times)}")
        container.seek(min(times), stream=stream, backward=True)
        frame = next(container.decode(stream), None)
        if frame is None:
            raise DecodeError("no_frames", "no frame of the video track can be decoded")
        rotation = int(frame.rotation) % 360
        size = (frame.width, frame.height) if rotation % 180 == 0 else (frame.height, frame.width)
        return VideoIndex(tuple(sorted(times)), stream.time_base, *size, rotation, stream.codec_context.name)


def plan_clips(
    index: VideoIndex,
    *,
    frames: int,
    stride: int | None = None,
    fps: float | None = None,
    segments: Sequence[tuple[float, float]] | None = None,
) -> list[list[int]]:
    """Cut a video into consecutive clips that do not overlap.

    Args:
        frames: frames of a clip.
        stride: source frames between two clip frames.
        fps: in place of stride: clip frames a second, each the frame shown at its time.
        segments: (start, end) in seconds to cut clips from; by default the whole video.

    Returns:
        The frame numbers of each clip.

    Raises:
        DecodeError: too_short, when not one clip fits.
    """
    times = np.array([index.seconds(i) for i in range(len(index.pts))])
    clips = []
    for start, end in segments or [(0.0, float(times[-1]) + 1e-6)]:
        if fps:
            ticks = np.arange(start, end, 1 / fps)
            chosen = np.searchsorted(times, ticks + 1e-6, side="right") - 1
        else:
            inside = np.flatnonzero((times >= start - 1e-6) & (times <= end))
            chosen = inside[:: stride or 1]
        clips += [chosen[at : at + frames].tolist() for at in range(0, len(chosen) - frames + 1, frames)]
    if not clips:
        raise DecodeError(
            "too_short", f"{len(index.pts)} frames hold no clip of {frames} frames at stride {stride or 1}"
        )
    return clips


def decode_frames(
    data: bytes, index: VideoIndex, frame_ids: Sequence[int], *, short_side: int | None = None
) -> Frames:
    """Return frames by number, (T, H, W, 3) uint8 RGB, upright.

    Raises:
        DecodeError: a frame cannot be decoded.
    """
    [(_, frames)] = decode_clips(data, index, [list(frame_ids)], short_side=short_side)
    return frames


def decode_clips(
    data: bytes, index: VideoIndex, clips: Sequence[list[int]], *, short_side: int | None = None
) -> Iterator[tuple[list[int], Frames]]:
    """Yield (frame numbers, (T, H, W, 3) uint8 frames) of ascending clips, decoding the video once.

    Only one clip's frames are held at a time. Larger frames are scaled to `short_side` by area averaging.

    Raises:
        DecodeError: truncated or decode_error.
    """
    if not clips:
        return
    with _opened(data) as container:
        stream = container.streams.video[0]
        container.seek(index.pts[clips[0][0]], stream=stream, backward=True)
        decoded = _ascending(container.decode(stream))
        current: tuple[int, Frames] | None = None
        for clip in clips:
            frames = []
            for number in clip:
                while current is None or current[0] < index.pts[number]:
                    frame = next(decoded, None)
                    if frame is None:
                        raise DecodeError("truncated", f"frame {number} of {len(index.pts)} cannot be decoded")
                    if frame.pts >= index.pts[number]:
                        current = frame.pts, _upright(frame, index.rotation, short_side)
                if current[0] != index.pts[number]:
                    raise DecodeError("decode_error", f"frame {number} is missing: got the one at {current[0]}")
                frames.append(current[1])
            yield clip, np.stack(frames)


def _ascending(decoded: Iterator[Any]) -> Iterator[Any]:
    """Pass frames on; a stream whose times run backwards cannot be addressed by time."""
    last = None
    for frame in decoded:
        if frame.pts is None or (last is not None and frame.pts <= last):
            raise DecodeError("decode_error", f"frame times are not ascending after {last}")
        last = frame.pts
        yield frame


def _upright(frame: Any, rotation: int, short_side: int | None) -> Frames:  # noqa: ANN401 - av has no types
    pixels = frame.to_ndarray(format="rgb24")
    if short_side and min(pixels.shape[:2]) > short_side:
        height, width = pixels.shape[:2]
        scale = short_side / min(height, width)
        size = (max(round(width * scale), short_side), max(round(height * scale), short_side))
        pixels = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
    return np.ascontiguousarray(np.rot90(pixels, rotation // 90))


def encode_clip(frames_THWC: Frames, fps: float) -> bytes:
    """Return a clip as H.264 in mp4: one I-frame, then P-frames that each refer to their predecessor.

    Equal frames give equal bytes. An odd last row or column is left out: 4:2:0 chroma needs even sizes.
    """
    frames, height, width, _ = frames_THWC.shape
    height, width = height - height % 2, width - width % 2
    if height < 2 or width < 2:
        raise DecodeError("too_small", f"frames of {width}x{height} px cannot be stored as H.264")
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4", options={"fflags": "+bitexact"}) as container:
        rate = Fraction(fps).limit_denominator(1001)
        options = {**_X264, "x264-params": f"{_X264['x264-params']}:keyint={frames}:min-keyint={frames}"}
        stream = container.add_stream("libx264", rate=rate, options=options)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.flags |= 1 << 23  # bitexact: no encoder version in the stream
        for pixels in frames_THWC:
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels[:height, :width]), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return buffer.getvalue()


def decode_clip(data: bytes) -> Frames:
    """Return all frames of a stored clip, (T, H, W, 3) uint8 RGB.

    Raises:
        DecodeError: decode_error.
    """
    with _opened(data) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def clip_vectors(data: bytes) -> NDArray[np.float32]:
    """Return the codec's motion of a stored clip, (T, H, W, 2) float32 in px, flow(j -> j-1); x first.

    Frame 0, and blocks coded without reference, have zero motion.

    Raises:
        DecodeError: decode_error.
    """
    fields = []
    with _opened(data) as container:
        container.streams.video[0].codec_context.flags2 |= Flags2.export_mvs
        for frame in container.decode(video=0):
            side = frame.side_data.get("MOTION_VECTORS")
            vectors = None if side is None else side.to_ndarray()
            fields.append(rasterise_vectors(vectors, frame.height, frame.width))
    return np.stack(fields)


def rasterise_vectors(
    vectors: NDArray[np.void] | None, height: int, width: int
) -> NDArray[np.float32]:
    """Return block vectors as a field (H, W, 2) float32; blocks of one size are painted together."""
    field = np.zeros((height, width, 2), np.float32)
    if vectors is None or not len(vectors):
        return field
    vectors = vectors[vectors["source"] < 0]
    motion = np.stack([vectors["motion_x"], vectors["motion_y"]], 1) / vectors["motion_scale"][:, None]
    for block_w, block_h in np.unique(np.stack([vectors["w"], vectors["h"]], 1), axis=0).tolist():
        these = (vectors["w"] == block_w) & (vectors["h"] == block_h)
        left = vectors["dst_x"][these].astype(int) - block_w // 2
        top = vectors["dst_y"][these].astype(int) - block_h // 2
        rows = (top[:, None] + np.arange(block_h))[:, :, None]
        columns = (left[:, None] + np.arange(block_w))[:, None, :]
        inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
        values = np.broadcast_to(motion[these][:, None, None], (*inside.shape, 2))
        rows, columns = np.broadcast_arrays(rows, columns)
        field[rows[inside], columns[inside]] = values[inside]
    return field


def motion_score(frames_THWC: Frames) -> float:
    """Return how much moves: the mean absolute difference of neighbouring grey frames, in grey levels."""
    small = frames_THWC[:, ::2, ::2].astype(np.int16).sum(-1) // 3
    return float(np.abs(np.diff(small, axis=0)).mean()) if len(small) > 1 else 0.0
