"""Two clean processes that all fault tests fork from: each takes a second to start."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.faults.zygote import Zygote

CLOUD = {
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "test",
    "AWS_EC2_METADATA_DISABLED": "true",
}
"What the S3 tests need; the server is ours and asks for no other key."


@pytest.fixture(scope="session")
def zygote() -> Iterator[Zygote]:
    """Give a process to fork from."""
    made = Zygote(CLOUD)
    yield made
    made.close()


@pytest.fixture(scope="session")
def other_zygote() -> Iterator[Zygote]:
    """Give another one, for what happens at the same time."""
    made = Zygote(CLOUD)
    yield made
    made.close()
