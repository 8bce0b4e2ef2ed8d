"""T4: tars of users, cut, crooked or hostile, through the command: books close, nothing escapes."""

from __future__ import annotations

import gzip
import io
import os
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.integration.outcomes import DONE, OVER_BUDGET, headrace, read_outcome, run_with_peak
from tests.unit.preprocessing.raw_media import picture, smooth

PICTURES = {f"class_{n % 2}/{n}.jpg": picture(".jpg", smooth(20, 30, seed=n)) for n in range(4)}
EXTRA = picture(".jpg", smooth(20, 30, seed=9))
FIXED = ("--modality", "image", "--dataset", "set", "--direct", "--workers", "1")


def member(name: str, data: bytes = b"", kind: bytes = tarfile.REGTYPE, link: str = "") -> Any:
    """Return (header, data) of a member."""
    info = tarfile.TarInfo(name)
    info.size, info.type, info.linkname = len(data), kind, link
    return info, data


def made_tar(members: Sequence[Any], form: int = tarfile.USTAR_FORMAT) -> bytes:
    """Return a tar as Python's tarfile writes it."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as archive:
        for info, data in members:
            archive.addfile(info, io.BytesIO(data) if data else None)
    return buffer.getvalue()


def plain_tar(form: int = tarfile.USTAR_FORMAT) -> bytes:
    return made_tar([member(name, data) for name, data in PICTURES.items()], form)


class Run:
    """An ingest of one tar: either an outcome, or one clear error."""

    def __init__(self, folder: Path, data: bytes, name: str = "some.tar") -> None:
        self.folder, self.tar = folder, folder / name
        self.tar.write_bytes(data)
        self.store = folder / "store"
        before = files_of(folder)
        done = headrace("ingest", str(self.tar), *FIXED, "--json", store=self.store)
        outside = {p for p in files_of(folder) - before if not p.is_relative_to(self.store)}
        assert not outside, f"written outside of the store: {outside}"
        assert "Traceback" not in done.stderr
        self.error = ""
        self.members: dict[str, str] = {}
        if done.exit_code in (DONE, OVER_BUDGET):
            self._read(done.stdout)
            return
        assert done.exit_code == 1, done.stderr
        assert name in done.stderr and done.stdout == ""
        self.error = done.stderr

    def _read(self, stdout: str) -> None:
        import json

        self.outcome = read_outcome(self.store, json.loads(stdout))
        for uri, row in self.outcome.rejects.items():
            self.members[uri.partition("!")[2]] = row["reason_class"]
        for uri, samples in self.outcome.samples.items():
            self.members[uri.partition("!")[2]] = "written"
            for sample in samples:
                assert sample.payload in self.sound, f"{uri} is not as it was packed"

    @property
    def sound(self) -> set[bytes]:
        return {*PICTURES.values(), EXTRA}

    def says_cut(self) -> bool:
        return bool(self.error) or "truncated" in self.members.values()

    def written(self) -> set[str]:
        return {name for name, what in self.members.items() if what == "written"}


def files_of(folder: Path) -> set[Path]:
    return {p for p in folder.rglob("*") if p.is_file() or p.is_symlink()}


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_sound_tars_of_every_form_are_taken(form: int, tmp_path: Path) -> None:
    assert Run(tmp_path, plain_tar(form)).written() == set(PICTURES)
    packed = tmp_path / "packed"
    packed.mkdir()
    assert Run(packed, gzip.compress(plain_tar(form)), "some.tar.gz").written() == set(PICTURES)


def cuts() -> list[int]:
    """Places in the tar: the edges of each record, and inside of headers, data and padding."""
    found = {1, 511}
    with tarfile.open(fileobj=io.BytesIO(plain_tar())) as archive:
        for info in archive:
            end = info.offset_data + info.size
            found |= {info.offset, info.offset + 100, info.offset_data, end - 1, end}
            found.add(end + -end % 512)
    return sorted(found - {0})


@pytest.mark.parametrize("packed", [False, True])
def test_a_tar_cut_at_any_record_says_so(packed: bool, tmp_path: Path) -> None:
    """Python's tarfile ends silently on most of these."""
    for cut in cuts():
        folder = tmp_path / str(cut)
        folder.mkdir()
        data = plain_tar()[:cut]
        run = Run(
            folder, gzip.compress(data) if packed else data, "t.tar.gz" if packed else "t.tar"
        )
        assert run.says_cut(), f"cut at {cut}: {run.members}"
        assert run.written() <= set(PICTURES)


