"""Losses of hard patch mining: a second head learns which patches are hard to rebuild.

Source: Wang et al. 2023, arXiv:2304.05919.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

EPS = 1e-6


def relative_loss(predicted: Tensor, errors: Tensor) -> Tensor:
    """Return the loss of ranking pairs of patches by difficulty; pairs with equal errors do not
    count.

    Args:
        predicted: (B, M) difficulty of each masked patch.
        errors: (B, M) its reconstruction error; no gradient flows into it.
    """
    errors = errors.detach()
    harder = errors[:, :, None] > errors[:, None, :]
    easier = errors[:, :, None] < errors[:, None, :]
    odds = torch.sigmoid(predicted[:, :, None] - predicted[:, None, :])
    told = harder * torch.log(odds + EPS) + easier * torch.log(1 - odds + EPS)
    return -told.sum() / (harder | easier).sum()


def absolute_loss(predicted: Tensor, errors: Tensor) -> Tensor:
    """Return the mean squared distance to the errors, normalised within each image."""
    variance, mean = torch.var_mean(errors.detach(), dim=1, keepdim=True)
    return functional.mse_loss(predicted, (errors.detach() - mean) / (variance + EPS).sqrt())
