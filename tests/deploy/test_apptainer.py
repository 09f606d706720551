"""deploy/apptainer without an engine: it holds what the image of docker holds, and runs the same command."""

import re
import shlex
import subprocess
from pathlib import Path

import pytest

from search.__main__ import parser

ROOT = Path(__file__).resolve().parents[2]
DEFINITION = (ROOT / "deploy/apptainer/kd-search.def").read_text()
DOCKERFILE = (ROOT / "Dockerfile").read_text()
SECTIONS = dict(re.findall(r"^%(\w+)\n(.*?)(?=^%|\Z)", DEFINITION, re.M | re.S))
HEADER = dict(re.findall(r"^(\w+): (.+)$", DEFINITION.partition("\n%")[0], re.M))
INSTALLED = re.compile(r'-c constraints\.txt -e "\.\[([\w,]+)\]"')


def settings(section: str) -> dict[str, str]:
    return dict(re.findall(r"^ +(?:export )?(\w+)=(\S+)$", SECTIONS[section], re.M))


def test_it_begins_from_the_same_base_and_every_argument_has_a_default() -> None:
    assert HEADER["Bootstrap"] == "docker"
    assert HEADER["From"] == "{{ BASE }}"
    base = re.search(r"^ARG BASE=(\S+)$", DOCKERFILE, re.M)
    assert base is not None
    assert settings("arguments")["BASE"] == base[1]
    asked = set(re.findall(r"\{\{ (\w+) \}\}", DEFINITION))
    assert asked == set(settings("arguments"))


def test_it_holds_what_the_image_of_docker_holds() -> None:
    copied = [word for words in re.findall(r"^COPY (.+) \S+$", DOCKERFILE, re.M) for word in words.split()]
    files = [line.split() for line in SECTIONS["files"].splitlines() if line.strip()]
    assert {source for source, _ in files} == {source.rstrip("/") for source in copied}
    for source, place in files:
        assert (ROOT / source).exists()
        # A folder ends in the place's own folder, under its own name.
        assert place == "/app/" + "".join(f"{part}/" for part in Path(source).parts[:-1])
    ours, theirs = INSTALLED.search(SECTIONS["post"]), INSTALLED.search(DOCKERFILE)
    assert ours is not None
    assert theirs is not None
    assert ours[1] == theirs[1]
    assert "metrics" in ours[1].split(",")  # `search metrics` is a service of deploy/kubernetes
    kept = {key: value for key, value in settings("environment").items() if key != "PYTHONNOUSERSITE"}
    variables = dict(re.findall(r"(\w+)=(\S+)", re.findall(r"^ENV (.*?[^\\])$", DOCKERFILE, re.M | re.S)[0]))
    assert kept.items() <= variables.items()


@pytest.mark.parametrize("section", ["post", "runscript", "test"])
def test_its_scripts_parse(section: str) -> None:
    text = re.sub(r"\{\{ (\w+) \}\}", "x", SECTIONS[section])
    subprocess.run(["sh", "-n"], input=text, text=True, check=True)


def test_what_it_runs_are_the_program_s_own_commands() -> None:
    assert shlex.split(SECTIONS["runscript"]) == ["exec", "python", "-m", "search", "$@"]
    for text in (DEFINITION, (ROOT / "deploy/README.md").read_text()):
        lines = re.findall(r"apptainer run --nv kd-search\.sif (.+)$", text, re.M)
        assert lines
        for line in lines:
            words = shlex.split(line)
            parser(words).parse_args(words)


def test_a_choice_of_torch_that_nobody_knows_is_refused() -> None:
    script = SECTIONS["post"].replace("{{ TORCH }}", "cdua")
    done = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == "TORCH=cdua: known: cpu, cuda\n"
