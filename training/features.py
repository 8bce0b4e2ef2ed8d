"""Features of a frozen encoder: the mean of its patch tokens over whole samples."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from training.loop import Batch, Trainer
from training.probes import Features
from training.ranks import bare
from training.session import Progress


@torch.no_grad()
def pooled(trainer: Trainer, pixels: Tensor) -> Tensor:
    """Return the mean of the patch tokens (B, D) of whole samples, raw pixels of a feed."""
    inputs = trainer.inputs(pixels.to(trainer.device))
    return bare(trainer.model).features(inputs).mean(1).float().cpu()


def encode(trainer: Trainer, batches: Iterable[Batch]) -> Features:
    """Return the features (n, D) and labels of all labelled samples; n may be 0."""
    trainer.model.eval()
    rows: list[Tensor] = []
    labels: list[str] = []
    for batch in batches:
        wanted = [i for i, label in enumerate(batch["label"]) if label]
        if wanted:
            rows.append(pooled(trainer, batch["pixels"][wanted]))
            labels += [batch["label"][i] for i in wanted]
    return torch.cat(rows) if rows else torch.zeros(0, 0), labels


def told(
    batches: Iterable[Batch], total: int, progress: Progress | None, what: str
) -> Iterator[Batch]:
    """Yield the batches, telling how many are done."""
    for number, batch in enumerate(batches):
        yield batch
        if progress is not None:
            progress(what, number + 1, total)
