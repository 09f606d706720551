"""Starts the ranks of this machine together, watches them, and starts all of them again where one dies.

It is what torchrun's agent does for one machine, with the same variables for the ranks, and without torch: a process
that only waits should not take two seconds and 200 MB for its import.
"""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from loguru import logger

from trainer.cli.rank_variables import PARENT
from trainer.distributed.temporary import MEETING_FOLDER, PLACE

POLL_SECONDS = 0.1
"""Between two looks at the ranks."""
KILLED_SECONDS = 30.0
"""How long a killed process may take to go: one that waits for a broken disk or device cannot."""
SAME_STOP_SECONDS = 3.0
"""Within which a further signal is the same wish: schedulers tell every process, and an agent passes it on besides."""
INTERRUPTED = 130
"""Exit code after INT."""
TERMINATED = 143
"""Exit code after TERM, USR1 or HUP."""
_STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)


class Agent:
    """The ranks of one command.

    command: script and arguments, which Python runs on every rank. ranks: how many. restarts: how often they are
    started again. stop_seconds: how long they may take to end after they were asked to. folder: private, in which they
    meet and have their own temporary folders. variables: of their environment, beside what this process has.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        ranks: int,
        restarts: int,
        stop_seconds: float,
        folder: Path,
        variables: Mapping[str, str],
    ) -> None:
        self._command, self._count, self._restarts, self._stop_seconds = command, ranks, restarts, stop_seconds
        self._folder, self._variables = folder, variables
        self._ranks: list[subprocess.Popen[bytes]] = []

    def run(self, wish: Callable[[], signal.Signals | None]) -> bool:
        """Run the ranks until all have ended with 0, died too often, or were asked to stop; returns whether they died.

        wish: asked all the time; the signal that the ranks are to be sent, None while there is none, KILL for at once.
        """
        for start in range(self._restarts + 1):
            if wish() is not None:
                return False
            try:
                self._begin(start)
                died = self._watched(wish)
                asked = wish()
                self._end(asked or signal.SIGTERM, wish)
            finally:
                self._kill()  # where this process itself fails
            if asked is not None or not died:
                return False
        return True

    def _begin(self, start: int) -> None:
        common: dict[str, object] = {
            PLACE: self._folder,
            PARENT: os.getpid(),
            "WORLD_SIZE": self._count,
            "LOCAL_WORLD_SIZE": self._count,
            "GROUP_RANK": 0,
            "GROUP_WORLD_SIZE": 1,
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": 0,  # nobody listens: the ranks meet in the folder
            "TORCHELASTIC_RESTART_COUNT": start,
            "TORCHELASTIC_MAX_RESTARTS": self._restarts,
            "TORCHELASTIC_RUN_ID": "none",
            "TORCHELASTIC_USE_AGENT_STORE": False,
            MEETING_FOLDER: tempfile.mkdtemp(prefix="kd-ranks-", dir=self._folder),  # of mode 0700
            **self._variables,
        }
        for rank in range(self._count):
            own = common | {"RANK": rank, "LOCAL_RANK": rank}
            environment = {"TORCH_NCCL_ASYNC_ERROR_HANDLING": "1"} | os.environ | {k: str(v) for k, v in own.items()}
            # In a session of its own: a terminal tells its whole process group of a Ctrl-C, and the ranks hear of it
            # from here.
            started = [sys.executable, "-u", *self._command]
            self._ranks.append(subprocess.Popen(started, env=environment, start_new_session=True))

    def _watched(self, wish: Callable[[], signal.Signals | None]) -> bool:
        """Whether a rank died before all had ended, or a stop was asked for."""
        while wish() is None:
            codes = [rank.poll() for rank in self._ranks]
            for index, code in enumerate(codes):
                if code:
                    logger.warning("rank {} {}", index, _how_it_ended(code))
                    return True
            if all(code == 0 for code in codes):
                return False
            time.sleep(POLL_SECONDS)
        return False

    def _end(self, number: signal.Signals, wish: Callable[[], signal.Signals | None]) -> None:
        """Ask the ranks that are left to end, and kill those that do not within `stop_seconds`."""
        for rank in self._left():
            _send(rank, number)
        limit = time.monotonic() + self._stop_seconds
        while self._left() and time.monotonic() < limit and wish() != signal.SIGKILL:
            time.sleep(POLL_SECONDS)
        if self._left() and wish() != signal.SIGKILL:
            late = ", ".join(str(index) for index, rank in enumerate(self._ranks) if rank in self._left())
            logger.warning("rank {}: not ended {:g} s after it was asked to: killed", late, self._stop_seconds)

    def _kill(self) -> None:
        left = self._left()
        for rank in left:
            _send(rank, signal.SIGKILL)
        limit = time.monotonic() + KILLED_SECONDS
        for rank in left:
            with suppress(subprocess.TimeoutExpired):
                rank.wait(max(limit - time.monotonic(), 0.0))
        if stuck := [rank.pid for rank in self._left()]:
            logger.error("processes {} cannot be killed: they wait for a disk or a device", stuck)
        self._ranks.clear()

    def _left(self) -> "list[subprocess.Popen[bytes]]":
        return [rank for rank in self._ranks if rank.poll() is None]


def _send(rank: "subprocess.Popen[bytes]", number: signal.Signals) -> None:
    """To a rank and to what it has started."""
    with suppress(ProcessLookupError, PermissionError):  # it has just ended; on a Mac that is no permission
        os.killpg(rank.pid, number)


def _how_it_ended(code: int) -> str:
    if code > 0:
        return f"ended with exit code {code}"
    try:
        return f"was ended by {signal.Signals(-code).name}"
    except ValueError:
        return f"was ended by signal {-code}"


class Stops:
    """Signals as wishes to stop: the first asks the ranks, one that is no echo of it ends them at once."""

    def __init__(self) -> None:
        self.code: int | None = None
        self.ends_here = True
        """Whether a signal ends this process: before there are ranks."""
        self._wish: signal.Signals | None = None
        self._asked: list[float] = []

    def wish(self) -> signal.Signals | None:
        """What the ranks are to be sent; None where they may go on."""
        return self._wish

    def obey(self) -> None:
        """From now on; a hang-up that whoever started this ignores, as nohup does, stays ignored."""
        for number in _STOPS:
            if number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self._on_signal)

    def ignore(self) -> None:
        """The ranks have ended: there is nothing to stop any more."""
        for number in _STOPS:
            signal.signal(number, signal.SIG_IGN)

    def _on_signal(self, number: int, _frame: object) -> None:
        now = time.monotonic()
        if len(self._asked) == 2 or (self._asked and now - self._asked[0] <= SAME_STOP_SECONDS):
            return
        self._asked.append(now)
        if self.code is None:
            self.code = INTERRUPTED if number == signal.SIGINT else TERMINATED
        if self.ends_here:
            sys.exit(self.code)
        # A Ctrl-C would end a rank that still imports with a traceback.
        asks = signal.SIGTERM if number == signal.SIGINT else signal.Signals(number)
        self._wish = asks if len(self._asked) == 1 else signal.SIGKILL


@contextmanager
def signals_as_before() -> Iterator[None]:
    """Signals do afterwards what they did before: for a process that supervises several groups of ranks in turn, each
    of which leaves them ignored."""
    before = {number: signal.getsignal(number) for number in _STOPS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
