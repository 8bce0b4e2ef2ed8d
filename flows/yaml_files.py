"""YAML files that a person writes: read into checked values, or one error that names the place."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError


class Strict(BaseModel):
    """Values of a file: unknown names are errors, what was read does not change."""

    model_config = ConfigDict(extra="forbid", frozen=True)


Model = TypeVar("Model", bound=Strict)


def read_yaml(path: Path, model: type[Model]) -> Model:
    """Return the checked content of a file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no YAML, or a value does not fit; every misfit is named.
    """
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise FileNotFoundError(
            f"{path}: there is no such file. Correct the path; examples/ in the checkout holds "
            "files to start from."
        ) from None
    except (yaml.YAMLError, UnicodeDecodeError, IsADirectoryError) as error:
        raise ValueError(f"{path}: is not a YAML file ({error}). Correct it there.") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path}: holds {type(values).__name__}; it must be a mapping of names.")
    return make_model(values, model, str(path))


def make_model(values: dict[str, Any], model: type[Model], where: str) -> Model:
    """Return checked values; `where` begins the error."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        told = "; ".join(_misfit(model, one) for one in error.errors())
        raise ValueError(f"{where}: {told}{'' if told.endswith('?') else '.'}") from None


def _misfit(model: type[Strict], error: Any) -> str:
    place = ".".join(str(part) for part in error["loc"]) or "the file"
    if error["type"] == "extra_forbidden":
        return f"{place} is unknown{did_you_mean(str(error['loc'][-1]), _names(model))}"
    if error["type"] == "missing":
        return f"{place} is missing"
    said = str(error["msg"]).removeprefix("Value error, ")
    return f"{place}: {said[0].lower()}{said[1:]}, but it is {error['input']!r}"


def _names(model: type[Strict]) -> list[str]:
    """Return the names of fields of a model and of those inside."""
    found = []
    for name, field in model.model_fields.items():
        found.append(name)
        for inner in (field.annotation, *getattr(field.annotation, "__args__", ())):
            if isinstance(inner, type) and issubclass(inner, Strict):
                found += _names(inner)
    return found


def did_you_mean(word: str, known: list[str]) -> str:
    """Return the end of an error about an unknown word: the nearest known one, or all."""
    near = difflib.get_close_matches(word, known, n=1)
    return f"; did you mean {near[0]}?" if near else f" (known: {', '.join(known)})"
