"""A shell in which the environment was not activated: one line with the remedy, and exit code 2."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from trainer.cli.entry import guard
from trainer.cli.missing_packages import remedy

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.parametrize("words", [["-m", "search", "status", "x"], ["-m", "trainer", "--help"], ["search/worker.py"]])
def test_an_interpreter_without_the_packages_says_which_is_missing_and_what_to_do(words: list[str]) -> None:
    bare = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    command = [sys.executable, "-S", "-E", *words]  # -S: without site-packages
    done = subprocess.run(command, cwd=ROOT, env=bare, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: the package '")
    assert "make venv" in line


def test_the_remedy_names_what_can_be_typed_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    error = ModuleNotFoundError("No module named 'loguru'", name="loguru")
    monkeypatch.setattr("trainer.cli.missing_packages.REPOSITORY", tmp_path)
    monkeypatch.chdir(tmp_path)
    assert "make venv && source .venv/bin/activate" in remedy(error)
    (tmp_path / ".venv/bin").mkdir(parents=True)
    (tmp_path / ".venv/bin/activate").touch()
    assert "remedy: source .venv/bin/activate (in each new shell)" in remedy(error)


def test_a_package_that_a_command_misses_later_is_one_line_too(capsys: pytest.CaptureFixture[str]) -> None:
    def late() -> int:
        import package_that_nobody_has  # type: ignore[import-not-found]  # noqa: F401

        return 0

    assert guard(late) == 2
    assert capsys.readouterr().err.startswith("error: the package 'package_that_nobody_has' is not installed")


def test_a_missing_module_of_our_own_is_a_bug_with_its_traceback() -> None:
    def broken() -> int:
        import search.nothing_of_this_name  # type: ignore[import-not-found]  # noqa: F401

        return 0

    with pytest.raises(ModuleNotFoundError):
        guard(broken)
