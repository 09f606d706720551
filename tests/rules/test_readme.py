"""The README is true: every command in it is run, as it is written and in its order, here or where this file says."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import tomllib
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import pytest

from search.commands import demo
from trainer.data.sets.blobs import draw

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()
OPERATING = (ROOT / "docs/operating.md").read_text()

MAKE = "make"
"""A target of the Makefile; .ci/run or the workflow runs it."""
ENVIRONMENT = "environment"
"""Settings of the shell; the tests set their own values."""
DEMO = "demo"
"""Served by test_the_demo_can_be_looked_at."""
OWN_DATA = "own data"
"""Typed in order by test_own_data_and_a_shared_database_work_as_written."""
SHARED = "shared"
"""Typed by it next, in order."""
HAND = "hand"
"""Typed by it afterwards, while the budget has room again."""
SERVER = "server"
"""Started by it, asked for its page, and stopped."""
NETWORKS = "networks"
"""Run by trainer/commands/test_models.py."""
FETCH = "fetch"
"""Run by trainer/data/downloads/test_fetch.py, from a server on this machine."""
SIMULATE = "simulate"
"""Run by test_the_service_can_be_tried_without_training."""

WHERE = {
    "make demo": MAKE,
    "make test": MAKE,
    "source .venv/bin/activate": ENVIRONMENT,
    "python -m search dashboard --storage sqlite:///.demo/study.db --artifacts .demo/runs/artifacts": DEMO,
    "python -m trainer data fetch": FETCH,
    "python -m trainer data fetch kvasir-seg $HOME/data": FETCH,
    "python -m search init $HOME/polyps --name mine": OWN_DATA,
    "python -m trainer teach studies/mine.toml": OWN_DATA,
    "python -m search validate mine": OWN_DATA,
    "python -m search work mine": OWN_DATA,
    "python -m search status mine": OWN_DATA,
    "python -m search export mine --top 3 -o best.json": OWN_DATA,
    "python -m trainer fit best.json -o student.safetensors": OWN_DATA,
    "python -m trainer evaluate student.safetensors": OWN_DATA,
    "python -m trainer predict student.safetensors --grid -o predictions.png": OWN_DATA,
    "python -m search confirm mine": OWN_DATA,
    "python -m search report mine": OWN_DATA,
    "python -m search export mine --confirmed --package ship": OWN_DATA,
    "python -m trainer predict ship $HOME/polyps/images -o masks": OWN_DATA,
    "python -m search profile mine --threads 1 -o latency.csv": OWN_DATA,
    "export OPTUNA_STORAGE=$(python -m search db start --dir $HOME/kd-database)": SHARED,
    "torchrun --rdzv-backend=kd-local --nproc-per-node=2 search/worker.py --study mine --runs runs": SHARED,
    "python -m search status mine --watch": SHARED,
    "python -m search dashboard --artifacts runs/artifacts": SERVER,
    "python -m search enqueue mine student.width=16": HAND,
    "python -m search stop mine": HAND,
    "python -m search stop mine --undo": HAND,
    "python -m search db backup -o mine.dump": HAND,
    "python -m search close mine": HAND,
    "python -m search db stop --dir $HOME/kd-database": HAND,
    "python -m search simulate demo --workers 2 --kills 1": SIMULATE,
    "python -m trainer models": NETWORKS,
}

SMALLER = {
    r"epochs     = \d+": "epochs     = 2",
    r"batch_size = \d+": "batch_size = 8",
    r"validate   = .*": "validate   = { from = 1, every = 1 }",
    r"size    = \d+": "size    = 32",
    r'augment = "standard"': 'augment = "none"',
    r"width      = 48": "width      = 8",
    r"min_dice   = 0.5": "min_dice   = 0.0",
    r"choices = \[8, 16, 24\]": "choices = [16]",
    r"warmup_epochs = \d+": "warmup_epochs = 1",
    r"trials     = 40": "trials     = 2",
    r"seeds = \[.*\]": "seeds = [11, 12]",
    r"top   = 3": "top   = 1",
}
"""What `search init`'s study is changed to, so that it ends in a minute on two cores."""


def readme_commands(page: str = README) -> list[str]:
    """The commands of all console blocks in order, with continued lines joined."""
    blocks = re.findall(r"^```console\n(.*?)^```$", page, flags=re.MULTILINE | re.DOTALL)
    joined = "".join(blocks).replace("\\\n", " ")
    return [re.sub(r"\s+", " ", line[2:]).strip() for line in joined.splitlines() if line.startswith("$ ")]


