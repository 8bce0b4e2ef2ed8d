"""An HTTP server on loopback that answers as a test says, or passes requests on to a real one."""

from __future__ import annotations

import socket
import socketserver
import threading
from collections.abc import Callable

FORBIDDEN = b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
BUSY = (
    b"HTTP/1.1 503 Slow Down\r\nContent-Type: application/xml\r\nContent-Length: 87\r\n"
    b"Connection: close\r\n\r\n"
    b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate</Message></Error>\r\n"
)


class Answers(socketserver.ThreadingTCPServer):
    """Counts requests; `answer(number)` is what one gets, None passes it on to `behind`."""

    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 50

    def __init__(self, answer: Callable[[int], bytes | None], behind: str = "") -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answer, self.behind = answer, behind
        self.requests = self.refused = 0
        self.address = f"127.0.0.1:{self.server_address[1]}"
        self.counting = threading.Lock()

    def __enter__(self) -> Answers:
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()


class _Handler(socketserver.BaseRequestHandler):
    """One connection carries one request: the answers say so, and so do requests passed on."""

    server: Answers

    def handle(self) -> None:
        """Read a request, then answer it or pass it on."""
        head = self._read_head()
        if not head:
            return
        with self.server.counting:
            number, self.server.requests = self.server.requests, self.server.requests + 1
        answer = self.server.answer(number)
        if answer is None:
            self._pass_on(head)
            return
        self.server.refused += 1
        self._drain(head)
        self.request.sendall(answer)

    def _read_head(self) -> bytes:
        data = b""
        while b"\r\n\r\n" not in data:
            piece = self.request.recv(65536)
            if not piece:
                return b""
            data += piece
        return data

    def _drain(self, head: bytes) -> None:
        """Read a request's body, so that its sender hears the answer instead of a reset."""
        before, _, body = head.partition(b"\r\n\r\n")
        fields = dict(line.lower().split(b": ", 1) for line in before.split(b"\r\n")[1:])
        if b"100-continue" in fields.get(b"expect", b""):
            return
        left = int(fields.get(b"content-length", 0)) - len(body)
        while left > 0 and (piece := self.request.recv(min(left, 65536))):
            left -= len(piece)

    def _pass_on(self, head: bytes) -> None:
        host, port = self.server.behind.split(":")
        before, end, body = head.partition(b"\r\n\r\n")
        lines = [line for line in before.split(b"\r\n") if not line.lower().startswith(b"connect")]
        with socket.create_connection((host, int(port))) as real:
            real.sendall(b"\r\n".join([*lines, b"Connection: close"]) + end + body)
            up = threading.Thread(target=_copy, args=(self.request, real), daemon=True)
            up.start()
            _copy(real, self.request)


def _copy(source: socket.socket, target: socket.socket) -> None:
    """Copy bytes until one side ends."""
    try:
        while piece := source.recv(65536):
            target.sendall(piece)
    except OSError:  # the other thread has closed them
        return
