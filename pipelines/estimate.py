"""What an ingest would do and cost, before it is done: a listing of all files, a probe of some.

The listing and the grouping are those of the ingest, so files, units and what fits no unit are
exact. What decoding gives is measured on a sample of the units, spread over their sizes, and
extrapolated by bytes: samples, shard bytes, seconds and rejects. Nothing is written.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipelines.encode import encode_unit
from pipelines.grouping import Unit, Units
from pipelines.hashing import content_hash
from pipelines.ingest_spec import IngestSpec
from pipelines.keys import sample_key
from pipelines.listing import list_sources, raw_files
from pipelines.plan import cut_chunks, group_inputs
from pipelines.progress import Progress
from pipelines.raw import opened, refusal_of
from pipelines.worker import use_one_thread
from preprocessing.errors import DecodeError
from storage import tar
from storage.fingerprint import canonical_json, checksum, sha256_hex

PROBED_UNITS, PROBED_SECONDS = 64, 20.0
_END_BYTES = 2 * tar.BLOCK + tar.RECORD // 2
"What the end of a shard takes on average."
SHOWN = 100
"Refused files that the result lists."


@dataclass(frozen=True, slots=True)
class Probe:
    """What became of one unit, and what it cost."""

    place: int
    "the unit's place in order of size"
    raw: int
    "its bytes"
    samples: int = 0
    payload: int = 0
    "bytes of its samples"
    packed: int = 0
    "bytes that these take in a shard"
    encode_seconds: float = 0.0
    "CPU of decoding, encoding and packing"
    hash_seconds: float = 0.0
    rejects: tuple[tuple[str, str, str], ...] = ()
    "(uri, reason class, detail) of its files, if it is refused"


@dataclass(slots=True)
class _Budget:
    """What a probe may cost."""

    units: int
    deadline: float
    done: list[Probe] = field(default_factory=list)

    def is_spent(self) -> bool:
        return len(self.done) >= self.units or time.monotonic() > self.deadline


def estimate(
    sources: Sequence[str],
    spec: IngestSpec,
    *,
    workers: int = 1,
    units: int = PROBED_UNITS,
    seconds: float = PROBED_SECONDS,
    seed: int = 0,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Say what an ingest of the sources would do, and what it would cost.

    Args:
        workers: processes that the ingest would have; the time is divided by them.
        units: how many units the probe encodes at most.
        seconds: how long it may take; half as long again to count the clips of more videos.
        seed: which units are taken.

    Returns:
        files, units, samples, shards, bytes (of the shards), raw_bytes, rejects (files), reasons
        (found in the listing and the probe, by class), refused (the first hundred of these: uri,
        reason_class, detail), seconds (with the hashing of every input, which comes first),
        hash_seconds, encode_seconds, workers, probed (units, files, seconds, rejects) and
        exact (whether every unit was probed).

    Raises:
        FileNotFoundError: a source does not exist.
        ValueError: a bad pattern, or a list without the columns that are asked for.
    """
    listing = list_sources(sources, labels=spec.labels)
    blank = pa.array([""] * len(listing), pa.string())
    grouped, refused = group_inputs(listing.append_column("content_hash", blank), spec)
    sizes = np.maximum(listing["size"].to_numpy(), 0)[grouped.rows].sum(axis=1)
    began = time.monotonic()
    probes = _probe(listing, grouped, sizes, spec, _Budget(units, began + seconds), seed, progress)
    if spec.modality == "video":
        deadline = time.monotonic() + seconds / 2
        counted = _count_clips(listing, grouped, sizes, spec, probes, deadline)
    else:
        counted = probes
    spread = _Spread.of(np.sort(sizes), counted)
    named = [(r["uri"], r["reason_class"], r["detail"]) for r in refused.to_pylist()]
    named += [reject for probe in counted for reject in probe.rejects]
    width = grouped.rows.shape[1]
    encode, hashing = spread.total("encode_seconds"), spread.total("hash_seconds")
    shards = _shards(sizes, spread, spec)
    return {
        "files": len(listing),
        "units": len(grouped),
        "samples": round(spread.total("samples")),
        "shards": shards,
        "bytes": round(spread.total("packed")) + shards * _END_BYTES,
        "raw_bytes": int(sizes.sum()),
        "rejects": len(refused) + round(width * spread.refused()),
        "reasons": dict(sorted(Counter(reason for _, reason, _ in named).items())),
        "refused": [
            dict(zip(("uri", "reason_class", "detail"), row, strict=True)) for row in named[:SHOWN]
        ],
        "seconds": round((encode + hashing) / workers, 2),
        "encode_seconds": round(encode / workers, 2),
        "hash_seconds": round(hashing / workers, 2),
        "workers": workers,
        "probed": {
            "units": len(probes),
            "files": len(probes) * width,
            "rejects": sum(len(probe.rejects) for probe in probes),
            "seconds": round(time.monotonic() - began, 2),
        },
        "exact": len(probes) == len(grouped),
    }


