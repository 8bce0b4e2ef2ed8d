"""Checkpoints: whole or absent, verified when read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from storage.fingerprint import canonical_json
from storage.fs import Store, open_store
from training.checkpoints import (
    CheckpointError,
    Label,
    best_checkpoint,
    checkpoint_path,
    list_checkpoints,
    prune_checkpoints,
    read_checkpoint,
    write_checkpoint,
)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(tmp_path / "store")


def state(step: int) -> dict[str, object]:
    return {"step": step, "model": {"weight": torch.arange(4.0) + step}}


def test_the_newest_ones_are_kept_and_read_back(store: Store) -> None:
    for step in (10, 20, 30):
        write_checkpoint(store, "run", step, state(step), keep=2)
    assert list_checkpoints(store, "run") == [20, 30]
    assert read_checkpoint(store, "run")["step"] == 30
    assert torch.equal(read_checkpoint(store, "run", 20)["model"]["weight"], torch.arange(4.0) + 20)


def test_the_best_one_and_the_spared_are_kept_too(store: Store) -> None:
    for step, loss in ((1, 3.0), (2, 1.0), (3, 2.0), (4, None), (5, 1.0), (6, None)):
        label = Label(heldout_loss=loss)
        write_checkpoint(store, "run", step, state(step), keep=1, label=label, spare={3})
    assert list_checkpoints(store, "run") == [2, 3, 6]
    assert best_checkpoint(store, "run") == 2


def test_what_a_kill_left_of_others_goes(store: Store) -> None:
    for step in (1, 2, 3):
        write_checkpoint(store, "run", step, state(step), keep=3)
    store.write(checkpoint_path("run", 9), b"half of a checkpoint")
    store.delete(checkpoint_path("run", 1)[:-3] + ".json")
    prune_checkpoints(store, "run", keep=1)
    left = [entry.path.rsplit("/", 1)[1] for entry in store.list("runs/run/checkpoints")]
    assert left == ["step-00000003.json", "step-00000003.pt"]


def test_a_record_says_what_was_seen(store: Store) -> None:
    write_checkpoint(store, "run", 7, state(7), 1, Label(about={"batches": [0, 7], "code": "1.0"}))
    record = json.loads(store.read(checkpoint_path("run", 7)[:-3] + ".json"))
    assert record["about"] == {"batches": [0, 7], "code": "1.0"}


def test_a_checkpoint_of_version_1_is_read(store: Store) -> None:
    write_checkpoint(store, "run", 10, state(10), keep=1)
    path = checkpoint_path("run", 10)[:-3] + ".json"
    record = json.loads(store.read(path))
    old = {name: record[name] for name in ("step", "bytes", "sha256")} | {"version": 1}
    store.write(path, canonical_json(old))
    assert read_checkpoint(store, "run")["step"] == 10
    store.write(path, canonical_json(old | {"version": 3}))
    with pytest.raises(CheckpointError, match="is of format 3"):
        read_checkpoint(store, "run")


def test_bytes_without_a_record_do_not_exist(store: Store) -> None:
    write_checkpoint(store, "run", 10, state(10), keep=3)
    store.write(checkpoint_path("run", 20), b"half of a checkpoint")
    assert list_checkpoints(store, "run") == [10]
    with pytest.raises(CheckpointError, match=r"no checkpoint of step 20; complete ones: \[10\]"):
        read_checkpoint(store, "run", 20)


def test_any_changed_byte_is_found(store: Store) -> None:
    write_checkpoint(store, "run", 10, state(10), keep=3)
    path = checkpoint_path("run", 10)
    whole = store.read(path)
    for place in range(0, len(whole), max(len(whole) // 40, 1)):
        store.write(path, whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(CheckpointError, match="SHA-256 differs"):
            read_checkpoint(store, "run")
    store.write(path, whole[:-7])
    with pytest.raises(CheckpointError, match="SHA-256 differs"):
        read_checkpoint(store, "run")


def test_a_run_without_checkpoints_says_how_to_make_one(store: Store) -> None:
    with pytest.raises(CheckpointError, match="headrace pretrain"):
        read_checkpoint(store, "run")
