"""How a command ends: the user's mistakes in one line, and exit codes that a shell understands."""

import errno
import os
import select
import sys
from collections.abc import Callable

from trainer.cli.missing_packages import remedy
from trainer.cli.printable import OUTPUT, printable_streams
from trainer.errors import CheckpointError, DataError, UserError, on_stderr, one_line

UNREAD = 141
"""The exit code that a shell shows for a program whose reader went away."""
MISTAKES = (UserError, DataError, CheckpointError)
"""The errors that are the user's to mend."""


_REFUSED = {
    errno.ENOSPC: "make room, then repeat",
    errno.EDQUOT: "make room, then repeat",
    errno.EFBIG: "raise the limit of a file's size (ulimit -f), then repeat",
    errno.EMFILE: "raise the limit of open files (ulimit -n), then repeat",
    errno.EROFS: "name a place that can be written",
    errno.EACCES: "see its rights (ls -ld), or name another place",
    errno.EPERM: "see its rights (ls -ld), or name another place",
    errno.EEXIST: "a file is where a folder is needed; name another place",
    errno.ENOTDIR: "a file is where a folder is needed; name another place",
    errno.EISDIR: "a folder is where a file is needed; name another place",
    errno.ELOOP: "a link leads to itself; remove it",
    errno.ENAMETOOLONG: "give it a shorter name",
}
"""What a machine refuses, with the remedy; other errors of a system call are bugs or broken machines."""


def guard(
    main: Callable[[], int | None], say: Callable[[str], None] = on_stderr, *, names_refusals: bool = True
) -> int:
    """Run a command to its exit code: mistakes of the user are one line by `say` and 2, an interrupt is 130, and 141
    says that nobody reads the output any more.

    names_refusals: whether a full disk, a missing right and the like are mistakes of that kind, too; a process that is
    started again after an error lets them pass. Anything else is a bug and keeps its traceback. What is printed
    meanwhile is made printable.
    """
    _open_closed_streams()
    with printable_streams():
        try:
            return _guarded(main, say)
        except OSError as error:
            if not names_refusals or error.errno not in _REFUSED:
                raise
            place = str(error.filename or "a file that was being written")
            if place == OUTPUT:
                _drop_output()
            say(f"error: {one_line(f'{place}: {error.strerror}')}; {_REFUSED[error.errno]}")
            return 2


def _open_closed_streams() -> None:
    """What was closed before the start (`2>&-`) goes nowhere: the next file that is opened would get its number, and
    be written into by whatever prints an error."""
    while (handle := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(handle, True)
    os.close(handle)
    if sys.stdout is None:
        sys.stdout = os.fdopen(1, "w", closefd=False)
    if sys.stderr is None:
        sys.stderr = os.fdopen(2, "w", closefd=False)


def _guarded(main: Callable[[], int | None], say: Callable[[str], None]) -> int:
    try:
        _refuse_lost_folder()
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


def _refuse_lost_folder() -> None:
    try:
        os.getcwd()
    except FileNotFoundError:
        raise UserError("the folder in which this was started was removed; cd to one that is there") from None


def _nobody_reads() -> bool:
    """Whether stdout is a pipe whose other end is closed; then what is still to be written goes nowhere."""
    waiting = select.poll()
    waiting.register(sys.stdout.fileno(), 0)
    if not any(events & select.POLLERR for _, events in waiting.poll(0)):
        return False
    _drop_output()
    return True


def _drop_output() -> None:
    """From now on stdout goes nowhere, with what is still to be written."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)
