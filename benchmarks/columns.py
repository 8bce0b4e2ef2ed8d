"""Columns: each producer beside its best peer, and reading a column against computing it online.

    python benchmarks/columns.py [--rounds 5] [--quick] [--only hog,flow]

Every contender is one thread of one warm process, on the same samples in memory; rounds are
interleaved, and nothing is timed before the outputs were compared.
"""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import column_peers as peers
from benchmarks.rounds import table
from benchmarks.warm import warm_rounds
from pipelines.column_codec import EXT, pack_array, unpack_array
from pipelines.column_types import Stored
from pipelines.producers import PRODUCERS, column_spec
from pipelines.producers_motion import seen_motion
from preprocessing.bits import unpack_mask
from preprocessing.fft import fft_targets, uint16_to_fft
from preprocessing.flow import coarse_flow, flow_to_int16, int16_to_flow
from preprocessing.hog import hog_cells, uint8_to_hog
from preprocessing.indices import int16_to_ndi, ndi
from preprocessing.kmeans import nearest, patch_vectors
from preprocessing.masks import MaskConfig, make_mask
from preprocessing.payloads import decode_payload
from preprocessing.randomness import generator
from preprocessing.rasters import encode_raster
from preprocessing.slic import slic_regions, view_labels
from preprocessing.video_codec import encode_clip
from preprocessing.views import View, apply_view
from storage.fs import Store
from storage.shards import ShardReader, pack_sidecar

EDGE, FRAMES = 224, 16
CENTER = View(0, 0, EDGE, EDGE, EDGE)
VIEW = {"kind": "center", "size": EDGE, "flip": False}
OURS = "headrace"
Each = Callable[[int], Any]


@dataclass(frozen=True, slots=True)
class Race:
    """Contenders on the same work."""

    title: str
    unit: str
    items: int
    "that each turn does"
    contenders: dict[str, Each]
    "each takes the number of an item"
    check: Callable[[], str]
    "compares the outputs; returns in words how equal they are"


def picture(seed: int) -> NDArray[np.uint8]:
    """Return a (224, 224, 3) picture with edges at several scales."""
    rng = np.random.default_rng(seed)
    parts = [
        cv2.resize(rng.integers(0, 256, (n, n, 3), np.uint8), (EDGE, EDGE), None, 0, 0, 2)
        for n in (7, 28, 112)
    ]
    return np.mean(parts, axis=0).astype(np.uint8)


def clip(seed: int) -> NDArray[np.uint8]:
    """Return (16, 224, 224, 3): one picture that slides under another."""
    back, front = picture(seed), picture(seed + 1000)
    frames = np.repeat(back[None], FRAMES, 0)
    for t in range(FRAMES):
        frames[t, 40 + 3 * t : 120 + 3 * t, 20 + 4 * t : 100 + 4 * t] = front[:80, :80]
    return frames


PICTURES = [picture(i) for i in range(8)]
CLIPS = [
    Stored(i, "mp4", encode_clip(clip(i), 25.0), {}, (FRAMES, EDGE, EDGE, 3)) for i in range(2)
]
IMAGES = [
    Stored(i, "png", cv2.imencode(".png", p)[1].tobytes(), {}, p.shape)
    for i, p in enumerate(PICTURES)
]
BANDS = ["B2", "B3", "B4", "B8", "B11"]
TILE = np.random.default_rng(0).integers(1, 4000, (5, EDGE, EDGE)).astype(np.uint16)
TILES = [Stored(0, "tif", encode_raster(TILE), {"channels": BANDS}, TILE.shape)]


def share_within(left: NDArray[Any], right: NDArray[Any], bound: float, least: float) -> str:
    """Return how many entries agree; refuses fewer than `least`."""
    share = float((np.abs(left - right) <= bound).mean())
    if left.shape != right.shape or share < least:
        raise RuntimeError(f"outputs differ: only {share:.2%} within {bound}; no comparison.")
    return f"{share:.2%} of the entries within {bound:g}"


