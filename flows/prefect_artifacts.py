"""What a run shows on Prefect's page besides its log: tables, lists, pictures and progress."""

from __future__ import annotations

import base64
from typing import Any
from uuid import UUID

from flows.prefect_settings import be_quiet

be_quiet()

from httpx import HTTPError
from prefect.artifacts import (
    create_image_artifact,
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)
from prefect.exceptions import PrefectException

from flows.options import note
from storage.fs import open_store

PICTURE_BYTES = 400_000
"Artifacts lie in the server's database: a larger picture stays in the store."


class Bars:
    """Progress as artifacts of the task that runs, one for each thing that is counted."""

    def __init__(self) -> None:
        self.made: dict[str, UUID] = {}

    def __call__(self, what: str, done: int, total: int) -> None:
        """Show how far it is; a server that is gone meanwhile costs only the bar."""
        share, told = 100.0 * done / max(total, 1), f"{what}: {done} of {total}"
        try:
            if what in self.made:
                update_progress_artifact(self.made[what], share, description=told)
            else:
                self.made[what] = create_progress_artifact(share, description=told)
        except (HTTPError, PrefectException) as error:
            note(f"progress could not be shown: {error}")


def show_table(kind: str, name: str, rows: list[dict[str, Any]], about: str) -> None:
    """Keep a table with the run."""
    create_table_artifact(key=_key(kind, name), table=rows, description=about)


def show_list(kind: str, name: str, report: dict[str, Any]) -> None:
    """Keep a report with the run, a line a value."""
    lines = [f"- **{key}**: {value}" for key, value in report.items()]
    create_markdown_artifact(key=_key(kind, name), markdown="\n".join(lines))


def show_pictures(store: str, run: str) -> None:
    """Keep the newest reconstructions of a training with its flow run."""
    place = open_store(store, writable=False)
    drawn = [e for e in place.list(f"runs/{run}/pictures") if e.path.endswith(".png")]
    if not drawn or (newest := max(drawn, key=lambda entry: entry.path)).size > PICTURE_BYTES:
        return
    data = base64.b64encode(place.read(newest.path)).decode()
    create_image_artifact(
        image_url=f"data:image/png;base64,{data}",
        key=_key("pictures", run),
        description=f"{newest.path}: what went in, what was hidden, what the model makes of it",
    )


def _key(kind: str, name: str) -> str:
    """Return an artifact key: lower case letters, digits and dashes, as Prefect asks."""
    plain = "".join(c if c.isascii() and c.isalnum() else "-" for c in name.lower())
    return f"{kind}-{plain}"
