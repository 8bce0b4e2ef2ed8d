"""The batches that a run passed over, and why: runs/<run>/skipped.json."""

from __future__ import annotations

import math
from typing import Any

from storage.fs import Store
from training.guard import BadStep, DivergedError
from training.runs import read_record, write_record

FILE = "skipped.json"
NAMED = 8
"samples that a message names; the file names all"


def read_skips(store: Store, run: str) -> list[dict[str, Any]]:
    """Return what is known of each batch that the run passes over, in the order they were found.

    Each has `step` (from 0), `reason`, `loss`, `grad_norm`, `back_to` (the step of the checkpoint
    the run went back to), and `samples`: dataset, shard and key of each, and its own `loss`.
    """
    record = read_record(store, run, FILE)
    return [] if record is None else list(record["skipped"])


def note_skip(
    skips: list[dict[str, Any]],
    bad: BadStep,
    samples: list[dict[str, Any]],
    back_to: int,
    *,
    run: str,
    most: int,
) -> str:
    """Add a batch to those that are passed over; returns what is to be told.

    Args:
        samples: dataset, shard and key of each sample of the batch.
        back_to: step of the checkpoint that the run goes back to.
        most: batches that the run may pass over.

    Raises:
        DivergedError: it is one too many.
    """
    told = f"run {run}, {bad}. Its batch held {name_samples(samples)}"
    if len(skips) >= most:
        raise DivergedError(
            f"{told}. {len(skips)} batches were passed over before, guard.most allows {most}; "
            f"runs/{run}/{FILE} names them. Lower optim.lr, set optim.clip, or take the samples "
            "out, and begin a new run."
        )
    skips.append(
        {
            "step": bad.step,
            "reason": bad.reason,
            "loss": str(bad.loss),
            "grad_norm": str(bad.norm),
            "back_to": back_to,
            "samples": samples,
        }
    )
    return f"{told}. Going back to step {back_to}; this batch is passed over."


def write_skips(store: Store, run: str, skips: list[dict[str, Any]]) -> None:
    """Keep the batches that are passed over."""
    write_record(store, run, FILE, {"version": 1, "skipped": skips})


def note_losses(store: Store, run: str, step: int, losses: dict[str, float]) -> None:
    """Add to a batch that was passed over the loss of each sample by itself, worst first.

    Args:
        losses: by key, under the weights as they were before the batch.
    """
    skips = read_skips(store, run)
    for skip in (s for s in skips if s["step"] == step):
        for sample in skip["samples"]:
            sample["loss"] = str(losses.get(sample["key"]))
        skip["samples"].sort(key=lambda sample: _badness(sample["loss"]))
    write_skips(store, run, skips)


def name_samples(samples: list[dict[str, Any]]) -> str:
    """Return the first samples of a batch as `dataset/shard/key`."""
    named = ", ".join("/".join((s["dataset"], s["shard"], s["key"])) for s in samples[:NAMED])
    more = len(samples) - NAMED
    return f"{named} and {more} more" if more > 0 else named


def _badness(loss: str) -> tuple[bool, float]:
    """Return a key that sorts losses: those that are no finite number, then the largest."""
    value = float(loss) if loss != "None" else 0.0
    return (True, -value) if math.isfinite(value) else (False, 0.0)
