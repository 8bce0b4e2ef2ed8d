"""A proxy before an S3 server that forwards a PUT and loses the answer: the bytes have arrived."""

from __future__ import annotations

import http.client
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(slots=True)
class Plan:
    """Which answers get lost; changed by a test while the proxy runs."""

    lost: range = range(0)
    "numbers of the PUTs, from 1, whose answers get lost"
    puts: list[str] = field(default_factory=list)
    "the paths that were PUT"
    lock: threading.Lock = field(default_factory=threading.Lock)

    def begin(self, lost: range) -> None:
        """Count anew."""
        self.lost, self.puts = lost, []

    def loses(self, method: str, path: str) -> bool:
        """Count a request; say whether its answer gets lost."""
        if method != "PUT":
            return False
        with self.lock:
            self.puts.append(path)
            return len(self.puts) in self.lost


@contextmanager
def losing_proxy(upstream: str) -> Iterator[tuple[str, Plan]]:
    """Give the address of a proxy before host:port `upstream`, and its plan."""
    plan = Plan()
    handler = type("Handler", (_Handler,), {"plan": plan, "upstream": upstream})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"127.0.0.1:{server.server_address[1]}", plan
    finally:
        server.shutdown()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    plan: Plan
    upstream: str

    def _forward(self) -> None:
        body = self._raw_body()
        connection = http.client.HTTPConnection(self.upstream, timeout=30)
        connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
        for name, value in self.headers.items():
            if name.lower() not in ("connection", "expect"):
                connection.putheader(name, value)
        connection.endheaders()
        connection.send(body)
        answer = connection.getresponse()
        content = answer.read()
        if self.plan.loses(self.command, self.path):
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        self.send_response_only(answer.status, answer.reason)
        for name, value in answer.getheaders():
            if name.lower() not in ("connection", "transfer-encoding", "content-length"):
                self.send_header(name, value)
        length = answer.getheader("Content-Length") if self.command == "HEAD" else str(len(content))
        self.send_header("Content-Length", length or "0")
        self.end_headers()
        self.wfile.write(content)

    def _raw_body(self) -> bytes:
        """Return the body as it is on the wire, in chunks where it came in chunks."""
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        pieces = []
        while int((line := self.rfile.readline()).split(b";")[0], 16):
            pieces += [line, self.rfile.read(int(line.split(b";")[0], 16) + 2)]
        pieces.append(line)
        while (line := self.rfile.readline()) != b"\r\n":  # trailers
            pieces.append(line)
        return b"".join([*pieces, line])

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _forward

    def log_message(self, *_: Any) -> None:
        """Be quiet."""
