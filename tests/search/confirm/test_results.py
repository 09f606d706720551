"""Exactly the planned trials are trained, and findings are stored with the end of their trial."""

import argparse
import math
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from search import worker
from search.commands import confirm
from search.confirm.results import confirmed
from search.execution import start
from search.spec.load import load
from search.storage.database import open_storage
from search.storage.evidence import Evidence
from search.storage.leases import LeaseHandle
from search.storage.statements import LeaseLost, Owner
from search.study.adapter import StudyAdapter
from search.study.progress import read_progress
from search.worker import specification
from trainer.cli.live_line import LiveLine
from trainer.config import RunConfig
from trainer.data import read_openings
from trainer.distributed.ranks import Ranks
from trainer.engine.cohort import Cohort

Make = Callable[..., Any]
SEEDS = (11, 12, 13)
Finish = Callable[[str], StudyAdapter]


def trials_of(search: StudyAdapter) -> dict[str, list[tuple[str, int]]]:
    return {arm.name: sorted((t.state.name, t.params["seed"]) for t in search.trials(arm)) for arm in search.spec.arms}


def test_two_workers_train_exactly_the_planned_trials_and_a_dead_ones_trial_goes_on_under_its_number(
    database_url: str, finish: Finish, tmp_path: Path, train: Make, plan_for: Make, measured: Make
) -> None:
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


def test_trials_are_handed_out_seed_by_seed(ended: StudyAdapter, sqlite_url: str, plan_for: Make) -> None:
    """Configurations of one seed share batches and teacher passes, so they begin together."""
    search = confirm.opened_as(ended.opened, sqlite_url, plan_for(ended))
    count = len(search.spec.arms)
    taken = [search.claim(Owner("me", "here"), lambda _: 0, []) for _ in range(2 * count)]
    seeds = [search.suggest(claim)["seed"] for claim in taken]
    assert seeds == [11] * count + [12] * count


def test_a_failed_seed_is_missing_and_not_made_up_for_until_it_is_asked_for_again(
    ended: StudyAdapter, sqlite_url: str, tmp_path: Path, train: Make, plan_for: Make
) -> None:
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


class Vanished(BaseException):
    """The worker is gone."""


def test_a_worker_that_lost_its_trial_leaves_no_findings(ended: StudyAdapter, sqlite_url: str, plan_for: Make) -> None:
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
    ended: StudyAdapter,
    sqlite_url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    train: Make,
    plan_for: Make,
    measured: Make,
) -> None:
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
    return start.work(args, specification(args), Ranks("cpu"), LiveLine()).text


def test_a_search_is_confirmed_from_its_database_by_workers_that_know_its_name_alone(
    tmp_path: Path, sqlite_url: str, capsys: pytest.CaptureFixture[str], words: Make
) -> None:
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
