"""Clips for the demo: textured objects that move over a background that drifts, by a known path."""

from __future__ import annotations

import io
import math
from dataclasses import asdict, dataclass

import av
import cv2
import numpy as np
from numpy.typing import NDArray

from flows.demo_textures import coloured, dots, palette, stripes, to_uint8, value_noise

SIZES = ((120, 160), (108, 192), (144, 176), (160, 120))
KINDS = ("bob", "drift", "orbit", "swarm")
FPS = 24
REPEATABLE = {"bf": "2", "x264-params": "mbtree=0"}
"With B-frames, x264's macroblock tree gives other bytes from call to call, on one thread too."


@dataclass(frozen=True, slots=True)
class Mover:
    """One moving object and where it is: the ground truth of its motion."""

    shape: str
    radius: float
    centres: list[tuple[float, float]]
    "(x, y) in pixels, one a frame; the difference of two neighbours is its flow"


@dataclass(frozen=True, slots=True)
class Motion:
    """What moves in one video."""

    kind: str
    fps: int
    width: int
    height: int
    frames: int
    background: tuple[float, float]
    "(x, y) pixels that the background moves from one frame to the next"
    movers: list[Mover]

    def to_json(self) -> dict[str, object]:
        """Return plain values for a JSON file, rounded to a thousandth of a pixel."""
        plain = asdict(self)
        plain["background"] = [round(v, 3) for v in self.background]
        for mover in plain["movers"]:
            mover["radius"] = round(mover["radius"], 3)
            mover["centres"] = [[round(x, 3), round(y, 3)] for x, y in mover["centres"]]
        return plain


def plan_motion(kind: str, rng: np.random.Generator, frames: int) -> Motion:
    """Choose a size, a drift of the background and a path for each object of a video."""
    height, width = SIZES[int(rng.integers(len(SIZES)))]
    angle, speed = rng.uniform(0, 2 * math.pi), rng.uniform(0.2, 0.8)
    count = 7 if kind == "swarm" else int(rng.integers(2, 4))
    places = (rng.permutation(count) + rng.uniform(0.2, 0.8, count)) / count
    movers = [_mover(kind, rng, frames, height, width, float(place)) for place in places]
    drift = (speed * math.cos(angle), speed * math.sin(angle))
    return Motion(kind, FPS, width, height, frames, drift, movers)


def _mover(
    kind: str, rng: np.random.Generator, frames: int, height: int, width: int, place: float
) -> Mover:
    """Choose the path of one object; `place` is where it starts, as a share of the width."""
    time = np.arange(frames)
    small = min(height, width)
    radius = small * (rng.uniform(0.05, 0.08) if kind == "swarm" else rng.uniform(0.13, 0.19))
    x, y = (0.15 + 0.7 * place) * width, rng.uniform(0.25, 0.75) * height
    phase = rng.uniform(0, 2 * math.pi)
    if kind == "orbit":
        turn = phase + rng.choice([-1, 1]) * rng.uniform(0.12, 0.2) * time
        reach = small * rng.uniform(0.18, 0.28)
        xs, ys = x + reach * np.cos(turn), y + reach * np.sin(turn)
    elif kind == "bob":
        xs = np.full(frames, x)
        ys = height / 2 + height * rng.uniform(0.2, 0.3) * np.sin(
            phase + rng.uniform(0.14, 0.22) * time
        )
    else:
        speed = rng.uniform(2.5, 4.0) if kind == "swarm" else rng.uniform(1.5, 3.0)
        xs = _bounced(x + speed * math.cos(phase) * time, radius, width - radius)
        ys = _bounced(y + speed * math.sin(phase) * time, radius, height - radius)
    shape = {"bob": "bar", "drift": "disc", "orbit": "ring", "swarm": "square"}[kind]
    return Mover(shape, float(radius), list(zip(xs.tolist(), ys.tolist(), strict=True)))


def _bounced(position: NDArray[np.float64], low: float, high: float) -> NDArray[np.float64]:
    """Fold a straight path back into [low, high] at both walls."""
    length = high - low
    return low + length - np.abs((position - low) % (2 * length) - length)


