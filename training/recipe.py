"""Recipes: the declarative description of one experiment, from YAML and `key=value` words.

Values come from the defaults below, then the recipe file, then the words; unknown names are errors.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any

import yaml

from preprocessing.masks import MaskConfig
from preprocessing.targets import TargetConfig
from preprocessing.views import ViewConfig
from storage.fingerprint import fingerprint
from training.combinations import check_combination
from training.guard import GuardConfig
from training.mixing import MixturePart, check_mixture
from training.models.config import ModelConfig
from training.optim_config import OptimConfig

RECIPES = Path(__file__).resolve().parent.parent / "recipes"
UNNUMBERED = ("name", "paper", "log_every", "save_every", "heldout_every", "keep", "peak_flops")
"Settings on which no number of a run depends."
MODALITIES = ("image", "video", "microscopy", "satellite")


@dataclass(frozen=True, kw_only=True, slots=True)
class DataConfig:
    """What is read, and what is asked of it."""

    dataset: str
    snapshot: int | None = None
    "a version of the dataset; None is the newest when the run starts"
    bands: tuple[str, ...] = ()
    "channels to read, by name; empty reads all"
    columns: dict[str, dict[str, Any]] = field(default_factory=dict)
    "parameters asked of each column that the mask or a target reads"
    samples: int = 0
    "train on this many samples only, the same ones each time; 0 takes all"
    where: dict[str, Any] = field(default_factory=dict)
    "conditions on the samples that are taken, such as {score: {min: 0.5}, label: [a, b]}"
    decode: str = "cpu"
    "who decodes pictures and clips: cpu, to the same bits everywhere; gpu, near it; or auto, the "
    "faster one for the first batch, then kept"
    failures: int = 0
    "samples that may fail while training, each replaced by a substitute; one more ends the run"
    series: str = ""
    "the field that names the place of a picture, such as scene: a sample then is several pictures "
    "of one place, and their dates (satmae_time)"
    dates: int = 3
    "pictures of a series"
    frozen_views: int = 0
    "0 draws a new view each epoch; K uses K frozen ones, as stored targets need"
    stride: int = 1
    "of a stored clip, take every so many-th frame; flow and masks are those of that stride"
    weight: int = 1
    "batches of it in a cycle of the mixture"
    mixture: tuple[MixturePart, ...] = ()
    "further datasets whose batches come in turns with these, in the proportion of the weights"
    heldout: int = 256
    "most held-out samples that the held-out loss looks at"
    probe: int = 0
    "labelled samples that kNN is tried on at each evaluation; 0 tries none"

    def __post_init__(self) -> None:
        _check_least(self, 0, ("samples", "failures", "frozen_views", "heldout", "probe"), "data.")
        _check_least(self, 1, ("dates", "stride", "weight"), "data.")


@dataclass(frozen=True, kw_only=True, slots=True)
class BeginConfig:
    """The run whose weights, optimiser and average a run begins with; none by default."""

    run: str = ""
    step: int = 0
    "of its checkpoint; 0 takes the newest before the infinite schedule anneals"
    count: str = "on"
    "on: steps and batches are counted on from there; anew: from 0, on the constant rate of the "
    "infinite schedule, for other data"

    def __post_init__(self) -> None:
        if self.count not in ("on", "anew") or self.step < 0:
            raise ValueError(
                f"begin: count is {self.count!r}, step is {self.step}; count must be on or anew, "
                "step 0 or more."
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """One experiment."""

    name: str
    paper: str
    modality: str
    data: DataConfig
    view: ViewConfig
    mask: MaskConfig
    target: tuple[TargetConfig, ...]
    model: ModelConfig
    optim: OptimConfig
    begin: BeginConfig = field(default_factory=BeginConfig)
    init: str = ""
    "file or folder with the first weights: official, Hugging Face's, timm's or an export"
    steps: int
    batch: int
    "samples of a global batch, over all ranks and accumulation steps"
    accumulate: int = 1
    "parts in which a rank computes its share of a batch"
    lanes: int = 0
    "equal cuts of the order; 0 takes the largest of 8, 4, 2, 1 that divides the batch"
    seed: int = 0
    precision: str = "fp32"
    "fp32, bf16 or fp16 autocast"
    compile: bool = False
    "have torch compile the model's blocks; numbers then differ in the last digits"
    recompute: bool = False
    "keep no activations inside blocks, compute them again for the gradients: less memory"
    drop_path: float = 0.0
    "share of the samples for which the last block of the encoder is passed over while training; "
    "it rises from 0 at the first one"
    ema: float = 0.0
    "decay of a running average of the weights, such as 0.999; 0 keeps none"
    guard: GuardConfig = field(default_factory=GuardConfig)
    log_every: int = 10
    save_every: int = 100
    heldout_every: int = 50
    keep: int = 3
    "checkpoints to keep, newest first, beside the best one"
    peak_flops: float = 0.0
    "of one device, in FLOPs a second, for MFU; 0 measures it"

    def __post_init__(self) -> None:
        _check_least(self, 1, ("steps", "batch", "accumulate", "keep"))
        _check_least(self, 1, ("log_every", "save_every", "heldout_every"))
        _check_least(self, 0, ("lanes", "seed", "peak_flops"))
        if self.modality not in MODALITIES:
            raise ValueError(
                f"modality is {self.modality!r}; it must be one of {', '.join(MODALITIES)}."
            )
        if self.precision not in ("fp32", "bf16", "fp16"):
            raise ValueError(f"precision is {self.precision!r}; it must be fp32, bf16 or fp16.")
        for name in ("ema", "drop_path"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(
                    f"{name} is {getattr(self, name)}; it must be 0 or more and below 1."
                )
        if not self.target:
            raise ValueError("target is empty; a recipe predicts at least one. Add {kind: pixels}.")
        if self.view.size % self.model.patch:
            raise ValueError(
                f"view.size is {self.view.size}, model.patch is {self.model.patch}; the view must "
                "hold whole patches. "
                f"Use view.size={max(self.view.size // self.model.patch, 1) * self.model.patch}."
            )
        check_combination(self)
        check_mixture(self)


def read_recipe(name_or_path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Return the recipe of this name or path, with `key=value` words applied.

    Raises:
        FileNotFoundError: no such recipe.
        ValueError: a name or a value does not fit; the message lists what does.
    """
    path = _find_recipe(str(name_or_path))
    try:
        values = yaml.safe_load(path.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: is not a YAML file ({error}). Correct it there.") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path.name}: holds {type(values).__name__}; a recipe is a mapping.")
    for word in overrides:
        _override(values, word)
    return make_recipe(values)


