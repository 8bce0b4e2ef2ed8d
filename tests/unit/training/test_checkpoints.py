"""Checkpoints: whole or absent, verified when read."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from storage.fs import Store, open_store
from training.checkpoints import (
    CheckpointError,
    checkpoint_path,
    list_checkpoints,
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
