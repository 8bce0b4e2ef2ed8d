"""What the papers' mechanisms save: FLOPs of a training step, counted, and time in pairs.

    python benchmarks/efficiency.py [--rounds 5]

FLOPs are those of forward and backward for one sample, as torch's FlopCounterMode sees them on the
meta device, with attention as plain products. Time (of ViT-Tiny, one thread) is the median of
paired ratios of forward and backward by CPU seconds; both sides of a pair take turns.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from training.models.config import ModelConfig, ModelInput
from training.models.families import build_model

ENCODERS = {
    "Ti": {"width": 192, "depth": 12, "heads": 3},
    "B": {"width": 768, "depth": 12, "heads": 12},
    "L": {"width": 1024, "depth": 24, "heads": 16},
}
PIXELS = {"pixels": 0}


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """A step of one model: how many tokens its encoder sees, and how many are predicted."""

    family: str
    encoder: str
    decoder: tuple[int, int]
    "width and depth; a head has 32 values"
    frames: int = 1
    visible: int
    decoded: int

    def model(self) -> nn.Module:
        """Return the model, for views of 224 px and patches of 16."""
        width, depth = self.decoder
        config = ModelConfig(
            family=self.family,
            patch=16,
            tubelet=2 if self.frames > 1 else 1,
            decoder_width=width,
            decoder_depth=depth,
            decoder_heads=width // 32,
            **ENCODERS[self.encoder],
        )
        data = ModelInput(channels=3, size=224, frames=self.frames, widths=PIXELS)
        return build_model(config, data)

    def inputs(self, device: str, samples: int = 1) -> tuple[Tensor, Tensor, Tensor]:
        """Return pixels, visible and decoded tokens."""
        clip = (self.frames,) if self.frames > 1 else ()
        pixels = torch.zeros((samples, 3, *clip, 224, 224), device=device)
        order = torch.arange(196 * max(self.frames // 2, 1), device=device).expand(samples, -1)
        return pixels, order[:, : self.visible], order[:, len(order[0]) - self.decoded :]


@dataclass(frozen=True, slots=True)
class Flops:
    """Of forward and backward, for one sample."""

    encoder: int
    decoder: int

    @property
    def total(self) -> int:
        """Of the step; the optimiser's few are left out."""
        return self.encoder + self.decoder


@lru_cache
def count(step: Step) -> Flops:
    """Return the FLOPs of a step; nothing is computed."""
    with torch.device("meta"):
        model = step.model().to("meta")
    pixels, visible, decoded = step.inputs("meta")
    whole = _counted(lambda: _summed(model(pixels, visible, decoded)))
    encoder = _counted(lambda: _encoded(model, pixels, visible).sum())
    return Flops(encoder, whole - encoder)


def _summed(predictions: dict[str, Tensor]) -> Tensor:
    return torch.stack([values.sum() for values in predictions.values()]).sum()


def _encoded(model: nn.Module, pixels: Tensor, visible: Tensor) -> Tensor:
    if hasattr(model, "maps"):
        return torch.stack(model.maps(pixels, visible)[-1:])
    return (model.encode if hasattr(model, "encode") else model.encoder)(pixels, visible)


def _counted(loss: Callable[[], Tensor]) -> int:
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        loss().backward()
    return int(counter.get_total_flops())


Ratio = Callable[[Flops, Flops], float]


def of_step(slow: Flops, fast: Flops) -> float:
    """Times that the step costs."""
    return slow.total / fast.total


def of_encoder_in_step(slow: Flops, fast: Flops) -> float:
    """Times that the step costs when only its encoder is the slow one."""
    return (slow.encoder + fast.decoder) / fast.total


def of_decoder(slow: Flops, fast: Flops) -> float:
    """Times that the decoder costs."""
    return slow.decoder / fast.decoder


@dataclass(frozen=True, slots=True)
class Case:
    """A mechanism: a step without it, one with it, and how much is to fall by how many times."""

    name: str
    slow: Step
    fast: Step
    ratio: Ratio
    least: float
    most: float = float("inf")


def mae(encoder: str, decoder: tuple[int, int], visible: int, decoded: int = 147) -> Step:
    """Return a step of MAE on images of 196 tokens."""
    return Step(family="mae", encoder=encoder, decoder=decoder, visible=visible, decoded=decoded)


