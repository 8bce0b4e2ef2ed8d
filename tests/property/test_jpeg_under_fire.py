"""The compiled JPEG decoder touches no memory but its own, whatever bytes and boxes it is given."""

from __future__ import annotations

import io
import re
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.unit.preprocessing.compilers import COMPILER, has_avx2

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The decoder and its attacker, built with sanitizers of addresses and undefined behaviour."""
    if COMPILER is None:
        pytest.skip("no C compiler here")
    built = tmp_path_factory.mktemp("fuzz") / "jpeg_under_fire"
    flags = ["-g", "-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"]
    source = Path(__file__).with_name("jpeg_under_fire.c")
    command = [COMPILER, *flags, f"-I{ROOT}/preprocessing", str(source), "-o", str(built), "-lm"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if "asan" in done.stderr and "cannot find" in done.stderr:
        pytest.skip("the compiler has no sanitizers here")
    assert done.returncode == 0, done.stderr
    return built


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """JPEGs of all samplings of colour, with and without restarts, smooth and noisy."""
    folder, rng = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    paths = []
    for number in range(24):
        height, width = 16 + 7 * number % 90, 16 + 11 * number % 120
        smooth = np.linspace(0, 255, height * width * 3).reshape(height, width, 3)
        noisy = rng.integers(0, 256, (height, width, 3))
        pixels = np.uint8((smooth, noisy, (smooth + noisy) / 2)[number % 3])
        kept = io.BytesIO()
        restarts = {"restart_marker_blocks": number} if number % 2 else {}
        Image.fromarray(pixels).save(
            kept, "JPEG", quality=30 + 3 * number, subsampling=number % 3, **restarts
        )
        paths.append(str(folder / f"{number}.jpg"))
        Path(paths[-1]).write_bytes(kept.getvalue())
    return paths


@pytest.mark.parametrize("times", [8_000, pytest.param(200_000, marks=pytest.mark.slow)], ids=str)
def test_damaged_pictures_touch_no_other_memory(
    program: Path, pictures: list[str], times: int
) -> None:
    """Sizes of all buffers are exact, so that a byte beside one ends the process with a report."""
    done = subprocess.run(
        [program, str(times), "1", *pictures], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[:4000]
    found = re.fullmatch(r"(\d+) decoded, (\d+) refused", done.stdout.strip())
    assert found, done.stdout
    if not has_avx2():
        pytest.skip("this processor has no AVX2: every picture is left to the library")
    assert int(found[1]) > times // 50 and int(found[2]) > times // 50
