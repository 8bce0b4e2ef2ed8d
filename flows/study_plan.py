"""What a study is asked for: one dataset, several recipes, one probe."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import Field, field_validator

from flows.arguments import SPEC, spec_values
from flows.yaml_files import Strict, did_you_mean
from storage.snapshots import check_name


class Sources(Strict):
    """Raw files: a folder, a tar or a list of files, or several of them."""

    source: str | list[str]

    @property
    def sources(self) -> list[str]:
        """The sources as a list."""
        return [self.source] if isinstance(self.source, str) else self.source


class IngestPlan(Sources):
    """Where a dataset comes from; `options` are those of `headrace ingest`."""

    modality: Literal["image", "video", "microscopy", "satellite"]
    options: dict[str, Any] = Field(default_factory=dict)

    @field_validator("options")
    @classmethod
    def _known(cls, options: dict[str, Any]) -> dict[str, Any]:
        for name in options:
            if name not in SPEC:
                raise ValueError(f"{name} is unknown{did_you_mean(name, list(SPEC))}")
        return options

    def spec(self) -> dict[str, Any]:
        """Return the plain fields of an `IngestSpec`."""
        defaults = {name: default for name, (_, default, _) in SPEC.items()}
        given = {
            name: ",".join(map(str, value)) if isinstance(value, list) else value
            for name, value in self.options.items()
        }
        return spec_values(self.modality, {**defaults, **given})


class ProbePlan(Strict):
    """How the frozen encoders are tested, always beside themselves untrained; by default on the
    study's own dataset."""

    dataset: str = ""
    test: str = ""
    kind: Literal["knn", "linear", "attentive"] = "knn"


class StudyPlan(Strict):
    """A study, as its YAML file says it."""

    name: str
    dataset: str
    ingest: IngestPlan | None = None
    columns: dict[str, dict[str, Any]] = Field(default_factory=dict)
    "derived besides those that the recipes need"
    recipe: str = ""
    "of every run that names none of its own"
    settings: dict[str, Any] = Field(default_factory=dict)
    "of every run, in place of the recipe's own; a run's own come last"
    runs: dict[str, dict[str, Any]] = Field(min_length=1)
    "settings of each run by its name here; `recipe` among them names another recipe"
    probe: ProbePlan | None = None

    @field_validator("name", "dataset")
    @classmethod
    def _folder(cls, name: str) -> str:
        return check_name(name)

    def planned(self, snapshot: int | None = None) -> list[Planned]:
        """Return the runs, all of them of one snapshot."""
        return [self._planned(name, dict(own), snapshot) for name, own in self.runs.items()]

    def _planned(self, name: str, own: dict[str, Any], snapshot: int | None) -> Planned:
        recipe = str(own.pop("recipe", self.recipe))
        if not recipe:
            raise ValueError(f"study {self.name}: runs.{name} has no recipe. Give one for all.")
        settings = {**self.settings, **own, "data.dataset": self.dataset}
        if snapshot is not None:
            settings["data.snapshot"] = snapshot
        words = [f"{key}={json.dumps(value)}" for key, value in settings.items()]
        told = ", ".join(f"{key}={value}" for key, value in own.items())
        return Planned(name, recipe, tuple(words), told)


@dataclass(frozen=True, slots=True)
class Planned:
    """One run of a study."""

    name: str
    recipe: str
    words: tuple[str, ...]
    "key=value in place of the recipe's own"
    own: str
    "what sets it apart from the others, for people"
