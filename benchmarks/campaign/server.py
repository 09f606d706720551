"""A PostgreSQL of a campaign's own, started with `python -m search db start`."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import sqlalchemy as sa

from benchmarks.campaign.worker_pool import kill, state_of


class OwnServer:
    """A server in a folder that can be crashed and started again on its port."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.url = self._up()

    def crash(self) -> int:
        """SIGQUIT: an immediate shutdown, which leaves recovery to the next start. Returns the process id."""
        (file,) = self._folder.rglob("postmaster.pid")
        pid = int(file.read_text().splitlines()[0])
        kill(pid, signal.SIGQUIT)
        deadline = time.monotonic() + 30
        while state_of(pid) not in ("", "Z") and time.monotonic() < deadline:
            time.sleep(0.02)
        return pid

    def start(self) -> None:
        """Start it again; its address stays."""
        again = self._up()
        if again != self.url:
            raise RuntimeError("the server came back under another address")

    def stop(self) -> None:
        """End it in order."""
        self._command("stop")

    def _up(self) -> sa.URL:
        return sa.make_url(self._command("start").strip())

    def _command(self, word: str) -> str:
        words = [sys.executable, "-m", "search", "db", word, "--dir", str(self._folder)]
        done = subprocess.run(words, capture_output=True, text=True, timeout=120, check=False, env=os.environ)
        if done.returncode != 0:
            raise RuntimeError(f"search db {word}: {done.stderr}")
        return done.stdout