def hog_race() -> Race:
    """Return HOG of 224 x 224 RGB pictures against the torch layer and scikit-image."""
    layer = peers.TorchHog().eval()
    batch = torch.from_numpy(np.stack(PICTURES)).permute(0, 3, 1, 2).float()

    def many(number: int) -> Any:
        return layer(batch) if number % len(batch) == 0 else None

    def check() -> str:
        ours = hog_cells(np.stack(PICTURES))
        theirs = layer(batch).permute(0, 3, 4, 1, 2).numpy()
        votes = np.stack([peers.skimage_votes(p) for p in PICTURES]).transpose(0, 2, 3, 1, 4)
        return (
            f"torch layer: {share_within(ours, theirs, 1e-4, 0.9)} (float32 ties differ); "
            f"scikit-image's histograms of the same gradients: "
            f"{share_within(ours, votes, 1e-4, 0.97)}"
        )

    return Race(
        "HOG of 224x224 RGB",
        "images",
        64,
        {
            OURS: lambda i: hog_cells(PICTURES[i % 8][None]),
            "torch layer, batch 1": lambda i: layer(batch[i % 8 : i % 8 + 1]),
            "torch layer, batch 8": many,
            "skimage.feature.hog": lambda i: peers.skimage_hog(PICTURES[i % 8]),
        },
        check,
    )


def flow_race() -> Race:
    """Return backward flow of a stored clip against OpenCV's DIS alone."""
    spec = column_spec("flow", {"direction": "backward"})

    def ours(i: int) -> NDArray[Any]:
        return compute("flow", spec.parameters, CLIPS[i % 2])

    def check() -> str:
        theirs = flow_to_int16(coarse_flow(peers.decoded_flow(CLIPS[0].payload), 8))
        return share_within(ours(0)[0].astype(float), theirs.astype(float), 0, 1)

    frames = decode_payload("mp4", CLIPS[0].payload)
    return Race(
        "flow, DIS medium, 15 pairs at 224",
        "clips",
        2,
        {
            OURS: ours,
            "PyAV + cv2 DIS, dense": lambda i: peers.decoded_flow(CLIPS[i % 2].payload),
            "cv2 DIS alone, decoded": lambda i: peers.bare_dis(frames),
        },
        check,
    )


def motion_race() -> Race:
    """Return codec motion of a stored clip against PyAV and numpy."""
    spec = column_spec("motion", {})

    def check() -> str:
        ours = int16_to_flow(compute("motion", spec.parameters, CLIPS[0]))
        theirs = peers.plain_motion(CLIPS[0].payload, 8)
        return share_within(ours, theirs, 1 / 128 + 1e-5, 1)

    return Race(
        "motion, 16 frames at 224",
        "clips",
        8,
        {
            OURS: lambda i: compute("motion", spec.parameters, CLIPS[i % 2]),
            "PyAV + a loop over vectors": lambda i: peers.plain_motion(CLIPS[i % 2].payload, 8),
            "decoding alone": lambda i: decode_payload("mp4", CLIPS[i % 2].payload),
        },
        check,
    )


def regions_race() -> Race:
    """Return SLIC ids against scikit-image's alone."""
    from skimage.segmentation import slic

    def theirs(i: int) -> NDArray[Any]:
        labels = slic(PICTURES[i % 8], n_segments=64, start_label=0)
        return np.asarray(labels)

    return Race(
        "regions, SLIC of 224x224",
        "images",
        4,
        {OURS: lambda i: slic_regions(PICTURES[i % 8]), "skimage slic alone": theirs},
        lambda: share_within(slic_regions(PICTURES[0]).astype(int), theirs(0), 0, 1),
    )


def codes_race() -> Race:
    """Return the nearest of 512 centroids for 196 patches against scikit-learn."""
    from sklearn.metrics import pairwise_distances_argmin

    centroids = np.random.default_rng(0).random((512, 768)).astype(np.float32)
    vectors = [patch_vectors(p[None], 16) for p in PICTURES]

    def theirs(i: int) -> NDArray[Any]:
        return np.asarray(pairwise_distances_argmin(vectors[i % 8], centroids.astype(np.float64)))

    return Race(
        "codes, 196 patches, 512 centroids",
        "images",
        32,
        {
            OURS: lambda i: nearest(vectors[i % 8], centroids),
            "sklearn pairwise_distances_argmin": theirs,
        },
        lambda: share_within(nearest(vectors[0], centroids), theirs(0), 0, 1),
    )


