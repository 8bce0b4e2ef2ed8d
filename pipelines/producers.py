"""What can be derived: one line a column in `PRODUCERS`, each around pure functions of
`preprocessing`.

A producer turns the stored payload of one sample into one array. Its version is raised when the
same payload
and parameters would give other values than before: that makes every stored column of it stale.
"""

from __future__ import annotations

from typing import Any

from pipelines.column_types import (
    VIEW_SEED,
    Array,
    Parameters,
    Producer,
    Stored,
    canonical_view,
    channels_first,
    frozen_view,
    spatial_shape,
    view_config,
)
from pipelines.producers_learned import LEARNED_PRODUCERS
from pipelines.producers_motion import MOTION_PRODUCERS
from pipelines.producers_pixels import PIXEL_PRODUCERS
from storage.columns import ColumnSpec

__all__ = [
    "PRODUCERS",
    "VIEW_SEED",
    "Parameters",
    "Producer",
    "Stored",
    "channels_first",
    "column_spec",
    "compute_one",
    "frozen_view",
    "spatial_shape",
    "view_config",
]

PRODUCERS: dict[str, Producer] = {
    "flow": MOTION_PRODUCERS["flow"],
    "motion": MOTION_PRODUCERS["motion"],
    "hog": PIXEL_PRODUCERS["hog"],
    "ndi": PIXEL_PRODUCERS["ndi"],
    "fft": PIXEL_PRODUCERS["fft"],
    "features": LEARNED_PRODUCERS["features"],
    "regions": PIXEL_PRODUCERS["regions"],
    "codes": LEARNED_PRODUCERS["codes"],
    "masks": MOTION_PRODUCERS["masks"],
}


def column_spec(column: str, overrides: Parameters) -> ColumnSpec:
    """Return the complete, checked description of a column.

    Raises:
        ValueError: an unknown column or parameter, or a value that cannot be.
    """
    if column not in PRODUCERS:
        raise ValueError(
            f"column {column!r} is unknown. Known: {', '.join(PRODUCERS)}. Add one in "
            "pipelines/producers.py."
        )
    producer = PRODUCERS[column]
    parameters = dict(producer.defaults)
    for name, value in overrides.items():
        parameters[name] = _checked(column, name, value, producer.defaults)
    try:
        if parameters.get("view"):
            parameters["view"] = canonical_view(parameters["view"])
        parameters = producer.check(parameters)
    except (ValueError, TypeError) as error:
        raise ValueError(f"column {column}: {error}") from error
    for name, given in producer.needs(parameters).items():
        source = column_spec(name, {k: v for k, v in given.items() if k != "version"})
        parameters["input"] = {**source.parameters, "version": source.version}
    return ColumnSpec(column, column, producer.version, parameters, producer.text)


def needed_by(spec: ColumnSpec) -> dict[str, ColumnSpec]:
    """Return the columns that a column is made from."""
    return {
        name: column_spec(name, {k: v for k, v in given.items() if k != "version"})
        for name, given in PRODUCERS[spec.producer].needs(spec.parameters).items()
    }


def compute_one(spec: ColumnSpec, stored: Stored, artefact: bytes | None = None) -> Array:
    """Return the array of one sample."""
    return next(iter(PRODUCERS[spec.producer].make([stored], spec.parameters, artefact)))


def _checked(column: str, name: str, value: Any, defaults: Parameters) -> Any:
    if name not in defaults:
        raise ValueError(
            f"column {column}: parameter {name!r} is unknown. Known: {', '.join(defaults)}."
        )
    default = defaults[name]
    if isinstance(default, float) and type(value) is int:
        return float(value)
    if isinstance(default, list) and isinstance(value, tuple):
        return list(value)
    if type(value) is not type(default):
        raise ValueError(
            f"column {column}: {name} is {value!r}; it must be like {default!r}, its default."
        )
    return value
