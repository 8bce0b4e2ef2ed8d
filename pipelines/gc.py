"""What nothing names is removed: parts of no snapshot, unfinished columns, what dead writers left.

Of a folder the records go first: they are what an interrupted job is continued by, so whatever gc
leaves when it is killed half-way is written again, never taken for complete.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from pipelines.progress import Progress
from storage import local_files
from storage.fs import Entry, Store
from storage.snapshots import PartEntry, check_name, list_snapshots, read_snapshot
from storage.writers import abandoned_files, remove_empty_folder, removing

SHOWN = 100
"Paths that the result lists."
_COLUMN_HOURS = 1.0
"""Age from which a column's folder without its `column.json` is nobody's: a derive that has begun
writes an artefact first."""
_TABLES = {"manifest.parquet", "rejects.parquet", "inputs.parquet"}


@dataclass(slots=True)
class Named:
    """What the snapshots of a dataset name; `refresh` reads those that came since."""

    store: Store
    dataset: str
    parts: dict[str, PartEntry]
    seen: set[int]

    def refresh(self) -> Named:
        """Read the snapshots that were not read yet.

        Raises:
            SnapshotError: one is damaged, so nobody knows what it names.
        """
        for number in list_snapshots(self.store, self.dataset):
            if number not in self.seen:
                snapshot = read_snapshot(self.store, self.dataset, number)
                if snapshot is not None:
                    self.parts.update({entry.part: entry for entry in snapshot.parts})
                    self.seen.add(number)
        return self


def collect(
    store: Store,
    *,
    dry_run: bool = False,
    older_than: float | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Remove what no snapshot and no `column.json` names and no living writer writes.

    Args:
        dry_run: only say what would go.
        older_than: hours since the last write below which a folder is left alone. By default a
            day where no lock tells whether its writer lives (object stores), else 0.

    Returns:
        removed (files), bytes, paths (the first hundred), kept (folders left to their writers).

    Raises:
        SnapshotError: a snapshot is damaged; nothing was removed then.
    """
    names = [Named(store, name, {}, set()).refresh() for name in _datasets(store)]
    gone = abandoned_files(store)
    if gone and not dry_run:
        store.delete_abandoned()
    kept: list[str] = []
    folders = [(named, folder) for named in names for folder in _folders(named)]
    for done, (named, folder) in enumerate(folders, 1):
        if progress:
            progress("collect garbage", done, len(folders))
        nothing = not _unnamed(named, folder)
        if nothing and _is_column(folder) and not dry_run:
            remove_empty_folder(store, folder)
        if nothing and (_is_column(folder) or not _is_unnamed(named, folder)):
            continue
        age = max(older_than or 0.0, _COLUMN_HOURS) if _is_column(folder) else older_than
        with removing(store, folder, age, dry=dry_run) as free:
            if not free:
                kept.append(folder)
                continue
            named.refresh()  # its writer may have committed it just before the lock was free
            gone += _remove(named, folder, dry_run)
    return {
        "removed": len(gone),
        "bytes": sum(entry.size for entry in gone),
        "paths": [entry.path for entry in gone[:SHOWN]],
        "kept": kept,
    }


def _datasets(store: Store) -> list[str]:
    """Return the folders of datasets, with or without a snapshot; others are not ours."""
    names = []
    for name in store.folders("datasets"):
        with suppress(ValueError):
            names.append(check_name(name))
    return names


def _folders(named: Named) -> Iterator[str]:
    """Yield the folders that have one writer each: parts, parts of columns, nameless columns."""
    above = f"datasets/{named.dataset}"
    for part in named.store.folders(f"{above}/parts"):
        yield f"{above}/parts/{part}"
    for column in named.store.folders(f"{above}/columns"):
        for part in named.store.folders(f"{above}/columns/{column}"):
            yield f"{above}/columns/{column}/{part}"
        if not named.store.exists(f"{above}/columns/{column}/column.json"):
            yield f"{above}/columns/{column}"


def _part_of(folder: str) -> str:
    """Return the part that a folder is of."""
    return folder.rpartition("/")[2]


def _is_column(folder: str) -> bool:
    """Say whether a folder is a column's, above those of its parts."""
    return folder.count("/") == 3 and "/columns/" in folder


def _is_unnamed(named: Named, folder: str) -> bool:
    """Say whether nothing names a folder, so that it goes with all that is in it."""
    if _is_column(folder) or _part_of(folder) not in named.parts:
        return True
    column = folder.rpartition("/")[0]
    return "/columns/" in folder and not (
        named.store.exists(f"{column}/column.json")
        and named.store.exists(f"{folder}/index.parquet")
    )


def _unnamed(named: Named, folder: str) -> list[Entry]:
    """Return the files in a folder that nothing names, records first."""
    entries = named.store.list(folder)
    below = {entry.path: entry.path.removeprefix(f"{folder}/") for entry in entries}
    if _is_column(folder):  # the folders of its parts are looked at one by one
        entries = [entry for entry in entries if "/" not in below[entry.path]]
    elif not _is_unnamed(named, folder):
        kept = _named_files(named, folder)
        entries = [entry for entry in entries if below[entry.path] not in kept]
    return sorted(entries, key=lambda entry: ("/records/" not in entry.path, entry.path))


def _named_files(named: Named, folder: str) -> set[str]:
    """Return the files of a named part, or of a complete part of a column."""
    entry = named.parts[_part_of(folder)]
    shards = {str(shard["name"]) for shard in entry.shards}
    if "/columns/" in folder:
        records = {f"records/{name.removesuffix('.tar')}.json" for name in shards}
        return {"index.parquet"} | shards | records
    return _TABLES | shards | {f"records/{name}" for name in entry.records}


def _remove(named: Named, folder: str, dry_run: bool) -> list[Entry]:
    """Remove what nothing names in a folder that nobody writes; returns the files."""
    entries, store = _unnamed(named, folder), named.store
    if dry_run:
        return entries
    records = [entry for entry in entries if "/records/" in entry.path]
    for entry in records:
        store.delete(entry.path)
    _sync(store, records)
    for entry in entries[len(records) :]:
        store.delete(entry.path)
    if _is_column(folder):
        remove_empty_folder(store, folder)  # a derive may just have begun to write into it
    elif _is_unnamed(named, folder):
        store.delete_tree(folder)
    return entries


def _sync(store: Store, removed: list[Entry]) -> None:
    """Make the absence of the records last through a power cut before anything else goes."""
    for folder in {entry.path.rpartition("/")[0] for entry in removed}:
        local = store.local_path(folder)
        if local is not None:
            local_files.sync_folder(local)
