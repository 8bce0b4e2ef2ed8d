"""Features of a frozen encoder over whole samples: patch tokens, or the mean of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from training.inputs import side_inputs
from training.loop import Batch, Trainer
from training.probes import Features
from training.ranks import bare
from training.session import Progress

TOKEN_BYTES = 4 * 2**30
"most memory that cached tokens may take"


@dataclass(frozen=True, slots=True)
class Encoded:
    """Labelled samples as an encoder sees them."""

    features: Features
    keys: list[str]


@torch.no_grad()
def _tokens(trainer: Trainer, pixels: Tensor, beside: dict[str, Tensor]) -> Tensor:
    """Return the patch tokens (B, N, D) of whole samples, raw pixels of a feed."""
    told = {name: value.to(trainer.device) for name, value in beside.items()}
    return bare(trainer.model).features(trainer.inputs(pixels.to(trainer.device)), **told)


def encode(trainer: Trainer, batches: Iterable[Batch], *, tokens: bool = False) -> Encoded:
    """Return the features of all labelled samples; there may be none.

    Args:
        tokens: all patch tokens (n, N, D) in half precision, in place of their mean (n, D).

    Raises:
        ValueError: the tokens would take more than 4 GiB.
    """
    trainer.model.eval()
    rows: list[Tensor] = []
    labels: list[str] = []
    keys: list[str] = []
    for batch in batches:
        wanted = [i for i, label in enumerate(batch["label"]) if label]
        if not wanted:
            continue
        pixels = batch["pixels"][wanted]
        beside = {name: value[wanted] for name, value in side_inputs(batch).items()}
        found = _tokens(trainer, pixels, beside)
        rows.append((found.half() if tokens else found.mean(1).float()).cpu())
        labels += [batch["label"][i] for i in wanted]
        keys += [batch["key"][i] for i in wanted]
        if tokens and sum(part.nbytes for part in rows) > TOKEN_BYTES:
            raise ValueError(
                f"probe: the tokens of {len(labels)} samples take more than "
                f"{TOKEN_BYTES / 2**30:.0f} GiB. Use --probe linear, or a smaller dataset."
            )
    return Encoded((torch.cat(rows) if rows else torch.zeros(0, 0), labels), keys)


def told(
    batches: Iterable[Batch], total: int, progress: Progress | None, what: str
) -> Iterator[Batch]:
    """Yield the batches, telling how many are done."""
    for number, batch in enumerate(batches):
        yield batch
        if progress is not None:
            progress(what, number + 1, total)
