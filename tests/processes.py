"""What all processes of the tests cost, and that they hear Ctrl-C: of `tests/conftest.py`, without its imports."""

import resource
import signal
from collections.abc import Iterator

import pytest

signal.signal(signal.SIGINT, signal.default_int_handler)  # a script's & makes all that it starts ignore it


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> Iterator[None]:
    """What the tests cost, with all processes that they started and those of xdist, as a line above the last."""
    yield
    spent = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    user, system = sum(each.ru_utime for each in spent), sum(each.ru_stime for each in spent)
    terminalreporter.write_line(f"CPU seconds: {user + system:.0f} (user {user:.0f}, system {system:.0f})")
