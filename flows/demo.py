"""The whole road on raw inputs made on the spot: four modalities, from files to a report a person
looks at."""

from __future__ import annotations

import json
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flows.command_text import derive_line, ingest_text
from flows.listing import text_table
from flows.once import Stages, probe_once, train_once
from flows.options import say
from storage.fs import Store, open_store

RAW_NOTE = "raw inputs of 'headrace demo'; they can be removed with the store"


@dataclass(frozen=True, kw_only=True, slots=True)
class Chapter:
    """What the demo does with one modality."""

    recipe: str
    spec: dict[str, Any]
    columns: dict[str, dict[str, Any]] = field(default_factory=dict)
    "columns to derive besides those that the recipe needs"


_GLYPHS = {"kind": "center", "flip": False, "scale": [0.2, 1.0], "aspect": [0.75, 4 / 3]}
CHAPTERS: dict[str, Chapter] = {
    "image": Chapter(
        recipe="maskfeat_image_tiny", spec={"resize": 96, "labels": "parent", "heldout": 0.1}
    ),
    "video": Chapter(
        recipe="mgmae_tiny",
        spec={"resize": 96, "frames": 16, "labels": "parent", "heldout": 0.1},
        columns={
            "motion": {"cell": 8},
            "hog": {"patch": 16, "tubelet": 2, "view": {**_GLYPHS, "size": 96}},
        },
    ),
    "microscopy": Chapter(
        recipe="cell_mae_tiny",
        spec={
            "pattern": r"(?P<plate>P\d+)_(?P<well>[A-P]\d\d)_s(?P<site>\d+)_w\d_"
            r"(?P<channel>\w+)\.tif$",
            "labels": "parent",
            "heldout": 0.1,
        },
        columns={"hog": {"patch": 16, "tubelet": 1, "view": {**_GLYPHS, "size": 96}}},
    ),
    "satellite": Chapter(
        recipe="satmae_group_tiny",
        spec={"labels": "parent", "heldout": 0.1, "min_valid": 0.3},
        columns={"ndi": {}, "hog": {"patch": 16, "tubelet": 1, "view": {**_GLYPHS, "size": 64}}},
    ),
}


def run_demo(
    store: str, modalities: list[str], stages: Stages, executor: dict[str, Any]
) -> dict[str, Any]:
    """Make raw inputs, then ingest, derive, pretrain and probe each modality, and write one report.

    What an earlier demo on the same store has done is found there and not done again.

    Returns:
        report (path), datasets, runs, seconds, worked (stages that had something to do) and table
        (text).
    """
    from flows.report_data import write_report

    began = time.monotonic()
    place = open_store(store)
    raw = _raw_inputs(place, modalities)
    rows, worked = [], 0
    for modality in modalities:
        say(f"— {modality} —")
        row, done = _chapter(place, modality, str(raw[modality]), stages, executor)
        rows.append(row)
        worked += done
    names = [
        name for modality in modalities for name in (f"demo_{modality}", f"demo_{modality}_run")
    ]
    output = (place.local_path() or Path.cwd()) / "demo.html"
    if worked or not output.exists():
        write_report(store, names, output)
        worked += 1
    seconds = round(time.monotonic() - began, 1)
    heads = (
        "modality",
        "files",
        "rejects",
        "samples",
        "recipe",
        "loss",
        "held-out",
        "kNN untrained",
        "kNN trained",
    )
    ending = f"report: {output}\ndemo finished in {seconds:.0f} s"
    if not worked:
        ending += f": nothing to do, everything was in {store} already"
    return {
        "report": str(output),
        "datasets": [f"demo_{modality}" for modality in modalities],
        "runs": [f"demo_{modality}_run" for modality in modalities],
        "seconds": seconds,
        "worked": worked,
        "table": f"{text_table(heads, rows)}\n{ending}",
    }


def _raw_inputs(place: Store, modalities: list[str]) -> dict[str, Path]:
    """Make the raw inputs beside a local store, or in the temporary folder for a remote one."""
    from flows.demo_data import make_demo_data

    local = place.local_path()
    folder = local / "demo-raw" if local else Path(tempfile.gettempdir()) / "headrace-demo-raw"
    done = folder / "complete.json"
    made = json.loads(done.read_bytes()) if done.exists() else []
    if any(modality not in made for modality in modalities):
        say(f"making raw inputs in {folder}")
        make_demo_data(folder, modalities=tuple(modalities))
        done.write_text(json.dumps(sorted({*made, *modalities})))
    return {modality: folder / modality for modality in modalities}


def _chapter(
    place: Store, modality: str, raw: str, stages: Stages, executor: dict[str, Any]
) -> tuple[tuple[Any, ...], int]:
    """Walk one modality; returns its row of the final table and how many stages had work to do."""
    from flows.recipes import needed_columns
    from pipelines.catalog import describe_dataset

    chapter, dataset, run = CHAPTERS[modality], f"demo_{modality}", f"demo_{modality}_run"
    report = stages["ingest"](
        place.uri, [raw], dataset, {"modality": modality, **chapter.spec}, executor
    )
    say(ingest_text(report))
    worked = int(report["inputs"] > report["skipped"])
    overrides = [f"data.dataset={dataset}"]
    for columns in (needed_columns(chapter.recipe, dataset, []), chapter.columns):
        if columns:
            derived = stages["derive"](place.uri, dataset, columns, executor)
            worked += sum(bool(about["computed"]) for about in derived.values())
            for name, about in derived.items():
                say(derive_line(dataset, name, about))
    summary, trained = train_once(place, chapter.recipe, overrides, run, stages)
    probe, probed = probe_once(place, run, dataset, stages)
    described = describe_dataset(place, dataset)
    row = (
        modality,
        described["inputs"],
        described["rejects"],
        described["samples"],
        chapter.recipe,
        f"{summary['first_loss']:.3f} → {summary['loss']:.3f}",
        f"{summary['heldout_loss']:.3f}" if summary["heldout_loss"] is not None else "none",
        f"{probe['untrained_accuracy']:.1%}",
        f"{probe['accuracy']:.1%}",
    )
    return row, worked + trained + probed
