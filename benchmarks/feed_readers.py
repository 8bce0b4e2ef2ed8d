"""One contender of `feeds.py`, as a process of its own: batches out of what `prepare` wrote.

    python benchmarks/feed_readers.py prepare headrace FOLDER TARGET
    python benchmarks/feed_readers.py read headrace TARGET MODE WORKERS PASSES

`read` prints JSON: seconds to the first batch, then samples, wall and CPU seconds of the whole
process tree over PASSES epochs after a first one, its peak memory (shared pages once), and whether
every epoch had every sample once. All decode by OpenCV or, for headrace, by what it chooses (the
same pixels: accurate DCT, smooth colours); all crop, resize (bilinear below half again the output
size) and mirror alike, into uint8 batches of 64.
"""

from __future__ import annotations

import importlib
import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.process_tree import Tree, touch  # noqa: E402 (the path comes first)

BATCH, SIZE = 64, 224
Ids = list[Any]


# -- what all peers do with a picture


def augmented(data: bytes, mode: str) -> Any:
    """Return what one sample is turned into: its bytes, its pixels, or a view of them."""
    if mode == "bytes":
        return data
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
    if mode == "decode":
        return pixels.shape[0]
    top, left, h, w, flip = drawn(*pixels.shape[:2])
    seen = cv2.resize(pixels[top : top + h, left : left + w], (SIZE, SIZE))
    if flip:
        seen = cv2.flip(seen, 1)
    return np.ascontiguousarray(seen.transpose(2, 0, 1))


def drawn(height: int, width: int) -> tuple[int, int, int, int, bool]:
    """Draw a box and whether it is mirrored."""
    area = np.random.uniform(0.2, 1.0) * height * width
    aspect = math.exp(np.random.uniform(math.log(3 / 4), math.log(4 / 3)))
    w = min(max(round(math.sqrt(area * aspect)), 1), width)
    h = min(max(round(math.sqrt(area / aspect)), 1), height)
    top, left = np.random.randint(height - h + 1), np.random.randint(width - w + 1)
    return top, left, h, w, np.random.random() < 0.5


def together(samples: list[tuple[str, Any]]) -> tuple[Ids, Any]:
    """Collate as `default_collate` does: into shared memory where a worker does it."""
    from torch.utils.data import default_collate

    ids, values = zip(*samples, strict=True)
    return list(ids), (list(values) if isinstance(values[0], bytes) else default_collate(values))


def loader(dataset: Any, workers: int, **more: Any) -> Any:
    """Return a torch DataLoader as the peers' documentation advises it."""
    from torch.utils.data import DataLoader

    kept = {"persistent_workers": True} if workers else {}
    return DataLoader(
        dataset, batch_size=BATCH, num_workers=workers, collate_fn=together, **kept, **more
    )


def for_ever(batches: Any) -> Iterator[tuple[Ids, Any]]:
    """Yield the batches of epoch after epoch."""
    while True:
        yield from batches


# -- headrace


def prepare_headrace(folder: str, target: str) -> None:
    """Ingest the pictures as they are."""
    from pipelines.executors import Executor
    from pipelines.ingest import ingest
    from pipelines.ingest_spec import IngestSpec
    from storage.fs import open_store

    spec = IngestSpec(modality="image", heldout=0.0, shard_size=1 << 21)
    ingest(open_store(target), [folder], "photos", spec, Executor())


def photos(size: int) -> Any:
    """Return the stream of pictures that is measured; peers' Pythons have none of its parts."""
    from pipelines.stream import StreamConfig
    from preprocessing.masks import MaskConfig
    from preprocessing.views import ViewConfig

    return StreamConfig(
        dataset="photos",
        view=ViewConfig(size=size),
        mask=MaskConfig(),
        targets=(),
        patch=16,
        batch=BATCH,
        seed=0,
        lanes=8,
    )


def read_headrace(target: str, mode: str, workers: int, start: int = 0) -> Iterator[Any]:
    """Yield batches of the local feed; whole pictures, through its verified reads."""
    from pipelines.feed import open_feed
    from storage.fs import Store

    kind = "stored" if mode == "bytes" else "local"
    feed = open_feed(Store(target), photos(SIZE), workers=workers, start=start, kind=kind)
    if mode == "bytes":
        yield from ((batch["sample"].tolist(), batch["stored"]) for batch in feed)
    elif mode == "augment":
        yield from ((batch["sample"].tolist(), batch) for batch in feed)
    else:
        from torch.utils.data import DataLoader

        yield from DataLoader(Bare(feed.course), batch_size=None, num_workers=workers)


