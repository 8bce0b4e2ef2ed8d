"""A video becomes clips: probed, decoded by presentation time, stored in small groups of frames."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from pipelines.grouping import Unit
from pipelines.ingest_spec import IngestSpec
from pipelines.new_sample import NewSample
from preprocessing import videos
from preprocessing.encoded import Encoded
from preprocessing.source import Source
from preprocessing.statistics import measure


def encode_video(unit: Unit, source: Source, spec: IngestSpec) -> Iterator[NewSample]:
    """Yield the clips of a video, or of the segments that its list names.

    Raises:
        DecodeError: no clip fits, or the video does not decode whole.
    """
    index = videos.probe_video(source)
    choice = videos.choose_decoder(source, index, spec.decoder)
    clips = _plan(unit, index, spec)
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


def count_clips(unit: Unit, source: Source, spec: IngestSpec) -> int:
    """Return how many clips a video gives if it decodes whole; no frame is decoded.

    Raises:
        DecodeError: no clip fits, or the file is no video.
    """
    return len(_plan(unit, videos.probe_video(source), spec))


def _plan(unit: Unit, index: videos.VideoIndex, spec: IngestSpec) -> list[list[int]]:
    return videos.plan_clips(
        index,
        frames=spec.frames,
        stride=None if spec.fps else spec.stride,
        fps=spec.fps or None,
        segments=unit.files[0].segments or None,
    )


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
