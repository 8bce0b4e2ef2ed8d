"""What `headrace ls` prints: datasets with their columns, runs, rejects, samples."""

from __future__ import annotations

import io
from collections import Counter
from typing import Any

from rich.console import Console
from rich.table import Table

from flows.command_text import split_text
from pipelines import catalog as store_catalog
from pipelines.ledger import ledger_of, read_ledger
from storage.fs import open_store
from storage.snapshots import list_datasets

SHOWN = 1000
"Rows of a list that the text shows; the JSON holds all."


def catalog(
    store: str, name: str, *, rejects: bool = False, outcomes: bool = False, samples: int = 0
) -> dict[str, Any]:
    """Return the catalog of a store, or of one dataset or run.

    Args:
        rejects: add the files that are refused, and their number by class.
        outcomes: add what became of every raw file, and the number of each outcome.
        samples: add this many samples.

    Raises:
        FileNotFoundError: nothing of that name.
    """
    place = open_store(store, writable=False)
    if not name:
        whole = store_catalog.list_store(place)
        columns = [c for d in whole["datasets"] for c in _columns(d)]
        return {**whole, "columns": columns, "ledger": read_ledger(place)}
    if name not in list_datasets(place):
        if rejects or outcomes or samples:
            raise FileNotFoundError(
                f"{store}: holds no dataset {name!r}, and only datasets have rejects, outcomes and "
                "samples. See 'headrace ls'."
            )
        if place.exists(f"runs/{name}/run.json"):
            return {
                "datasets": [],
                "columns": [],
                "runs": [store_catalog.describe_run(place, name)],
                "ledger": ledger_of(place, run=name),
            }
        raise FileNotFoundError(
            f"{store}: holds no dataset and no run {name!r}. See 'headrace ls'."
        )
    dataset = store_catalog.describe_dataset(place, name)
    result: dict[str, Any] = {"datasets": [dataset], "columns": _columns(dataset), "runs": []}
    result["ledger"] = ledger_of(place, dataset=name)
    if rejects:
        result["rejects"] = store_catalog.standing_rejects(place, name)
        result["reasons"] = _counted(result["rejects"], "reason_class")
    if outcomes:
        result["outcomes"] = store_catalog.read_outcomes(place, name)
        result["totals"] = _counted(result["outcomes"], "outcome")
    if samples:
        result["samples"] = store_catalog.read_samples(place, name, samples)
    return result


def _columns(dataset: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"dataset": dataset["dataset"], **column} for column in dataset["columns"]]


def _counted(rows: list[dict[str, Any]], name: str) -> dict[str, int]:
    """Return how often each value of a field comes, the most frequent first."""
    return dict(Counter(row[name] for row in rows).most_common())


def catalog_text(result: dict[str, Any]) -> str:
    """Return the catalog as tables."""
    asked = [
        text(result)
        for name, text in (
            ("rejects", _rejects_text),
            ("outcomes", _outcomes_text),
            ("samples", _samples_text),
        )
        if name in result
    ]
    if asked:
        return "\n\n".join(asked)
    parts = []
    if result["datasets"]:
        heads = ("dataset", "modality", "snapshot", "samples", "train", "held out")
        heads += ("shards", "MiB", "inputs", "duplicates", "rejects")
        parts.append(text_table(heads, [_dataset_row(d) for d in result["datasets"]]))
    if len(result["datasets"]) == 1:
        parts.append(f"split by group: {split_text(result['datasets'][0])}")
    if result["columns"]:
        heads = ("dataset", "column", "parts", "MiB", "fingerprint", "parameters")
        parts.append(text_table(heads, [_column_row(c) for c in result["columns"]]))
    if result["runs"]:
        heads = ("run", "dataset", "step", "loss", "held-out loss", "samples/s")
        parts.append(text_table(heads, [_run_row(run) for run in result["runs"]]))
    parts += _ledger_texts(result["ledger"])
    return (
        "\n".join(parts)
        or "the store is empty; begin with 'headrace ingest SOURCE --modality … --dataset NAME'"
    )