def fft_race() -> Race:
    """Return Fourier targets of a 3 x 224 x 224 field against torch."""
    from preprocessing.fft_torch import fft_targets_torch

    fields = [p.transpose(2, 0, 1).copy() for p in PICTURES]

    def theirs(i: int) -> NDArray[Any]:
        return fft_targets_torch(torch.from_numpy(fields[i % 8])[None])[0].numpy()

    def check() -> str:
        ours, other = fft_targets(fields[0]), theirs(0)
        return share_within(ours / (1 + other), other / (1 + other), 1e-3, 0.999)

    return Race(
        "fft, 3x224x224",
        "fields",
        32,
        {OURS: lambda i: fft_targets(fields[i % 8]), "torch.fft": theirs},
        check,
    )


RACES = {
    "hog": hog_race,
    "flow": flow_race,
    "motion": motion_race,
    "regions": regions_race,
    "codes": codes_race,
    "fft": fft_race,
}


def compute(column: str, parameters: dict[str, Any], stored: Stored) -> NDArray[Any]:
    """Return the array of one sample."""
    return next(iter(PRODUCERS[column].make([stored], parameters, centroids_for(column))))


def centroids_for(column: str) -> bytes | None:
    """Return random centroids for codes."""
    if column != "codes":
        return None
    buffer = io.BytesIO()
    np.save(buffer, np.random.default_rng(0).random((512, 768)).astype(np.float32))
    return buffer.getvalue()


@dataclass(frozen=True, slots=True)
class Reading:
    """A stored column: what reading it does, and what computing it online would do."""

    packed: bytes
    read: Callable[[bytes], Any]
    online: Callable[[], Any]
    items: int
    goal: float
    "greatest share of its own computation that reading may take; 0: none was set"


def readings() -> dict[str, Reading]:
    """Return every column at the settings of a usual recipe."""
    frames = decode_payload("mp4", CLIPS[0].payload)
    flow = compute("flow", column_spec("flow", {}).parameters, CLIPS[0])
    hog = column_spec("hog", {"view": VIEW}).parameters
    field = PICTURES[0].transpose(2, 0, 1).copy()
    labels = slic_regions(PICTURES[0])
    indices = column_spec("ndi", {}).parameters
    maps = compute("ndi", indices, TILES[0])
    codes = column_spec("codes", {"view": VIEW}).parameters
    return {
        "hog": Reading(
            pack_array(compute("hog", hog, IMAGES[0])),
            lambda data: uint8_to_hog(unpack_array(data)[0]),
            lambda: hog_cells(PICTURES[0][None]),
            64,
            0.25,
        ),
        "flow": Reading(
            pack_array(flow),
            lambda data: follow("flow", unpack_array(data)),
            lambda: [peers.bare_dis(frames), peers.bare_dis(frames[::-1])],
            2,
            0.05,
        ),
        "motion": Reading(
            pack_array(compute("motion", column_spec("motion", {}).parameters, CLIPS[0])),
            lambda data: follow("motion", unpack_array(data)),
            lambda: compute("motion", {"cell": 8}, CLIPS[0]),
            8,
            0,
        ),
        "masks of motion": mask_reading(flow),
        "regions": Reading(
            pack_array(labels),
            lambda data: view_labels(unpack_array(data), CENTER),
            lambda: slic_regions(PICTURES[0]),
            4,
            0,
        ),
        "ndi": Reading(
            pack_array(maps),
            lambda data: apply_view(int16_to_ndi(unpack_array(data)), CENTER, channels_first=True),
            lambda: apply_view(ndi(TILE, BANDS), CENTER, channels_first=True),
            16,
            0,
        ),
        "fft": Reading(
            pack_array(compute("fft", column_spec("fft", {"view": VIEW}).parameters, IMAGES[0])),
            lambda data: uint16_to_fft(unpack_array(data)[0], EDGE * EDGE),
            lambda: fft_targets(field),
            16,
            0,
        ),
        "codes": Reading(
            pack_array(compute("codes", codes, IMAGES[0])),
            unpack_array,
            lambda: compute("codes", codes, IMAGES[0]),
            16,
            0,
        ),
    }