def test_every_command_is_run_somewhere():
    assert readme_commands()
    unknown = [command for command in readme_commands() if command not in WHERE]
    assert unknown == [], "run it in a test, or say in WHERE what runs it"
    assert sorted(WHERE) == sorted(set(readme_commands())), "WHERE names a command that the README no longer has"


def test_every_make_word_is_a_target():
    makefile = (ROOT / "Makefile").read_text()
    words = {word for command, where in WHERE.items() if where == MAKE for word in command.split()[1:]}
    words |= set(re.findall(r"`make (\w+)`", README))
    assert words
    assert [word for word in sorted(words) if not re.search(rf"^{word}:", makefile, flags=re.MULTILINE)] == []


def test_the_makefile_and_the_workflow_use_the_same_words():
    workflow = (ROOT / ".github/workflows/ci.yml").read_text()
    assert re.findall(r"- run: (.+)", workflow) == ["make check", "make test", "make demo"]
    script = (ROOT / ".ci/run").read_text().splitlines()
    assert [line for line in script if line.startswith("make ")] == ["make venv", "make check", "make test"]
    assert "search.commands.demo" in (ROOT / "Makefile").read_text()


def test_links_and_named_files_exist():
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", README) if "://" not in link]
    assert links
    named = re.findall(r"`(studies/[\w-]+\.toml|[a-z]+/[a-z_]+\.py)`", README)
    made = {"studies/mine.toml"}  # by `search init`
    assert [path for path in {*links, *named} - made if not (ROOT / path).exists()] == []


@pytest.mark.parametrize("step", demo.STEPS, ids=lambda step: step.name)
def test_a_demo_step_takes_the_words_it_is_given(step, module):
    """The flags of each step are known to its command; argparse says so before anything is done."""
    assert step.arguments[:2] == ("python", "-m")
    done = module(*step.arguments[2:], "--help")
    flags = {word for word in step.arguments if word.startswith("--")}
    assert [flag for flag in flags if flag not in done.stdout] == []


@pytest.fixture
def home(quick: Path) -> Iterator[Path]:
    """A home whose path another user can walk, with a folder of 60 drawn pictures of different sizes."""
    folder = Path(tempfile.mkdtemp(prefix="kd-home-", dir=quick))  # PostgreSQL does not run as root
    folder.chmod(0o755)
    for part in ("images", "masks"):
        (folder / "polyps" / part).mkdir(parents=True)
    for number in range(60):
        image, mask = draw(number, 40)
        cv2.imwrite(str(folder / "polyps" / "images" / f"{number:03}.jpg"), image[..., ::-1])
        cv2.imwrite(str(folder / "polyps" / "masks" / f"{number:03}.png"), mask * 255)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def clone(home: Path) -> Path:
    """The repository's code with room of its own for studies and everything that the commands write."""
    folder = home / "clone"
    (folder / "studies").mkdir(parents=True)
    for room in ("search", "trainer", "losses", "models"):
        (folder / room).symlink_to(ROOT / room)
    return folder


def commands(*kinds: str) -> list[str]:
    """The README's commands of some kinds, in its order."""
    return [command for command in readme_commands() if WHERE[command] in kinds]


