"""Photo-like scenes for the demo: six classes that differ in structure, not in colour."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
from numpy.typing import NDArray

from flows.demo_textures import (
    Field,
    coloured,
    dots,
    palette,
    pixel_grid,
    stripes,
    strokes,
    to_uint8,
    value_noise,
)

SIZES = ((160, 213), (213, 160), (180, 240), (240, 240), (150, 260), (300, 225), (128, 170))


def _ripples(rng: np.random.Generator, h: int, w: int) -> Field:
    rows, _ = pixel_grid(h, w)
    depth = (rows / h + 0.35) ** 1.5
    bend = value_noise(rng, h, w, (30, 90), 2) * 6
    waves = 0.5 + 0.5 * np.sin(rng.uniform(35, 60) / depth + bend)
    return (0.6 * waves + 0.4 * value_noise(rng, h, w, (5, 40))).astype(np.float32)


def _grass(rng: np.random.Generator, h: int, w: int) -> Field:
    return strokes(rng, h, w, h * w // 30, rng.normal(0, 0.25), 0.3, 16)


def _bricks(rng: np.random.Generator, h: int, w: int) -> Field:
    tall = int(rng.integers(14, 26))
    wide, joint = int(tall * rng.uniform(1.8, 2.6)), 2
    wall = value_noise(rng, h, w, (4, 4), 2) * 0.25
    for course, top in enumerate(range(-int(rng.integers(tall)), h, tall)):
        for left in range(-(wide // 2) * (course % 2) - int(rng.integers(3)), w, wide):
            box = (
                slice(max(top, 0), max(top + tall - joint, 0)),
                slice(max(left, 0), max(left + wide - joint, 0)),
            )
            wall[box] += rng.uniform(0.35, 0.75)
    turn = cv2.getRotationMatrix2D((w / 2, h / 2), float(rng.normal(0, 4)), 1.08)
    return cv2.warpAffine(wall, turn, (w, h), borderMode=cv2.BORDER_REFLECT)


def _pebbles(rng: np.random.Generator, h: int, w: int) -> Field:
    size = rng.uniform(7, 12)
    return dots(rng, h, w, int(2.2 * h * w / size**2), (size * 0.5, size * 1.4))


def _trunks(rng: np.random.Generator, h: int, w: int) -> Field:
    bark = value_noise(rng, h, w, (60, 5))
    stems = stripes(rng, h, w, rng.uniform(26, 48), rng.normal(0, 0.06))
    return (0.45 * bark + 0.55 * (stems > 0.45) * (0.4 + 0.6 * stems)).astype(np.float32)


def _clouds(rng: np.random.Generator, h: int, w: int) -> Field:
    return np.clip(1.5 * value_noise(rng, h, w, (70, 90), 5, 0.5) - 0.35, 0, 1)


SCENES: dict[str, Callable[[np.random.Generator, int, int], Field]] = {
    "bricks": _bricks,
    "clouds": _clouds,
    "grass": _grass,
    "pebbles": _pebbles,
    "ripples": _ripples,
    "trunks": _trunks,
}


def paint_scene(kind: str, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Return one (H, W, 3) RGB scene of a class: one of several sizes, own light and colours."""
    h, w = SIZES[int(rng.integers(len(SIZES)))]
    rgb = coloured(SCENES[kind](rng, h, w), palette(rng))
    if rng.random() < 0.5:
        rgb = _with_object(rgb, rng)
    rows, columns = pixel_grid(h, w)
    across, down = rng.normal(0, 0.25, 2)
    light = rng.uniform(0.75, 1.1) + across * (columns / w - 0.5) + down * (rows / h - 0.5)
    noise = rng.standard_normal((h, w, 1), dtype=np.float32) * 0.02
    return to_uint8(rgb * light[..., None].astype(np.float32) + noise)


def _with_object(rgb: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
    """Lay one plain ball or box with a shadow into the scene: something that is not the class."""
    h, w, _ = rgb.shape
    radius = int(min(h, w) * rng.uniform(0.08, 0.18))
    x, y = int(rng.uniform(0.2, 0.8) * w), int(rng.uniform(0.4, 0.85) * h)
    shape = np.zeros((h, w), np.float32)
    shadow = np.zeros((h, w), np.float32)
    if rng.random() < 0.5:
        cv2.circle(shape, (x, y), radius, 1.0, -1, cv2.LINE_AA)
    else:
        cv2.rectangle(shape, (x - radius, y - radius), (x + radius, y + radius), 1.0, -1)
    cv2.ellipse(shadow, (x + radius // 3, y + radius), (radius, radius // 3), 0, 0, 360, 0.6, -1)
    shadow = cv2.GaussianBlur(shadow, (0, 0), radius / 5)[..., None]
    body = coloured(0.35 + 0.5 * cv2.GaussianBlur(shape, (0, 0), radius / 3), palette(rng))
    return rgb * (1 - shadow) * (1 - shape[..., None]) + body * shape[..., None]


def encode_scene(rgb: NDArray[np.uint8], ending: str) -> bytes:
    """Return the bytes of a JPEG or PNG file."""
    settings = (
        [cv2.IMWRITE_JPEG_QUALITY, 88] if ending == "jpg" else [cv2.IMWRITE_PNG_COMPRESSION, 4]
    )
    return cv2.imencode(f".{ending}", rgb[..., ::-1], settings)[1].tobytes()
