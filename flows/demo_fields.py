"""Microscopy fields for the demo: stained cells in five 16-bit channels, a file each."""

from __future__ import annotations

import io
import math

import cv2
import numpy as np
import tifffile
from numpy.typing import NDArray

from flows.demo_textures import Field, dots, pixel_grid, value_noise

CHANNELS = ("DNA", "ER", "RNA", "AGP", "Mito")
SIZE = 128
TREATMENTS: dict[str, tuple[int, float, float, int]] = {
    "control": (13, 8.0, 1.15, 1),
    "elongated": (11, 8.0, 2.6, 1),
    "enlarged": (6, 13.5, 1.2, 1),
    "fragmented": (12, 7.5, 1.2, 4),
}
"cells a field, radius of a nucleus in pixels, its length over its width, pieces it falls into"


def paint_field(treatment: str, rng: np.random.Generator) -> NDArray[np.uint16]:
    """Return the (5, H, W) uint16 channels of one field of a treatment."""
    count, radius, aspect, pieces = TREATMENTS[treatment]
    nuclei = np.zeros((SIZE, SIZE), np.float32)
    bodies = np.zeros((SIZE, SIZE), np.float32)
    direction = rng.uniform(0, 180)
    for x, y in _spread(rng, max(2, count + int(rng.integers(-3, 4))), radius * 1.6):
        size = radius * rng.uniform(0.8, 1.2)
        angle = direction + rng.normal(0, 15) if aspect > 2 else rng.uniform(0, 180)
        tone = float(rng.uniform(0.6, 1.0))
        _ellipse(bodies, x, y, size * 2.3, size * 2.3 / aspect**0.7, angle, tone)
        for turn in rng.uniform(0, 2 * math.pi, pieces):
            away = 0.0 if pieces == 1 else size * 0.75
            part = size if pieces == 1 else size * 0.42
            place = x + away * math.cos(turn), y + away * math.sin(turn)
            _ellipse(
                nuclei, *place, part * math.sqrt(aspect), part / math.sqrt(aspect), angle, tone
            )
    return _stained(nuclei, bodies, rng)


def _spread(rng: np.random.Generator, count: int, apart: float) -> list[tuple[float, float]]:
    """Return up to `count` places that keep apart from each other."""
    places: list[tuple[float, float]] = []
    for x, y in rng.uniform(4, SIZE - 4, (20 * count, 2)).tolist():
        if len(places) < count and all(math.hypot(x - a, y - b) > apart for a, b in places):
            places.append((x, y))
    return places


def _ellipse(
    canvas: Field, x: float, y: float, long: float, short: float, angle: float, tone: float
) -> None:
    stamp = np.zeros_like(canvas)
    box = (x, y), (2 * long, 2 * short), angle
    cv2.ellipse(stamp, box, tone, -1, cv2.LINE_AA)
    np.maximum(canvas, stamp, out=canvas)


def _stained(nuclei: Field, bodies: Field, rng: np.random.Generator) -> NDArray[np.uint16]:
    """Give each stain its own texture inside the cells, then light, haze and photon noise."""
    dna = cv2.GaussianBlur(nuclei, (0, 0), 1.0) * (0.7 + 0.3 * value_noise(rng, SIZE, SIZE, (4, 4)))
    body = np.clip(cv2.GaussianBlur(bodies, (0, 0), 2.5) - 0.6 * dna, 0, 1)
    rim = np.abs(cv2.Laplacian(cv2.GaussianBlur(bodies, (0, 0), 1.5), cv2.CV_32F))
    specks = dots(rng, SIZE, SIZE, 900, (0.6, 1.8))
    threads = value_noise(rng, SIZE, SIZE, (3, 9), 3)
    stains = (
        dna,
        body * (0.5 + 0.5 * value_noise(rng, SIZE, SIZE, (6, 6))),
        0.5 * body + 0.8 * dna * (value_noise(rng, SIZE, SIZE, (5, 5), 2) > 0.6),
        0.35 * body + 2.2 * rim,
        body * (0.3 * threads + 0.7 * specks),
    )
    rows, columns = pixel_grid(SIZE, SIZE)
    vignette = 1 - 0.35 * ((rows / SIZE - 0.5) ** 2 + (columns / SIZE - 0.5) ** 2)
    exposure = rng.uniform(0.6, 1.4, len(stains))
    photons = [240 * e * s * vignette + 12 for e, s in zip(exposure, stains, strict=True)]
    counted = rng.poisson(np.maximum(np.stack(photons), 0)) * 64 + 200
    return np.clip(counted, 0, 65535).astype(np.uint16)


def encode_channel(plane: NDArray[np.uint16]) -> bytes:
    """Return the bytes of a single-page 16-bit TIFF of one channel, pixels of 0.65 µm."""
    file = io.BytesIO()
    tifffile.imwrite(
        file,
        plane,
        photometric="minisblack",
        compression="zlib",
        predictor=True,
        resolution=(10_000 / 0.65, 10_000 / 0.65),
        resolutionunit="CENTIMETER",
        metadata=None,
    )
    return file.getvalue()
