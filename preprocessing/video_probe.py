"""What is in a video: one pass over its packets gives every frame's time, without decoding them.

A frame's id is its rank by presentation time. Average frame rates play no part: with variable rates
and edit lists they point to the wrong frame.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from fractions import Fraction

import av
import numpy as np
from av.container import InputContainer
from av.error import FFmpegError
from av.stream import Discard
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from preprocessing.errors import DecodeError
from preprocessing.source import Source, as_source
from preprocessing.video_containers import check_whole, container_of

MAX_FRAME_PIXELS = 100_000_000
_READ_BYTES = 1 << 18
"bytes that FFmpeg asks for at once: few calls for a distant store, little waste in a seek"
_SOUGHT_BY_DTS = ("mpegts", "mpeg")
"containers without an index: FFmpeg looks there for the decoding time, and passes a keyframe by "
"that is sought by its presentation time"
_LONG_BEFORE = 2**33
"ticks; the clock of MPEG-TS wraps after as many"
_GRACE = 0.5 + 1e-6
"ticks; a time written as a decimal means the tick that it is nearest to"


@dataclass(frozen=True, slots=True)
class VideoIndex:
    """The frames of a video's first video stream."""

    pts: tuple[int, ...]
    "presentation time of each frame, ascending, in units of `time_base`"
    time_base: Fraction
    fps: float
    "frames a second on average; a description, never used to find a frame"
    width: int
    "as shown, after rotation"
    height: int
    rotation: int
    "quarter turns counter-clockwise, in degrees (0, 90, 180, 270), from stored to shown"
    codec: str
    container: str
    keyframes: tuple[int, ...]
    "ids of the frames that decode alone"
    variable_rate: bool
    edit_list: bool
    "the stream holds frames that are not shown"
    counted: bool = False
    "packets have no usable times: ids count decoded frames, times come from the frame rate"
    open_gop: bool = False
    "frames behind a keyframe are shown before it, or it cannot be told"
    pixel_format: str = ""
    "as FFmpeg names it"
    video_streams: int = 1
    "in the container; only the first is read"
    seek_times: tuple[int, ...] = ()
    "where a seek finds each keyframe"
    seek_start: int = 0
    "where a seek finds the first frame"

    @property
    def frames(self) -> int:
        return len(self.pts)

    def seconds(self, frame_id: int) -> float:
        """Return when a frame is shown, counted from the first frame."""
        ticks = self.pts[frame_id] - self.pts[0]
        return ticks * self.time_base.numerator / self.time_base.denominator

    @property
    def duration(self) -> float:
        """Seconds from the first frame to the end of the last, which lasts the median step."""
        steps = np.diff(np.asarray(self.pts, np.int64))
        middle = int(np.partition(steps, len(steps) // 2)[len(steps) // 2]) if len(steps) else 0
        last = float(middle * self.time_base) if len(steps) else 1 / (self.fps or 1)
        return self.seconds(self.frames - 1) + last

    def frame_at(self, seconds: float) -> int:
        """Return the id of the frame shown at a time after the first frame's."""
        ticks = seconds * self.time_base.denominator / self.time_base.numerator
        wanted = self.pts[0] + math.floor(ticks + _GRACE)
        return max(0, bisect.bisect_right(self.pts, wanted) - 1)


def probe_video(data: bytes | Source) -> VideoIndex:
    """Return the index of a whole video file; a file of any length is read in small pieces.

    Raises:
        DecodeError: empty_file, unrecognised_format, truncated, no_video_stream, no_frames,
            too_large or decode_error (the first frame does not decode).
    """
    raw = as_source(data)
    container = container_of(raw)
    check_whole(raw, container)
    with opened(raw, container) as (source, stream):
        _check_index(stream, len(raw))
        packets = _read_packets(source, stream)
    if not packets.times:
        raise DecodeError("no_frames", f"{container} with a video stream that holds no frame")
    with opened(raw, container) as (source, stream):
        first = next(source.decode(stream), None)
        if first is None:
            raise DecodeError("no_frames", f"{container}: none of {len(packets.times)} is a frame")
        if packets.untimed:
            packets = _decode_times(source, stream, first, packets)
        elif first.pts is not None and first.pts == min(packets.keyframes, default=None):
            # A recording that begins between keyframes: what lies before the first has no picture.
            packets = replace(packets, times=[t for t in packets.times if t >= first.pts])
        return _index(source, stream, container, first, packets)


@contextmanager
def opened(data: bytes | Source, container: str) -> Iterator[tuple[InputContainer, VideoStream]]:
    """Open a container on bytes, with a decoder of one thread; other streams are not read.

    Raises:
        DecodeError: no_video_stream, or decode_error where FFmpeg gives up, inside the block too.
    """
    try:
        with av.open(
            as_source(data).file(),
            "r",
            format=container,
            metadata_errors="ignore",
            buffer_size=_READ_BYTES,
        ) as source:
            if not source.streams.video:
                raise DecodeError("no_video_stream", f"{container} without a video stream")
            stream = source.streams.video[0]
            if stream.codec_context is None:
                raise DecodeError("decode_error", f"{container}: a codec without a decoder here")
            for other in source.streams:
                other.discard = Discard.default if other is stream else Discard.all
            stream.thread_type = "NONE"
            stream.codec_context.thread_count = 1
            yield source, stream
    except FFmpegError as error:
        raise DecodeError(
            "decode_error", f"{container}: FFmpeg failed ({type(error).__name__}: {error.strerror})"
        ) from error


def _check_index(stream: VideoStream, size: int) -> None:
    """Refuse an mp4 whose index points beyond its end."""
    beyond = sum(entry.pos + entry.size > size for entry in stream.index_entries)
    if beyond:
        raise DecodeError(
            "truncated", f"{beyond} of {len(stream.index_entries)} frames lie beyond byte {size}"
        )


@dataclass(slots=True)
class _Packets:
    """What the packets of a stream say of its frames."""

    times: list[int] = field(default_factory=list)
    keyframes: dict[int, int] = field(default_factory=dict)
    "presentation time of each keyframe, and where a seek finds it"
    start: int = 0
    discarded: int = 0
    untimed: bool = False
    counted: bool = False
    open_gop: bool = False


def _read_packets(source: InputContainer, stream: VideoStream) -> _Packets:
    """Read the times of all packets, without decoding them."""
    packets = _Packets()
    latest = None
    by_dts = source.format.name in _SOUGHT_BY_DTS
    for packet in source.demux(stream):
        if not packet.size:
            continue  # the flush at the end
        if packet.is_corrupt:
            raise DecodeError("truncated", f"packet at dts {packet.dts} is cut short")
        if packet.is_discard:
            packets.discarded += 1
            continue
        packets.untimed |= packet.pts is None
        time = packet.pts if packet.pts is not None else 0
        packets.times.append(time)
        if packet.is_keyframe:
            latest = time
            packets.keyframes[time] = packet.dts if by_dts and packet.dts is not None else time
        elif latest is not None and time < latest:
            packets.open_gop = True
    packets.untimed |= len(set(packets.times)) < len(packets.times)
    packets.start = min(packets.times, default=0) - (_LONG_BEFORE if by_dts else 0)
    return packets


def _decode_times(
    source: InputContainer, stream: VideoStream, first: VideoFrame, packets: _Packets
) -> _Packets:
    """Take the times from the decoded frames; where they have none either, count the frames.

    Packets share a time where some are not shown (VP8's alternate references), and have none in
    containers that store only the decoding order (AVI with B-frames).
    """
    times = [first.pts, *(frame.pts for frame in source.decode(stream))]
    timed = [time for time in times if time is not None]
    if len(set(timed)) == len(times):
        shown = set(timed)
        keyframes = {time: seek for time, seek in packets.keyframes.items() if time in shown}
        return replace(packets, times=timed, keyframes=keyframes, open_gop=True)
    counted = list(range(len(times)))
    start = min(0, packets.start)
    return replace(
        packets, times=counted, keyframes={0: start}, start=start, counted=True, open_gop=True
    )


def _index(
    source: InputContainer,
    stream: VideoStream,
    container: str,
    first: VideoFrame,
    packets: _Packets,
) -> VideoIndex:
    """Put the index together."""
    pts = sorted(packets.times)
    if first.width * first.height > MAX_FRAME_PIXELS:
        raise DecodeError("too_large", f"frames of {first.width}x{first.height} pixels")
    time_base = Fraction(stream.time_base or Fraction(1, 1000))
    if packets.counted:
        time_base = 1 / Fraction(stream.average_rate or 25)
    span = (pts[-1] - pts[0]) * time_base
    nominal = float(stream.average_rate or 0)
    steps = np.diff(np.asarray(pts, np.int64))
    # A container of milliseconds rounds 1/30 s to 33 and 34: one tick is not a variable rate.
    variable = bool(len(steps) and steps.max() - steps.min() > 1)
    rotation = round(first.rotation / 90) * 90 % 360
    turned = rotation in (90, 270)
    return VideoIndex(
        pts=tuple(pts),
        time_base=time_base,
        fps=float((len(pts) - 1) / span) if span > 0 else nominal or 1.0,
        width=first.height if turned else first.width,
        height=first.width if turned else first.height,
        rotation=rotation,
        codec=stream.codec_context.codec.canonical_name,
        container=container,
        keyframes=tuple(bisect.bisect_left(pts, time) for time in sorted(packets.keyframes)),
        seek_times=tuple(packets.keyframes[time] for time in sorted(packets.keyframes)),
        seek_start=packets.start,
        variable_rate=variable,
        edit_list=packets.discarded > 0,
        counted=packets.counted,
        open_gop=packets.open_gop,
        pixel_format=first.format.name,
        video_streams=len(source.streams.video),
    )
