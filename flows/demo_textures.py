"""Textures that the demo's raw inputs are painted with: pure functions of a generator."""

from __future__ import annotations

import colorsys
import math

import cv2
import numpy as np
from numpy.typing import NDArray

Field = NDArray[np.float32]
"(H, W) float32, about 0 to 1."


def value_noise(
    rng: np.random.Generator,
    height: int,
    width: int,
    cell: tuple[float, float],
    octaves: int = 4,
    gain: float = 0.55,
) -> Field:
    """Return (height, width) noise from 0 to 1; features are `cell` = (rows, columns) pixels."""
    total = np.zeros((height, width), np.float32)
    for octave in range(octaves):
        rows, columns = (
            max(2, math.ceil(n * 2**octave / c) + 2)
            for n, c in zip((height, width), cell, strict=True)
        )
        grid = rng.random((min(rows, height + 2), min(columns, width + 2)), dtype=np.float32)
        total += gain**octave * cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC)
    low, high = float(total.min()), float(total.max())
    return (total - low) / max(high - low, 1e-6)


def pixel_grid(height: int, width: int) -> tuple[Field, Field]:
    """Return the row and the column of every pixel, each (height, width)."""
    rows, columns = np.mgrid[0:height, 0:width].astype(np.float32)
    return rows, columns


def stripes(
    rng: np.random.Generator, height: int, width: int, period: float, angle: float
) -> Field:
    """Return soft stripes of a period in pixels; an angle of 0 makes them vertical."""
    rows, columns = pixel_grid(height, width)
    along = columns * math.cos(angle) + rows * math.sin(angle)
    phase = rng.uniform(0, 2 * math.pi)
    return (0.5 + 0.5 * np.sin(2 * math.pi * along / period + phase)).astype(np.float32)


def dots(
    rng: np.random.Generator, height: int, width: int, count: int, radius: tuple[float, float]
) -> Field:
    """Return shaded discs laid over each other in random order, lit from the upper left."""
    canvas = np.full((height, width), 0.15, np.float32)
    rows, columns = rng.uniform(0, height, count), rng.uniform(0, width, count)
    for row, column, size, tone in zip(
        rows, columns, rng.uniform(*radius, count), rng.uniform(0.35, 0.9, count), strict=True
    ):
        centre = (int(column), int(row))
        cv2.circle(canvas, centre, int(size), float(tone * 0.6), -1, cv2.LINE_AA)
        light = (int(column - size * 0.2), int(row - size * 0.2))
        cv2.circle(canvas, light, int(size * 0.7), float(tone), -1, cv2.LINE_AA)
    return canvas


def strokes(
    rng: np.random.Generator,
    height: int,
    width: int,
    count: int,
    angle: float,
    spread: float,
    length: float,
) -> Field:
    """Return short lines around a direction (0: upright), the later over the earlier."""
    canvas = value_noise(rng, height, width, (20, 20), 3) * 0.4
    starts = rng.uniform((0, 0), (width, height), (count, 2))
    angles = angle + rng.normal(0, spread, count)
    steps = (
        length * rng.uniform(0.6, 1.4, (count, 1)) * np.stack([np.sin(angles), -np.cos(angles)], 1)
    )
    tones = rng.uniform(0.2, 1.0, count)
    for start, end, tone in zip(
        starts.astype(int), (starts + steps).astype(int), tones, strict=True
    ):
        cv2.line(canvas, tuple(start.tolist()), tuple(end.tolist()), float(tone), 1, cv2.LINE_AA)
    return canvas


def palette(rng: np.random.Generator) -> NDArray[np.float32]:
    """Return (3, 3) RGB: a dark, a middle and a light colour of neighbouring hues."""
    hue = rng.uniform()
    colours = [
        colorsys.hsv_to_rgb((hue + rng.uniform(-0.12, 0.12)) % 1, rng.uniform(0.15, 0.55), value)
        for value in (rng.uniform(0.08, 0.25), rng.uniform(0.4, 0.6), rng.uniform(0.8, 0.97))
    ]
    return np.asarray(colours, np.float32)


def coloured(field: Field, colours: NDArray[np.float32]) -> NDArray[np.float32]:
    """Map a (H, W) field to (H, W, 3) RGB from 0 to 1 along a palette of three colours."""
    level = np.clip(field, 0, 1)[..., None] * 2
    low = colours[0] + np.minimum(level, 1) * (colours[1] - colours[0])
    return low + np.maximum(level - 1, 0) * (colours[2] - colours[1])


def to_uint8(rgb: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Round values from 0 to 1 to 8 bits."""
    return np.rint(np.clip(rgb, 0, 1) * 255).astype(np.uint8)
