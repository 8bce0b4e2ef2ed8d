"""Pictures and clips decoded, viewed and described on a device: near the CPU's, and asked for by
`data.decode`. Here the device is mostly a CPU; with a GPU the same tests run on it, too."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from flows.command import app
from pipelines.decode_choice import measure
from pipelines.device_stage import Stage
from pipelines.feed import Feed, open_feed
from pipelines.stream import StreamConfig
from preprocessing.decode_torch import TOLERANCE, DeviceError
from preprocessing.targets import TargetConfig, target_from_pixels
from storage.fs import Store
from tests.integration.feed_sets import STREAMS, make_store, same
from tests.unit.preprocessing.devices import DEVICES, NEEDS_CUDA

NO_CUDA = not torch.cuda.is_available()
HOG = (TargetConfig(kind="hog", cell=8),)
DECODED = {
    "image": STREAMS["image"],
    "video": replace(STREAMS["video"], targets=HOG, frozen_views=0),
}
PIXELS = {"cpu": 0.2, "cuda": TOLERANCE + 0.2}
"Mean of a batch, in grey levels; on the CPU that of resizing alone."
ORIENTED = 1e-3
"Mean difference of HOG from numpy's of the same pixels; its histograms have a norm of 1."


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return make_store(tmp_path_factory.mktemp("device"))


def on_device(store: Store, stream: StreamConfig, device: str, **values: Any) -> Feed:
    feed = open_feed(store, stream, **values)
    assert feed.course is not None
    for builder in feed.course.builders:
        builder.stage = Stage(builder.stream, torch.device(device))
    return feed


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", DECODED)
def test_batches_are_near_those_of_the_cpu(name: str, device: str, store: Store) -> None:
    """Tolerances: PIXELS, and ORIENTED; masks, ids and all else are equal."""
    stream = DECODED[name]
    wanted = open_feed(store, stream, stop=6)
    for got, plain in zip(on_device(store, stream, device, stop=6), wanted, strict=True):
        pixels, hog = got.pop("pixels"), got.pop("targets.hog")
        away = (pixels.float() - plain.pop("pixels").float()).abs()
        assert away.mean() <= PIXELS[device]
        assert hog.shape == plain.pop("targets.hog").shape
        for shown, described in zip(pixels, hog, strict=True):
            known = target_from_pixels(last(shown), HOG[0], stream.patch, stream.tubelet)
            assert np.abs(described.numpy() - known).mean() <= ORIENTED
        assert same(got, plain)


def last(pixels: torch.Tensor) -> np.ndarray:
    """Return (C, ...) pixels as the stream sees them: channels last."""
    return np.ascontiguousarray(np.moveaxis(pixels.numpy(), 0, -1))


def test_a_device_feed_has_one_order_too(store: Store) -> None:
    stream = DECODED["video"]
    whole = list(on_device(store, stream, "cpu", stop=5))
    again = on_device(store, stream, "cpu", start=2, stop=5, workers=1)
    assert all(same(a, b) for a, b in zip(again, whole[2:], strict=True))
    again.close()
    shares = [list(on_device(store, stream, "cpu", rank=r, ranks=2, stop=3)) for r in (0, 1)]
    for wanted, *parts in zip(whole[:3], *shares, strict=True):
        assert same(wanted, {n: torch.cat([part[n] for part in parts]) for n in wanted})


def test_the_faster_is_taken(store: Store) -> None:
    """Whichever it is here; both are tried on the first batch."""
    feed = on_device(store, DECODED["image"], "cpu", stop=1)
    assert feed.course is not None
    found = measure(feed.course, workers=2)
    shown = dict(part.split()[:2] for part in found.why.split(": ")[1].split(", "))
    assert set(shown) == {"cpu", "gpu"}
    assert int(shown[found.by]) == min(map(int, shown.values()))
    assert measure(feed.course, workers=10**6).by == "cpu", "workers share the CPU's part"


@pytest.mark.skipif(not NO_CUDA, reason="a CUDA device is here")
@pytest.mark.parametrize(
    "kind", ["local", pytest.param("ray", marks=[pytest.mark.ray, pytest.mark.slow])]
)
def test_without_a_gpu_auto_is_the_cpu_and_gpu_is_refused(kind: str, store: Store) -> None:
    stream = DECODED["image"]
    where = {"stop": 2, "kind": kind}
    auto = open_feed(store, replace(stream, decode="auto"), **where)
    missing = "no CUDA device" if kind == "local" else "the Ray cluster has no GPU"
    assert auto.fingerprints["decode"] == "cpu"
    assert missing in auto.fingerprints["decode_why"]
    assert all(same(a, b) for a, b in zip(auto, open_feed(store, stream, stop=2), strict=True))
    auto.close()
    with pytest.raises(
        DeviceError, match=f"data.decode=gpu: .*{missing}.* Use data.decode=cpu, or"
    ):
        open_feed(store, replace(stream, decode="gpu"), **where)


@pytest.mark.skipif(not NO_CUDA, reason="a CUDA device is here")
def test_a_run_keeps_who_decoded(store: Store) -> None:
    words = ["mae_tiny", "data.dataset=image", "view.size=32", "model.patch=8", "batch=8"]
    words += ["steps=2", "model.width=24", "model.heads=2", "model.decoder_width=16"]

    def pretrain(*more: str) -> Any:
        where = ["--run", "kept", "--direct", "--store", store.uri]
        return CliRunner().invoke(app, ["pretrain", *words, *more, *where])

    refused = pretrain("data.decode=gpu")
    assert refused.exit_code == 1
    assert "data.decode=gpu: dataset image: there is no CUDA device" in refused.output
    assert "Traceback" not in refused.output
    assert "it must be one of cpu, gpu, auto" in pretrain("data.decode=fast").output
    assert pretrain("data.decode=auto").exit_code == 0
    record = json.loads((Path(store.uri) / "runs/kept/run.json").read_text())
    assert record["recipe"]["data"]["decode"] == "cpu"
    assert record["provenance"]["decode"] == "cpu"
    assert "no CUDA device" in record["provenance"]["decode_why"]
    assert pretrain("data.decode=auto", "--resume").exit_code == 0, "auto is what it was"


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.skipif(not NO_CUDA, reason="a CUDA device is here")
def test_actors_ask_for_a_part_of_a_gpu(store: Store) -> None:
    """Ray is told of a GPU that is not there: actors find room on it, and say that it fails."""
    import ray

    from pipelines.ray_pool import gpu_share

    ray.shutdown()
    ray.init(address="local", num_cpus=4, num_gpus=1, include_dashboard=False, log_to_driver=False)
    try:
        assert [gpu_share(actors) for actors in (1, 4, 8)] == [0.25, 0.25, 0.125]
        feed = open_feed(store, replace(DECODED["image"], decode="gpu"), stop=2, kind="ray")
        assert feed.fingerprints["decode"] == "gpu"
        with pytest.raises(DeviceError, match="dataset image: there is no CUDA device"):
            next(iter(feed))
        auto = open_feed(store, replace(DECODED["image"], decode="auto"), stop=2, kind="ray")
        assert auto.fingerprints["decode"] == "cpu", "a task on that GPU found out"
        assert len(list(auto)) == 2
    finally:
        ray.shutdown()


@pytest.mark.parametrize("kind", ["local", "ray"])
@pytest.mark.parametrize("name", DECODED)
@pytest.mark.parametrize("marked", [pytest.param(True, marks=NEEDS_CUDA)])
def test_a_gpu_serves_both_feeds(name: str, kind: str, marked: bool, store: Store) -> None:
    """Tolerance: PIXELS of cuda against the CPU, none between the feeds."""
    stream = replace(DECODED[name], decode="gpu")
    here = list(open_feed(store, stream, stop=4))
    there = list(open_feed(store, stream, stop=4, kind=kind, workers=1))
    assert all(same(a, b) for a, b in zip(here, there, strict=True))
    for got, plain in zip(here, open_feed(store, DECODED[name], stop=4), strict=True):
        away = (got["pixels"].float() - plain["pixels"].float()).abs()
        assert away.mean() <= PIXELS["cuda"]
        assert torch.equal(got["masked"], plain["masked"])
