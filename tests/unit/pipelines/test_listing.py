"""What sources hold, as a table: folders, tars, lists, folders that are one image."""

from __future__ import annotations

import io
import json
import os
import tarfile
from pathlib import Path

import pytest

from pipelines.listing import list_source, list_sources, raw_files
from pipelines.raw import opened
from storage.local_files import list_files, walk_files


def write(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(name.encode())
    return folder


def test_a_walk_is_in_the_order_of_the_paths(tmp_path: Path) -> None:
    write(tmp_path, "b/2", "b.c", "b-", "a/z/1", "a/z.1", "b/.hidden", "z")
    walked = [path for path, _ in walk_files(tmp_path)]
    assert walked == sorted(path for path, _ in list_files(tmp_path))


def test_labels_are_folders(tmp_path: Path) -> None:
    table = list_source(str(write(tmp_path, "cat/1.jpg", "dog/2.jpg")), labels="parent")
    assert table["label"].to_pylist() == ["cat", "dog"]
    with pytest.raises(ValueError, match="not a list of files"):
        list_source(str(tmp_path), labels="species")


def test_a_file_is_listed_once_however_often_it_is_named(tmp_path: Path) -> None:
    write(tmp_path, "a/1.jpg", "a/2.jpg")
    table = list_sources([str(tmp_path), str(tmp_path), str(tmp_path / "a" / "1.jpg")])
    assert table["uri"].to_pylist() == [f"{tmp_path}/a/1.jpg", f"{tmp_path}/a/2.jpg"]


def test_a_link_to_nothing_is_an_input_that_cannot_be_read(tmp_path: Path) -> None:
    write(tmp_path, "1.jpg")
    os.symlink(tmp_path / "gone.jpg", tmp_path / "2.jpg")
    assert list_source(str(tmp_path))["problem"].to_pylist() == [
        "",
        "missing_file: a link that leads to no file",
    ]


def test_a_name_that_is_not_text_is_an_input_that_cannot_be_read(tmp_path: Path) -> None:
    with open(os.fsencode(tmp_path) + b"/\xff.jpg", "wb"):
        pass
    table = list_source(str(tmp_path))
    assert table["name"].to_pylist() == ["\\xff.jpg"]
    assert "not UTF-8" in table["problem"][0].as_py()


def test_the_files_of_an_ome_zarr_are_one_input(tmp_path: Path) -> None:
    write(tmp_path, "a.ome.zarr/.zattrs", "a.ome.zarr/0/0.0", "b.jpg", "x/c.zarr/0/.zarray")
    table = list_source(str(tmp_path))
    assert table["name"].to_pylist() == ["a.ome.zarr", "b.jpg", "x/c.zarr"]
    assert table["folder"].to_pylist() == [True, False, True]
    (alone,) = raw_files(list_source(str(tmp_path / "a.ome.zarr")))
    with opened(alone) as members:
        assert {name: source[:] for name, source in members.items()} == {
            ".zattrs": b"a.ome.zarr/.zattrs",
            "0/0.0": b"a.ome.zarr/0/0.0",
        }


@pytest.mark.parametrize("ending", [".tar", ".tar.gz", ".tgz"])
def test_members_of_a_tar_are_inputs(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"raw{ending}"
    with tarfile.open(path, "w:gz" if ending != ".tar" else "w") as tar:
        for name in ("cat/1.jpg", "dog/2.jpg", "cat/1.jpg"):
            info = tarfile.TarInfo(name)
            info.size = len(name)
            tar.addfile(info, io.BytesIO(name.encode()))
        tar.addfile(_link("link.jpg", "cat/1.jpg"))
    table = list_source(str(path), labels="parent")
    assert table["member"].to_pylist() == ["cat/1.jpg", "dog/2.jpg", "cat/1.jpg#2", "link.jpg"]
    assert [bool(text) for text in table["problem"].to_pylist()] == [False] * 3 + [True]
    for file in raw_files(table.slice(0, 2)):
        with opened(file) as source:
            assert source[:] == file.member.encode()


def _link(name: str, target: str) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = tarfile.SYMTYPE, target
    return info


def test_a_list_gives_labels_metadata_and_segments(tmp_path: Path) -> None:
    write(tmp_path, "v/1.mp4", "v/2.mp4")
    rows = [
        {"path": "v/2.mp4", "kind": "b", "start": 3, "end": 4.5, "site": 7},
        {"path": "v/2.mp4", "kind": "b", "start": 1, "end": 2, "site": 7},
        {"path": "v/1.mp4", "kind": "a", "site": None},
        {"path": "v/3.mp4", "kind": "a"},
    ]
    (tmp_path / "list.jsonl").write_text("\n".join(map(json.dumps, rows)))
    table = list_source(str(tmp_path / "list.jsonl"), labels="kind")
    one, two, gone = raw_files(table)
    assert (one.path, one.label, one.segments) == ("v/1.mp4", "a", ())
    assert two.segments == ((1.0, 2.0), (3.0, 4.5))
    assert two.metadata["site"] == 7
    assert (gone.name, table["problem"][2].as_py()) == (
        "v/3.mp4",
        "missing_file: listed, but there is no such file",
    )


@pytest.mark.parametrize("segment", [{"start": 2, "end": 2}, {"start": -1, "end": 2}])
def test_an_empty_segment_is_refused_with_its_row(tmp_path: Path, segment: dict[str, int]) -> None:
    (tmp_path / "list.jsonl").write_text(json.dumps({"path": "1.mp4", **segment}))
    with pytest.raises(ValueError, match=r"list\.jsonl, row 1: the segment"):
        list_source(str(tmp_path / "list.jsonl"))


def test_a_missing_source_and_a_list_without_paths_say_so(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no such file"):
        list_source(str(tmp_path / "nothing"))
    (tmp_path / "list.csv").write_text("name,kind\na,b\n")
    with pytest.raises(ValueError, match="none of them names files"):
        list_source(str(tmp_path / "list.csv"))
