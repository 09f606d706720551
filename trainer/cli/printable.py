"""What may reach a terminal: control characters of names are shown, not obeyed; passwords of URLs are not shown."""

import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import IO, Any

from trainer.errors import without_passwords

CLEAR = "\r\x1b[K"
"""To the beginning of the line, which is emptied."""
OUTPUT = "the output"
"""The file name of an error of stdout or stderr."""
_ALLOWED = re.compile(r"([\n\t])")


def printable(text: str) -> str:
    """The text with every other control character, and what is no character at all, as its escape in Python."""
    if text.isprintable():
        return text
    return "".join(part if _ALLOWED.fullmatch(part) else _escaped(part) for part in _ALLOWED.split(text))


def _escaped(text: str) -> str:
    return "".join(each if each.isprintable() else repr(each)[1:-1] for each in text)


def control(stream: IO[str], sequence: str) -> None:
    """Send a sequence of this program's own to a terminal, past `printable_streams`."""
    (stream._stream if isinstance(stream, _Printable) else stream).write(sequence)


@contextmanager
def _named() -> Iterator[None]:
    """A stream's error, which names no file, names the output."""
    try:
        yield
    except OSError as error:
        error.filename = OUTPUT
        raise


class _Printable:
    """A stream whose text is made printable; everything else is the stream's own."""

    def __init__(self, stream: IO[str], shown: Callable[[str], str]) -> None:
        self._stream, self._shown = stream, shown

    def write(self, text: str) -> int:
        with _named():
            self._stream.write(self._shown(text))
        return len(text)

    def flush(self) -> None:
        with _named():
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def printable_streams() -> Iterator[None]:
    """Inside, all that is printed or logged is made printable; on stderr no password of a URL is shown.

    On stdout it is: `search db start` hands over the URL of its database there.
    """
    before = sys.stdout, sys.stderr
    if before[0] is not None:
        sys.stdout = _Printable(before[0], printable)
    if before[1] is not None:
        sys.stderr = _Printable(before[1], lambda text: without_passwords(printable(text)))
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before
