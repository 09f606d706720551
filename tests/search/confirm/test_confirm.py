"""Confirmation: which configurations, exactly the planned trials, findings with their end, refusals, and the lock."""

import argparse
import ast
import json
import math
import shutil
import sqlite3
import threading
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import pytest

from search import worker
from search.commands import confirm
from search.commands.simulate import simulated_identity
from search.confirm.data_checks import checked, specification
from search.confirm.plan import Plan, confirmations, is_confirmation, made, plan_of
from search.confirm.results import confirmed
from search.execution import start
from search.execution.database_thread import DatabaseThread
from search.execution.epoch_loop import run_group
from search.execution.group import SingleProcess
from search.execution.messages import WorkerSettings
from search.execution.simulated_students import Curves, SimulatedStudents, plateau
from search.spec.config import Dashboard
from search.spec.load import load
from search.storage.database import open_storage
from search.storage.evidence import Evidence
from search.storage.leases import LeaseHandle
from search.storage.statements import LeaseLost, Owner
from search.study.adapter import StudyAdapter
from search.study.create import open_search
from search.study.progress import read_progress
from search.study.snapshot import read
from trainer.config import RunConfig
from trainer.data import read_openings
from trainer.data.layouts.blobs import draw
from trainer.distributed.ranks import Ranks
from trainer.engine.cohort import Cohort
from trainer.engine.resources import SharedResources
from trainer.errors import DataError, UserError
from trainer.reports import PerImageResult

ROOT = Path(__file__).resolve().parents[3]

STUDY = """
[objective]
maximize = "dice"
[front]
along = "student.width"
[run]
method = "kl"
epochs = 2
batch_size = 4
data = { name = "blobs", size = 32, train = 8, validation = 4, test = 6 }
teacher = { name = "unet", width = 8, checkpoint = "teacher.safetensors" }
student = { name = "unet", width = 4 }
losses = { ce = {}, kl = { weight = 1.0 } }
optim = { lr = 1e-3 }
[space]
"student.width" = { choices = [2, 4] }
"optim.lr" = { low = 1e-4, high = 1e-1, log = true }
"losses.kl.temperature" = { low = 1.0, high = 8.0 }
[sampler]
name = "random"
[budget]
trials = 6
in_flight = 6
[[arms]]
name = "no-kd"
set = { method = "none" }
[confirm]
seeds = [11, 12, 13]
top = 3
"""
SEEDS = (11, 12, 13)


def measured(run: RunConfig) -> tuple[PerImageResult, ...]:
    """What a simulated network did on four images: its plateau, and nan where there is no surface."""
    dice = tuple(plateau(run) - 0.01 * i for i in range(4))
    columns = {"dice": dice, "hd95": (math.nan, 1.0, 2.0, 3.0)}
    names = tuple(f"blobs/{i}" for i in range(4))
    return tuple(
        PerImageResult(part, 0.5, names, ("blobs",) * 4, names, columns, ((4.0, 2.0, 1.0),))
        for part in ("validation", "test")
    )


def train(search: StudyAdapter, folder: Path, owner: str = "me", ttl: float = 600.0, fail_share: float = 0.0) -> str:
    """One whole worker in this thread, but for its process and the training."""
    students = SimulatedStudents(Curves(), slots=3, metric="dice", epoch_seconds=0.0, fail_share=fail_share)
    students.measure = measured if search.spec.confirms is not None else None
    settings = WorkerSettings(Owner(owner, "here"), 3, folder, 1, {}, breach=lambda _: None, ttl=ttl)
    return run_group(SingleProcess(), students, DatabaseThread(search, settings)).text


def plan_for(search: StudyAdapter, **changes: Any) -> Plan:
    rows = read(search.opened, search.spec.name)
    table = search.spec.confirm.model_copy(update=changes)
    name = f"{search.spec.name}.confirm"
    return made(rows, table, name=name, dashboard=Dashboard(), early=False)


Finish = Callable[[str], StudyAdapter]


