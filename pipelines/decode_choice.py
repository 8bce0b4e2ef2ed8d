"""`data.decode`: whether pictures are decoded by the CPU or by a GPU, and what `auto` measures.

A GPU's pixels are near the CPU's, not equal, so one choice holds for all ranks and for the whole
run: `auto` is settled once, and the run's recipe then says what it was.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

import torch
from torch import distributed

from pipelines.device_stage import Stage
from pipelines.mixture import Course
from preprocessing.decode_torch import DEVICE_EXTENSIONS, DeviceError, check_device

_FIX = (
    "Use data.decode=cpu, or install what is missing: pip install 'headrace[gpu]' beside a CUDA "
    "build of torch."
)
_ROUNDS = 2
"Builds of the first batch by each; the first of them warms up and does not count."


@dataclass(frozen=True, slots=True)
class Decode:
    """Who decodes."""

    by: str
    "cpu or gpu"
    why: str


def settle(course: Course, workers: int) -> Decode:
    """Settle who decodes the streams of a local feed, the same on every rank.

    Raises:
        DeviceError: a GPU is asked for, and cannot decode one of the streams.
    """
    found = agree(course, find_here(course, workers))
    if found.by == "gpu":
        use_gpu(course)
    return found


def find_here(course: Course, workers: int) -> Decode:
    """Return who is to decode, as far as this process can tell; a GPU is then in use.

    Raises:
        DeviceError: see `settle`.
    """
    try:
        use_gpu(course)
    except DeviceError as error:
        return without_gpu(course, str(error))
    if wants_gpu(course):
        return Decode("gpu", "asked for")
    return measure(course, workers)


def wants_gpu(course: Course) -> bool:
    """Say whether nothing but a GPU will do."""
    return course.builders[0].stream.decode == "gpu"


def without_gpu(course: Course, why: str) -> Decode:
    """Return that the CPU decodes, as no GPU can.

    Raises:
        DeviceError: a GPU was asked for.
    """
    if wants_gpu(course):
        raise DeviceError(f"data.decode=gpu: {why}. {_FIX}")
    return Decode("cpu", why)


def agree(course: Course, found: Decode) -> Decode:
    """Return what the first rank found; the streams of the course then say so."""
    if course.ranks > 1 and distributed.is_initialized():
        told = [found]
        distributed.broadcast_object_list(told, src=0)
        found = told[0]
    for builder in course.builders:
        builder.stream = replace(builder.stream, decode=found.by)
        builder.stage = None
    return found


def use_gpu(course: Course) -> None:
    """Have the builders of a course decode on the GPU of this process, after it was tried.

    Raises:
        DeviceError: which stream it cannot decode, and why.
    """
    for builder in course.builders:
        dataset, first = builder.stream.dataset, builder.rows[0]
        held = {first.row(number)["ext"] for number in range(len(first.table))}
        if builder.stream.series:
            raise DeviceError(f"dataset {dataset}: series of dates are decoded by the CPU only")
        try:
            for ext in sorted(held & set(DEVICE_EXTENSIONS) or held):
                check_device(ext, torch.device("cuda"))
        except DeviceError as error:
            raise DeviceError(f"dataset {dataset}: {error}") from error
    for builder in course.builders:
        device = torch.device("cuda", torch.cuda.current_device())
        builder.stage = Stage(builder.stream, device)


def measure(course: Course, workers: int) -> Decode:
    """Build the first batch by the devices of its builders and by the CPU; return the faster.

    Args:
        workers: processes that would decode on the CPU beside each other.
    """
    task, builder = course.task(0), course.builders[course.task(0).stream]
    seconds: dict[str, float] = {}
    for by, stage in (("gpu", builder.stage), ("cpu", None)):
        builder.stage = stage
        for _ in range(_ROUNDS):
            began = time.perf_counter()
            course.build(task)
            seconds[by] = time.perf_counter() - began
    seconds["cpu"] /= max(workers, 1)
    told = ", ".join(f"{by} {value * 1e3:.0f} ms" for by, value in seconds.items())
    best = min(seconds, key=lambda by: seconds[by])
    return Decode(best, f"the first batch, with {max(workers, 1)} processes on the CPU: {told}")
