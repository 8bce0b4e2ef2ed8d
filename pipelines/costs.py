"""What a column would cost before it is derived, and whether to store it at all.

A few samples of what is missing are computed, packed and read back; nothing is written.
"""

from __future__ import annotations

import io
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from pipelines.artefacts import (
    artefact_name,
    artefact_path,
    check_artefact,
    read_artefact,
    read_given,
    resolve,
    resolve_all,
)
from pipelines.catalog import open_snapshot
from pipelines.column_codec import pack_array, unpack_array
from pipelines.column_types import Array, Parameters, Stored, frozen_pixels
from pipelines.derive import check_modality
from pipelines.producers import PRODUCERS, column_spec, needed_by
from pipelines.producers_learned import coded_frames
from pipelines.sidecars import SidecarJob, check_tables, read_samples
from preprocessing.kmeans import patch_vectors
from preprocessing.payloads import decode_payload
from storage import tar
from storage.columns import ColumnSpec, part_state
from storage.fs import Store
from storage.snapshots import PartEntry, Snapshot

MEASURED = 4
"Samples that are computed for an estimate, after one that warms up."


@dataclass(frozen=True, kw_only=True, slots=True)
class Cost:
    """What one column would cost."""

    column: str
    fingerprint: str
    samples: int
    "that are missing"
    measured: int
    seconds_per_sample: float
    "CPU, on one thread"
    bytes_per_sample: float
    "in the sidecar, tar headers included"
    read_seconds_per_sample: float
    "CPU of unpacking what was stored"
    online_seconds_per_sample: float
    "CPU of one look computed online, beyond the decoding and the view that training pays anyway"
    seconds: float
    bytes: int
    break_even: float | None
    "epochs from which storing costs less time than computing online; None if it never does"
    advice: str


def estimate(
    store: Store,
    dataset: str,
    columns: Mapping[str, dict[str, Any]],
    *,
    epochs: float = 1.0,
    samples: int = MEASURED,
    artefacts: Mapping[str, bytes] | None = None,
) -> dict[str, dict[str, Any]]:
    """Return for each column what deriving its missing parts would cost; nothing is written.

    Args:
        columns: the parameters asked of each column, as `derive` takes them.
        epochs: how often each sample will be looked at, all experiments together.
        samples: how many are measured.
        artefacts: bytes of weights that are no file.

    Returns:
        For each column the fields of `Cost`.

    Raises:
        ValueError: an unknown column or parameter, or samples that it cannot be made from.
    """
    snapshot = open_snapshot(store, dataset)
    given = artefacts or {}
    return {
        name: asdict(
            _estimate(store, snapshot, column_spec(name, asked), (epochs, samples, given.get(name)))
        )
        for name, asked in columns.items()
    }


