"""T2 and races on S3: answers to PUTs that get lost, and two ingests at once.

The server is moto's, on the loopback interface; the store ends in the bytes that a disk has.
"""

from __future__ import annotations

import hashlib
import random
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from tests.faults import proxy, scenes
from tests.faults.zygote import Outcome, Zygote

pytest.importorskip("moto", reason="moto makes the S3 server of these tests")
boto3 = pytest.importorskip("boto3", reason="boto3 commits to S3")


class Cloud:
    """An S3 server, a proxy before it, raw files, and the tree that a disk has after an ingest."""

    def __init__(
        self, server: str, address: str, plan: proxy.Plan, zygotes: tuple[Zygote, Zygote]
    ) -> None:
        self.plan, self.address, self.zygotes = plan, address, zygotes
        self.client = boto3.client(
            "s3",
            endpoint_url=f"http://{server}",
            region_name="us-east-1",
            aws_access_key_id="test",
            aws_secret_access_key="test",
        )
        self.client.create_bucket(Bucket="bucket")

    def make(self, place: Path) -> None:
        """Make the raw files and what a disk would have."""
        self.raw = scenes.make_raw(place / "raw")
        (place / "disk").mkdir()
        assert self.zygotes[0].run(scenes.take_a, place / "disk", self.raw).error == ""
        self.wanted = scenes.tree(place / "disk")

    def uri(self, name: str) -> str:
        return f"s3://bucket/{name}?endpoint_override={self.address}&scheme=http"

    def take(self, name: str, work: Callable[..., Any], zygote: int = 0) -> Outcome:
        return self.zygotes[zygote].run(work, self.uri(name), self.raw)

    def tree(self, name: str) -> dict[str, str]:
        found = {}
        for page in self.client.get_paginator("list_objects_v2").paginate(
            Bucket="bucket", Prefix=f"{name}/"
        ):
            for entry in page.get("Contents", ()):
                body = self.client.get_object(Bucket="bucket", Key=entry["Key"])["Body"].read()
                path = entry["Key"].removeprefix(f"{name}/")
                if not path.endswith("/"):
                    found[path] = hashlib.sha256(body).hexdigest()
        return found

    def verify(self, name: str) -> list[str]:
        """Verify through another process; returns the parts of the last snapshot."""
        done = self.take(name, scenes.verified_parts)
        assert done.error == ""
        parts: list[str] = done.result
        return parts


@pytest.fixture(scope="module")
def cloud(zygote: Zygote, other_zygote: Zygote) -> Iterator[Cloud]:
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with (
        proxy.losing_proxy(f"{host}:{port}") as (address, plan),
        TemporaryDirectory(prefix="cloud-") as place,
    ):
        made = Cloud(f"{host}:{port}", address, plan, (zygote, other_zygote))
        made.make(Path(place))
        yield made
    server.stop()


def puts_of_an_ingest(cloud: Cloud, name: str) -> int:
    """Ingest once to count; the last but one is the commit."""
    cloud.plan.begin(range(0))
    assert cloud.take(name, scenes.take_a).error == ""
    assert cloud.plan.puts[-2].endswith("snapshots/000001.json")
    return len(cloud.plan.puts)


def check(cloud: Cloud, name: str) -> None:
    assert scenes.differences(cloud.wanted, cloud.tree(name)) == set()
    assert len(cloud.verify(name)) == 1


def test_a_lost_answer_is_asked_for_again(cloud: Cloud) -> None:
    """A PUT arrives once more than its client knows; the commit is still won."""
    puts = puts_of_an_ingest(cloud, "counted")
    assert cloud.tree("counted") == cloud.wanted
    cloud.plan.begin(range(puts - 1, puts + 1))
    assert cloud.take("lost", scenes.take_a).error == ""
    assert len(cloud.plan.puts) > puts
    check(cloud, "lost")


@pytest.mark.slow
def test_any_lost_answer_is_asked_for_again(cloud: Cloud) -> None:
    for number in range(1, puts_of_an_ingest(cloud, "any") + 1):
        cloud.plan.begin(range(number, number + 1))
        assert cloud.take(f"any-{number}", scenes.take_a).error == ""
        check(cloud, f"any-{number}")


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_server_that_stops_answering_fails_the_command_and_the_next_one_finishes(
    cloud: Cloud,
) -> None:
    """All answers get lost from one PUT on; bytes that arrived are found or written again."""
    puts = puts_of_an_ingest(cloud, "all")
    for number in (1, puts // 2, puts - 2, puts - 1):
        cloud.plan.begin(range(number, 10**6))
        done = cloud.take(f"all-{number}", scenes.take_a)
        assert "could not write" in done.error, number
        cloud.plan.begin(range(0))
        assert cloud.take(f"all-{number}", scenes.take_a).error == ""
        check(cloud, f"all-{number}")


def meet(cloud: Cloud, name: str, works: tuple[Any, Any], seconds: float) -> None:
    """Run two ingests in two processes, the second so much later."""

    def later(zygote: int) -> Outcome:
        time.sleep(seconds * zygote)
        return cloud.take(name, works[zygote], zygote)

    cloud.plan.begin(range(0))
    with ThreadPoolExecutor(2) as pool:
        assert [done.error for done in pool.map(later, (0, 1))] == ["", ""]


def meet_often(cloud: Cloud, rounds: int) -> None:
    rng = random.Random(0)
    for number in range(rounds):
        delay = rng.uniform(0, 0.4) * (number > 0)
        two, same = f"two-{rounds}-{number}", f"same-{rounds}-{number}"
        meet(cloud, two, (scenes.take_a, scenes.take_b), delay)
        assert len(cloud.verify(two)) == 2
        meet(cloud, same, (scenes.take_a, scenes.take_a), delay)
        check(cloud, same)


def test_two_ingests_at_once_are_both_in_the_last_snapshot(cloud: Cloud) -> None:
    meet(cloud, "at once", (scenes.take_a, scenes.take_b), 0.0)
    assert len(cloud.verify("at once")) == 2


@pytest.mark.slow
def test_two_ingests_at_about_the_same_time_are_both_in_the_last_snapshot(cloud: Cloud) -> None:
    meet_often(cloud, 8)
