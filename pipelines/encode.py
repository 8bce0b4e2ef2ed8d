"""A unit of raw bytes becomes samples: decoded, checked, cut into clips or tiles, measured, stored.

This is where raw bytes are trusted for the first and last time: whatever cannot be decoded whole
is a
`DecodeError` with its class, never a sample.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from pipelines.encode_raster import encode_raster
from pipelines.grouping import Unit
from pipelines.ingest_spec import IngestSpec
from pipelines.new_sample import NewSample
from preprocessing import images, videos
from preprocessing.encoded import Encoded
from preprocessing.errors import DecodeError
from preprocessing.source import Source
from preprocessing.statistics import measure

__all__ = ["NewSample", "encode_unit"]

MAX_IMAGE_BYTES = 2**28
"A compressed image is decoded whole; larger files are scenes or videos."


def encode_unit(unit: Unit, sources: Sequence[Source], spec: IngestSpec) -> Iterator[NewSample]:
    """Yield the samples of a unit, one at a time; an error may come after some of them.

    Args:
        unit: the raw files that belong together.
        sources: their bytes, in the unit's order.

    Raises:
        DecodeError: a file cannot be decoded whole, or the files do not fit together.
    """
    for file, source in zip(unit.files, sources, strict=True):
        if not source:
            raise DecodeError("empty_file", f"{file.path} has 0 bytes")
    match spec.modality:
        case "image":
            yield _encode_image(sources[0], spec)
        case "video":
            yield from _encode_video(unit, sources[0], spec)
        case _:
            yield from encode_raster(unit, sources, spec)


def _encode_image(source: Source, spec: IngestSpec) -> NewSample:
    if len(source) > MAX_IMAGE_BYTES:
        raise DecodeError("too_large", f"{len(source)} bytes; at most {MAX_IMAGE_BYTES}")
    encoded, pixels = images.encode_image(source[:], short_side=spec.resize or None)
    return NewSample(encoded, {}, measure(pixels, channels_last=True))


def _encode_video(unit: Unit, source: Source, spec: IngestSpec) -> Iterator[NewSample]:
    """Yield the clips of a video, or of the segments that its list names."""
    index = videos.probe_video(source)
    choice = videos.choose_decoder(source, index)
    clips = videos.plan_clips(
        index,
        frames=spec.frames,
        stride=None if spec.fps else spec.stride,
        fps=spec.fps or None,
        segments=unit.files[0].segments or None,
    )
    rate = spec.fps or index.fps / spec.stride
    read = {"fps": rate, "codec": index.codec, "decoder": choice.name}
    if choice.reason:
        read["decoder_reason"] = choice.reason
    for ids, frames in videos.decode_clips(
        source, index, clips, short_side=spec.resize or None, decoder=choice.name
    ):
        place = {"frames": ids, "seconds": [index.seconds(i) for i in ids]}
        sample = _clip_sample(frames, rate, place | read)
        del frames  # or the next clip is decoded beside this one
        yield sample


def _clip_sample(frames: NDArray[np.uint8], rate: float, metadata: dict[str, object]) -> NewSample:
    """Store a clip; what is said of it is measured on what its payload decodes to."""
    payload = videos.encode_clip(frames, rate)
    stored = videos.decode_clip(payload)
    return NewSample(
        Encoded("mp4", payload, stored.shape, "uint8"),
        metadata,
        measure(stored, channels_last=True),
        score=videos.motion_score(stored),
    )
