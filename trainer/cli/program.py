"""What both command lines say of themselves: their name, the versions, and completion for a shell."""

import argparse
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import shtab

COMPLETION = "--print-completion"
_SHOWN = ("torch", "optuna", "albumentations", "opencv-python-headless")
"""Packages whose versions decide what a run gives."""


def wants_completion(arguments: Sequence[str]) -> bool:
    """Whether a completion file is asked for, which needs the flags of all commands."""
    return any(word.partition("=")[0] == COMPLETION for word in arguments)


def program(script: str, module: str, arguments: Sequence[str]) -> str:
    """The name under which this program was started, the script's or the module's; a shell completes the script's."""
    started_as = Path(sys.argv[0]).name
    return script if started_as == script or wants_completion(arguments) else f"python -m {module}"


def add_version_and_completion(parser: argparse.ArgumentParser, script: str) -> None:
    """The flags --version and --print-completion; a completion file completes the words of `script`."""
    parser.add_argument("--version", action=_Version, nargs=0, help="print the versions that decide a result, and end")
    shtab.add_argument_to(parser, [COMPLETION], help=f"print the completion of {script} for a shell, and end")


def versions() -> str:
    """The program, Python and the packages that decide what a run gives, in one line."""
    python = ".".join(map(str, sys.version_info[:3]))
    packages = ", ".join(f"{name} {version(name)}" for name in _SHOWN)
    return f"kd-search {version('kd-search')} (Python {python}, {packages})"


class _Version(argparse.Action):
    """Prints the versions, which are looked up only when they are asked for."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        print(versions())
        parser.exit()
