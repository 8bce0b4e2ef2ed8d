"""Regions of an image: SLIC superpixel ids, and how such labels follow a view.

Source: Achanta et al. 2012, SLIC Superpixels; scikit-image's implementation. Labels are names, so
nothing may average them: a view takes the label of the stored pixel that each of its pixels shows.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from preprocessing.views import View

MAX_SEGMENTS = 65535


def slic_regions(
    image: NDArray[Any], segments: int = 64, compactness: float = 10.0, sigma: float = 0.0
) -> NDArray[np.uint16]:
    """Return the superpixel of each pixel, 0, 1, 2 …

    Args:
        image: (H, W, C), any type; three channels of uint8 are taken as RGB and compared in Lab,
            any other number as they are, each scaled to [0, 1].
        segments: about how many regions.
        compactness: weight of nearness against likeness of colour.
        sigma: blur before, px.

    Returns:
        (H, W) uint16.

    Raises:
        ValueError: too many segments, or scikit-image is not installed.
    """
    if not 1 <= segments <= MAX_SEGMENTS:
        raise ValueError(
            f"regions.segments is {segments}; it must be 1 to {MAX_SEGMENTS}. 64 is usual."
        )
    try:
        from skimage.segmentation import slic  # a fifth of a second to import; few runs need it
    except ModuleNotFoundError as error:
        raise ValueError(
            "regions needs scikit-image. Install it with 'pip install headrace[regions]'."
        ) from error
    lab = image.dtype == np.uint8 and image.shape[-1] == 3
    labels = slic(
        image if lab else _unit_range(image),
        n_segments=segments,
        compactness=compactness,
        sigma=sigma,
        start_label=0,
        convert2lab=lab,
        channel_axis=-1,
    )
    if labels.max() > MAX_SEGMENTS:
        raise ValueError(
            f"regions: {labels.max() + 1} regions do not fit 16 bits. Ask for fewer segments."
        )
    return np.asarray(labels, dtype=np.uint16)


def _unit_range(image: NDArray[Any]) -> NDArray[np.float64]:
    """Return (H, W, C) with each channel stretched to [0, 1]; a constant one becomes 0."""
    x = image.astype(np.float64)
    low, high = x.min((0, 1)), x.max((0, 1))
    return np.asarray((x - low) / np.where(high > low, high - low, 1))


def view_labels(labels: NDArray[Any], view: View) -> NDArray[Any]:
    """Return the labels (..., H, W) as the view sees them: (..., size, size), same dtype.

    Each output pixel takes the label of the stored pixel that holds its centre: exact for crops and
    flips, the nearest under a resize.
    """
    height, width = labels.shape[-2:]
    if view.top + view.height > height or view.left + view.width > width:
        raise ValueError(
            f"view_labels: {view} leaves the stored {height}x{width} px. "
            "Draw the view with the height and width of this sample."
        )
    centres = np.arange(view.size) + 0.5
    rows = view.top + (centres * view.height / view.size).astype(np.int64)
    columns = view.left + (centres * view.width / view.size).astype(np.int64)
    columns = columns[::-1] if view.flip else columns
    return np.ascontiguousarray(labels[..., rows[:, None], columns])
