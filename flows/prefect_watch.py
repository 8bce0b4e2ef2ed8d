"""When new files appear: a source is watched by the process that serves, as no clock is asked.

Which listing was handled last, and by which run, is kept in the store.
"""

from __future__ import annotations

import hashlib
import json
import threading
from dataclasses import dataclass, field
from datetime import UTC, datetime
from uuid import UUID

from flows.prefect_settings import be_quiet

be_quiet()

from httpx import HTTPError
from prefect.client.orchestration import get_client
from prefect.deployments import run_deployment
from prefect.exceptions import ObjectNotFound, PrefectException

from flows.options import say
from flows.serve_plan import NewFiles
from pipelines.listing import list_sources
from storage.fs import Store


@dataclass(frozen=True, slots=True)
class Watch:
    """Looks into sources and starts a deployment when there is something new."""

    deployment: str
    files: NewFiles
    store: Store
    since: datetime = field(default_factory=lambda: datetime.now(UTC))

    @property
    def memory(self) -> str:
        """Where the listing that was handled last is remembered."""
        return f"schedules/{self.deployment.replace('/', '-')}.json"

    def keep(self, stop: threading.Event) -> None:
        """Look again and again, until told to stop."""
        before = told = ""
        while not stop.wait(self.files.every):
            try:
                before, told = self.look(before), ""
            except ObjectNotFound:
                continue  # not made yet, or removed by a person
            except (OSError, ValueError, RuntimeError, HTTPError, PrefectException) as error:
                # The source or the server may be back at the next look; told once, not each time.
                if str(error) != told:
                    say(f"{self.deployment}: could not look for new files, goes on trying: {error}")
                told = str(error)

    def look(self, before: str) -> str:
        """Start a run if files are new and did not change since the last look, or if their run died
        with an earlier `serve`; returns the state that was seen."""
        now, known = self._state(), self._known()
        due = now == before and (now != known.get("handled") or self._died(known.get("run")))
        if due and not self._paused():
            run = run_deployment(
                self.deployment,
                timeout=0,
                as_subflow=False,
                idempotency_key=f"{now} {known.get('run')}",
                tags=["headrace", "new files"],
            )
            known = {"handled": now, "run": str(run.id)}
            self.store.write(self.memory, json.dumps(known).encode())
        return now

    def _state(self) -> str:
        listed = list_sources(self.files.sources)
        rows = zip(listed["uri"].to_pylist(), listed["size"].to_pylist(), strict=True)
        return hashlib.sha256(repr(sorted(rows, key=str)).encode()).hexdigest()

    def _known(self) -> dict[str, str]:
        if not self.store.exists(self.memory):
            return {}
        known: dict[str, str] = json.loads(self.store.read(self.memory))
        return known

    def _died(self, run: str | None) -> bool:
        """Say whether a run crashed that began before this watch; later ones are not repeated."""
        if run is None:
            return False
        with get_client(sync_client=True) as client:
            try:
                found = client.read_flow_run(UUID(run))
            except ObjectNotFound:
                return False
        began = found.start_time or found.expected_start_time
        crashed = found.state is not None and found.state.is_crashed()
        return crashed and began is not None and began < self.since

    def _paused(self) -> bool:
        with get_client(sync_client=True) as client:
            return bool(client.read_deployment_by_name(self.deployment).paused)
