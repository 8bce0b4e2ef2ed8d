"""Of the installed packages: which are missing or of a wrong version, and which decoders work."""

from __future__ import annotations

import importlib
import io
import platform
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata

from flows.findings import Examined, Finding, fault, fine, note

WHY = {
    "fastapi": "Prefect 3 cannot start its server with it",
    "sqlalchemy": "Prefect 3 silently drops scheduled runs with it",
}
"What a version that does not fit breaks, where the package's name does not say it."


def packages(_: Examined) -> Iterator[Finding]:
    """Compare what is installed with what headrace's own metadata asks for."""
    yield fine("python", f"{platform.python_version()} in {sys.prefix}")
    try:
        needed = [wanted for wanted in _requirements() if wanted.marker is None]
    except metadata.PackageNotFoundError:
        yield fault(
            "packages",
            "headrace itself is not installed, so nobody knows which versions it needs",
            "run 'make setup' in the checkout, or 'pip install headrace'",
        )
        return
    wrong = [finding for wanted in needed if (finding := _package(wanted))]
    yield from wrong
    if not wrong:
        yield fine("packages", f"all {len(needed)} are installed in versions that fit")


def _requirements() -> list[Requirement]:
    return [Requirement.parse(text) for text in metadata.requires("headrace") or []]


@dataclass(frozen=True, slots=True)
class Requirement:
    """A package that headrace needs, as its metadata says it."""

    name: str
    versions: str
    "such as '>=3.4,<4'"
    marker: str | None

    @staticmethod
    def parse(text: str) -> Requirement:
        """Read a line of the metadata."""
        from packaging.requirements import Requirement as Parsed

        parsed = Parsed(text)
        marker = str(parsed.marker) if parsed.marker else None
        return Requirement(parsed.name, str(parsed.specifier), marker)

    def fits(self, version: str) -> bool:
        """Say whether a version is among those wanted."""
        from packaging.specifiers import SpecifierSet

        return SpecifierSet(self.versions).contains(version, prereleases=True)


def _package(wanted: Requirement) -> Finding | None:
    """Return what is wrong with a package; None where nothing is."""
    mend = f"python -m pip install '{wanted.name}{wanted.versions}'"
    try:
        version = metadata.version(wanted.name)
    except metadata.PackageNotFoundError:
        return fault("packages", f"{wanted.name} is missing", mend)
    if wanted.fits(version):
        return None
    why = WHY.get(wanted.name.lower(), "headrace was not made for it")
    found = f"{wanted.name} is {version}, wanted {wanted.versions}: {why}"
    return fault("packages", found, mend)


def decoders(_: Examined) -> Iterator[Finding]:
    """Write and read back a small file of each kind."""
    working = []
    for kind, (probe, package, extra) in DECODERS.items():
        try:
            probe()
            working.append(kind)
        except Exception as error:  # whatever a broken library raises is the finding
            text = f"no decoder for {kind}: {package} does not work ({_short(error)})"
            if extra:
                yield note("decoders", text, f"python -m pip install 'headrace[{extra}]'")
            else:
                yield fault("decoders", text, f"python -m pip install --force-reinstall {package}")
    if working:
        yield fine("decoders", ", ".join(working))
    yield from _views()


def _views() -> Iterator[Finding]:
    """Say where batches of JPEGs take half again as long as they need to."""
    from preprocessing.jpeg_region import compiled

    if not compiled():
        found = (
            "of a JPEG the whole is decoded, not only what a view shows: _jpeg.c is not compiled"
        )
        mend = (
            "install a C compiler, and then headrace again: python -m pip install --force-reinstall"
        )
        yield note("decoders", found, f"{mend} --no-deps (in a checkout: --editable .)")


def _short(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def _images() -> None:
    import cv2
    import numpy as np

    from preprocessing.images import decode_image

    picture = np.zeros((16, 16, 3), np.uint8)
    for kind in (".jpg", ".png"):
        assert decode_image(cv2.imencode(kind, picture)[1].tobytes()).shape == (16, 16, 3)


def _clips() -> None:
    import numpy as np

    from preprocessing.video_codec import decode_clip, encode_clip

    assert decode_clip(encode_clip(np.zeros((2, 32, 32, 3), np.uint8), 8.0)).shape[0] == 2


def _tiff() -> None:
    import imagecodecs
    import numpy as np
    import tifffile

    plane, file = np.zeros((16, 16), np.uint16), io.BytesIO()
    tifffile.imwrite(file, plane, compression="lzw")
    assert tifffile.imread(io.BytesIO(file.getvalue())).shape == plane.shape
    assert imagecodecs.zlib_decode(imagecodecs.zlib_encode(plane)) == plane.tobytes()


def _geotiff() -> None:
    import rasterio

    with rasterio.Env() as env:
        assert "GTiff" in env.drivers(), "its GDAL cannot read GeoTIFF"


def _zarr() -> None:
    importlib.import_module("zarr")


DECODERS: dict[str, tuple[Callable[[], None], str, str]] = {
    "JPEG and PNG": (_images, "opencv-python-headless", ""),
    "video": (_clips, "av", ""),
    "TIFF": (_tiff, "imagecodecs", ""),
    "GeoTIFF": (_geotiff, "rasterio", "geo"),
    "OME-Zarr": (_zarr, "zarr", "bio"),
}
"Kind of file: its probe, the package that reads it, and the extra that brings it."