def render(motion: Motion, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Return the (T, H, W, 3) RGB frames of a planned video."""
    h, w, margin = motion.height, motion.width, math.ceil(motion.frames) + 4
    ground = value_noise(rng, h + 2 * margin, w + 2 * margin, (14, 14), 4, 0.7)
    ground_rgb = coloured(0.15 + 0.5 * ground, palette(rng))
    sprites = [_sprite(mover, rng) for mover in motion.movers]
    frames = np.empty((motion.frames, h, w, 3), np.uint8)
    for j in range(motion.frames):
        x, y = (margin - v * j for v in motion.background)
        frame = cv2.getRectSubPix(ground_rgb, (w, h), (x + (w - 1) / 2, y + (h - 1) / 2))
        for mover, sprite in zip(motion.movers, sprites, strict=True):
            _lay(frame, sprite, mover.centres[j])
        frames[j] = to_uint8(frame)
    return frames


def _sprite(mover: Mover, rng: np.random.Generator) -> NDArray[np.float32]:
    """Return (S, S, 4): a textured object with its opacity, premultiplied, centred."""
    size = 2 * math.ceil(mover.radius) + 5
    centre, radius = (size // 2, size // 2), mover.radius
    texture = {
        "disc": lambda: value_noise(rng, size, size, (6, 6), 3),
        "ring": lambda: _marked(rng, size, rng.uniform(0, math.pi)),
        "bar": lambda: _marked(rng, size, math.pi / 2),
        "square": lambda: dots(rng, size, size, 14, (2, 4)),
    }[mover.shape]()
    alpha = np.zeros((size, size), np.float32)
    if mover.shape in ("disc", "ring"):
        cv2.circle(alpha, centre, int(radius), 1.0, -1, cv2.LINE_AA)
        if mover.shape == "ring":
            cv2.circle(alpha, centre, int(radius * 0.5), 0.0, -1, cv2.LINE_AA)
    else:
        across = int(radius * (0.45 if mover.shape == "bar" else 0.85))
        low = (centre[0] - across, centre[1] - int(radius))
        cv2.rectangle(alpha, low, (centre[0] + across, centre[1] + int(radius)), 1.0, -1)
    colour = coloured(0.25 + 0.75 * texture, palette(rng))
    return np.concatenate([colour * alpha[..., None], alpha[..., None]], axis=2)


def _marked(rng: np.random.Generator, size: int, angle: float) -> NDArray[np.float32]:
    """Return broad stripes broken by noise: without it, every stripe would look like the next."""
    noise = value_noise(rng, size, size, (5, 5), 3)
    return 0.55 * stripes(rng, size, size, 11, angle) + 0.45 * noise


def _lay(
    frame: NDArray[np.float32], sprite: NDArray[np.float32], centre: tuple[float, float]
) -> None:
    """Lay a sprite over a frame in place, its centre at (x, y) to a fraction of a pixel."""
    h, w, _ = frame.shape
    half = sprite.shape[0] // 2
    left, top = (math.floor(v) - half for v in centre)
    shift = np.float32([[1, 0, centre[0] - half - left], [0, 1, centre[1] - half - top]])
    moved = cv2.warpAffine(sprite, shift, (sprite.shape[1] + 1, sprite.shape[0] + 1))
    y0, x0 = max(top, 0), max(left, 0)
    y1, x1 = min(top + moved.shape[0], h), min(left + moved.shape[1], w)
    if y0 < y1 and x0 < x1:
        part = moved[y0 - top : y1 - top, x0 - left : x1 - left]
        frame[y0:y1, x0:x1] = frame[y0:y1, x0:x1] * (1 - part[..., 3:]) + part[..., :3]


def encode_video(frames: NDArray[np.uint8], fps: int) -> bytes:
    """Return an H.264 mp4 as a camera's software writes it: B-frames, a keyframe now and then.

    Args:
        frames: (T, H, W, 3) uint8, H and W even.
        fps: frames a second.
    """
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=fps)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.codec_context.thread_count = 1
        stream.codec_context.options = {"crf": "20", "preset": "veryfast", "g": "48", **REPEATABLE}
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return file.getvalue()
