"""What asks a process to stop, next to the database: signals, and the end of the process that started it.

A worker whose parent was killed ends by itself: nobody is left to start its ranks again, or to see how they end.
"""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator

from trainer.cli.rank_variables import PARENT, rank_variable
from trainer.distributed.supervisor import SAME_STOP_SECONDS, say_once

ASKED = (
    "asked to stop: writing checkpoints, giving the trials back (up to 20 s); "
    f"Ctrl-C again ends at once without either, but in the first {SAME_STOP_SECONDS:g} s it does nothing"
)
ASKING = (signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)
"""Signals of schedulers and terminals that ask for a stop, beside Ctrl-C's INT."""
PARENT_CHECK_SECONDS = 1.0
"""Time between two looks at who the parent is."""


def obey_signals(ask: Callable[[], None], answer: str = ASKED, *, also_interrupt: bool = True) -> None:
    """The first signal asks for a stop at the next step; a later one, if it is no echo, ends the process at once.

    answer: what the lead says to the first one, at once. also_interrupt: whether Ctrl-C asks, too; else it raises
    KeyboardInterrupt as before. A hang-up that whoever started this ignores, as nohup does, stays ignored.
    """
    asked: list[float] = []

    def obey(number: int, _frame: object) -> None:
        if not asked:
            asked.append(time.monotonic())
            ask()
            if os.environ.get("RANK", "0") == "0":  # one speaks for all
                # Written past the logger: the signal may have come while that holds its lock. Where the terminal hung
                # up, or whoever read this was killed, nobody is to be told.
                with contextlib.suppress(OSError):
                    os.write(2, f"{time.strftime('%H:%M:%S')} {answer}\n".encode())
        elif time.monotonic() - asked[0] > SAME_STOP_SECONDS:
            os._exit(128 + number)

    for number in (*ASKING, *((signal.SIGINT,) if also_interrupt else ())):
        if number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, obey)


@contextlib.contextmanager
def until_interrupted() -> Iterator[Callable[[float], None]]:
    """For a loop that Ctrl-C ends: a sleep that also ends it where KeyboardInterrupt was raised before and was lost, as
    every exception is in a callback of a weak reference, of which SQLAlchemy has many."""
    interrupted = False

    def interrupt(_number: int, _frame: object) -> None:
        nonlocal interrupted
        interrupted = True
        raise KeyboardInterrupt

    def pause(seconds: float) -> None:
        if interrupted:
            raise KeyboardInterrupt
        time.sleep(seconds)

    before = signal.getsignal(signal.SIGINT)
    if before is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, interrupt)
    try:
        yield pause
    finally:
        signal.signal(signal.SIGINT, before)


def end_with(parent: int) -> None:
    """Once the parent of this process is not `parent` any more, this process is sent TERM, which it handles already.

    The kernel could send it (PR_SET_PDEATHSIG), but on Linux alone, and also where only the thread ended that had
    started this process.
    """
    threading.Thread(target=_end_with, args=(parent,), name="parent", daemon=True).start()


def end_with_parent() -> None:
    """`end_with` the process that started this one, which may be gone already. A process calls it in its first lines:
    importing torch and meeting siblings take long enough for somebody to kill the parent meanwhile."""
    end_with(rank_variable(PARENT, os.getppid(), least=1))


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(PARENT_CHECK_SECONDS)
    with contextlib.suppress(OSError):  # what read this may be gone with the parent
        say_once(f"the process that started this worker ({parent}) is gone: it ends, too")
    os.kill(os.getpid(), signal.SIGTERM)
