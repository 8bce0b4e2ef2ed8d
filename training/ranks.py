"""The processes of a run: one, or several that torchrun started."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from types import FrameType
from typing import Any

import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

TIMEOUT = timedelta(minutes=30)
IDLE = ("fc_norm",)
"parts of models that only serve after pretraining: ranks wait for no gradient of theirs"


@dataclass(frozen=True, slots=True)
class Place:
    """This process among the processes of the run."""

    rank: int
    ranks: int
    device: torch.device

    @property
    def first(self) -> bool:
        """Whether this process writes what a run leaves."""
        return self.rank == 0


@contextmanager
def open_place() -> Iterator[Place]:
    """Yield this process's place; joins the group that torchrun's environment describes, and leaves
    it.
    """
    ranks, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
    device = torch.device("cpu")
    if torch.cuda.is_available():
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(device)
    if ranks == 1:
        yield Place(0, 1, device)
        return
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    distributed.init_process_group(backend, timeout=TIMEOUT)
    try:
        yield Place(rank, ranks, device)
    finally:
        distributed.destroy_process_group()


def wait_for_all(place: Place) -> None:
    """Return when every rank has come here; what the first one wrote before is then to be read."""
    if place.ranks > 1:
        distributed.barrier()


def mean_over_ranks(values: torch.Tensor) -> torch.Tensor:
    """Return the mean of a tensor over all ranks of the run; of one rank the tensor itself."""
    if not distributed.is_initialized():
        return values
    summed = values.clone()
    distributed.all_reduce(summed)
    return summed / distributed.get_world_size()


def gather_all(value: Any, place: Place) -> list[Any]:
    """Return the values of all ranks, in their order."""
    if place.ranks == 1:
        return [value]
    found: list[Any] = [None] * place.ranks
    distributed.all_gather_object(found, value)
    return found


def spread(model: nn.Module, place: Place) -> nn.Module:
    """Return the model, wrapped for several ranks if there are any."""
    if place.ranks == 1:
        return model
    ids = [place.device.index] if place.device.type == "cuda" else None
    idle = any(part in name for name, _ in model.named_parameters() for part in IDLE)
    return DistributedDataParallel(model, device_ids=ids, find_unused_parameters=idle)


def bare(model: nn.Module) -> nn.Module:
    """Return the model without its wrapper."""
    return model.module if isinstance(model, DistributedDataParallel) else model


class StopFlag:
    """Set by SIGTERM or SIGINT; all ranks agree on it, so that none stops alone.

    They agree on their CPUs: to read a flag from a GPU would wait for the steps queued there.
    """

    def __init__(self, place: Place) -> None:
        self.place = place
        self.signal = 0

    def __bool__(self) -> bool:
        if self.place.ranks == 1:
            return bool(self.signal)
        agreed = torch.tensor([self.signal])
        distributed.all_reduce(agreed, op=distributed.ReduceOp.MAX)
        self.signal = int(agreed.item())
        return bool(self.signal)

    def set(self, number: int, frame: FrameType | None) -> None:
        """Take a signal."""
        self.signal = number


@contextmanager
def stop_on_signals(place: Place) -> Iterator[StopFlag]:
    """Yield a flag that SIGTERM and SIGINT set while inside; only the main thread can listen to
    signals.
    """
    flag = StopFlag(place)
    if threading.current_thread() is not threading.main_thread():
        yield flag
        return
    listened = (signal.SIGTERM, signal.SIGINT)
    before = [signal.signal(number, flag.set) for number in listened]
    try:
        yield flag
    finally:
        for number, handler in zip(listened, before, strict=True):
            signal.signal(number, handler)
