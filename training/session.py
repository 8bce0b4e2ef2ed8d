"""A run while it trains: what is logged, told, saved, drawn and summed up."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import torch

from storage.fs import Store
from training.checkpoints import Label, write_checkpoint
from training.curves import write_curves
from training.heldout import look
from training.loop import Batch, Hooks, Trainer, sample_losses
from training.pictures import draw_sheet
from training.ranks import Place, StopFlag, bare, gather_all
from training.recipe import Recipe
from training.runs import Metrics, read_record, write_record
from training.skips import note_losses
from training.state import snapshot_state

Progress = Callable[[str, int, int], None]
FLUSH_SECONDS = 5.0
"least time from one writing of the log to the next, but for checkpoints"
FLUSH_SHARE = 0.01
"most of the time that may go there, however long the log is"
PICTURED = 4
CEILING = "ceiling_samples_per_second"
"in log and summary"


class Fed(Protocol):
    """What a feed tells beside its batches."""

    batches_per_epoch: int
    failed: dict[str, str]
    stalls: Any

    @property
    def proofs(self) -> list[Any]:
        """Return what each finished epoch was, as a sentence."""


@dataclass(kw_only=True, slots=True)
class Session:
    """A run that is being trained."""

    store: Store
    recipe: Recipe
    run: str
    place: Place
    trainer: Trainer
    metrics: Metrics
    feed: Fed
    heldout: Iterable[Batch] | None
    example: Batch
    "a few samples for the pictures"
    about: dict[str, Any]
    "code and data, for the records of checkpoints"
    keys: Callable[[int], dict[int, str]]
    "sample ids and keys of a batch"
    probe: Callable[[Trainer], dict[str, float]] | None = None
    "figures on labelled samples, at each evaluation"
    spare: frozenset[int] = frozenset()
    "steps whose checkpoint is kept"
    speed: dict[str, float] = field(default_factory=dict)
    "FLOPs a sample, and the peak of one device in FLOPs a second"


def pick_example(heldout: Iterable[Batch] | None, first: Batch) -> Batch:
    """Return the first few samples of the held-out batches, or of the first batch."""
    batch = next(iter(heldout)) if heldout is not None else first
    return {n: v[:PICTURED] if isinstance(v, torch.Tensor | list) else v for n, v in batch.items()}


def say(place: Place, text: str) -> None:
    """Print a line to standard error, once for all ranks."""
    if place.first:
        print(text, file=sys.stderr, flush=True)


class Recorder:
    """The hooks of a session; only the first rank writes."""

    def __init__(self, session: Session, stop: StopFlag, progress: Progress | None) -> None:
        self.session, self.stop, self.progress = session, stop, progress
        self.flush_at = time.monotonic() + FLUSH_SECONDS
        self.evaluated: tuple[int, float | None] = (0, None)
        self.proven = 0

    def hooks(self) -> Hooks:
        """Return them as the loop takes them."""
        recipe = self.session.recipe
        return Hooks(
            log=self.log,
            save=self.save,
            evaluate=self.evaluate,
            tick=self.tick,
            skipped=self.skipped,
            log_every=recipe.log_every,
            save_every=recipe.save_every,
            save_also=self.session.spare,
            heldout_every=recipe.heldout_every,
        )

    def log(self, line: dict[str, Any]) -> None:
        """Add a line; what is counted on one rank is scaled to all."""
        session = self.session
        if "samples_per_second" in line and session.speed:
            achieved = line["samples_per_second"] * session.speed["flops"]
            line["mfu"] = achieved / session.speed["peak"]
        for name in {"samples", "samples_per_second"} & set(line):
            line[name] *= session.place.ranks
        line["epoch"] = round(line["step"] / session.feed.batches_per_epoch, 4)
        if "heldout_loss" in line:
            self.evaluated = line["step"], line["heldout_loss"]
        session.metrics.add(line)
        if session.place.first and time.monotonic() > self.flush_at:
            began = time.monotonic()
            session.metrics.flush()
            took = time.monotonic() - began
            self.flush_at = time.monotonic() + max(FLUSH_SECONDS, took / FLUSH_SHARE)

    def save(self, step: int) -> None:
        """Write log, pictures and checkpoint."""
        session = self.session
        if not session.place.first:
            return
        self._keep_failures()
        if step == session.recipe.steps:
            stalls = session.feed.stalls.summary(wait_share(session.metrics.lines))
            failed = read_record(session.store, session.run, "failed.json") or {}
            session.metrics.add({"step": step, "feed": stalls, "failed_samples": len(failed)})
        session.metrics.flush()
        write_curves(session.store, session.run, session.metrics.lines, step)
        _draw(session, step)
        looked, loss = self.evaluated
        label = Label(
            heldout_loss=loss if looked == step else None,
            about={**session.about, "batches": [0, step]},
        )
        state = snapshot_state(session.trainer, step)
        keep = session.recipe.keep
        write_checkpoint(session.store, session.run, step, state, keep, label, session.spare)

    def evaluate(self) -> dict[str, Any]:
        """Return the figures of the held-out samples and of the probe; none on other ranks."""
        session, wanted = self.session, self.session.recipe.data.heldout
        if not session.place.first:
            return {}
        with _judged(session.trainer) as alone:
            found = look(alone, session.heldout, wanted) if session.heldout and wanted else {}
            return found | (session.probe(alone) if session.probe is not None else {})

    def tick(self, step: int) -> bool:
        """Tell the progress and what epochs have ended; say whether to stop."""
        session = self.session
        for proof in session.feed.proofs[self.proven :]:
            self.proven += 1
            session.metrics.add({"step": step, "epoch_proof": str(proof)})
            say(session.place, f"{session.run}: {proof}")
        if self.progress is not None:
            self.progress(f"pretrain {session.run}", step, session.recipe.steps)
        return bool(self.stop)

    def skipped(self, step: int, batch: Batch) -> None:
        """Note how bad each sample of a batch is that is passed over."""
        session = self.session
        shares = gather_all(sample_losses(_alone(session.trainer), batch), session.place)
        keys = session.keys(step)
        losses = {keys[i]: loss for share in shares for i, loss in share if i in keys}
        session.metrics.add({"step": step + 1, "skipped": 1})
        if session.place.first:
            note_losses(session.store, session.run, step, losses)

    def _keep_failures(self) -> None:
        """Keep which samples could not be read and were replaced, of all parts of the run."""
        session = self.session
        if session.feed.failed:
            before = read_record(session.store, session.run, "failed.json") or {}
            write_record(session.store, session.run, "failed.json", before | session.feed.failed)


def note_ceiling(session: Session, rate: float | None) -> None:
    """Log how many samples a second the steps of a rank alone would make, scaled to all ranks."""
    if rate is None or not session.place.first:
        return
    session.metrics.add({"step": session.recipe.steps, CEILING: rate * session.place.ranks})
    session.metrics.flush()


def _alone(trainer: Trainer) -> Trainer:
    """Return the trainer with the bare model: what one rank does alone must not wait for others."""
    return replace(trainer, model=bare(trainer.model))


@contextmanager
def _judged(trainer: Trainer) -> Iterator[Trainer]:
    """Yield the trainer alone, with the weights that its run is judged and handed on by; then it
    trains on as if nobody had looked.
    """
    with trainer.average.in_place() if trainer.average is not None else nullcontext():
        yield _alone(trainer)
    trainer.model.train()


def _draw(session: Session, step: int) -> None:
    with _judged(session.trainer) as alone:
        sheet = draw_sheet(alone, session.example)
    session.store.write(f"runs/{session.run}/pictures/step-{step:08d}.png", sheet)


def wait_share(lines: list[dict[str, Any]]) -> float:
    """Return the share of the steps' time that was spent waiting for data."""
    timed = [line for line in lines if "seconds" in line]
    waited = sum(line["data_wait_share"] * line["seconds"] for line in timed)
    return waited / max(sum(line["seconds"] for line in timed), 1e-9)


