"""What a training stream is made of: which samples, seen how, with which masks, columns and
targets."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from pipelines.filters import check_where
from pipelines.order import OrderConfig
from pipelines.producers import PRODUCERS, column_spec
from pipelines.producers_motion import mask_settings
from preprocessing.masks import MaskConfig
from preprocessing.targets import TargetConfig
from preprocessing.views import ViewConfig
from storage.columns import ColumnSpec

STREAM_TARGETS = ("hog", "hog_scales", "ndi", "features", "label")
"Targets that the stream makes or reads; pixels the objective takes from the pixels."
DECODES = ("cpu", "gpu", "auto")
COLUMN_ONLY = ("features",)
"Targets that are never made in the stream."


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

    stride: int = 1
    "of a stored clip, take every so many-th frame"
    series: str = ""
    """field of a sample's metadata that names its place; a sample then is `dates` pictures of it"""
    dates: int = 1
    where: dict[str, Any] = field(default_factory=dict)
    "conditions on the samples that are taken; see `pipelines.filters`"
    classes: tuple[str, ...] = ()
    "labels by their number, where they are a target"
    decode: str = "cpu"
    """who decodes pictures and clips: cpu, gpu, or auto; see `pipelines.decode_choice`"""
    failures: int = 0
    """samples that may fail while training (a checksum, a decoder), each replaced by a substitute
    that seed, epoch and sample fix; one more ends the run"""

    def __post_init__(self) -> None:
        if self.view.size % self.patch:
            raise ValueError(
                f"view.size is {self.view.size}, model.patch is {self.patch}; the view must hold "
                "whole patches. "
                f"Use view.size={self.view.size // self.patch * self.patch or self.patch}."
            )
        if self.stride < 1:
            raise ValueError(f"data.stride is {self.stride}; it must be 1 or more.")
        check_where(self.where)
        if self.decode not in DECODES:
            raise ValueError(
                f"data.decode is {self.decode!r}; it must be one of {', '.join(DECODES)}."
            )
        if self.series:
            self._check_series()
        if self.failures < 0:
            raise ValueError(f"data.failures is {self.failures}; it must be 0 or more.")
        for target in self.targets:
            self._check_target(target)
        read = [t.column for t in self.targets if t.source == "column"]
        if len(read) != len(set(read)):
            raise ValueError(
                "targets hog and hog_scales both have source=column, of one column hog. Make one "
                "of them online."
            )

    def _check_series(self) -> None:
        if self.dates < 2:
            raise ValueError(f"data.dates is {self.dates}; a series has 2 or more. SatMAE has 3.")
        others = [t.kind for t in self.targets if t.kind != "pixels"]
        if others or self.groups or self.mask.columns:
            raise ValueError(
                f"data.series is {self.series}, with mask.kind={self.mask.kind}, targets "
                f"{', '.join(others) or 'pixels'} and {len(self.groups)} model.groups; a series "
                "of pictures has pixel targets, no groups, and masks that follow no motion. "
                "Leave out data.series, or the others."
            )

    def _check_target(self, target: TargetConfig) -> None:
        kind = target.kind
        if kind in COLUMN_ONLY and target.source != "column":
            raise ValueError(
                f"target {kind} has source={target.source}; the stream cannot make it. "
                f"Use source=column, and derive {kind} first."
            )
        stored = kind in STREAM_TARGETS and target.source == "column"
        if stored and PRODUCERS[target.column].frozen and not self.frozen_views:
            raise ValueError(
                f"target {kind} has source=column, but data.frozen_views is 0. A stored {kind} "
                "fits only its own frozen views: set data.frozen_views to the number of views, or "
                "source=online."
            )
        if kind == "ndi" and self.groups:
            raise ValueError(
                "target ndi is one vector a patch, but model.groups makes a token of each band "
                "group. Leave out model.groups, or the target ndi."
            )

    @property
    def order(self) -> OrderConfig:
        """The part that fixes the sequence of samples."""
        return OrderConfig(batch=self.batch, seed=self.seed, lanes=self.lanes)

    def needed_columns(self) -> dict[str, ColumnSpec]:
        """Return the exact columns that the masks and targets of this stream read."""
        guides: dict[str, dict[str, Any]] = {name: {} for name in self.mask.columns}
        asked = {**guides, **self.columns}
        if self.mask.made == "column":
            asked = {name: given for name, given in asked.items() if name not in guides}
            asked["masks"] = self._mask_parameters()
        for target in self.targets:
            if target.kind in STREAM_TARGETS and target.source == "column":
                asked[target.column] = {
                    **asked.get(target.column, {}),
                    **self._target_parameters(target),
                }
        for name in ("flow", "motion"):
            if name in asked:
                asked[name] = {"stride": self.stride, **asked[name]}
        return {name: column_spec(name, parameters) for name, parameters in asked.items()}

    def _frozen(self) -> dict[str, Any]:
        return {"views": self.frozen_views, "view": asdict(self.view), "stride": self.stride}

    def _target_parameters(self, target: TargetConfig) -> dict[str, Any]:
        if target.kind == "ndi":
            return {}
        if target.column != "hog":
            return self._frozen()
        own = {name: getattr(target, name) for name in ("cell", "bins", "window")}
        own["scales"] = target.kind == "hog_scales"
        return {**own, "patch": self.patch, "tubelet": self.tubelet, **self._frozen()}

    def _mask_parameters(self) -> dict[str, Any]:
        """Return what the column `masks` of this stream has: the grid, and for masks that follow
        motion the frozen views and the column that shows it."""
        parameters: dict[str, Any] = {
            "draws": self.mask.draws,
            "size": self.view.size,
            "patch": self.patch,
            "tubelet": self.tubelet,
            "stride": self.stride,
            "groups": len(self.groups),
            "mask": mask_settings(self.mask),
        }
        for guide in self.mask.columns:
            parameters |= self._frozen()
            parameters["input"] = {"stride": self.stride, **self.columns.get(guide, {})}
        return parameters


def column_arguments(spec: ColumnSpec) -> str:
    """Return the `key=value` words that derive exactly this column."""
    words = []
    for name, value in spec.parameters.items():
        if isinstance(value, dict):
            words += [f"{name}.{key}={_word(v)}" for key, v in value.items() if v != ""]
        elif value != "":
            words.append(f"{name}={_word(value)}")
    return " ".join(words)


def _word(value: Any) -> str:
    if isinstance(value, list | tuple):
        return "[" + ",".join(map(str, value)) + "]"
    return str(value).lower() if isinstance(value, bool) else str(value)
