"""Where this program lies, and where the paths of a study file lead: with ~ and $VARIABLES, which differ by machine."""

import os
import re
from pathlib import Path

from trainer.errors import DataError

REPOSITORY = Path(__file__).resolve().parents[1]
"""The folder of search/, trainer/, losses/ and models/; in a checkout also of studies/, docs/ and tests/."""
STUDIES = (Path("studies"), REPOSITORY / "studies")
"""Where a study's name is looked for."""
LARGEST_STUDY = 1_000_000
"""Bytes of a study file."""

_VARIABLE = re.compile(r"\$(?:(\$)|(\w+)|\{(\w+)\})")
_DOLLAR = re.compile(r"\$(?=[\w{$])")


def expand(text: str, field: str, *, error: type[Exception] = DataError) -> Path:
    """A path with ~ and $VARIABLES filled in; `$$` is a dollar. field: where it stands, for messages.

    Raises `error` where a variable is not set.
    """

    def value(match: re.Match[str]) -> str:
        name = match[2] or match[3]
        if match[1]:
            return "$"
        if not os.environ.get(name):
            raise error(
                f"{field} = {text!r}: the variable {name} is not set; export {name}=FOLDER, or write $$ where a dollar "
                "is meant"
            )
        return os.environ[name]

    # As text: a Path forgets the ./ that keeps a ~ from being a home.
    return Path(os.path.expanduser(_VARIABLE.sub(value, text)))


def escaped(path: str) -> str:
    """A path as `expand` takes it, so that no dollar in it is read as a variable and no ~ as a home."""
    return ("./" if path.startswith("~") else "") + _DOLLAR.sub("$$", path)
