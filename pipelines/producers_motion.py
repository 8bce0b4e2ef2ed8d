"""Columns about motion, and stored masks: flow, motion, masks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.column_types import (
    CENTER,
    Array,
    Parameters,
    Producer,
    Stored,
    canonical_view,
    check_frozen,
    each,
    frozen_view,
    stored_extent,
)
from preprocessing.bits import pack_masks
from preprocessing.flow import (
    METHODS,
    RAFT,
    coarse_flow,
    dense_flow,
    flow_to_int16,
    int16_to_flow,
)
from preprocessing.mask_random import Grid
from preprocessing.masks import MASK_SEED, MaskConfig, make_mask, visible_count
from preprocessing.motion import clip_motion
from preprocessing.payloads import decode_payload
from preprocessing.randomness import generator
from preprocessing.views import View, view_flow

CELLS_PER_PATCH = 2
"Flow is seen on a grid this much finer than the tokens."
MASK_SETTINGS = ("kind", "ratio", "source", "base", "fill", "keep", "released", "colour")
"What determines a mask; how it is stored, and what is decoded, does not."
_FOLLOWS = {
    "crop": "exact on cell borders, within them bounded: the mean of the cells that an output cell "
    "covers, or linear between their centres",
    "resize": "bounded: exact where both grids share borders, linear fields stay linear",
    "flip": "exact: mirrored, x negated",
}


def _flow(
    samples: Iterable[Stored], parameters: Parameters, weights: bytes | None
) -> Iterator[NDArray[np.int16]]:
    """Yield (directions, T-1, h, w, 2) int16: backward first, then forward, on cells of `cell`
    px, between the frames that `stride` leaves."""
    for stored in samples:
        frames = decode_payload(stored.ext, stored.payload)[:: parameters["stride"]]
        fields = [
            dense_flow(frames, method=parameters["method"], direction=way, weights=weights)
            for way in directions(parameters)
        ]
        yield np.stack([flow_to_int16(coarse_flow(field, parameters["cell"])) for field in fields])


def directions(parameters: Parameters) -> tuple[str, ...]:
    """Return the directions that a flow column holds, in its order."""
    way = parameters["direction"]
    return ("backward", "forward") if way == "both" else (way,)


def _check_flow(parameters: Parameters) -> Parameters:
    known = {"method": (*METHODS, *RAFT), "direction": ("both", "backward", "forward")}
    for name, words in known.items():
        if parameters[name] not in words:
            raise ValueError(f"{name} is {parameters[name]!r}; it must be one of {words}.")
    if parameters["cell"] < 1 or parameters["stride"] < 1:
        raise ValueError(
            f"cell is {parameters['cell']}, stride {parameters['stride']}; both must be 1 or more."
        )
    return parameters


def _check_raft(weights: bytes, parameters: Parameters) -> None:
    from preprocessing.raft import raft_model  # torch: only who asks for RAFT loads it

    raft_model(parameters["method"], weights)


def _motion(stored: Stored, parameters: Parameters) -> NDArray[np.int16]:
    """Return (T, h, w, 2) int16: the mean codec vector of each cell, flow(j -> j-1)."""
    return flow_to_int16(clip_motion(stored.payload, parameters["cell"]))


def _check_motion(parameters: Parameters) -> Parameters:
    if parameters["cell"] < 1:
        raise ValueError(f"cell is {parameters['cell']}; it must be 1 or more. 8 is usual.")
    if parameters["stride"] != 1:
        raise ValueError(
            f"stride is {parameters['stride']}; codec vectors point to the frame before, so it "
            "must be 1. Use the column flow, which takes a stride, or ingest with that stride."
        )
    return parameters


def seen_motion(
    column: str, stored: Array, parameters: Parameters, view: View, grid: Grid
) -> dict[str, NDArray[np.float32]]:
    """Return stored flow or codec motion as a view sees it: what `make_mask` takes.

    Args:
        column: flow or motion.
        parameters: of that column.
        grid: (t, h, w) tokens.
    """
    cells = (CELLS_PER_PATCH * grid[1], CELLS_PER_PATCH * grid[2])
    names = directions(parameters) if column == "flow" else ("motion",)
    fields = stored if column == "flow" else stored[None]
    return {
        name: view_flow(int16_to_flow(field), parameters["cell"], view, cells)
        for name, field in zip(names, fields.astype(np.int16, copy=False), strict=True)
    }


def _masks(stored: Stored, parameters: Parameters) -> NDArray[np.uint8]:
    """Return (draws, ceil(N / 8)) uint8: the frozen draws of the sample's mask, as bits."""
    config = mask_config(parameters)
    patch = parameters["patch"]
    frames, height, width = stored_extent(stored)
    grid = token_grid(frames, parameters)
    source = parameters["input"]
    masks = []
    for draw in range(parameters["draws"]):
        seen: dict[str, Any] = {}
        if source:
            index = draw % parameters["views"]
            view = frozen_view(parameters, height, width, stored.sample, index)
            array = stored.inputs[config.source]
            seen = seen_motion(config.source, array, source, view, grid)
        rng = generator(MASK_SEED, draw, stored.sample, "mask")
        masks.append(make_mask(config, grid, rng, cell=patch / CELLS_PER_PATCH, **seen))
    return pack_masks(np.stack(masks))


