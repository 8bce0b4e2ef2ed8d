"""Records of derived columns: what determined their values, and which parts have them.

A part of a column exists when its `index.parquet` does, which is written after all of its sidecar shards.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from storage.fingerprint import canonical_json, fingerprint
from storage.fs import Store
from storage.snapshots import check_name


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
        return fingerprint(
            {
                "column": self.column,
                "producer": self.producer,
                "version": self.version,
                "parameters": self.parameters,
            }
        )


def column_path(dataset: str, column: str, column_fingerprint: str) -> str:
    """Return the folder of a column; the first 16 digits of the fingerprint name it."""
    return f"datasets/{check_name(dataset)}/columns/{check_name(column)}-{column_fingerprint[:16]}"


def write_column_spec(store: Store, dataset: str, spec: ColumnSpec) -> None:
    """Write `column.json` unless it is there; it never changes."""
    content = {
        "format": 1,
        "column": spec.column,
        "producer": spec.producer,
        "version": spec.version,
        "parameters": spec.parameters,
        "bound": spec.bound,
        "fingerprint": spec.fingerprint,
    }
    folder = column_path(dataset, spec.column, spec.fingerprint)
    store.put_if_absent(f"{folder}/column.json", canonical_json(content))


def list_columns(store: Store, dataset: str) -> list[ColumnSpec]:
    """Return the columns of a dataset, complete or not.

    Raises:
        RuntimeError: a `column.json` does not match its own fingerprint.
    """
    specs = []
    for entry in store.list(f"datasets/{check_name(dataset)}/columns"):
        if not entry.path.endswith("/column.json"):
            continue
        content = json.loads(store.read(entry.path))
        names = ("column", "producer", "version", "parameters", "bound")
        spec = ColumnSpec(*(content[name] for name in names))
        if spec.fingerprint != content["fingerprint"]:
            raise RuntimeError(f"{entry.path}: does not match its own fingerprint. Remove the folder and derive it again.")
        specs.append(spec)
    return specs


def part_state(store: Store, dataset: str, spec: ColumnSpec, part: str) -> str:
    """Return complete or missing."""
    folder = column_path(dataset, spec.column, spec.fingerprint)
    return "complete" if store.exists(f"{folder}/{part}/index.parquet") else "missing"
