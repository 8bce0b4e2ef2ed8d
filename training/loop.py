"""The loop: batches in, weights out. It knows no file, no dataset and no recipe.

The state after step s is a function of the state after step s-1 and of batch s alone, so a run that
resumes from a checkpoint repeats, bit for bit on a CPU, what an uninterrupted one does.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from training.average import Average
from training.drop_path import KEPT, DropPath
from training.guard import Guard, GuardConfig
from training.inputs import InputNorm, side_inputs
from training.objectives import Objective
from training.optim import set_rate
from training.window import Figures, Window

Batch = dict[str, Any]
PRECISIONS = {"bf16": torch.bfloat16, "fp16": torch.float16}


def _no_scaler() -> torch.amp.GradScaler:
    return torch.amp.GradScaler("cpu", enabled=False)


@dataclass(kw_only=True, slots=True)
class Trainer:
    """What is trained, and how."""

    model: nn.Module
    "the bare model, or its DistributedDataParallel wrapper"
    inputs: InputNorm
    objective: Objective
    optimizer: torch.optim.Optimizer
    rate: Callable[[int], float]
    "learning rate of each step"
    device: torch.device
    clip: float = 0.0
    accumulate: int = 1
    precision: str = "fp32"
    scaler: torch.amp.GradScaler = field(default_factory=_no_scaler)
    "at work in fp16 only"
    average: Average | None = None
    paths: DropPath | None = None
    guard: Guard = field(default_factory=lambda: Guard(GuardConfig()))
    window: Window = field(default_factory=Window)


@dataclass(kw_only=True, slots=True)
class Hooks:
    """What happens beside training; every one may do nothing."""

    log: Callable[[dict[str, Any]], None]
    "takes a line of figures every `log_every` steps"
    save: Callable[[int], None]
    "takes the number of finished steps"
    evaluate: Callable[[], dict[str, Any]]
    "returns figures on held-out samples, such as the held-out loss"
    tick: Callable[[int], bool]
    "told the number of finished steps; True asks the loop to save and return"
    skipped: Callable[[int, Batch], None]
    "told of a step that is passed over, and its batch"
    log_every: int
    save_every: int
    heldout_every: int
    save_also: frozenset[int] = frozenset()


def train(
    trainer: Trainer,
    batches: Iterable[Batch],
    steps: range,
    hooks: Hooks,
    skip: Collection[int] = (),
) -> int:
    """Take the optimiser steps `steps`, one batch each; returns how many steps of the run are
    finished.

    Args:
        skip: steps whose batch is passed over.

    Raises:
        BadStep: the guard found one; what was saved is from before it.
        ValueError: the batches end early.
    """
    trainer.model.train()
    source = iter(batches)
    window = trainer.window
    window.began = time.monotonic()
    for step in steps:
        batch, waited = _next_batch(source, step, trainer)
        window.waited += waited
        if step in skip:
            hooks.skipped(step, batch)
        else:
            set_rate(trainer.optimizer, trainer.rate(step))
            window.add(step, take_step(trainer, batch), len(batch["pixels"]))
        done = step + 1
        _report(trainer, hooks, done, last=done == steps.stop)
        stopping = hooks.tick(done)
        due = done % hooks.save_every == 0 or done in hooks.save_also or done == steps.stop
        if due or stopping:
            _judge(trainer)
            hooks.save(done)
        if stopping:
            return done
    return steps.stop


def _report(trainer: Trainer, hooks: Hooks, done: int, last: bool) -> None:
    """Log what is due after a step. On a CPU each step is judged at once; elsewhere reading its
    figures would make the device wait, so they are read when a line or a checkpoint needs them.
    """
    line: dict[str, Any] = {}
    due = done % hooks.log_every == 0 or last or done == 1
    if due or trainer.device.type == "cpu":
        _judge(trainer)
    if due:
        line = trainer.window.line(done, trainer.rate(done - 1))
    if done % hooks.heldout_every == 0 or last:
        _judge(trainer)
        began = time.monotonic()
        line = {**(line or {"step": done}), **hooks.evaluate()}
        trainer.window.began += time.monotonic() - began
    if line:
        hooks.log(line)


def _judge(trainer: Trainer) -> None:
    # A scaler at 1 or below cannot be the reason of an infinite gradient any more.
    scaled = trainer.scaler.is_enabled() and trainer.scaler.get_scale() > 1
    trainer.window.settle(trainer.guard, scaled)


def take_step(trainer: Trainer, batch: Batch) -> Figures:
    """Take one optimiser step on a batch; returns its loss, gradient norm and parts of the loss."""
    trainer.optimizer.zero_grad(set_to_none=True)
    chunks = _split(batch, trainer.accumulate)
    total: Tensor = torch.zeros((), device=trainer.device)
    parts: Figures = {}
    for number, chunk in enumerate(chunks):
        with _synchronised(trainer.model, number == len(chunks) - 1):
            loss, figures = batch_loss(trainer, chunk)
            trainer.scaler.scale(loss / len(chunks)).backward()
        total += loss.detach() / len(chunks)
        for name, value in figures.items():
            parts[f"loss_{name}"] = parts.get(f"loss_{name}", 0.0) + value / len(chunks)
    trainer.scaler.unscale_(trainer.optimizer)
    norm = _clip_gradients(trainer)
    trainer.scaler.step(trainer.optimizer)
    trainer.scaler.update()
    if trainer.average is not None:
        trainer.average.update()
    return {"loss": total, "grad_norm": norm, **(parts if len(parts) > 1 else {})}


def _clip_gradients(trainer: Trainer) -> Tensor:
    """Return the norm of all gradients, as it was before they were clipped. Without a limit they
    are not touched: scaling them by 1 would go over all of them once more.
    """
    learned = [p for p in trainer.model.parameters() if p.grad is not None]
    norm = nn.utils.get_total_norm([p.grad for p in learned if p.grad is not None])
    if trainer.clip:
        nn.utils.clip_grads_with_norm_(learned, trainer.clip, norm)
    return norm


def batch_loss(trainer: Trainer, batch: Batch) -> tuple[Tensor, Figures]:
    """Return the loss of a batch on the trainer's device, and its parts."""
    inputs, predictions = predict(trainer, batch)
    return trainer.objective(predictions, batch, inputs)


