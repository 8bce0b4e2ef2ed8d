"""Training on several nodes, as docs/cluster.md starts it: one torchrun a node, one run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from flows.prefect_server import free_port
from pipelines.executors import Executor
from pipelines.ingest import ingest
from pipelines.ingest_spec import IngestSpec
from storage.fs import open_store
from tests.faults.zygote import ROOT
from tests.integration.raw import make_images

WORDS = [
    "mae_tiny", "data.dataset=toys", "view.size=32", "model.patch=8", "model.width=24",
    "model.heads=2", "model.decoder_width=16", "steps=4", "batch=8", "log_every=1",
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_agents_train_the_run_of_one_with_two_ranks(tmp_path: Path) -> None:
    raw, store = make_images(tmp_path / "raw", 30), open_store(tmp_path / "store")
    ingest(store, [str(raw)], "toys", IngestSpec(modality="image", shard_size=8192), Executor())
    port = f"127.0.0.1:{free_port()}"
    elastic = ["--rdzv-backend", "c10d", "--rdzv-endpoint"]
    ways = {
        "one": [["--standalone", "--nproc-per-node", "2"]],
        "two": [["--nnodes", "2", "--nproc-per-node", "1", *elastic, port]] * 2,
    }
    for run, agents in ways.items():
        command = ["-m", "training.pretrain", *WORDS, "--store", store.uri, "--run-name", run]
        started = [
            subprocess.Popen(
                [sys.executable, "-m", "torch.distributed.run", *agent, *command],
                cwd=ROOT,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for agent in agents
        ]
        ended = [(process.communicate(timeout=400), process.returncode) for process in started]
        assert [code for _, code in ended] == [0] * len(agents), ended
    one, two = (
        [line["loss"] for line in log(store.read(f"runs/{run}/metrics.jsonl"))] for run in ways
    )
    assert one == two and len(one) == 4


def log(data: bytes) -> list[dict[str, float]]:
    """Return the lines of a run's log that have a loss."""
    return [line for line in map(json.loads, data.splitlines()) if "loss" in line]
