"""What a training stream is made of: which samples, seen how, with which masks, columns and
targets."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from pipelines.order import OrderConfig
from pipelines.producers import column_spec
from preprocessing.masks import MaskConfig
from preprocessing.targets import TargetConfig
from preprocessing.views import ViewConfig
from storage.columns import ColumnSpec

STREAM_TARGETS = ("hog",)
"Targets that the stream makes; all others the objective computes from the pixels."


@dataclass(frozen=True, kw_only=True, slots=True)
class StreamConfig:
    """Everything that determines the batches of a run."""

    dataset: str
    snapshot: int | None = None
    "a version of the dataset; None is the newest when the run starts"
    split: str = "train"
    samples: int = 0
    "train on this many samples only, the same ones each time; 0 takes all"
    view: ViewConfig
    mask: MaskConfig
    targets: tuple[TargetConfig, ...]
    patch: int
    tubelet: int = 1
    batch: int
    "samples of a global batch"
    seed: int
    lanes: int = 1
    frozen_views: int = 0
    """0 draws a new view each epoch; K uses view `epoch mod K` of K frozen ones, as stored
    targets need"""
    bands: tuple[str, ...] = ()
    "channels to read, by name; empty reads all"
    groups: tuple[tuple[str, ...], ...] = ()
    "band groups (or single channels) that are tokens of their own; empty makes one group of all"
    columns: dict[str, dict[str, Any]] = field(default_factory=dict)
    """parameters asked of the columns that the mask reads, where they are not the producers'
    defaults"""

    def __post_init__(self) -> None:
        if self.view.size % self.patch:
            raise ValueError(
                f"view.size is {self.view.size}, model.patch is {self.patch}; the view must hold "
                "whole patches. "
                f"Use view.size={self.view.size // self.patch * self.patch or self.patch}."
            )
        stored = [t for t in self.targets if t.kind in STREAM_TARGETS and t.source == "column"]
        if stored and not self.frozen_views:
            raise ValueError(
                f"target {stored[0].kind} has source=column, but data.frozen_views is 0. A stored "
                f"{stored[0].kind} fits only "
                "its own frozen views: set data.frozen_views to the number of views, or "
                "source=online."
            )

    @property
    def order(self) -> OrderConfig:
        """The part that fixes the sequence of samples."""
        return OrderConfig(batch=self.batch, seed=self.seed, lanes=self.lanes)

    def needed_columns(self) -> dict[str, ColumnSpec]:
        """Return the exact columns that the masks and targets of this stream read."""
        asked = {**{key: {} for key in self.mask.columns}, **self.columns}
        needed = {name: column_spec(name, parameters) for name, parameters in asked.items()}
        for target in self.targets:
            if target.kind == "hog" and target.source == "column":
                needed["hog"] = column_spec(
                    "hog",
                    {
                        "cell": target.cell,
                        "bins": target.bins,
                        "window": target.window,
                        "patch": self.patch,
                        "tubelet": self.tubelet,
                        "views": self.frozen_views,
                        "view": asdict(self.view),
                    },
                )
        return needed


def column_arguments(spec: ColumnSpec) -> str:
    """Return the `key=value` words that derive exactly this column."""
    words = []
    for name, value in spec.parameters.items():
        if isinstance(value, dict):
            words += [f"{name}.{key}={_word(inner)}" for key, inner in value.items()]
        else:
            words.append(f"{name}={_word(value)}")
    return " ".join(words)


def _word(value: Any) -> str:
    if isinstance(value, list | tuple):
        return "[" + ",".join(map(str, value)) + "]"
    return str(value).lower() if isinstance(value, bool) else str(value)
