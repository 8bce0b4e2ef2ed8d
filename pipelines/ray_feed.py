"""The Ray feed: the same batches as the local one, built by a pool of Ray actors, in order, one
stream a rank.

`streaming_split` hands rows to whoever asks, so the order would depend on timing. Here every block
is one batch description and order is preserved, so the stream is the local one, whoever computes.
"""

from __future__ import annotations

import json
import os
import queue
import threading
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import ray
import torch
from ray.data import DataContext

from pipelines.batch import About, Told
from pipelines.mixture import Course, Task
from pipelines.ray_jobs import start_ray
from pipelines.worker import use_one_thread

Row = dict[str, Any]
FIRST_BATCH_SECONDS = 300.0
"Deadline of the first batch; a cluster without room for readers would otherwise wait for ever."
ACTOR_CPUS = 0.5
WINDOW = 64
"Batches described to Ray at a time; a run without end is a sequence of such windows."


class _Builder:
    """A Ray actor: builds the batches that it is handed."""

    def __init__(self, course: Course) -> None:
        use_one_thread()
        self.course = course

    def __call__(self, row: Row) -> Row:
        places = list(zip(row["shards"], row["rows"], strict=True))
        task = Task(int(row["stream"]), places, int(row["epoch"]))
        batch, about = self.course.build(task)
        arrays = {f"batch.{name}": value.numpy() for name, value in batch.items()}
        return {"number": row["number"], "about": json.dumps(about), **arrays}


class RayStream:
    """Batches [start, stop) of one rank from Ray actors."""

    def __init__(self, course: Course, numbers: range, actors: int = 1) -> None:
        self.course, self.numbers, self.actors = course, numbers, actors

    def __len__(self) -> int:
        return len(self.numbers)

    def __iter__(self) -> Iterator[Told]:
        start_ray(os.environ.get("RAY_ADDRESS", ""))
        check_room(self.actors)
        for begin in range(0, len(self.numbers), WINDOW):
            yield from self._window(self.numbers[begin : begin + WINDOW], first=begin == 0)

    def _window(self, numbers: range, first: bool) -> Iterator[Told]:
        context = DataContext.get_current()
        context.execution_options.preserve_order = True
        context.enable_progress_bars = False
        described = [self._describe(number) for number in numbers]
        stream = (
            ray.data.from_items(described, override_num_blocks=len(described))
            .map(
                _Builder,
                fn_constructor_args=(self.course,),
                num_cpus=ACTOR_CPUS,
                concurrency=self.actors,
            )
            .iter_rows()
        )
        rows = first_within(stream, FIRST_BATCH_SECONDS) if first else stream
        for number, row in zip(numbers, rows, strict=True):
            if int(row.pop("number")) != number:
                raise RuntimeError(
                    f"ray feed: got another batch than {number}. The order was lost; report this."
                )
            about = About(*json.loads(row.pop("about")))
            # A block of batches of several streams has the fields of all; those not its own are
            # null.
            batch = {
                name.removeprefix("batch."): torch.from_numpy(np.array(value))
                for name, value in row.items()
                if value is not None
            }
            # Actors on other machines have another clock: nothing is said of the way here.
            yield batch, about._replace(done=0.0)

    def _describe(self, number: int) -> Row:
        task = self.course.task(number)
        return {
            "number": number,
            "stream": task.stream,
            "epoch": task.epoch,
            "shards": [shard for shard, _ in task.places],
            "rows": [row for _, row in task.places],
        }


def first_within(stream: Iterable[Row], seconds: float) -> Iterator[Row]:
    """Pass a stream on, waiting for its first item no longer than `seconds`.

    Raises:
        TimeoutError: the first item did not come.
    """
    source = iter(stream)
    answers: queue.Queue[Row | Exception] = queue.Queue()

    def ask() -> None:
        try:
            answers.put(next(source))
        except Exception as error:  # handed to the caller, whatever it is
            answers.put(error)

    threading.Thread(target=ask, daemon=True).start()
    try:
        answer = answers.get(timeout=seconds)
    except queue.Empty:
        raise TimeoutError(
            f"ray feed: no first batch after {seconds:g} s. Look at the cluster's free CPUs, "
            "or use --feed local."
        ) from None
    if isinstance(answer, Exception):
        raise answer
    yield answer
    yield from source


def check_room(actors: int) -> None:
    """Refuse to start where the pool would hold every CPU, which waits for ever without a word.

    Raises:
        RuntimeError: the cluster has too few CPUs.
    """
    cpus = ray.cluster_resources().get("CPU", 0.0)
    if actors * ACTOR_CPUS > cpus - 1:
        raise RuntimeError(
            f"ray feed: {actors} actors of {ACTOR_CPUS} CPU would leave less than one of the "
            f"cluster's {cpus:g} CPUs for "
            "reading, which never starts. Use fewer actors, a larger cluster, or --feed local."
        )
