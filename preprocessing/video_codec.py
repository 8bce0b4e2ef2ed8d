"""The stored clip: an H.264 stream that carries frame-to-frame motion, and its way back.

One keyframe, then frames that each refer to the one before and to no other, so that the codec's
motion vectors are flow(j -> j-1). One thread, so that the same frames give the same bytes.
"""

from __future__ import annotations

import io
from fractions import Fraction

import av
import numpy as np
from av.codec.context import Flags2
from av.video.frame import PictureType, VideoFrame
from av.video.reformatter import Interpolation
from numpy.typing import NDArray

from preprocessing.errors import DecodeError
from preprocessing.video_probe import opened

CRF = 20
"constant rate factor of stored clips; lower is better and larger"
BLOCK = 4
"edge of the finest block whose motion is told apart, in pixels"


def encode_clip(frames: NDArray[np.uint8], fps: float) -> bytes:
    """Return an mp4 of the frames; equal input gives equal bytes.

    Args:
        frames: (T, H, W, 3) uint8 RGB. An odd edge loses its last row or column, since 4:2:0
            needs even sizes.
        fps: frames a second that the file tells players.
    """
    count, height, width = frames.shape[0], frames.shape[1] // 2 * 2, frames.shape[2] // 2 * 2
    if not count or not height or not width:
        raise ValueError(
            f"encode_clip: frames have the shape {frames.shape}; at least 1 frame of 2x2 is needed."
        )
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4", options={"fflags": "+bitexact"}) as target:
        stream = target.add_stream("libx264", rate=Fraction(fps).limit_denominator(1001))
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.thread_count = 1
        stream.codec_context.thread_type = "NONE"
        stream.options = _options(count)
        for pixels in frames[:, :height, :width]:
            frame = VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
            target.mux(stream.encode(frame))
        target.mux(stream.encode(None))
    return buffer.getvalue()


def _options(frames: int) -> dict[str, object]:
    """Return the encoder's options: every P-frame refers to its predecessor.

    Searching motion by hexagons and refining it to `subme` 4 costs 0.6 of the CPU of `umh` and 7,
    at 6 % fewer bytes, 0.2 dB less, and motion as close to the truth (closer at edges).
    """
    fixed = (
        "bframes=0:ref=1:scenecut=0:weightp=0:mbtree=0:me=hex:subme=4:threads=1:sliced-threads=0"
    )
    keyint = max(frames, 2)
    return {
        "preset": "medium",
        "crf": str(CRF),
        "x264-params": f"{fixed}:keyint={keyint}:min-keyint={keyint}",
    }


def decode_clip(data: bytes) -> NDArray[np.uint8]:
    """Return (T, H, W, 3) uint8 RGB: all frames of a stored clip.

    Raises:
        DecodeError: the bytes are not a whole clip.
    """
    with opened(data, "mov") as (source, stream):
        expected = stream.frames
        frames: NDArray[np.uint8] | None = None
        count = 0
        for frame in source.decode(stream):
            if frames is None:
                frames = np.empty((expected, frame.height, frame.width, 3), np.uint8)
            if frame.is_corrupt or count == expected:
                break
            frames[count] = to_rgb(frame)
            count += 1
    if frames is None or count != expected:
        raise DecodeError("decode_error", f"clip of {expected} frames: {count} decode")
    return frames


def to_rgb(frame: VideoFrame, width: int = 0, height: int = 0) -> NDArray[np.uint8]:
    """Return (H, W, 3) uint8 RGB of a frame, scaled by area means if a size is given."""
    if width:
        return frame.to_ndarray(  # type: ignore[return-value]  # rgb24 is uint8
            width=width, height=height, format="rgb24", interpolation=Interpolation.AREA, threads=1
        )
    return frame.to_ndarray(format="rgb24", threads=1)  # type: ignore[return-value]


def clip_vectors(data: bytes) -> NDArray[np.float32]:
    """Return the codec's motion as a dense field.

    Args:
        data: a stored clip (H.264; other codecs export no vectors).

    Returns:
        (T, H, W, 2) float32, (x, y) in pixels: flow(j -> j-1), where a pixel of frame j was in
        frame j-1. Zero in keyframes and in blocks that the codec stored without motion.

    Raises:
        DecodeError: the bytes are not a clip.
    """
    blocks, (height, width) = block_vectors(data)
    return blocks.repeat(BLOCK, 1).repeat(BLOCK, 2)[:, :height, :width]


def block_vectors(data: bytes) -> tuple[NDArray[np.float32], tuple[int, int]]:
    """Return `clip_vectors` by blocks of 4 px, (T, ceil(H/4), ceil(W/4), 2), and (H, W)."""
    fields = []
    with opened(data, "mov") as (source, stream):
        stream.codec_context.flags2 |= Flags2.export_mvs
        for frame in source.decode(stream):
            side = frame.side_data.get("MOTION_VECTORS")
            intra = side is None or frame.pict_type == PictureType.I
            vectors = None if intra else side.to_ndarray()  # type: ignore[union-attr]
            fields.append(_blocks_of(vectors, frame.height, frame.width))
            shape = frame.height, frame.width
    if not fields:
        raise DecodeError("no_frames", "clip without a frame")
    return np.stack(fields), shape


def rasterise_vectors(
    vectors: NDArray[np.void] | None, height: int, width: int
) -> NDArray[np.float32]:
    """Return (H, W, 2) float32 of PyAV's vectors of one frame; None gives zeros.

    Only vectors into the past (source -1) count. They cover whole blocks of 4 pixels.
    """
    dense = _blocks_of(vectors, height, width).repeat(BLOCK, 0).repeat(BLOCK, 1)
    return dense[:height, :width]


def _blocks_of(vectors: NDArray[np.void] | None, height: int, width: int) -> NDArray[np.float32]:
    cells = np.zeros((-(-height // BLOCK), -(-width // BLOCK), 2), np.float32)
    if vectors is not None:
        past = vectors[vectors["source"] < 0]
        motion = np.stack([past["motion_x"], past["motion_y"]], -1) / past["motion_scale"][:, None]
        sizes = past["w"].astype(int) << 16 | past["h"]
        for size in np.unique(sizes):
            _fill_blocks(cells, past[sizes == size], motion[sizes == size])
    return cells


def _fill_blocks(
    cells: NDArray[np.float32], blocks: NDArray[np.void], motion: NDArray[np.float64]
) -> None:
    """Write blocks of one size into the cells that they cover."""
    w, h = int(blocks["w"][0]), int(blocks["h"][0])
    tops = (blocks["dst_y"].astype(int) - h // 2) // BLOCK
    lefts = (blocks["dst_x"].astype(int) - w // 2) // BLOCK
    for row in range(max(1, h // BLOCK)):
        for column in range(max(1, w // BLOCK)):
            y, x = tops + row, lefts + column
            inside = (y >= 0) & (x >= 0) & (y < cells.shape[0]) & (x < cells.shape[1])
            cells[y[inside], x[inside]] = motion[inside]
