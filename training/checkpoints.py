"""Checkpoints: whole or absent, verified on read, never unpickled as code.

`step-N.pt` holds the bytes; `step-N.json`, written after it, holds their size and SHA-256 and makes
the checkpoint exist. Bytes without a record are what a killed run left and are written over.
"""

from __future__ import annotations

import io
import json
from collections.abc import Collection
from dataclasses import asdict, dataclass, field
from typing import Any

import torch

from storage.fingerprint import canonical_json, fingerprint, sha256_hex
from storage.fs import Store

VERSION = 2
_FIELDS = {
    1: ("version", "step", "bytes", "sha256"),
    2: ("version", "step", "bytes", "sha256", "heldout_loss", "about", "fingerprint"),
}
"of the records that this code reads"


class CheckpointError(RuntimeError):
    """A checkpoint is missing or damaged."""


def checkpoint_path(run: str, step: int) -> str:
    """Return the path of a checkpoint's bytes."""
    return f"{_folder(run)}/step-{step:08d}.pt"


def _folder(run: str) -> str:
    return f"runs/{run}/checkpoints"


@dataclass(frozen=True, kw_only=True, slots=True)
class Label:
    """What the record of a checkpoint says about it."""

    heldout_loss: float | None = None
    "after this very step; None where it was not looked at then"
    about: dict[str, Any] = field(default_factory=dict)
    "code, recipe, data and the batches that were seen"


def write_checkpoint(
    store: Store,
    run: str,
    step: int,
    state: dict[str, Any],
    keep: int,
    label: Label | None = None,
    spare: Collection[int] = (),
) -> None:
    """Write the state after `step` optimiser steps, then prune the others."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    data = buffer.getvalue()
    path = checkpoint_path(run, step)
    record = {"version": VERSION, "step": step, "bytes": len(data), "sha256": sha256_hex(data)}
    store.write(path, data)
    record |= asdict(label or Label())
    store.write(_record(path), canonical_json(record | {"fingerprint": fingerprint(record)}))
    prune_checkpoints(store, run, keep, spare)


def prune_checkpoints(store: Store, run: str, keep: int, spare: Collection[int] = ()) -> None:
    """Remove all but the newest `keep` checkpoints, the best one and those of the steps `spare`;
    also what a killed run left of others.
    """
    steps = list_checkpoints(store, run)
    kept = {*steps[-keep:], best_checkpoint(store, run), *(set(spare) & set(steps))}
    found = {entry.path[: entry.path.rindex(".")] for entry in store.list(_folder(run))}
    for stem in sorted(found - {checkpoint_path(run, step)[:-3] for step in kept if step}):
        store.delete(f"{stem}.json")
        store.delete(f"{stem}.pt")


def best_checkpoint(store: Store, run: str) -> int | None:
    """Return the step of the checkpoint with the lowest held-out loss, the earlier of equal ones;
    None where no checkpoint has one.
    """
    found = []
    for step in list_checkpoints(store, run):
        loss = _read_record(store, checkpoint_path(run, step), step, "Remove it").get(
            "heldout_loss"
        )
        if loss is not None:
            found.append((loss, step))
    return min(found)[1] if found else None


def list_checkpoints(store: Store, run: str) -> list[int]:
    """Return the steps of the complete checkpoints of a run, oldest first."""
    names = (entry.path.rsplit("/", 1)[-1] for entry in store.list(_folder(run)))
    return sorted(int(name[5:-5]) for name in names if name.endswith(".json"))


def read_checkpoint(
    store: Store, run: str, step: int | None = None, device: str = "cpu"
) -> dict[str, Any]:
    """Return the state of a checkpoint; None takes the newest.

    Raises:
        CheckpointError: there is none, or its bytes or its record are not those that were written.
    """
    steps = list_checkpoints(store, run)
    if not steps or (step is not None and step not in steps):
        raise CheckpointError(
            f"run {run}: has no checkpoint{'' if step is None else f' of step {step}'}; complete "
            f"ones: {steps}. "
            f"Train it with 'headrace pretrain RECIPE --run {run}'."
        )
    wanted = steps[-1] if step is None else step
    path = checkpoint_path(run, wanted)
    instead = (
        f"Remove it and its record, then resume from {[s for s in steps if s != wanted]}"
        if len(steps) > 1
        else "Remove it and its record, then train again"
    )
    record = _read_record(store, path, wanted, instead)
    try:
        data = store.read(path)
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: is missing, its record is there. {instead}.") from error
    if sha256_hex(data) != record["sha256"]:
        raise CheckpointError(
            f"{path}: its {len(data)} bytes are not the {record['bytes']} that were written "
            f"(SHA-256 differs). {instead}."
        )
    state: dict[str, Any] = torch.load(io.BytesIO(data), map_location=device, weights_only=True)
    return state


def _read_record(store: Store, path: str, step: int, instead: str) -> dict[str, Any]:
    """Return the record of a checkpoint, every byte of it as it was written for this step.

    Raises:
        CheckpointError: damaged, of another step, or of another format.
    """
    text = store.read(_record(path))
    try:
        record: dict[str, Any] = json.loads(text)
        version = record["version"]
        fields = _FIELDS.get(version, ())
        same = canonical_json({name: record.get(name) for name in fields}) == text
        if "fingerprint" in fields:  # of all the rest: nothing else tells a changed number here
            same = same and record.pop("fingerprint") == fingerprint(record)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise CheckpointError(f"{_record(path)}: is damaged ({error}). {instead}.") from error
    if version not in _FIELDS:
        raise CheckpointError(
            f"{path}: is of format {version}, this code reads {list(_FIELDS)}. Use the "
            "headrace that wrote it."
        )
    if not same or record.get("step") != step:
        raise CheckpointError(
            f"{_record(path)}: says step {record.get('step')}, wanted {step}, or was changed. "
            f"It was damaged or moved. {instead}."
        )
    return record


def _record(path: str) -> str:
    return path.removesuffix(".pt") + ".json"
