"""README and docs hold: commands parse as the real command line does, recipes and files exist."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import typer

from flows.command import app

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(page: Path, *languages: str) -> list[str]:
    """Return a page's code blocks in these languages, in order."""
    found = re.findall(r"^```(\w*)\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)
    return [text for language, text in found if language in languages]


def shell_lines(page: Path) -> list[str]:
    """Return every command of a page's shell blocks; continued lines are one."""
    text = "\n".join(blocks(page, "", "bash", "sh")).replace("\\\n", " ")
    lines = [line.strip() for line in text.splitlines()]
    return [line for line in lines if line and not line.startswith("#")]


def commands(page: Path) -> list[str]:
    """Return the `headrace …` commands of a page."""
    return [line for line in shell_lines(page) if line.startswith("headrace ")]


@pytest.mark.parametrize("line", [line for page in PAGES for line in commands(page)])
def test_command_of_a_page_parses(line: str) -> None:
    _, name, *words = shlex.split(line, comments=True)
    known = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    assert name in known, line
    known[name].make_context(name, words)


def test_readme_shows_commands_and_starts_with_one() -> None:
    lines = (ROOT / "README.md").read_text().splitlines()
    assert len(commands(ROOT / "README.md")) >= 10
    assert any(line.startswith("make demo") for line in lines[:40])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_of_a_page_lead_to_files(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), target


def test_table_of_recipes_is_the_folder() -> None:
    text = (ROOT / "README.md").read_text()
    cells = re.findall(r"^\| (`\w+`(?:, `\w+`)*) \|", text, re.MULTILINE)
    named = {name for cell in cells for name in re.findall(r"`(\w+)`", cell)}
    assert named == {path.stem for path in (ROOT / "recipes").glob("*.yaml")}


def test_make_targets_of_the_readme_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"\bmake ([a-z-]+)", (ROOT / "README.md").read_text()))
    assert {"demo", "test", "setup"} <= named & targets


def test_figures_of_the_readme_name_a_command_that_exists() -> None:
    text = (ROOT / "README.md").read_text()
    scripts = set(re.findall(r"python (benchmarks/\w+\.py)", text))
    assert len(scripts) >= 5
    assert [name for name in scripts if not (ROOT / name).is_file()] == []


def test_promises_name_tests_that_exist() -> None:
    named = re.findall(r"`(tests/\S+\.py)::(\w+)`", (ROOT / "docs/guarantees.md").read_text())
    assert len(named) >= 10
    for path, test in named:
        assert f"def {test}(" in (ROOT / path).read_text(), f"{path}::{test}"
