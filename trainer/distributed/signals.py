"""What asks a process to stop, next to the database: signals, and the end of the process that started it.

A worker whose parent was killed ends by itself: nobody is left to start its ranks again, or to see how they end.
"""

import contextlib
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator

from trainer.cli.rank_variables import PARENT, rank_variable
from trainer.distributed.agent import SAME_STOP_SECONDS
from trainer.distributed.supervisor import say_once

ASKED = (
    "asked to stop: writing checkpoints, giving the trials back (up to 20 s); "
    f"Ctrl-C again ends at once without either, but in the first {SAME_STOP_SECONDS:g} s it does nothing"
)
ASKING = (signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)
"""Signals of schedulers and terminals that ask for a stop, beside Ctrl-C's INT."""
LEAD_SPEAKS_SECONDS = 0.3
"""How long another rank leaves it to the lead to answer a signal."""
PARENT_CHECK_SECONDS = 1.0
"""Time between two looks at who the parent is."""
_TAKEN: list[socket.socket] = []
"""What holds the name of a turn until the process ends."""


def obey_signals(ask: Callable[[], None], answer: str = ASKED, *, also_interrupt: bool = True) -> None:
    """The first signal asks for a stop at the next step; a later one, if it is no echo, ends the process at once.

    answer: what is said to the first one, at once, by one rank for all: the lead where it was asked, too.
    also_interrupt: whether Ctrl-C asks, too; else it raises KeyboardInterrupt as before. A hang-up that whoever started
    this ignores, as nohup does, stays ignored.
    """
    asked: list[float] = []
    speak = _speaker(answer)

    def obey(number: int, _frame: object) -> None:
        if not asked:
            asked.append(time.monotonic())
            ask()
            speak()
        elif time.monotonic() - asked[0] > SAME_STOP_SECONDS:
            os._exit(128 + number)

    for number in (*ASKING, *((signal.SIGINT,) if also_interrupt else ())):
        if number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, obey)


def _speaker(answer: str) -> Callable[[], None]:
    """What answers a signal on this rank; safe in a handler.

    Another rank than 0 waits a moment, and is silent where a sibling has spoken: who stops a torchrun asks all of them.
    """
    rank, turn = os.environ.get("RANK", "0"), _Turn()
    if rank == "0":

        def speak() -> None:
            turn.take()
            _say(answer)

        return speak
    asked, asks = os.pipe()  # a lock could be held where the signal comes

    def wait() -> None:
        os.read(asked, 1)
        time.sleep(LEAD_SPEAKS_SECONDS)
        if turn.take():
            _say(f"rank {rank}: {answer}")

    threading.Thread(target=wait, name="answer", daemon=True).start()

    def ask() -> None:
        os.write(asks, b"x")

    return ask


class _Turn:
    """Which of the ranks that one process started answers: a name in the kernel, which goes with whoever has it."""

    def __init__(self) -> None:
        start = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        self._name = f"\0kd-asked-{os.getuid()}-{os.getppid()}-{start}"

    def take(self) -> bool:
        """Whether this rank is the first."""
        # Made here and not before: most processes are never asked, and would leave it open.
        name = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            name.bind(self._name)
        except OSError:
            name.close()
            return False
        _TAKEN.append(name)
        return True


def _say(line: str) -> None:
    """Past the logger: the signal may have come while that holds its lock. Where the terminal hung up, or whoever read
    this was killed, nobody is to be told."""
    with contextlib.suppress(OSError):
        os.write(2, f"{time.strftime('%H:%M:%S')} {line}\n".encode())


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
