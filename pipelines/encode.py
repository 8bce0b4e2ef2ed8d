"""A unit of raw bytes becomes samples: decoded, checked, cut into clips or tiles, measured, stored.

This is where raw bytes are trusted for the first and last time: whatever cannot be decoded whole
is a `DecodeError` with its class, never a sample. FFmpeg and GDAL are loaded where they are needed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pipelines.grouping import Unit
from pipelines.ingest_spec import IngestSpec
from pipelines.new_sample import NewSample
from preprocessing import images
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
        if file.folder and spec.modality in ("image", "video"):
            raise DecodeError(
                "unrecognised_format", f"{file.path} is a folder of arrays, no {spec.modality}"
            )
    match spec.modality:
        case "image":
            yield _encode_image(sources[0], spec)
        case "video":
            from pipelines.encode_video import encode_video

            yield from encode_video(unit, sources[0], spec)
        case _:
            from pipelines.encode_raster import encode_raster

            yield from encode_raster(unit, sources, spec)


def _encode_image(source: Source, spec: IngestSpec) -> NewSample:
    if len(source) > MAX_IMAGE_BYTES:
        raise DecodeError("too_large", f"{len(source)} bytes; at most {MAX_IMAGE_BYTES}")
    encoded, pixels = images.encode_image(source[:], short_side=spec.resize or None)
    return NewSample(encoded, {}, measure(pixels, channels_last=True))
