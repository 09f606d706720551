"""`python -m search COMMAND` as a user runs it: what is printed, in which form, and how mistakes end."""

import json
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from search.__main__ import COMMANDS
from search.commands.simulate import simulated_identity
from search.spec.load import load
from search.storage.database import open_storage
from search.storage.url import storage_url
from search.study.create import open_search
from trainer.errors import UserError

STUDY = """
[objective]
maximize = "dice"
[front]
along = "student.width"
[run]
method = "none"
epochs = 3
batch_size = 4
data = { name = "blobs", size = 32, train = 8, validation = 4 }
student = { name = "unet", width = 4 }
losses = { ce = {} }
optim = { lr = 1e-3 }
[space]
"optim.lr" = { low = 1e-4, high = 1e-1, log = true }
"student.width" = { choices = [4, 8] }
[sampler]
name = "random"
[budget]
trials = 6
in_flight = 6
gpu_hours = 5.0
[[arms]]
name = "fixed"
set = { "optim.name" = "adam" }
trials = 2
"""
SECRET = "s3cret"  # noqa: S105 - the point of the test

Done = subprocess.CompletedProcess[str]
Command = Callable[..., Done]


@pytest.fixture(scope="module")
def search(module: Command) -> Command:
    """`python -m search` in a folder of the user's, with the database in the environment."""

    def run(place: Path, *words: str, storage: str | None = None) -> Done:
        url = storage or f"sqlite:///{place / 'search.db'}"
        return module("search", *words, cwd=place, code=None, OPTUNA_STORAGE=url)

    return run


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, search: Command) -> Path:
    """A folder with a study file and a database in which its search has ended."""
    place = tmp_path_factory.mktemp("commands")
    (place / "tiny.toml").write_text(STUDY)
    done = search(place, "simulate", "tiny.toml", "--shared", "--workers", "1", "--slots", "3")
    assert done.returncode == 0, done.stderr
    assert "8 trials in " in done.stdout
    assert "0 killed, 0 left running or waiting" in done.stdout
    return place


def strict(text: str) -> Any:
    """JSON without NaN and Infinity, and without a name given twice."""

    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is no JSON")

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        assert len({name for name, _ in pairs}) == len(pairs)
        return dict(pairs)

    return json.loads(text, parse_constant=refuse, object_pairs_hook=unique)


# ---- status


def test_status_shows_arms_choices_workers_and_hours(folder: Path, search: Command) -> None:
    done = search(folder, "status", "tiny")
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[0].startswith("tiny  ")
    assert lines[0].split()[2] == f"[sqlite:///{folder / 'search.db'}]"
    assert lines[1].split()[:6] == ["arm", "complete", "pruned", "running", "waiting", "of"]
    arms = {line.split()[0]: line.split() for line in lines[2:4]}
    assert arms["kd"][1:6] == ["6", "0", "0", "0", "6"]
    assert arms["fixed"][1:6] == ["2", "0", "0", "0", "2"]
    assert lines[4].split()[:2] == ["student.width", "complete"]
    assert [line.split()[0] for line in lines[5:7]] == ["4", "8"]
    assert sum(int(line.split()[1]) for line in lines[5:7]) == 8
    assert any(line.startswith("device hours 0.000 of 5") for line in lines)
    assert any(line.startswith("worker ") and "8 finished" in line for line in lines)


