"""What holds when trials change hands, answers are lost, studies are deleted, and files vary what they may not."""

import json
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna
import pytest
import sqlalchemy as sa

from search.execution.database_thread import DatabaseThread
from search.execution.epoch_loop import Leader, run_group
from search.execution.group import SingleProcess
from search.execution.held_trials import HeldTrials, on_hand
from search.execution.messages import CheckpointWritten, DropTrial, EpochDone, StartTrial, TrialFailed, WorkerSettings
from search.execution.simulated_students import Curves, SimulatedStudents
from search.spec.arms import Arm
from search.spec.load import load
from search.spec.space import Scalar
from search.storage.leases import LeaseHandle, LeaseRow
from search.storage.schema import attempts, orphans, searches
from search.storage.statements import Owner
from search.study.adapter import Claim, StudyAdapter
from trainer.config import RunConfig
from trainer.errors import UserError
from trainer.reports import EpochReport, Failure, FailureKind, Saved

STUDY = (Path(__file__).parents[1] / "small.toml").read_text()
WIDE = """
[[arms]]
name = "wide"
set = { "student.width" = 6 }
trials = 3
"""
ME, OTHER, THIRD = Owner("me", "here"), Owner("other", "there"), Owner("third", "there")

Join = Callable[..., StudyAdapter]


@pytest.fixture
def join(sqlite_url: str, open_again: Join) -> Join:
    """Open the one search of the test once more, as another process would."""
    return lambda *changes, text=STUDY: open_again(sqlite_url, "handed", text, *changes)


def settings(tmp_path: Path, **changes: Any) -> WorkerSettings:
    values: dict[str, Any] = dict(owner=ME, slots=2, runs=tmp_path, ranks=1, environment={}, ttl=600.0)
    return WorkerSettings(**{**values, "breach": lambda _: None, **changes})


