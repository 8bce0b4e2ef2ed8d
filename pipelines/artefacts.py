"""What some columns are looked through: centroids fitted to a dataset, weights that were given.

An artefact lies in its column's folder and is named, by the SHA-256 of its bytes, among the
column's parameters. So a column stays a pure function of part, code version and parameters; new
data get the same centroids and weights as old data, even where the file they came from is gone.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.column_types import Parameters, Stored
from pipelines.keys import sample_id
from pipelines.producers import PRODUCERS, needed_by
from pipelines.producers_learned import coded_frames
from preprocessing.kmeans import fit_centroids, patch_vectors
from preprocessing.randomness import generator
from storage.columns import ColumnSpec, column_path, list_columns
from storage.fingerprint import sha256_hex
from storage.fs import Store
from storage.manifest import read_table
from storage.shards import ShardReader
from storage.snapshots import Snapshot, part_path

NAME = "artefact.bin"
_HASH = re.compile(r"[0-9a-f]{64}")


class ArtefactError(ValueError):
    """An artefact is missing, ambiguous, or not the one that a column names."""


def artefact_name(spec: ColumnSpec) -> str:
    """Return the parameter that names a column's artefact; empty if it has none."""
    producer = PRODUCERS[spec.producer]
    return producer.artefact if producer.wants_artefact(spec.parameters) else ""


def artefact_path(dataset: str, spec: ColumnSpec) -> str:
    """Return where a column's artefact lies."""
    return f"{column_path(dataset, spec.column, spec.fingerprint)}/{NAME}"


def read_artefact(store: Store, dataset: str, spec: ColumnSpec) -> bytes | None:
    """Return a column's artefact, checked; None if it needs none.

    Raises:
        ArtefactError: it is damaged, or another one.
    """
    name = artefact_name(spec)
    if not name:
        return None
    path = artefact_path(dataset, spec)
    data = store.read(path)
    if sha256_hex(data) != spec.parameters[name]:
        raise ArtefactError(
            f"{path}: is not the {name} that the column names ({spec.parameters[name][:12]}…). It "
            f"was damaged; remove the column's folder and derive {spec.column} again."
        )
    return data


def resolve(store: Store, dataset: str, spec: ColumnSpec) -> ColumnSpec:
    """Return a column with its artefact named by hash, as the store or a file knows it.

    An empty name takes the one column of the store that is otherwise the same.

    Raises:
        ArtefactError: none is there, or several are.
    """
    name = artefact_name(spec)
    if not name or _HASH.fullmatch(spec.parameters[name]):
        return spec
    given = spec.parameters[name]
    if given:
        return _named(spec, name, sha256_hex(_read_file(spec.column, name, given)))
    known = sorted(
        other.parameters[name]
        for other in list_columns(store, dataset)
        if other.column == spec.column
        and other.version == spec.version
        and _named(other, name, "").parameters == spec.parameters
    )
    if len(known) == 1:
        return _named(spec, name, known[0])
    if known:
        raise ArtefactError(
            f"column {spec.column} of {dataset}: {name} is not said, and the store has several: "
            f"{', '.join(h[:16] + '…' for h in known)}. Say which, {spec.column}.{name}=HASH."
        )
    return spec


def resolve_all(store: Store, dataset: str, spec: ColumnSpec) -> ColumnSpec:
    """Return `resolve` of a column, its inputs' artefacts named too."""
    for source in needed_by(spec).values():
        found = resolve(store, dataset, source)
        spec = with_input(spec, found)
    return resolve(store, dataset, spec)


def with_input(spec: ColumnSpec, source: ColumnSpec) -> ColumnSpec:
    """Return a column that is made from exactly this other one."""
    return _named(spec, "input", {**source.parameters, "version": source.version})


def _named(spec: ColumnSpec, name: str, value: Any) -> ColumnSpec:
    return replace(spec, parameters={**spec.parameters, name: value})


def _read_file(column: str, name: str, path: str) -> bytes:
    file = Path(path)
    if not file.is_file():
        raise ArtefactError(
            f"column {column}: {name} is {path!r}, which is no file here. Give a safetensors or "
            ".pth file, or the SHA-256 of one that a column already holds."
        )
    return file.read_bytes()


