"""Prefect's view of the stages: one flow each, two tasks at most, artifacts a person can look at.

Only modules of this name import Prefect, and the settings that keep it quiet come first.
"""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from flows.parent import end_with_parent
from flows.prefect_settings import be_quiet

be_quiet()
SERVED = "HEADRACE_SERVED"
"Set in the runs of `headrace serve`: the seconds that flow/name may take, by deployment."
if os.environ.get(SERVED):  # a run of `headrace serve`, which may be killed
    end_with_parent()

from prefect import flow, task
from prefect.cache_policies import NO_CACHE
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterParentFlowRunId,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import FlowRun, State, StateType, TaskRun
from prefect.concurrency.sync import concurrency
from prefect.runtime import deployment, task_run
from prefect.states import Crashed
from prefect.tasks import Task

from flows import stages
from flows.command_text import derive_line, evaluate_line, ingest_text, pretrain_line
from flows.once import Stages
from flows.options import note
from flows.prefect_artifacts import Bars, show_list, show_pictures, show_table
from flows.progress import also_told
from flows.refresh import RefreshPlan, run_refresh
from flows.study import run_study
from flows.study_plan import StudyPlan

ALIVE = FlowRunFilterState(
    type=FlowRunFilterStateType(any_=[StateType.RUNNING, StateType.PENDING, StateType.CANCELLING])
)
TRANSIENT = (ConnectionError, TimeoutError)
LEASE_SECONDS = 60.0
"How long the place of a training that was killed stays taken."
TRAINING_LIMIT = "headrace-training"
"Prefect's limit of trainings at once; `headrace serve` sets it, without it there is none."


def _limits() -> dict[str, float]:
    """Return the seconds that the flow of this process may take, by the flow's name."""
    known = json.loads(os.environ.get(SERVED) or "{}")
    mine = deployment.name if known else ""
    return {
        path.split("/")[0]: seconds
        for path, seconds in known.items()
        if path.split("/", 1)[1] == mine
    }


_SECONDS = _limits()


def _flow(function: Callable[..., dict[str, Any]]) -> Any:
    name = function.__name__
    return flow(
        function,
        name=name,
        log_prints=False,
        timeout_seconds=_SECONDS.get(name),
        on_crashed=[bury_parts],
        on_cancellation=[bury_parts],
    )


def bury_parts(flow: Any, run: FlowRun, state: Any) -> None:
    """Say of the flows inside of a run that died that they did too: they were in its process.

    `headrace serve` calls it for a process that could not do so itself.
    """
    inside = FlowRunFilter(
        parent_flow_run_id=FlowRunFilterParentFlowRunId(any_=[run.id]), state=ALIVE
    )
    with get_client(sync_client=True) as client:
        for part in client.read_flow_runs(flow_run_filter=inside):
            died = Crashed(message=f"The run that it belongs to ended: {state.name}.")
            client.set_flow_run_state(part.id, died, force=True)


def is_transient(task: Task[..., Any], run: TaskRun, state: State[Any]) -> bool:
    """Say whether a failure may pass by itself: a lost cluster or store, never a user's or a
    program's mistake."""
    return isinstance(state.result(raise_on_failure=False), TRANSIENT)


def _stage(function: Callable[..., dict[str, Any]], name: str) -> Any:
    @functools.wraps(function)
    def shown(*args: Any, **kwargs: Any) -> dict[str, Any]:
        with also_told(Bars()):
            return function(*args, **kwargs)

    return task(
        shown,
        name=name,
        retries=3,
        retry_delay_seconds=[5, 30, 120],
        retry_condition_fn=is_transient,
        cache_policy=NO_CACHE,
    )


_ingest = _stage(stages.run_ingest, "write shards")
_derive = _stage(stages.run_derive, "compute columns")


def _train(
    store: str,
    recipe: str,
    overrides: list[str],
    run: str,
    resume: bool = False,
    feed: str = "local",
    workers: int = 0,
) -> dict[str, Any]:
    """Train; a try after the first goes on from the last checkpoint."""
    resume = resume or task_run.run_count > 1
    return stages.run_pretrain(store, recipe, overrides, run, resume, feed, workers)