def read_resumed(target: str, mode: str, workers: int) -> Iterator[Any]:
    """Yield the same from the middle of an epoch on."""
    count = int(Path(f"{target}.count").read_text())
    yield from read_headrace(target, mode, workers, start=count // BATCH // 2)


class Bare:
    """Batches of headrace's order that are read, verified and decoded whole, as no run does."""

    def __init__(self, course: Any) -> None:
        self.course = course

    def __len__(self) -> int:
        return 1 << 40

    def __getitem__(self, number: int) -> tuple[Ids, Any]:
        from preprocessing.payloads import decode_payload

        task = self.course.task(number)
        payload = self.course.builders[0].members.payload
        found = [payload(shard, row) for shard, row in task.places]
        ids = [f"{shard}/{row}" for shard, row in task.places]
        return ids, [len(decode_payload("jpg", data)) for data in found]


# -- plain files


def prepare_files(folder: str, target: str) -> None:
    """Link to the files."""
    os.symlink(folder, target)


class Files:
    """The pictures of a folder."""

    def __init__(self, target: str, mode: str) -> None:
        self.paths, self.mode = sorted(str(path) for path in Path(target).iterdir()), mode

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[str, Any]:
        return self.paths[index], augmented(Path(self.paths[index]).read_bytes(), self.mode)


def read_files(target: str, mode: str, workers: int) -> Iterator[Any]:
    """Yield batches of a plain dataset."""
    yield from for_ever(loader(Files(target, mode), workers, shuffle=True))


# -- webdataset


def _items(folder: str) -> list[tuple[str, bytes]]:
    return [(path.stem, path.read_bytes()) for path in sorted(Path(folder).iterdir())]


def prepare_webdataset(folder: str, target: str) -> None:
    """Write eight tars."""
    import webdataset

    Path(target).mkdir()
    items = _items(folder)
    for number in range(8):
        with webdataset.TarWriter(f"{target}/{number:02d}.tar", mtime=0) as writer:
            for key, data in items[number::8]:
                writer.write({"__key__": key, "jpg": data})


def read_webdataset(target: str, mode: str, workers: int) -> Iterator[Any]:
    """Yield batches of shuffled shards, shuffled in a buffer."""
    import webdataset

    shards = sorted(str(path) for path in Path(target).glob("*.tar"))
    dataset = (
        webdataset.WebDataset(shards, shardshuffle=100, empty_check=False)
        .shuffle(1000)
        .map(lambda sample: (sample["__key__"], augmented(sample["jpg"], mode)))
    )
    yield from for_ever(loader(dataset, workers))


# -- litdata and MosaicML streaming


class Decoded:
    """The samples of a dataset by place, as `augmented` makes them."""

    def __init__(self, dataset: Any, mode: str) -> None:
        self.dataset, self.mode = dataset, mode

    def __call__(self, samples: list[dict[str, Any]]) -> tuple[Ids, Any]:
        return together([(s["key"], augmented(s["jpg"], self.mode)) for s in samples])


def _keyed(path: str) -> dict[str, Any]:
    return {"key": Path(path).stem, "jpg": Path(path).read_bytes()}


def prepare_litdata(folder: str, target: str) -> None:
    """Write chunks of 2 MB."""
    os.environ["DATA_OPTIMIZER_CACHE_FOLDER"] = f"{target}-cache"
    os.environ["DATA_OPTIMIZER_DATA_CACHE_FOLDER"] = f"{target}-data"
    import litdata

    paths = sorted(str(path) for path in Path(folder).iterdir())
    litdata.optimize(
        fn=_keyed, inputs=paths, output_dir=target, num_workers=1, chunk_bytes="2MB", verbose=False
    )


def read_litdata(target: str, mode: str, workers: int) -> Iterator[Any]:
    """Yield batches of its own loader."""
    import litdata

    dataset = litdata.StreamingDataset(target, shuffle=True)
    kept = {"persistent_workers": True} if workers else {}
    yield from for_ever(
        litdata.StreamingDataLoader(
            dataset,
            batch_size=BATCH,
            num_workers=workers,
            collate_fn=Decoded(dataset, mode),
            **kept,
        )
    )


def prepare_mds(folder: str, target: str) -> None:
    """Write shards of 2 MB."""
    import streaming

    columns = {"key": "str", "jpg": "bytes"}
    with streaming.MDSWriter(out=target, columns=columns, size_limit=1 << 21) as writer:
        for key, data in _items(folder):
            writer.write({"key": key, "jpg": data})


def read_mds(target: str, mode: str, workers: int) -> Iterator[Any]:
    """Yield batches of its dataset under a DataLoader."""
    import streaming
    from torch.utils.data import DataLoader

    dataset = streaming.StreamingDataset(local=target, shuffle=True, batch_size=BATCH)
    kept = {"persistent_workers": True} if workers else {}
    yield from for_ever(
        DataLoader(
            dataset,
            batch_size=BATCH,
            num_workers=workers,
            collate_fn=Decoded(dataset, mode),
            **kept,
        )
    )


# -- Ray Data


def read_ray(target: str, mode: str, workers: int) -> Iterator[Any]:
    """Yield batches of `iter_torch_batches` over decoded files."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    import ray

    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    ray.data.DataContext.get_current().enable_progress_bars = False

    def decoded(rows: dict[str, Any]) -> dict[str, Any]:
        cv2.setNumThreads(1)
        made = [augmented(data, mode) for data in rows["bytes"]]
        ids = [int(Path(path).stem) for path in rows["path"]]
        kept = [len(one) if isinstance(one, bytes) else one for one in made]
        return {"id": np.array(ids), "value": np.stack(kept)}

    rows = ray.data.read_binary_files(target, include_paths=True)
    while True:
        done = rows.randomize_block_order().map_batches(decoded, batch_size=BATCH)
        for batch in done.iter_torch_batches(batch_size=BATCH, local_shuffle_buffer_size=256):
            yield batch["id"].tolist(), batch["value"]


# -- the bound


def read_bound(target: str, mode: str, workers: int) -> Iterator[Any]:
    """Yield the work alone: no loader, no order, no batch; of bytes, reads of open files."""
    if mode == "bytes":
        paths = sorted(Path(target).iterdir())
        opened = [(path.stem, os.open(path, os.O_RDONLY), path.stat().st_size) for path in paths]
        while True:
            for begin in range(0, len(opened), BATCH):
                some = opened[begin : begin + BATCH]
                yield [key for key, _, _ in some], [os.pread(file, n, 0) for _, file, n in some]
    items = _items(target)
    while True:
        for begin in range(0, len(items), BATCH):
            some = items[begin : begin + BATCH]
            yield [key for key, _ in some], [augmented(data, mode) for _, data in some]


def read_box(target: str, mode: str, workers: int) -> Iterator[Any]:
    """Yield the same work as headrace does it: of a JPEG only the box that is seen."""
    from preprocessing.jpeg import plain_frame
    from preprocessing.jpeg_region import decode_view
    from preprocessing.payloads import decode_payload
    from preprocessing.views import View

    def made(data: bytes) -> Any:
        if mode == "decode":
            return len(decode_payload("jpg", data))
        frame, planes = plain_frame(data), np.empty((3, SIZE, SIZE), np.uint8)
        if frame is not None:
            top, left, h, w, flip = drawn(frame.height, frame.width)
            if decode_view(data, View(top, left, h, w, SIZE, flip), planes):
                return planes
        return augmented(data, mode)

    items = _items(target)
    while True:
        for begin in range(0, len(items), BATCH):
            some = items[begin : begin + BATCH]
            yield [key for key, _ in some], [made(data) for _, data in some]


CONTENDERS: dict[str, tuple[Callable[[str, str], None], Callable[..., Iterator[Any]]]] = {
    "headrace": (prepare_headrace, read_headrace),
    "resume": (prepare_headrace, read_resumed),
    "files": (prepare_files, read_files),
    "webdataset": (prepare_webdataset, read_webdataset),
    "litdata": (prepare_litdata, read_litdata),
    "mds": (prepare_mds, read_mds),
    "ray": (prepare_files, read_ray),
    "bound": (prepare_files, read_bound),
    "box": (prepare_files, read_box),
}


# -- measuring


IMPORTS = {
    "headrace": "pipelines.feed",
    "resume": "pipelines.feed",
    "webdataset": "webdataset",
    "litdata": "litdata",
    "mds": "streaming",
    "ray": "ray.data",
}
"what is imported before the clock starts; how long that took is told apart"


def read(name: str, target: str, mode: str, workers: int, passes: int) -> dict[str, Any]:
    """Return the figures of one contender."""
    import torch

    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    count = int(Path(f"{target}.count").read_text())
    before = time.perf_counter()
    if name in IMPORTS:
        importlib.import_module(IMPORTS[name])
    imports = time.perf_counter() - before
    tree, began = Tree(), time.perf_counter()
    batches = CONTENDERS[name][1](target, mode, workers)
    first, seen, right = 0.0, [], True
    for ids, batch in batches:
        first = first or time.perf_counter() - began
        touch(batch)
        seen += ids
        if len(seen) == count:
            break
    wall, cpu = time.perf_counter(), tree.cpu()
    if mode == "bytes" and name != "ray":
        passes *= 100  # such an epoch is shorter than the system's clock for processes is fine
    for _ in range(passes):
        right = right and len(seen) == len(set(seen)) == count
        seen = []
        while len(seen) < count:
            ids, batch = next(batches)
            touch(batch)
            seen += ids
    # A feed that begins inside an epoch has one and a half of them in two: nothing to count.
    right = name == "resume" or (right and len(seen) == len(set(seen)) == count)
    return {
        "name": name,
        "first": first,
        "imports": imports,
        "samples": passes * count,
        "wall": time.perf_counter() - wall,
        "cpu": tree.cpu() - cpu,
        "memory": tree.peak,
        "own": tree.own,
        "right": right,
    }


def main() -> None:
    """Prepare or read, as the command line says."""
    job, name, source, *rest = sys.argv[1:]
    if job == "prepare":
        CONTENDERS[name][0](source, rest[0])
        Path(f"{rest[0]}.count").write_text(str(len(list(Path(source).iterdir()))))
        return
    found = read(name, source, rest[0], int(rest[1]), int(rest[2]))
    print(json.dumps(found), flush=True)
    os._exit(0)  # iterators without end and their workers go with the process


if __name__ == "__main__":
    main()
