"""The README is true: every command in it is run, as it is written and in its order, here or where this file says."""

import os
import re
import shutil
import socket
import subprocess
import sys
import time
import tomllib
import urllib.request
from pathlib import Path

import cv2
import pytest

from search import demo
from trainer.data.blobs import draw

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()

OWN_DATA = "own data"
"""Run in order by test_your_own_data_works_as_written."""
SERVER = "server"
"""Started by it, asked for its page, and stopped."""
SIMULATE = "simulate"
"""Run by test_the_service_can_be_tried_without_training."""
MAKE = "make"
"""A target of the Makefile; .ci/run or the workflow runs it."""
ENVIRONMENT = "environment"
"""Settings of the shell; the tests set their own values."""

WHERE = {
    "make demo": MAKE,
    "make test": MAKE,
    "source .venv/bin/activate": ENVIRONMENT,
    "export POLYP_ROOT=$HOME/polyps": ENVIRONMENT,
    "python -m trainer data split $POLYP_ROOT/Kvasir-SEG --root $POLYP_ROOT --seed 1 -o splits/mine.csv": OWN_DATA,
    "python -m trainer data check splits/mine.csv": OWN_DATA,
    "python -m trainer teach studies/mine.toml": OWN_DATA,
    "python -m search validate mine": OWN_DATA,
    "export OPTUNA_STORAGE=postgresql+psycopg2://user:password@host/polyps": ENVIRONMENT,
    "torchrun --standalone --nproc-per-node=2 search/worker.py --study mine": OWN_DATA,
    "python -m search status mine": OWN_DATA,
    "optuna-dashboard $OPTUNA_STORAGE": SERVER,
    "python -m search export mine --top 3 -o best.json": OWN_DATA,
    "python -m trainer fit best.json -o student.safetensors": OWN_DATA,
    "python -m trainer evaluate student.safetensors": OWN_DATA,
    "python -m trainer predict student.safetensors --grid -o predictions.png": OWN_DATA,
    "python -m search simulate demo --workers 2 --kills 1": SIMULATE,
}

SMALLER = {
    "epochs     = 60": "epochs     = 3",
    "size  = 352": "size  = 32",
    "width      = 48": "width      = 8",
    "min_dice   = 0.80": "min_dice   = 0.0",
    "choices = [8, 16]": "choices = [2, 4]",
    "warmup_epochs = 10": "warmup_epochs = 1",
    "trials = 40": "trials = 3",
}
"""What the README's study is changed to, so that it ends in a minute on two cores."""


def blocks(kind: str) -> list[str]:
    return re.findall(rf"^```{kind}\n(.*?)^```$", README, flags=re.MULTILINE | re.DOTALL)


def readme_commands() -> list[str]:
    """The commands of all console blocks in order, with continued lines joined."""
    joined = "".join(blocks("console")).replace("\\\n", " ")
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
    assert "search.demo" in (ROOT / "Makefile").read_text()


def test_links_and_named_files_exist():
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", README) if "://" not in link]
    assert links
    named = re.findall(r"`(studies/[\w-]+\.toml|[a-z]+/[a-z_]+\.py)`", README)
    made = {"studies/mine.toml"}
    assert [path for path in {*links, *named} - made if not (ROOT / path).exists()] == []


@pytest.mark.parametrize("step", demo.STEPS, ids=lambda step: step.name)
def test_a_demo_step_takes_the_words_it_is_given(step):
    """The flags of each step are known to its command; argparse says so before anything is done."""
    words = [sys.executable if word == "python" else word for word in step.words]
    if words[0] == "torchrun":
        words = [sys.executable, *words[3:]]
    done = subprocess.run([*words, "--help"], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    flags = {word for word in words if word.startswith("--")}
    assert [flag for flag in flags if flag not in done.stdout] == []


@pytest.fixture
def own_images(tmp_path: Path) -> Path:
    """A folder as data sets are shipped, with 40 drawn pictures of different sizes."""
    folder = tmp_path / "polyps" / "Kvasir-SEG"
    for part in ("images", "masks"):
        (folder / part).mkdir(parents=True)
    for number in range(40):
        image, mask = draw(number, 40)
        cv2.imwrite(str(folder / "images" / f"{number:03}.png"), image[..., ::-1])
        cv2.imwrite(str(folder / "masks" / f"{number:03}.png"), mask * 255)
    return folder.parent


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """The repository's code with room of its own for studies and everything that the commands write."""
    folder = tmp_path / "clone"
    (folder / "studies").mkdir(parents=True)
    for room in ("search", "trainer", "losses", "models"):
        (folder / room).symlink_to(ROOT / room)
    (study,) = blocks("toml")
    for written, smaller in SMALLER.items():
        assert written in study, written
        study = study.replace(written, smaller)
    tomllib.loads(study)
    (folder / "studies" / "mine.toml").write_text(study)
    return folder


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_your_own_data_works_as_written(own_images, clone, postgres_url):
    """The section "Your own data", typed line by line in a shell; the study is smaller, the words are the README's."""
    environment = shell(POLYP_ROOT=str(own_images), OPTUNA_STORAGE=postgres_url)
    for command in readme_commands():
        if WHERE[command] == OWN_DATA:
            type_in(command, clone, environment)
        elif WHERE[command] == SERVER:
            serves(command, clone, environment)
    assert (clone / "best.json").stat().st_size > 0
    picture = cv2.imread(str(clone / "predictions.png"))
    assert picture is not None
    assert picture.std() > 0


@pytest.mark.slow
def test_the_service_can_be_tried_without_training(tmp_path):
    (command,) = [command for command, where in WHERE.items() if where == SIMULATE]
    shutil.copytree(ROOT / "studies", tmp_path / "studies")
    type_in(command, tmp_path, shell())


def shell(**settings: str) -> dict[str, str]:
    """The environment of a shell in which .venv/bin/activate was sourced."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    bare = {name: value for name, value in os.environ.items() if name != "OPTUNA_STORAGE"}
    return bare | {"PATH": path} | settings


def type_in(command: str, folder: Path, environment: dict[str, str]) -> None:
    done = subprocess.run(
        ["bash", "-c", command],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, f"$ {command}\n{done.stdout}"


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