def _estimate(
    store: Store, snapshot: Snapshot, spec: ColumnSpec, asked: tuple[float, int, bytes | None]
) -> Cost:
    epochs, count, given = asked
    check_modality(snapshot, spec)
    said, spec = spec, resolve_all(store, snapshot.dataset, spec)
    missing = [
        entry
        for entry in snapshot.parts
        if part_state(store, snapshot.dataset, spec, entry.part) == "missing"
    ]
    total = sum(entry.samples for entry in missing)
    stored = _first(store, snapshot, (missing or list(snapshot.parts))[0], said, count + 1)
    artefact = _artefact(store, snapshot, said, stored, given)
    seconds, anyway, arrays = _timed(spec, stored, artefact)
    looks = spec.parameters.get("draws") or spec.parameters.get("views") or 1
    online = max(seconds - anyway, 0.0) / looks
    packed = [pack_array(array) for array in arrays]
    began = time.process_time()
    for data in packed:
        unpack_array(data)
    read = (time.process_time() - began) / max(len(packed), 1)
    size = float(np.mean([tar.BLOCK + tar.BLOCK * -(-len(data) // tar.BLOCK) for data in packed]))
    return Cost(
        column=spec.column,
        fingerprint=spec.fingerprint,
        samples=total,
        measured=len(packed),
        seconds_per_sample=seconds,
        bytes_per_sample=size,
        read_seconds_per_sample=read,
        seconds=seconds * total,
        bytes=round(size * total),
        online_seconds_per_sample=online,
        break_even=seconds / (online - read) if online > read else None,
        advice=_advice(spec, online * epochs, seconds + read * epochs, epochs),
    )


def _first(
    store: Store, snapshot: Snapshot, entry: PartEntry, spec: ColumnSpec, count: int
) -> list[Stored]:
    """Return the first samples of a part, with the arrays that the column is made from."""
    sources = needed_by(spec)
    plain = replace(spec, producer="hog", parameters=column_spec("hog", {}).parameters)
    job = SidecarJob(
        store.uri,
        snapshot.dataset,
        entry.part,
        entry.manifest_sha256,
        entry.shards[0]["name"],
        0,
        plain,  # of a column that needs no other: the samples alone are read
    )
    check_tables(store, job)
    with ExitStack() as stack:
        found = [stored for _, stored in read_samples(store, job, stack, count)]
    for name, source in sources.items():
        artefact = _artefact(store, snapshot, source, found, None)
        made = PRODUCERS[source.producer].make(found, source.parameters, artefact)
        found = [replace(s, inputs={name: a}) for s, a in zip(found, made, strict=True)]
    return found


def _artefact(
    store: Store, snapshot: Snapshot, spec: ColumnSpec, samples: list[Stored], given: bytes | None
) -> bytes | None:
    """Return a column's artefact; centroids that are not fitted yet are drawn at random."""
    if not artefact_name(spec) or given is not None:
        return given
    found = resolve(store, snapshot.dataset, spec)
    if store.exists(artefact_path(snapshot.dataset, found)):
        return read_artefact(store, snapshot.dataset, found)
    if not PRODUCERS[spec.producer].fitted:
        data = read_given(spec)
        check_artefact(spec, data)
        return data
    frames = next(coded_frames(samples[0], spec.parameters))
    width = patch_vectors(frames, spec.parameters["patch"]).shape[1]
    buffer = io.BytesIO()
    np.save(buffer, np.random.default_rng(0).random((spec.parameters["codes"], width)))
    return buffer.getvalue()


def _timed(
    spec: ColumnSpec, stored: list[Stored], artefact: bytes | None
) -> tuple[float, float, list[Array]]:
    """Return the CPU seconds a sample, those of them that training pays anyway, and the arrays.

    One sample goes before, to warm up.
    """
    producer, measured = PRODUCERS[spec.producer], stored[1:] or stored
    list(producer.make(stored[:1], spec.parameters, artefact))
    began = time.process_time()
    arrays = list(producer.make(measured, spec.parameters, artefact))
    made = time.process_time()
    if producer.decodes:
        for sample in measured:
            _look(sample, spec.parameters)
    seen = time.process_time()
    return (made - began) / len(measured), (seen - made) / len(measured), arrays


def _look(stored: Stored, parameters: Parameters) -> None:
    """Do what training does before any target: decode a sample, and show its frozen views."""
    if "view" not in parameters:
        decode_payload(stored.ext, stored.payload)
        return
    for _ in frozen_pixels(stored, parameters):
        pass


def _advice(spec: ColumnSpec, online: float, stored: float, epochs: float) -> str:
    """Say whether to store a column that costs so many seconds a sample in so many epochs."""
    if not PRODUCERS[spec.producer].online:
        return f"store: training reads {spec.column} from its column, and does not make it"
    costs = (
        f"{epochs:g} epochs cost {1000 * online:.2f} ms a sample computed each time, "
        f"{1000 * stored:.2f} ms stored"
    )
    return f"{'online' if online <= stored else 'store'}: {costs}"
