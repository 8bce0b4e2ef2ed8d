"""Shards: bytes that depend on the samples alone, checked structure, verified reads."""

from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path

import pytest

from storage import tar
from storage.fs import Store, open_store
from storage.shards import (
    Row,
    Sample,
    ShardError,
    ShardReader,
    pack_shard,
    pack_sidecar,
    read_shard,
    shard_rows,
    sidecar_places,
)

SAMPLES = [
    Sample("dog-1", "jpg", b"\xff\xd8dog", {"label": "dog", "size": [3, 4]}),
    Sample("cat-2", "png", bytes(512), {"label": "chät"}),
    Sample("cow-3", "npy.zst", b"", {}),
]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(tmp_path)


def read_back(store: Store, data: bytes, samples: int = 3) -> list[Sample]:
    store.write("s.tar", data)
    return list(read_shard(store, "s.tar", samples))


def made_with(
    *members: tarfile.TarInfo | tuple[str, bytes], form: int = tarfile.USTAR_FORMAT
) -> bytes:
    """Return a tar as Python's tarfile writes it with our fixed fields."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as archive:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                archive.addfile(member)
                continue
            info = tarfile.TarInfo(member[0])
            info.size, info.mode = len(member[1]), 0o444
            archive.addfile(info, io.BytesIO(member[1]))
    return buffer.getvalue()


def test_a_shard_is_the_tar_that_tarfile_writes() -> None:
    data, rows = pack_shard(SAMPLES)
    members = [
        ("dog-1.jpg", b"\xff\xd8dog"),
        ("dog-1.json", b'{"label":"dog","size":[3,4]}'),
        ("cat-2.png", bytes(512)),
        ("cat-2.json", '{"label":"chät"}'.encode()),
        ("cow-3.npy.zst", b""),
        ("cow-3.json", b"{}"),
    ]
    assert data == made_with(*members)
    assert [row.key for row in rows] == ["dog-1", "cat-2", "cow-3"]
    assert data[rows[1].offset :][: rows[1].size] == bytes(512)
    assert data[rows[1].meta_offset :][: rows[1].meta_size] == members[3][1]
    assert pack_shard(iter(SAMPLES))[0] == data


def test_a_shard_reads_back(store: Store) -> None:
    data, rows = pack_shard(SAMPLES)
    assert read_back(store, data) == SAMPLES
    assert shard_rows(data, "s.tar", 3) == rows
    assert read_back(store, pack_shard([])[0], 0) == []


def test_stock_webdataset_reads_a_shard_and_its_sidecar_together(store: Store) -> None:
    webdataset = pytest.importorskip("webdataset")
    store.write("s.tar", pack_shard(SAMPLES)[0])
    items = [(sample.key, b"flow of " + sample.key.encode()) for sample in SAMPLES]
    store.write("f.tar", pack_sidecar("flow", "bin", items)[0])
    places = [str(store.local_path(name)) for name in ("s.tar", "f.tar")]
    base, side = (list(webdataset.WebDataset(p, shardshuffle=False)) for p in places)
    assert [sample["__key__"] for sample in base] == [sample.key for sample in SAMPLES]
    assert [sample["__key__"] for sample in side] == [sample.key for sample in SAMPLES]
    assert [s["flow.bin"] for s in side] == [data for _, data in items]
    assert [s[e.ext] for s, e in zip(base, SAMPLES, strict=True)] == [s.payload for s in SAMPLES]


def test_names_over_100_bytes_are_kept() -> None:
    key = "k" * 80
    data, places = pack_sidecar("a_teacher_of_mine", "npy.zst", [(key, b"12"), ("m", b"345")])
    assert sidecar_places(data, "w") == places
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        assert archive.getnames() == [
            f"{key}.a_teacher_of_mine.npy.zst",
            "m.a_teacher_of_mine.npy.zst",
        ]
        assert [m.offset_data for m in archive] == [place[1] for place in places]


@pytest.mark.parametrize("key", ["", "a.b", "a/b", "a b", "ä", "a\n", "k" * 81, "a\\b"])
def test_keys_that_cannot_name_a_sample(key: str) -> None:
    with pytest.raises(ValueError, match=r"cannot name a sample\. Use 1 to 80"):
        pack_shard([Sample(key, "jpg", b"", {})])


def test_keys_and_extensions_are_checked() -> None:
    with pytest.raises(ValueError, match="'a' comes twice"):
        pack_shard([Sample("a", "jpg", b"", {})] * 2)
    with pytest.raises(ValueError, match="'a' comes twice"):
        pack_sidecar("flow", "npy", [("a", b"")] * 2)
    with pytest.raises(ValueError, match="cannot be json"):
        pack_shard([Sample("a", "json", b"", {})])
    with pytest.raises(ValueError, match=r"extension 'JPG'"):
        pack_shard([Sample("a", "JPG", b"", {})])
    with pytest.raises(ValueError, match="a tar holds up to"):
        tar.header("a.mp4", 8**11)


def link(name: str, kind: bytes) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.mode = kind, "/etc/passwd", 0o444
    return info


FOREIGN = {
    "a symbolic link": link("a.jpg", tarfile.SYMTYPE),
    "a hard link": link("a.jpg", tarfile.LNKTYPE),
    "a character device": link("a.jpg", tarfile.CHRTYPE),
    "a block device": link("a.jpg", tarfile.BLKTYPE),
    "a folder": link("a.jpg", tarfile.DIRTYPE),
    "a pipe": link("a.jpg", tarfile.FIFOTYPE),
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_members_that_are_no_plain_files_are_refused(store: Store, kind: str) -> None:
    data = made_with(("z.jpg", b""), ("z.json", b"{}"), FOREIGN[kind], ("a.json", b"{}"))
    with pytest.raises(ShardError, match=rf"a\.jpg/? is {kind}"):
        read_back(store, data, 2)


def test_tars_of_other_programs_are_refused_by_name(store: Store) -> None:
    members = (("a.jpg", b"1"), ("a.json", b"{}"))
    info = tarfile.TarInfo("a.jpg")
    with pytest.raises(ShardError, match=r"header of a\.jpg is not as headrace writes it"):
        read_back(store, made_with(info, ("a.json", b"{}")), 1)
    info.mtime = 1.5
    with pytest.raises(ShardError, match="an extended"):
        read_back(store, made_with(info, form=tarfile.PAX_FORMAT), 1)
    with pytest.raises(ShardError, match=r"header after the start is damaged"):
        read_back(store, b"not a tar at all" * 100, 1)
    assert len(read_back(store, made_with(*members), 1)) == 1


STRUCTURES = {
    "sample a comes twice": ["a.jpg", "a.json", "b.jpg", "b.json", "a.jpg", "a.json"],
    "sample a has a.jpg followed by b.jpg": ["a.jpg", "b.jpg", "a.json", "b.json"],
    "sample b has b.jpg followed by the end": ["a.jpg", "a.json", "b.jpg"],
    "sample a has a.json followed by b.jpg": ["a.json", "b.jpg", "b.json"],
    "sample b has b.png followed by b.jpg": ["a.jpg", "a.json", "b.png", "b.jpg", "b.json"],
    "sample a has a.json followed by a.json": ["a.json", "a.json"],
    "holds 1 samples, its manifest says 2": ["a.jpg", "a.json"],
    "holds 3 samples": ["a.jpg", "a.json", "b.jpg", "b.json", "c.jpg", "c.json"],
}


@pytest.mark.parametrize("message", STRUCTURES)
def test_samples_must_stand_together_once_each(store: Store, message: str) -> None:
    data = made_with(*((name, b"{}") for name in STRUCTURES[message]))
    with pytest.raises(ShardError, match=message):
        read_back(store, data, 2)


def test_bytes_after_the_end_are_refused(store: Store) -> None:
    data, _ = pack_shard(SAMPLES)
    for extra in (b"x", bytes(512), bytes(10240), data):
        with pytest.raises(ShardError, match=r"after cow-3\.json there are"):
            read_back(store, data + extra)


def test_damaged_metadata_are_named(store: Store) -> None:
    with pytest.raises(ShardError, match="sample a has damaged metadata"):
        read_back(store, made_with(("a.jpg", b""), ("a.json", b"{]")), 1)


def reader_and_rows(store: Store) -> tuple[ShardReader, list[Row]]:
    data, rows = pack_shard(SAMPLES)
    store.write("s.tar", data)
    return ShardReader(store, "s.tar", "animals/p1/shard-000000.tar"), rows


def test_reader_returns_the_members(store: Store) -> None:
    reader, rows = reader_and_rows(store)
    with reader:
        for row, sample in zip(rows, SAMPLES, strict=True):
            assert reader.read(row.offset, row.size, row.checksum, row.key) == sample.payload
    with pytest.raises(ShardError, match="cannot be read"):
        reader.read(0, 1, 0, "x")
    reader.close()


def test_reader_names_dataset_shard_and_sample(store: Store) -> None:
    reader, rows = reader_and_rows(store)
    row = rows[1]
    message = r"animals/p1/shard-000000.tar: sample cat-2 {}.*headrace verify"
    with pytest.raises(ShardError, match=message.format("is damaged")):
        reader.read(row.offset + 1, row.size, row.checksum, row.key)
    with pytest.raises(ShardError, match=message.format("is damaged")):
        reader.read(row.offset, row.size, row.checksum ^ 1, row.key)
    with pytest.raises(ShardError, match=message.format("is cut short: 0 of 512")):
        reader.read(1 << 30, row.size, row.checksum, row.key)
    for place in ((-1, 5), (5, -1), (0, 1 << 70)):
        with pytest.raises(ShardError, match=message.format("cannot be read")):
            reader.read(*place, row.checksum, row.key)
    with pytest.raises(ShardError, match="nothing: the file is missing"):
        ShardReader(store, "nothing.tar", "nothing")


def test_a_reader_that_is_dropped_leaves_no_open_file(store: Store) -> None:
    reader, _ = reader_and_rows(store)
    before = len(os.listdir("/proc/self/fd"))
    del reader
    for _ in range(50):
        ShardReader(store, "s.tar", "animals/p1/shard-000000.tar")
    with pytest.raises(ShardError, match="missing"):
        ShardReader(store, "nothing.tar", "nothing")
    assert len(os.listdir("/proc/self/fd")) < before + 2


def test_reader_completes_short_reads(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    reader, rows = reader_and_rows(store)
    pread = os.pread
    monkeypatch.setattr(os, "pread", lambda handle, size, at: pread(handle, min(size, 100), at))
    assert reader.read(rows[1].offset, rows[1].size, rows[1].checksum, "cat-2") == bytes(512)


def test_reader_of_a_store_that_is_not_a_disk() -> None:
    store = open_store("mock:///shards")
    reader, rows = reader_and_rows(store)
    assert reader.read(rows[0].offset, rows[0].size, rows[0].checksum, "dog-1") == b"\xff\xd8dog"
    with pytest.raises(ShardError, match="is damaged"):
        reader.read(rows[0].offset + 1, rows[0].size, rows[0].checksum, "dog-1")
    reader.close()
    with pytest.raises(ShardError, match="cannot be read"):
        reader.read(0, 1, 0, "dog-1")
    with pytest.raises(ShardError, match="missing"):
        ShardReader(store, "nothing.tar", "nothing")