def token_grid(frames: int, parameters: Parameters) -> Grid:
    """Return the token grid of a sample of so many stored frames, 0 for a still."""
    edge = parameters["size"] // parameters["patch"]
    if parameters["groups"]:
        return parameters["groups"], edge, edge
    seen = -(-frames // parameters["stride"])
    return (seen // parameters["tubelet"] if frames else 1), edge, edge


def mask_config(parameters: Parameters) -> MaskConfig:
    """Return the mask settings among a column's parameters."""
    return MaskConfig(**parameters["mask"])


def mask_settings(config: MaskConfig) -> Parameters:
    """Return what of a mask's settings its column is determined by."""
    return {name: value for name, value in asdict(config).items() if name in MASK_SETTINGS}


def _check_masks(parameters: Parameters) -> Parameters:
    """Spell out the mask; motion-guided ones need frozen views, others have none."""
    unknown = [name for name in parameters["mask"] if name not in MASK_SETTINGS]
    if unknown:
        raise ValueError(
            f"mask.{unknown[0]} is no setting of a stored mask. Known: {', '.join(MASK_SETTINGS)}."
        )
    config = mask_config(parameters)
    parameters = {**parameters, "mask": mask_settings(config)}
    for name in ("draws", "size", "patch", "tubelet", "stride"):
        if parameters[name] < 1:
            raise ValueError(f"{name} is {parameters[name]}; it must be 1 or more.")
    if parameters["size"] % parameters["patch"]:
        raise ValueError(
            f"size is {parameters['size']}, patch {parameters['patch']}; the view must hold whole "
            f"patches. Use size={max(parameters['size'] // parameters['patch'], 1)}x the patch."
        )
    if not config.columns:
        visible_count(config, token_grid(0, parameters))
        return {**parameters, "views": 0, "view": {}, "input": {}}
    if not parameters["views"] or parameters["draws"] % parameters["views"]:
        raise ValueError(
            f"mask {config.kind} follows the motion that a view shows, so it is stored for frozen "
            f"views: views is {parameters['views']}, draws is {parameters['draws']}. Set views to "
            "the recipe's data.frozen_views, and draws to a multiple of it."
        )
    view = canonical_view({**(parameters["view"] or CENTER), "size": parameters["size"]})
    check_frozen({**parameters, "view": view})
    source = {"stride": parameters["stride"], **parameters["input"]}
    if source["stride"] != parameters["stride"]:
        raise ValueError(
            f"stride is {parameters['stride']}, input.stride is {source['stride']}; masks follow "
            f"the {config.source} of their own stride. Leave input.stride out."
        )
    return {**parameters, "view": view, "input": source}


MOTION_PRODUCERS: dict[str, Producer] = {
    "flow": Producer(
        version=1,
        defaults={
            "method": "dis_medium",
            "direction": "both",
            "cell": 8,
            "stride": 1,
            "weights": "",
        },
        make=_flow,
        bound="each component within 1/128 px of the cell's mean flow, up to 511 px",
        modalities=("video",),
        views={**_FOLLOWS, "stride": "refused: only its own stride"},
        check=_check_flow,
        artefact="weights",
        wants_artefact=lambda parameters: parameters["method"] in RAFT,
        check_artefact=_check_raft,
    ),
    "motion": Producer(
        version=1,
        defaults={"cell": 8, "stride": 1},
        make=each(_motion),
        bound="each component within 1/128 px of the cell's mean vector, up to 511 px",
        modalities=("video",),
        views={**_FOLLOWS, "stride": "refused: vectors point to the frame before"},
        check=_check_motion,
        decodes=False,
    ),
    "masks": Producer(
        version=1,
        defaults={
            "draws": 8,
            "size": 224,
            "patch": 16,
            "tubelet": 2,
            "stride": 1,
            "groups": 0,
            "views": 0,
            "view": {},
            "mask": {},
            "input": {},
        },
        make=each(_masks),
        bound="exact",
        modalities=("image", "video", "microscopy", "satellite"),
        views={
            "crop": "exact for masks that look at nothing; motion-guided ones: refused but for "
            "their own frozen views",
            "resize": "refused: only its own token grid",
            "flip": "as crop",
            "stride": "refused: only its own stride",
        },
        check=_check_masks,
        decodes=False,
        online=True,
        needs=lambda parameters: (
            {parameters["mask"]["source"]: parameters["input"]}
            if mask_config(parameters).columns
            else {}
        ),
    ),
}
