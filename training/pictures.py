"""Reconstruction pictures: what went in, what was hidden, what the model makes of it. PNG bytes."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from training.inputs import side_inputs
from training.loop import Batch, Trainer, to_device
from training.models.layout import PixelLayout
from training.models.tokens import take_tokens
from training.pixel_targets import patch_moments, patchify, unpatchify

HIDDEN_GRAY = 0.6
GAP = 4
EDGE = 96
"smallest edge of a tile of the sheet, pixels"


@torch.no_grad()
def draw_sheet(trainer: Trainer, batch: Batch) -> bytes:
    """Return a PNG of three rows: input, masked input, prediction in its place.

    Samples run to the right; of clips it is the frames that do, and samples follow below. Predicted
    HOG is drawn as strokes along the edges that it tells of.
    """
    batch = to_device(batch, trainer.device)
    trainer.model.eval()
    inputs = trainer.inputs(batch["pixels"])
    predictions = trainer.model(inputs, batch["visible"], batch["decoded"], **side_inputs(batch))
    layout: PixelLayout = trainer.objective.layout
    shape = inputs.shape
    pictured = inputs if not layout.frames else inputs[:, :, list(layout.frames)]
    low, high = _range(pictured)
    values = patchify(inputs, layout)
    hidden = torch.ones(values.shape[:2], device=values.device).scatter_(1, batch["visible"], 0.0)
    covered = unpatchify(hidden[..., None].expand_as(values), layout, shape)
    shown = ((pictured - low) / (high - low)).clamp(0, 1)
    masked = torch.where(covered > 0, HIDDEN_GRAY, shown)
    if "pixels" in predictions:
        made = _rebuild(trainer, batch, values, predictions["pixels"].float())
        made = ((unpatchify(made, layout, shape) - low) / (high - low)).clamp(0, 1)
    else:
        made = unpatchify(_strokes(trainer, batch, masked, predictions), layout, shape)
    return _png(torch.stack([shown, masked, made], dim=1))


def _rebuild(trainer: Trainer, batch: Batch, values: Tensor, predicted: Tensor) -> Tensor:
    """Return the token values with the decoded tokens replaced by the predictions.

    A normalised target is shown with the true mean and spread of each token, as in the papers.
    """
    decoded, layout = batch["decoded"], trainer.objective.layout
    channels = batch["pixels"].shape[1]
    norm = next(t.norm for t in trainer.objective.targets if t.kind == "pixels")
    raw = patchify(batch["pixels"].float(), layout) if norm == "videomae" else values
    mean, scale = patch_moments(raw, layout, norm, channels)
    mean, scale = (take_tokens(x.expand_as(raw), decoded) for x in (mean, scale))
    made = predicted * scale + mean
    made = _as_inputs(trainer, made, channels) if norm == "videomae" else made
    return values.scatter(1, decoded[..., None].expand_as(made), made)


def _strokes(
    trainer: Trainer, batch: Batch, shown: Tensor, predictions: dict[str, Tensor]
) -> Tensor:
    """Return the shown token values with strokes of the predicted HOG in the decoded tokens."""
    layout: PixelLayout = trainer.objective.layout
    # Frames that are not predicted are not among the shown ones either.
    values = patchify(shown, replace(layout, frames=(), tubelet=1) if layout.frames else layout)
    target = next((t for t in trainer.objective.targets if t.kind == "hog"), None)
    if target is None:
        return values
    cells = layout.patch // target.cell
    bins = predictions["hog"].float().clamp_min(0)
    bins = bins.unflatten(-1, (-1, target.bins, cells, cells)).mean(2)
    # What all orientations share says nothing about the edge.
    bins = (bins - bins.mean(2, keepdim=True)).clamp_min(0)
    strokes = stroke_masks(target.bins, target.cell).to(bins)
    drawn = torch.einsum("bqoij,oyx->bqiyjx", bins, strokes).flatten(4).flatten(2, 3)
    drawn = (drawn / drawn.amax((1, 2, 3), keepdim=True).clamp_min(1e-6)).flatten(2)
    repeats = values.shape[-1] // drawn.shape[-1]
    # Values are (frame, row, column, channel): each channel and frame shows the same strokes.
    drawn = drawn[..., None].expand(-1, -1, -1, batch["pixels"].shape[1]).flatten(2)
    drawn = drawn.repeat(1, 1, max(repeats // batch["pixels"].shape[1], 1))
    return values.scatter(1, batch["decoded"][..., None].expand_as(drawn), drawn)


def stroke_masks(bins: int, cell: int) -> Tensor:
    """Return (bins, cell, cell): 1 along an edge whose gradient falls into each orientation bin."""
    place = torch.arange(cell) - (cell - 1) / 2
    angle = (torch.arange(bins) + 0.5) / bins * torch.pi
    across = (
        torch.sin(angle)[:, None, None] * place + torch.cos(angle)[:, None, None] * place[:, None]
    )
    return (across.abs() < 0.7).float()


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
    return np.round(np.nan_to_num(picked) * 255).astype(np.uint8).transpose(0, 1, 3, 4, 5, 2)
