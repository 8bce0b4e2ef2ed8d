"""Raw bytes visited piece by piece."""

from __future__ import annotations

import io

import pytest

from preprocessing.source import Source, as_source

DATA = bytes(range(256)) * 3


@pytest.mark.parametrize("span", [slice(0, 4), slice(-5, None), slice(700, 900), slice(5, 5)])
def test_slices_are_those_of_the_bytes(span: slice) -> None:
    assert as_source(DATA)[span] == DATA[span]


def test_a_file_over_a_source_reads_and_seeks_as_one_over_bytes() -> None:
    mine, theirs = as_source(DATA).file(), io.BytesIO(DATA)
    for offset, whence, size in [(10, 0, 20), (5, 1, 7), (-9, 2, 100), (2000, 0, 3), (0, 0, -1)]:
        assert mine.seek(offset, whence) == theirs.seek(offset, whence)
        assert mine.read(size) == theirs.read(size)
        assert mine.tell() == theirs.tell()


def test_a_source_asks_only_for_what_is_read() -> None:
    asked = []

    def read_at(offset: int, size: int) -> bytes:
        asked.append((offset, size))
        return bytes(size)

    source = Source(1 << 40, read_at)
    assert source.startswith(b"\0\0") and len(source) == 1 << 40
    assert sum(size for _, size in asked) == 2
    with pytest.raises(ValueError, match="step"):
        source[0:10:2]
