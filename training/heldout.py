"""The look at held-out samples: their loss under fixed masks, and label-free signs of learning.

The loss of a masked model can fall while its features collapse, so both are told. Of the features
of whole samples: their effective rank (RankMe, Garrido et al. 2023, arXiv:2210.02885), how much the
tokens of a sample differ, and the share of dimensions that no longer move. Of the reconstruction:
its error in bands of spatial frequency, as a small model first learns the coarse ones.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from training.inputs import side_inputs
from training.loop import Batch, Trainer, predict, to_device
from training.objectives import hidden_weights
from training.pixel_targets import unpatchify
from training.ranks import bare

HEALTH_SAMPLES = 256
"samples whose features are looked at"
DEAD = 0.01
"a dimension is dead whose spread is below this share of the median one"
BANDS = {"low": (0.0, 1 / 16), "middle": (1 / 16, 1 / 4), "high": (1 / 4, 1.0)}
"cycles a pixel, from and below"
_EPS = 1e-12


@dataclass(slots=True)
class Health:
    """Sums over the held-out samples that were looked at."""

    loss: float = 0.0
    samples: int = 0
    pooled: list[Tensor] = field(default_factory=list)
    within: float = 0.0
    "variance between the tokens of a sample, summed over samples"
    moments: list[Tensor] = field(default_factory=list)
    "(2, D): mean and mean square of each dimension over the tokens of a batch"
    errors: Tensor = field(default_factory=lambda: torch.zeros(2, len(BANDS)))
    "power of the error and of the target in each band"

    def figures(self) -> dict[str, float]:
        """Return the held-out loss and the signs of learning; none without samples."""
        if not self.samples:
            return {}
        mean, square = torch.stack(self.moments).mean(0)
        spread = (square - mean.square()).clamp_min(0).sqrt()
        found = {
            "heldout_loss": self.loss / self.samples,
            "effective_rank": effective_rank(torch.cat(self.pooled)),
            "token_variance": self.within / sum(map(len, self.pooled)),
            "dead_dimensions": float((spread <= DEAD * spread.median()).float().mean()),
        }
        if float(self.errors[1].sum()):
            ratios = (self.errors[0] / self.errors[1].clamp_min(_EPS)).tolist()
            found |= {f"error_{n}": ratio for n, ratio in zip(BANDS, ratios, strict=True)}
        return found


@torch.no_grad()
def look(trainer: Trainer, batches: Iterable[Batch], samples: int) -> dict[str, float]:
    """Return the figures of at most `samples` held-out samples (whole batches); none without any.

    heldout_loss; effective_rank: 1 (collapsed) to the width; token_variance: mean over dimensions;
    dead_dimensions: share; error_low, error_middle, error_high: of predicted pixels in bands of
    spatial frequency, 1 is as wrong as predicting zeros.
    """
    trainer.model.eval()
    health = Health()
    for batch in batches:
        _add(health, trainer, to_device(batch, trainer.device))
        if health.samples >= samples:
            break
    return health.figures()


def _add(health: Health, trainer: Trainer, batch: Batch) -> None:
    inputs, predictions = predict(trainer, batch)
    loss, _ = trainer.objective(predictions, batch, inputs)
    health.loss += float(loss) * len(inputs)
    health.samples += len(inputs)
    if sum(map(len, health.pooled)) >= HEALTH_SAMPLES:
        return
    tokens = bare(trainer.model).features(inputs, **side_inputs(batch)).float()
    health.pooled.append(tokens.mean(1).cpu())
    health.within += float(tokens.var(1, correction=0).mean(1).sum())
    health.moments.append(torch.stack([tokens.mean((0, 1)), tokens.square().mean((0, 1))]).cpu())
    health.errors += band_errors(trainer, batch, inputs, predictions).cpu()


def effective_rank(features: Tensor) -> float:
    """Return RankMe of features (n, D): exp of the entropy of the normalised singular values."""
    sizes = torch.linalg.svdvals(features.double())
    shares = sizes / sizes.sum().clamp_min(_EPS)
    return float(torch.exp(-(shares * torch.log(shares + _EPS)).sum()))


def band_errors(
    trainer: Trainer, batch: Batch, inputs: Tensor, predictions: dict[str, Tensor]
) -> Tensor:
    """Return (2, bands): power of the error, and of the target, in the hidden tokens of a batch;
    zeros where no pixels are predicted.
    """
    objective = trainer.objective
    target = next((t for t in objective.targets if t.kind == "pixels"), None)
    if target is None:
        return torch.zeros(2, len(BANDS))
    wanted = objective.target_values(target, batch, inputs)
    places = batch["decoded"][..., None].expand_as(predictions["pixels"])
    hidden = hidden_weights(batch["visible"], batch["decoded"], wanted.shape[1])[..., None]
    truth = wanted.gather(1, places) * hidden
    wrong = predictions["pixels"].float() * hidden - truth
    powers = []
    for values in (wrong, truth):
        full = torch.zeros_like(wanted).scatter(1, places, values)
        powers.append(_band_powers(unpatchify(full, objective.layout, inputs.shape)))
    return torch.stack(powers)


def _band_powers(pictures: Tensor) -> Tensor:
    """Return the power of pictures (..., H, W) in each band."""
    height, width = pictures.shape[-2:]
    power = torch.fft.fft2(pictures).abs().square().flatten(0, -3).sum(0)
    across = torch.fft.fftfreq(width, device=power.device)
    frequency = torch.hypot(torch.fft.fftfreq(height, device=power.device)[:, None], across)
    return torch.stack(
        [power[(frequency >= low) & (frequency < high)].sum() for low, high in BANDS.values()]
    )
