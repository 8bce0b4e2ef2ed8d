"""The stages as plain functions of JSON-like values: what the command runs with `--direct`, and
Prefect without.

Each takes and returns plain values only, so that a flow run's parameters and results can be shown
and stored.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from flows.options import say
from flows.progress import show_progress
from flows.weights import with_weights
from pipelines.derive import derive
from pipelines.executors import Executor
from pipelines.gc import collect
from pipelines.ingest import ingest
from pipelines.ingest_spec import IngestSpec
from pipelines.ledger import note_derive, note_ingest, note_run
from pipelines.repair import repair as repair_dataset
from pipelines.verify import verify
from storage.fs import open_store


@contextmanager
def _noting() -> Iterator[None]:
    """Let work that is done stand where its cost cannot be written down; standard error says so."""
    try:
        yield
    except OSError as error:
        say(f"headrace: the work is done, but the ledger could not be written: {error}")


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
    began, place = time.monotonic(), open_store(store)
    with show_progress() as progress:
        report = ingest(
            place,
            sources,
            dataset,
            _ingest_spec(spec),
            Executor(**executor),
            retry_rejects=retry_rejects,
            progress=progress,
        )
    seconds = time.monotonic() - began
    with _noting():
        note_ingest(place, dataset, report, seconds)
    return {**report, "seconds": round(seconds, 2)}


def _ingest_spec(values: dict[str, Any]) -> IngestSpec:
    """Return a spec of plain values, whose lists came as JSON has them."""
    return IngestSpec(
        **{
            name: tuple(value) if isinstance(value, list) else value
            for name, value in values.items()
        }
    )


def run_plan(
    sources: list[str], spec: dict[str, Any], workers: int, probe: dict[str, Any]
) -> dict[str, Any]:
    """Say what an ingest would do and cost; `probe` holds units, seconds and seed."""
    from pipelines.estimate import estimate

    with show_progress() as progress:
        return estimate(sources, _ingest_spec(spec), workers=workers, progress=progress, **probe)


def run_derive(
    store: str, dataset: str, columns: dict[str, dict[str, Any]], executor: dict[str, Any]
) -> dict[str, Any]:
    """Derive the missing parts of columns; `weights=run:NAME` takes the encoder of a run."""
    began, place = time.monotonic(), open_store(store)
    asked, artefacts = with_weights(place, columns)
    with show_progress() as progress:
        report = derive(
            place, dataset, asked, Executor(**executor), progress=progress, artefacts=artefacts
        )
    with _noting():
        note_derive(place, dataset, report, time.monotonic() - began)
    return dict(report)


def run_derive_plan(
    store: str, dataset: str, columns: dict[str, dict[str, Any]], epochs: float
) -> dict[str, Any]:
    """Say what columns would cost; nothing is written."""
    from pipelines.costs import estimate

    place = open_store(store, writable=False)
    asked, artefacts = with_weights(place, columns)
    return estimate(place, dataset, asked, epochs=epochs, artefacts=artefacts)


def run_verify(
    store: str, dataset: str, repair: bool = False, executor: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Check every byte of a dataset; with `repair` make what is damaged again."""
    check = repair_dataset if repair else verify
    with show_progress() as progress:
        place = open_store(store, writable=repair)
        return check(place, dataset, Executor(**executor or {}), progress=progress)


def run_gc(store: str, dry_run: bool = False, older_than: float | None = None) -> dict[str, Any]:
    """Remove what nothing names."""
    with show_progress() as progress:
        place = open_store(store, writable=not dry_run)
        return collect(place, dry_run=dry_run, older_than=older_than, progress=progress)


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

    place = open_store(store)
    with show_progress() as progress:
        report = pretrain(
            place,
            read_recipe(recipe, overrides),
            run=run,
            resume=resume,
            feed=feed,
            workers=workers,
            progress=progress,
        )
    with _noting():
        note_run(place, run)
    return report


def run_pretrain_plan(store: str, recipe: str, overrides: list[str], run: str) -> dict[str, Any]:
    """Say what a run would read and how long it would be; nothing is written.

    Returns:
        run, step (0), steps, batch, batches_per_epoch, epochs and columns (names).
    """
    from pipelines.recipe_feed import open_recipe
    from training.recipe import read_recipe

    made, place = read_recipe(recipe, overrides), open_store(store, writable=False)
    where = {"rank": 0, "ranks": 1, "workers": 0, "kind": "local"}
    feed = open_recipe(place, made, start=0, stop=made.steps, **where)
    try:
        per_epoch = feed.batches_per_epoch
        return {
            "run": run,
            "step": 0,
            "steps": made.steps,
            "batch": made.batch,
            "batches_per_epoch": per_epoch,
            "epochs": made.steps / per_epoch,
            "columns": sorted(feed.fingerprints["columns"]),
        }
    finally:
        feed.close()


def run_evaluate(
    store: str,
    run: str,
    dataset: str,
    test: str = "",
    probe: str = "knn",
    untrained: bool = False,
) -> dict[str, Any]:
    """Probe the frozen encoder of a run, beside the same encoder untrained."""
    from training.evaluate import evaluate

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


def run_export(
    store: str,
    run: str,
    to: str,
    output: str,
    step: int = 0,
    decoder: bool = False,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Write a run's weights to a folder in the layout of a library; step 0 is the newest."""
    from training.export import export_run

    place = open_store(store, writable=False)
    return export_run(
        place, run, to, output, step=step or None, decoder=decoder, overwrite=overwrite
    )
