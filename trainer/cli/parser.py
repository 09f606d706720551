"""The words of a command line: help that shows examples, and mistakes that are one line like any other."""

import argparse
import difflib
import re
from collections.abc import Sequence
from typing import Any, NoReturn

from trainer.errors import UserError, nearest, received

_CHOICE = re.compile(r"argument (\S+): invalid choice: '(.*)' \(choose from (.*)\)", re.DOTALL)
_KNOWN = r"[^\s,']+"
Flags = argparse._ActionsContainer  # argparse gives the kind no public name
"""A parser or a group of one, which takes flags."""


MOST_WATCHED = 86400.0
"""Seconds between two looks of --watch at most."""


def add_watch(parser: argparse.ArgumentParser, what: str, seconds: float, also: str = "") -> None:
    """The flag --watch of a command that does `what` again until a search has ended, every so many seconds."""
    parser.add_argument(
        "--watch",
        nargs="?",
        type=float,
        const=seconds,
        metavar="SECONDS",
        help=f"{what} again every so many seconds (default {seconds:g}) until the search has ended; "
        f"{also}Ctrl-C leaves",
    )


def check_watch(args: argparse.Namespace, *, least: float) -> None:
    """Raise UserError for seconds of --watch that are too few or too many, or no number."""
    if args.watch is not None and not least <= args.watch <= MOST_WATCHED:
        raise UserError(f"--watch {args.watch:g}: give seconds from {least:g} to {MOST_WATCHED:g}")


class CommandLine(argparse.ArgumentParser):
    """A parser whose `error` raises UserError: the mistake, what is known and nearest, and where help is."""

    def __init__(self, *args: Any, **options: Any) -> None:
        options.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        super().__init__(*args, **options)

    def error(self, message: str) -> NoReturn:
        """Raise UserError."""
        choice = _CHOICE.fullmatch(message)
        if choice is not None:
            field, word, known = choice.groups()
            what = f"unknown command {word!r}" if field == "COMMAND" else f"{field} = {received(word)}: unknown"
            message = f"{what}{nearest(word, re.findall(_KNOWN, known))}"
        raise UserError(f"{self.prog}: {message}; see {self.prog} --help")

    # The ancestor's overloads name its own namespace alone; nobody here gives another.
    def parse_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> argparse.Namespace:  # type: ignore[override]
        """All words as a namespace. Raises UserError, also for words that no argument takes."""
        parsed: argparse.Namespace
        parsed, rest = self.parse_known_args(args, namespace)
        if rest:
            command = self._chosen(parsed)
            flags = [flag for action in command._actions for flag in action.option_strings]
            close = difflib.get_close_matches(rest[0].partition("=")[0], flags, n=1, cutoff=0.5)
            command.error(f"{received(rest[0])}: not understood{f'; nearest: {close[0]}' if close else ''}")
        return parsed

    def _chosen(self, parsed: argparse.Namespace) -> "CommandLine":
        """The parser of the command (and of the command's command) that the words name."""
        for action in self._actions:
            if isinstance(action, argparse._SubParsersAction):
                inner = action.choices.get(str(getattr(parsed, action.dest, None)))
                if isinstance(inner, CommandLine):
                    return inner._chosen(parsed)
        return self