@pytest.fixture
def finish(tmp_path: Path, open_again: Callable[..., StudyAdapter]) -> Finish:
    """A search of two arms that has ended, in a database of the given URL."""

    def finished(url: str) -> StudyAdapter:
        search = open_again(url, "tiny", STUDY)
        train(search, tmp_path)
        return search

    return finished


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with a search of two arms that has ended."""
    folder = tmp_path_factory.mktemp("ended")
    (folder / "tiny.toml").write_text(STUDY)
    spec, url = load(folder / "tiny.toml"), f"sqlite:///{folder / 'study.db'}"
    opened = open_storage(url)
    train(open_search(opened, url, spec, simulated_identity(spec)), folder)
    opened.engine.dispose()
    return folder / "study.db"


@pytest.fixture
def ended(kept: Path, sqlite_url: str, open_again: Callable[..., StudyAdapter]) -> StudyAdapter:
    """That search in a database of the test's own."""
    with closing(sqlite3.connect(kept)) as source, closing(sqlite3.connect(sqlite_url[10:])) as copy:
        source.backup(copy)
    return open_again(sqlite_url, "tiny", STUDY)


def words(url: str, *more: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    confirm.add_arguments(parser)
    return parser.parse_args(["tiny", "--storage", url, *more])


# ---- what is trained


def test_the_winners_are_the_best_and_the_best_of_each_front_value_and_every_claim_has_its_control(ended: StudyAdapter):
    plan = plan_for(ended)
    by_role: dict[str, list[Any]] = {}
    for each in plan.configurations:
        by_role.setdefault(each.role, []).append(each)
    winners = by_role["winner"]
    assert [each.name for each in winners] == ["kd-1", "kd-2", "kd-3"]
    assert [each.searched for each in winners] == sorted((each.searched for each in winners), reverse=True)
    assert winners[0].rank == 1
    assert {each.run["student"]["width"] for each in winners} == {2, 4}
    best = {w: max(each.searched for each in winners if each.run["student"]["width"] == w) for w in (2, 4)}
    scores = {
        w: max(
            r.best_score for r in read(ended.opened, "tiny").leases["kd"] if json.loads(r.run)["student"]["width"] == w
        )
        for w in (2, 4)
    }
    assert best == scores
    for winner in winners:
        assert any(each.params <= winner.params for each in by_role["control"])
    assert by_role["control"][0].rank == 1
    (without,), (defaults,) = by_role["ablation"], by_role["defaults"]
    assert (without.name, without.of, without.run["method"]) == ("kd-1-without", "kd-1", "none")
    assert {**without.run, "method": "kl"} == winners[0].run
    assert (defaults.run["method"], defaults.run["optim"]["lr"]) == ("none", 1e-3)
    assert defaults.run["student"] == winners[0].run["student"]
    assert defaults.run["teacher"]["checkpoint"] == "teacher.safetensors"


def test_a_plan_comes_back_from_the_database_as_it_was_made(ended: StudyAdapter, sqlite_url: str):
    plan = plan_for(ended)
    search = confirm.opened_as(ended.opened, sqlite_url, plan)
    row = search.searches.search(plan.name)
    again = plan_of(plan.name, json.loads(row.spec))
    assert (again, again.identity) == (plan, row.identity)
    assert [arm.study_name for arm in search.spec.arms] == [f"tiny.confirm.{each.name}" for each in plan.configurations]


def test_names_of_confirmations_are_told_from_studies():
    names = ["a", "a.confirm-2", "a.confirm", "a.confirm-10", "ab.confirm", "a.confirmed"]
    assert confirmations("a", names) == ["a.confirm", "a.confirm-2", "a.confirm-10"]
    assert is_confirmation("a.confirm")
    assert not is_confirmation("a")
    assert not is_confirmation("x/a.confirm.toml")


# ---- exactly the planned trials


def trials_of(search: StudyAdapter) -> dict[str, list[tuple[str, int]]]:
    return {arm.name: sorted((t.state.name, t.params["seed"]) for t in search.trials(arm)) for arm in search.spec.arms}


def test_two_workers_train_exactly_the_planned_trials_and_a_dead_ones_trial_goes_on_under_its_number(
    database_url: str, finish: Finish, tmp_path: Path
):
    ended = finish(database_url)
    plan = plan_for(ended)
    search = confirm.opened_as(ended.opened, database_url, plan)
    # A worker that took a trial and is dead: nobody beats for it.
    dead = search.claim(Owner("dead", "there"), lambda _: 0, [])
    other = threading.Thread(
        target=train, args=(confirm.opened_as(ended.opened, database_url, plan), tmp_path, "you", 5.0)
    )
    other.start()
    train(search, tmp_path, "me", 5.0)
    other.join(60)
    assert trials_of(search) == {each.name: [("COMPLETE", seed) for seed in SEEDS] for each in plan.configurations}
    assert dead.held.number == 0
    lease = search.leases.row(dead.held.trial_id)
    assert (lease.lost, lease.token, lease.state) == (1, 2, "finished")
    assert read_progress(ended.opened, plan.name).ended
    found = confirmed(ended.opened, "tiny")
    assert found.missing == ("teacher: not examined yet",)
    assert len(found.findings) == 2 * 3 * len(plan.configurations)
    one = next(each for each in found.findings if (each.configuration, each.seed, each.part) == ("kd-1", 12, "test"))
    assert one.columns["dice"] == measured(RunConfig.model_validate(plan.configurations[0].run))[1].columns["dice"]
    assert math.isnan(one.columns["hd95"][0])
    assert found.budgets == {"kd": (6, 6), "no-kd": (6, 6)}
    weights = search.leases.details(list(search.arms))
    assert all(Path(row.weights).is_file() and len(row.weights_sha256) == 64 for row in weights)


def test_trials_are_handed_out_seed_by_seed(ended: StudyAdapter, sqlite_url: str):
    """Configurations of one seed share batches and teacher passes, so they begin together."""
    search = confirm.opened_as(ended.opened, sqlite_url, plan_for(ended))
    count = len(search.spec.arms)
    taken = [search.claim(Owner("me", "here"), lambda _: 0, []) for _ in range(2 * count)]
    seeds = [search.suggest(claim)["seed"] for claim in taken]
    assert seeds == [11] * count + [12] * count


def test_a_failed_seed_is_missing_and_not_made_up_for_until_it_is_asked_for_again(
    ended: StudyAdapter, sqlite_url: str, tmp_path: Path
):
    plan = plan_for(ended, seeds=(11, 12))
    search = confirm.opened_as(ended.opened, sqlite_url, plan)
    claim = search.claim(Owner("me", "here"), lambda _: 0, [])
    assert search.suggest(claim) == {"seed": 11}
    run = claim.arm.resolve({"seed": 11}).model_dump_json(exclude_none=True)
    search.commit(claim, run, "{}")
    search.fail(claim.held, "out_of_memory", "too big")
    train(search, tmp_path)
    states = trials_of(search)["kd-1"]
    assert states == [("COMPLETE", 12), ("FAIL", 11)]
    assert read_progress(ended.opened, plan.name).ended
    assert "kd-1 seed 11: failed (out_of_memory)" in confirmed(ended.opened, "tiny").missing
    confirm._queue_again(ended.opened, sqlite_url, plan)
    assert not read_progress(ended.opened, plan.name).ended
    train(search, tmp_path)
    assert ("COMPLETE", 11) in trials_of(search)["kd-1"]
    assert confirmed(ended.opened, "tiny").missing == ("teacher: not examined yet",)


# ---- findings and the end of a trial are one


class Vanished(BaseException):
    """The worker is gone."""


def test_a_worker_that_lost_its_trial_leaves_no_findings(ended: StudyAdapter, sqlite_url: str):
    plan = plan_for(ended)
    search = confirm.opened_as(ended.opened, sqlite_url, plan)
    claim = search.claim(Owner("me", "here"), lambda _: 0, [])
    stale = replace(claim.held, token=7)
    row = dict(uuid=search.folder, trial_id=claim.held.trial_id, part="test", record="{}")
    with pytest.raises(LeaseLost):
        search.complete(stale, 0.5, {}, {}, [row])
    assert not Evidence(ended.opened.engine).has(search.folder, claim.held.trial_id)
    search.complete(claim.held, 0.5, {}, {}, [row])
    assert Evidence(ended.opened.engine).has(search.folder, claim.held.trial_id)


def test_a_trial_whose_worker_vanished_before_its_end_was_stored_is_examined_again_and_counts_once(
    ended: StudyAdapter, sqlite_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Between the last report and the end: its last epoch is trained again, from the checkpoint of the one before."""
    plan = plan_for(ended)
    search = confirm.opened_as(ended.opened, sqlite_url, plan)
    finish, begun = search.complete, []

    def vanish(held: LeaseHandle, *_: Any) -> None:
        monkeypatch.setattr(search, "complete", finish)
        begun.append((held, search.leases.row(held.trial_id)))
        raise Vanished

    monkeypatch.setattr(search, "complete", vanish)
    with pytest.raises(RuntimeError, match="the database thread ended"):
        train(search, tmp_path)
    ((held, row),) = begun
    run = RunConfig.model_validate_json(row.run)
    assert row.epoch == run.epochs - 1
    assert not Evidence(ended.opened.engine).has(search.folder, held.trial_id)
    train(search, tmp_path)  # the same owner takes back what it held
    assert search.leases.row(held.trial_id).state == "finished"
    tries = [a for a in search.leases.attempts_of([held.study_id]) if a.trial_id == held.trial_id]
    assert [(a.first_epoch, a.why) for a in tries] == [(1, "restarted"), (run.epochs, "finished")]
    found = Evidence(ended.opened.engine).findings(search.folder)[held.trial_id]
    assert [each.to_json() for each in found] == [each.to_json() for each in measured(run)[::-1]]


# ---- refusals


def test_a_second_table_is_a_second_opening_and_has_to_be_asked_for(ended: StudyAdapter, sqlite_url: str):
    plan = plan_for(ended)
    confirm.opened_as(ended.opened, sqlite_url, plan)
    same = confirm.the_plan(ended.opened, "tiny", words(sqlite_url))
    assert same == plan
    more = ("--set", "confirm.seeds=[21, 22]")
    with pytest.raises(UserError, match=r"confirmed with another \[confirm\] \(confirm.seeds: .*--second-opening"):
        confirm.the_plan(ended.opened, "tiny", words(sqlite_url, *more))
    second = confirm.the_plan(ended.opened, "tiny", words(sqlite_url, *more, "--second-opening"))
    assert (second.name, second.table.seeds) == ("tiny.confirm-2", (21, 22))


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--set", "confirm.seeds=[1, 2]"), "trained with seed 1, so it is not fresh"),
        (("--set", "run.epochs=5"), "a confirmation trains what the search found"),
        (("--set", "confirm.tops=5"), "confirm.tops.*unknown"),
    ],
)
def test_a_plan_that_cannot_be_is_refused_in_one_line(ended: StudyAdapter, sqlite_url: str, more: Any, message: str):
    with pytest.raises(UserError, match=message) as caught:
        confirm.the_plan(ended.opened, "tiny", words(sqlite_url, *more))
    assert "\n" not in str(caught.value)


def test_a_search_that_runs_or_found_nothing_is_not_confirmed(sqlite_url: str, open_again: Callable[..., StudyAdapter]):
    search = open_again(sqlite_url, "tiny", STUDY)
    with pytest.raises(UserError, match=r"has not ended.*close tiny.*--anyway"):
        confirm.the_plan(search.opened, "tiny", words(sqlite_url))
    with pytest.raises(UserError, match=r"nothing to confirm.*status tiny"):
        confirm.the_plan(search.opened, "tiny", words(sqlite_url, "--anyway"))
    with pytest.raises(UserError, match="'other' is not in"):
        confirm.the_plan(search.opened, "other", words(sqlite_url))


def test_a_confirmation_is_not_confirmed(ended: StudyAdapter, sqlite_url: str):
    confirm.opened_as(ended.opened, sqlite_url, plan_for(ended))
    with pytest.raises(UserError, match="is a confirmation itself"):
        confirm.the_plan(ended.opened, "tiny.confirm", words(sqlite_url))


def on_data(plan: Plan, data: dict[str, Any], unseen: tuple[str, ...] = ()) -> Plan:
    """The same plan, taught by nobody, on other data."""
    runs = [{**each.run, "method": "none", "data": data} for each in plan.configurations]
    found = tuple(replace(each, run=run) for each, run in zip(plan.configurations, runs, strict=True))
    table = plan.table.model_copy(update={"unseen": unseen})
    return replace(plan, configurations=found, table=table, content={"data": None, "teacher": None})


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Two sets below one root: A with a split, of which B shares a picture."""
    for source in ("A", "B", "C"):
        for kind in ("images", "masks"):
            (tmp_path / source / kind).mkdir(parents=True)
        for index in range(6):
            image, label = draw(100 * ord(source) + index, 32)
            cv2.imwrite(str(tmp_path / source / "images" / f"{index}.png"), image)
            cv2.imwrite(str(tmp_path / source / "masks" / f"{index}.png"), 255 * label)
    for kind in ("images", "masks"):
        shutil.copy(tmp_path / "A" / kind / "0.png", tmp_path / "B" / kind / "again.png")
    return tmp_path


def split(root: Path, *parts: str) -> dict[str, Any]:
    rows = [f"A,A/images/{i}.png,A/masks/{i}.png,,{part}" for i, part in enumerate(parts)]
    (root / "split.csv").write_text("\n".join(["source,image,mask,group,split", *rows, ""]))
    return dict(name="polyp", root=str(root), split=str(root / "split.csv"), size=32)


def test_what_would_make_the_answer_worthless_is_refused_before_anything_is_opened(ended: StudyAdapter, pictures: Path):
    plan, resources = plan_for(ended), SharedResources(Ranks("cpu"), pictures / "cache")
    parts = ("train", "train", "train", "train", "validation", "test")
    blind = split(pictures, *parts[:5])
    with pytest.raises(UserError, match=r"no test rows.*split = test"):
        checked(on_data(plan, blind), resources)
    resources = SharedResources(Ranks("cpu"), pictures / "cache")  # a split that was opened is not read again
    data = split(pictures, *parts)
    with pytest.raises(UserError, match="the data is another than the search had"):
        checked(replace(on_data(plan, data), content={"data": "0" * 64}), resources)
    with pytest.raises(DataError, match=r"unseen = 'D': no such folder"):
        checked(on_data(plan, data, ("D",)), resources)
    with pytest.raises(UserError, match=r"unseen: B: some of its images are in the train part"):
        checked(on_data(plan, data, ("B",)), resources)
    with pytest.raises(DataError, match="unseen = 'C': blobs has no other sources"):
        checked(on_data(plan, plan.configurations[0].run["data"], ("C",)), resources)
    fine = on_data(plan, data, ("C",))
    assert checked(fine, resources) is None
    assert len(resources.data(RunConfig.model_validate(fine.configurations[0].run)).samples("validation")) == 1
    assert not list(pictures.rglob("openings.jsonl"))


# ---- the lock


def test_only_confirmation_and_evaluate_can_open_test_rows():
    """Whoever may read test rows has called `record_opening`: no other place takes it or `Opening` to make one."""
    callers: set[str] = set()
    for path in (path for room in ("search", "trainer", "losses", "models") for path in (ROOT / room).rglob("*.py")):
        nodes = list(ast.walk(ast.parse(path.read_text())))
        taken = {a.name for n in nodes if isinstance(n, ast.ImportFrom) and "trainer" in str(n.module) for a in n.names}
        called = {getattr(node.func, "id", "") for node in nodes if isinstance(node, ast.Call)}
        if taken & called & {"record_opening", "Opening"}:
            callers.add(path.relative_to(ROOT).as_posix())
    assert callers == {"search/confirm/data_checks.py", "trainer/commands/evaluate.py", "trainer/data/openings.py"}


# ---- for real


TAUGHT = """
[objective]
maximize = "dice"
[run]
method = "kl"
epochs = 1
batch_size = 4
data = {{ name = "blobs", size = 32, train = 8, validation = 4, test = 5, augment = "flips" }}
teacher = {{ name = "unet", width = 4, checkpoint = "{teacher}" }}
student = {{ name = "unet", width = 2 }}
losses = {{ ce = {{}}, kl = {{ weight = 1.0 }} }}
[space]
"optim.lr" = {{ low = 1e-4, high = 1e-1, log = true }}
[budget]
trials = 2
[[arms]]
name = "no-kd"
set = {{ method = "none" }}
trials = 1
[confirm]
seeds = [11, 12]
top = 1
"""


def a_worker(study: str, url: str, folder: Path) -> str:
    """All that a worker does but for its signals, in this process; why it ended."""
    parser = argparse.ArgumentParser()
    worker.add_flags(parser)
    words = ["--storage", url, "--runs", str(folder / "runs"), "--cache", str(folder / "cache"), "--note-every", "0"]
    args = parser.parse_args([*words, "--slots", "2", "--ttl", "5"])
    args.study = study
    return start.work(args, specification(args), Ranks("cpu")).text


def test_a_search_is_confirmed_from_its_database_by_workers_that_know_its_name_alone(
    tmp_path: Path, sqlite_url: str, capsys: pytest.CaptureFixture[str]
):
    """Networks of the plan are trained and examined, the teacher too; who opened the test rows is on record."""
    file = tmp_path / "real.toml"
    file.write_text(TAUGHT.format(teacher=tmp_path / "teacher.safetensors"))
    cohort = Cohort(Ranks("cpu"), slots=1, cache=tmp_path)
    run = load(file).run.model_dump(mode="json") | {"method": "none", "teacher": None}
    cohort.admit(1, RunConfig.model_validate({**run, "student": {"name": "unet", "width": 4}}))
    cohort.epoch()
    cohort.export(1, tmp_path / "teacher.safetensors")
    a_worker(str(file), sqlite_url, tmp_path)
    file.unlink()
    flags = words(sqlite_url, "--cache", str(tmp_path / "cache"))
    opened = open_storage(sqlite_url)
    assert confirm.main(argparse.Namespace(**{**vars(flags), "study": "real", "plan": True})) == 0
    assert "kd-1-without        ablation" in capsys.readouterr().out
    assert not Evidence(opened.engine).openings("real")
    plan = confirm.the_plan(opened, "real", flags)
    confirm._create(opened, sqlite_url, plan, tmp_path / "cache")
    a_worker("real.confirm", sqlite_url, tmp_path)
    found = confirmed(opened, "real")
    assert found.missing == ()
    names = ["kd-1", "no-kd-1", "kd-1-without", "defaults"]
    assert [each.name for each in found.configurations] == [*names, "teacher"]
    parts = {(each.configuration, each.seed, each.part) for each in found.findings}
    assert parts == {
        *((name, seed, part) for name in names for seed in (11, 12) for part in ("validation", "test")),
        *(("teacher", None, part) for part in ("validation", "test")),
    }
    assert {len(each.images) for each in found.findings if each.part == "test"} == {5}
    (opening,) = found.openings
    (line,) = read_openings(tmp_path / "runs")
    assert (opening.who, opening.configurations) == (line.who, tuple(names))
    assert "real.confirm: kd-1, no-kd-1, kd-1-without, defaults on seeds [11, 12]" in line.purpose
    assert confirm.main(argparse.Namespace(**{**vars(flags), "study": "real"})) == 0
    out = capsys.readouterr().out
    assert "python -m search report real" in out
    assert len(Evidence(opened.engine).openings("real")) == 1
    opened.engine.dispose()
