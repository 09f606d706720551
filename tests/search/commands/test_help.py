"""Every help text shows an example, and every example is true: it is run as it is written, or where this file says."""

import argparse
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

import search.__main__ as search_main
import trainer.__main__ as trainer_main
from search import worker
from search.commands.simulate import simulated_identity
from search.spec import reference
from search.spec.load import load
from search.storage.database import open_storage
from search.study.create import open_search
from trainer.cli.entry import guard
from trainer.data.sets.blobs import draw

STUDY = """
[objective]
maximize = "dice"
[front]
along = "student.width"
[run]
method = "kl"
epochs = 2
batch_size = 4
data = { name = "blobs", size = 32, train = 8, validation = 4, augment = "none" }
student = { name = "unet", width = 4 }
teacher = { name = "unet", width = 2, checkpoint = "teachers/small.safetensors" }
losses = { ce = {}, kl = {} }
[space]
"optim.lr" = { low = 1e-4, high = 1e-1, log = true }
"student.width" = { choices = [4, 16] }
[budget]
trials = 2
"""

TESTS = Path(__file__).parents[2]

ELSEWHERE = {
    "dashboard": "test_readme.py starts it and asks for its page, test_proxy.py too",
    "delete": "test_list_and_delete.py deletes studies, with a question and without",
    "db": "postgres/test_server.py and test_backup.py start, stop, save and restore a server",
    "confirm": "confirm/test_results.py confirms a search that was trained",
    "note": "test_note.py writes notes with figures",
    "trainer fit best.json": "test_readme.py trains an export again; an export of simulated trials cannot be",
    "trainer predict best.json": "test_readme.py draws the grid of a student that was trained",
    "trainer predict ship/": "test_package.py runs a package",
    "trainer bundle": "test_bundle.py writes one and runs it in MONAI",
    "trainer package": "test_package.py makes one; an export to ONNX takes seconds",
    "trainer profile": "test_limits.py measures a run",
    "trainer data prepare": "test_data_prepare.py prepares volumes",
    "trainer teacher convert": "test_nnunet.py converts a folder that nnunetv2 makes",
    "trainer data fetch": "test_fetch.py fetches from a server on this machine",
    "metrics": "test_metrics.py asks it as Prometheus does",
    "profile": "test_limits.py measures a study",
    "search/worker.py": "test_readme.py runs it",
    "work": "test_work.py runs it, and stops it",
    "status polyp-kd --watch": "test_note.py watches a search; it would not end here",
}
"""Beginning of an example -> what runs it. All others are run here; the words of these are parsed."""

ORDER = (
    "trainer models",
    "trainer teach",
    "trainer evaluate",
    "trainer predict",
    "trainer data split",
    "trainer data check",
    "search init",
    "search validate",
    "search simulate",
    "search status",
    "search report",
    "search export",
    "search enqueue",
    "search stop",
    "search close",
    "search list",
)
"""In which the examples make sense one after the other."""


