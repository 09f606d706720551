"""The notes for the dashboard, written by a child process, now and then by one leader of all.

Drawing and writing in this process would hold up training: Python runs one thread at a time.
"""

import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from loguru import logger

from search.storage.searches import claim_last_note_turn, claim_note_turn
from search.study.adapter import StudyAdapter
from trainer.repository import REPOSITORY

CHILD_SECONDS = 180.0
"""How long a child may take; it gives up by itself before."""
FIRST_NOTES_SECONDS = 30.0
"""How long a leader works before its first notes: they would take a processor from the first trials to say that nothing
has happened, and a search that ends before has its last notes."""
SHARE = 0.02
"""Of the time of all processors that this process may use, at most, in which notes are written: each takes five seconds
of one, which are missing in training where there are few."""
LAST_NOTES_SECONDS = 6.0
"""How long a leader that ends waits for the last notes; they are finished without it."""


@dataclass(frozen=True)
class Child:
    """A process that writes the notes."""

    process: "subprocess.Popen[bytes]"
    stderr: IO[bytes]
    began: float
    """The time at which it began, in monotonic seconds."""


class NoteProcess:
    """Used by the database thread alone."""

    def __init__(
        self,
        search: StudyAdapter,
        every: float,
        folder: Path | None,
        *,
        first: float = FIRST_NOTES_SECONDS,
        share: float | None = None,
    ) -> None:
        """every: seconds between two writings, over all leaders. folder: the dashboard's files; None: tables alone.

        first: seconds from now to the first writing of this leader, at most `every`. share: of its time that this
        leader may have notes written in, above 0 and at most 1, by default SHARE of each processor; the last ones are
        written all the same.
        """
        self._search, self._every, self._folder = search, every, folder
        self._share = min(SHARE * len(os.sched_getaffinity(0)), 1.0) if share is None else share
        self.children: list[Child] = []
        """Those at work: one, or for a moment two at the end."""
        self._due = time.monotonic() + min(first, every)
        self._last_warning = ""

    def start_if_due(self) -> None:
        """Start a child where one is due, and collect one that has ended; never waits for it."""
        now = time.monotonic()
        if self._is_writing(now) or now < self._due:
            return
        self._due = now + self._every / 6
        if claim_note_turn(self._search.opened.engine, self._search.search_id, self._every):
            self._start(now)

    def write_last(self) -> None:
        """Where the search ends with this leader, write once more."""
        search = self._search
        if claim_last_note_turn(search.opened.engine, search.search_id, list(search.arms)):
            # A child that is at work still finds that another set out after it, and leaves the notes to that one.
            self._start(time.monotonic())
        self.wait(LAST_NOTES_SECONDS)

    def wait(self, seconds: float) -> None:
        """Wait until no child is at work, for at most so many seconds."""
        end = time.monotonic() + seconds
        while self._is_writing(time.monotonic()) and time.monotonic() < end:
            time.sleep(0.05)

    def _start(self, now: float) -> None:
        # The URL may hold a password: it travels in the environment, never in the arguments.
        url = self._search.opened.engine.url.render_as_string(hide_password=False)
        paths = os.pathsep.join(filter(None, [str(REPOSITORY), os.environ.get("PYTHONPATH")]))
        bare = {name: value for name, value in os.environ.items() if name != "OPTUNA_STORAGE_FILE"}
        environment = {**bare, "OPTUNA_STORAGE": url, "OMP_NUM_THREADS": "1", "PYTHONPATH": paths}
        folder = [] if self._folder is None else ["--artifacts", str(self._folder)]
        command = [sys.executable, "-m", "search", "note", "--in-background", *folder, "--", self._search.spec.name]
        try:
            stderr = tempfile.TemporaryFile()  # noqa: SIM115 - the child writes into it while this goes on
            # A session of its own: Ctrl-C and the end of this process leave the last notes to be finished.
            process = subprocess.Popen(
                command,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=stderr,
                start_new_session=True,
            )
            self.children.append(Child(process, stderr, now))
        except OSError as error:
            self._warn(error.strerror or type(error).__name__)

    def _is_writing(self, now: float) -> bool:
        """Whether a child is at work; those that have ended are collected."""
        for child in list(self.children):
            process = child.process
            if process.poll() is None and now - child.began > CHILD_SECONDS:
                process.kill()  # collected later: one that hangs in a disk must not hold up this thread
            if process.returncode is None:
                continue
            self._due = max(self._due, child.began + (now - child.began) / self._share)
            with child.stderr as file:
                file.seek(0)
                lines = file.read().decode(errors="replace").strip().splitlines()
            if process.returncode != 0:
                gave_up = process.returncode in (-signal.SIGALRM, -signal.SIGKILL)
                self._warn("it took too long" if gave_up else lines[-1] if lines else f"exit code {process.returncode}")
            self.children.remove(child)
        return bool(self.children)

    def _warn(self, reason: str) -> None:
        if reason != self._last_warning:  # the same trouble each minute is logged once
            logger.warning("note for the dashboard not written: {}", reason)
            self._last_warning = reason
