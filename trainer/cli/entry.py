"""How a command ends: the user's mistakes in one line, and exit codes that a shell understands."""

import _thread
import errno
import os
import re
import select
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from trainer.cli.missing_packages import remedy
from trainer.cli.printable import OUTPUT, printable_streams
from trainer.errors import CheckpointError, DataError, UserError, on_stderr, one_line, refusal_text

AGAIN_SECONDS = 0.05
"""From a Ctrl-C that was lost to its return."""
UNREAD = 141
"""The exit code that a shell shows for a program whose reader went away."""
MISTAKES = (UserError, DataError, CheckpointError)
"""The errors that are the user's to mend."""


_MORE_MEMORY = "end other programs, raise its limit (ulimit -v; of a container or a job: its settings), then repeat"
_NO_MEMORY = re.compile(
    r"failed to map segment|cannot (apply additional memory protection|allocate)|can't allocate|bad_alloc|not enough "
    r"memory|can't start new thread",
    re.IGNORECASE,
)
"""What the loader of libraries, torch and Python say where a limit leaves no room."""
_REFUSED = {
    errno.ENOMEM: _MORE_MEMORY,
    errno.ENOSPC: "make room, then repeat",
    errno.EDQUOT: "make room, then repeat",
    errno.EFBIG: "raise the limit of a file's size (ulimit -f), then repeat",
    errno.EMFILE: "raise the limit of open files (ulimit -n), then repeat",
    errno.EROFS: "name a place that can be written",
    errno.EACCES: "see its rights (ls -ld), or name another place",
    errno.EPERM: "see its rights (ls -ld), or name another place",
    errno.EEXIST: "name another place",
    errno.ENOTDIR: "name another place",
    errno.EISDIR: "name another place",
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
    with printable_streams(), _kept_interrupts():
        try:
            return _guarded(main, say)
        except (MemoryError, ImportError, RuntimeError) as error:
            if not names_refusals or not _is_want_of_memory(error):
                raise
            say(f"error: memory is not enough: {one_line(error) or 'an array has no room'}; {_MORE_MEMORY}")
            return 2
        except OSError as error:
            if not names_refusals or error.errno not in _REFUSED:
                raise
            place = str(error.filename or "a file that was being written")
            if place == OUTPUT:
                _drop_output()
            say(f"error: {one_line(f'{place}: {refusal_text(error)}')}; {_REFUSED[error.errno]}")
            return 2


def _is_want_of_memory(error: Exception) -> bool:
    return isinstance(error, MemoryError) or _NO_MEMORY.search(str(error)) is not None


@contextmanager
def _kept_interrupts() -> Iterator[None]:
    """A Ctrl-C that comes within a callback of a weak reference, of which SQLAlchemy has many, is reported there and
    lost: it comes again a moment later, until it reaches code that it can end."""
    before = sys.unraisablehook

    def hear(lost: "sys.UnraisableHookArgs") -> None:
        if lost.exc_type is KeyboardInterrupt:
            threading.Timer(AGAIN_SECONDS, _thread.interrupt_main).start()
        else:
            before(lost)

    sys.unraisablehook = hear
    try:
        yield
    finally:
        sys.unraisablehook = before


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
