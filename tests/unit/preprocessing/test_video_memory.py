"""Long videos are read in small pieces, planned in linear time, held a clip at a time."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from fractions import Fraction
from pathlib import Path

import pytest

from preprocessing.source import Source
from preprocessing.video_containers import check_whole, container_of
from preprocessing.videos import VideoIndex, decode_clips, plan_clips, probe_video
from tests.unit.preprocessing.video_media import FRAMES, textured_video, write_long_video

MIB = 2**20


class Watched:
    """A file with a hole in it, that books how it is read."""

    def __init__(self, data: bytes, hole: int = 0, at: int = 0) -> None:
        self.data, self.hole, self.at = data, hole, at
        self.reads: list[tuple[int, int]] = []

    @property
    def source(self) -> Source:
        return Source(len(self.data) + self.hole, self.read_at)

    def read_at(self, offset: int, size: int) -> bytes:
        self.reads.append((offset, size))
        end = offset + size
        before = self.data[min(offset, self.at) : min(end, self.at)]
        zeros = max(0, min(end, self.at + self.hole) - max(offset, self.at))
        behind = [max(place, self.at + self.hole) - self.hole for place in (offset, end)]
        return before + bytes(zeros) + self.data[slice(*behind)]

    @property
    def total(self) -> int:
        return sum(size for _, size in self.reads)


def mp4_with_hole(size: int) -> Watched:
    """Return an mp4 whose index lies behind a free box of `size` bytes."""
    data = textured_video(bf="2")
    place = data.index(b"moov") - 4
    header = size.to_bytes(4, "big") + b"free"
    return Watched(data[:place] + header + data[place:], size - len(header), place + len(header))


def test_only_headers_are_read_to_tell_a_container() -> None:
    watched = mp4_with_hole(3 * 2**30)
    assert container_of(watched.source) == "mov"
    check_whole(watched.source, "mov")
    assert watched.total < 1000


def test_a_file_is_read_in_pieces_and_holes_are_jumped_over() -> None:
    watched = mp4_with_hole(3 * 2**30)
    index = probe_video(watched.source)
    clips = plan_clips(index, frames=8)
    plain = textured_video(bf="2")
    for (ids, frames), (_, expected) in zip(
        decode_clips(watched.source, index, clips), decode_clips(plain, index, clips), strict=True
    ):
        assert (frames == expected).all(), ids
    assert index.frames == FRAMES
    assert max(size for _, size in watched.reads) <= MIB
    assert watched.total < 4 * MIB


def test_a_failing_store_is_no_broken_video() -> None:
    def read_at(offset: int, size: int) -> bytes:
        raise ConnectionError("the store is away")

    data = textured_video(4)
    with pytest.raises(ConnectionError):
        probe_video(Source(len(data), read_at))
    fails_later = Source(
        len(data), lambda at, size: data[at : at + size] if not at else read_at(0, 0)
    )
    with pytest.raises(ConnectionError):
        probe_video(fails_later)


def test_a_million_frames_are_planned_in_seconds() -> None:
    index = VideoIndex(
        pts=tuple(range(0, 512 * 10**6, 512)),
        time_base=Fraction(1, 12800),
        fps=25.0,
        width=320,
        height=240,
        rotation=0,
        codec="h264",
        container="mov",
        keyframes=tuple(range(0, 10**6, 250)),
        variable_rate=False,
        edit_list=False,
    )
    began = time.process_time()
    assert len(plan_clips(index, frames=16, stride=4)) == 10**6 // 64
    assert len(plan_clips(index, frames=16, fps=8.0)) == 40000 * 8 // 16
    segments = [(10.0 * k, 10.0 * k + 9) for k in range(4000)]
    assert len(plan_clips(index, frames=16, segments=segments)) == 4000 * 14
    assert time.process_time() - began < 10  # quadratic planning took hours


DECODE_ALL = """
import os, resource, sys
from preprocessing.source import Source
from preprocessing.videos import decode_clips, plan_clips, probe_video
file = os.open(sys.argv[1], os.O_RDONLY)
source = Source(os.fstat(file).st_size, lambda offset, size: os.pread(file, size, offset))
index = probe_video(source)
clips = plan_clips(index, frames=16, stride=4)
shapes = {frames.shape for _, frames in decode_clips(source, index, clips, short_side=128)}
print(index.frames, len(clips), shapes, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


@pytest.mark.slow
def test_two_hours_are_decoded_within_a_clip_of_memory(tmp_path: Path) -> None:
    path = tmp_path / "long.mp4"
    write_long_video(str(path), 7200)
    root = Path(__file__).parents[3]
    done = subprocess.run(
        [sys.executable, "-c", DECODE_ALL, str(path)],
        env={**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    *found, peak = done.stdout.split()
    assert found[:2] == ["180000", "2812"] and "{(16, 128, 171, 3)}" in done.stdout
    assert int(peak) < 300, f"peak of {peak} MiB"
