"""moto's S3 server on the loopback interface: the real protocol, no network."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest


@contextmanager
def s3_server(*buckets: str) -> Iterator[str]:
    """Run a server with some buckets, and give its host:port; the environment holds its keys."""
    boto3 = pytest.importorskip("boto3", reason="boto3 commits to S3")
    server_of = pytest.importorskip("moto.server", reason="moto makes the S3 server of these tests")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", "test")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        patch.delenv("AWS_ENDPOINT_URL", raising=False)
        patch.delenv("AWS_PROFILE", raising=False)
        server = server_of.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        server.start()
        host, port = server.get_host_and_port()
        client = boto3.client("s3", endpoint_url=f"http://{host}:{port}", region_name="us-east-1")
        for bucket in buckets:
            client.create_bucket(Bucket=bucket)
        yield f"{host}:{port}"
        server.stop()


def s3_uri(endpoint: str, place: str) -> str:
    """Return the URI of a place in a bucket on that server."""
    return f"s3://{place}?endpoint_override={endpoint}&scheme=http"
