"""The shared raw sets: where each lies, how it is ingested, and which files are no imagery."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
HYDRO = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B11", "B12")
EUROSAT = (*HYDRO[:8], "B09", "B10", "B11", "B12", "B8A")
OPERA = r"r(?P<row>\d+)c(?P<column>\d+)f(?P<site>\d+)p\d+-ch(?P<channel>\d)sk"
ROCHE = r"_(?P<well>[A-Z]\d\d)f(?P<site>\d\d)d(?P<channel>\d)\.(tif|TIF)$"
WORMS = r"_(?P<well>C\d\d)_w(?P<channel>\d)_"
NF1 = r"(?P<well>[A-P]\d+)_01_\d_(?P<site>\d)_(?P<channel>[A-Z]+)_001\.tif$"
S2 = r"(?P<scene>[^/]+)_(?P<band>B\w\w)\.tif$"
SSL = r"(?P<place>\d{7})/(?P<scene>[^/]+)/(?P<band>\w+)\.tif$"


@dataclass(frozen=True, slots=True)
class SharedSet:
    """One or more folders or files that become one dataset."""

    sources: tuple[str, ...]
    modality: str
    values: dict[str, Any] = field(default_factory=dict)
    refused: str = "^$"
    "pattern of the files that are to be refused"

    @property
    def pattern(self) -> str:
        return str(self.values.get("pattern", ""))

    def files(self) -> Iterator[Path]:
        for source in self.sources:
            place = DATA / source
            yield from (p for p in ([place] if place.is_file() else place.rglob("*")) if is_raw(p))


def is_raw(path: Path) -> bool:
    """An OME-Zarr is one input, whatever files it is made of."""
    if any(parent.suffix == ".zarr" for parent in path.parents):
        return False
    return path.is_file() or path.suffix == ".zarr"


def _of(folder: str, modality: str, pattern: str = "", refused: str = "^$") -> SharedSet:
    values = {"pattern": pattern} if pattern else {}
    return SharedSet((f"{modality}/{folder}",), modality, values, refused)


SETS = {
    "photos": SharedSet(("images/imagenet-sample",), "image"),
    "cifar": SharedSet(("images/cifar10/train.tar.gz", "images/cifar10/test.tar.gz"), "image"),
    "videos": SharedSet(("videos",), "video", {"resize": 128}),
    "jump": _of("jump_BR00117006", "microscopy", OPERA),
    "pediatric": _of("pediatric_BR00143976", "microscopy", OPERA),
    "nf1": _of("nf1_plate2", "microscopy", NF1),
    "fly": _of("cellprofiler_fly", "microscopy", r"(?P<well>POS\d+)_(?P<channel>[DFR])\.TIF$"),
    "human": _of("cellprofiler_human", "microscopy", ROCHE),
    "plate": _of("cellprofiler_plate_AS09047", "microscopy", ROCHE),
    "speckles": _of("cellprofiler_speckles", "microscopy", r"(?P<site>\d)-162hr(?P<channel>\w+)2"),
    "worms3": _of("cellprofiler_worms3", "microscopy", WORMS),
    "worms2": _of("cellprofiler_worms2", "microscopy", WORMS),
    "pairs": _of("cellprofiler_colocalization", "microscopy", r"_(?P<site>N)_(?P<channel>[RG])"),
    "ome": _of("ome_tiff_samples/multi-channel.ome.tif", "microscopy"),
    "planes": SharedSet(
        tuple(f"microscopy/ome_tiff_samples/multifile-Z{z}.ome.tiff" for z in range(1, 6)),
        "microscopy",
    ),
    "crop": _of("derived_ome_tiff", "microscopy"),
    "zarr": _of("derived_ome_zarr", "microscopy"),
    "eurosat": SharedSet(("satellite/eurosat_ms",), "satellite", {"channels": EUROSAT}),
    "hydro": SharedSet(("satellite/hydro_s2",), "satellite", {"channels": HYDRO}),
    "bands": _of("bigearthnet_v2/BigEarthNet-S2", "satellite", S2),
    "radar": _of("bigearthnet_v2/BigEarthNet-S1", "satellite", S2.replace(r"B\w\w", r"V\w")),
    "landcover": _of("bigearthnet_v2/Reference_Maps", "satellite"),
    "ssl_s1": _of("ssl4eo_s12/s1", "satellite", SSL, "json$"),
    "ssl_s2a": _of("ssl4eo_s12/s2a", "satellite", SSL, "json$"),
    "ssl_s2c": _of("ssl4eo_s12/s2c", "satellite", SSL, "json$"),
    "majortom": _of(
        "majortom_s2l2a", "satellite", r"(?P<scene>[^/]+)/(?P<band>B\w\w)\.tif$", "mask|thumbnail"
    ),
    "enmap": _of(
        "hyspecnet_enmap", "satellite", r"(?P<scene>[^/]+)-SPECTRAL_IMAGE\.TIF$", "-QL_|THUMBNAIL"
    ),
    "ucmerced": _of("ucmerced", "satellite"),
    "olinda": _of("landsat7_etm_olinda", "satellite"),
    "landsat5": _of(
        "landsat5_tm_LT52240631988227CUB02",
        "satellite",
        r"(?P<scene>LT\w+)_(?P<band>B\d)\.TIF$",
        "MTL",
    ),
    "landsat7": _of("landsat7_rgb_rasterio", "satellite"),
    "sentinel1": _of("sentinel1_rio_tiler", "satellite"),
    "scaled": _of("scaled_int16_rio_tiler", "satellite"),
    "npz": _of("landsat5_csmask_npz", "satellite"),
    "jp2": _of("derived_jp2", "satellite", r"(?P<scene>\w+)_(?P<band>B\d)\.jp2$"),
}


def channel_files(one: SharedSet, first: Path, channels: list[str]) -> list[Path]:
    """Return the file of each channel of the unit that a file belongs to; the file itself where
    files are no channels."""
    if "(?P<channel>" not in one.pattern and "(?P<band>" not in one.pattern:
        return [first]
    word = "band" if "(?P<band>" in one.pattern else "channel"
    mine = _fields(one.pattern, first)
    by_channel = {
        fields[word]: path
        for path in one.files()
        if (fields := _fields(one.pattern, path)) and {**fields, word: ""} == {**mine, word: ""}
    }
    return [by_channel[name] for name in channels]


def _fields(pattern: str, path: Path) -> dict[str, str]:
    match = re.search(pattern, str(path.relative_to(DATA)))
    return match.groupdict() if match else {}