def predict(trainer: Trainer, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the inputs as the network sees them, and its predictions."""
    inputs = trainer.inputs(batch["pixels"])
    kind = PRECISIONS.get(trainer.precision)
    if trainer.paths is not None:
        trainer.paths.kept = batch.get(KEPT)
    with torch.autocast(trainer.device.type, dtype=kind, enabled=kind is not None):
        return inputs, trainer.model(
            inputs, batch["visible"], batch["decoded"], **side_inputs(batch)
        )


@torch.no_grad()
def sample_losses(trainer: Trainer, batch: Batch) -> list[tuple[int, float]]:
    """Return the id and the loss of each sample of a batch, computed alone; changes nothing."""
    trainer.model.eval()
    found = []
    for one in _split(batch, len(batch["pixels"])):
        loss, _ = batch_loss(trainer, one)
        found.append((int(one["sample"][0]), float(loss)))
    trainer.model.train()
    return found


def to_device(batch: Batch, device: torch.device) -> Batch:
    """Return the batch with its tensors on a device."""
    if device.type == "cpu":
        return batch
    return {
        name: value.to(device, non_blocking=True) if isinstance(value, Tensor) else value
        for name, value in batch.items()
    }


def _next_batch(source: Iterator[Batch], step: int, trainer: Trainer) -> tuple[Batch, float]:
    began = time.monotonic()
    try:
        batch = next(source)
    except StopIteration as error:
        raise ValueError(
            f"the feed ended before step {step + 1}. A feed must hold every batch of the run; "
            "was it closed?"
        ) from error
    return on_device(trainer, batch, step), time.monotonic() - began


def on_device(trainer: Trainer, batch: Batch, step: int) -> Batch:
    """Return a batch as `take_step` takes it: with what it keeps in a step, on the device."""
    if trainer.paths is not None:
        batch = trainer.paths.draw(batch, step)
    return to_device(batch, trainer.device)


def _split(batch: Batch, parts: int) -> list[Batch]:
    samples = len(batch["pixels"])
    if samples % parts:
        raise ValueError(
            f"accumulate is {parts}, a rank's share of the batch is {samples} samples; it must "
            "divide it. "
            "Change batch or accumulate."
        )
    size = samples // parts
    return [
        {n: v[i * size : (i + 1) * size] if _has_rows(v) else v for n, v in batch.items()}
        for i in range(parts)
    ]


def _has_rows(value: Any) -> bool:
    return isinstance(value, list) or (isinstance(value, Tensor) and value.ndim > 0)


def _synchronised(model: nn.Module, now: bool) -> contextlib.AbstractContextManager[None]:
    if now or not isinstance(model, DistributedDataParallel):
        return contextlib.nullcontext()
    return model.no_sync()  # type: ignore[no-any-return]
