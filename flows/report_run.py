"""What a report shows of a run: how it went, what it saw, and what it was made of."""

from __future__ import annotations

import json
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
    Table,
    image,
)
from flows.report_pictures import fitted, overlay_mask, stained, strip, true_colour
from flows.report_samples import EXHIBIT, SHOWN_FRAMES
from pipelines.batch import BatchBuilder
from pipelines.catalog import describe_run, open_snapshot
from pipelines.ledger import ledger_of
from pipelines.recipe_stream import stream_of
from pipelines.rows import read_rows
from storage.fs import Store
from training.recipe import make_recipe

SIGNS = (
    ("effective rank of the features", "dimensions", {"effective_rank": "rank"}),
    ("variance between tokens", "variance", {"token_variance": "variance"}),
    ("dimensions that no longer move", "share", {"dead_dimensions": "share"}),
    (
        "reconstruction error by spatial frequency",
        "share of power",
        {f"error_{band}": band for band in ("low", "middle", "high")},
    ),
    ("kNN probe while training", "accuracy", {"knn_accuracy": "accuracy"}),
)
"Signs of learning: title, label of the axis, and curves by their names in the log."
MASKED, PICTURES = 3, 3
DRAWN = "input, masked, reconstruction"
LOOKED_AT = 32
"Samples among which the exhibits of masks are chosen."


def run_section(store: Store, name: str) -> RunSection:
    """Return what a report shows of a run."""
    run = describe_run(store, name)
    recipe, summary = run["recipe"], run.get("summary", {})
    lines = [json.loads(line) for line in store.read(f"runs/{name}/metrics.jsonl").splitlines()]
    steps = [line for line in lines if "loss" in line]
    return RunSection(
        name=name,
        dataset=recipe["data"]["dataset"],
        recipe=recipe["name"],
        paper=recipe["paper"],
        facts=_facts(summary),
        advice=summary.get("data_advice") or "",
        charts=_charts(steps, lines),
        masks=_masks(store, recipe),
        pictures=_pictures(store, name),
        throughput=_throughput(steps),
        ledger=_run_work(store, name),
        probes=tuple(_probe(probe) for probe in run["probes"]),
        checkpoints=_checkpoints(store, name, recipe["batch"]),
        settings=recipe,
        provenance=run["provenance"],
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


def _facts(summary: dict[str, Any]) -> tuple[tuple[str, str], ...]:
    if not summary:
        return (("state", "not finished"),)
    heldout, mfu = summary["heldout_loss"], summary.get("mfu")
    facts = (
        ("steps", f"{summary['step']}"),
        ("parameters", f"{summary['parameters'] / 1e6:.2f} M"),
        ("loss", f"{summary['first_loss']:.4f} → {summary['loss']:.4f}"),
        ("held-out loss", "none" if heldout is None else f"{heldout:.4f}"),
        ("throughput", f"{summary['samples_per_second']:.1f} samples/s"),
        ("waiting for data", f"{summary['data_wait_share']:.1%}"),
        ("of peak FLOP/s", "" if mfu is None else f"{mfu:.1%}"),
        ("epochs proven", f"{summary['epochs_proven']}" if summary.get("epochs_proven") else ""),
        ("steps passed over", f"{summary['skipped']}" if summary.get("skipped") else ""),
    )
    return tuple((name, value) for name, value in facts if value)


def _checkpoints(store: Store, run: str, batch: int) -> tuple[CheckpointRow, ...]:
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
            about=record.get("about", {}),
        )
        for record in records
    )
    return tuple(sorted(rows, key=lambda row: -row.step))


def _charts(steps: list[dict[str, Any]], lines: list[dict[str, Any]]) -> tuple[Chart, ...]:
    loss = Series("training", tuple((line["step"], line["loss"]) for line in steps))
    held = tuple((x["step"], x["heldout_loss"]) for x in lines if x.get("heldout_loss") is not None)
    speed = Series("samples/s", tuple((line["step"], line["samples_per_second"]) for line in steps))
    both = (loss, Series("held-out", held, dashed=True))
    charts = (
        Chart(title="loss", x_label="step", y_label="loss", series=both),
        Chart(title="throughput", x_label="step", y_label="samples/s", series=(speed,)),
        *(
            Chart(title=title, x_label="step", y_label=label, series=_signs(lines, names))
            for title, label, names in SIGNS
        ),
    )
    return tuple(chart for chart in charts if chart.series)


def _signs(lines: list[dict[str, Any]], names: dict[str, str]) -> tuple[Series, ...]:
    """Return the curves of what was measured; none of what was not."""
    curves = (
        Series(shown, tuple((line["step"], line[name]) for line in lines if name in line))
        for name, shown in names.items()
    )
    return tuple(curve for curve in curves if curve.points)


def _throughput(steps: list[dict[str, Any]]) -> Table:
    rows = tuple(
        (
            line["step"],
            round(line["samples_per_second"], 1),
            f"{line['data_wait_share']:.1%}",
            line["lr"],
        )
        for line in steps[-8:]
    )
    return Table(heads=("step", "samples/s", "waiting for data", "learning rate"), rows=rows)


def _pictures(store: Store, name: str) -> tuple[Image, ...]:
    paths = [
        entry.path for entry in store.list(f"runs/{name}/pictures") if entry.path.endswith(".png")
    ]
    chosen = paths[:1] + paths[-(PICTURES - 1) :] if len(paths) > PICTURES else paths
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
    )


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
    title = f"{made.mask.kind} mask, {made.mask.ratio:.0%} hidden"
    return tuple(
        Exhibit(
            title=title,
            rows=_masked_rows(
                _as_frames(batch["pixels"][i].numpy(), bands, made.modality), masks[i]
            ),
        )
        for i in moving[:MASKED]
    )


def _masked_rows(frames: NDArray[np.uint8], mask: NDArray[np.bool_]) -> tuple[Row, ...]:
    """Return the frames (T, H, W, 3), and below them the frames under their mask (t, h, w)."""
    if len(frames) < len(mask):  # band groups: one picture, a mask a group
        frames = np.repeat(frames, len(mask), 0)
    steps = np.linspace(0, len(frames) - 1, min(len(frames), SHOWN_FRAMES)).round().astype(int)
    return tuple(
        Row(
            label=label,
            image=image(strip([fitted(shown[i], EXHIBIT) for i in steps]), frames=len(steps)),
        )
        for label, shown in (("seen", frames), ("masked", overlay_mask(frames, mask)))
    )


def _as_frames(pixels: NDArray[Any], bands: list[str], modality: str) -> NDArray[np.uint8]:
    """Return batch pixels (C, H, W) or (C, T, H, W) as RGB frames (T, H, W, 3)."""
    if pixels.ndim == 4:
        return np.ascontiguousarray(pixels.transpose(1, 2, 3, 0))
    if modality == "image":
        return np.ascontiguousarray(pixels.transpose(1, 2, 0))[None]
    return (true_colour(pixels, bands) if modality == "satellite" else stained(pixels, bands))[None]
