"""The report is one file: nothing is fetched, all that was given is in it, it stays small."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest

from flows import report
from flows.report import byte_size, render_report
from flows.report_curves import Series, number, round_ticks, svg_curve
from flows.report_parts import (
    Books,
    Chart,
    CheckpointRow,
    ColumnSection,
    DatasetSection,
    Exhibit,
    ProbeRow,
    RejectCause,
    ReportData,
    Row,
    RunSection,
    Source,
    Table,
    image,
)


def picture(size: int = 8) -> np.ndarray:
    """Return a small colourful picture."""
    return np.random.default_rng(0).integers(0, 256, (size, size, 3), dtype=np.uint8)


def sample_data(books: Books | None = None) -> ReportData:
    """Return a report of one dataset with one run, every part filled."""
    exhibit = Exhibit(title="clip_07", rows=(Row(label="flow", image=image(picture())),))
    dataset = DatasetSection(
        name="clips",
        modality="video",
        snapshot=3,
        fingerprint="abcdef" * 10,
        parts=1,
        shards=2,
        samples=150,
        bytes=3 * 2**20,
        books=books or Books(inputs=10, written=7, duplicates=1, rejects=2),
        reject_causes=(
            RejectCause(reason="truncated", count=2, examples=(("<b>.mp4", "ends at byte 7"),)),
        ),
        splits={"train": 140, "held out": 10},
        labels={"drift": 75, "orbit": 75},
        statistics=Table(heads=("channel", "mean"), rows=(("red", 112.5),)),
        thumbnails=(image(picture(), "drift"),),
        columns=(
            ColumnSection(
                name="flow",
                fingerprint="0123456789abcdef" * 4,
                version=1,
                parameters={"cell": 8},
                bound="within 1/128 px",
                bytes=2048,
                exhibits=(exhibit,),
                key=image(picture(), "hue: direction"),
            ),
        ),
    )
    run = RunSection(
        name="first",
        dataset="clips",
        recipe="mgmae_tiny",
        paper="MGMAE",
        facts=(("steps", "200"),),
        charts=(
            Chart(
                title="Loss",
                x_label="step",
                y_label="loss",
                series=(Series("train", ((0, 1.0), (9, 0.5))),),
            ),
        ),
        masks=(exhibit,),
        pictures=(image(picture(), "step 100"), image(picture(), "step 200")),
        stalls=Table(heads=("waited for", "seconds"), rows=(("decode", 0.03),)),
        probes=(
            ProbeRow(
                dataset="clips", probe="kNN", samples=150, classes=2, untrained=0.5, trained=0.625
            ),
        ),
        checkpoints=(CheckpointRow(step=200, heldout_loss=0.5, samples=1600, epochs=10.7),),
        settings={"mask": {"ratio": 0.9}},
        sources=(
            Source(what="recipe", name="run first", anchor="recipe-first"),
            Source(what="snapshot", name="clips, snapshot 3", anchor="clips"),
            Source(what="column", name="flow", anchor="column-clips-01234567"),
            Source(what="column", name="gone", anchor="column-clips-76543210"),
        ),
    )
    return ReportData(title="a & b", datasets=(dataset,), runs=(run,))


class Links(HTMLParser):
    """Collects what a browser would fetch or follow, and which elements were left open."""

    VOID = frozenset({"meta", "link", "img", "br", "line", "circle", "polyline", "input"})

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.addresses += [v or "" for k, v in attrs if k in ("src", "href", "srcset", "action")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag


def test_report_asks_for_nothing_and_is_well_formed() -> None:
    html = render_report(sample_data())
    links = Links()
    links.feed(html)
    assert links.open == []
    assert links.addresses and all(a.startswith(("data:", "#")) for a in links.addresses)
    assert not re.search(r"https?://|@import|url\(", html)
    assert "default-src &#39;none&#39;" in html or "default-src 'none'" in html


def test_report_shows_what_it_was_given() -> None:
    html = render_report(sample_data())
    for text in (
        "a &amp; b",
        "the books close",
        "&lt;b&gt;.mp4",
        "ends at byte 7",
        "3.0 MiB",
        "within 1/128 px",
        "0123456789ab",
        "clip_07",
        "mgmae_tiny",
        "62.5 %",
        "+12.5 points",
        "Reconstructions over time",
        'id="clips"',
    ):
        assert text in html, text
    assert "<b>.mp4" not in html


def test_every_link_leads_somewhere() -> None:
    html = render_report(sample_data())
    links = set(re.findall(r'href="#([^"]+)"', html))
    assert links >= {"clips", "recipe-first", "column-clips-01234567", "made-first-2"}
    assert links <= set(re.findall(r' id="([^"]+)"', html))
    alone = render_report(replace(sample_data(), datasets=()))
    assert set(re.findall(r'href="#([^"]+)"', alone)) <= set(re.findall(r' id="([^"]+)"', alone))


def test_books_that_do_not_close_are_shouted() -> None:
    html = render_report(sample_data(Books(inputs=10, written=7, duplicates=1, rejects=1)))
    assert "the books do not close: 1 files are unaccounted for" in html


def test_equal_data_equal_bytes() -> None:
    assert render_report(sample_data()) == render_report(sample_data())


def test_a_report_too_large_to_mail_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "MOST_BYTES", 1000)
    with pytest.raises(ValueError, match=r"report 'a & b': [\d,]+ bytes, at most 1,000"):
        render_report(sample_data())


def test_run_without_its_dataset_stands_alone() -> None:
    data = sample_data()
    html = render_report(ReportData(title="run", runs=data.runs))
    assert 'id="run-first"' in html and 'id="clips"' not in html


def test_image_knows_its_size() -> None:
    shown = image(picture(12), "caption")
    assert (shown.width, shown.height) == (12, 12)
    assert shown.uri.startswith("data:image/webp;base64,")


def test_curve_has_a_title_at_each_point_and_a_gap_where_nothing_is_known() -> None:
    points = ((0.0, 1.0), (1.0, 0.5), (2.0, math.nan), (3.0, 0.25), (4.0, 0.2))
    svg = svg_curve([Series("a<b", points)], "step", "loss")
    assert svg.count("<circle") == 4 and svg.count("<polyline") == 2
    assert "<title>a&lt;b 0.25 at 3</title>" in svg
    assert "nothing was logged" in svg_curve([], "step", "loss")
    assert "nothing was logged" in svg_curve([Series("a", ((0, math.nan),))], "step", "loss")


def test_long_curves_are_thinned_but_keep_their_end() -> None:
    points = tuple((float(i), float(i)) for i in range(10_001))
    svg = svg_curve([Series("a", points)], "step", "loss")
    assert svg.count("<circle") < 200
    assert "a 10,000 at 10,000" in svg


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1]),
        (3, 3, [3, 3.2]),
        (0.31, 0.82, [0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9]),
    ],
)
def test_ticks_are_round_and_cover(low: float, high: float, ticks: list[float]) -> None:
    made = round_ticks(low, high, 6)
    assert made[0] <= low and made[-1] >= high
    if low != high:
        assert made == pytest.approx(ticks)


def test_numbers_and_sizes_read_well() -> None:
    assert [number(v) for v in (12345, 0.123456, -2.5, 1e-6)] == [
        "12,345",
        "0.1235",
        "−2.5",
        "1e-06",
    ]
    assert [byte_size(n) for n in (512, 2048, 3 * 2**20)] == ["512 B", "2.0 KiB", "3.0 MiB"]
