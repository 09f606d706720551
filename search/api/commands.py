"""The project's commands as child processes, with what they print."""

import signal
import subprocess
import sys
import tempfile
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, cast

from search.exit_codes import EXIT_CODES
from trainer.errors import UserError

TAIL = 20
"""Lines of a command's end that an error repeats."""
USERS_MISTAKE = 2
INTERRUPTED = 130

Line = Callable[[str], object]
"""What is done with a line that a command prints, without its end."""


class CommandError(Exception):
    """A command that ended with another code than 0, and not for the user's mistake, which is a `UserError`."""

    def __init__(self, command: str, code: int, tail: str) -> None:
        super().__init__(f"{command} ended with code {code} ({EXIT_CODES.get(code, 'a signal or a fault')}): {tail}")
        self.code = code
        """The exit code; negative: the number of the signal that ended it."""
        self.tail = tail
        """The last lines that it printed."""


def run_command(module: str, arguments: Sequence[str], line: Line | None = print) -> None:
    """Run `python -m module ...` to its end; every line that it prints goes to `line` at once, None: nowhere.

    An interrupt (the stop button of a notebook) is handed on: the command saves its work and ends, then
    KeyboardInterrupt goes on. Raises UserError with the command's own line for exit code 2, CommandError for others.
    """
    with _begun(module, arguments, subprocess.PIPE) as child:
        printed = cast("IO[bytes]", child.stdout)
        tail: deque[str] = deque(maxlen=TAIL)
        interrupted = False
        while True:
            try:
                for text in _lines(printed):
                    tail.append(text)
                    if line is not None:
                        line(text)
                code = child.wait()
                break
            except KeyboardInterrupt:
                interrupted = True
                child.send_signal(signal.SIGINT)
    if interrupted:
        raise KeyboardInterrupt
    _judge(f"python -m {module} {arguments[0]}", code, "\n".join(tail))


def command_output(module: str, arguments: Sequence[str]) -> str:
    """What a command prints on standard output. Raises as `run_command`."""
    done = subprocess.run(_command_line(module, arguments), capture_output=True, text=True, check=False)
    _judge(f"python -m {module} {arguments[0]}", done.returncode, done.stderr.strip())
    return done.stdout


class Job:
    """A command that runs beside the caller, with what it prints in a file."""

    def __init__(self, module: str, arguments: Sequence[str], log: Path | None = None) -> None:
        self._what = f"python -m {module} {arguments[0]}"
        if log is None:
            with tempfile.NamedTemporaryFile(prefix="kd-search-", suffix=".log", delete=False) as file:
                log = Path(file.name)
        self.log = log
        """The file of what it prints."""
        with log.open("wb") as file:
            self._child = _begun(module, arguments, file)

    @property
    def running(self) -> bool:
        """Whether it has not ended."""
        return self._child.poll() is None

    def stop(self) -> None:
        """Ask it to end: trials are saved at their next epoch, and another worker goes on with them."""
        if self.running:
            self._child.send_signal(signal.SIGTERM)

    def wait(self, timeout: float | None = None) -> None:
        """Until it has ended; after `stop` that is its end as asked for. timeout: seconds.

        Raises subprocess.TimeoutExpired, and as `run_command`.
        """
        code = self._child.wait(timeout)
        if code not in (-signal.SIGTERM, 128 + signal.SIGTERM):
            _judge(self._what, code, "\n".join(self.log.read_text(errors="replace").splitlines()[-TAIL:]))


def _command_line(module: str, arguments: Sequence[str]) -> list[str]:
    return [sys.executable, "-m", module, *arguments]


def _begun(module: str, arguments: Sequence[str], stdout: int | IO[bytes]) -> "subprocess.Popen[bytes]":
    # A group of its own: an interrupt at the terminal reaches it through us alone, once.
    return subprocess.Popen(
        _command_line(module, arguments),
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


def _lines(stream: IO[bytes]) -> Iterator[str]:
    return (raw.decode(errors="replace").rstrip() for raw in iter(stream.readline, b""))


def _judge(what: str, code: int, tail: str) -> None:
    if code == USERS_MISTAKE:
        last = tail.splitlines()[-1] if tail else f"{what} ended with code {code}"
        raise UserError(last.removeprefix("error: "))
    if code == INTERRUPTED:
        raise KeyboardInterrupt
    if code != 0:
        raise CommandError(what, code, tail)
