"""Large files read piece by piece: their SHA-256, and tables by row groups.

A manifest of 10^7 rows takes gigabytes in memory; a row group takes tens of megabytes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa
from pyarrow import parquet

from storage.fs import Store
from storage.manifest import DIGESTS, FORMAT, Digest, ManifestError

_PIECE = 1 << 23


def file_sha256(store: Store, path: str) -> str:
    """Return the SHA-256 of a file as 64 hex digits.

    Raises:
        FileNotFoundError: there is no such file.
    """
    digest = hashlib.sha256()
    size = store.size(path)
    for offset in range(0, size, _PIECE):
        digest.update(store.read_range(path, offset, min(_PIECE, size - offset)))
    return digest.hexdigest()


class TableFile:
    """A table that is read by row groups; it must be closed, or used in a `with`.

    Nothing is checked on opening: `check` compares every value with the digests in the file.
    """

    def __init__(self, store: Store, path: str) -> None:
        """Open a table.

        Raises:
            ManifestError: missing, or no table of ours.
        """
        self.path = path
        local = store.local_path(path)
        try:
            self._source = (
                pa.OSFile(str(local), "rb") if local is not None else store.open_remote_file(path)
            )
            self._file = parquet.ParquetFile(self._source, page_checksum_verification=True)
            record = json.loads(self._file.metadata.metadata[DIGESTS])
            self.digests: dict[str, str] = dict(record["columns"])
            self.rows = int(record["rows"])
            self.of = str(record.get("of", ""))
            version = record["format"]
        except FileNotFoundError as error:
            raise ManifestError(f"{path}: the file is missing.") from error
        except (pa.ArrowException, OSError, ValueError, KeyError, TypeError) as error:
            raise ManifestError(f"{path}: not a readable table of ours ({error}).") from error
        if version != FORMAT:
            raise ManifestError(f"{path}: has format {version}, this version reads {FORMAT}.")

    def groups(self, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
        """Yield the row groups.

        Raises:
            ManifestError: one cannot be read.
        """
        for number in range(self._file.num_row_groups):
            yield self._group(number, columns)

    def _group(self, number: int, columns: Sequence[str] | None) -> pa.Table:
        wanted = list(columns) if columns is not None else None
        try:
            return self._file.read_row_group(number, columns=wanted)
        except (pa.ArrowException, OSError, ValueError, OverflowError, MemoryError) as error:
            raise ManifestError(f"{self.path}: row group {number} is damaged ({error}).") from error

    def check(self) -> None:
        """Compare the number of rows and every value with the digests in the file, and with the
        statistics by which `rows_of_shard` finds its way.

        Raises:
            ManifestError: they differ.
        """
        kinds = {field.name: field.type for field in self._file.schema_arrow}
        if set(kinds) != set(self.digests) or self._file.metadata.num_rows != self.rows:
            raise ManifestError(
                f"{self.path}: has {self._file.metadata.num_rows} rows of {len(kinds)} columns, "
                f"was written with {self.rows} of {len(self.digests)}."
            )
        digests = {name: Digest(kind) for name, kind in kinds.items()}
        for number, group in enumerate(self.groups()):
            for name, digest in digests.items():
                digest.feed(group[name])
            self._check_statistics(number, group)
        for name, digest in digests.items():
            if digest.hexdigest() != self.digests[name]:
                raise ManifestError(f"{self.path}: values of column {name!r} are damaged.")

    def _check_statistics(self, number: int, group: pa.Table) -> None:
        if "shard" not in group.column_names or not len(group):
            return
        from pyarrow import compute  # 4 MB that a feed does not need

        found = compute.min_max(group["shard"])
        for bound in ("min", "max"):
            if not self._may_hold(number, found[bound].as_py()):
                raise ManifestError(f"{self.path}: statistics of row group {number} are damaged.")

    def rows_of_shard(self, position: int, columns: Sequence[str]) -> pa.Table:
        """Return the rows whose column `shard` is a position; the others are hardly read."""
        from pyarrow import compute  # as above

        found = [self._file.schema_arrow.empty_table().select(list(columns))]
        for number in range(self._file.num_row_groups):
            if not self._may_hold(number, position):
                continue
            group = self._group(number, [*columns, "shard"])
            found.append(group.filter(compute.equal(group["shard"], position)).select(columns))
        return pa.concat_tables(found)

    def _may_hold(self, number: int, position: int) -> bool:
        """Say whether a row group can hold rows of a shard, by its statistics."""
        try:
            return _may_hold(self._file.metadata.row_group(number), position)
        except (pa.ArrowException, ValueError) as error:
            raise ManifestError(
                f"{self.path}: statistics of row group {number} are damaged ({error})."
            ) from error

    def close(self) -> None:
        """Close the file."""
        self._source.close()

    def __enter__(self) -> TableFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _may_hold(group: Any, position: int) -> bool:
    """Say whether a row group can hold rows of a shard, by the statistics of that column."""
    known = next(
        (
            group.column(i).statistics
            for i in range(group.num_columns)
            if group.column(i).path_in_schema == "shard"
        ),
        None,
    )
    return known is None or not known.has_min_max or known.min <= position <= known.max