def leaves(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    """The parser and those of its commands, down to the last."""
    yield parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for inner in dict.fromkeys(action.choices.values()):
                yield from leaves(inner)


def parsers() -> dict[str, argparse.ArgumentParser]:
    """Every parser of the program by what is typed to reach it."""
    found = {}
    for name in search_main.COMMANDS:
        found |= {
            p.prog: p for p in leaves(search_main.parser([name])) if p.prog.startswith(f"python -m search {name}")
        }
    found |= {p.prog: p for p in (search_main.parser([]), *leaves(trainer_main.parser()))}
    return found


def examples(text: str) -> list[str]:
    """The commands after the word `example:`, with continued lines joined."""
    shown = text.partition("example:")[2].partition("exit codes:")[0].replace("\\\n", " ")
    return [" ".join(found.split()) for found in re.findall(r"(?:python -m \w|torchrun )[^\n()]*", shown)]


PARSERS = parsers()
EXAMPLES = list(dict.fromkeys(example for parser in PARSERS.values() for example in examples(parser.format_help())))


def elsewhere(example: str) -> bool:
    bare = example.removeprefix("python -m ").removeprefix("search ")
    return any(bare.startswith(start) or start in bare.split()[:4] for start in ELSEWHERE)


def words_of(example: str) -> tuple[str, list[str]]:
    """The package and its words, with the variables filled in."""
    _, _, package, *words = shlex.split(os.path.expandvars(example))
    return package, words


def test_what_runs_the_other_examples_exists() -> None:
    named = [re.findall(r"test_\w+\.py", who) for who in ELSEWHERE.values()]
    assert all(named)
    assert [file for files in named for file in files if not any(TESTS.rglob(file))] == []


@pytest.mark.parametrize("prog", PARSERS)
def test_every_help_shows_an_example_and_what_it_does(prog: str) -> None:
    text = PARSERS[prog].format_help()
    assert examples(text), text
    assert PARSERS[prog].description
    flags = [
        a for a in PARSERS[prog]._actions if a.help != argparse.SUPPRESS and not isinstance(a, argparse._HelpAction)
    ]
    assert [a.dest for a in flags if not a.help and not isinstance(a, argparse._SubParsersAction)] == []


@pytest.mark.parametrize("example", EXAMPLES)
def test_every_example_is_understood(example: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("POLYP_ROOT", "HOME"):
        monkeypatch.setenv(name, "/data")
    package, words = words_of(example)
    parser = search_main.parser(words) if package == "search" else trainer_main.parser()
    assert parser.parse_args(words).command == words[0]


def test_the_worker_has_help_with_an_example_it_understands(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["worker.py", "--help"])
    with pytest.raises(SystemExit) as ended:
        worker.arguments()
    assert ended.value.code == 0
    (example,) = examples(capsys.readouterr().out)
    words = shlex.split(example)
    monkeypatch.setattr(sys, "argv", words[words.index("search/worker.py") :])
    assert worker.arguments().study == "polyp-kd"


def test_the_exit_codes_are_in_the_help_and_on_the_page() -> None:
    text = search_main.parser([]).format_help()
    for code, meaning in search_main.EXIT_CODES.items():
        assert f"{code}  {meaning}" in text
        assert f"| `{code}` | {meaning} |" in reference.page()


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with pictures, a small study under the name that the examples use, and two trials that finished."""
    place = tmp_path_factory.mktemp("examples")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        patch.setenv("HOME", str(place))
        patch.setenv("POLYP_ROOT", str(place / "polyps"))
        patch.setenv("OPTUNA_STORAGE", f"sqlite:///{place / 'study.db'}")
        for number, source in enumerate(("Kvasir-SEG", "CVC-ClinicDB")):
            pictures(place / "polyps" / source, 10 * number)
        pictures(place / "photographs", 50)
        for path in (place / "photographs" / "images").iterdir():
            path.rename(place / "photographs" / path.name)
        groups = [f"{number:03},sequence-{number % 5}" for number in range(10, 20)]
        Path("clinicdb-frames.csv").write_text("\n".join(["image,group", *groups]) + "\n")
        Path("studies").mkdir()
        for name in ("polyp-kd", "demo"):
            Path(f"studies/{name}.toml").write_text(STUDY)
        assert search_main.main(["simulate", "polyp-kd", "--as-worker", "--slots", "2"]) == 0
        room = Path("studies/polyp-kd.toml")
        room.write_text(STUDY.replace("trials = 2", "trials = 5"))
        opened = open_storage(os.environ["OPTUNA_STORAGE"])
        spec = load(room)
        open_search(opened, os.environ["OPTUNA_STORAGE"], spec, simulated_identity(spec))
        opened.engine.dispose()
        yield place


def pictures(folder: Path, first: int) -> None:
    for part in ("images", "masks"):
        (folder / part).mkdir(parents=True)
    for number in range(first, first + 10):
        image, mask = draw(number, 40)
        Image.fromarray(image).save(folder / "images" / f"{number:03}.png")
        Image.fromarray(mask * 255).save(folder / "masks" / f"{number:03}.png")


@pytest.mark.slow
def test_every_example_does_what_it_says(prepared: Path, capsys: pytest.CaptureFixture[str]) -> None:
    here = [example for example in EXAMPLES if not elsewhere(example)]
    place = {
        example: [i for i, start in enumerate(ORDER) if example.startswith(f"python -m {start}")] for example in here
    }
    assert [example for example in here if not place[example]] == [], (
        "add it to ORDER, or say in ELSEWHERE what runs it"
    )
    for example in sorted(here, key=lambda example: place[example]):
        if "splits/mine.csv" in example:
            (prepared / "splits" / "mine.csv").write_text((prepared / "splits" / "kvasir-clinic.csv").read_text())
        package, words = words_of(example)
        main = (search_main if package == "search" else trainer_main).main
        with pytest.MonkeyPatch.context() as patch:
            if words[0] == "validate":  # the prepared trials are simulated: no real worker can join them
                patch.setenv("OPTUNA_STORAGE", "sqlite:///empty.db")
            code = guard(lambda main=main, words=words: main(words))
        said = capsys.readouterr()
        assert code == 0, f"$ {example}\n{said.out}{said.err}"
        assert said.out, example
        if example.startswith("python -m trainer teach"):
            (prepared / "student.safetensors").write_bytes((prepared / "teachers" / "small.safetensors").read_bytes())
        if "splits/mine.csv" in example:
            (prepared / "splits" / "mine.csv").unlink()


def test_where_a_script_reads_there_is_one_json_document(prepared: Path, capsys: pytest.CaptureFixture[str]) -> None:
    commands = {
        "validate": ["demo", "--no-data", "--no-timing"],
        "simulate": ["demo", "--shared", "--workers", "1", "--slots", "2"],
        "status": ["demo"],
        "export": ["demo", "-o", "demo.json"],
        "close": ["demo"],
    }
    for name, words in commands.items():
        assert search_main.main([name, *words, "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["study"] == "demo", name
    assert json.loads((prepared / "demo.json").read_text())["schema"] == 1


@pytest.mark.parametrize(
    ("package", "words", "parts"),
    [
        ("search", ["statsu"], ["unknown command 'statsu'", "known: ", "nearest: status"]),
        ("search", ["status", "x", "--jsn"], ["'--jsn': not understood; nearest: --json", "search status --help"]),
        ("search", [], ["COMMAND", "search --help"]),
        ("search", ["export", "x", "--top", "many"], ["--top", "'many'"]),
        ("trainer", ["techa"], ["unknown command 'techa'", "nearest: teach"]),
        ("trainer", ["data", "spilt"], ["unknown command 'spilt'", "nearest: split"]),
        ("trainer", ["data", "split", "x", "-o", "y", "--by", "imag"], ["--by = 'imag'", "nearest: image"]),
    ],
)
def test_mistyped_words_are_one_line(
    package: str, words: list[str], parts: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    main = search_main.main if package == "search" else trainer_main.main
    assert guard(lambda: main(words)) == 2
    said = capsys.readouterr()
    assert (said.out, len(said.err.splitlines())) == ("", 1)
    for part in ("error: ", *parts):
        assert part in said.err


def test_output_that_nobody_reads_ends_without_a_traceback(repository: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    words = [sys.executable, "-m", "search", "validate", "demo", "--no-data", "--no-timing", "--json"]
    try:
        done = subprocess.run(
            words, cwd=repository, stdout=writer, stderr=subprocess.PIPE, text=True, timeout=120, check=False
        )
    finally:
        os.close(writer)
    assert (done.returncode, done.stderr) == (141, "")