def video(encoder: str, decoder: tuple[int, int], frames: int, share: float, of: float) -> Step:
    """Return a step of VideoMAE that sees a share of the tokens and predicts a share of 90 %."""
    tokens = 98 * frames
    return Step(
        family="videomae",
        encoder=encoder,
        decoder=decoder,
        frames=frames,
        visible=int(tokens * share),
        decoded=int((tokens - tokens // 10) * of),
    )


def cross(encoder: str, decoder: tuple[int, int], decoded: int) -> Step:
    """Return a step of CrossMAE with a quarter of 196 tokens visible."""
    return Step(family="crossmae", encoder=encoder, decoder=decoder, visible=49, decoded=decoded)


_TINY, _TINY_CLIPS = (96, 4), (96, 4)
_MAE = "MAE, 75 % hidden: 49 of 196 tokens in the encoder"
_VIDEO = "VideoMAE, 90 % hidden: 78 of 784 tokens in the encoder"
_CROSS = "CrossMAE: 12 decoder blocks, 49 queries, beside MAE's of 12"
_V2 = "VideoMAE V2: half of the hidden tokens decoded"
CASES = (
    Case(f"{_MAE}; Ti, 96x4", mae("Ti", _TINY, 196), mae("Ti", _TINY, 49), of_step, 3.0),
    Case(f"{_MAE}; L, 512x8", mae("L", (512, 8), 196), mae("L", (512, 8), 49), of_step, 3.0),
    Case(
        f"{_VIDEO}; Ti, 96x4; all 784 through encoder and decoder",
        video("Ti", _TINY_CLIPS, 8, 1.0, 1.0),
        video("Ti", _TINY_CLIPS, 8, 0.1, 1.0),
        of_step,
        6.0,
    ),
    Case(
        f"{_VIDEO}; Ti, 96x4; all 784 through the encoder alone",
        video("Ti", _TINY_CLIPS, 8, 1.0, 1.0),
        video("Ti", _TINY_CLIPS, 8, 0.1, 1.0),
        of_encoder_in_step,
        5.5,
    ),
    Case(
        f"{_VIDEO}; L, 512x4; all 784 through the encoder alone",
        video("L", (512, 4), 8, 1.0, 1.0),
        video("L", (512, 4), 8, 0.1, 1.0),
        of_encoder_in_step,
        6.0,
    ),
    Case(
        f"{_CROSS}; the decoder, L, 512x12",
        mae("L", (512, 12), 49),
        cross("L", (512, 12), 49),
        of_decoder,
        2.5,
        3.7,
    ),
    Case(
        f"{_V2}; Ti, 96x4, 784 tokens",
        video("Ti", _TINY_CLIPS, 8, 0.1, 1.0),
        video("Ti", _TINY_CLIPS, 8, 0.1, 0.5),
        of_step,
        1.3,
    ),
    Case(
        f"{_V2}; B, 384x4, 1568 tokens",
        video("B", (384, 4), 16, 0.1, 1.0),
        video("B", (384, 4), 16, 0.1, 0.5),
        of_step,
        1.3,
    ),
)
TIMED = (0, 2, 6)
"Cases that a CPU computes in seconds."


def timed(case: Case, rounds: int, samples: int = 2) -> float:
    """Return the median ratio of CPU seconds of forward and backward."""
    steps = []
    for step in (case.slow, case.fast):
        model, given = step.model(), step.inputs("cpu", samples)
        steps.append(lambda model=model, given=given: _summed(model(*given)).backward())
        steps[-1]()
    ratios = []
    for _ in range(rounds):
        slow, fast = (_seconds(step) for step in steps)
        ratios.append(slow / fast)
    return statistics.median(ratios)


def _seconds(step: Callable[[], None]) -> float:
    began = time.process_time()
    step()
    return time.process_time() - began


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    print("| mechanism | GFLOPs without | with | fewer | asked | time, Ti |")
    print("| --- | --- | --- | --- | --- | --- |")
    for number, case in enumerate(CASES):
        slow, fast = count(case.slow), count(case.fast)
        part = "decoder" if case.ratio is of_decoder else "total"
        before, after = (getattr(flops, part) / 1e9 for flops in (slow, fast))
        if case.ratio is of_encoder_in_step:
            before = (slow.encoder + fast.decoder) / 1e9
        asked = f"≥ {case.least}" if case.most == float("inf") else f"{case.least}–{case.most}"
        seconds = f"{timed(case, rounds):.1f}x" if number in TIMED and rounds else "–"
        times = case.ratio(slow, fast)
        print(
            f"| {case.name} | {before:.2f} | {after:.2f} | {times:.2f}x | {asked} | {seconds} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