def _advice(lines: list[dict[str, Any]], rate: float, ceiling: float | None) -> str | None:
    """Return what the feed advises, beside what steps that never wait would make."""
    advice = next((line["feed"]["advice"] for line in lines[::-1] if "feed" in line), None)
    if advice is None or ceiling is None:
        return advice
    told = f"{advice} The step alone, on a batch that is there, "
    if ceiling <= rate:
        return f"{told}is no faster than the {rate:.1f} samples/s that the run made."
    return f"{told}would reach {ceiling:.1f} samples/s; the run made {rate:.1f}."


def sum_up(
    run: str, recipe: Recipe, lines: list[dict[str, Any]], parameters: int
) -> dict[str, Any]:
    """Return the summary of a run from the lines of its log."""
    steps = [line for line in lines if "loss" in line]
    looks = [line for line in lines if "heldout_loss" in line]
    timed = [line for line in lines if "seconds" in line]
    seconds = sum(line["seconds"] for line in timed)
    rate = sum(line["samples"] for line in timed) / seconds
    ceiling = next((line[CEILING] for line in lines[::-1] if CEILING in line), None)
    signs = ("effective_rank", "token_variance", "dead_dimensions", "knn_accuracy")
    return {
        "run": run,
        "recipe": recipe.name,
        "step": lines[-1]["step"],
        "steps": recipe.steps,
        "first_loss": steps[0]["loss"] if steps else None,
        "loss": steps[-1]["loss"] if steps else None,
        "first_heldout_loss": looks[0]["heldout_loss"] if looks else None,
        "heldout_loss": looks[-1]["heldout_loss"] if looks else None,
        "best_heldout_loss": min((line["heldout_loss"] for line in looks), default=None),
        **{name: looks[-1][name] for name in signs if looks and name in looks[-1]},
        "samples_per_second": rate,
        CEILING: ceiling,
        "data_wait_share": wait_share(lines),
        "mfu": timed[-1].get("mfu"),
        "seconds": seconds,
        "epochs_proven": sum("epoch_proof" in line for line in lines),
        "data_advice": _advice(lines, rate, ceiling),
        "failed_samples": max((line.get("failed_samples", 0) for line in lines), default=0),
        "skipped": sum("skipped" in line for line in lines),
        "parameters": parameters,
    }
