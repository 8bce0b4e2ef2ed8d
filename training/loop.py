"""The loop: batches in, weights out. It knows no file, no dataset and no recipe.

The state after step s is a function of the state after step s-1 and of batch s alone, so a run that
resumes from a checkpoint repeats, bit for bit on a CPU, what an uninterrupted one does.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from training.inputs import InputNorm
from training.objectives import Objective
from training.optim import set_rate

Batch = dict[str, Any]
PRECISIONS = {"bf16": torch.bfloat16, "fp16": torch.float16}


class DivergedError(RuntimeError):
    """The loss is no longer a number."""


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


@dataclass(kw_only=True, slots=True)
class Hooks:
    """What happens beside training; every one may do nothing."""

    log: Callable[[dict[str, Any]], None]
    "takes a line of figures every `log_every` steps"
    save: Callable[[int], None]
    "takes the number of finished steps"
    heldout: Callable[[], float | None]
    "returns the held-out loss"
    tick: Callable[[int], bool]
    "told the number of finished steps; True asks the loop to save and return"
    log_every: int
    save_every: int
    heldout_every: int


@dataclass(slots=True)
class Window:
    """Sums since the last log line."""

    losses: list[Tensor] = field(default_factory=list)
    parts: dict[str, list[Tensor]] = field(default_factory=dict)
    samples: int = 0
    waited: float = 0.0
    began: float = field(default_factory=time.monotonic)


def train(trainer: Trainer, batches: Iterable[Batch], steps: range, hooks: Hooks) -> int:
    """Take the optimiser steps `steps`, one batch each; returns how many steps of the run are
    finished.

    Raises:
        DivergedError: the loss is not finite.
        ValueError: the batches end early.
    """
    trainer.model.train()
    source = iter(batches)
    window = Window()
    for step in steps:
        batch, waited = _next_batch(source, step, trainer.device)
        window.waited += waited
        set_rate(trainer.optimizer, trainer.rate(step))
        loss, parts, norm = take_step(trainer, batch)
        _count(window, batch, loss, parts)
        done = step + 1
        last = done == steps.stop
        line: dict[str, Any] = {}
        if done % hooks.log_every == 0 or last or step == 0:
            line = _line(window, done, trainer.rate(step), norm, batch)
            window = Window()
        if done % hooks.heldout_every == 0 or last:
            line = line or {"step": done}
            line["heldout_loss"] = hooks.heldout()
            trainer.model.train()
            window.began = time.monotonic() if not window.samples else window.began
        if line:
            hooks.log(line)
        stopping = hooks.tick(done)
        if done % hooks.save_every == 0 or last or stopping:
            hooks.save(done)
        if stopping:
            return done
    return steps.stop


def take_step(trainer: Trainer, batch: Batch) -> tuple[Tensor, dict[str, Tensor], Tensor]:
    """Take one optimiser step on a batch; returns the loss, its parts and the gradient norm."""
    trainer.optimizer.zero_grad(set_to_none=True)
    chunks = _split(batch, trainer.accumulate)
    total: Tensor = torch.zeros((), device=trainer.device)
    parts: dict[str, Tensor] = {}
    for number, chunk in enumerate(chunks):
        with _synchronised(trainer.model, number == len(chunks) - 1):
            loss, figures = batch_loss(trainer, chunk)
            (loss / len(chunks)).backward()
        total += loss.detach() / len(chunks)
        for name, value in figures.items():
            parts[name] = parts.get(name, 0.0) + value / len(chunks)
    limit = trainer.clip or math.inf
    norm = nn.utils.clip_grad_norm_(trainer.model.parameters(), limit)
    trainer.optimizer.step()
    return total, parts, norm


def batch_loss(trainer: Trainer, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the loss of a batch on the trainer's device, and its parts."""
    inputs = trainer.inputs(batch["pixels"])
    kind = PRECISIONS.get(trainer.precision)
    with torch.autocast(trainer.device.type, dtype=kind, enabled=kind is not None):
        predictions = trainer.model(inputs, batch["visible"], batch["decoded"])
    return trainer.objective(predictions, batch, inputs)


@torch.no_grad()
def heldout_loss(trainer: Trainer, batches: Iterable[Batch], samples: int) -> float | None:
    """Return the mean loss over at most `samples` held-out samples; None when there are none."""
    trainer.model.eval()
    total, seen = 0.0, 0
    for batch in batches:
        loss, _ = batch_loss(trainer, to_device(batch, trainer.device))
        total += float(loss) * len(batch["pixels"])
        seen += len(batch["pixels"])
        if seen >= samples:
            break
    return total / seen if seen else None


def to_device(batch: Batch, device: torch.device) -> Batch:
    """Return the batch with its tensors on a device."""
    if device.type == "cpu":
        return batch
    return {
        name: value.to(device, non_blocking=True) if isinstance(value, Tensor) else value
        for name, value in batch.items()
    }


def _next_batch(source: Iterator[Batch], step: int, device: torch.device) -> tuple[Batch, float]:
    began = time.monotonic()
    try:
        batch = next(source)
    except StopIteration as error:
        raise ValueError(
            f"the feed ended before step {step + 1}. A feed must hold every batch of the run; "
            "was it closed?"
        ) from error
    return to_device(batch, device), time.monotonic() - began


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
        {
            n: v[i * size : (i + 1) * size] if isinstance(v, Tensor | list) else v
            for n, v in batch.items()
        }
        for i in range(parts)
    ]


def _synchronised(model: nn.Module, now: bool) -> contextlib.AbstractContextManager[None]:
    if now or not isinstance(model, DistributedDataParallel):
        return contextlib.nullcontext()
    return model.no_sync()  # type: ignore[no-any-return]


def _count(window: Window, batch: Batch, loss: Tensor, parts: dict[str, Tensor]) -> None:
    window.losses.append(loss)
    for name, value in parts.items():
        window.parts.setdefault(name, []).append(value)
    window.samples += len(batch["pixels"])


def _line(window: Window, step: int, rate: float, norm: Tensor, batch: Batch) -> dict[str, Any]:
    """Return the figures since the last line; means over its steps, the gradient norm of the last
    one.
    """
    loss = float(torch.stack(window.losses).mean())
    if not math.isfinite(loss):
        raise DivergedError(
            f"step {step}: the loss is {loss}. The last batch held the samples "
            f"{batch['sample'].tolist()[:8]} and others. Lower optim.lr or set optim.clip, then "
            "resume."
        )
    seconds = max(time.monotonic() - window.began, 1e-9)
    line = {
        "step": step,
        "loss": loss,
        "lr": rate,
        "grad_norm": float(norm),
        "samples_per_second": window.samples / seconds,
        "data_wait_share": window.waited / seconds,
        "seconds": seconds,
        "samples": window.samples,
    }
    if len(window.parts) > 1:
        line |= {f"loss_{n}": float(torch.stack(v).mean()) for n, v in window.parts.items()}
    return line
