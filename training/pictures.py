"""Reconstruction pictures: what went in, what was hidden, what the model makes of it. PNG bytes."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from training.loop import Trainer, to_device
from training.models.layout import PixelLayout
from training.models.tokens import take_tokens
from training.objectives import patch_moments, patchify, unpatchify

Batch = dict[str, Any]
HIDDEN_GRAY = 0.6
GAP = 4
EDGE = 96
"smallest edge of a tile of the sheet, pixels"


@torch.no_grad()
def draw_sheet(trainer: Trainer, batch: Batch) -> bytes:
    """Return a PNG: for each sample, rows of input, masked input and reconstruction; frames run to
    the right.

    A model without a pixel target shows the strength of its predicted gradients in the third row.
    """
    batch = to_device(batch, trainer.device)
    trainer.model.eval()
    inputs = trainer.inputs(batch["pixels"])
    predictions = trainer.model(inputs, batch["visible"], batch["decoded"])
    layout: PixelLayout = trainer.objective.layout
    values = patchify(inputs, layout)
    hidden = torch.ones(values.shape[:2], device=values.device).scatter_(1, batch["visible"], 0.0)
    shape = inputs.shape
    rows = [
        inputs if not layout.frames else inputs[:, :, list(layout.frames)],
        unpatchify(values, layout, shape),
        unpatchify(_rebuild(trainer, batch, values, predictions), layout, shape),
    ]
    low, high = _range(rows[0])
    shown = [((row - low) / (high - low)).clamp(0, 1) for row in rows]
    covered = unpatchify(hidden[..., None].expand_as(values), layout, shape)
    shown[1] = torch.where(covered > 0, HIDDEN_GRAY, shown[1])
    return _png(torch.stack(shown, dim=1))


def _rebuild(
    trainer: Trainer, batch: Batch, values: Tensor, predictions: dict[str, Tensor]
) -> Tensor:
    """Return the token values with the decoded tokens replaced by the predictions."""
    decoded = batch["decoded"]
    true = take_tokens(values, decoded)
    target = next((t for t in trainer.objective.targets if t.kind == "pixels"), None)
    if target is None:
        strength = next(iter(predictions.values())).float().square().mean(-1, keepdim=True).sqrt()
        made = strength.expand_as(true)
        made = made / made.amax().clamp_min(1e-6) * values.amax()
    else:
        layout = trainer.objective.layout
        raw = values if target.norm != "videomae" else patchify(batch["pixels"].float(), layout)
        mean, scale = patch_moments(raw, layout, target.norm, batch["pixels"].shape[1])
        mean, scale = (take_tokens(x.expand_as(raw), decoded) for x in (mean, scale))
        made = predictions["pixels"].float() * scale + mean
        if target.norm == "videomae":
            made = _as_inputs(trainer, made, batch["pixels"].shape[1])
    return values.scatter(1, decoded[..., None].expand_as(made), made)


def _as_inputs(trainer: Trainer, raw: Tensor, channels: int) -> Tensor:
    """Return raw values (B, Q, n*C), channel last, as the network's inputs have them."""
    clip = raw.unflatten(-1, (-1, channels)).movedim(-1, 1)
    return trainer.inputs(clip).movedim(1, -1).flatten(-2)


def _range(inputs: Tensor) -> tuple[Tensor, Tensor]:
    """Return the 1 and 99 % points of each channel, so that any sensor shows up."""
    flat = inputs.transpose(0, 1).flatten(1).float()
    step = max(1, flat.shape[1] // 100_000)
    points = torch.quantile(flat[:, ::step], torch.tensor([0.01, 0.99], device=flat.device), dim=1)
    shape = (1, -1) + (1,) * (inputs.ndim - 2)
    return points[0].view(shape), points[1].view(shape) + 1e-6


def _png(shown: Tensor) -> bytes:
    """Return the PNG of (B, rows, C, H, W) or (B, rows, C, T, H, W) in [0, 1]."""
    frames = shown if shown.ndim == 6 else shown.permute(1, 2, 0, 3, 4).unsqueeze(0)
    tiles = _as_rgb(frames.cpu().numpy())
    scale = max(1, -(-EDGE // tiles.shape[3]))
    tiles = tiles.repeat(scale, axis=3).repeat(scale, axis=4)
    tiles = np.pad(tiles, ((0, 0), (0, 0), (0, 0), (0, GAP), (0, GAP), (0, 0)), constant_values=255)
    b, rows, t, h, w, _ = tiles.shape
    sheet = tiles.transpose(0, 1, 3, 2, 4, 5).reshape(b, rows * h, t * w, 3)
    sheet = np.pad(sheet, ((0, 0), (0, 2 * GAP), (0, 0), (0, 0)), constant_values=255)
    done, data = cv2.imencode(".png", np.ascontiguousarray(sheet.reshape(-1, t * w, 3)[..., ::-1]))
    assert done, "OpenCV encodes any uint8 array as PNG"
    return bytes(data)


def _as_rgb(frames: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Return (B, rows, T, H, W, 3) uint8 of (B, rows, C, T, H, W): the first three channels, or one
    as gray.
    """
    picked = frames[:, :, [0, 1, 2]] if frames.shape[2] >= 3 else frames[:, :, [0, 0, 0]]
    return np.round(picked * 255).astype(np.uint8).transpose(0, 1, 3, 4, 5, 2)
