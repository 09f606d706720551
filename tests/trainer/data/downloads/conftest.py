"""A server of files on this machine that misbehaves where a test wants it to."""

import hashlib
import signal
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path, PurePosixPath

import pytest


class Shop(ThreadingHTTPServer):
    """Serves `files` by name, with ETag and Range."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answers)
        self.files: dict[str, bytes] = {}
        self.asked: list[dict[str, str]] = []
        """The headers of every request."""
        self.cut: int | None = None
        """Bytes after which the next answer ends."""
        self.interrupts: Path | None = None
        """The part file after whose growth a Ctrl-C comes where the answer is cut."""
        self.resumes = True
        self.shift = 0
        """How far what is sent is from what was asked for."""
        self.kind = "application/zip"

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that went away is what the test wanted."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Answers(BaseHTTPRequestHandler):
    """One file, whole or from a byte on."""

    server: Shop

    def do_GET(self) -> None:
        shop = self.server
        shop.asked.append(dict(self.headers))
        data = shop.files.get(PurePosixPath(self.path).name)
        if data is None:
            self.send_error(404)
            return
        tag = f'"{hashlib.md5(data).hexdigest()}"'  # noqa: S324 - no secret
        start = 0
        if shop.resumes and self.headers.get("If-Range") == tag:
            start = int(self.headers["Range"].removeprefix("bytes=").removesuffix("-"))
        self.send_response(206 if start else 200)
        if start:
            start += shop.shift
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        self.send_header("Content-Type", shop.kind)
        self.send_header("Content-Length", str(len(data) - start))
        self.send_header("ETag", tag)
        self.end_headers()
        cut, shop.cut = shop.cut, None
        self.wfile.write(data[start:cut])
        if cut is not None and shop.interrupts is not None:
            deadline = time.monotonic() + 10
            while time.monotonic() < deadline and not (shop.interrupts.is_file() and shop.interrupts.stat().st_size):
                time.sleep(0.01)
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
            time.sleep(0.3)

    def log_message(self, format: str, *args: object) -> None:
        """Keep quiet."""


@pytest.fixture
def shop() -> Iterator[Shop]:
    server = Shop()
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join(10)
