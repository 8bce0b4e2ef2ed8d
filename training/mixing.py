"""The mixture of a recipe: further datasets whose batches come in turns with those of the first.

Pictures among clips are clips of one tubelet that stands still, as in OmniMAE (Girdhar et al. 2022,
arXiv:2206.08356): the same network sees both, batch by batch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from preprocessing.masks import MaskConfig
from preprocessing.views import ViewConfig

if TYPE_CHECKING:
    from training.recipe import Recipe

FAMILIES = ("videomae",)
"Whose networks take clips and pictures alike."


@dataclass(frozen=True, kw_only=True, slots=True)
class MixturePart:
    """One dataset of a mixture, besides `data.dataset`."""

    dataset: str
    modality: str = "image"
    "image, or video with as many frames as the first dataset"
    weight: int = 1
    "batches of it in a cycle of the mixture"
    batch: int = 0
    "samples of its batches; 0 is the recipe's batch"
    snapshot: int | None = None
    where: dict[str, Any] = field(default_factory=dict)
    view: ViewConfig | None = None
    "None is the recipe's view"
    mask: MaskConfig | None = None
    "None is the recipe's mask"

    def __post_init__(self) -> None:
        if self.weight < 1 or self.batch < 0:
            raise ValueError(
                f"data.mixture.{self.dataset}: weight is {self.weight}, batch is {self.batch}; "
                "weight must be 1 or more, batch 0 (the recipe's) or more."
            )
        if self.modality not in ("image", "video"):
            raise ValueError(
                f"data.mixture.{self.dataset}: modality is {self.modality!r}; only image and video "
                "can be mixed."
            )


def check_mixture(recipe: Recipe) -> None:
    """Refuse a mixture that the rest of the recipe cannot feed on.

    Raises:
        ValueError: which setting does not fit, and what would.
    """
    parts, model = recipe.data.mixture, recipe.model
    if parts and (model.family not in FAMILIES or recipe.modality != "video"):
        raise ValueError(
            f"data.mixture is given, modality is {recipe.modality}, model.family {model.family}; "
            f"clips and pictures are mixed with modality=video and model.family="
            f"{' or '.join(FAMILIES)}, data.dataset being the clips."
        )
    for part in parts:
        size = (part.view or recipe.view).size
        if size != recipe.view.size:
            raise ValueError(
                f"data.mixture.{part.dataset}: view.size is {size}, that of the recipe "
                f"{recipe.view.size}; one network has one size. Make them equal."
            )
        if part.modality == "image" and (part.mask or recipe.mask).columns:
            raise ValueError(
                f"data.mixture.{part.dataset}: mask {(part.mask or recipe.mask).kind} follows "
                "motion, which pictures lack. Give this part a mask of its own, such as mask: "
                "{kind: random, ratio: 0.75}."
            )
        if (part.batch or recipe.batch) % recipe.accumulate:
            raise ValueError(
                f"data.mixture.{part.dataset}: batch is {part.batch}, accumulate is "
                f"{recipe.accumulate}; it must divide every batch. Change one of them."
            )


def pin_snapshots(recipe: Recipe, told: Mapping[str, Any]) -> Recipe:
    """Return the recipe with each of its datasets at a fixed snapshot, decoded by whom it was.

    Args:
        told: what a feed says of its data (`Feed.fingerprints`); a run keeps it.
    """
    data = recipe.data
    others = [part["snapshot"] for part in told.get("mixture", [])[1:]]
    parts = tuple(
        replace(part, snapshot=part.snapshot or snapshot)
        for part, snapshot in zip(data.mixture, others, strict=bool(others))
    )
    pinned = replace(data, snapshot=data.snapshot or told["snapshot"], mixture=parts)
    if data.decode == "auto":
        pinned = replace(pinned, decode=told.get("decode", "cpu"))
    return replace(recipe, data=pinned)