def make_recipe(values: dict[str, Any]) -> Recipe:
    """Return the recipe of plain values, such as `resolve` returns."""
    recipe: Recipe = _build(Recipe, values, "")
    return recipe


def resolve(recipe: Recipe) -> dict[str, Any]:
    """Return every setting as plain JSON values, defaults included."""
    plain: dict[str, Any] = _plain(asdict(recipe))
    return plain


def recipe_fingerprint(recipe: Recipe) -> str:
    """Return the SHA-256 of what determines the numbers of a run; how often it logs and saves does
    not.
    """
    values = resolve(recipe)
    for name in UNNUMBERED:
        values.pop(name)
    return fingerprint(values)


def list_recipes() -> list[str]:
    """Return the names of the recipes that come with headrace."""
    return sorted(path.stem for path in RECIPES.glob("*.yaml"))


def _check_least(config: Any, least: int, names: Sequence[str], prefix: str = "") -> None:
    for name in names:
        if getattr(config, name) < least:
            raise ValueError(
                f"{prefix}{name} is {getattr(config, name)}; it must be {least} or more."
            )


def _find_recipe(name: str) -> Path:
    path = Path(name) if name.endswith((".yaml", ".yml")) else RECIPES / f"{name}.yaml"
    if not path.is_file():
        raise FileNotFoundError(
            f"recipe {name!r}: there is no such file or name. Known: {', '.join(list_recipes())}. "
            "Give one of these, or the path of a YAML file."
        )
    return path


