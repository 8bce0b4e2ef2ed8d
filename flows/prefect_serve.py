"""Deployments of the flows: made from a plan, served by this process, paused, resumed, listed.

Each run is a process of its own that ends with this one. Schedules are kept by Prefect's server.
"""

from __future__ import annotations

import asyncio
import json
import os
import threading
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

from flows.prefect_settings import be_quiet

be_quiet()

from prefect import Flow
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import (
    DeploymentFilter,
    DeploymentFilterId,
    FlowRunFilter,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import StateType
from prefect.client.schemas.schedules import CronSchedule, IntervalSchedule
from prefect.client.schemas.sorting import FlowRunSort
from prefect.exceptions import ObjectNotFound
from prefect.flows import EntrypointType
from prefect.runner import Runner
from prefect.states import Crashed

from flows import prefect_flows
from flows.prefect_claim import claimed
from flows.prefect_watch import Watch
from flows.serve_plan import Deployment, ServePlan
from storage.fs import open_store

TRAINING_LIMIT = prefect_flows.TRAINING_LIMIT
SERVED = prefect_flows.SERVED
POLL_SECONDS = 3.0
"Between two questions for runs that are due."
LISTED = 200
"Runs of a deployment that are counted; the server gives no more at once."


def serve_plan(plan: ServePlan, store: str) -> None:
    """Make the deployments of a plan and run what is due until SIGINT or SIGTERM.

    Raises:
        ValueError: a deployment has parameters that its flow does not take.
        RuntimeError: another `headrace serve` runs one of them.
    """
    with claimed(f"{about.flow}/{name}" for name, about in plan.deployments.items()):
        _serve(plan, plan.place(store))


def _serve(plan: ServePlan, place: str) -> None:
    with get_client(sync_client=True) as client:
        paused = {known.name: known.paused for known in _read(client, plan)}
        made = [
            _deployment(name, about, plan, place, paused.get(name, about.paused))
            for name, about in plan.deployments.items()
        ]
        client.upsert_global_concurrency_limit_by_name(TRAINING_LIMIT, plan.trainings or _gpus())
        _bury_dead_runs(client, plan)
    os.environ[SERVED] = json.dumps(
        {f"{d.flow}/{name}": d.timeout for name, d in plan.deployments.items() if d.timeout}
    )
    stop = threading.Event()
    for name, about in plan.deployments.items():
        if about.new_files:
            watch = Watch(f"{about.flow}/{name}", about.new_files, open_store(place))
            threading.Thread(target=watch.keep, args=(stop,), name=name, daemon=True).start()
    try:
        asyncio.run(_run_what_is_due(made))
    except KeyboardInterrupt:
        pass
    finally:
        stop.set()


async def _run_what_is_due(made: list[Any]) -> None:
    """Serve deployments until cancelled, as by SIGINT, or SIGTERM.

    Prefect's own answer to SIGTERM does not end a process that waits for its server.
    """
    runner = Runner(pause_on_shutdown=False, query_seconds=POLL_SECONDS)
    for one in made:
        await runner.aadd_deployment(one)
    served = asyncio.create_task(runner.start())
    loop = asyncio.get_running_loop()
    runner.handle_sigterm = lambda *_: loop.call_soon_threadsafe(served.cancel)
    with suppress(asyncio.CancelledError):
        await served


def _gpus() -> int:
    import torch

    return max(torch.cuda.device_count(), 1)


def _deployment(name: str, about: Deployment, plan: ServePlan, place: str, paused: bool) -> Any:
    flow: Flow[..., Any] = getattr(prefect_flows, about.flow)
    return flow.to_deployment(
        name,
        schedules=_schedules(about),
        paused=paused,
        concurrency_limit=1,
        parameters=_parameters(name, about, plan, place, flow),
        tags=["headrace", *about.tags],
        description=about.when,
        entrypoint_type=EntrypointType.MODULE_PATH,
    )


def _schedules(about: Deployment) -> list[Any]:
    if about.cron:
        return [CronSchedule(cron=about.cron, timezone=about.timezone)]
    return [IntervalSchedule(interval=about.interval)] if about.interval else []


def _parameters(
    name: str, about: Deployment, plan: ServePlan, place: str, flow: Flow[..., Any]
) -> dict[str, Any]:
    """Return the parameters of a flow, checked by the flow itself."""
    known = flow.parameters.properties
    filled = {"store": place, "executor": plan.executor()}
    given = {**{k: v for k, v in filled.items() if k in known}, **about.parameters}
    unknown = sorted(set(given) - set(known))
    if unknown:
        raise ValueError(
            f"deployment {name}: flow {about.flow} takes no {', '.join(unknown)}. "
            f"Known: {', '.join(known)}."
        )
    missing = [p for p in flow.parameters.required if p not in given]
    if missing:
        raise ValueError(f"deployment {name}: flow {about.flow} needs {', '.join(missing)}.")
    flow.validate_parameters(given)
    return given


def _bury_dead_runs(client: SyncPrefectClient, plan: ServePlan) -> None:
    """Say of runs whose process ended with an earlier `serve` that they crashed."""
    for about in _read(client, plan):
        alive = FlowRunFilter(state=prefect_flows.ALIVE)
        for run in client.read_flow_runs(deployment_filter=_only(about), flow_run_filter=alive):
            state = Crashed(message="Its process ended with the 'headrace serve' that started it.")
            client.set_flow_run_state(run.id, state, force=True)
            prefect_flows.bury_parts(None, run, state)


def _read(client: SyncPrefectClient, plan: ServePlan) -> Iterable[Any]:
    """Yield the deployments of a plan that the server has."""
    for name, about in plan.deployments.items():
        try:
            yield client.read_deployment_by_name(f"{about.flow}/{name}")
        except ObjectNotFound:
            continue


def list_deployments(plan: ServePlan) -> list[dict[str, Any]]:
    """Return what the server knows of the deployments of a plan: name, flow, when, paused, runs
    (of the newest 200, how many are in each state) and last (state of the newest that began)."""
    with get_client(sync_client=True) as client:
        return [_told(client, about) for about in _read(client, plan)]


def _only(about: Any) -> DeploymentFilter:
    return DeploymentFilter(id=DeploymentFilterId(any_=[about.id]))


def _told(client: SyncPrefectClient, about: Any) -> dict[str, Any]:
    runs = client.read_flow_runs(
        deployment_filter=_only(about),
        sort=FlowRunSort.START_TIME_DESC,
        limit=LISTED,
    )
    begun = [run for run in runs if run.start_time is not None]
    flow = client.read_flow(about.flow_id).name
    states = Counter(run.state_name or "" for run in runs)
    return {
        "name": about.name,
        "flow": flow,
        "id": str(about.id),
        "when": about.description,
        "paused": about.paused,
        "runs": dict(states),
        "last": begun[0].state_name if begun else None,
    }


def set_paused(plan: ServePlan, name: str, paused: bool) -> None:
    """Pause or resume a deployment.

    Raises:
        ValueError: the plan, or the server, has none of this name.
    """
    if name not in plan.deployments:
        raise ValueError(
            f"deployment {name!r}: the file has none. Known: {', '.join(plan.deployments)}."
        )
    with get_client(sync_client=True) as client:
        path = f"{plan.deployments[name].flow}/{name}"
        try:
            found = client.read_deployment_by_name(path)
        except ObjectNotFound:
            raise ValueError(
                f"deployment {path}: the server has none yet. Run 'headrace serve FILE' once."
            ) from None
        if paused:
            client.pause_deployment(found.id)
            _forget_due(client, found)
        else:
            client.resume_deployment(found.id)


def _forget_due(client: SyncPrefectClient, about: Any) -> None:
    """Remove what the schedule had asked for and has not begun: late, or waiting for its turn."""
    due = FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.SCHEDULED]))
    for run in client.read_flow_runs(
        deployment_filter=_only(about), flow_run_filter=FlowRunFilter(state=due)
    ):
        if run.auto_scheduled:
            with suppress(ObjectNotFound):
                client.delete_flow_run(run.id)
