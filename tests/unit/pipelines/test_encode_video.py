"""A video becomes clips of listed segments; each says what decoded it and where it lies."""

from __future__ import annotations

import json

import numpy as np
import pytest

from pipelines.encode import encode_unit
from pipelines.grouping import Unit
from pipelines.ingest_spec import IngestSpec
from pipelines.raw import RawFile
from preprocessing.errors import DecodeError
from preprocessing.source import as_source
from preprocessing.statistics import measure
from preprocessing.videos import decode_clip, decode_frames, encode_clip, motion_score, probe_video
from tests.unit.preprocessing.video_media import textured_video


def unit(*segments: tuple[float, float]) -> Unit:
    extra = json.dumps({"segments": segments}) if segments else ""
    return Unit((RawFile("/videos", "a.mp4", 1, extra=extra),))


def test_clips_lie_in_their_segments_and_are_what_they_say() -> None:
    data = textured_video(48, bf="2")
    spec = IngestSpec(modality="video", frames=4, stride=2, resize=32)
    found = list(encode_unit(unit((0.0, 0.4), (1.0, 1.7)), [as_source(data)], spec))
    assert [s.metadata["frames"] for s in found] == [
        [0, 2, 4, 6],
        [25, 27, 29, 31],
        [33, 35, 37, 39],
    ]
    index = probe_video(data)
    for sample in found:
        ids = sample.metadata["frames"]
        assert sample.metadata["seconds"] == [i / 25 for i in ids]
        assert (sample.metadata["fps"], sample.metadata["decoder"]) == (12.5, "pyav")
        frames = decode_frames(data, index, ids, short_side=32)
        assert sample.encoded.payload == encode_clip(frames, 12.5)
        stored = decode_clip(sample.encoded.payload)
        assert sample.encoded.shape == stored.shape
        assert sample.moments == measure(stored, channels_last=True)
        assert np.isclose(sample.score, motion_score(stored))


def test_without_segments_the_whole_video_is_cut() -> None:
    spec = IngestSpec(modality="video", frames=16)
    found = list(encode_unit(unit(), [as_source(textured_video(48))], spec))
    assert [s.metadata["frames"][0] for s in found] == [0, 16, 32]


def test_a_segment_beyond_the_video_refuses_it() -> None:
    spec = IngestSpec(modality="video", frames=4)
    with pytest.raises(
        DecodeError, match=r"too_short: segment from 5\.0 to 6\.0 s: the video lasts"
    ):
        list(encode_unit(unit((0.0, 1.0), (5.0, 6.0)), [as_source(textured_video(48))], spec))
