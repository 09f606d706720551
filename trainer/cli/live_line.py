"""One line of a terminal that is written over, below the lines that stay."""

import shutil
import sys

from trainer.cli.printable import CLEAR, control


class LiveLine:
    """The last line of stderr, where that is a terminal; elsewhere nothing is shown and lines pass as they are."""

    def __init__(self) -> None:
        self._terminal = sys.stderr.isatty()
        self._text = ""

    @property
    def shown(self) -> bool:
        """Whether there is a terminal that shows it."""
        return self._terminal

    def show(self, text: str) -> None:
        """Write the line over, cut to the terminal's width: a line that wraps cannot be taken back."""
        if self._terminal:
            self._text = text[: shutil.get_terminal_size().columns - 1]
            self._write(self._text)

    def log(self, message: str) -> None:
        """A line that stays, above the live one: a sink for loguru. message: ends with a line break."""
        self._write(f"{message}{self._text}" if self._terminal else message)

    def clear(self) -> None:
        """Take the line away."""
        self._text = ""
        self._write("")

    def _write(self, text: str) -> None:
        """Write over what the live line shows."""
        if self._terminal:
            control(sys.stderr, CLEAR)
        sys.stderr.write(text)
        sys.stderr.flush()
