"""Payloads of samples and of their columns, read by place and verified; shards stay open."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pipelines.cache import Cached, cache_of_environment
from pipelines.rows import ShardRows, place_of
from pipelines.values import Values
from storage.fs import Store
from storage.shards import ShardError, ShardReader

OPEN_SHARDS = 64
"How many shards a process keeps open; of a cache, as many are in use."
Read = Callable[[int, int, int], bytes | None]


class Members:
    """Reads members of the shards of one stream; keeps these open, remote ones in the cache."""

    def __init__(self, store_uri: str, dataset: str, rows: Sequence[ShardRows]) -> None:
        self.store_uri, self.dataset, self.rows = store_uri, dataset, rows
        self.cache = cache_of_environment()
        self._readers: dict[str, ShardReader] = {}
        self._cached: dict[str, Cached] = {}
        self._places: dict[int, tuple[Read, Values, Values, Values]] = {}
        "of shards that are open: how to read, offsets, sizes and checksums"
        self._verified = 0.0

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_readers": {}, "_cached": {}, "_places": {}}

    @property
    def verifying(self) -> float:
        """Seconds spent on checksums so far."""
        return self._verified + sum(reader.verifying for reader in self._readers.values())

    def payload(self, shard: int, row: int) -> bytes:
        """Return the payload of a sample.

        Raises:
            ShardError: it is missing or damaged. Names the sample.
        """
        places = self._places.get(shard)
        if places is None:
            places = self._open(shard)
        read, offsets, sizes, checksums = places
        data = read(offsets[row], sizes[row], checksums[row])
        if data is not None:
            return data
        entry = self.rows[shard]
        return self._read(f"{entry.folder}/{entry.shard}", entry.row(row), self.where(shard))

    def column(self, shard: int, row: int, name: str) -> bytes:
        """Return a sample's member of a column; errors as of `payload`."""
        path = self.rows[shard].columns[name][0]
        return self._read(path, self.rows[shard].column_row(name, row), path)

    def where(self, shard: int) -> str:
        """Return what errors call a shard."""
        return f"{self.dataset}/{self.rows[shard].shard}"

    def _open(self, shard: int) -> tuple[Read, Values, Values, Values]:
        entry = self.rows[shard]
        reader = self._reader(f"{entry.folder}/{entry.shard}", self.where(shard))
        values = entry.values()
        self._places[shard] = reader.sound, values["offset"], values["size"], values["checksum"]
        return self._places[shard]

    def _read(self, path: str, fields: Mapping[str, Any], where: str) -> bytes:
        try:
            return self._reader(path, where).read(*place_of(fields), fields["key"])
        except ShardError:
            if path not in self._cached:
                raise
            return self._reader_again(path, where).read(*place_of(fields), fields["key"])

    def _reader(self, path: str, where: str) -> ShardReader:
        """Return a reader of a shard; of a remote one, through the cache if there is one."""
        reader = self._readers.get(path)
        if reader is not None:
            return reader
        while len(self._readers) >= OPEN_SHARDS:
            self._close(next(iter(self._readers)))
        store = Store(self.store_uri)
        if self.cache is not None and store.local_path(path) is None:
            found = self.cache.fetch(store, path)
            if found is not None:
                self._cached[path] = found
                here = Store(str(found.path.parent))
                self._readers[path] = ShardReader(here, found.path.name, where)
                return self._readers[path]
        self._readers[path] = ShardReader(store, path, where)
        return self._readers[path]

    def _reader_again(self, path: str, where: str) -> ShardReader:
        """Return a reader of the store's own file, after the cache's copy proved damaged."""
        self._close(path)
        if self.cache is not None:
            self.cache.forget(Store(self.store_uri), path)
        self._readers[path] = ShardReader(Store(self.store_uri), path, where)
        return self._readers[path]

    def _close(self, path: str) -> None:
        self._places.clear()
        reader = self._readers.pop(path)
        self._verified += reader.verifying
        reader.close()
        if path in self._cached:
            self._cached.pop(path).close()
