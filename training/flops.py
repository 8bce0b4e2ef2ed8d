"""How much of a device's peak a run uses (MFU): FLOPs counted, the peak measured or stated.

A step counts three forward passes, as the backward pass is two (Chowdhery et al. 2022,
arXiv:2204.02311, appendix B); what activation checkpointing computes again does not count.
"""

from __future__ import annotations

import time
from functools import lru_cache

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from training.inputs import side_inputs
from training.loop import PRECISIONS, Batch, Trainer, to_device
from training.ranks import bare

EDGE = {"cpu": 1024, "cuda": 8192}
"of the square matrices whose product measures the peak"
ROUNDS = 4
NEEDED = ("pixels", "visible", "decoded", "dates")


@torch.no_grad()
def sample_flops(trainer: Trainer, batch: Batch) -> float:
    """Return the FLOPs that one sample of a training step takes, attention included."""
    one = {n: v[:1] for n, v in batch.items() if n in NEEDED}
    one = to_device(one, trainer.device)
    model = bare(trainer.model)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model.forward(
            trainer.inputs(one["pixels"]), one["visible"], one["decoded"], **side_inputs(one)
        )
    return 3.0 * counter.get_total_flops()


@lru_cache(maxsize=4)
def measured_peak(device: torch.device, precision: str) -> float:
    """Return the FLOPs a second of a large product of matrices: the best of a few rounds."""
    kind = PRECISIONS.get(precision, torch.float32)
    edge = EDGE[device.type]
    a = torch.ones(edge, edge, dtype=kind, device=device)
    best = 0.0
    for _ in range(ROUNDS):
        began = time.perf_counter()
        a @ a
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best = max(best, 2.0 * edge**3 / (time.perf_counter() - began))
    return best