_pretrain = _stage(_train, "train")
_evaluate = _stage(stages.run_evaluate, "probe")
_export = _stage(stages.run_export, "write weights")


@_flow
def ingest(
    store: str,
    sources: list[str],
    dataset: str,
    spec: dict[str, Any],
    executor: dict[str, Any],
    retry_rejects: bool = False,
) -> dict[str, Any]:
    """Raw files to a new part and snapshot. Safe to run again."""
    report: dict[str, Any] = _ingest(store, sources, dataset, spec, executor, retry_rejects)
    note(ingest_text(report))
    _publish_books(report)
    return report


@task(name="publish books", cache_policy=NO_CACHE)
def _publish_books(report: dict[str, Any]) -> None:
    rows = [
        {"outcome": name, "files": report[name]}
        for name in ("written", "duplicates", "rejects", "skipped")
    ]
    rows += [
        {"outcome": f"rejected: {name}", "files": count}
        for name, count in report["reasons"].items()
    ]
    show_table("books", report["dataset"], rows, "What became of each raw file")
    show_list("ingest", report["dataset"], report)


@_flow
def derive(
    store: str, dataset: str, columns: dict[str, dict[str, Any]], executor: dict[str, Any]
) -> dict[str, Any]:
    """Missing columns of a dataset. Safe to run again."""
    report: dict[str, Any] = _derive(store, dataset, columns, executor)
    for name, about in report.items():
        note(derive_line(dataset, name, about))
    rows = [{"column": name, **about} for name, about in report.items()]
    show_table("columns", dataset, rows, f"Columns of {dataset}")
    return report


@_flow
def pretrain(
    store: str,
    recipe: str,
    overrides: list[str],
    run: str,
    resume: bool = False,
    feed: str = "local",
    workers: int = 0,
) -> dict[str, Any]:
    """One run by one recipe. A killed run continues with resume."""
    with concurrency(TRAINING_LIMIT, occupy=1, lease_duration=LEASE_SECONDS):
        report: dict[str, Any] = _pretrain(store, recipe, overrides, run, resume, feed, workers)
    note(pretrain_line(report))
    show_list("run", run, report)
    show_pictures(store, run)
    return report


@_flow
def evaluate(
    store: str, run: str, dataset: str, test: str = "", probe: str = "knn", untrained: bool = False
) -> dict[str, Any]:
    """A probe of a run's frozen encoder."""
    report: dict[str, Any] = _evaluate(store, run, dataset, test, probe, untrained)
    note(evaluate_line(report))
    show_table("probe", run, [report], f"{probe} probe of {run}")
    return report


@_flow
def export(
    store: str,
    run: str,
    to: str,
    output: str,
    step: int = 0,
    decoder: bool = False,
    overwrite: bool = False,
) -> dict[str, Any]:
    """A run's weights as other libraries load them."""
    report: dict[str, Any] = _export(store, run, to, output, step, decoder, overwrite)
    show_list("export", run, report)
    return report


@_flow
def study(store: str, plan: StudyPlan, executor: dict[str, Any], output: str) -> dict[str, Any]:
    """A comparison of recipes on one dataset. Safe to run again: it does what is missing."""
    report = run_study(store, plan, _flows(), executor, Path(output))
    rows = [{name: row[name] for name in ("run", "loss", "reused")} for row in report["runs"]]
    show_table("study", plan.name, rows, "Runs compared")
    return report


@_flow
def refresh(store: str, plan: RefreshPlan, executor: dict[str, Any]) -> dict[str, Any]:
    """New raw files, their columns, and training that goes on. Safe to run again."""
    report = run_refresh(store, plan, _flows(), executor)
    note(f"{plan.dataset}: snapshot {report['snapshot']}, {report['new']} new files")
    show_list("refresh", plan.dataset, report)
    return report


def _flows() -> Stages:
    """Return the flows that others are made of."""
    return {
        "ingest": ingest,
        "derive": derive,
        "pretrain": pretrain,
        "evaluate": evaluate,
        "export": export,
    }
