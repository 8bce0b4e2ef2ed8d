"""What a report shows, as plain frozen data; `flows.report` renders it."""

from __future__ import annotations

import base64
from dataclasses import dataclass, field

import cv2
import numpy as np
from numpy.typing import NDArray

from flows.report_curves import Series

QUALITY = 84
"Of WebP, of at most 100."


@dataclass(frozen=True, kw_only=True, slots=True)
class Image:
    """One encoded picture."""

    data: bytes
    media: str
    "image/webp"
    width: int
    height: int
    caption: str = ""
    frames: int = 1
    "of a strip: how many frames of equal width stand side by side, 4 px apart"

    @property
    def uri(self) -> str:
        """The picture inside its address, so that the report needs no other file."""
        return f"data:{self.media};base64,{base64.b64encode(self.data).decode()}"


def image(picture: NDArray[np.uint8], caption: str = "", *, frames: int = 1) -> Image:
    """Encode a (H, W, 3) or (H, W, 4) picture as WebP."""
    order = [2, 1, 0, 3][: picture.shape[2]]
    quality = [cv2.IMWRITE_WEBP_QUALITY, QUALITY]
    data = cv2.imencode(".webp", np.ascontiguousarray(picture[..., order]), quality)[1].tobytes()
    height, width = picture.shape[:2]
    return Image(
        data=data,
        media="image/webp",
        width=width,
        height=height,
        caption=caption,
        frames=frames,
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Table:
    """Rows under heads; cells are shown as text, numbers aligned."""

    heads: tuple[str, ...]
    rows: tuple[tuple[str | float | int, ...], ...]
    caption: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One labelled picture, usually a strip of frames."""

    label: str
    image: Image
    names: tuple[str, ...] = ()
    "of its frames, below each"


@dataclass(frozen=True, kw_only=True, slots=True)
class Exhibit:
    """Strips of one sample that belong below each other: frames and flow, frames and mask."""

    title: str
    rows: tuple[Row, ...]

    @property
    def side_by_side(self) -> bool:
        """Whether its rows are single pictures, which stand beside each other."""
        return all(row.image.frames == 1 for row in self.rows)


@dataclass(frozen=True, kw_only=True, slots=True)
class RejectCause:
    """Raw files that were refused for one cause."""

    reason: str
    count: int
    examples: tuple[tuple[str, str], ...]
    "(file, detail), a few"


@dataclass(frozen=True, kw_only=True, slots=True)
class Books:
    """What became of every raw file."""

    inputs: int
    written: int
    duplicates: int
    rejects: int

    @property
    def close(self) -> bool:
        """Whether every raw file ended somewhere."""
        return self.inputs == self.written + self.duplicates + self.rejects


@dataclass(frozen=True, kw_only=True, slots=True)
class ColumnSection:
    """A derived column."""

    name: str
    fingerprint: str
    version: int
    parameters: dict[str, object]
    bound: str
    bytes: int
    lacks: str = ""
    "what of the dataset it does not hold"
    exhibits: tuple[Exhibit, ...] = ()
    key: Image | None = None
    "how to read the colours"


@dataclass(frozen=True, kw_only=True, slots=True)
class DatasetSection:
    """A dataset, from raw files to columns."""

    name: str
    modality: str
    snapshot: int
    fingerprint: str
    parts: int
    shards: int
    samples: int
    bytes: int
    books: Books
    reject_causes: tuple[RejectCause, ...] = ()
    splits: dict[str, int] = field(default_factory=dict)
    labels: dict[str, int] = field(default_factory=dict)
    sizes: Table | None = None
    "how many samples have which shape"
    leaks: str = ""
    "what is held out, and that no group and no content is on both sides"
    leaking: bool | None = False
    "None where nothing is held out"
    duplicates: tuple[tuple[str, str], ...] = ()
    "(file, whose content it has), a few"
    statistics: Table | None = None
    thumbnails: tuple[Image, ...] = ()
    composites: tuple[Exhibit, ...] = ()
    "a few fields or tiles with their channels"
    columns: tuple[ColumnSection, ...] = ()
    ledger: Table | None = None
    "what data work cost, and what reuse saved"


@dataclass(frozen=True, kw_only=True, slots=True)
class Chart:
    """Curves over common axes."""

    title: str
    x_label: str
    y_label: str
    series: tuple[Series, ...]
    note: str = ""
    "how to read it"


@dataclass(frozen=True, kw_only=True, slots=True)
class ProbeRow:
    """A test of the frozen encoder beside the same encoder untrained; accuracies from 0 to 1."""

    dataset: str
    probe: str
    samples: int
    classes: int
    untrained: float | None
    trained: float
    sure: tuple[float, float] | None = None
    "95 % interval of the trained encoder's accuracy"
    untrained_sure: tuple[float, float] | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckpointRow:
    """A checkpoint, and what it was made of."""

    step: int
    heldout_loss: float | None
    samples: int
    "of the order that were seen: positions 0 to this"
    epochs: float | None = None
    "how often it has seen the order"
    fingerprint: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """One thing that a run was made of."""

    what: str
    name: str
    fingerprint: str = ""
    detail: str = ""
    anchor: str = ""
    "where in the report it is shown; empty for nowhere"


@dataclass(frozen=True, kw_only=True, slots=True)
class RunSection:
    """A run: what it was asked, how it went, what came out."""

    name: str
    dataset: str
    recipe: str
    paper: str = ""
    facts: tuple[tuple[str, str], ...] = ()
    "headline numbers: name and value with its unit"
    advice: str = ""
    "who waits for whom, and what would change it"
    charts: tuple[Chart, ...] = ()
    masks: tuple[Exhibit, ...] = ()
    pictures: tuple[Image, ...] = ()
    "pictures that the run left while it trained, oldest first"
    looks: Table | None = None
    "signs of learning that were measured once, so that they make no curve"
    stalls: Table | None = None
    "what the steps waited for"
    ledger: Table | None = None
    "data work that this run was the first to use, and that it found done"
    probes: tuple[ProbeRow, ...] = ()
    checkpoints: tuple[CheckpointRow, ...] = ()
    settings: dict[str, object] = field(default_factory=dict)
    "the recipe, every default written out"
    sources: tuple[Source, ...] = ()
    "snapshot, columns and code that it was made of"


@dataclass(frozen=True, kw_only=True, slots=True)
class ReportData:
    """All that a report shows."""

    title: str
    subtitle: str = ""
    summary: Table | None = None
    charts: tuple[Chart, ...] = ()
    "curves of several runs over common axes"
    datasets: tuple[DatasetSection, ...] = ()
    runs: tuple[RunSection, ...] = ()
