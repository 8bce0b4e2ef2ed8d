"""Reports in a real browser: no error, no request, readable on a phone, every control has a name.

Needs Chromium and its driver (Debian: chromium, chromium-driver); skipped where they are missing.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from flows.report_data import write_report
from pipelines.derive import derive
from pipelines.executors import Executor
from pipelines.ingest import ingest
from pipelines.ingest_spec import IngestSpec
from storage.fs import open_store
from tests.integration.raw import make_videos
from training.pretrain import pretrain
from training.recipe import read_recipe

webdriver = pytest.importorskip("selenium.webdriver")
pytest.importorskip("selenium.webdriver.support.wait")
BROWSER, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(not (BROWSER and DRIVER), reason="no chromium and chromedriver")
QUIET = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
WIDTHS = {"desktop": (1280, 900), "phone": (390, 844)}


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a report of a dataset of clips and a run over it."""
    folder = tmp_path_factory.mktemp("report")
    store = open_store(folder / "store")
    raw = make_videos(folder / "raw", count=8)
    (raw / "broken.mp4").write_bytes(b"no video")
    (raw / "again.mp4").write_bytes(sorted(raw.glob("*.mp4"))[0].read_bytes())
    spec = IngestSpec(modality="video", heldout=0.3)
    ingest(store, [str(raw)], "clips", spec, Executor())
    derive(store, "clips", {"flow": {}}, Executor())
    words = ["data.dataset=clips", "steps=4", "batch=2", "log_every=1", "heldout_every=2"]
    words += ["save_every=2"]
    pretrain(store, read_recipe("videomae_tiny", [*words, "view.size=32"]), run="run")
    return write_report(store.uri, ["clips", "run"], folder / "report.html")


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    profile = f"--user-data-dir={tmp_path_factory.mktemp('profile')}"
    for word in (*QUIET, profile):
        options.add_argument(word)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


def open_page(browser: Any, page: Path, width: str, scheme: str) -> None:
    across, down = WIDTHS[width]
    metrics = {"width": across, "height": down, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    feature = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": feature})
    browser.get(page.as_uri())


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS)
def test_opens_without_error_or_request(browser: Any, page: Path, width: str, scheme: str) -> None:
    browser.get_log("performance")  # those of the page before
    open_page(browser, page, width, scheme)
    assert browser.get_log("browser") == []
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = [e["params"]["request"]["url"] for e in events if e["method"].endswith("WillBeSent")]
    assert {url for url in asked if not url.startswith("data:")} == {page.as_uri()}
    assert (
        browser.execute_script("return document.documentElement.scrollWidth") <= (WIDTHS[width][0])
    )
    background = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
    light = sum(map(int, background.removeprefix("rgb(").rstrip(")").split(","))) > 3 * 128
    assert light == (scheme == "light")


def test_every_control_has_a_name(browser: Any, page: Path) -> None:
    open_page(browser, page, "desktop", "light")
    browser.execute_cdp_cmd("Accessibility.enable", {})
    waiting = webdriver.support.wait.WebDriverWait(
        browser, 20
    )  # the tree is made in the background
    found = waiting.until(controls)
    assert [node for node in found if not node.get("name", {}).get("value")] == []


def controls(browser: Any) -> list[dict[str, Any]]:
    """Return the controls and pictures of the page's accessibility tree; none while some lack."""
    roles = {"button", "link", "slider", "image", "img", "DisclosureTriangle"}
    nodes = browser.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
    found = [node for node in nodes if node.get("role", {}).get("value") in roles]
    known = {node["role"]["value"] for node in found}
    return found if known >= {"button", "image", "DisclosureTriangle"} else []


def test_a_clip_is_enlarged_and_paged_by_keyboard(browser: Any, page: Path) -> None:
    open_page(browser, page, "desktop", "light")
    keys, by = webdriver.common.keys.Keys, webdriver.common.by.By
    strip = browser.find_element(by.CSS_SELECTOR, "img[data-frames]")
    button = strip.find_element(by.XPATH, "..")
    button.send_keys(keys.ENTER)
    dialog = browser.find_element(by.ID, "large")
    assert dialog.get_attribute("open") is not None
    window = dialog.find_element(by.CLASS_NAME, "window")
    whole = window.size["width"]
    slider = dialog.find_element(by.CSS_SELECTOR, "input[type=range]")
    slider.send_keys(keys.ARROW_RIGHT)
    slider.send_keys(keys.ARROW_RIGHT)
    assert dialog.find_element(by.CLASS_NAME, "frames").text.startswith("frame 2 of ")
    assert window.size["width"] < whole
    slider.send_keys(keys.ESCAPE)
    assert dialog.get_attribute("open") is None


def test_reconstructions_are_paged_over_time(browser: Any, page: Path) -> None:
    open_page(browser, page, "phone", "light")
    keys, by = webdriver.common.keys.Keys, webdriver.common.by.By
    sheets = browser.find_elements(by.CSS_SELECTOR, ".over-time figure")
    assert [sheet.is_displayed() for sheet in sheets] == [False, True]
    browser.find_element(by.CSS_SELECTOR, ".over-time input").send_keys(keys.ARROW_LEFT)
    assert [sheet.is_displayed() for sheet in sheets] == [True, False]
    assert "step 2" in sheets[0].text


def test_a_checkpoint_leads_to_its_recipe(browser: Any, page: Path) -> None:
    open_page(browser, page, "phone", "dark")
    keys, by = webdriver.common.keys.Keys, webdriver.common.by.By
    browser.find_element(by.CSS_SELECTOR, ".checkpoint summary").send_keys(keys.ENTER)
    browser.find_element(by.CSS_SELECTOR, ".checkpoint a[href='#recipe-run']").send_keys(keys.ENTER)
    recipe = browser.find_element(by.ID, "recipe-run")
    assert recipe.get_attribute("open") is not None
    assert '"mask"' in recipe.text
    links = browser.find_elements(by.CSS_SELECTOR, "a[href^='#']")
    assert {link.get_attribute("hash")[1:] for link in links} <= {
        element.get_attribute("id") for element in browser.find_elements(by.CSS_SELECTOR, "[id]")
    }