def _probe(
    listing: pa.Table,
    grouped: Units,
    sizes: NDArray[np.int64],
    spec: IngestSpec,
    budget: _Budget,
    seed: int,
    progress: Progress | None,
) -> list[Probe]:
    """Encode some units, one of each stratum of size, until the budget is spent."""
    use_one_thread()
    by_size = np.argsort(sizes, kind="stable")
    places = _places(len(by_size), budget.units, seed)
    for place in places:
        if budget.is_spent() and budget.done:
            break
        unit = _unit_at(listing, grouped, int(by_size[place]))
        probe = _measure(unit, place, spec, budget)
        if probe is not None:
            budget.done.append(probe)
        if progress:
            progress("probe files", len(budget.done), len(places))
    return sorted(budget.done, key=lambda probe: probe.place)


def _places(count: int, wanted: int, seed: int) -> list[int]:
    """Return which units to probe, in order of size: one of each stratum, the smallest first and
    then spread over all, so that a probe that is cut short has seen all sizes."""
    wanted = min(count, wanted)
    if not wanted:
        return []
    edges = np.linspace(0, count, wanted + 1).astype(np.int64)
    rng = np.random.default_rng(seed)
    places = rng.integers(edges[:-1], edges[1:])
    bits = max(wanted - 1, 1).bit_length()
    spread = sorted(range(wanted), key=lambda i: int(f"{i:0{bits}b}"[::-1], 2))
    return [int(places[i]) for i in spread]


def _unit_at(listing: pa.Table, grouped: Units, index: int) -> Unit:
    fields = grouped.fields[index] if grouped.fields else {}
    files = tuple(raw_files(listing.take(grouped.rows[index])))
    return Unit(files, grouped.channels, fields)


def _measure(unit: Unit, place: int, spec: IngestSpec, budget: _Budget) -> Probe | None:
    """Encode a unit as an ingest does; None for one that would take more time than there is."""
    raw = sum(max(file.size, 0) for file in unit.files)
    samples = payload = packed = 0
    began = time.process_time()
    try:
        hashes = [content_hash(file) for file in unit.files]
        hashed = time.process_time()
        with ExitStack() as stack:
            sources = [stack.enter_context(opened(file)) for file in unit.files]
            for size, whole in _sizes(unit, sources, spec, hashes[0]):
                samples, payload, packed = samples + 1, payload + size, packed + whole
                if time.monotonic() > budget.deadline and budget.done:
                    return None
    except (DecodeError, OSError) as error:
        reason, detail = _reason(error)
        rejects = tuple((file.uri, reason, detail) for file in unit.files)
        return Probe(place, raw, encode_seconds=time.process_time() - began, rejects=rejects)
    took = time.process_time() - hashed
    return Probe(place, raw, samples, payload, packed, took, hashed - began)


def _count_clips(
    listing: pa.Table,
    grouped: Units,
    sizes: NDArray[np.int64],
    spec: IngestSpec,
    probes: list[Probe],
    deadline: float,
) -> list[Probe]:
    """Count the clips of more videos by their packets, as videos of one size differ much in
    length; what a clip costs is that of the encoded ones."""
    by_size = np.argsort(sizes, kind="stable")
    known = {probe.place: probe for probe in probes}
    for place in _places(len(by_size), len(by_size), 0):
        if time.monotonic() > deadline:
            break
        if place not in known:
            unit = _unit_at(listing, grouped, int(by_size[place]))
            known[place] = _counted(unit, place, spec, probes)
    return [known[place] for place in sorted(known)]


