"""What ends a command while it imports, as one line in place of a traceback: a package that is not installed, a Ctrl-C.
Needs nothing but Python itself, of any age."""

import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
"""Where the program lies; the module that knows it imports a package that may be missing."""
OURS = ("search", "trainer", "losses", "models")


def remedy(error: ModuleNotFoundError) -> str:
    """What is missing and what to do. Raises the error itself where the module is one of ours: that is a bug."""
    name = str(error.name)
    if name.split(".")[0] in OURS:
        raise error
    if sys.version_info < (3, 11):  # noqa: UP036 - who runs this may well have an older one
        return f"{sys.executable} is Python {sys.version.split()[0]}; 3.11 or newer is needed: {_how()}"
    return f"the package {name!r} is not installed for {sys.executable}; remedy: {_how()}"


def absent(error: ModuleNotFoundError) -> int:
    """Print the remedy on stderr; returns 2, the exit code of a mistake."""
    print(f"error: {remedy(error)}", file=sys.stderr)
    return 2


def interrupted() -> int:
    """Say that a Ctrl-C came while packages were imported; returns 130, its exit code."""
    print("interrupted", file=sys.stderr)
    return 130


def _how() -> str:
    script = REPOSITORY / ".venv" / "bin" / "activate"
    here = Path.cwd()
    if not script.is_file():
        return f"make venv && source .venv/bin/activate (in {REPOSITORY})"
    shown = script.relative_to(here) if script.is_relative_to(here) else script
    return f"source {shown} (in each new shell); make venv, where that does not help"
