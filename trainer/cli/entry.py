"""How a command ends: the user's mistakes in one line, and exit codes that a shell understands."""

import os
import select
import sys
from collections.abc import Callable

from trainer.cli.missing_packages import remedy
from trainer.cli.printable import printable_streams
from trainer.errors import CheckpointError, DataError, UserError, on_stderr, one_line

UNREAD = 141
"""The exit code that a shell shows for a program whose reader went away."""
MISTAKES = (UserError, DataError, CheckpointError)
"""The errors that are the user's to mend."""


def guard(main: Callable[[], int | None], say: Callable[[str], None] = on_stderr) -> int:
    """Run a command to its exit code: mistakes of the user are one line by `say` and 2, an interrupt is 130, and 141
    says that nobody reads the output any more.

    Anything else is a bug and keeps its traceback. What is printed meanwhile is made printable.
    """
    with printable_streams():
        return _guarded(main, say)


def _guarded(main: Callable[[], int | None], say: Callable[[str], None]) -> int:
    try:
        code = main() or 0
        if sys.stdout is not None:
            sys.stdout.flush()  # what fails here can still be answered; at the interpreter's end it is a traceback
        return code
    except BrokenPipeError:
        if not _nobody_reads():
            raise
        return UNREAD
    except KeyboardInterrupt:
        say("interrupted")
        return 130
    except ModuleNotFoundError as error:
        say(f"error: {remedy(error)}")
        return 2
    except MISTAKES as error:
        say(f"error: {one_line(error)}")
        return 2


def _nobody_reads() -> bool:
    """Whether stdout is a pipe whose other end is closed; then what is still to be written goes nowhere."""
    waiting = select.poll()
    waiting.register(sys.stdout.fileno(), 0)
    if not any(events & select.POLLERR for _, events in waiting.poll(0)):
        return False
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)
    return True
