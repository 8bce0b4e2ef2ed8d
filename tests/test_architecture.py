"""The house holds: imports point one way, training starts alone, preprocessing opens no file."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

MAY_IMPORT: dict[str, set[str]] = {
    "preprocessing": set(),
    "storage": set(),
    "pipelines": {"storage", "preprocessing"},
    "training": {"pipelines", "storage", "preprocessing"},
    "flows": {"training", "pipelines", "storage", "preprocessing"},
}
MAY_NEVER_IMPORT: dict[str, set[str]] = {
    "preprocessing": {"ray", "prefect", "pyarrow", "fsspec", "webdataset", "requests", "boto3"},
    "storage": {"ray", "prefect", "torch", "cv2", "av", "decord", "kornia"},
    "pipelines": {"prefect"},
    "training": {"ray", "prefect"},
    "flows": {"ray"},
}
READS_FILES = {"os", "pathlib", "shutil", "tempfile", "glob", "socket", "urllib", "mmap"}
FILE_CALLS = {
    "imread",
    "imwrite",
    "imreadmulti",
    "VideoCapture",
    "VideoWriter",
    "fromfile",
    "tofile",
}


def imported(path: Path) -> Iterator[str]:
    """Yield the dotted name of each module that a file imports, at its top or in a function."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


def imported_roots(path: Path) -> set[str]:
    """Return the top-level names that a file imports."""
    return {name.split(".")[0] for name in imported(path)}


def sources(layer: str) -> list[Path]:
    """Return the Python files of a layer; an empty layer would make every rule true."""
    found = sorted((ROOT / layer).rglob("*.py"))
    assert found, layer
    return found


@pytest.mark.parametrize("layer", MAY_IMPORT)
def test_layer_imports_only_what_it_may(layer: str) -> None:
    forbidden = (MAY_IMPORT.keys() - MAY_IMPORT[layer] - {layer}) | MAY_NEVER_IMPORT[layer]
    for path in sources(layer):
        assert not imported_roots(path) & forbidden, path.relative_to(ROOT)


def test_one_module_of_training_joins_it_to_a_feed() -> None:
    joined = [p.name for p in sources("training") if "pipelines" in imported_roots(p)]
    assert joined == ["feeds.py"]


def test_ray_stays_in_ray_jobs_and_prefect_in_its_own_modules() -> None:
    ray = [p.name for p in sources("pipelines") if "ray" in imported_roots(p)]
    assert all(name.startswith("ray_") for name in ray), ray
    prefect = [p.name for p in sources("flows") if "prefect" in imported_roots(p)]
    assert all(name.startswith("prefect_") for name in prefect), prefect


@pytest.mark.parametrize("layer", MAY_IMPORT)
def test_package_files_hold_a_docstring_only(layer: str) -> None:
    for path in (p for p in sources(layer) if p.name == "__init__.py"):
        body = ast.parse(path.read_text()).body
        assert len(body) == 1 and ast.get_docstring(ast.parse(path.read_text())), path


def file_openings(path: Path) -> list[str]:
    """Return what in a file would reach a disk or a network: imports, `open`, cv2 readers."""
    found = [name for name in imported(path) if name.split(".")[0] in READS_FILES]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            name = getattr(node.func, "id", None)
            attribute = getattr(node.func, "attr", None)
            if name == "open" or attribute in FILE_CALLS:
                found.append(f"{name or attribute} in line {node.lineno}")
    return found


def test_preprocessing_names_nothing_that_opens_a_file() -> None:
    for path in sources("preprocessing"):
        assert not file_openings(path), path.relative_to(ROOT)


def test_the_file_rule_sees_a_file_being_opened(tmp_path: Path) -> None:
    path = tmp_path / "guilty.py"
    path.write_text("import cv2\nfrom pathlib import Path\ncv2.imread('a')\nopen('b')\n")
    assert file_openings(path) == ["pathlib", "imread in line 3", "open in line 4"]


DECODE_UNDER_WATCH = """
import sys
import cv2, numpy as np
from preprocessing.images import decode_image
from preprocessing.videos import decode_clip, encode_clip
image = cv2.imencode(".png", np.arange(3072, dtype=np.uint8).reshape(32, 32, 3))[1].tobytes()
frames = np.zeros((4, 32, 32, 3), np.uint8)
work = lambda: (decode_image(image), decode_clip(encode_clip(frames, 8.0)))
work()
opened = []
sys.addaudithook(lambda event, args: opened.append(args[0]) if event == "open" else None)
work()
sys.exit(f"opened {opened}" if opened else 0)
"""


def run_python(code: str) -> None:
    """Run code in a fresh interpreter in the root of the checkout; its failure is the test's."""
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_preprocessing_opens_no_file_while_it_decodes() -> None:
    run_python(DECODE_UNDER_WATCH)


@pytest.mark.parametrize(
    ("module", "blocked"),
    [
        ("training.pretrain", ("ray", "prefect")),
        ("pipelines.feed", ("ray", "prefect")),
        ("flows.command", ("ray", "prefect")),
        ("flows.stages", ("ray", "prefect")),
    ],
)
def test_starts_without(module: str, blocked: tuple[str, ...]) -> None:
    run_python(f"import sys; sys.modules.update(dict.fromkeys({blocked!r})); import {module}")