def _counted(unit: Unit, place: int, spec: IngestSpec, probes: list[Probe]) -> Probe:
    """Return what a video would give, from the number of its clips."""
    from pipelines.encode_video import count_clips

    file = unit.files[0]
    try:
        with opened(file) as source:
            clips = count_clips(unit, source, spec)
    except (DecodeError, OSError) as error:
        return Probe(place, file.size, rejects=((file.uri, *_reason(error)),))
    encoded = max(sum(probe.samples for probe in probes), 1)
    share, bytes_share = clips / encoded, file.size / max(sum(p.raw for p in probes), 1)
    return Probe(
        place,
        file.size,
        clips,
        round(share * sum(probe.payload for probe in probes)),
        round(share * sum(probe.packed for probe in probes)),
        share * sum(probe.encode_seconds for probe in probes),
        bytes_share * sum(probe.hash_seconds for probe in probes),
    )


def _reason(error: DecodeError | OSError) -> tuple[str, str]:
    if isinstance(error, DecodeError):
        return error.reason_class, error.detail
    return refusal_of(error)


def _sizes(
    unit: Unit, sources: list[Any], spec: IngestSpec, digest: str
) -> Iterator[tuple[int, int]]:
    """Yield the bytes of each sample, and those that it takes in a shard, having done the work."""
    for index, sample in enumerate(encode_unit(unit, sources, spec)):
        key = sample_key(unit, digest, index)
        metadata = canonical_json({**sample.metadata, "label": unit.files[0].label})
        total = 0
        members = ((sample.encoded.ext, sample.encoded.payload), ("json", metadata))
        for ext, data in members:
            checksum(data), sha256_hex(data)
            header = tar.header(f"{key}.{ext}", len(data))
            total += len(header) + len(data) + len(tar.padding(len(data)))
        yield len(sample.encoded.payload), total


@dataclass(frozen=True, slots=True)
class _Spread:
    """Probes, and the units and bytes that each stands for."""

    probes: list[Probe]
    ends: NDArray[np.int64]
    "for each probe the place after the last unit, in order of size, that it stands for"
    units: NDArray[np.int64]
    raw: NDArray[np.int64]

    @classmethod
    def of(cls, sizes: NDArray[np.int64], probes: list[Probe]) -> _Spread:
        """Let each probe stand for the units around it."""
        if not probes:
            none = np.zeros(0, np.int64)
            return cls([], none, none, none)
        places = np.array([probe.place for probe in probes])
        ends = np.append((places[:-1] + places[1:]) // 2 + 1, len(sizes))
        starts = np.append(0, ends[:-1])
        bytes_before = np.append(0, np.cumsum(sizes))
        return cls(probes, ends, ends - starts, bytes_before[ends] - bytes_before[starts])

    def total(self, name: str) -> float:
        """Return a sum over all units: each probe's value, by bytes or, for what is one a unit,
        by units."""
        values = np.array([getattr(probe, name) for probe in self.probes], np.float64)
        return float((values * self._scale(name)).sum())

    def _scale(self, name: str) -> NDArray[np.float64]:
        """Return how many times each probe's value counts."""
        raw = np.array([probe.raw for probe in self.probes], np.float64)
        by_bytes = np.where(raw > 0, self.raw / np.maximum(raw, 1), self.units)
        one_each = name == "samples" and all(probe.samples <= 1 for probe in self.probes)
        return self.units.astype(np.float64) if one_each else by_bytes

    def refused(self) -> float:
        """Return how many units would be refused."""
        return float(
            sum(n for n, probe in zip(self.units, self.probes, strict=True) if probe.rejects)
        )

    def payload_of(
        self, places: NDArray[np.int64], sizes: NDArray[np.int64]
    ) -> NDArray[np.float64]:
        """Return the payload bytes that each unit would give, from its place in order of size."""
        share = np.array([probe.payload / max(probe.raw, 1) for probe in self.probes], np.float64)
        return share[np.searchsorted(self.ends, places, side="right")] * sizes


def _shards(sizes: NDArray[np.int64], spread: _Spread, spec: IngestSpec) -> int:
    """Return how many shards the units would fill, by the ingest's own rule."""
    if not len(sizes) or not spread.probes:
        return 0
    raw = spec.shard_bytes(int(sizes.sum()))
    most = spec.overflow_bytes(raw)
    places = np.empty(len(sizes), np.int64)
    places[np.argsort(sizes, kind="stable")] = np.arange(len(sizes))
    payload = spread.payload_of(places, sizes)
    in_chunks = np.add.reduceat(payload, cut_chunks(sizes, raw)[:-1])
    return int(np.maximum(np.ceil(in_chunks / most), in_chunks > 0).sum())
