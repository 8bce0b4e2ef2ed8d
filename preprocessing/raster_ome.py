"""What microscopy files say of their channels, in OME-XML and OME-Zarr alike: names and sizes."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from typing import Any

import numpy as np

_MICROMETRES = {"µm": 1.0, "um": 1.0, "nm": 1e-3, "mm": 1e3, "Å": 1e-4, "cm": 1e4, "m": 1e6}
_MICROMETRES |= {"μm": 1.0}  # the Greek letter, beside the micro sign above
_MICROMETRES |= {"micrometer": 1.0, "nanometer": 1e-3, "millimeter": 1e3, "angstrom": 1e-4}
_MICROMETRES |= {"centimeter": 1e4, "meter": 1e6, "micron": 1.0}


def micrometres(value: float, unit: str) -> float | None:
    """Return a length in micrometres; None for a unit that is not a length."""
    return value * _MICROMETRES[unit] if unit in _MICROMETRES else None


def ome_images(xml: str | None) -> list[Any]:
    """Return the Pixels element of each image of an OME-TIFF, whose tags carry a namespace."""
    if not xml:
        return []
    root = ElementTree.fromstring(xml)
    return [node for node in root.iter() if node.tag.endswith("}Pixels")]


def ome_pixel_size(pixels: Any | None) -> tuple[float, float] | None:
    """Return (x, y) in micrometres."""
    if pixels is None:
        return None
    sizes = []
    for axis in "XY":
        text = pixels.get(f"PhysicalSize{axis}")
        unit = pixels.get(f"PhysicalSize{axis}Unit", "µm")
        size = micrometres(float(text), unit) if text is not None else None
        if size is None:
            return None
        sizes.append(size)
    return sizes[0], sizes[1]


def ome_channels(pixels: Any | None) -> list[str]:
    """Return the names of the channels, "" for one without."""
    if pixels is None:
        return []
    return [node.get("Name") or "" for node in pixels if node.tag.endswith("}Channel")]


def plane_names(lengths: dict[str, int], stated: Sequence[str]) -> list[str] | None:
    """Return a name for each plane, None where the file does not name every channel.

    Args:
        lengths: of each axis that went into C (of C, Z, T, S), slowest first.
        stated: the names of the channels.
    """
    if lengths == {"S": 3}:
        return ["R", "G", "B"]
    if not stated or not all(stated) or len(set(stated)) < len(stated):
        return None
    if len(stated) != lengths.get("C", 1) or not set(lengths) <= set("CZT"):
        return None
    planes = np.ndindex(*lengths.values())
    return [
        _plane_name(dict(zip(lengths, place, strict=True)), lengths, stated) for place in planes
    ]


def _plane_name(place: dict[str, int], lengths: dict[str, int], stated: Sequence[str]) -> str:
    """Return `<channel>`, with `_z<z>` and `_t<t>` where there are several."""
    depth = [f"_{axis.lower()}{place[axis]}" for axis in "ZT" if lengths.get(axis, 1) > 1]
    return stated[place.get("C", 0)] + "".join(depth)