def shrink(study: Path) -> None:
    """Make the study that `search init` wrote small."""
    text = study.read_text()
    for written, smaller in SMALLER.items():
        text, found = re.subn(written, smaller, text)
        assert found, written
    tomllib.loads(text)
    study.write_text(text)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_own_data_and_a_shared_database_work_as_written(home, clone, listening, type_in, module):
    """The sections "Your own data" and "Many GPUs", typed line by line in a shell; only the study is smaller.

    Nothing that they start listens beyond the machine, as the README promises.
    """
    environment = shell(HOME=str(home), OMP_NUM_THREADS="1")
    study = clone / "studies" / "mine.toml"
    for command in commands(OWN_DATA):
        # Students of so few epochs are seldom near their teacher, so the one to ship is named, as the README says.
        type_in(f"{command} --configuration kd-1" if "--package" in command else command, clone, environment)
        if " init " in command:
            shrink(study)
    assert (clone / "best.json").stat().st_size > 0
    picture = cv2.imread(str(clone / "predictions.png"))
    assert picture is not None
    assert picture.std() > 0
    assert "unconfirmed" not in (clone / "mine-report" / "report.html").read_text().lower()[:2000]
    assert len(list((clone / "masks").rglob("*.png"))) >= 40
    started = False
    try:
        for command in commands(SHARED, SERVER):
            if WHERE[command] == SERVER:
                serves(command, clone, environment)
            else:
                environment |= type_in(command, clone, environment)
            started |= "db start" in command
        # More trials than before: a worker that was told to stop brings the new budget and begins nothing.
        study.write_text(study.read_text().replace("trials     = 2", "trials     = 3"))
        type_in("python -m search stop mine", clone, environment)
        module(str(ROOT / "search" / "worker.py"), "--study", "mine", "--runs", "runs", cwd=clone, **environment)
        for command in commands(HAND):
            type_in(command, clone, environment)
        assert (clone / "mine.dump").stat().st_size > 0
        (clone / "mine.dump").unlink()
        # The operators' page: looking, and moving house.
        type_in(commands(SHARED)[0], clone, environment)
        for command in readme_commands(OPERATING):
            environment |= type_in(command, clone, environment)
        type_in("python -m search status mine --json > moved.json", clone, environment)
        assert json.loads((clone / "moved.json").read_text())["arms"]["kd"]["complete"] > 0
    finally:
        if started:
            for folder in ("kd-database", "kd-database-2"):
                type_in(f"python -m search db stop --dir $HOME/{folder} || true", clone, environment)


@pytest.mark.slow
def test_the_demo_can_be_looked_at(tmp_path, sqlite_url, open_again):
    (command,) = commands(DEMO)
    (tmp_path / ".demo/runs/artifacts").mkdir(parents=True)
    text = (ROOT / "studies/demo.toml").read_text()
    open_again(f"sqlite:///{tmp_path}/.demo/study.db", "mine", text)
    serves(command, tmp_path, shell(PYTHONPATH=str(ROOT)))


@pytest.mark.slow
def test_the_service_can_be_tried_without_training(tmp_path, type_in):
    (command,) = commands(SIMULATE)
    shutil.copytree(ROOT / "studies", tmp_path / "studies")
    type_in(command, tmp_path, shell())


def shell(**settings: str) -> dict[str, str]:
    """The environment of a shell in which .venv/bin/activate was sourced."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    bare = {name: value for name, value in os.environ.items() if name != "OPTUNA_STORAGE"}
    return bare | {"PATH": path} | settings


@pytest.fixture
def type_in(module: Callable[..., Any]) -> Callable[..., dict[str, str]]:
    """Do a line as a shell does: `type_in(line, folder, environment)`; returns the variables that it exports.

    Where the line is a plain `python -m`, without anything but variables for the shell, its process is forked from
    this one, which has imported what it needs; everything else is typed in a shell.
    """

    def typed(command: str, folder: Path, environment: dict[str, str]) -> dict[str, str]:
        plain = re.fullmatch(r"python -m ([\w ./=-]|\$HOME)+", command)
        if plain is None:
            return in_shell(command, folder, environment)
        _, _, name, *words = command.replace("$HOME", environment["HOME"]).split()
        module(name, *words, cwd=folder, timeout=240, **environment)
        return {}

    return typed


def in_shell(command: str, folder: Path, environment: dict[str, str]) -> dict[str, str]:
    """Run a line in a shell; returns the variables that it exports."""
    name = command.removeprefix("export ").split("=")[0] if command.startswith("export ") else None
    done = subprocess.run(
        ["bash", "-c", f'{command} && test -n "${name}" && printf "%s" "${name}" > exported' if name else command],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, f"$ {command}\n{done.stdout}"
    return {} if name is None else {name: (folder / "exported").read_text()}


def serves(command: str, folder: Path, environment: dict[str, str]) -> None:
    """A server that answers on its port; the port is chosen free, all other words are the README's."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = ["bash", "-c", f"exec {command} --port {port}"]
    server = subprocess.Popen(words, cwd=folder, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        assert "Optuna" in page(f"http://127.0.0.1:{port}/dashboard", server)
        assert '"mine"' in page(f"http://127.0.0.1:{port}/api/studies", server)
    finally:
        server.terminate()
        server.wait(30)


def page(url: str, server: "subprocess.Popen[bytes]") -> str:
    deadline = time.monotonic() + 60.0
    while time.monotonic() < deadline and server.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=10) as answer:  # noqa: S310  (http, on this machine)
                return str(answer.read().decode())
        except OSError:
            time.sleep(0.3)
    pytest.fail(f"{url}: no answer; the server's exit code is {server.poll()}")
