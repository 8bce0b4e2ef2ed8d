"""Which samples a stream takes: conditions on manifest rows, part of the recipe, not of the tars.

A condition stands under the name of a field: a value it must equal, a list of which it must be one,
or `{min: …, max: …}`, both inclusive. Fields are `score` (motion), `label`, `key`, `ext`, and
`metadata.NAME` for what the raw file or its table said. A sample that lacks the field does not fit.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

FIELDS = ("score", "label", "key", "ext")
_METADATA = "metadata."


def check_where(where: Mapping[str, Any]) -> None:
    """Refuse conditions that could not be asked.

    Raises:
        ValueError: an unknown field, or a condition that is none.
    """
    for name, condition in where.items():
        if name not in FIELDS and not (name.startswith(_METADATA) and name != _METADATA):
            raise ValueError(
                f"data.where: there is no field {name!r}. Known: {', '.join(FIELDS)} and "
                f"{_METADATA}NAME."
            )
        asked = set(condition) if isinstance(condition, Mapping) else {"min"}
        if not asked or asked - {"min", "max"}:
            raise ValueError(
                f"data.where.{name} is {condition!r}; it must be a value, a list, or "
                "{min: …, max: …}."
            )


def fitting(table: pa.Table, where: Mapping[str, Any]) -> NDArray[np.bool_]:
    """Return which manifest rows fit all conditions."""
    fits = np.ones(len(table), dtype=np.bool_)
    described: list[dict[str, Any]] = []
    for name, condition in where.items():
        if name.startswith(_METADATA):
            described = described or [json.loads(text) for text in table["metadata"].to_pylist()]
            values = [about.get(name.removeprefix(_METADATA)) for about in described]
        else:
            values = table[name].to_pylist()
        fits &= np.fromiter((_fits(value, condition) for value in values), np.bool_, len(table))
    return fits


def _fits(value: Any, condition: Any) -> bool:
    if isinstance(condition, Mapping):
        if not isinstance(value, int | float) or value != value:
            return False
        low, high = condition.get("min"), condition.get("max")
        return (low is None or value >= low) and (high is None or value <= high)
    if isinstance(condition, list | tuple):
        return value in condition
    return bool(value == condition)
