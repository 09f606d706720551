"""Mistakes of the user as one line: file and field, the value received, what is known and nearest. Free of torch."""

import errno
import re
import sys
from collections.abc import Iterable
from datetime import date, time

SECRET_PARAMETERS = ("password", "sslpassword", "oauth_client_secret", "scram_client_key", "scram_server_key")
"""What only the database may see of a URL's query, and of a list `key=value` as libpq reads it."""
_IN_URL = re.compile(r"(?<![\w+.-])(?!(?:sqlite|file)\b)([\w+.-]+)://(\S*)@")
_SECRET = "|".join(SECRET_PARAMETERS)
_IN_QUERY = re.compile(rf"([?&]\w*(?:{_SECRET})=)[^\s&]*", re.IGNORECASE)
_IN_LIST = re.compile(
    rf"""((?<![?&\w])\w*(?:{_SECRET})[ \t]*=[ \t]*)(?:\\?(['"])(?:\\.|(?!\2).)*(?:\2|$)|\S+)""",
    re.IGNORECASE | re.DOTALL,
)
SHOWN = 80
"""Characters of a received value that a message repeats."""


class UserError(Exception):
    """A mistake of the user, in one line; a command that meets one ends with exit code 2."""


def on_stderr(line: str) -> None:
    """Print a line on stderr."""
    print(line, file=sys.stderr)


def one_line(error: Exception | str) -> str:
    """An error's message without line breaks, and without the passwords in it."""
    return without_passwords(" ".join(str(error).split()))


def without_passwords(text: str) -> str:
    """A text in which `***` stands for all that may be a password.

    In a URL that is what lies between the first colon behind `//` and the last `@` of the word; all before that `@`
    where no plain name stands before the colon, or no colon is there (a token), but for the user of a PostgreSQL.
    In a query, and in a list `key=value`, it is the value of each of `SECRET_PARAMETERS`: in a list in quotes up to the
    closing one, or to the end of the text where that is cut off; without quotes up to the next white space.
    """
    return _IN_URL.sub(_hidden, _IN_LIST.sub(r"\1***", _IN_QUERY.sub(r"\1***", text)))


def _hidden(url: re.Match[str]) -> str:
    scheme, inside = url.groups()
    user, colon, _ = inside.partition(":")
    if "@" in user or "/" in user:
        return f"{scheme}://***@"
    if colon:
        return f"{scheme}://{user}:***@"
    return url[0] if scheme.startswith("postgres") else f"{scheme}://***@"


def nearest(name: str, known: Iterable[str]) -> str:
    """`; known: a, b; nearest: a` for a name that is none of them, to be put behind a message; sorted."""
    from models.nearest import nearest as listed  # with all configurations, which most commands end without

    return listed(name, sorted(set(known)))


_IN_THE_WAY = {
    errno.EEXIST: "a file is where a folder is needed",
    errno.ENOTDIR: "a file is where a folder is needed",
    errno.EISDIR: "a folder is where a file is needed",
}


def refusal_text(error: OSError) -> str:
    """Why the system refuses a place, in its own words but where they do not say what is in the way ("File exists")."""
    return _IN_THE_WAY.get(error.errno or 0) or error.strerror or str(error) or type(error).__name__


def counted(number: int, noun: str) -> str:
    """`1 epoch`, `2 epochs`: a number with its noun."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def received(value: object) -> str:
    """A value as a message shows it, its passwords hidden before it is cut: half a URL is not known as one. Dates are
    shown as TOML writes them."""
    text = without_passwords(str(value) if isinstance(value, date | time) else repr(value))
    return text if len(text) <= SHOWN else f"{text[: SHOWN - 3]}..."


class DataError(Exception):
    """A data set that cannot be used, in one line: which file or field, what it holds, what is expected, the remedy."""


class CheckpointError(Exception):
    """A file that cannot be used, in one line: which, what it holds, what is expected, the remedy."""
