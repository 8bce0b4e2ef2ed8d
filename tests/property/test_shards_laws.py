"""Laws of shards: what goes in comes out; no byte changes, vanishes or appears unnoticed (G5)."""

from __future__ import annotations

import io
import random
import tarfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage import tar
from storage.fs import Store, open_store
from storage.shards import (
    Sample,
    ShardError,
    ShardReader,
    pack_shard,
    pack_sidecar,
    read_shard,
    shard_rows,
    sidecar_places,
)

KEYS = st.text("abcXYZ019-_=+@", min_size=1, max_size=80)
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text("abé", max_size=3), inner, max_size=3)
    ),
    max_leaves=6,
)
SAMPLES = st.lists(
    st.builds(
        Sample,
        KEYS,
        st.sampled_from(["jpg", "png", "mp4", "npy.zst"]),
        st.binary(max_size=1200),
        st.dictionaries(st.text("abc", max_size=4), JSON, max_size=3),
    ),
    max_size=6,
    unique_by=lambda sample: sample.key,
)


@given(SAMPLES)
@settings(max_examples=60, deadline=None)
def test_what_goes_in_comes_out(samples: list[Sample]) -> None:
    store = open_store("mock:///laws")
    data, rows = pack_shard(samples)
    store.write("s.tar", data)
    assert list(read_shard(store, "s.tar", len(samples))) == samples
    assert shard_rows(data, "s.tar", len(samples)) == rows
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        payloads = [m for m in archive if not m.name.endswith(".json")]
        assert [(m.offset_data, m.size) for m in payloads] == [(r.offset, r.size) for r in rows]


@given(
    st.lists(st.tuples(KEYS, st.binary(max_size=700)), max_size=6, unique_by=lambda item: item[0]),
    st.text("abc_", min_size=1, max_size=40),
)
@settings(max_examples=40, deadline=None)
def test_sidecars_come_back(items: list[tuple[str, bytes]], column: str) -> None:
    data, places = pack_sidecar(column, "npy.zst", items)
    assert sidecar_places(data, "w") == places
    assert [(key, data[offset : offset + size]) for key, offset, size, _ in places] == items


@given(st.text("abcXYZ.-é", min_size=1, max_size=50), st.integers(0, tar.MAX_SIZE))
@settings(max_examples=100, deadline=None)
def test_headers_are_those_of_tarfile(name: str, size: int) -> None:
    info = tarfile.TarInfo(name)
    info.mode, info.size = 0o444, size
    assert tar.header(name, size) == info.tobuf(tarfile.USTAR_FORMAT)


@pytest.fixture(scope="module")
def shard() -> tuple[bytes, list[Sample]]:
    sizes = (0, 1, 511, 512, 513, 2000)
    samples = [Sample(f"key-{n}", "jpg", bytes([n % 251 + 1]) * n, {"n": n}) for n in sizes]
    return pack_shard(samples)[0], samples


def test_a_shard_cut_anywhere_is_refused(tmp_path: Path, shard: tuple[bytes, list[Sample]]) -> None:
    data, samples = shard
    store = open_store(tmp_path)
    for cut in [*range(0, len(data), 512), *range(1, len(data), 509)]:
        store.write("s.tar", data[:cut])
        with pytest.raises(ShardError, match=r"s\.tar: .*"):
            list(read_shard(store, "s.tar", len(samples)))


def test_a_shard_cut_inside_a_sample_names_it(
    tmp_path: Path, shard: tuple[bytes, list[Sample]]
) -> None:
    data, samples = shard
    store = open_store(tmp_path)
    row = shard_rows(data, "s.tar")[-1]
    store.write("s.tar", data[: row.offset + 1024])
    with pytest.raises(ShardError, match=r"key-2000\.jpg is cut short: 1024 of 2000 bytes"):
        list(read_shard(store, "s.tar", len(samples)))


def test_a_flipped_bit_anywhere_is_found(tmp_path: Path, shard: tuple[bytes, list[Sample]]) -> None:
    """Outside of members by the structure, inside by the checksum; each byte belongs to one."""
    data, samples = shard
    store = open_store(tmp_path)
    rows = shard_rows(data, "s.tar")
    places = [(r.offset, r.size, r.checksum, r.key) for r in rows]
    places += [(r.meta_offset, r.meta_size, r.meta_checksum, r.key) for r in rows]
    draw = random.Random(7)
    for position in range(0, len(data), 5):
        damaged = bytearray(data)
        damaged[position] ^= 1 << draw.randrange(8)
        mine = [p for p in places if p[0] <= position < p[0] + p[1]]
        if mine:
            _assert_reader_finds(store, bytes(damaged), mine[0])
        else:
            with pytest.raises(ShardError, match=r"s\.tar"):
                shard_rows(bytes(damaged), "s.tar", len(samples))


def _assert_reader_finds(store: Store, data: bytes, place: tuple[int, int, int, str]) -> None:
    """The damaged member is named; write in place of a rename keeps this sweep quick."""
    path = store.local_path("flipped.tar") or Path()
    path.write_bytes(data)
    reader = ShardReader(store, "flipped.tar", "d/p/s")
    with reader, pytest.raises(ShardError, match=rf"d/p/s: sample {place[3]} is damaged"):
        reader.read(*place)


@given(st.data())
@settings(max_examples=80, deadline=None)
def test_blocks_moved_removed_or_repeated_are_found(data: st.DataObject) -> None:
    samples = [Sample(f"k{n}", "jpg", bytes([n]) * 700, {"n": n}) for n in range(4)]
    good, rows = pack_shard(samples)
    blocks = [good[i : i + 512] for i in range(0, len(good), 512)]
    at, to = (data.draw(st.integers(0, len(blocks) - 1)) for _ in range(2))
    how = data.draw(st.sampled_from(["remove", "repeat", "swap"]))
    if how == "remove":
        del blocks[at]
    elif how == "repeat":
        blocks.insert(to, blocks[at])
    else:
        blocks[at], blocks[to] = blocks[to], blocks[at]
    changed = b"".join(blocks)
    if changed == good:
        return
    try:
        assert shard_rows(changed, "s.tar", 4) != rows
    except ShardError as error:
        assert str(error).startswith("s.tar: ")