def until(what: Callable[[], bool], seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end
        time.sleep(0.02)


@dataclass
class Worker:
    """A whole worker but for its process; `at(n, f)` calls f before the n-th epoch of the group."""

    search: StudyAdapter
    settings: WorkerSettings
    at: Mapping[int, Callable[[], None]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.desk = DatabaseThread(self.search, self.settings)

    def run(self) -> str:
        students = SimulatedStudents(
            Curves(), slots=self.settings.slots, metric="dice", epoch_seconds=0.02, fail_share=0.0
        )
        train, done = students.epoch, 0

        def epoch() -> dict[int, EpochReport | Failure]:
            nonlocal done
            self.at.get(done, lambda: None)()
            done += 1
            return train()

        students.epoch = epoch  # type: ignore[method-assign]
        return run_group(SingleProcess(), students, self.desk).text


@dataclass
class Member:
    """One member on its way through `HeldTrials`, without a group."""

    members: HeldTrials
    claim: Claim

    def tell(self, epoch: int, *, written: bool = True) -> Path:
        held = self.claim.held
        path = self.members.settings.runs / f"{held.trial_id}-{held.token}-{epoch}.pt"
        path.write_text("weights")
        report = EpochReport(epoch, epoch - 1, {"dice": 0.5 + epoch / 100}, {}, {"student": 1.0}, final=False)
        digest = "9cba9e5ab0b1b0c4d1ee8f2a2d4e5e20"  # of other bytes: nobody can go on from this file
        self.members.store(EpochDone(held.trial_id, held.token, report))
        if not written:
            return path
        self.members.store(CheckpointWritten(held.trial_id, held.token, epoch, Saved(path, digest, 7), ((1, 0),)))
        return path


def member(search: StudyAdapter, given: WorkerSettings, claim: Claim | None = None) -> Member:
    members = HeldTrials(search, given)
    claim = search.claim(given.owner, on_hand, ()) if claim is None else claim
    members.begin(claim)
    return Member(members, claim)


def seen(search: StudyAdapter, held: LeaseHandle) -> LeaseRow:
    return next(row for row in search.leases.of_studies([held.study_id]) if row.trial_id == held.trial_id)


def row_of(search: StudyAdapter, held: LeaseHandle) -> Any:
    row = search.leases.row(held.trial_id)
    assert row is not None
    return row


def all_of(search: StudyAdapter, table: sa.Table) -> list[Any]:
    with search.opened.engine.begin() as connection:
        return list(connection.execute(sa.select(table)))


def uuid_of(search: StudyAdapter) -> str:
    row = search.searches.search("handed")
    assert row is not None
    return str(row.uuid)


# ---- members that go while they train


def test_a_member_that_is_lost_while_it_trains_leaves_no_trace_and_the_others_go_on(
    join: Join, tmp_path: Path, log: list[str]
) -> None:
    """The database thread knows before the epoch ends: its report is ignored, its file removed."""
    search, others = join("budget.trials=3"), join("budget.trials=3")
    worker = Worker(search, settings(tmp_path, ttl=3.0))
    stolen: list[LeaseHandle] = []

    def taken() -> bool:
        """Not where the holder's heart beats between the look and the taking."""
        row = others.leases.of_studies(list(others.arms))[0]
        held = others.leases.take(row, OTHER, resume_epoch=row.epoch, lost=True)
        stolen.extend([held] if held else [])
        return held is not None

    def steal() -> None:
        until(lambda: others.leases.of_studies(list(others.arms))[0].epoch == 1)
        until(taken)
        (held,) = stolen
        others.fail(held, "bug", "as the other found")
        until(lambda: held.trial_id not in worker.desk._members.held)

    worker.at = {1: steal}
    worker.run()
    counts = search.counts()["kd"]
    assert (counts.complete, counts.failed, counts.running) == (3, 1, 0)
    assert len([line for line in log if "lost to another worker" in line]) == 1
    row = row_of(search, stolen[0])
    assert (row.message, row.token, row.epoch) == ("as the other found", 2, 1)
    assert all_of(search, orphans) == []
    # What the other may go on from stays; the file of the epoch that nobody counted is gone.
    assert [path.name for path in tmp_path.rglob("epoch-*")] == ["epoch-1.pt"]


def test_a_member_that_is_pruned_while_its_next_epoch_trains_leaves_no_file_and_the_others_go_on(
    join: Join, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As it is where the database answers more slowly than an epoch boundary waits."""
    search = join()
    worker = Worker(search, settings(tmp_path))
    trains = threading.Event()
    judged: list[LeaseHandle] = []

    def pruned(held: LeaseHandle) -> bool:
        if not judged:
            judged.append(held)
            assert trains.wait(20)
            return True
        return False

    def second_epoch() -> None:
        trains.set()
        until(lambda: bool(judged) and judged[0].trial_id not in worker.desk._members.held)

    monkeypatch.setattr(search, "pruned", pruned)
    monkeypatch.setattr("search.execution.epoch_loop.PATIENCE", 0.5)
    worker.at = {1: second_epoch}
    worker.run()
    counts = search.counts()["kd"]
    assert (counts.complete, counts.pruned, counts.failed, counts.running) == (3, 1, 0, 0)
    row = row_of(search, judged[0])
    assert (row.state, row.epoch, row.failure) == ("finished", 1, None)
    assert all_of(search, orphans) == []
    assert not list(tmp_path.rglob("epoch-*"))


def test_a_member_that_comes_and_goes_within_one_epoch_is_dismissed_once_and_not_begun(
    join: Join, tmp_path: Path
) -> None:
    search = join()
    lead = Leader(
        DatabaseThread(search, settings(tmp_path)),
        SimulatedStudents(Curves(), slots=2, metric="dice", epoch_seconds=0.0, fail_share=0.0),
        SingleProcess(),
    )
    begin = StartTrial(7, search.spec.run, None, "kd #7", 1, tmp_path)
    lead.desk.settle = lambda *_: None  # type: ignore[method-assign]  # its thread does not run here
    lead.desk.inbox.put(begin)
    assert lead.plan().begin == (begin,)
    for event in (DropTrial(7), begin, DropTrial(7)):
        lead.desk.inbox.put(event)
    plan = lead.plan()
    assert (plan.dismiss, plan.begin, plan.members) == ((7,), (), 0)


# ---- what a study file may not vary


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("data.root", '"pictures"'),
        ("data.split", '"split.csv"'),
        ("data.name", '"polyp"'),
        ("teacher.checkpoint", '"teacher.safetensors"'),
        ("teacher.min_dice", "0.5"),
    ],
)
@pytest.mark.parametrize("place", ["space", "space nested", "arm", "arm nested"])
def test_data_and_teacher_are_the_same_for_all_arms(tmp_path: Path, path: str, value: str, place: str) -> None:
    """A file that lets one of them vary is refused in one line that names it and says where it belongs."""
    table, _, key = path.partition(".")
    text = {
        "space": STUDY.replace("[sampler]", f'"{path}" = {{ choices = [{value}] }}\n[sampler]'),
        "space nested": STUDY.replace("[sampler]", f"[space.{table}]\n{key} = {{ choices = [{value}] }}\n[sampler]"),
        "arm": f'{STUDY}\n[[arms]]\nname = "else"\nset = {{ "{path}" = {value} }}\n',
        "arm nested": f'{STUDY}\n[[arms]]\nname = "else"\nset = {{ {table} = {{ {key} = {value} }} }}\n',
    }[place]
    file = tmp_path / "varies.toml"
    file.write_text(text)
    with pytest.raises(UserError) as raised:
        load(file)
    line = str(raised.value)
    field = f"space.{path}" if place.startswith("space") else f"arms.else.set.{path}"
    assert f"{field}: all arms share one data set and one teacher; set it in [run]" in line
    assert "\n" not in line


@pytest.mark.parametrize(
    "arm",
    [WIDE.replace("= 6", "= 8"), WIDE.replace('"student.width" = 6', '"student.width" = 6, "optim.lr" = 1e-2')],
    ids=["run", "space"],
)
def test_a_control_arm_that_changed_under_its_name_is_refused(join: Join, arm: str) -> None:
    """Its numbers would mix with those of another run or space; nothing is stored of the try."""
    first = join(text=STUDY + WIDE)
    before = first.searches.arms_of(first.search_id)
    with pytest.raises(UserError, match=r"its arm 'wide' exists with another run or space; give the arm another name"):
        join("budget.trials=9", text=STUDY + arm)
    assert first.searches.arms_of(first.search_id) == before
    assert join(text=STUDY + WIDE).arms.keys() == first.arms.keys()


def test_budgets_of_arms_may_change_and_arms_may_come_and_go(join: Join) -> None:
    first = join(text=STUDY + WIDE)
    second = join("budget.trials=9", text=STUDY + WIDE.replace("trials = 3", "trials = 5\nin_flight = 1"))
    assert second.arms.keys() == first.arms.keys()
    stored = {row.name: (row.trials, row.in_flight) for row in second.searches.arms_of(second.search_id)}
    assert stored == {"kd": (9, 4), "wide": (5, 1)}
    assert list(join().arms) == [study_id for study_id, arm in first.arms.items() if arm.name == "kd"]
    other = WIDE.replace("wide", "wider").replace("= 6", "= 8")
    assert [arm.name for arm in join(text=STUDY + WIDE + other).arms.values()] == ["kd", "wide", "wider"]


# ---- what a trial cost, and where


def test_a_trial_that_goes_on_elsewhere_is_of_mixed_devices_and_keeps_its_costs(join: Join, tmp_path: Path) -> None:
    """Also where it comes back to the first device later."""
    search = join()
    cpu, gpu = {"device": "cpu", "torch": "1"}, {"device": "cuda", "torch": "1"}
    students = SimulatedStudents(Curves(), slots=1, metric="dice", epoch_seconds=0.0, fail_share=0.0)
    one = member(search, settings(tmp_path, environment=cpu))
    key = one.claim.held.trial_id
    students.admit(key, one.members.held[key].run)
    (report,) = students.epoch().values()
    assert isinstance(report, EpochReport)
    report = EpochReport(1, 0, report.scores, {}, {"student": 3.0, "data": 1.0}, final=False)
    saved = students.snapshot(key)(tmp_path / "epoch-1.pt")
    one.members.store(EpochDone(key, 1, report))
    one.members.store(CheckpointWritten(key, 1, 1, saved, students.replay(key)))
    assert json.loads(row_of(search, one.claim.held).environment) == cpu
    one.members.give_back("preempted")
    for environment, owner in ((gpu, OTHER), (cpu, ME)):
        next_one = member(search, settings(tmp_path, environment=environment, owner=owner, ranks=2))
        assert next_one.claim.held.trial_id == key
        begin = next_one.members.inbox.get()
        assert isinstance(begin, StartTrial)
        assert begin.resume is not None
        assert begin.resume.checkpoint == saved.path
        row = row_of(search, next_one.claim.held)
        assert json.loads(row.environment) == {**cpu, "device": "mixed"}
        next_one.members.give_back("preempted")
    last = member(search, settings(tmp_path, environment=gpu, ranks=2))
    last.tell(2)
    row = row_of(search, last.claim.held)
    assert json.loads(row.seconds) == {"data": 1.0, "student": 4.0}
    assert row.gpu_seconds == 6.0  # 4 s of one rank, then 1 s of two
    assert json.loads(row.environment)["device"] == "mixed"


def test_a_trial_that_starts_again_is_of_its_new_device_and_keeps_its_costs(join: Join, tmp_path: Path) -> None:
    """Nothing of the first device's epochs is left in its result, but their time was spent."""
    search = join()
    cpu, gpu = {"device": "cpu"}, {"device": "cuda"}
    one = member(search, settings(tmp_path, environment=cpu))
    for epoch in (1, 2, 3):
        one.tell(epoch)
    one.members.give_back("preempted")
    two = member(search, settings(tmp_path, environment=gpu, owner=OTHER))  # no file that it can go on from
    assert two.claim.held.trial_id == one.claim.held.trial_id
    begin = two.members.inbox.get()
    assert isinstance(begin, StartTrial)
    assert begin.resume is None
    row = row_of(search, two.claim.held)
    assert json.loads(row.environment) == gpu
    assert (row.epoch, row.best_epoch, row.gpu_seconds) == (0, None, 3.0)
    two.tell(1)
    row = row_of(search, two.claim.held)
    assert (row.epoch, row.best_epoch, row.best_score) == (1, 1, pytest.approx(0.51))
    assert (json.loads(row.seconds), row.gpu_seconds) == ({"student": 4.0}, 4.0)


# ---- bugs before training


@pytest.mark.parametrize("where", ["limit", "resolve"])
def test_a_bug_before_training_ends_its_trial_alone(
    join: Join, tmp_path: Path, where: str, monkeypatch: pytest.MonkeyPatch, log: list[str]
) -> None:
    """In the check of limits, or where parameters become a run."""
    search = join()
    calls: list[str] = []

    def second_fails() -> None:
        calls.append(where)
        if len(calls) == 2:
            raise ZeroDivisionError("before training")

    def breach(_run: RunConfig) -> str | None:
        if where == "limit":
            second_fails()
        return None

    def resolves(arm: Arm, params: Mapping[str, Scalar]) -> RunConfig:
        second_fails()
        return resolve(arm, params)

    resolve = Arm.resolve
    if where == "resolve":
        monkeypatch.setattr(Arm, "resolve", resolves)
    Worker(search, settings(tmp_path, breach=breach)).run()
    counts = search.counts()["kd"]
    assert (counts.complete, counts.failed, counts.running) == (4, 1, 0)
    (failed,) = [row for row in search.leases.details(list(search.arms)) if row.failure]
    assert (failed.failure, failed.run) == ("bug", None)
    assert "ZeroDivisionError: before training" in failed.message
    assert len([line for line in log if "failed before training" in line]) == 1


# ---- studies that are deleted


def finish_all(search: StudyAdapter, tmp_path: Path) -> None:
    Worker(search, settings(tmp_path / "runs")).run()
    assert all(counts.complete == arm.trials for counts, arm in zip(*both(search), strict=True))


def both(search: StudyAdapter) -> tuple[Any, Any]:
    return search.counts().values(), search.arms.values()


@pytest.mark.parametrize("arms", ["", WIDE], ids=["alone", "with an arm"])
def test_a_study_that_was_deleted_begins_anew(join: Join, tmp_path: Path, arms: str) -> None:
    """With another folder, nothing of the old trials, and its whole budget, for every arm."""
    old = join(text=STUDY + arms)
    finish_all(old, tmp_path)
    uuid, ids = uuid_of(old), [row.trial_id for row in old.leases.details(list(old.arms))]
    assert len(ids) == sum(arm.trials for arm in old.arms.values())
    optuna.delete_study(study_name="handed", storage=old.opened.storage)
    new = join(text=STUDY + arms)
    assert uuid_of(new) == new.folder != uuid
    assert len(all_of(new, searches)) == 1
    assert new.leases.details([*old.arms, *new.arms]) == []
    assert (all_of(new, attempts), all_of(new, orphans)) == ([], [])
    assert all(not new.trials(arm) for arm in new.arms.values())
    if arms:  # of the arm, which nobody deleted, the values stay, under a name that nobody takes
        aside = optuna.load_study(study_name=f"handed.wide.{uuid[:8]}", storage=new.opened.storage)
        assert [trial.state.name for trial in aside.trials] == ["COMPLETE"] * 3
    finish_all(new, tmp_path)
    assert [row.token for row in new.leases.details(list(new.arms))] == [1] * len(ids)


def test_a_deleted_study_may_come_back_as_another(join: Join, tmp_path: Path) -> None:
    """What is gone binds nobody: the new one may have another run."""
    old = join()
    optuna.delete_study(study_name="handed", storage=old.opened.storage)
    assert uuid_of(join(text=STUDY.replace("epochs = 4", "epochs = 5"))) != old.folder


def test_an_arm_that_was_deleted_alone_begins_anew(join: Join, tmp_path: Path) -> None:
    """The search goes on under its folder, and the main search keeps its trials."""
    old = join(text=STUDY + WIDE)
    finish_all(old, tmp_path)
    main, _ = old.arms
    kept = old.leases.details([main])
    optuna.delete_study(study_name="handed.wide", storage=old.opened.storage)
    new = join(text=STUDY + WIDE.replace("= 6", "= 8"))
    assert uuid_of(new) == old.folder
    assert new.leases.details(list(new.arms)) == kept
    assert {row.trial_id for row in all_of(new, attempts)} == {row.trial_id for row in kept}
    assert (new.counts()["kd"].complete, new.counts()["wide"].admitted) == (4, 0)
    finish_all(new, tmp_path)
    assert new.leases.details([main]) == kept


# ---- who is charged


def test_a_restart_of_the_ranks_is_never_charged(join: Join, tmp_path: Path) -> None:
    """A trial that was lost twice goes on after any number of them; one real loss more, and it fails."""
    search = join()
    mine, theirs = settings(tmp_path), settings(tmp_path, owner=OTHER)
    last = member(search, mine)
    for owner, given in ((OTHER, theirs), (ME, mine)):
        taken = search.claim(owner, on_hand, (seen(search, last.claim.held),))
        last = member(search, given, taken)
        assert taken.lost
        assert len(last.members.held) == 1
    for _ in range(4):
        (again,) = search.retake(ME, on_hand)
        last = member(search, mine, again)
        assert len(last.members.held) == 1
    row = row_of(search, last.claim.held)
    assert (row.state, row.lost, row.token) == ("held", 2, 7)
    taken = search.claim(THIRD, on_hand, (seen(search, last.claim.held),))
    assert member(search, settings(tmp_path, owner=THIRD), taken).members.held == {}
    row = row_of(search, taken.held)
    assert (row.state, row.failure, row.lost) == ("finished", "lost", 3)
    assert "vanished 3 times" in row.message
    why = [attempt.why for attempt in all_of(search, attempts)]
    assert why == ["lost", "lost", *["restarted"] * 4, "lost", "lost"]


def test_a_report_is_a_sign_of_life(join: Join, tmp_path: Path) -> None:
    """Whoever saw a trial before its holder's report cannot take it, also while its checkpoint is being written."""
    search = join()
    one = member(search, settings(tmp_path))
    before = seen(search, one.claim.held)
    one.tell(1, written=False)
    after = seen(search, one.claim.held)
    assert (after.token, after.epoch) == (before.token, 0)
    assert search.leases.take(before, OTHER, resume_epoch=0, lost=True) is None
    assert search.claim(OTHER, on_hand, (before,)).held.trial_id != one.claim.held.trial_id
    row = row_of(search, one.claim.held)
    assert (row.owner, row.token, row.lost, row.epoch) == ("me", 1, 0, 0)
    assert search.leases.take(after, OTHER, resume_epoch=0, lost=True) is not None


def test_a_stored_run_is_a_sign_of_life(join: Join, tmp_path: Path) -> None:
    search = join()
    claim = search.claim(ME, on_hand, ())
    before = seen(search, claim.held)
    member(search, settings(tmp_path), claim)
    assert search.leases.take(before, OTHER, resume_epoch=0, lost=True) is None


def test_what_is_told_under_an_older_token_is_not_stored(join: Join, tmp_path: Path) -> None:
    """The trial went and came back while an epoch was trained: that epoch belongs to no one, and its file goes."""
    search = join()
    one = member(search, settings(tmp_path))
    first = one.tell(1)
    (again,) = search.retake(ME, on_hand)
    one.members.held.clear()
    one.members.begin(again)
    old = row_of(search, again.held)
    assert old.token == 2
    late = one.tell(2)  # under token 1
    one.members.store(TrialFailed(again.held.trial_id, 1, Failure(FailureKind.NOT_FINITE, "not finite", 2)))
    assert row_of(search, again.held) == old
    assert search.trials(search.spec.main)[0].intermediate_values == {}
    assert (first.is_file(), late.is_file()) == (True, False)
    assert one.members.held[again.held.trial_id].lease.token == 2
    assert all_of(search, orphans) == []
    now = Member(one.members, again).tell(1)
    assert row_of(search, again.held).checkpoint == str(now)


# ---- the study file's own trials

QUEUE = """
[[enqueue]]
"optim.lr" = 0.01
[[enqueue]]
"optim.lr" = 0.02
"""
WIDE_QUEUE = """
[[enqueue]]
arm = "wide"
"optim.lr" = 0.03
"""


class Died(BaseException):
    """The process ends here."""


def queued(search: StudyAdapter, name: str = "kd") -> list[float]:
    return [trial.system_attrs["fixed_params"]["optim.lr"] for trial in search.trials(search.spec.arm(name))]


@pytest.mark.parametrize("done", [0, 1])
def test_trials_of_the_file_are_queued_once_though_their_process_died(
    join: Join, monkeypatch: pytest.MonkeyPatch, done: int
) -> None:
    """Between the creation of the search and its queue, or between two entries."""
    real = StudyAdapter.enqueue
    calls: list[Mapping[str, Scalar]] = []

    def dies(search: StudyAdapter, arm: Arm, params: Mapping[str, Scalar]) -> None:
        if len(calls) == done:
            raise Died
        calls.append(params)
        real(search, arm, params)

    monkeypatch.setattr(StudyAdapter, "enqueue", dies)
    with pytest.raises(Died):
        join(text=STUDY + QUEUE)
    monkeypatch.undo()
    for _ in range(3):
        search = join(text=STUDY + QUEUE)
        assert queued(search) == [0.01, 0.02]
    claimed = [search.claim(ME, on_hand, ()) for _ in range(3)]
    assert [search.suggest(claim)["optim.lr"] for claim in claimed[:2]] == [0.01, 0.02]
    assert search.suggest(claimed[2])["optim.lr"] not in (0.01, 0.02)
    assert len(join(text=STUDY + QUEUE).trials(search.spec.main)) == 3


def test_trials_of_an_arm_that_comes_later_are_queued_once(join: Join) -> None:
    join(text=STUDY + QUEUE)
    for _ in range(2):
        search = join(text=STUDY + WIDE + QUEUE + WIDE_QUEUE)
        assert (queued(search), queued(search, "wide")) == ([0.01, 0.02], [0.03])


# ---- claims whose answer was lost


class LosesClaim:
    """The first claim reaches the database, its answer does not come back; then the database is away if `stays`."""

    def __init__(self, engine: sa.Engine, *, stays: bool) -> None:
        self.away = False
        self.lost = 0
        self._armed = False
        self._stays = stays
        sa.event.listen(engine, "before_cursor_execute", self._watch)
        sa.event.listen(engine, "commit", self._commit)

    def _watch(self, _conn: object, _cursor: object, statement: str, *_: object) -> None:
        if self.away:
            raise sa.exc.OperationalError(statement, None, Exception("server closed the connection unexpectedly"))
        if self.lost == 0 and statement.startswith("INSERT INTO kd_lease"):
            self._armed = True

    def _commit(self, connection: sa.Connection) -> None:
        if self._armed:
            self._armed, self.lost, self.away = False, self.lost + 1, self._stays
            connection.connection.commit()
            raise sa.exc.OperationalError("COMMIT", None, Exception("connection reset by peer"))


@pytest.mark.parametrize("stays", [True, False], ids=["away", "back at once"])
def test_a_claim_whose_answer_was_lost_is_taken_back_uncharged(
    join: Join, tmp_path: Path, stays: bool, log: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the same worker, long before anybody could take it for abandoned; all trials are trained."""
    search = join()
    database = LosesClaim(search.opened.engine, stays=stays)
    monkeypatch.setattr("random.random", lambda: 0.05)  # Optuna waits twice as long, in seconds, between its tries
    # The time to live is longer than the test: whatever is taken here is not taken as abandoned.
    worker = Worker(search, settings(tmp_path))

    def returns() -> None:
        until(lambda: database.lost == 1 and (not stays or worker.desk._away_since is not None))
        database.away = False

    back = threading.Thread(target=returns)
    back.start()
    worker.run()
    back.join()
    assert database.lost == 1
    assert search.counts()["kd"].complete == 4
    rows = search.leases.details(list(search.arms))
    assert [(row.state, row.lost) for row in rows] == [("finished", 0)] * 4
    assert sorted(row.token for row in rows) == [1, 1, 1, 2]
    assert sorted(str(attempt.why) for attempt in all_of(search, attempts)) == [*["finished"] * 4, "restarted"]
    assert len([line for line in log if "database away" in line]) == int(stays)


def test_a_changed_budget_or_pruner_is_taken_and_said_once(join: Join, log: list[str]) -> None:
    """What may change while a study goes on changes for all workers, and the log of who brings it says what."""
    join()
    join("budget.trials=6")
    said = [line for line in log if "changed since the last worker joined" in line]
    assert [line.rpartition(": changed since the last worker joined: ")[2] for line in said] == [
        "arms.kd.trials: 4 -> 6",
        "budget.trials: 4 -> 6",
    ]
    log.clear()
    again = join("budget.trials=6")
    assert not [line for line in log if "changed since" in line]
    assert again.searches.arms_of(again.search_id)[0].trials == 6


def test_a_long_failure_keeps_what_failed_and_the_error_that_ends_its_traceback(join: Join) -> None:
    """A traceback names its error last, so a cut that kept the beginning alone would lose it."""
    search = join()
    found = search.claim(ME, lambda _row: 0, ())
    search.fail(found.held, "bug", "epoch 2: it broke\n" + "a line of the stack\n" * 1000 + "ValueError: the reason")
    row = search.leases.row(found.held.trial_id)
    assert row is not None
    assert row.message.startswith("epoch 2: it broke")
    assert row.message.endswith("ValueError: the reason")
    assert len(row.message) < 5000