def follow(column: str, stored: NDArray[Any]) -> Any:
    """Return stored flow or motion as the centre view sees it, on the token grid."""
    return seen_motion(column, stored, column_spec(column, {}).parameters, CENTER, (8, 14, 14))


def mask_reading(flow: NDArray[Any]) -> Reading:
    """Return a stored draw of MGMAE's mask against drawing it: the flow is there already, as the
    view sees it."""
    config = MaskConfig(kind="mgmae", ratio=0.9)
    grid = (FRAMES // 2, EDGE // 16, EDGE // 16)
    settings = {"kind": "mgmae", "ratio": 0.9}
    asked = {"draws": 1, "views": 1, "view": VIEW, "mask": settings}
    sample = Stored(0, "mp4", b"", {}, CLIPS[0].shape, {"flow": flow})
    packed = pack_array(compute("masks", column_spec("masks", asked).parameters, sample))
    seen_flow = follow("flow", unpack_array(pack_array(flow)))

    def online() -> Any:
        return make_mask(config, grid, generator(0, 0, 0, "mask"), cell=8, **seen_flow)

    def read(data: bytes) -> Any:
        return unpack_mask(unpack_array(data)[0], int(np.prod(grid)))

    if not np.array_equal(read(packed), online()):
        raise RuntimeError("the stored mask is not the one made online: no comparison.")
    return Reading(packed, read, online, 32, 0.02)


def work_of(each: Each, items: int) -> Callable[[], int]:
    """Return the work of a turn: `items` items."""

    def work() -> int:
        for number in range(items):
            each(number)
        return items

    return work


def race(made: Race, rounds: int, scale: float) -> str:
    """Return the Markdown of one race."""
    items = max(int(made.items * scale), 1)
    equal = made.check()
    turns = warm_rounds({n: work_of(e, items) for n, e in made.contenders.items()}, rounds)
    return f"## {made.title}\n\nOutputs: {equal}.\n\n{table(turns, OURS, made.unit)}"


def from_shard(store: Store, one: Reading) -> Each:
    """Return what reads a sample of a sidecar of 64: pread, checksum, unpacked, seen."""
    members = [(f"{i:016x}", one.packed) for i in range(64)]
    data, places = pack_sidecar("column", EXT, members)
    store.write("sidecar.tar", data)
    shard = ShardReader(store, "sidecar.tar", "benchmark")

    def read(number: int) -> Any:
        key, *place = places[number % len(places)]
        return one.read(shard.read(*place, key))

    return read


def read_table(rounds: int, scale: float, only: set[str]) -> str:
    """Return the Markdown of reading each column against computing it online."""
    lines = [
        "## Reading a column against computing it online\n",
        "| column | bytes a sample | read, ms CPU | online, ms CPU | share | goal |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for name, one in readings().items():
        if only and name.split()[0] not in only:
            continue
        items = max(int(one.items * scale), 1)
        with TemporaryDirectory() as folder:
            read_one = from_shard(Store(folder), one)
            both = {
                "read": work_of(read_one, 64 * items),
                "online": work_of(lambda i, one=one: one.online(), items),
            }
            turns = warm_rounds(both, rounds)
        read, online = (
            float(np.median([1000 * t.cpu / t.items for t in turns[word]])) for word in both
        )
        goal = f"{one.goal:.0%}" if one.goal else "-"
        lines.append(
            f"| {name} | {len(one.packed):,} | {read:.3f} | {online:.3f} | {read / online:.1%} "
            f"| {goal} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--quick", action="store_true", help="few items and two rounds: does it run"
    )
    parser.add_argument("--only", default="", help="columns, by commas")
    options = parser.parse_args()
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    rounds, scale = (2, 0.25) if options.quick else (options.rounds, 4.0)
    only = {word for word in options.only.split(",") if word}
    for name, make in RACES.items():
        if not only or name in only:
            print(race(make(), rounds, scale))
    print(read_table(rounds, scale, only))


if __name__ == "__main__":
    main()