def provide(
    store: Store, snapshot: Snapshot, spec: ColumnSpec, given: bytes | None = None
) -> ColumnSpec:
    """Return a column with its artefact named and lying in its folder, fitted if need be.

    Args:
        given: the artefact's bytes, where the caller has them already.

    Raises:
        ArtefactError: nobody said which weights, or they are gone.
    """
    name = artefact_name(spec)
    if not name:
        return spec
    found = resolve(store, snapshot.dataset, spec) if given is None else spec
    path = artefact_path(snapshot.dataset, found)
    if _HASH.fullmatch(found.parameters[name]) and store.exists(path):
        return found
    data = given or _make(store, snapshot, spec)
    named = _named(spec, name, sha256_hex(data))
    wanted = found.parameters[name]
    if given is None and wanted and wanted != named.parameters[name]:
        raise ArtefactError(
            f"column {spec.column}: {name} should be {wanted[:16]}…, found "
            f"{named.parameters[name][:16]}…. Give the file with that content."
        )
    check_artefact(named, data)
    store.put_if_absent(artefact_path(snapshot.dataset, named), data)
    return named


def check_artefact(spec: ColumnSpec, data: bytes) -> None:
    """Refuse what a column cannot be looked through, before anything is written.

    Raises:
        ArtefactError: the weights are of another kind, or what reads them is not installed.
    """
    try:
        PRODUCERS[spec.producer].check_artefact(data, spec.parameters)
    except ValueError as error:
        raise ArtefactError(f"column {spec.column}: {error}") from error


def _make(store: Store, snapshot: Snapshot, spec: ColumnSpec) -> bytes:
    if PRODUCERS[spec.producer].fitted:
        return fit_codes(store, snapshot, spec.parameters)
    return read_given(spec)


def read_given(spec: ColumnSpec) -> bytes:
    """Return the bytes of the file that a column's parameters name.

    Raises:
        ArtefactError: they name none, or one that is not there.
    """
    name = artefact_name(spec)
    value = spec.parameters[name]
    if not value:
        raise ArtefactError(
            f"column {spec.column}: {name} is missing. Say which, {spec.column}.{name}=FILE"
            + (f" or {spec.column}.{name}=run:NAME." if spec.column == "features" else ".")
        )
    if _HASH.fullmatch(value):
        raise ArtefactError(
            f"column {spec.column}: no column here holds the {name} {value[:16]}…. Give the file "
            f"itself, {spec.column}.{name}=FILE."
        )
    return _read_file(spec.column, name, value)


def fit_codes(store: Store, snapshot: Snapshot, parameters: Parameters) -> bytes:
    """Return the centroids of a dataset as `.npy` bytes: a pure function of its first part.

    Of the first part, so that data added later change nothing: the samples with the smallest ids,
    `fit_patches` random patches of each under its first frozen view.
    """
    rng = generator(parameters["seed"], 0, 0, "codes")
    vectors = []
    for stored in _first_samples(store, snapshot, parameters["fit_samples"]):
        frames = next(coded_frames(stored, {**parameters, "views": 1}))
        all_patches = patch_vectors(frames, parameters["patch"])
        chosen = rng.permutation(len(all_patches))[: parameters["fit_patches"]]
        vectors.append(all_patches[np.sort(chosen)])
    centroids = fit_centroids(
        np.concatenate(vectors), parameters["codes"], rng, parameters["rounds"]
    )
    buffer = io.BytesIO()
    np.save(buffer, centroids, allow_pickle=False)
    return buffer.getvalue()


def _first_samples(store: Store, snapshot: Snapshot, count: int) -> Iterator[Stored]:
    """Yield the `count` samples of the first part with the smallest ids, in that order."""
    entry = snapshot.parts[0]
    folder = part_path(snapshot.dataset, entry.part)
    table = read_table(store, f"{folder}/manifest.parquet", entry.manifest_sha256)
    ids = [sample_id(key) for key in table["key"].to_pylist()]
    for row in np.argsort(ids, kind="stable")[:count]:
        fields = table.slice(int(row), 1).to_pylist()[0]
        shard = entry.shards[fields["shard"]]["name"]
        reader = ShardReader(store, f"{folder}/{shard}", f"{snapshot.dataset}/{shard}")
        try:
            payload = reader.read(
                fields["offset"], fields["size"], fields["checksum"], fields["key"]
            )
        finally:
            reader.close()
        yield stored_of(fields, payload)


def stored_of(row: dict[str, Any], payload: bytes, **inputs: Any) -> Stored:
    """Return the stored sample of a manifest row."""
    return Stored(
        sample_id(row["key"]),
        row["ext"],
        payload,
        json.loads(row["metadata"]),
        tuple(row["shape"]),
        inputs,
    )
