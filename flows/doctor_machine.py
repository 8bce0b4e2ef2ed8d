"""Of the machine: its GPU, its memory, its disks."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from flows.findings import Examined, Finding, fault, fine

SHARED_BYTES = 512 * 2**20
"Ray's object store (256 MiB) and the batches of loader processes lie in /dev/shm."
FREE_BYTES = 2**30
"Less free space than this, and an ingest of any size ends half-way."
FREE_SHARE = 0.05
"Ray stops writing its temporary files to a disk that has less than this share free."
MEMORY_BYTES = 2 * 2**30
SHARED = Path("/dev/shm")


def gpu(_: Examined) -> Iterator[Finding]:
    """Say which accelerator torch sees, and whether there is one that it does not."""
    import torch

    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
        yield fine("gpu", f"{', '.join(names)}; torch {torch.__version__}")
    elif Path("/proc/driver/nvidia").exists():
        yield fault(
            "gpu",
            f"there is an NVIDIA GPU, but torch {torch.__version__} cannot use it",
            "install the build of torch that goes with the driver: 'nvidia-smi' shows the "
            "newest CUDA it takes, https://pytorch.org/get-started names the command",
        )
    else:
        yield fine("gpu", f"none; torch {torch.__version__} trains on the CPU")


def memory(_: Examined) -> Iterator[Finding]:
    """Look at memory, and at the shared memory that Ray and loaders exchange batches by."""
    import psutil

    free = psutil.virtual_memory().available
    text = f"{free / 2**30:.1f} GiB of {psutil.virtual_memory().total / 2**30:.1f} GiB available"
    if free < MEMORY_BYTES:
        yield fault("memory", text, "end other programs, or use --workers 1")
    else:
        yield fine("memory", text)
    if SHARED.is_dir():
        yield _shared_memory()


def _shared_memory() -> Finding:
    size = shutil.disk_usage(SHARED)
    text = f"{size.free / 2**20:,.0f} of {size.total / 2**20:,.0f} MiB free in {SHARED}"
    if size.total < SHARED_BYTES:
        mend = (
            "make it larger: 'docker run --shm-size=8g', an emptyDir of medium Memory in "
            f"Kubernetes, or 'mount -o remount,size=8G {SHARED}'; else use --direct"
        )
        return fault("shared memory", f"{text}: too little for Ray's object store", mend)
    if size.free < SHARED_BYTES:
        return fault(
            "shared memory",
            f"{text}: nearly full",
            f"end what holds it ('lsof {SHARED}'); files of dead programs can be removed",
        )
    return fine("shared memory", text)


def disk(about: Examined) -> Iterator[Finding]:
    """Look at the free space of the store's disk and of the one for temporary files."""
    if "://" not in about.store:
        place = existing(Path(os.path.abspath(os.path.expanduser(about.store))))
        yield _free_space("the store", place, 0.0, "give --store a folder on a larger disk")
    place = Path(tempfile.gettempdir())
    yield _free_space("temporary files", place, FREE_SHARE, "set TMPDIR to a larger disk")


def existing(place: Path) -> Path:
    """Return a folder, or the nearest one above it that is there."""
    return next(folder for folder in (place, *place.parents) if folder.is_dir())


def _free_space(what: str, place: Path, share: float, other: str) -> Finding:
    size = shutil.disk_usage(place)
    text = f"{size.free / 2**30:.1f} of {size.total / 2**30:.1f} GiB free for {what} ({place})"
    if size.free >= max(FREE_BYTES, share * size.total):
        return fine("disk", text)
    return fault(
        "disk",
        f"{text}: the disk is full",
        f"free some ('headrace gc' removes what nothing names), or {other}",
    )
