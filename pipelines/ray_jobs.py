"""Jobs as Ray tasks. The only module of ingest and derive that knows Ray."""

from __future__ import annotations

import atexit
import os
import socket
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")

import ray
from ray.exceptions import RayError, RayTaskError

from pipelines.processes import ATTEMPTS, died
from pipelines.ray_code import Driver, code_hash, refuse_missing, shipped
from pipelines.worker import traced

Job = TypeVar("Job")
Result = TypeVar("Result")
FIRST_TASK_SECONDS = 300.0
"Deadline of the first task, which shows that there is room, and that workers have our code."
CONNECT_SECONDS = 15.0
OBJECT_STORE_BYTES = 512 * 2**20
SETTLE_SECONDS = 20.0
"How long tasks that nobody wants any more may take to end."
_STARTED_HERE: set[str] = set()
_IN_FLIGHT: dict[ray.ObjectRef, Any] = {}


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
            _reach(address)
            ray.init(
                address=address,
                log_to_driver=False,
                logging_level="ERROR",
                runtime_env=shipped(),
            )
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
            _STARTED_HERE.add(ray.get_runtime_context().gcs_address)
    except Exception as error:  # Ray raises nothing narrower when its head dies as it starts
        raise ConnectionError(
            f"Ray at {address or 'this machine'}: did not start or answer ({error}). "
            "Check --ray-address, or use --direct to run without Ray."
        ) from error


def _reach(address: str) -> None:
    """Try an address of the form host:port; Ray itself would try for many minutes.

    Raises:
        OSError: nobody answers there.
    """
    host, _, port = address.rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host, int(port)), timeout=CONNECT_SECONDS).close()


def started_here() -> bool:
    """Say whether this process started the Ray that it is connected to, and has it for itself."""
    return ray.get_runtime_context().gcs_address in _STARTED_HERE


def this_driver() -> Driver:
    """Describe this process to the workers; those of a Ray that it started have its code anyway."""
    return Driver("" if started_here() else code_hash(), os.getcwd())


def run_on_ray(
    function: Callable[[Job], Result], jobs: Sequence[Job], workers: int, address: str = ""
) -> Iterator[tuple[int, Result, int]]:
    """Yield (index, result, process id) as Ray tasks end; at most `workers` tasks are in flight.

    A task lost with its worker or its node is retried by Ray. An error of the function itself is
    raised here as it was.

    Raises:
        WorkerDiedError: the process of a job died each time, or its node was lost.
        TimeoutError: no task could begin.
        OtherCodeError: workers run other code than this process.
    """
    start_ray(address, cpus=max(workers, 2))
    task = ray.remote(num_cpus=1, max_retries=ATTEMPTS - 1)(traced_for)
    wait_for_room(task, FIRST_TASK_SECONDS)
    driver = this_driver()
    waiting: dict[ray.ObjectRef, tuple[int, Job]] = {}
    following = iter(enumerate(jobs))
    try:
        while True:
            while len(waiting) < workers and (item := next(following, None)) is not None:
                reference = task.remote(driver, function, item[1])
                waiting[reference] = _IN_FLIGHT[reference] = item
            if not waiting:
                return
            done, _ = ray.wait(list(waiting), num_returns=1)
            index, job = waiting.pop(done[0])
            del _IN_FLIGHT[done[0]]
            try:
                result, process = ray.get(done[0])
            except RayTaskError as error:
                raise cause(error) from None
            except RayError as error:
                raise died(function, index, job) from error
            yield index, result, process
    finally:
        _settle(waiting)


@atexit.register
def _settle_all() -> None:
    """End what an interrupted command left, before Ray's own exit, which runs after this one."""
    _settle(_IN_FLIGHT)


def _settle(references: Iterable[ray.ObjectRef]) -> None:
    """Cancel tasks and wait for their end: where one ends while Ray disconnects, Ray crashes."""
    left = [reference for reference in references if reference in _IN_FLIGHT]
    for reference in left:
        del _IN_FLIGHT[reference]
    if not left or not ray.is_initialized():
        return
    for reference in left:
        ray.cancel(reference)
    ray.wait(left, num_returns=len(left), timeout=SETTLE_SECONDS)


def traced_for(driver: Driver, function: Callable[[Job], Result], job: Job) -> tuple[Result, int]:
    """Run a job as the driver would.

    Raises:
        OtherCodeError: this worker runs other code.
        StoreError: it does not see the store that the job names.
    """
    driver.be_like()
    if store := getattr(job, "store", ""):
        refuse_missing(store)
    return traced(function, job)


def wait_for_room(task: Any, seconds: float) -> None:
    """Run nothing as a task: that shows that tasks can begin, and that workers have our code.

    Raises:
        TimeoutError: it did not begin in time.
        OtherCodeError: the worker runs other code.
    """
    first = task.remote(this_driver(), str, "")
    done, _ = ray.wait([first], timeout=seconds)
    if not done:
        ray.cancel(first)
        raise TimeoutError(f"ray: no task began in {seconds:g} s. {told_room()}")
    try:
        ray.get(first)
    except RayTaskError as error:
        raise cause(error) from None


def cause(error: RayTaskError) -> Exception:
    """Return what a task raised, as it was."""
    found = error.cause
    return found if isinstance(found, Exception) else error


def told_room() -> str:
    """Say what of the cluster's CPUs is free, and what to do where that is too little."""
    free, cpus = ray.available_resources().get("CPU", 0.0), cluster_cpus()
    return (
        f"{free:g} of the cluster's {cpus:g} CPUs are free. Free some ('ray status' shows who "
        "holds them), or work without the cluster: --direct, or --feed local."
    )


def cluster_cpus() -> float:
    """Return the number of CPUs of the cluster, free or not."""
    return float(ray.cluster_resources().get("CPU", 0.0))


def cluster_gpus() -> float:
    """Return the number of GPUs of the cluster, free or not."""
    return float(ray.cluster_resources().get("GPU", 0.0))
