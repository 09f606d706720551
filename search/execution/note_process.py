"""The lead's errand to the dashboard: a child process writes the search's notes, once in a while over all leads.

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

from search.storage.searches import take_last_turn, take_turn
from search.study.adapter import StudyAdapter
from trainer.repository import REPOSITORY

PATIENCE = 180.0
"""Seconds that a child may take; it gives up by itself before."""
LAST = 6.0
"""Seconds that a lead that ends waits for the last notes; they are finished without it."""


@dataclass(frozen=True)
class Child:
    """A process that writes the notes."""

    process: "subprocess.Popen[bytes]"
    complaints: IO[bytes]
    began: float
    """Monotonic seconds."""


class NoteProcess:
    """Used by the database thread alone."""

    def __init__(self, search: StudyAdapter, every: float, folder: Path | None) -> None:
        """every: seconds between two writings, over all leads. folder: of the dashboard's files; None: tables alone."""
        self._search, self._every, self._folder = search, every, folder
        self.children: list[Child] = []
        """At work: one, or for a moment two at the end."""
        self._due = 0.0
        self._said = ""

    def look(self) -> None:
        """Begin a writing where one is due, and look after one that goes on; never waits for it."""
        now = time.monotonic()
        if self._writing(now) or now < self._due:
            return
        self._due = now + self._every / 6
        if take_turn(self._search.opened.engine, self._search.search_id, self._every):
            self._begin(now)

    def last(self) -> None:
        """Where the search ends with this lead, write once more."""
        search = self._search
        if take_last_turn(search.opened.engine, search.search_id, list(search.arms)):
            # A child that is at work still finds that another set out after it, and leaves the notes to that one.
            self._begin(time.monotonic())
        self.wait(LAST)

    def wait(self, seconds: float) -> None:
        """Wait until no child is at work, for at most so many seconds."""
        end = time.monotonic() + seconds
        while self._writing(time.monotonic()) and time.monotonic() < end:
            time.sleep(0.05)

    def _begin(self, now: float) -> None:
        # The URL may hold a password: it travels in the environment, never in the arguments.
        url = self._search.opened.engine.url.render_as_string(hide_password=False)
        paths = os.pathsep.join(filter(None, [str(REPOSITORY), os.environ.get("PYTHONPATH")]))
        bare = {name: value for name, value in os.environ.items() if name != "OPTUNA_STORAGE_FILE"}
        environment = {**bare, "OPTUNA_STORAGE": url, "OMP_NUM_THREADS": "1", "PYTHONPATH": paths}
        folder = [] if self._folder is None else ["--artifacts", str(self._folder)]
        words = [sys.executable, "-m", "search", "note", "--in-background", *folder, "--", self._search.spec.name]
        try:
            complaints = tempfile.TemporaryFile()  # noqa: SIM115 - the child writes into it while this goes on
            # A session of its own: Ctrl-C and the end of this process leave the last notes to be finished.
            process = subprocess.Popen(
                words,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=complaints,
                start_new_session=True,
            )
            self.children.append(Child(process, complaints, now))
        except OSError as error:
            self._complain(error.strerror or type(error).__name__)

    def _writing(self, now: float) -> bool:
        """Whether a child is at work; those that have ended are seen off."""
        for child in list(self.children):
            process = child.process
            if process.poll() is None and now - child.began > PATIENCE:
                process.kill()  # seen off at a later look: one that hangs in a disk must not hold up this thread
            if process.returncode is None:
                continue
            with child.complaints as file:
                file.seek(0)
                lines = file.read().decode(errors="replace").strip().splitlines()
            if process.returncode != 0:
                gave_up = process.returncode in (-signal.SIGALRM, -signal.SIGKILL)
                self._complain(
                    "it took too long" if gave_up else lines[-1] if lines else f"exit code {process.returncode}"
                )
            self.children.remove(child)
        return bool(self.children)

    def _complain(self, why: str) -> None:
        if why != self._said:  # the same trouble each minute is said once
            logger.warning("note for the dashboard not written: {}", why)
            self._said = why
