"""`headrace verify`, `gc` and `ls`: what a store holds, and whether it is whole."""

from __future__ import annotations

from typing import Annotated

import typer

from flows.arguments import Json, Store, executor_values
from flows.command_text import gc_text, verify_text
from flows.options import FAILED, UsageError, answer, errors_for_people

VERIFY_EXAMPLE = "Examples: headrace verify photos; headrace verify photos --repair"
GC_EXAMPLE = (
    "Examples: headrace gc --dry-run; headrace gc --store s3://bucket/store --older-than 48"
)
LS_EXAMPLE = "Examples: headrace ls; headrace ls photos; headrace ls photos --rejects"


def verify(
    dataset: Annotated[str, typer.Argument(help="the dataset")],
    repair: Annotated[
        bool, typer.Option("--repair", help="make what is lost or damaged again from its sources")
    ] = False,
    workers: Annotated[int, typer.Option(help="processes at once; 0 takes one a core")] = 0,
    store: Store = "./store",
    as_json: Json = False,
) -> None:
    """Check every byte of a dataset against its manifests; exit code 1 if any is damaged."""
    from flows.stages import run_verify

    with errors_for_people():
        executor = executor_values(workers, True, "")
        report = run_verify(store, dataset, repair, executor)
    answer(report, as_json, verify_text(dataset, report))
    if report["damaged"]:
        raise typer.Exit(FAILED)


def collect_garbage(
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="only say what would be removed")
    ] = False,
    older_than: Annotated[
        float | None,
        typer.Option(
            help="leave folders alone in which something was written within this many hours; by "
            "default 24 in object stores, which have no locks, and 0 on disks, where a lock tells "
            "a living writer"
        ),
    ] = None,
    store: Store = "./store",
    as_json: Json = False,
) -> None:
    """Remove what no snapshot and no column names: what killed ingests and derives left behind.

    Work in progress is safe. An interrupted ingest can still be continued afterwards, but begins
    anew.
    """
    from flows.stages import run_gc

    with errors_for_people():
        if older_than is not None and older_than < 0:
            raise UsageError(f"--older-than is {older_than}; it must not be negative.")
        report = run_gc(store, dry_run, older_than)
    answer(report, as_json, gc_text(report, dry_run))


def list_catalog(
    name: Annotated[str, typer.Argument(help="a dataset or a run; by default all")] = "",
    rejects: Annotated[bool, typer.Option(help="files that were refused, and why")] = False,
    outcomes: Annotated[
        bool, typer.Option(help="what became of every raw file: written, duplicate, rejected")
    ] = False,
    samples: Annotated[int, typer.Option(help="show this many samples")] = 0,
    store: Store = "./store",
    as_json: Json = False,
) -> None:
    """List datasets with their splits and columns, and runs."""
    from flows.listing import catalog, catalog_text

    with errors_for_people():
        if (rejects or outcomes or samples) and not name:
            raise UsageError("ls: --rejects, --outcomes and --samples need the name of a dataset.")
        if samples < 0:
            raise UsageError(f"ls: --samples is {samples}; it must not be negative.")
        result = catalog(store, name, rejects=rejects, outcomes=outcomes, samples=samples)
    answer(result, as_json, catalog_text(result))