HARMLESS = {f"bit {place}" for place in range(3, 10)}
"flags, time and system of a gzip header, which say nothing of the content"


def test_a_packed_tar_cut_or_damaged_anywhere_says_so(tmp_path: Path) -> None:
    whole = gzip.compress(plain_tar(), mtime=0)
    changed = {f"cut {n}": whole[:n] for n in (0, 5, 30, len(whole) // 2, len(whole) - 1)}
    for place in [*range(0, 14), *range(14, len(whole), len(whole) // 8), len(whole) - 6]:
        changed[f"bit {place}"] = whole[:place] + bytes([whole[place] ^ 22]) + whole[place + 1 :]
    for name, data in changed.items():
        folder = tmp_path / name
        folder.mkdir()
        run = Run(folder, data, "some.tar.gz")
        harmless = name in HARMLESS and run.members == dict.fromkeys(PICTURES, "written")
        assert run.says_cut() or harmless, f"{name}: {run.members}"


def test_a_damaged_header_in_the_middle_says_so(tmp_path: Path) -> None:
    data = plain_tar()
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        third = archive.getmembers()[2]
    for what, piece in {"noise": b"\xa5" * 512, "zeros": bytes(512)}.items():
        folder = tmp_path / what
        folder.mkdir()
        broken = data[: third.offset] + piece + data[third.offset + 512 :]
        run = Run(folder, broken)
        assert run.says_cut(), f"{what}: {run.members}"


def test_rubbish_and_nothing_are_clear(tmp_path: Path) -> None:
    for name, data in {"nothing": b"", "text": b"not a tar\n" * 900, "zeros": bytes(4096)}.items():
        folder = tmp_path / name
        folder.mkdir()
        run = Run(folder, data)
        assert run.error or not run.written()


def test_members_of_one_name_are_all_booked(tmp_path: Path) -> None:
    items = list(PICTURES.items())
    same = [member("a.jpg", data) for _, data in items[:3]]
    run = Run(tmp_path, made_tar([*same, member(*items[3])]))
    assert run.error or run.outcome.report["inputs"] == 4
    if not run.error:
        assert len(run.members) == 4 and run.outcome.report["samples"] == 4


def test_repeated_content_is_a_duplicate_not_a_loss(tmp_path: Path) -> None:
    data = PICTURES["class_0/0.jpg"]
    members = [member("a.jpg", data), member("b.jpg", data), member("c/a.jpg", data)]
    report = Run(tmp_path, made_tar(members)).outcome.report
    assert (report["inputs"], report["written"], report["duplicates"]) == (3, 1, 2)


LONG = {
    "ustar prefix": (tarfile.USTAR_FORMAT, f"{'d' * 120}/{'n' * 90}.jpg"),
    "gnu long name": (tarfile.GNU_FORMAT, f"{'d' * 200}/{'n' * 230}.jpg"),
    "pax name": (tarfile.PAX_FORMAT, f"{'d' * 200}/{'ü猫' * 60}.jpg"),
}


@pytest.mark.parametrize("what", LONG)
def test_long_names_are_kept(what: str, tmp_path: Path) -> None:
    form, name = LONG[what]
    data = next(iter(PICTURES.values()))
    assert Run(tmp_path, made_tar([member(name, data)], form)).written() == {name}


def test_what_is_no_plain_file_is_booked_and_never_followed(tmp_path: Path) -> None:
    secret = tmp_path / "secret.jpg"
    secret.write_bytes(PICTURES["class_0/0.jpg"])
    odd = [
        member("soft.jpg", kind=tarfile.SYMTYPE, link=str(secret)),
        member("up.jpg", kind=tarfile.SYMTYPE, link="../secret.jpg"),
        member("hard.jpg", kind=tarfile.LNKTYPE, link="1.jpg"),
        member("tty.jpg", kind=tarfile.CHRTYPE),
        member("disk.jpg", kind=tarfile.BLKTYPE),
        member("pipe.jpg", kind=tarfile.FIFOTYPE),
    ]
    good = [member("1.jpg", PICTURES["class_1/1.jpg"]), member("folder", kind=tarfile.DIRTYPE)]
    run = Run(tmp_path, made_tar([good[1], good[0], *odd]))
    assert run.written() == {"1.jpg"}
    assert run.outcome.report["inputs"] == 7, run.members
    assert set(run.members) == {"1.jpg", *(info.name for info, _ in odd)}


def test_names_that_point_elsewhere_write_nothing_there(tmp_path: Path) -> None:
    """Absolute names, `..`, backslashes and control characters are only names."""
    below = tmp_path / "a" / "b"
    below.mkdir(parents=True)
    target = tmp_path / "escaped.jpg"
    names = ["../../escaped.jpg", str(target), "..\\x.jpg", "a/../../../y.jpg", "new\nline.jpg"]
    data = [*PICTURES.values(), EXTRA]
    members = [member(name, blob) for name, blob in zip(names, data, strict=True)]
    run = Run(below, made_tar(members, tarfile.GNU_FORMAT))
    assert not target.exists()
    assert run.error or run.outcome.report["inputs"] == 5


def test_a_sparse_file_is_not_taken_for_its_stored_bytes(tmp_path: Path) -> None:
    info, data = member("hole.jpg", PICTURES["class_0/0.jpg"])
    info.type = tarfile.GNUTYPE_SPARSE
    header = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    header[386:410] = b"%011o\0%011o\0" % (0, len(data))
    header[483:495] = b"%011o\0" % (10**12)  # the real size: a terabyte of nothing
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    rest = plain_tar()
    run = Run(tmp_path, bytes(header) + data + bytes(-len(data) % 512) + rest)
    assert "hole.jpg" not in run.written()
    assert run.error or run.written() == set(PICTURES) or run.says_cut()


def test_a_header_that_promises_a_terabyte_is_a_cut(tmp_path: Path) -> None:
    info, data = member("huge.jpg", PICTURES["class_0/0.jpg"])
    info.size = 10**12
    run = Run(tmp_path, info.tobuf(tarfile.GNU_FORMAT) + data + bytes(9000))
    assert run.says_cut() and not run.written()


def test_samples_of_interleaved_members_are_told_by_name(tmp_path: Path) -> None:
    """A tar of ours or of others with metadata between the pictures: those are refused by class."""
    members = [member(name, data) for name, data in PICTURES.items()]
    members.insert(1, member("class_0/0.json", b'{"label": 1}'))
    members.insert(4, member("readme.txt", b"about these pictures"))
    run = Run(tmp_path, made_tar(members))
    assert run.written() == set(PICTURES)
    refused = {name: what for name, what in run.members.items() if what != "written"}
    assert refused == dict.fromkeys(("class_0/0.json", "readme.txt"), "unrecognised_format")


BOMBS: dict[str, Callable[[Path], None]] = {}


def bomb(name: str) -> Callable[[Callable[[Path], None]], Callable[[Path], None]]:
    def keep(make: Callable[[Path], None]) -> Callable[[Path], None]:
        BOMBS[name] = make
        return make

    return keep


@bomb("zeros.tar.gz")
def _zeros(path: Path) -> None:
    """3 GB of zeros in 3 MB: one member."""
    info = tarfile.TarInfo("zeros.jpg")
    info.size = 3 * 2**30
    with gzip.open(path, "wb", compresslevel=1) as stream:
        stream.write(info.tobuf())
        for _ in range(3 * 2**10):
            stream.write(bytes(2**20))
        stream.write(bytes(1024))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["zeros.tar.gz"])
def test_a_packed_bomb_is_bounded(name: str, tmp_path: Path) -> None:
    BOMBS[name](tmp_path / name)
    words = ("ingest", str(tmp_path / name), *FIXED, "--store", str(tmp_path / "store"))
    code, said, peak = run_with_peak(*words)
    assert code in (1, 3), said
    assert "Traceback" not in said and name in said
    assert peak < 1500
    assert not [p for p in tmp_path.rglob("*") if p.is_file() and p.stat().st_size > 2**26]


def test_a_tar_that_cannot_be_read_is_clear(tmp_path: Path) -> None:
    path = tmp_path / "some.tar"
    path.write_bytes(plain_tar())
    path.chmod(0)
    if os.access(path, os.R_OK):
        pytest.skip("root reads everything")
    done = headrace("ingest", str(path), *FIXED, store=tmp_path / "store")
    assert done.exit_code == 1 and "some.tar" in done.stderr
