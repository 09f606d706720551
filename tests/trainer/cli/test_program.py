"""What both command lines say of themselves, and the completion that a shell makes of it."""

import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

SCRIPTS = {"kd-search": "search", "kd-train": "trainer"}
COMPLETE = """
source {file}
COMP_WORDS=({words}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); COMPREPLY=()
{function}
printf '%s\\n' "${{COMPREPLY[@]}}"
"""


@pytest.mark.parametrize(("script", "name"), SCRIPTS.items())
def test_the_versions_that_decide_a_result_are_in_one_line(module, script, name):
    done = module(name, "--version")
    assert done.stdout.startswith(f"kd-search {version('kd-search')} (Python {sys.version_info.major}.")
    assert f"torch {version('torch')}" in done.stdout
    assert f"optuna {version('optuna')}" in done.stdout
    assert f"opencv-python-headless {version('opencv-python-headless')}" in done.stdout
    assert done.stdout.count("\n") == 1


@pytest.mark.parametrize(("script", "name"), SCRIPTS.items())
def test_an_installed_script_calls_itself_by_its_own_name(script, name):
    path = Path(sys.executable).with_name(script)
    done = subprocess.run([str(path), "nosuch"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {script}: unknown command 'nosuch'")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("script", "words", "completed"),
    [
        ("kd-search", "kd-search st", {"status", "stop"}),
        ("kd-search", "kd-search work mine --sl", {"--slots"}),
        ("kd-train", "kd-train fit best.json --ran", {"--rank", "--ranks"}),
    ],
)
def test_bash_completes_commands_and_the_flags_of_each(module, tmp_path, script, words, completed):
    file = tmp_path / "completion.bash"
    file.write_text(module(SCRIPTS[script], "--print-completion", "bash").stdout)
    function = f"_shtab_{script.replace('-', '_')}"
    text = COMPLETE.format(file=file, words=words, function=function)
    done = subprocess.run(["bash", "-c", text], capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) == completed


def test_an_unknown_shell_is_answered_with_those_that_are_known(module):
    done = module("search", "--print-completion", "nosuch", code=2)
    assert "known: bash, " in done.stderr
