"""Pretraining on the Ray feed, through the command and torchrun: the losses of the local feed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from ray.cluster_utils import Cluster

from pipelines.executors import Executor
from pipelines.ingest import ingest
from pipelines.ingest_spec import IngestSpec
from storage.fs import Store, open_store
from tests.integration.raw import make_images

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(600)]
ROOT = Path(__file__).resolve().parents[2]
WORDS = [
    "data.dataset=toys", "view.size=32", "model.patch=8", "model.width=24", "model.heads=2",
    "model.decoder_width=16", "steps=6", "batch=8", "log_every=1", "save_every=6",
    "heldout_every=6",
]  # fmt: skip
TORCHRUN = ["torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m"]
WAYS = {
    "the command": ["flows", "pretrain", "mae_tiny", *WORDS, "--direct", "--run"],
    "two ranks": [*TORCHRUN, "training.pretrain", "mae_tiny", *WORDS, "--run-name"],
}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    folder = tmp_path_factory.mktemp("toys")
    made = open_store(folder / "store")
    spec = IngestSpec(modality="image", heldout=0.2, shard_size=8192)
    ingest(made, [str(make_images(folder / "raw", 30))], "toys", spec, Executor())
    return made


def losses(store: Store, way: str, feed: str, address: str = "") -> list[dict[str, float]]:
    """Train in processes of their own; return loss and gradient norm of each step."""
    run = f"{way} {feed} {bool(address)}".replace(" ", "-")
    workers = "1" if feed == "ray" else "0"
    words = [*WAYS[way], run, "--feed", feed, "--workers", workers, "--store", store.uri]
    done = subprocess.run(
        [sys.executable, "-m", *words],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "RAY_ADDRESS": address},
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr
    lines = map(json.loads, store.read(f"runs/{run}/metrics.jsonl").splitlines())
    names = ("step", "loss", "grad_norm")
    return [{name: line[name] for name in names} for line in lines if "loss" in line]


@pytest.mark.parametrize("way", WAYS)
def test_losses_are_those_of_the_local_feed(store: Store, way: str) -> None:
    local = losses(store, way, "local")
    assert [line["step"] for line in local] == [1, 2, 3, 4, 5, 6]
    assert losses(store, way, "ray") == local
    if way == "two ranks":
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
        try:
            assert losses(store, way, "ray", cluster.address) == local, "both on one cluster"
        finally:
            cluster.shutdown()
