"""Of the engines: whether Ray has room to work, and whether Prefect's server answers."""

from __future__ import annotations

import os
from collections.abc import Iterator
from importlib import metadata

from flows.findings import Examined, Finding, fault, fine
from flows.reachable import healthy, silent_port

NO_ANSWER = (
    "give this program the cluster's token (RAY_AUTH_MODE=token and RAY_AUTH_TOKEN) and its "
    "version of Ray and Python, or leave --ray-address out"
)


def ray(about: Examined) -> Iterator[Finding]:
    """Look whether Ray's CPUs suffice: with too few, work would wait for ever without a word."""
    address = about.ray_address or os.environ.get("RAY_ADDRESS", "")
    version = metadata.version("ray")
    if not address or address == "local":
        yield from _room_here(version)
    elif silent := silent_port(address):
        yield fault(
            "ray",
            f"nothing answers at {address} ({silent})",
            "start the cluster ('ray start --head'), correct --ray-address or RAY_ADDRESS, or "
            "leave it out: Ray then runs on this machine",
        )
    else:
        yield from _room_there(address, about.workers, version)


def _room_here(version: str) -> Iterator[Finding]:
    usable = len(os.sched_getaffinity(0))
    cpus = os.cpu_count() or 1
    if cpus < 2:
        yield fault(
            "ray",
            f"{version}; this machine has {cpus} CPU, so actors of the Ray feed would leave "
            "none for reading and wait for ever",
            "use --feed local, and --direct for ingest and derive",
        )
    else:
        less = f", {usable} of them for this program" if usable < cpus else ""
        yield fine("ray", f"{version}, on the {cpus} CPUs of this machine{less}")


def _room_there(address: str, workers: int, version: str) -> Iterator[Finding]:
    """Ask a cluster for its CPUs; they must suffice for `workers` actors and for reading."""
    from pipelines.ray_jobs import start_ray

    try:
        start_ray(address)
        from pipelines.ray_feed import check_room

        check_room(workers)
    except ConnectionError as error:
        yield fault("ray", str(error), NO_ANSWER)
    except RuntimeError as error:
        mend = "use fewer --workers, add nodes to the cluster, or use --feed local"
        yield fault("ray", f"deadlock: {error}", mend)
    else:
        yield fine("ray", f"{version}; the cluster at {address} has room for {workers} workers")


def prefect(_: Examined) -> Iterator[Finding]:
    """Ask the configured server for its health; without one each command has its own."""
    version = metadata.version("prefect")
    url = os.environ.get("PREFECT_API_URL", "")
    if not url:
        yield fine("prefect", f"{version}, a server of its own for each command")
        return
    if healthy(url.rstrip("/")):
        yield fine("prefect", f"{version}, the server at {url} answers")
    else:
        yield fault(
            "prefect",
            f"PREFECT_API_URL is {url}, and nothing there answers",
            "start it with 'headrace up', correct PREFECT_API_URL, or unset it: each command "
            "then has a server of its own",
        )