def test_status_as_json_holds_the_same_figures(folder: Path, search: Command) -> None:
    done = search(folder, "status", "tiny", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    figures = strict(done.stdout)
    assert figures["study"] == "tiny"
    assert figures["storage"] == f"sqlite:///{folder / 'search.db'}"
    assert figures["arms"]["kd"] | {"best": None} == {
        "complete": 6,
        "pruned": 0,
        "running": 0,
        "waiting": 0,
        "failed": {},
        "of": 6,
        "best": None,
    }
    assert 0 < figures["arms"]["kd"]["best"]["score"] <= 1
    assert (figures["closed"], figures["gpu_hours_of"], figures["holding"]) == (None, 5.0, {})
    assert figures["seconds"].keys() == {"student", "checkpoint", "database", "idle"}
    assert (figures["teacher_passes"], figures["forecast"]) == (None, None)
    assert [line["choice"] for line in figures["front"]] == [4, 8]


# ---- export


def test_an_export_is_strict_json_that_fits_its_published_schema(
    folder: Path, repository: Path, search: Command
) -> None:
    done = search(folder, "export", "tiny", "--top", "3")
    assert (done.returncode, done.stderr) == (0, "")
    document = strict(done.stdout)
    schema = json.loads((repository / "search" / "commands" / "export.schema.json").read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.Draft202012Validator(schema).validate(document)
    values = [entry["value"] for entry in document["best"]]
    assert values == sorted(values, reverse=True)
    assert [entry["rank"] for entry in document["best"]] == [1, 2, 3]
    assert document["controls"]["fixed"]["run"]["optim"]["name"] == "adam"
    assert document["counts"]["kd"] == {"of": 6, "finished": 6, "complete": 6, "pruned": 0, "failed": {}}
    assert (document["arms_ended_together"], document["confirmed"]) == (True, False)
    for entry in document["best"]:
        assert entry["scores"]["dice"] == entry["value"]
        assert Path(entry["weights"]).name == "best.safetensors"
    broken = document | {"best": [document["best"][0] | {"value": "high"}]}
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.Draft202012Validator(schema).validate(broken)


def test_an_export_is_the_same_each_time_and_a_file_says_what_is_first(
    folder: Path, tmp_path: Path, search: Command
) -> None:
    target = tmp_path / "new" / "best.json"
    done = search(folder, "export", "tiny", "-o", str(target))
    assert (done.returncode, done.stderr) == (0, "")
    assert f"{target}  5 configurations of 6 finished; first: trial " in done.stdout
    assert "unconfirmed" in done.stdout
    assert target.read_text() == search(folder, "export", "tiny").stdout
    assert [path.name for path in target.parent.iterdir()] == ["best.json"]


# ---- enqueue and stop


@pytest.fixture
def running(tmp_path: Path) -> Path:
    """A folder with a database in which a search was opened, but nothing was trained."""
    (tmp_path / "tiny.toml").write_text(STUDY)
    url = f"sqlite:///{tmp_path / 'search.db'}"
    opened = open_storage(url)
    spec = load(tmp_path / "tiny.toml")
    open_search(opened, url, spec, simulated_identity(spec))
    opened.engine.dispose()
    return tmp_path


def test_enqueue_puts_a_trial_in_front_of_its_arm(running: Path, search: Command) -> None:
    url = f"sqlite:///{running / 'search.db'}"
    done = search(running, "enqueue", "tiny.toml", "student.width=8", "optim.lr=1e-2")
    assert (done.returncode, done.stdout, done.stderr) == (
        0,
        f"tiny: queued in arm kd, where 1 now wait  [{url}]\n"
        "next: python -m search status tiny  (a worker with a free slot begins it)\n",
        "",
    )
    done = search(running, "enqueue", "tiny.toml", "optim.lr=0.02", "--arm", "fixed")
    assert (done.returncode, done.stdout) == (
        0,
        f"tiny: queued in arm fixed, where 1 now wait  [{url}]\n"
        "next: python -m search status tiny  (a worker with a free slot begins it)\n",
    )
    figures = strict(search(running, "status", "tiny", "--json").stdout)
    assert [figures["arms"][name]["waiting"] for name in ("kd", "fixed")] == [1, 1]
    again = search(running, "enqueue", "tiny.toml", "optim.lr=0.02", "--arm", "fixed").stdout.splitlines()
    assert again[0] == "tiny: 1 with the same parameters wait already; this is one more"
    assert again[1].startswith("tiny: queued in arm fixed, where 2 now wait")
    assert search(running, "simulate", "tiny.toml", "--shared", "--workers", "1").returncode == 0
    opened = open_storage(f"sqlite:///{running / 'search.db'}")
    row = opened.searches.search("tiny")
    assert row is not None
    first = {arm.name: opened.leases.details([arm.study_id])[0] for arm in opened.searches.arms_of(row.search_id)}
    run = json.loads(first["kd"].run)
    assert (run["student"]["width"], run["optim"]["lr"]) == (8, 0.01)
    assert json.loads(first["fixed"].run)["optim"]["lr"] == 0.02
    opened.engine.dispose()


@pytest.mark.slow
def test_stop_lets_workers_finish_what_they_hold_and_begin_nothing(
    running: Path, search: Command, launch: Callable[..., Any]
) -> None:
    url = f"sqlite:///{running / 'search.db'}"
    words = ["tiny.toml", "--as-worker", "--slots", "1", "--epoch-seconds", "1.0"]
    workers = [launch("search", "simulate", *words, cwd=running, OPTUNA_STORAGE=url) for _ in range(2)]
    try:
        end = time.monotonic() + 60
        opened = open_storage(url)
        row = opened.searches.search("tiny")
        assert row is not None
        study_ids = [arm.study_id for arm in opened.searches.arms_of(row.search_id)]
        while len(opened.leases.of_studies(study_ids)) < 2:
            assert time.monotonic() < end
            time.sleep(0.05)
        done = search(running, "stop", "tiny")
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.startswith("tiny: no worker begins another trial; those that run go on")
        assert [worker.wait(timeout=60) for worker in workers] == [0, 0]
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()
    rows = opened.leases.details(study_ids)
    begun = len(rows)
    assert begun < 8
    assert {r.state for r in rows} == {"finished"}
    assert {r.epoch for r in rows} == {3}
    opened.engine.dispose()
    assert "no new trials: the search was asked to stop (running" in search(running, "status", "tiny").stdout
    idle = search(running, "simulate", "tiny.toml", "--as-worker")
    assert idle.returncode == 0
    assert strict(search(running, "status", "tiny", "--json").stdout)["arms"]["kd"]["running"] == 0
    done = search(running, "stop", "tiny", "--undo")
    assert (done.returncode, done.stdout) == (
        0,
        f"tiny: workers may begin trials again  [{url}]\nnext: python -m search work tiny\n",
    )
    assert search(running, "simulate", "tiny.toml", "--shared", "--workers", "1").returncode == 0
    figures = strict(search(running, "status", "tiny", "--json").stdout)
    assert [figures["arms"][name]["complete"] for name in ("kd", "fixed")] == [6, 2]


def test_stop_of_an_ended_search_says_so_and_has_nothing_to_wait_for(folder: Path, search: Command) -> None:
    try:
        for flags in ([], ["--now", "--wait"]):
            done = search(folder, "stop", "tiny", *flags)
            assert (done.returncode, done.stderr) == (0, "")
            assert "tiny: has ended already; the wish to stop stays, so to go on later" in done.stdout
            assert "held: " not in done.stdout
    finally:
        assert search(folder, "stop", "tiny", "--undo").returncode == 0


# ---- mistakes


@pytest.mark.parametrize("name", ["OPTUNA_STORAGE", "OPTUNA_STORAGE_FILE"])
def test_a_storage_that_is_set_and_empty_is_never_another_one(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """It is what `export OPTUNA_STORAGE=$(...)` leaves when the command in it failed."""
    monkeypatch.delenv("OPTUNA_STORAGE", raising=False)
    monkeypatch.setenv(name, " ")
    with pytest.raises(UserError, match=f"{name} is set and empty.*unset {name}"):
        storage_url(None)
    with pytest.raises(UserError, match="--storage is empty"):
        storage_url("")
    assert storage_url("sqlite:///given.db") == "sqlite:///given.db"


def test_what_a_shell_or_an_editor_adds_to_a_url_is_no_part_of_it(monkeypatch, tmp_path):
    (tmp_path / "url").write_bytes(b"\xef\xbb\xbfsqlite:///a.db\r\n")
    monkeypatch.delenv("OPTUNA_STORAGE", raising=False)
    monkeypatch.setenv("OPTUNA_STORAGE_FILE", str(tmp_path / "url"))
    assert storage_url(None) == "sqlite:///a.db"
    monkeypatch.delenv("OPTUNA_STORAGE_FILE")
    monkeypatch.setenv("OPTUNA_STORAGE", "sqlite:///b.db\n")
    assert storage_url(None) == "sqlite:///b.db"
    assert storage_url(" sqlite:///c.db ") == "sqlite:///c.db"


MISTAKES = {
    "stop that waits for an undo": (["stop", "tiny", "--undo", "--wait"], ["--wait", "not with --undo"]),
    "status of an unknown study": (["status", "tinny"], ["'tinny' is not in", "nearest: tiny"]),
    "export of an unknown study": (["export", "tinny"], ["'tinny' is not in", "nearest: tiny"]),
    "stop of an unknown study": (["stop", "tinny.toml"], ["'tinny' is not in", "nearest: tiny"]),
    "enqueue without a file": (["enqueue", "tinny.toml", "optim.lr=1e-2"], ["study tinny.toml"]),
    "validate of a name without a file": (
        ["validate", "tinny"],
        ["study tinny: no such file in studies/", "search init"],
    ),
    "enqueue into an unknown study": (
        ["enqueue", "tiny.toml", "optim.lr=1e-2", "--name", "tinny"],
        ["'tinny' is not in", "nearest: tiny", "start a worker"],
    ),
    "enqueue outside the space": (
        ["enqueue", "tiny.toml", "optim.lr=5.0"],
        ["optim.lr = 5.0", "outside the space of arm kd; known: 0.0001..0.1 log"],
    ),
    "enqueue of an unknown parameter": (["enqueue", "tiny.toml", "optim.lrr=1e-2"], ["optim.lrr", "nearest: optim.lr"]),
    "enqueue into an unknown arm": (
        ["enqueue", "tiny.toml", "optim.lr=1e-2", "--arm", "fixd"],
        ["'fixd'", "fixed"],
    ),
    "enqueue without a value": (["enqueue", "tiny.toml", "optim.lr"], ["PARAMETER=VALUE"]),
    "enqueue on a full arm": (["enqueue", "tiny.toml", "optim.lr=1e-2"], ["all 6 trials are taken", "budget.trials"]),
    "export of nothing": (
        ["export", "tiny", "--top", "0"],
        ["argument --top: '0': expected a whole number of 1"],
    ),
    "export to a folder": (["export", "tiny", "-o", "."], ["--output .: a folder; name a file in it"]),
    "report below a file, before a database is asked": (
        ["report", "tiny", "-o", "tiny.toml/page.html", "--storage", "sqlite:///none.db"],
        ["--output tiny.toml/page.html: ", "tiny.toml is a file"],
    ),
    "simulate without a file": (["simulate", "tinny.toml"], ["tinny.toml"]),
    "simulate with curves that are none": (["simulate", "tiny.toml", "--curves", "tiny.toml"], ["--curves tiny.toml"]),
    "simulate in two places": (
        ["simulate", "tiny.toml", "--shared", "--storage", "sqlite:///a.db"],
        ["--shared", "--storage"],
    ),
    "simulate of a changed study": (
        ["simulate", "tiny.toml", "--shared", "--set", "run.epochs=9"],
        ["run.epochs", "--name"],
    ),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_a_mistake_is_one_line_and_exit_code_two(folder: Path, case: str, search: Command) -> None:
    words, parts = MISTAKES[case]
    done = search(folder, *words)
    assert one_line_error(done, *parts)


@pytest.mark.parametrize(
    ("url", "parts"),
    [
        pytest.param("sqlite:///absent.db", ["absent.db", "no such file"], id="no file"),
        pytest.param("sqlite:///no/folder/s.db", ["does not exist"], id="no folder"),
        pytest.param(f"user:{SECRET}@host", ["no database URL"], id="no URL"),
        pytest.param(f"postgresql://u:{SECRET}@127.0.0.1:9/db", ["u:***@127.0.0.1", "does not answer"], id="no server"),
        pytest.param(f"mysql://u:{SECRET}@127.0.0.1/db", ["'mysql' is not supported", "postgresql"], id="another kind"),
    ],
)
def test_a_database_that_cannot_be_used_is_one_line(folder: Path, url: str, parts: list[str], search: Command) -> None:
    done = search(folder, "status", "tiny", storage=url)
    assert one_line_error(done, *parts)
    assert SECRET not in done.stderr
    assert not (folder / "absent.db").exists()


def one_line_error(done: Done, *parts: str) -> bool:
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1, done.stderr
    for part in ("error: ", *parts):
        assert part in done.stderr
    return True


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_shows_an_example_of_itself(folder: Path, name: str, search: Command) -> None:
    done = search(folder, name, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert f"example: python -m search {name} " in done.stdout
    assert "--" in done.stdout
