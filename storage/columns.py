"""Records of derived columns: what determined their values, and which parts have them.

A part of a column exists when its `index.parquet` does, which is written after all of its sidecars.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

from storage.fingerprint import canonical_json, fingerprint
from storage.fs import Store
from storage.snapshots import check_name

FORMAT = 1
_FOLDER = re.compile(r".+-[0-9a-f]{16}")
_FIELDS = ("column", "producer", "version", "parameters", "bound")


class ColumnError(RuntimeError):
    """A record of a column that is damaged or belongs to another column."""


@dataclass(frozen=True, slots=True)
class ColumnSpec:
    """Everything that, with a part, determines the values of a column."""

    column: str
    producer: str
    version: int
    parameters: dict[str, Any]
    bound: str
    "how far a stored value may lie from the computed one, in words; not part of the fingerprint"

    @property
    def fingerprint(self) -> str:
        """SHA-256 over column, producer, version and parameters."""
        return fingerprint({name: getattr(self, name) for name in _FIELDS if name != "bound"})

    def to_json(self) -> bytes:
        """Return the bytes of `column.json`."""
        content = {name: getattr(self, name) for name in _FIELDS}
        content |= {"format": FORMAT, "fingerprint": self.fingerprint}
        return canonical_json({**content, "checksum": fingerprint(content)})


def column_path(dataset: str, column: str, column_fingerprint: str) -> str:
    """Return the folder of a column; the first 16 digits of the fingerprint name it."""
    return f"{_columns_path(dataset)}/{check_name(column)}-{column_fingerprint[:16]}"


def index_path(dataset: str, spec: ColumnSpec, part: str) -> str:
    """Return the path of the index of a part of a column."""
    folder = column_path(dataset, spec.column, spec.fingerprint)
    return f"{folder}/{check_name(part)}/index.parquet"


def _columns_path(dataset: str) -> str:
    return f"datasets/{check_name(dataset)}/columns"


def write_column_spec(store: Store, dataset: str, spec: ColumnSpec) -> None:
    """Write `column.json` unless it is there; it never changes.

    Raises:
        ColumnError: the one that is there is damaged or another column's.
    """
    folder = column_path(dataset, spec.column, spec.fingerprint)
    path = f"{folder}/column.json"
    store.delete_abandoned(folder)  # of one that was killed as it wrote
    if store.put_if_absent(path, spec.to_json()):
        return
    there = _parse(store.read(path), path)
    if there.fingerprint != spec.fingerprint:
        raise ColumnError(
            f"{path}: is of fingerprint {there.fingerprint}, wanted {spec.fingerprint}. "
            f"Remove the folder with 'headrace gc', or by hand, and derive {spec.column} again."
        )


def list_columns(store: Store, dataset: str) -> list[ColumnSpec]:
    """Return the columns of a dataset that have a `column.json`, complete or not.

    Raises:
        ColumnError: a `column.json` is damaged.
    """
    specs = []
    for folder in store.folders(_columns_path(dataset)):
        path = f"{_columns_path(dataset)}/{folder}/column.json"
        try:
            data = store.read(path) if _FOLDER.fullmatch(folder) else None
        except FileNotFoundError:
            continue
        if data is not None:
            specs.append(_parse(data, path))
    return specs


def _parse(data: bytes, path: str) -> ColumnSpec:
    """Return the column whose record these bytes are, every one of them."""
    try:
        content = json.loads(data)
        version = content["format"]
        if version != FORMAT:
            raise ColumnError(
                f"{path}: has format {version}, this version reads {FORMAT}. Update headrace."
            )
        spec = ColumnSpec(*(content[name] for name in _FIELDS))
        same = spec.to_json() == data
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ColumnError(
            f"{path}: not a column's record ({error}). Derive the column again."
        ) from error
    folder = path.split("/")[-2]
    if not same or folder != f"{spec.column}-{spec.fingerprint[:16]}":
        raise ColumnError(
            f"{path}: does not match its own fingerprint or its folder. It was damaged or moved; "
            "remove the folder and derive the column again."
        )
    return spec


def part_state(store: Store, dataset: str, spec: ColumnSpec, part: str) -> str:
    """Return complete or missing."""
    return "complete" if store.exists(index_path(dataset, spec, part)) else "missing"
