"""The stages as plain functions of JSON-like values: what the command runs with `--direct`, and
Prefect without.

Each takes and returns plain values only, so that a flow run's parameters and results can be shown
and stored.
"""

from __future__ import annotations

import time
from typing import Any

from flows.progress import show_progress
from pipelines import verify as verification
from pipelines.derive import derive
from pipelines.executors import Executor
from pipelines.ingest import ingest
from pipelines.ingest_spec import IngestSpec
from storage.fs import open_store


def run_ingest(
    store: str,
    sources: list[str],
    dataset: str,
    spec: dict[str, Any],
    executor: dict[str, Any],
    retry_rejects: bool = False,
) -> dict[str, Any]:
    """Ingest sources into a dataset; returns what `pipelines.ingest.ingest` does, and the seconds
    it took."""
    began = time.monotonic()
    with show_progress() as progress:
        report = ingest(
            open_store(store),
            sources,
            dataset,
            IngestSpec(**{**spec, "channels": tuple(spec.get("channels", ()))}),
            Executor(**executor),
            retry_rejects=retry_rejects,
            progress=progress,
        )
    return {**report, "seconds": round(time.monotonic() - began, 2)}


def run_derive(
    store: str, dataset: str, columns: dict[str, dict[str, Any]], executor: dict[str, Any]
) -> dict[str, Any]:
    """Derive the missing parts of columns."""
    with show_progress() as progress:
        return dict(
            derive(open_store(store), dataset, columns, Executor(**executor), progress=progress)
        )


def run_verify(store: str, dataset: str) -> dict[str, Any]:
    """Check every byte of a dataset."""
    with show_progress() as progress:
        return verification.verify(open_store(store, writable=False), dataset, progress=progress)


def run_pretrain(
    store: str,
    recipe: str,
    overrides: list[str],
    run: str,
    resume: bool = False,
    feed: str = "local",
    workers: int = 0,
) -> dict[str, Any]:
    """Pretrain by a recipe; returns run, step, loss, heldout_loss, samples_per_second,
    data_wait_share."""
    from training.pretrain import pretrain
    from training.recipe import read_recipe

    with show_progress() as progress:
        return pretrain(
            open_store(store),
            read_recipe(recipe, overrides),
            run=run,
            resume=resume,
            feed=feed,
            workers=workers,
            progress=progress,
        )


def run_evaluate(
    store: str,
    run: str,
    dataset: str,
    test: str = "",
    probe: str = "knn",
    untrained: bool = False,
) -> dict[str, Any]:
    """Probe the frozen encoder of a run, beside the same encoder untrained."""
    from training.pretrain import evaluate

    with show_progress() as progress:
        return evaluate(
            open_store(store),
            run,
            dataset,
            test=test or None,
            probe=probe,
            untrained=untrained,
            progress=progress,
        )
