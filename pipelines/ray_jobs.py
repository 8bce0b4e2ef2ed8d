"""Jobs as Ray tasks. The only module of ingest and derive that knows Ray."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")

import ray
from ray.exceptions import RayError, RayTaskError

from pipelines.processes import ATTEMPTS, died
from pipelines.worker import traced

Job = TypeVar("Job")
Result = TypeVar("Result")
OBJECT_STORE_BYTES = 512 * 2**20


def start_ray(address: str = "", cpus: int | None = None) -> None:
    """Connect to a cluster, or start one in this process; nothing happens if Ray runs already.

    Args:
        address: of the cluster; empty takes RAY_ADDRESS, and without that starts one.
        cpus: of the one that is started; None takes those of the machine.

    Raises:
        ConnectionError: nothing answers at the address.
    """
    if ray.is_initialized():
        return
    address = address or os.environ.get("RAY_ADDRESS", "")
    try:
        if address:
            ray.init(address=address, log_to_driver=False, logging_level="ERROR")
        else:
            ray.init(
                # Without a word on it, Ray would join whatever cluster it finds on this machine.
                address="local",
                num_cpus=cpus or os.cpu_count(),
                include_dashboard=False,
                log_to_driver=False,
                logging_level="ERROR",
                object_store_memory=OBJECT_STORE_BYTES,
            )
    except (ConnectionError, RuntimeError) as error:
        raise ConnectionError(
            f"Ray at {address or 'this machine'}: did not start or answer ({error}). "
            "Check --ray-address, or use --direct to run without Ray."
        ) from error


def run_on_ray(
    function: Callable[[Job], Result], jobs: Sequence[Job], workers: int, address: str = ""
) -> Iterator[tuple[int, Result, int]]:
    """Yield (index, result, process id) as Ray tasks end; at most `workers` tasks are in flight.

    A task lost with its worker is retried by Ray. An error of the function itself is raised here
    as it was.

    Raises:
        WorkerDiedError: the process of a job died each time, or its node was lost.
    """
    start_ray(address, cpus=max(workers, 2))
    task = ray.remote(num_cpus=1, max_retries=ATTEMPTS - 1)(traced)
    waiting = {}
    following = iter(enumerate(jobs))
    try:
        while True:
            while len(waiting) < workers and (item := next(following, None)) is not None:
                waiting[task.remote(function, item[1])] = item
            if not waiting:
                return
            done, _ = ray.wait(list(waiting), num_returns=1)
            index, job = waiting.pop(done[0])
            try:
                result, process = ray.get(done[0])
            except RayTaskError as error:
                raise error.as_instanceof_cause() from None
            except RayError as error:
                raise died(function, index, job) from error
            yield index, result, process
    finally:
        for reference in waiting:
            ray.cancel(reference)
