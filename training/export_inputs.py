"""What an exported encoder must be fed: the rule of `InputNorm` in words of others."""

from __future__ import annotations

from typing import Any

from training.frozen import Trained


def input_rule(trained: Trained) -> dict[str, Any]:
    """Return how raw pixels become inputs, in raw units, as every export says it.

    `mean` and `std` are subtracted and divided by; `clip` then cuts, to `levels` steps without
    rounding; `per_sample` stands for zero mean and unit variance of each sample and channel.
    """
    norm = trained.inputs
    rule: dict[str, Any] = {
        "kind": norm.kind,
        "size": trained.recipe.view.size,
        "crop": "the largest centred square, resized",
        "channels": trained.about.get("channels") or ["red", "green", "blue"],
    }
    if norm.kind == "self":
        return {**rule, "per_sample": True}
    rule |= {"mean": norm.mean.tolist(), "std": norm.std.tolist()}
    return {**rule, "clip": [0.0, 1.0], "levels": norm.levels} if norm.levels else rule


def moments(trained: Trained, scale: float = 255.0) -> tuple[list[float], list[float]] | None:
    """Return mean and standard deviation of inputs in [0, 1]; None where two numbers a channel do
    not say it all.
    """
    rule = input_rule(trained)
    if "clip" in rule or "per_sample" in rule:
        return None
    return [m / scale for m in rule["mean"]], [s / scale for s in rule["std"]]


def is_clip(trained: Trained) -> bool:
    """Whether the encoder takes clips."""
    return len(trained.about["shape"]) == 4
