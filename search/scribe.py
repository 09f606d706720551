"""The lead's errand to the dashboard: a child process writes the search's notes, once in a while over all leads.

Drawing and writing in this process would hold up training: Python runs one thread at a time.
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import IO

from loguru import logger

from search.study import Search
from search.turns import take_last_turn, take_turn

PATIENCE = 90.0
"""Seconds that a child may take; it gives up by itself before."""
LAST = 6.0
"""Seconds that a lead that ends waits for the last notes; they are finished without it."""
ROOT = Path(__file__).resolve().parents[1]


class Scribe:
    """Used by the database thread alone."""

    def __init__(self, search: Search, every: float, folder: Path | None) -> None:
        """every: seconds between two writings, over all leads. folder: of the dashboard's files; None: tables alone."""
        self._search, self._every, self._folder = search, every, folder
        self._child: subprocess.Popen[bytes] | None = None
        self._complaints: IO[bytes] | None = None
        self._began = 0.0
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
        self._wait(time.monotonic() + LAST)

    def _begin(self, now: float) -> None:
        # The URL may hold a password: it travels in the environment, never in the arguments.
        url = self._search.opened.engine.url.render_as_string(hide_password=False)
        paths = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        environment = {**os.environ, "OPTUNA_STORAGE": url, "OMP_NUM_THREADS": "1", "PYTHONPATH": paths}
        folder = [] if self._folder is None else ["--artifacts", str(self._folder)]
        words = [sys.executable, "-m", "search", "note", "--in-background", *folder, "--", self._search.spec.name]
        if self._complaints is not None:
            self._complaints.close()
        try:
            self._complaints = tempfile.TemporaryFile()  # noqa: SIM115 - the child writes into it while this goes on
            # A session of its own: Ctrl-C and the end of this process leave the last notes to be finished.
            self._child = subprocess.Popen(
                words,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=self._complaints,
                start_new_session=True,
            )
        except OSError as error:
            self._complaints = None
            self._complain(error.strerror or type(error).__name__)
        self._began = now

    def _writing(self, now: float) -> bool:
        """Whether a child is at work; one that has ended is seen off."""
        child = self._child
        if child is None:
            return False
        if child.poll() is None and now - self._began > PATIENCE:
            child.kill()
            child.wait()
        if child.returncode is None:
            return True
        if self._complaints is not None:
            self._complaints.seek(0)
            lines = self._complaints.read().decode(errors="replace").strip().splitlines()
            self._complaints.close()
            if child.returncode != 0:
                self._complain(lines[-1] if lines else f"exit code {child.returncode}")
        self._child = self._complaints = None
        return False

    def _complain(self, why: str) -> None:
        if why != self._said:  # the same trouble each minute is said once
            logger.warning("note for the dashboard not written: {}", why)
            self._said = why

    def _wait(self, end: float) -> None:
        while self._writing(time.monotonic()) and time.monotonic() < end:
            time.sleep(0.05)
