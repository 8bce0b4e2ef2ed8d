"""What data work cost, and what was saved because it did not have to be done again.

One small file an event under `<store>/ledger/<dataset>/<subject>/`, where a subject is `dataset` or
a column's folder name. Events hold times, so they lie outside of `datasets/`, whose bytes depend on
what was asked alone; nothing reads them but people. What a killed process had done is not counted,
so all sums are "at least".
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Mapping
from typing import Any

from storage.fingerprint import canonical_json
from storage.fs import Store
from storage.snapshots import check_name

FOLDER = "ledger"
DATASET = "dataset"
_OF_RUN = ("spent", "saved", "bytes")


def note_ingest(store: Store, dataset: str, report: Mapping[str, Any], seconds: float) -> None:
    """Write down what an ingest cost.

    Args:
        report: what `pipelines.ingest.ingest` returned.
        seconds: wall seconds it took.
    """
    event = {"what": "ingest", "computed": report["samples"], "reused": report.get("skipped", 0)}
    _note(store, dataset, DATASET, {**event, "seconds": seconds, "bytes": report["bytes"]})


def note_derive(
    store: Store, dataset: str, report: Mapping[str, Mapping[str, Any]], seconds: float
) -> None:
    """Write down what deriving columns cost.

    Args:
        report: what `pipelines.derive.derive` returned.
        seconds: wall seconds of the whole call: what it costs to find that nothing is missing.
    """
    for name, made in report.items():
        column = name.split(" ")[0]
        spent = made["seconds"] if made["computed"] else seconds / len(report)
        event = {name: made[name] for name in ("computed", "reused", "bytes")}
        subject = f"{column}-{made['fingerprint'][:16]}"
        _note(store, dataset, subject, {"what": "derive", **event, "seconds": spent})


def _note(store: Store, dataset: str, subject: str, event: dict[str, Any]) -> None:
    now = time.time()
    stamp = time.strftime("%Y%m%dT%H%M%S", time.gmtime(now))
    path = f"{_folder(dataset)}/{subject}/{stamp}-{uuid.uuid4().hex[:8]}.json"
    store.write(path, canonical_json({**event, "at": round(now, 3)}))


def _folder(dataset: str) -> str:
    return f"{FOLDER}/{check_name(dataset)}"


def note_run(store: Store, run: str) -> dict[str, float] | None:
    """Write down which data work a run was the first to use, and which it found done.

    Returns:
        spent: seconds of data work that no earlier run had used; saved: seconds that earlier runs
        had paid for. None for a run without a record. A run that was noted already stays as it is.
    """
    path = f"runs/{check_name(run)}/run.json"
    if not store.exists(path):
        return None
    provenance = json.loads(store.read(path))["provenance"]
    totals = {"spent": 0.0, "saved": 0.0}
    for used in provenance.get("mixture", [provenance]):
        columns = (f"{c}-{f[:16]}" for c, f in used["columns"].items())
        for subject in (DATASET, *columns):
            noted = _note_use(store, used["dataset"], subject, run)
            for name in totals:
                totals[name] += noted[name]
    return totals


def _note_use(store: Store, dataset: str, subject: str, run: str) -> dict[str, Any]:
    """Return what a run was the first to use of a column, and found done; written down once."""
    events = _events(store, dataset, subject)
    noted = next((e for e in events if e.get("run") == run), None)
    if noted is None:
        used = [e for e in events if e["what"] == "run"]
        made = [e for e in events if e["what"] != "run"]
        paid = sum(e["spent"] for e in used)
        spent = max(sum(e["seconds"] for e in made) - paid, 0.0)
        size = max(sum(e["bytes"] for e in made) - sum(e.get("bytes", 0) for e in used), 0)
        noted = {"what": "run", "run": run, "spent": spent, "saved": paid, "bytes": size}
        event = canonical_json({**noted, "at": round(time.time(), 3)})
        store.put_if_absent(f"{_folder(dataset)}/{subject}/run-{run}.json", event)
    return noted


def _events(store: Store, dataset: str, subject: str) -> list[dict[str, Any]]:
    entries = store.list(f"{_folder(dataset)}/{subject}")
    return [json.loads(store.read(e.path)) for e in entries if e.path.endswith(".json")]


def read_ledger(store: Store) -> dict[str, list[dict[str, Any]]]:
    """Return what is known of cost and reuse.

    Returns:
        columns: dataset, column (or "dataset" for its ingest), fingerprint (16 digits), seconds,
        bytes, samples, runs, saved (seconds that later runs did not have to spend).
        runs: run, dataset, spent, saved (seconds), bytes (that no earlier run had used).
    """
    columns, runs = [], dict[str, dict[str, Any]]()
    for dataset in store.folders(FOLDER):
        for subject in store.folders(_folder(dataset)):
            events = _events(store, dataset, subject)
            made = [e for e in events if e["what"] != "run"]
            users = [e for e in events if e["what"] == "run"]
            column, _, digits = subject.rpartition("-")
            columns.append(
                {
                    "dataset": dataset,
                    "column": column or subject,
                    "fingerprint": digits if column else "",
                    "seconds": sum(e["seconds"] for e in made),
                    "bytes": sum(e["bytes"] for e in made),
                    "samples": sum(e["computed"] for e in made),
                    "runs": len(users),
                    "saved": sum(e["saved"] for e in users),
                }
            )
            for user in users:
                blank = {"run": user["run"], "dataset": dataset} | dict.fromkeys(_OF_RUN, 0)
                line = runs.setdefault(user["run"], blank)
                for name in _OF_RUN:
                    line[name] += user.get(name, 0)
    return {"columns": columns, "runs": list(runs.values())}


def ledger_of(store: Store, *, dataset: str = "", run: str = "") -> dict[str, list[dict[str, Any]]]:
    """Return what `read_ledger` says of one dataset, or of one run alone."""
    whole = read_ledger(store)
    return {
        "columns": [line for line in whole["columns"] if line["dataset"] == dataset],
        "runs": [
            line for line in whole["runs"] if line["run"] == run or line["dataset"] == dataset
        ],
    }
