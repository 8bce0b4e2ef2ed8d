"""What `headrace serve` is asked for: flows, and when each of them runs."""

from __future__ import annotations

import os
import re
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from flows.arguments import executor_values
from flows.study_plan import Sources
from flows.yaml_files import Strict

_CRON = re.compile(r"([\dA-Za-z*/,#?-]+\s+){4}[\dA-Za-z*/,#?-]+")
"Five fields; Prefect looks at their numbers."


class NewFiles(Sources):
    """Run when files come into a source, once they stopped changing."""

    every: float = Field(default=60.0, gt=0)
    "seconds between two looks"


class Deployment(Strict):
    """A flow with its parameters and its schedule; without a schedule it runs when asked."""

    flow: Literal["ingest", "derive", "pretrain", "evaluate", "export", "study", "refresh"]
    parameters: dict[str, Any] = Field(default_factory=dict)
    "those of the flow; store and executor are filled in"
    cron: str = ""
    timezone: str = "UTC"
    interval: float = Field(default=0.0, ge=0)
    "seconds"
    new_files: NewFiles | None = None
    timeout: float = Field(default=0.0, ge=0)
    "seconds after which a run is ended, so that it can be resumed; 0 sets none"
    paused: bool = False
    tags: list[str] = Field(default_factory=list)

    @field_validator("cron")
    @classmethod
    def _is_cron(cls, cron: str) -> str:
        if cron and not _CRON.fullmatch(cron.strip()):
            raise ValueError("it must be five fields such as '0 2 * * *', minute to weekday")
        return cron

    @model_validator(mode="after")
    def _one_schedule(self) -> Deployment:
        if sum(map(bool, (self.cron, self.interval, self.new_files))) > 1:
            raise ValueError("give one of cron, interval and new_files")
        return self

    @property
    def when(self) -> str:
        """When it runs, for people."""
        if self.cron:
            return f"cron {self.cron} ({self.timezone})"
        if self.interval:
            return f"every {self.interval:g} s"
        if self.new_files:
            return f"new files in {', '.join(self.new_files.sources)}"
        return "when asked"


class ServePlan(Strict):
    """A file of deployments."""

    store: str = ""
    "empty takes --store"
    workers: int = Field(default=0, ge=0)
    direct: bool = False
    "without Ray"
    ray_address: str = ""
    trainings: int = Field(default=0, ge=0)
    "at once; 0 takes one a GPU, at least one"
    deployments: dict[str, Deployment] = Field(min_length=1)

    def executor(self) -> dict[str, Any]:
        """Return the plain fields of an `Executor`."""
        return executor_values(self.workers, self.direct, self.ray_address)

    def place(self, store: str) -> str:
        """Return the store that all deployments work on; runs may begin in another folder."""
        chosen = self.store or store
        return chosen if "://" in chosen else os.path.abspath(os.path.expanduser(chosen))
