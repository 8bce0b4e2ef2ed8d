"""Tiny runs for processes that the tests let die: three kinds of model, one rank or several."""

from __future__ import annotations

import json
import os
import signal
import socket
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
import torch

from pipelines.derive import derive
from pipelines.executors import Executor
from pipelines.feed import Feed
from pipelines.ingest import ingest
from pipelines.ingest_spec import IngestSpec
from storage.fs import open_store
from tests.integration.raw import make_images, make_tiles, make_videos
from training.checkpoints import list_checkpoints, read_checkpoint
from training.pretrain import pretrain
from training.recipe import Recipe, read_recipe
from training.runs import read_metrics

STEPS = 12
SMALL = [
    "model.width=24", "model.depth=2", "model.heads=2", "model.decoder_width=16",
    "model.decoder_depth=1", f"steps={STEPS}", "batch=4", "heldout_every=5", "data.heldout=4",
]  # fmt: skip
UNEVEN = ["log_every=3", "save_every=2", "keep=2"]
"lines of the log that reach over checkpoints"
COMPARED = (
    "step", "loss", "grad_norm", "lr", "heldout_loss", "effective_rank", "token_variance",
    "dead_dimensions", "error_low", "error_high",
)  # fmt: skip
RUNS: dict[str, tuple[str, list[str]]] = {
    "image": ("mae_tiny", ["view.size=16", "model.patch=4", "drop_path=0.3"]),
    "video": ("mgmae_tiny", ["view.size=32", "model.patch=8", "target.pixels.norm=videomae"]),
    "satellite": (
        "satmae_group_tiny",
        ["view.size=16", "model.patch=4", "model.groups=[[B02, B03], [B08]]", "ema=0.9"],
    ),
}
FIELD = ("cell_mae_tiny", ["view.size=16", "model.patch=4"])


def make_store(folder: Path) -> None:
    """Ingest a few raw files of each kind, and derive the flow of the clips."""
    store = open_store(folder / "store")
    made = {
        "image": (make_images(folder / "image", 24), {"labels": "parent"}),
        "video": (make_videos(folder / "video", 8, edge=48), {"frames": 8}),
        "satellite": (make_tiles(folder / "satellite", 16), {}),
    }
    for modality, (raw, values) in made.items():
        spec = IngestSpec(modality=modality, heldout=0.2, **values)
        ingest(store, [str(raw)], modality, spec, Executor())
    derive(store, "video", {"flow": {}}, Executor())


def make_poisoned_store(folder: Path) -> None:
    """Ingest float fields, one of them with numbers at the end of what float32 can hold."""
    rng = np.random.default_rng(0)
    (folder / "field").mkdir()
    for number in range(8):
        field = rng.normal(1000, 200, (3, 32, 32)).astype(np.float32)
        if number == 5:
            field = rng.uniform(1e38, 3e38, field.shape).astype(np.float32)
        path = folder / "field" / f"f{number}.tif"
        tifffile.imwrite(path, field, photometric="minisblack")
    spec = IngestSpec(modality="microscopy", heldout=0.0)
    ingest(open_store(folder / "store"), [str(folder / "field")], "field", spec, Executor())


def recipe_of(kind: str, words: list[str]) -> Recipe:
    """Return the tiny recipe of a kind of model."""
    name, own = {**RUNS, "field": FIELD}[kind]
    return read_recipe(name, [*SMALL, *UNEVEN, *own, f"data.dataset={kind}", *words])


def train_run(
    folder: Path,
    kind: str,
    run: str,
    kill: int,
    words: list[str],
    number: int = signal.SIGKILL,
) -> None:
    """Begin or continue a run; its process gets a signal after step `kill`, 0: never. Of several
    ranks all are killed, but the first one alone gets another signal.

    Every batch that it takes is noted in a file beside the store.
    """
    meant = number == signal.SIGKILL or os.environ.get("RANK", "0") == "0"

    def die(what: str, done: int, total: int) -> None:
        if what.startswith("pretrain") and done == kill and meant:
            os.kill(os.getpid(), number)

    _note_batches(folder / f"{run}.batches")
    store = open_store(folder / "store")
    pretrain(store, recipe_of(kind, words), run=run, resume=True, progress=die)


def on_ranks(
    ranks: int,
    folder: Path,
    kind: str,
    run: str,
    kill: int,
    words: list[str],
    number: int = signal.SIGKILL,
) -> list[int]:
    """Do `train_run` on several ranks, each a process; returns how the others ended."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    os.environ |= {"WORLD_SIZE": str(ranks), "RANK": "0", "GLOO_SOCKET_IFNAME": "lo"}
    children = []
    for rank in range(1, ranks):
        child = os.fork()
        if child == 0:
            os.environ["RANK"] = str(rank)
            code = 1
            try:
                train_run(folder, kind, run, kill, words, number)
                code = 0
            finally:
                os._exit(code)
        children.append(child)
    train_run(folder, kind, run, kill, words, number)
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]


def _note_batches(path: Path) -> None:
    """Append the ids of each batch that a feed yields: step, rank and samples."""
    plain = Feed.__iter__

    def noted(feed: Feed) -> Any:
        for number, batch in enumerate(plain(feed), feed._start):
            if feed.course is not None:
                place = f"{feed.course.rank} {feed.course.ranks}"
                line = f"{number} {place} {batch['sample'].tolist()}\n"
                with path.open("a") as file:
                    file.write(line)
            yield batch

    Feed.__iter__ = noted  # type: ignore[method-assign]


def batches_of(folder: Path, run: str) -> dict[int, list[int]]:
    """Return the sample ids of each batch that a run took, sorted over its ranks, as they were
    when the batch was last taken.
    """
    found: dict[int, dict[tuple[int, int], list[int]]] = {}
    for line in (folder / f"{run}.batches").read_text().splitlines():
        number, rank, ranks, ids = line.split(" ", 3)
        shares = found.setdefault(int(number), {})
        share = int(rank), int(ranks)
        assert shares.get(share, json.loads(ids)) == json.loads(ids), "a batch changed"
        shares[share] = json.loads(ids)
    whole: dict[int, list[int]] = {}
    for number, shares in found.items():
        for ranks in {ranks for _, ranks in shares}:
            parts = [ids for (_, n), ids in shares.items() if n == ranks]
            if len(parts) == ranks:
                joined = sorted(i for ids in parts for i in ids)
                assert whole.setdefault(number, joined) == joined, "a batch changed with the ranks"
    return whole


def left_by(folder: Path, run: str) -> dict[str, Any]:
    """Return what a run left that must not depend on how often it was interrupted."""
    store = open_store(folder / "store")
    lines = read_metrics(store, run)
    return {
        "state": read_checkpoint(store, run),
        "steps": list_checkpoints(store, run),
        "figures": [{n: x[n] for n in COMPARED if n in x} for x in lines if "epoch" in x],
    }


def equal(first: Any, second: Any) -> bool:
    """Say whether two nested values are equal, tensors bit for bit."""
    if isinstance(first, torch.Tensor):
        return isinstance(second, torch.Tensor) and torch.equal(first, second)
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(equal(v, second[k]) for k, v in first.items())
    if isinstance(first, list | tuple):
        return len(first) == len(second) and all(map(equal, first, second))
    return bool(first == second)