def _ledger_texts(ledger: dict[str, list[dict[str, Any]]]) -> list[str]:
    """Return what data work cost, and what each run found done."""
    texts = []
    if ledger["columns"]:
        rows = [
            (
                e["dataset"],
                f"{e['column']} {e['fingerprint'][:8]}",
                f"{e['seconds']:.2f}",
                f"{e['bytes'] / 2**20:.2f}",
                e["samples"],
                e["runs"],
                f"{e['saved']:.2f}",
            )
            for e in ledger["columns"]
        ]
        heads = ("dataset", "data work", "s spent", "MiB", "samples", "runs", "s saved by reuse")
        texts.append(text_table(heads, rows))
    if ledger["runs"]:
        runs = [
            (
                e["run"],
                e["dataset"],
                f"{e['spent']:.2f}",
                f"{e['bytes'] / 2**20:.2f}",
                f"{e['saved']:.2f}",
            )
            for e in ledger["runs"]
        ]
        heads = ("run", "dataset", "s of data work", "MiB", "s saved by reuse")
        texts.append(text_table(heads, runs))
    return texts


def _rejects_text(result: dict[str, Any]) -> str:
    """Return the totals by class, and then the files."""
    if not result["rejects"]:
        return "no rejects"
    rows = [(r["reason_class"], r["uri"], r["detail"]) for r in result["rejects"]]
    totals = text_table(("reason", "files"), list(result["reasons"].items()))
    return f"{totals}\n\n{_shown(('reason', 'file', 'detail'), rows)}"


def _outcomes_text(result: dict[str, Any]) -> str:
    rows = [(r["outcome"], r["uri"], r["detail"]) for r in result["outcomes"]]
    totals = text_table(("outcome", "files"), list(result["totals"].items()))
    return f"{totals}\n\n{_shown(('outcome', 'file', 'detail'), rows)}"


def _samples_text(result: dict[str, Any]) -> str:
    rows = [
        (s["key"], "x".join(map(str, s["shape"])), s["split"], s["label"])
        for s in result["samples"]
    ]
    return text_table(("key", "shape", "split", "label"), rows)


def _shown(heads: tuple[str, ...], rows: list[tuple[Any, ...]]) -> str:
    table = text_table(heads, rows[:SHOWN])
    more = len(rows) - SHOWN
    return f"{table}\n… and {more} more; --json has all" if more > 0 else table


def _dataset_row(about: dict[str, Any]) -> tuple[Any, ...]:
    names = ("dataset", "modality", "snapshot", "samples")
    splits = [about["splits"].get(split, 0) for split in ("train", "heldout")]
    size = f"{about['bytes'] / 2**20:.1f}"
    rest = [about[name] for name in ("inputs", "duplicates", "rejects")]
    return (*(about[name] for name in names), *splits, about["shards"], size, *rest)


def _column_row(about: dict[str, Any]) -> tuple[Any, ...]:
    size = f"{about['bytes'] / 2**20:.2f}"
    fingerprint = about["fingerprint"][:8]
    return (
        about["dataset"],
        about["column"],
        about["parts"],
        size,
        fingerprint,
        about["parameters"],
    )


def _run_row(run: dict[str, Any]) -> tuple[Any, ...]:
    summary = run.get("summary", {})
    names = ("step", "loss", "heldout_loss", "samples_per_second")
    values = [summary.get(name, "") for name in names]
    shown = [f"{v:.4g}" if isinstance(v, float) else v for v in values]
    return (run["run"], run["provenance"]["dataset"], *shown)


def text_table(heads: tuple[str, ...], rows: list[tuple[Any, ...]]) -> str:
    """Return a table as plain text; it keeps long cells whole, so that they can be copied."""
    table = Table(box=None, pad_edge=False)
    for head in heads:
        table.add_column(head, overflow="fold")
    for row in rows:
        table.add_row(*(str(cell) for cell in row))
    buffer = io.StringIO()
    Console(file=buffer, width=160).print(table)
    return "\n".join(line.rstrip() for line in buffer.getvalue().splitlines())