def _override(values: dict[str, Any], word: str) -> None:
    key, equals, text = word.partition("=")
    if not equals or not key:
        raise ValueError(
            f"{word!r} is no override; it must read key=value, such as mask.ratio=0.9."
        )
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(
            f"{key}: {text!r} is no YAML value. Write it as in a recipe, such as 0.9 or [a, b]."
        ) from error
    *parents, last = key.split(".")
    place: Any = values
    for name in parents:
        at = _place_of(place, name, key)
        place = place.setdefault(at, {}) if isinstance(place, dict) else place[at]
    place[_place_of(place, last, key)] = value


def _place_of(place: Any, name: str, key: str) -> str | int:
    """Return what a name is called in a group of settings, or its number in a list of them."""
    if isinstance(place, list):
        return _list_index(place, name, key)
    if not isinstance(place, dict):
        raise ValueError(
            f"{key}: the part before {name!r} holds {place!r}, not a group of settings."
        )
    return name


def _list_index(place: list[Any], name: str, key: str) -> int:
    kinds = [entry.get("kind") if isinstance(entry, dict) else None for entry in place]
    if name in kinds:
        return kinds.index(name)
    if name.isdigit() and int(name) < len(place):
        return int(name)
    raise ValueError(
        f"{key}: {name!r} names none of {[kind or i for i, kind in enumerate(kinds)]}. Use a "
        "kind or a number."
    )


def _build(kind: Any, values: Any, where: str) -> Any:
    if not isinstance(values, dict):
        raise ValueError(f"{where or 'recipe'} is {values!r}; it must be a group of settings.")
    known = {entry.name: entry for entry in fields(kind)}
    hints = typing.get_type_hints(kind)
    prefix = f"{where}." if where else ""
    unknown = sorted(set(values) - set(known))
    if unknown:
        raise ValueError(
            f"{prefix}{unknown[0]} is unknown. Known: {', '.join(prefix + name for name in known)}."
        )
    needed = [n for n, e in known.items() if e.default is MISSING and e.default_factory is MISSING]
    missing = [name for name in needed if name not in values]
    if missing:
        raise ValueError(f"{prefix}{missing[0]} is missing; a recipe must set it.")
    return kind(
        **{name: _value(hints[name], value, prefix + name) for name, value in values.items()}
    )


def _value(hint: Any, value: Any, where: str) -> Any:
    """Return a YAML value as its field's type, or say why it cannot be."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        return _value(next(a for a in arguments if a is not type(None)), value, where)
    if origin is tuple:
        return _tuple_value(arguments, value, where)
    if origin is dict or hint is dict:
        if not isinstance(value, dict):
            raise ValueError(f"{where} is {value!r}; it must be a group of settings.")
        return dict(value)
    if is_dataclass(hint):
        return _build(hint, value, where)
    return _scalar(hint, value, where)


def _tuple_value(arguments: tuple[Any, ...], value: Any, where: str) -> tuple[Any, ...]:
    if not isinstance(value, list | tuple):
        raise ValueError(f"{where} is {value!r}; it must be a list, such as [a, b].")
    if len(arguments) == 2 and arguments[1] is Ellipsis:
        return tuple(_value(arguments[0], v, f"{where}.{i}") for i, v in enumerate(value))
    if len(value) != len(arguments):
        raise ValueError(f"{where} is {value!r}; it must hold {len(arguments)} values.")
    return tuple(_value(a, v, where) for a, v in zip(arguments, value, strict=True))


def _scalar(hint: Any, value: Any, where: str) -> Any:
    if hint is Any:
        return value
    # PyYAML reads 1e-3 as text: YAML 1.1 wants 1.0e-3.
    if hint is float and isinstance(value, int | float | str) and not isinstance(value, bool):
        try:
            return float(value)
        except ValueError as error:
            raise ValueError(f"{where} is {value!r}; it must be a number.") from error
    if isinstance(value, hint) and not (hint is int and isinstance(value, bool)):
        return value
    if hint is str and isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    raise ValueError(f"{where} is {value!r}; it must be of type {hint.__name__}.")


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    return [_plain(inner) for inner in value] if isinstance(value, list | tuple) else value
