"""Records of columns: what is in a fingerprint, what exists, what is damaged."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from storage.columns import (
    ColumnError,
    ColumnSpec,
    column_path,
    index_path,
    list_columns,
    part_state,
    write_column_spec,
)
from storage.fs import Store, open_store

HOG = ColumnSpec("hog", "maskfeat_hog", 1, {"cell": 8, "bins": 9}, "exact")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(tmp_path)


def test_a_fingerprint_holds_what_determines_values() -> None:
    assert replace(HOG, bound="within 1e-3").fingerprint == HOG.fingerprint
    changes = [
        {"column": "hog2"},
        {"producer": "x"},
        {"version": 2},
        {"parameters": {"cell": 8}},
        {"parameters": {"cell": 8.0, "bins": 9}},
    ]
    assert len({replace(HOG, **change).fingerprint for change in changes} | {HOG.fingerprint}) == 6


def test_columns_are_listed_and_exist_by_their_index(store: Store) -> None:
    other = replace(HOG, parameters={"cell": 16})
    for spec in (HOG, other, HOG):
        write_column_spec(store, "cells", spec)
    listed = {spec.fingerprint: spec for spec in list_columns(store, "cells")}
    assert listed == {HOG.fingerprint: HOG, other.fingerprint: other}
    assert list_columns(store, "nothing") == []
    assert part_state(store, "cells", HOG, "p1") == "missing"
    store.write(f"{column_path('cells', 'hog', HOG.fingerprint)}/p1/shard-000000.tar", b"")
    assert part_state(store, "cells", HOG, "p1") == "missing"
    store.write(index_path("cells", HOG, "p1"), b"")
    assert part_state(store, "cells", HOG, "p1") == "complete"
    assert part_state(store, "cells", other, "p1") == "missing"


def test_folders_without_a_record_are_no_columns(store: Store) -> None:
    store.write(f"{column_path('cells', 'hog', HOG.fingerprint)}/p1/index.parquet", b"")
    store.write("datasets/cells/columns/notes/column.json", b"{}")
    assert list_columns(store, "cells") == []


def test_any_changed_byte_of_a_record_is_found(store: Store, tmp_path: Path) -> None:
    write_column_spec(store, "cells", HOG)
    place = tmp_path / column_path("cells", "hog", HOG.fingerprint) / "column.json"
    good = place.read_bytes()
    for position in range(len(good)):
        place.write_bytes(good[:position] + bytes([good[position] ^ 1]) + good[position + 1 :])
        if b"exact" not in place.read_bytes():
            continue  # the words of the bound determine no value
        for use in (
            lambda: list_columns(store, "cells"),
            lambda: write_column_spec(store, "cells", HOG),
        ):
            with pytest.raises(ColumnError, match=r"column\.json: "):
                use()


def test_a_moved_record_is_refused(store: Store) -> None:
    write_column_spec(store, "cells", HOG)
    data = store.read(f"{column_path('cells', 'hog', HOG.fingerprint)}/column.json")
    store.write(f"{column_path('cells', 'hog', '0' * 64)}/column.json", data)
    with pytest.raises(ColumnError, match="damaged or moved"):
        list_columns(store, "cells")
