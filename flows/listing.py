"""What `headrace ls` prints: datasets with their columns, runs, rejects, samples."""

from __future__ import annotations

import io
from typing import Any

from rich.console import Console
from rich.table import Table

from pipelines import catalog as store_catalog
from storage.fs import open_store
from storage.snapshots import list_datasets


def catalog(store: str, name: str, *, rejects: bool = False, samples: int = 0) -> dict[str, Any]:
    """Return the catalog of a store, or of one dataset or run.

    Raises:
        FileNotFoundError: nothing of that name.
    """
    place = open_store(store, writable=False)
    if not name:
        whole = store_catalog.list_store(place)
        return {**whole, "columns": [c for d in whole["datasets"] for c in _columns(d)]}
    if name not in list_datasets(place):
        if place.exists(f"runs/{name}/run.json"):
            return {
                "datasets": [],
                "columns": [],
                "runs": [store_catalog.describe_run(place, name)],
            }
        raise FileNotFoundError(
            f"{store}: holds no dataset and no run {name!r}. See 'headrace ls'."
        )
    dataset = store_catalog.describe_dataset(place, name)
    result: dict[str, Any] = {"datasets": [dataset], "columns": _columns(dataset), "runs": []}
    if rejects:
        result["rejects"] = store_catalog.read_rejects(place, name)
    if samples:
        result["samples"] = store_catalog.read_samples(place, name, samples)
    return result


def _columns(dataset: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"dataset": dataset["dataset"], **column} for column in dataset["columns"]]


def catalog_text(result: dict[str, Any]) -> str:
    """Return the catalog as tables."""
    parts = []
    if "rejects" in result:
        rows = [(r["reason_class"], r["uri"], r["detail"]) for r in result["rejects"]]
        return text_table(("reason", "file", "detail"), rows) if rows else "no rejects"
    if "samples" in result:
        rows = [
            (s["key"], "x".join(map(str, s["shape"])), s["split"], s["label"])
            for s in result["samples"]
        ]
        return text_table(("key", "shape", "split", "label"), rows)
    if result["datasets"]:
        heads = (
            "dataset",
            "modality",
            "snapshot",
            "samples",
            "shards",
            "MiB",
            "inputs",
            "duplicates",
            "rejects",
        )
        rows = [
            (
                d["dataset"],
                d["modality"],
                d["snapshot"],
                d["samples"],
                d["shards"],
                f"{d['bytes'] / 2**20:.1f}",
                d["inputs"],
                d["duplicates"],
                d["rejects"],
            )
            for d in result["datasets"]
        ]
        parts.append(text_table(heads, rows))
    if result["columns"]:
        heads = ("dataset", "column", "parts", "MiB", "fingerprint", "parameters")
        rows = [
            (
                c["dataset"],
                c["column"],
                c["parts"],
                f"{c['bytes'] / 2**20:.2f}",
                c["fingerprint"][:8],
                c["parameters"],
            )
            for c in result["columns"]
        ]
        parts.append(text_table(heads, rows))
    if result["runs"]:
        heads = ("run", "dataset", "step", "loss", "held-out loss", "samples/s")
        parts.append(text_table(heads, [_run_row(run) for run in result["runs"]]))
    return (
        "\n".join(parts)
        or "the store is empty; begin with 'headrace ingest SOURCE --modality … --dataset NAME'"
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
