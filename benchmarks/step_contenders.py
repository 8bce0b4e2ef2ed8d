"""The contenders of benchmarks/step.py: each makes one training step from equal weights, on equal
uint8 pixels under equal masks, in a process of its own. All turn the pixels into inputs and measure
the norm of the gradient, as MAE's script and transformers' Trainer do.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks import step_peers as peers
from preprocessing.vit_names import hf_names
from training.allocator import keep_memory
from training.assemble import make_trainer
from training.flops import sample_flops
from training.inputs import IMAGENET_MEAN, IMAGENET_STD
from training.loop import PRECISIONS, Batch, Trainer, take_step, to_device
from training.ranks import Place
from training.recipe import read_recipe

SIZE, PATCH, FRAMES = 224, 16, 16
MOMENTS = (IMAGENET_MEAN, IMAGENET_STD)
KEEP = {"mae": 0.25, "videomae": 0.1}
COMPILED = " compiled"
"at the end of a contender's name"
Step = Callable[[], float]


@dataclass(frozen=True, slots=True)
class Case:
    """One comparison: a model, a batch and where it is computed."""

    title: str
    kind: str
    "mae or videomae"
    sizes: dict[str, int]
    "width, depth, heads, and the same of the decoder"
    batch: int
    contenders: tuple[str, ...]
    "names, ours first; the others are compared to it"
    device: str = "cpu"
    precision: str = "fp32"


@dataclass(frozen=True, slots=True)
class Work:
    """A batch, and the mask that all contenders use."""

    raw: Tensor
    "uint8"
    noise: Tensor
    visible: Tensor
    hidden: Tensor


def make_work(case: Case) -> Work:
    """Return random pixels; VideoMAE's mask is a tube, the same in every frame."""
    draw = torch.Generator().manual_seed(0)
    grid = (SIZE // PATCH) ** 2
    frames = () if case.kind == "mae" else (FRAMES,)
    shape = (case.batch, 3, *frames, SIZE, SIZE)
    raw = torch.randint(0, 256, shape, generator=draw, dtype=torch.uint8)
    noise = torch.rand(case.batch, grid, generator=draw)
    order = noise.argsort(1)
    kept = int(grid * KEEP[case.kind])
    visible, hidden = order[:, :kept], order[:, kept:]
    if frames:
        starts = grid * torch.arange(FRAMES // 2)[:, None]
        visible, hidden = ((starts + ids[:, None]).flatten(1) for ids in (visible, hidden))
    made = (raw, noise, *(ids.sort(1).values for ids in (visible, hidden)))
    return Work(*(part.to(case.device) for part in made))


def normalised(raw: Tensor) -> Tensor:
    """Return the peers' inputs, as torchvision's ToTensor and Normalize make them."""
    each = (1, 3) + (1,) * (raw.ndim - 2)
    mean, std = (torch.tensor(m, device=raw.device).view(each) for m in MOMENTS)
    return raw.float().div_(255).sub_(mean).div_(std)


def our_trainer(case: Case, compiled: bool = False) -> Trainer:
    """Return the trainer that a recipe makes, at the sizes of the comparison."""
    words = [f"model.{name}={value}" for name, value in case.sizes.items()]
    words += [f"view.size={SIZE}", f"model.patch={PATCH}", f"batch={case.batch}"]
    words += [f"target.pixels.norm={case.kind}", "optim.lr=1e-4", "optim.schedule=constant"]
    words += ["optim.clip=0", f"precision={case.precision}", f"compile={str(compiled).lower()}"]
    recipe = read_recipe(f"{case.kind}_tiny", words)
    shape = [3, SIZE, SIZE] if case.kind == "mae" else [3, FRAMES, SIZE, SIZE]
    about: dict[str, Any] = {"shape": shape, "stats": {}, "widths": {"pixels": 0}, "channels": []}
    return make_trainer(recipe, about, Place(0, 1, torch.device(case.device)))


def our_batch(work: Work) -> Batch:
    """Return the work as the feed hands it to the loop."""
    return {
        "pixels": work.raw,
        "visible": work.visible,
        "masked": work.hidden,
        "decoded": work.hidden,
        "sample": torch.arange(len(work.raw)),
    }


def make_step(case: Case, name: str) -> Step:
    """Return one training step of a contender: forward, backward and AdamW, returning the loss."""
    if name.startswith("headrace"):
        keep_memory()  # as `pretrain` does; a process has one contender
    work, compiled = make_work(case), name.endswith(COMPILED)
    trainer = our_trainer(case, compiled and name.startswith("headrace"))
    if name.startswith("headrace"):
        trainer.model.train()
        batch = to_device(our_batch(work), trainer.device)
        return lambda: float(take_step(trainer, batch)["loss"])
    make = mae_peer if case.kind == "mae" else videomae_peer
    model, loss = make(name.removesuffix(COMPILED), case, work, trainer.model)
    model.to(case.device)
    if compiled:
        model.compile()
    return peer_step(model, loss, case)


def step_flops(case: Case) -> float:
    """Return the FLOPs of a step of our model, those that the work needs."""
    trainer, work = our_trainer(case), make_work(case)
    return case.batch * sample_flops(trainer, our_batch(work))


def peer_step(model: nn.Module, loss: Callable[[], Tensor], case: Case) -> Step:
    """Return a step as the peers' own scripts take it: zero, forward, backward, norm, AdamW."""
    learned = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in learned if p.ndim > 1], "weight_decay": 0.05},
        {"params": [p for p in learned if p.ndim <= 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=1e-4, betas=(0.9, 0.95))
    model.train()

    def step() -> float:
        optimizer.zero_grad()
        with autocast(case):
            value = loss()
        value.backward()
        nn.utils.get_total_norm([p.grad for p in learned if p.grad is not None])
        optimizer.step()
        return value.item()

    return step


def autocast(case: Case) -> contextlib.AbstractContextManager[Any]:
    """Return the context of the case's precision."""
    kind = PRECISIONS.get(case.precision)
    return torch.autocast(case.device, dtype=kind) if kind else contextlib.nullcontext()


def mae_peer(
    name: str, case: Case, work: Work, ours: nn.Module
) -> tuple[nn.Module, Callable[[], Tensor]]:
    """Return a peer on images and its loss, with the weights of our model."""
    state = {n: v.cpu() for n, v in ours.state_dict().items()}
    if name == "eager":
        eager = peers.EagerMAE(SIZE, PATCH, case.sizes, KEEP["mae"])
        eager.load_state_dict(state)
        return eager, lambda: eager(normalised(work.raw), work.noise)
    hugging = peers.transformers_mae(SIZE, PATCH, case.sizes, 1 - KEEP["mae"])
    put_weights(hugging, hf_names({n: v for n, v in state.items() if n != "mask_token"}), "vit.")
    hugging.decoder.mask_token.data.copy_(state["mask_token"])
    return hugging, lambda: hugging(normalised(work.raw), noise=work.noise).loss


def videomae_peer(
    name: str, case: Case, work: Work, ours: nn.Module
) -> tuple[nn.Module, Callable[[], Tensor]]:
    """Return a peer on clips and its loss, with the weights of our model."""
    state = {n: v.cpu() for n, v in ours.state_dict().items()}
    tokens = FRAMES // 2 * (SIZE // PATCH) ** 2
    masked = torch.zeros(case.batch, tokens, dtype=torch.bool, device=case.device)
    masked.scatter_(1, work.hidden, True)
    if name == "eager":
        eager = peers.EagerVideoMAE(SIZE, FRAMES, PATCH, case.sizes)
        eager.load_state_dict(state)
        eager.encoder_table.copy_(ours.encoder.places)
        eager.decoder_table.copy_(ours.places)
        return eager, lambda: eager(normalised(work.raw), masked, work.raw.float() / 255)
    hugging = peers.transformers_videomae(SIZE, FRAMES, PATCH, case.sizes)
    plain = {
        n.removeprefix("encoder.").replace("decoder.blocks.", "decoder_blocks."): v
        for n, v in state.items()
    }
    put_weights(hugging, hf_names(plain), "videomae.")
    return (
        hugging,
        lambda: hugging(normalised(work.raw).transpose(1, 2), bool_masked_pos=masked).loss,
    )


def put_weights(model: nn.Module, named: dict[str, Tensor], prefix: str) -> None:
    """Load weights under the names of Hugging Face's files, as its own loader does."""
    import safetensors.torch
    import transformers

    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    inner = ("embeddings.", "encoder.", "layernorm.")
    full = {(prefix + n if n.startswith(inner) else n): v.contiguous() for n, v in named.items()}
    with tempfile.TemporaryDirectory() as folder:
        model.config.save_pretrained(folder)
        safetensors.torch.save_file(full, f"{folder}/model.safetensors", {"format": "pt"})
        loaded = type(model).from_pretrained(folder)
    model.load_state_dict(loaded.state_dict())
