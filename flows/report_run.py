"""What a report shows of a run: how it went, what it saw, and what it was made of."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from flows.report_curves import Series
from flows.report_parts import (
    Chart,
    CheckpointRow,
    Exhibit,
    Image,
    ProbeRow,
    Row,
    RunSection,
    Source,
    Table,
    image,
)
from flows.report_pictures import overlay_mask, stained, true_colour
from flows.report_samples import SHOWN_FRAMES, labelled
from pipelines.batch import BatchBuilder
from pipelines.catalog import describe_run, open_snapshot
from pipelines.ledger import ledger_of
from pipelines.recipe_stream import stream_of
from pipelines.rows import read_rows
from storage.columns import list_columns
from storage.fs import Store
from training.recipe import make_recipe

SIGNS = (
    (
        "effective rank of the features",
        "dimensions",
        {"effective_rank": "rank"},
        "How many directions the features of the held-out samples spread over, at most one a "
        "sample; near 1 of many they have collapsed.",
    ),
    (
        "variance between tokens",
        "variance",
        {"token_variance": "variance"},
        "How much the tokens of one sample differ; at 0 they all say the same.",
    ),
    (
        "dimensions that no longer move",
        "share",
        {"dead_dimensions": "share"},
        "Features that are the same for every sample.",
    ),
    (
        "reconstruction error by spatial frequency",
        "share of power",
        {f"error_{band}": band for band in ("low", "middle", "high")},
        "Of the pictures' own power in that band; 1 is what a flat grey would leave.",
    ),
    (
        "kNN probe while training",
        "accuracy",
        {"knn_accuracy": "accuracy"},
        "Of held-out samples whose nearest neighbours name their class.",
    ),
)
"Signs of learning: title, label of the axis, curves by their names in the log, how to read it."
MASKED, PICTURES = 3, 8
DRAWN = "input, masked, reconstruction"
LOOKED_AT = 32
"Samples among which the exhibits of masks are chosen."


def run_section(store: Store, name: str) -> RunSection:
    """Return what a report shows of a run."""
    run = describe_run(store, name)
    recipe, summary = run["recipe"], run.get("summary", {})
    lines = [json.loads(line) for line in store.read(f"runs/{name}/metrics.jsonl").splitlines()]
    steps = [line for line in lines if "loss" in line]
    stalls = next((line["feed"] for line in reversed(lines) if "feed" in line), None)
    return RunSection(
        name=name,
        dataset=recipe["data"]["dataset"],
        recipe=recipe["name"],
        paper=recipe["paper"],
        facts=_facts(summary, stalls) if summary else _unfinished(steps, recipe),
        advice=summary.get("data_advice") or "",
        charts=_charts(steps, lines),
        looks=_looks(lines),
        masks=_masks(store, recipe),
        pictures=_pictures(store, name),
        stalls=_stalls(stalls) if stalls else None,
        ledger=_run_work(store, name),
        probes=tuple(_probe(probe) for probe in run["probes"]),
        checkpoints=_checkpoints(store, name, recipe["batch"], run["batches_per_epoch"]),
        settings=recipe,
        sources=_sources(store, name, recipe["name"], run["provenance"]),
    )


def _run_work(store: Store, run: str) -> Table | None:
    """Return the data work that a run was the first to use, and that it found done."""
    lines = ledger_of(store, run=run)["runs"]
    rows = tuple(
        (e["dataset"], round(e["spent"], 2), round(e["bytes"] / 2**20, 2), round(e["saved"], 2))
        for e in lines
    )
    heads = ("dataset", "seconds of data work", "MiB", "seconds saved by reuse")
    return Table(heads=heads, rows=rows) if rows else None


def _facts(summary: dict[str, Any], stalls: dict[str, Any] | None) -> tuple[tuple[str, str], ...]:
    heldout, mfu = summary["heldout_loss"], summary.get("mfu")
    ceiling = summary.get("ceiling_samples_per_second")
    waiting = stalls["waited"] / stalls["seconds"] if stalls and stalls["seconds"] else None
    facts = (
        ("steps", f"{summary['step']:,}"),
        ("parameters", f"{summary['parameters'] / 1e6:.2f} M"),
        ("loss", f"{summary['first_loss']:.4f} → {summary['loss']:.4f}"),
        ("held-out loss", "none" if heldout is None else f"{heldout:.4f}"),
        ("throughput", f"{summary['samples_per_second']:.1f} samples/s"),
        ("throughput of the step alone", "" if ceiling is None else f"{ceiling:.1f} samples/s"),
        ("waiting for data", "" if waiting is None else f"{waiting:.0%}"),
        ("of peak FLOP/s", "" if mfu is None else f"{mfu:.1%}"),
        ("epochs proven", f"{summary['epochs_proven']}" if summary.get("epochs_proven") else ""),
        ("steps passed over", f"{summary['skipped']}" if summary.get("skipped") else ""),
        ("samples replaced", f"{summary.get('failed_samples') or ''}"),
    )
    return tuple((name, value) for name, value in facts if value)


def _unfinished(steps: list[dict[str, Any]], recipe: dict[str, Any]) -> tuple[tuple[str, str], ...]:
    if not steps:
        return (("state", "no step was logged yet"),)
    return (
        ("state", "not finished; the same command with --resume goes on"),
        ("steps", f"{steps[-1]['step']:,} of {recipe['steps']:,}"),
        ("loss", f"{steps[0]['loss']:.4f} → {steps[-1]['loss']:.4f}"),
    )


def _checkpoints(
    store: Store, run: str, batch: int, batches_per_epoch: int
) -> tuple[CheckpointRow, ...]:
    """Return the checkpoints that are kept, newest first."""
    records = (
        json.loads(store.read(entry.path))
        for entry in store.list(f"runs/{run}/checkpoints")
        if entry.path.endswith(".json")
    )
    rows = (
        CheckpointRow(
            step=record["step"],
            heldout_loss=record.get("heldout_loss"),
            samples=record["step"] * batch,
            epochs=record["step"] / batches_per_epoch,
            fingerprint=record.get("fingerprint", ""),
        )
        for record in records
    )
    return tuple(sorted(rows, key=lambda row: -row.step))


def _sources(store: Store, run: str, recipe: str, provenance: dict[str, Any]) -> tuple[Source, ...]:
    """Return what a run was made of: recipe, snapshot, columns, code."""
    dataset, snapshot = provenance["dataset"], provenance["snapshot"]
    specs = {spec.fingerprint: spec for spec in list_columns(store, dataset)}
    columns = (
        Source(
            what="column",
            name=name,
            fingerprint=fingerprint,
            detail=json.dumps(specs[fingerprint].parameters) if fingerprint in specs else "removed",
            anchor=f"column-{dataset}-{fingerprint[:8]}",
        )
        for name, fingerprint in provenance["columns"].items()
    )
    return (
        Source(
            what="recipe",
            name=recipe,
            fingerprint=provenance.get("recipe_fingerprint", ""),
            anchor=f"recipe-{run}",
        ),
        Source(
            what="snapshot",
            name=f"{dataset}, snapshot {snapshot}",
            fingerprint=provenance["fingerprint"],
            anchor=dataset,
        ),
        *columns,
        Source(what="code", name=provenance["code"], detail=f"torch {provenance.get('torch', '')}"),
    )


def _charts(steps: list[dict[str, Any]], lines: list[dict[str, Any]]) -> tuple[Chart, ...]:
    loss, held = _curve("training", lines, "loss"), _curve("held-out", lines, "heldout_loss")
    waits = [{**line, "waiting": 100 * line["data_wait_share"]} for line in steps]
    charts = (
        ("loss", "loss", (loss, replace(held, dashed=True)), ""),
        ("throughput", "samples/s", (_curve("samples/s", steps, "samples_per_second"),), ""),
        *((title, label, _signs(lines, names), note) for title, label, names, note in SIGNS),
        ("waiting for data", "% of the time", (_curve("waiting", waits, "waiting"),), ""),
        ("learning rate", "learning rate", (_curve("learning rate", steps, "lr"),), ""),
    )
    return tuple(
        Chart(title=title, x_label="step", y_label=label, series=series, note=note)
        for title, label, series, note in charts
        if any(len(one.points) > 1 for one in series)
    )


def _curve(shown: str, lines: list[dict[str, Any]], name: str) -> Series:
    """Return what was logged under a name."""
    points = ((line["step"], line[name]) for line in lines if line.get(name) is not None)
    return Series(shown, tuple(points))


def _signs(lines: list[dict[str, Any]], names: dict[str, str]) -> tuple[Series, ...]:
    """Return the curves of what was measured; none of what was not."""
    curves = (_curve(shown, lines, name) for name, shown in names.items())
    return tuple(curve for curve in curves if curve.points)


def _looks(lines: list[dict[str, Any]]) -> Table | None:
    """Return the signs of learning that were measured at one step only."""
    rows = tuple(
        (title if len(names) == 1 else f"{title}, {one.name}", one.points[0][1], note)
        for title, _, names, note in SIGNS
        for one in _signs(lines, names)
        if len(one.points) == 1
    )
    return Table(heads=("sign of learning", "value", "how to read it"), rows=rows) if rows else None


def _stalls(feed: dict[str, Any]) -> Table:
    """Return what the steps waited for, the longest first."""
    waits = {
        name.removeprefix("waited_"): seconds
        for name, seconds in feed.items()
        if name.startswith("waited_")
    }
    rows = tuple(
        (stage, round(seconds, 2), f"{seconds / feed['seconds']:.1%}")
        for stage, seconds in sorted(waits.items(), key=lambda item: -item[1])
        if feed["seconds"]
    )
    return Table(heads=("waited for", "seconds", "of the run"), rows=rows)


def _pictures(store: Store, name: str) -> tuple[Image, ...]:
    paths = [
        entry.path for entry in store.list(f"runs/{name}/pictures") if entry.path.endswith(".png")
    ]
    count = min(len(paths), PICTURES)
    chosen = [paths[i] for i in np.linspace(0, len(paths) - 1, count).round().astype(int)]
    return tuple(
        image(_rgb(store.read(path)), f"step {int(Path(path).stem.removeprefix('step-'))}: {DRAWN}")
        for path in chosen
    )


def _rgb(png: bytes) -> NDArray[np.uint8]:
    """Return the pixels of a PNG: stored again as WebP it is a tenth of the bytes."""
    pixels = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR_RGB)
    return np.asarray(pixels, np.uint8)


def _probe(probe: dict[str, Any]) -> ProbeRow:
    return ProbeRow(
        dataset=probe["test"] or probe["dataset"],
        probe=probe["probe"],
        samples=probe["queries"],
        classes=probe["classes"],
        untrained=probe.get("untrained_accuracy"),
        trained=probe["accuracy"],
        sure=_interval(probe, ""),
        untrained_sure=_interval(probe, "untrained_"),
    )


def _interval(probe: dict[str, Any], prefix: str) -> tuple[float, float] | None:
    low, high = probe.get(f"{prefix}low"), probe.get(f"{prefix}high")
    return None if low is None or high is None else (low, high)


def _masks(store: Store, recipe: dict[str, Any]) -> tuple[Exhibit, ...]:
    """Return samples as the run saw them in its first epoch: the view, and the mask over it.

    Of the samples with the most motion, those whose mask changes most over time.
    """
    made = make_recipe(recipe)
    stream = stream_of(made)
    snapshot = open_snapshot(store, stream.dataset, stream.snapshot)
    rows = read_rows(store, snapshot, None, stream.needed_columns())
    scores = [
        (-score, shard, row)
        for shard, entry in enumerate(rows)
        for row, score in enumerate(entry.table["score"].to_pylist())
    ]
    chosen = [(shard, row) for _, shard, row in sorted(scores)[:LOOKED_AT]]
    batch = BatchBuilder(store.uri, stream, rows).build(chosen, epoch=0)
    bands = [name for group in made.model.groups for name in group]
    bands = bands or list(snapshot.settings["channels"])
    edge = made.view.size // made.model.patch
    tokens = np.arange(batch["visible"].shape[1] + batch["masked"].shape[1])
    masks = [np.isin(tokens, ids).reshape(-1, edge, edge) for ids in batch["masked"].numpy()]
    moving = sorted(range(len(masks)), key=lambda i: -int((masks[i][0] != masks[i][-1]).sum()))
    names = [" ".join(group) for group in made.model.groups]
    return tuple(
        Exhibit(
            title=rows[chosen[i][0]].table["key"][chosen[i][1]].as_py(),
            rows=_masked_rows(
                _as_frames(batch["pixels"][i].numpy(), bands, made.modality), masks[i], names
            ),
        )
        for i in moving[:MASKED]
    )


def _masked_rows(
    frames: NDArray[np.uint8], mask: NDArray[np.bool_], groups: list[str]
) -> tuple[Row, ...]:
    """Return the frames (T, H, W, 3), and below them the frames under their mask (t, h, w); of
    band groups one picture, and the mask of each group."""
    pictures = frames if len(frames) >= len(mask) else frames.repeat(len(mask), 0)
    masked = overlay_mask(pictures, mask)
    steps = np.linspace(0, len(masked) - 1, min(len(masked), SHOWN_FRAMES)).round().astype(int)
    seen = [frames[0]] if len(frames) < len(mask) else [frames[i] for i in steps]
    names = [groups[i] for i in steps] if len(groups) == len(mask) == len(masked) else []
    label = f"masked: {mask.mean():.0%} hidden"
    return labelled("seen", seen), labelled(label, [masked[i] for i in steps], names)


def _as_frames(pixels: NDArray[Any], bands: list[str], modality: str) -> NDArray[np.uint8]:
    """Return batch pixels (C, H, W) or (C, T, H, W) as RGB frames (T, H, W, 3)."""
    if pixels.ndim == 4:
        return np.ascontiguousarray(pixels.transpose(1, 2, 3, 0))
    if modality == "image":
        return np.ascontiguousarray(pixels.transpose(1, 2, 0))[None]
    return (true_colour(pixels, bands) if modality == "satellite" else stained(pixels, bands))[None]
