"""One file over HTTP, resumed where an earlier try stopped (RFC 9110, sections 13.1.5 and 14).

What has arrived lies in `NAME.part`, and `NAME.part.json` says of which version of which address it is: that is sent
back as If-Range, so that a server sends the rest of the same version, or all of a newer one.
"""

import json
import os
import re
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import Any, NamedTuple
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from trainer.atomic_files import write_text
from trainer.cli.progress import Counting
from trainer.data.downloads.disk_space import readable, require_room
from trainer.errors import DataError, on_stderr, one_line

TIMEOUT = 60.0
"""Seconds without a byte after which a server counts as gone."""
CHUNK = 256 * 1024
_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+)")
_UNIT = 1_000_000
_AGAIN = "the same command goes on from there"


class Kept(NamedTuple):
    """What an earlier try left."""

    size: int
    """Bytes that have arrived."""
    total: int | None
    """Bytes of the whole file; None where the server does not say."""
    version: str
    """The file's ETag or date, as the server named it."""


class Transfer:
    """Downloads one file; a downloader of pooch.

    part: where the bytes are kept until the file is whole. remedy: what a person does where the server refuses.
    """

    def __init__(self, part: Path, remedy: str) -> None:
        self._part, self._remedy = part, remedy
        self._record = part.with_name(f"{part.name}.json")

    def __call__(self, url: str, output_file: Any, pooch: object = None) -> None:  # noqa: ARG002 - pooch's protocol
        """Bring the whole file to `output_file`; the part stays until `discard`. Raises DataError."""
        self._complete(url)
        target = Path(output_file)
        target.unlink(missing_ok=True)
        try:
            os.link(self._part, target)
        except OSError:  # a file system without links
            self._part.replace(target)

    def discard(self) -> None:
        """Forget what has arrived."""
        self._part.unlink(missing_ok=True)
        self._record.unlink(missing_ok=True)

    def _complete(self, url: str) -> None:
        kept = self._kept(url)
        if kept is not None and kept.size == kept.total:
            return
        answer = self._ask(url, kept)
        if kept is not None and not self._continues(answer, kept):
            if answer.status != 200:
                answer.close()
                answer = self._ask(url, None)
            kept = None
        start = 0 if kept is None else kept.size
        with answer:
            self._refuse_page(url, answer)
            length = answer.headers.get("Content-Length")
            total = start + int(length) if length is not None and length.isdigit() else None
            if total is not None:
                require_room(self._part.parent, total - start, f"the download of {url}")
            self._remember(url, total, answer)
            self._receive(url, answer, start, total)

    def _kept(self, url: str) -> Kept | None:
        """What can be gone on with: bytes of this address, whose version the server named."""
        try:
            table = json.loads(self._record.read_text())
            kept = Kept(self._part.stat().st_size, table["total"], table["version"])
        except (OSError, ValueError, KeyError, TypeError):
            return None
        fits = kept.total is None or kept.size <= kept.total
        return kept if table["url"] == url and kept.version and kept.size and fits else None

    def _remember(self, url: str, total: int | None, answer: HTTPResponse) -> None:
        table = {"url": url, "total": total, "version": _version(answer)}
        write_text(self._record, json.dumps(table, indent=1) + "\n")

    def _ask(self, url: str, kept: Kept | None) -> HTTPResponse:
        """The server's answer to a request for the file, or for its rest. Raises DataError."""
        if not url.startswith(("http://", "https://")):
            raise DataError(f"{url}: not an address of the web (http or https)")
        request = Request(url, headers={"Accept-Encoding": "identity", "User-Agent": "kd-search"})  # noqa: S310
        if kept is not None:
            request.add_header("Range", f"bytes={kept.size}-")
            request.add_header("If-Range", kept.version)
        try:
            answer: HTTPResponse = urlopen(request, timeout=TIMEOUT)  # noqa: S310 - http or https, see above
        except HTTPError as error:
            if error.code == 416 and kept is not None:
                return self._ask(url, None)
            error.close()
            raise DataError(f"{url}: the server refuses (HTTP {error.code} {error.reason}); {self._remedy}") from None
        except (OSError, HTTPException) as error:
            cause = error.reason if isinstance(error, URLError) else error
            raise DataError(
                f"{url}: cannot be reached ({one_line(str(cause) or type(cause).__name__)}); repeat later, or "
                f"{self._remedy}"
            ) from None
        if url.startswith("https://") and not answer.url.startswith("https://"):
            answer.close()
            raise DataError(f"{url}: leads to {answer.url}, which is not encrypted; {self._remedy}")
        return answer

    def _continues(self, answer: HTTPResponse, kept: Kept) -> bool:
        """Whether an answer is the rest of what is kept; else why not is said."""
        place = _RANGE.fullmatch(answer.headers.get("Content-Range", ""))
        same = _version(answer) in ("", kept.version)
        if answer.status == 206 and same and place is not None:
            if int(place[1]) == kept.size and kept.total in (None, int(place[2])):
                on_stderr(f"{self._part.name}: goes on at {_progress(kept.size, kept.total)}")
                return True
            same = False
        cause = "the server does not resume" if same else "the file changed on the server"
        on_stderr(f"{self._part.name}: {cause}; begins again")
        return False

    def _refuse_page(self, url: str, answer: HTTPResponse) -> None:
        if answer.headers.get_content_type() == "text/html":
            raise DataError(f"{url}: the server sent a web page, as where a login is needed; {self._remedy}")

    def _receive(self, url: str, answer: HTTPResponse, start: int, total: int | None) -> None:
        """Append what comes. Raises DataError where it ends too early, OSError where it cannot be written."""
        counting, shown, size = Counting(f"{self._part.stem}, MB"), 0, start
        with self._part.open("r+b" if start else "wb") as file:
            file.seek(start)
            try:
                while chunk := _next(answer):
                    file.write(chunk)
                    file.flush()  # what has arrived outlives this process
                    size += len(chunk)
                    if total is not None and (size - start) // _UNIT > shown:
                        shown = (size - start) // _UNIT
                        counting(shown, -(-(total - start) // _UNIT))
                os.fsync(file.fileno())
            except _Ended as error:
                raise DataError(f"{url}: {error} after {_progress(size, total)}; {_AGAIN}") from None
            except OSError as error:
                error.filename = str(self._part)  # a write that fails names no file
                raise
            except KeyboardInterrupt:
                # By the file: it may have come between a write and its count.
                on_stderr(f"{self._part}: {_progress(file.tell(), total)} are kept; {_AGAIN}")
                raise
        if total is not None and size < total:
            raise DataError(f"{url}: the connection ended after {_progress(size, total)}; {_AGAIN}")


class _Ended(Exception):
    """The connection broke; why."""


def _next(answer: HTTPResponse) -> bytes:
    """What has come since, up to CHUNK bytes; empty at the end. Raises _Ended."""
    try:
        return answer.read1(CHUNK)
    except (OSError, HTTPException) as error:
        raise _Ended(one_line(str(error) or type(error).__name__)) from None


def _version(answer: HTTPResponse) -> str:
    """What If-Range may hold: a strong ETag, else the date of the last change; empty where there is neither."""
    tag = answer.headers.get("ETag", "")
    return tag if tag and not tag.startswith("W/") else answer.headers.get("Last-Modified", "")


def _progress(size: int, total: int | None) -> str:
    return readable(size) if total is None else f"{size} of {total} bytes ({size / max(total, 1):.0%})"
