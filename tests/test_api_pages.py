"""`make docs` makes a page for every module, from its docstrings."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("storage", "preprocessing", "pipelines", "training", "flows")


@pytest.mark.slow
def test_every_module_has_a_page(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pdoc", "--no-show-source", "-o", str(tmp_path), *PACKAGES]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    modules = [path for name in PACKAGES for path in (ROOT / name).rglob("*.py")]
    named = [path for path in modules if not path.name.startswith("__")]
    missing = [
        p for p in named if not (tmp_path / p.relative_to(ROOT)).with_suffix(".html").exists()
    ]
    assert missing == []
    assert "put_if_absent" in (tmp_path / "storage/fs.html").read_text()
