"""One training step beside its peers: forward, backward and AdamW, equal weights, equal masks.

    python benchmarks/step.py [--rounds 7] [--steps 3] [--threads 1] [--only mae,videomae]

Contenders take turns in one process; a round's figure is the median over its steps. Before any
timing the losses of all contenders must agree to 1e-4. Ratios are of pairs within a round, by CPU
seconds, so that other work on the machine does not decide.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import step_peers as peers
from preprocessing.vit_names import hf_names
from training.assemble import make_trainer
from training.inputs import IMAGENET_MEAN, IMAGENET_STD
from training.loop import Trainer, take_step
from training.ranks import Place
from training.recipe import read_recipe

SIZES = {
    "width": 192, "depth": 12, "heads": 3, "decoder_width": 96, "decoder_depth": 4,
    "decoder_heads": 3,
}  # fmt: skip
SIZE, PATCH, FRAMES = 224, 16, 16
BATCH = {"mae": 16, "videomae": 4}
KEEP = {"mae": 0.25, "videomae": 0.1}
AGREE = 1e-4
Step = Callable[[], float]


@dataclass(frozen=True, slots=True)
class Work:
    """A batch, and the mask that all contenders use."""

    raw: Tensor
    "uint8"
    inputs: Tensor
    "normalised"
    noise: Tensor
    visible: Tensor
    hidden: Tensor


def make_work(kind: str) -> Work:
    """Return random pixels; VideoMAE's mask is a tube, the same in every frame."""
    draw = torch.Generator().manual_seed(0)
    batch, grid = BATCH[kind], (SIZE // PATCH) ** 2
    shape = (batch, 3, SIZE, SIZE) if kind == "mae" else (batch, 3, FRAMES, SIZE, SIZE)
    raw = torch.randint(0, 256, shape, generator=draw, dtype=torch.uint8)
    noise = torch.rand(batch, grid, generator=draw)
    order = noise.argsort(1)
    kept = int(grid * KEEP[kind])
    visible, hidden = order[:, :kept], order[:, kept:]
    if kind == "videomae":
        starts = grid * torch.arange(FRAMES // 2)[:, None]
        visible, hidden = ((starts + ids[:, None]).flatten(1) for ids in (visible, hidden))
    each = (1, 3) + (1,) * (len(shape) - 2)
    mean, std = (torch.tensor(m).view(each) for m in (IMAGENET_MEAN, IMAGENET_STD))
    inputs = (raw.float() / 255 - mean) / std
    return Work(raw, inputs, noise, visible.sort(1).values, hidden.sort(1).values)


def our_trainer(kind: str) -> Trainer:
    """Return the trainer that a recipe makes, at the sizes of the comparison."""
    words = [f"model.{name}={value}" for name, value in SIZES.items()]
    words += [f"view.size={SIZE}", f"model.patch={PATCH}", f"batch={BATCH[kind]}"]
    words += [f"target.pixels.norm={kind}", "optim.lr=1e-4", "optim.schedule=constant"]
    words += ["optim.clip=0"]
    recipe = read_recipe(f"{kind}_tiny", words)
    shape = [3, SIZE, SIZE] if kind == "mae" else [3, FRAMES, SIZE, SIZE]
    about: dict[str, Any] = {"shape": shape, "stats": {}, "widths": {"pixels": 0}, "channels": []}
    return make_trainer(recipe, about, Place(0, 1, torch.device("cpu")))


def ours(kind: str, work: Work) -> tuple[nn.Module, Step]:
    """Return our model and one step of the loop's own `take_step`."""
    trainer = our_trainer(kind)
    batch = {
        "pixels": work.raw,
        "visible": work.visible,
        "masked": work.hidden,
        "decoded": work.hidden,
        "sample": torch.arange(len(work.raw)),
    }
    trainer.model.train()
    return trainer.model, lambda: float(take_step(trainer, batch)["loss"])


def peer_step(model: nn.Module, loss: Callable[[], Tensor]) -> Step:
    """Return a step as the peers' own scripts take it: zero, forward, backward, AdamW."""
    learned = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in learned if p.ndim > 1], "weight_decay": 0.05},
        {"params": [p for p in learned if p.ndim <= 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=1e-4, betas=(0.9, 0.95))
    model.train()

    def step() -> float:
        optimizer.zero_grad()
        value = loss()
        value.backward()
        optimizer.step()
        return value.item()

    return step


def mae_contenders(work: Work) -> dict[str, Step]:
    """Return our step and its peers' on images, all from the same weights."""
    model, step = ours("mae", work)
    state = {n: v.clone() for n, v in model.state_dict().items()}
    eager = peers.EagerMAE(SIZE, PATCH, SIZES, KEEP["mae"])
    eager.load_state_dict(state)
    hugging = peers.transformers_mae(SIZE, PATCH, SIZES, 1 - KEEP["mae"])
    put_weights(hugging, hf_names({n: v for n, v in state.items() if n != "mask_token"}), "vit.")
    hugging.decoder.mask_token.data.copy_(state["mask_token"])
    return {
        "headrace": step,
        "eager MAE": peer_step(eager, lambda: eager(work.inputs, work.noise)),
        "transformers ViTMAE": peer_step(
            hugging, lambda: hugging(work.inputs, noise=work.noise).loss
        ),
    }


def videomae_contenders(work: Work) -> dict[str, Step]:
    """Return our step and its peers' on clips, all from the same weights."""
    model, step = ours("videomae", work)
    state = {n: v.clone() for n, v in model.state_dict().items()}
    eager = peers.EagerVideoMAE(SIZE, FRAMES, PATCH, SIZES)
    eager.load_state_dict(state)
    eager.encoder_table.copy_(model.encoder.places)
    eager.decoder_table.copy_(model.places)
    hugging = peers.transformers_videomae(SIZE, FRAMES, PATCH, SIZES)
    plain = {
        n.removeprefix("encoder.").replace("decoder.blocks.", "decoder_blocks."): v
        for n, v in state.items()
    }
    put_weights(hugging, hf_names(plain), "videomae.")
    tokens = FRAMES // 2 * (SIZE // PATCH) ** 2
    masked = torch.zeros(len(work.raw), tokens, dtype=torch.bool).scatter_(1, work.hidden, True)
    clips, unit = work.inputs.transpose(1, 2).contiguous(), work.raw.float() / 255
    return {
        "headrace": step,
        "eager VideoMAE": peer_step(eager, lambda: eager(work.inputs, masked, unit)),
        "transformers VideoMAE": peer_step(
            hugging, lambda: hugging(clips, bool_masked_pos=masked).loss
        ),
    }


def put_weights(model: nn.Module, named: dict[str, Tensor], prefix: str) -> None:
    """Load weights under the names of Hugging Face's files, as its own loader does."""
    import tempfile

    import safetensors.torch

    inner = ("embeddings.", "encoder.", "layernorm.")
    full = {(prefix + n if n.startswith(inner) else n): v.contiguous() for n, v in named.items()}
    with tempfile.TemporaryDirectory() as folder:
        model.config.save_pretrained(folder)
        safetensors.torch.save_file(full, f"{folder}/model.safetensors", {"format": "pt"})
        loaded = type(model).from_pretrained(folder)
    model.load_state_dict(loaded.state_dict())


def timed(step: Step, steps: int) -> tuple[float, float, float]:
    """Return the median CPU and wall seconds of so many steps, and the last loss."""
    cpu, wall, loss = [], [], 0.0
    for _ in range(steps):
        began, before = time.perf_counter(), time.process_time()
        loss = step()
        cpu.append(time.process_time() - before)
        wall.append(time.perf_counter() - began)
    return statistics.median(cpu), statistics.median(wall), loss


def compare(kind: str, rounds: int, steps: int) -> str:
    """Return the table of one comparison.

    Raises:
        SystemExit: the losses differ, so that the work is not the same.
    """
    work = make_work(kind)
    contenders = (mae_contenders if kind == "mae" else videomae_contenders)(work)
    losses = [[step() for step in contenders.values()] for _ in range(2)]
    for row in losses:
        if max(row) - min(row) > AGREE * min(row):
            raise SystemExit(f"{kind}: losses differ: {row}")
    found = [{name: timed(step, steps) for name, step in contenders.items()} for _ in range(rounds)]
    unit = "images" if kind == "mae" else "clips"
    lines = [
        f"{kind}: {SIZES['width']}x{SIZES['depth']} + {SIZES['decoder_width']}x"
        f"{SIZES['decoder_depth']}, {SIZE}/{PATCH}, {1 - KEEP[kind]:.0%} hidden, batch "
        f"{BATCH[kind]}; first losses {', '.join(f'{x:.6f}' for x in losses[0])}",
        "",
        f"| contender | {unit}/CPU-s | min-max | {unit}/s wall | headrace to it, CPU | wall |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for name in contenders:
        speeds = [BATCH[kind] / turn[name][0] for turn in found]
        wall = statistics.median(BATCH[kind] / turn[name][1] for turn in found)
        ratios = [
            statistics.median(turn[name][i] / turn["headrace"][i] for turn in found) for i in (0, 1)
        ]
        lines.append(
            f"| {name} | {statistics.median(speeds):.1f} | {min(speeds):.1f}-{max(speeds):.1f} | "
            f"{wall:.1f} | {ratios[0]:.2f}x | {ratios[1]:.2f}x |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    """Compare and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", default="mae,videomae")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    for kind in given.only.split(","):
        print(compare(kind, given.rounds, given.steps), flush=True)
    import transformers

    print(
        f"{given.rounds} interleaved rounds of {given.steps} steps, {given.threads} threads of "
        f"{os.cpu_count()} cores, fp32; torch {torch.__version__}, transformers "
        f"{transformers.__version__}"
    )


if __name__ == "__main__":
    main()
