"""Small videos of every kind that has fooled a reader, made in memory, and a plain reader."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable
from fractions import Fraction

import av
import numpy as np
from av.video.frame import VideoFrame
from av.video.reformatter import Interpolation
from numpy.typing import NDArray

from tests.unit.preprocessing.raw_media import smooth

FRAMES, HEIGHT, WIDTH = 48, 64, 96
_MATRICES = {
    90: (0, 1, 0, -1, 0, 0, 0, 0, 0x4000),
    180: (-1, 0, 0, 0, -1, 0, 0, 0, 0x4000),
    270: (0, -1, 0, 1, 0, 0, 0, 0, 0x4000),
}


def textured_video(
    frames: int = FRAMES,
    *,
    format: str = "mp4",
    codec: str = "libx264",
    pixels: str = "yuv420p",
    times: list[int] | None = None,
    clock: int = 1000,
    **options: str,
) -> bytes:
    """Return a video of a moving texture, no frame like another; `times` in 1/1000 s.

    The encoder counts time in 1/`clock` s: MPEG-2 knows frame rates only.
    """
    ground = smooth(HEIGHT + frames, WIDTH + 2 * frames)
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=format) as target:
        stream = target.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, pixels
        stream.codec_context.time_base = stream.time_base = Fraction(1, clock)
        stream.codec_context.thread_count = 1
        stream.options = {"g": "12", **options}
        for k in range(frames):
            cut = np.ascontiguousarray(ground[k : k + HEIGHT, 2 * k : 2 * k + WIDTH])
            frame = VideoFrame.from_ndarray(cut, format="rgb24")
            frame.pts, frame.time_base = (times or range(0, 40 * frames, 40))[k], Fraction(1, 1000)
            target.mux(stream.encode(frame))
        target.mux(stream.encode(None))
    return buffer.getvalue()


def open_gop_video() -> bytes:
    """Return an H.264 video whose GOPs begin with frames that are shown before their keyframe."""
    return textured_video(**{"x264-params": "open-gop=1:keyint=12:bframes=3:b-adapt=0:scenecut=0"})


def hevc_video(open_gop: int) -> bytes:
    """Return an HEVC video."""
    parameters = f"log-level=none:pools=none:frame-threads=1:open-gop={open_gop}"
    return textured_video(codec="libx265", **{"x265-params": parameters})


def variable_video() -> bytes:
    """Return a video whose frames last 20 to 200 ms."""
    steps = np.random.default_rng(3).integers(20, 200, FRAMES)
    return textured_video(times=(np.cumsum(steps) - steps[0]).tolist(), bf="2")


def cut_video() -> bytes:
    """Return a stream-copied cut: an edit list hides the frames before the cut."""
    buffer = io.BytesIO()
    whole = av.open(io.BytesIO(textured_video(bf="2")))
    options = {"avoid_negative_ts": "disabled"}
    with whole, av.open(buffer, "w", format="mp4", options=options) as target:
        stream = whole.streams.video[0]
        copied = target.add_stream_from_template(stream)
        shift = int(17 * Fraction(1, 25) / stream.time_base)
        for packet in whole.demux(stream):
            # From the keyframe of frame 12 on; frames 12 to 16 are there to decode, not to show.
            if packet.dts is not None and packet.pts >= shift * 12 // 17:
                packet.pts, packet.dts, packet.stream = (
                    packet.pts - shift,
                    packet.dts - shift,
                    copied,
                )
                target.mux(packet)
    return buffer.getvalue()


def headless_video(format: str) -> bytes:
    """Return a recording that begins with the fifth packet, behind its first keyframe."""
    buffer = io.BytesIO()
    whole = av.open(io.BytesIO(textured_video(bf="2", format=format)))
    with whole, av.open(buffer, "w", format=format) as target:
        copied = target.add_stream_from_template(whole.streams.video[0])
        for k, packet in enumerate(whole.demux(video=0)):
            if k >= 4 and packet.dts is not None:
                packet.stream = copied
                target.mux(packet)
    return buffer.getvalue()


def rotated_video(degrees: int) -> bytes:
    """Return an mp4 whose header turns it."""
    data = bytearray(textured_video(bf="2"))
    place = data.index(b"tkhd") + 44
    matrix = [value << 16 for value in _MATRICES[degrees]]
    data[place : place + 36] = struct.pack(">9i", *matrix)
    return bytes(data)


def deep_video() -> bytes:
    """Return a video of 10 bits."""
    return textured_video(pixels="yuv420p10le", bf="2")


KINDS: dict[str, Callable[[], bytes]] = {
    "B-frames": lambda: textured_video(bf="3"),
    "B-frames, matroska": lambda: textured_video(bf="3", format="matroska"),
    "B-frames, mpegts": lambda: textured_video(bf="3", format="mpegts"),
    "HEVC": lambda: hevc_video(0),
    "HEVC, open GOP": lambda: hevc_video(1),
    "MPEG-4": lambda: textured_video(codec="mpeg4"),
    "MPEG-4, open GOP": lambda: textured_video(codec="mpeg4", bf="2"),
    "VP9": lambda: textured_video(codec="libvpx-vp9", format="webm", deadline="realtime"),
    "MPEG-2, program stream": lambda: textured_video(
        codec="mpeg2video", format="mpeg", clock=25, bf="2"
    ),
    "MPEG-2, transport stream": lambda: textured_video(
        codec="mpeg2video", format="mpegts", clock=25
    ),
    "VP8": lambda: textured_video(codec="libvpx", format="webm", deadline="realtime"),
    "flash": lambda: textured_video(format="flv", bf="2"),
    "AVI": lambda: textured_video(codec="mpeg4", format="avi", clock=25),
    "ASF": lambda: textured_video(codec="wmv2", format="asf"),
    "headless transport stream": lambda: headless_video("mpegts"),
    "headless matroska": lambda: headless_video("matroska"),
    "fragmented": lambda: textured_video(bf="2", movflags="frag_keyframe+empty_moov"),
    "open GOP": open_gop_video,
    "variable rate": variable_video,
    "edit list": cut_video,
    "rotated by 90": lambda: rotated_video(90),
    "rotated by 180": lambda: rotated_video(180),
    "rotated by 270": lambda: rotated_video(270),
    "10 bits": deep_video,
}


def write_long_video(path: str, seconds: int, *, width: int = 320, height: int = 240) -> None:
    """Write an H.264 mp4 of 25 frames a second: stripes that move, a square that counts.

    Two hours of 320x240 px take half a minute on one core.
    """
    rows, columns = np.mgrid[0:height, 0 : 2 * width]
    stripes = ((rows + columns % width) % 256).astype(np.uint8)
    with av.open(path, "w", format="mp4") as target:
        stream = target.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.options = {"preset": "ultrafast", "crf": "30", "g": "250", "threads": "1"}
        for k in range(25 * seconds):
            frame = VideoFrame(width, height, "yuv420p")
            luma, *chroma = (np.frombuffer(plane, np.uint8) for plane in frame.planes)
            picture = luma.reshape(height, -1)
            picture[:, :width] = stripes[:, 2 * k % width :][:, :width]
            picture[20:60, k % 200 : k % 200 + 40] = k // 200 % 256
            for plane in chroma:
                plane[:] = 128
            frame.pts = k
            target.mux(stream.encode(frame))
        target.mux(stream.encode(None))


def plain_frames(
    data: bytes, width: int = 0, height: int = 0
) -> tuple[list[Fraction], list[NDArray[np.uint8]]]:
    """Return the times and RGB frames of a video as PyAV alone gives them: no index, no seek.

    Args:
        data: the file.
        width, height: scale to this before turning, by area means; zeros leave the frames.
    """
    size = {"width": width, "height": height, "interpolation": Interpolation.AREA} if width else {}
    found = {}
    with av.open(io.BytesIO(data)) as source:
        source.streams.video[0].thread_type = "NONE"  # FFmpeg's VP8 is a race with slice threads
        for frame in source.decode(video=0):
            pixels = frame.to_ndarray(format="rgb24", threads=1, **size)
            found[frame.pts * frame.time_base] = np.rot90(pixels, round(frame.rotation / 90))
    times = sorted(found)
    return times, [found[time] for time in times]
