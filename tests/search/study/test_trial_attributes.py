"""What a trial says of itself in the dashboard, and the picture that it brings where its study allows one."""

import hashlib
import io
import json
import shutil
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
import torch
from optuna.artifacts import FileSystemArtifactStore, get_all_artifact_meta
from optuna.trial import FrozenTrial
from optuna_dashboard import wsgi
from PIL import Image

from search.admin.close import close
from search.execution.database_thread import DatabaseThread
from search.execution.epoch_loop import run_group
from search.execution.group import SingleProcess
from search.execution.held_trials import HeldTrials
from search.execution.messages import CheckpointWritten, EpochDone, TrialFailed, WorkerSettings
from search.planning.network_costs import costs
from search.storage.statements import Owner
from search.study.adapter import Claim, StudyAdapter
from search.study.artifacts import Artifacts
from search.study.trial_attributes import Attempt, TeacherScore, attempts, attribute_builder, failure, plain
from trainer.config import RunConfig
from trainer.distributed.ranks import Ranks
from trainer.engine.cohort import Cohort
from trainer.engine.fit import fit
from trainer.reports import EpochReport, Failure, FailureKind, Saved

ME, OTHER = Owner("me", "here"), Owner("other", "there")

Join = Callable[..., StudyAdapter]


DATA = {"name": "blobs", "size": 32, "train": 8, "validation": 9, "test": 3, "augment": "none"}


@pytest.fixture
def study(small_study: Callable[..., str]) -> str:
    return small_study(data=DATA)


@pytest.fixture
def short(small_study: Callable[..., str]) -> str:
    """A search that is really trained."""
    return small_study(data=DATA, epochs=2, trials=2)


@pytest.fixture
def join(database_url: str, study: str, open_again: Join) -> Join:
    """Open the one search of the test once more, as another process would."""
    return partial(open_again, database_url, "attributes", study)


@pytest.fixture
def local(sqlite_url: str, study: str, open_again: Join) -> Join:
    """The same on SQLite alone, for what does not depend on the database."""
    return partial(open_again, sqlite_url, "attributes", study)


def settings(tmp_path: Path, owner: Owner = ME, **changes: Any) -> WorkerSettings:
    values: dict[str, Any] = dict(owner=owner, slots=2, runs=tmp_path / "runs", ranks=1, environment={}, ttl=600.0)
    return WorkerSettings(**{**values, "breach": lambda _: None, **changes})


@dataclass
class Held:
    """One trial on its way through a worker's hands, without a group."""

    members: HeldTrials
    claim: Claim

    @property
    def key(self) -> int:
        return self.claim.held.trial_id

    def tell(self, epoch: int, *, final: bool = False) -> None:
        token = self.claim.held.token
        folder = self.members.settings.runs / str(self.key) / str(token)
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"epoch-{epoch}.pt"
        path.write_text("weights")
        scores = {"dice": 0.5 + epoch / 100, "iou": 0.4}
        report = EpochReport(epoch, epoch - 1, scores, {}, {"student": 1.5, "data": 0.5}, final)
        saved = Saved(path, hashlib.sha256(b"weights").hexdigest(), 7)
        self.members.store(EpochDone(self.key, token, report, saved if final else None))
        if not final:
            self.members.store(CheckpointWritten(self.key, token, epoch, saved, ((1, 0),)))

    def fall(self, kind: FailureKind, message: str, detail: str = "") -> None:
        self.members.store(TrialFailed(self.key, self.claim.held.token, Failure(kind, message, 3, detail)))

    @property
    def trial(self) -> FrozenTrial:
        return self.members.search.opened.storage.get_trial(self.key)

    @property
    def attributes(self) -> dict[str, Any]:
        return dict(self.trial.user_attrs)


def begun(search: StudyAdapter, tmp_path: Path, owner: Owner = ME, **changes: Any) -> Held:
    members = HeldTrials(search, settings(tmp_path, owner, **changes))
    claim = search.claim(owner, lambda _: 0, ())
    members.begin(claim)
    return Held(members, claim)


# ---- attributes


def test_a_trial_says_what_it_is_from_the_start_and_what_it_reached_at_its_end(join: Join, tmp_path: Path) -> None:
    search = join()
    built = costs(search.spec)
    one = begun(search, tmp_path, known=attribute_builder(built, TeacherScore(0.9, "unknown")))
    facts = built[0].facts
    assert one.attributes == {
        "attempts": "1: here (running)",
        "host": "here",
        "model.gflops": float(f"{facts.flops / 1e9:.4g}"),
        "model.params_m": float(f"{facts.params / 1e6:.4g}"),
    }
    for epoch in (1, 2, 3):
        one.tell(epoch)
        assert one.attributes["seconds.per_epoch"] == 2.0
        assert "best.epoch" not in one.attributes
    one.tell(4, final=True)
    assert one.trial.state.name == "COMPLETE"
    assert one.attributes["attempts"] == "1: here (finished)"
    assert {name: value for name, value in one.attributes.items() if name.startswith(("best", "seconds"))} == {
        "best.epoch": 4,
        "best.scores": "dice 0.5400, iou 0.4000",
        "seconds.parts": "student 1.5, data 0.5",
        "seconds.per_epoch": 2.0,
    }


def test_no_epoch_takes_a_statement_more_and_an_end_takes_one(join: Join, tmp_path: Path) -> None:
    """Attributes are one INSERT in a transaction that happens anyway: with the run, the first epoch, and the end."""
    search = join()
    seen: Counter[str] = Counter()

    def count(_conn: object, _cursor: object, statement: str, *_: object) -> None:
        seen[" ".join(statement.split()[:3])] += 1

    def counted(work: Callable[[], object]) -> Counter[str]:
        seen.clear()
        work()
        return Counter(seen)

    sa.event.listen(search.opened.engine, "before_cursor_execute", count)
    written = "INSERT INTO trial_user_attributes"
    one: list[Held] = []
    assert counted(lambda: one.append(begun(search, tmp_path)))[written] == 1
    first, second, third = (counted(partial(one[0].tell, epoch)) for epoch in (1, 2, 3))
    assert first[written] == 1
    assert first.total() == second.total() + 1
    assert (second[written], second) == (0, third)
    end = counted(partial(one[0].tell, 4, final=True))
    assert end[written] == 1


def test_who_adopts_a_trial_is_seen_at_once_with_those_before(join: Join, tmp_path: Path) -> None:
    search = join()
    one = begun(search, tmp_path)
    one.tell(1)
    one.tell(2)
    one.members.give_back("preempted")
    assert one.attributes["attempts"] == "1: here (preempted)"
    assert one.attributes["best.epoch"] == 2
    two = begun(join(), tmp_path, OTHER)
    assert two.key == one.key
    assert (two.attributes["host"], two.attributes["attempts"]) == ("there", "2: here (preempted), there (running)")
    two.fall(FailureKind.NOT_FINITE, "the loss is not finite")
    assert two.attributes["attempts"] == "2: here (preempted), there (not_finite)"


def test_attempts_tell_where_a_holder_began() -> None:
    holders = [Attempt("gpu1", 1, "lost"), Attempt("gpu2", 12, None)]
    assert attempts(holders) == "2: gpu1 (lost), gpu2 from epoch 12 (running)"


def test_a_failed_trial_says_why_in_one_harmless_line_and_keeps_its_text(join: Join, tmp_path: Path) -> None:
    search = join()
    one = begun(search, tmp_path)
    hostile = "<script>alert(1)</script> at postgresql://ann:s3cr3t@host/db \x1b[31m"
    one.fall(FailureKind.BUG, hostile, "Traceback (most recent call last):\n  the stack")
    assert one.attributes["failure"] == "bug"
    line = "epoch 3: <script>alert(1)</script> at postgresql://ann:***@host/db ?[31m"
    assert one.attributes["failure.message"] == line
    row = search.leases.row(one.key)
    assert row is not None
    assert row.message.endswith("the stack")


def test_a_trial_that_fails_before_training_says_why(local: Join, tmp_path: Path) -> None:
    def broken(_run: RunConfig) -> str | None:
        raise ValueError("no such width")

    one = begun(local(), tmp_path, breach=broken)
    assert (one.attributes["failure"], one.attributes["failure.message"]) == ("bug", "ValueError: no such width")


def test_a_trial_that_breaks_a_limit_says_which_and_what_it_is(local: Join, tmp_path: Path) -> None:
    one = begun(
        local(), tmp_path, breach=lambda _: "9 M parameters of at most 1 M", known=lambda _: {"model.gflops": 2}
    )
    assert one.trial.state.name == "PRUNED"
    assert (one.attributes["limit"], one.attributes["model.gflops"]) == ("9 M parameters of at most 1 M", 2)


def test_a_trial_whose_workers_vanish_says_where(local: Join, tmp_path: Path) -> None:
    search = local()
    one = begun(search, tmp_path)
    for _ in range(3):
        row = next(row for row in search.leases.of_studies(list(search.arms)) if row.trial_id == one.key)
        held = search.leases.acquire(row, OTHER, resume_epoch=0, lost=True)
        assert held is not None
        HeldTrials(search, settings(tmp_path, OTHER)).begin(Claim(held, one.claim.arm, row, lost=True))
    assert one.attributes["failure"] == "lost"
    assert one.attributes["attempts"] == "4: here (lost), there (lost), there (lost), there (lost)"


def test_a_trial_that_is_withdrawn_says_why(join: Join, database_url: str) -> None:
    search = join()
    search.enqueue(search.spec.main, {"optim.lr": 1e-3})
    assert close(search.opened, database_url, search.search_id)["withdrawn"] == 1
    (trial,) = search.trials(search.spec.main)
    assert trial.user_attrs == {"failure": "withdrawn", "failure.message": "the study was closed before it began"}


@pytest.mark.parametrize(
    ("message", "line"),
    [
        ("first\nsecond", "first"),
        ("Traceback (most recent call last):\n  File\nKeyError: 'a'\n", "KeyError: 'a'"),
        ("", "bug"),
        ("x" * 1000, "x" * 197 + "..."),
    ],
)
def test_a_failure_is_one_short_line(message: str, line: str) -> None:
    assert failure("bug", message)["failure.message"] == line


def test_a_real_traceback_is_told_by_its_error() -> None:
    try:
        json.loads("{")
    except ValueError:
        text = traceback.format_exc()
    assert failure("bug", text)["failure.message"].startswith("json.decoder.JSONDecodeError: Expecting")


def test_plain_text_holds_no_line_break_and_no_password() -> None:
    assert plain("a\n b\x00c\u202e postgresql+psycopg2://u:p@ss@h/d") == "a b?c? postgresql+psycopg2://u:***@h/d"


# ---- pictures


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A small network trained for an epoch, as a run's teacher table."""
    path = tmp_path_factory.mktemp("teacher") / "teacher.safetensors"
    for _ in fit(run_of(epochs=1, student={"name": "unet", "width": 6}), cache=path.parent, export=path, ranks=CPU()):
        pass
    return {"name": "unet", "width": 6, "checkpoint": str(path)}


def CPU() -> Ranks:  # noqa: N802 - reads as the device
    return Ranks("cpu")


def run_of(**changes: Any) -> RunConfig:
    data = {"name": "blobs", "size": 32, "train": 8, "validation": 9, "test": 3}
    plain_run = {"epochs": 2, "batch_size": 4, "data": data, "student": {"name": "unet", "width": 4}}
    return RunConfig.model_validate({**plain_run, "losses": {"ce": {}}, **changes})


def taught(teacher: dict[str, Any], **changes: Any) -> RunConfig:
    return run_of(method="kl", teacher=teacher, losses={"ce": {}, "kl": {}}, optim={"ema": True}, **changes)


def train(
    search: StudyAdapter, tmp_path: Path, *, images: bool, change: Callable[[Cohort], None] = lambda _: None
) -> Path:
    """A whole worker with a real cohort, in this process; returns the folder of artifacts."""
    folder = tmp_path / "artifacts"
    own = settings(tmp_path, artifacts=Artifacts(folder, search.opened.storage), images=images)
    cohort = Cohort(CPU(), slots=2, cache=tmp_path / "cache")
    change(cohort)
    run_group(SingleProcess(), cohort, DatabaseThread(search, own))
    return folder


def files_of(search: StudyAdapter, trial: FrozenTrial) -> list[Any]:
    return get_all_artifact_meta(study_or_trial=trial, storage=search.opened.storage)


def test_a_trial_that_completes_brings_a_picture_that_the_dashboard_serves(
    database_url: str, open_again: Join, short: str, teacher: dict[str, Any], tmp_path: Path, log: list[str]
) -> None:
    checkpoint = json.dumps(teacher["checkpoint"])
    table = f'method = "kl"\nteacher = {{ name = "unet", width = 6, checkpoint = {checkpoint} }}'
    text = short.replace('method = "none"', table).replace("ce = {}", "ce = {}, kl = {}")
    search = open_again(database_url, "pictures", text)
    folder = train(search, tmp_path, images=True)
    trials = search.trials(search.spec.main)
    assert [trial.state.name for trial in trials] == ["COMPLETE"] * 2
    application = wsgi(search.opened.storage, artifact_store=FileSystemArtifactStore(folder))
    study_id = next(iter(search.arms))
    for trial in trials:
        (meta,) = files_of(search, trial)
        assert (meta.filename, meta.mimetype) == ("worst-and-median.png", "image/png")
        content = ask(application, f"/artifacts/{study_id}/{trial._trial_id}/{meta.artifact_id}")
        with Image.open(io.BytesIO(content)) as picture:
            picture.load()
            assert picture.format == "PNG"
            assert picture.width > 4 * 200  # image, truth, teacher and student
            assert picture.height > 6 * 200
    (shown, _) = json.loads(ask(application, f"/api/studies/{study_id}"))["trials"]
    assert [trial.user_attrs["teacher.passes_per_step"] for trial in trials] == [0.5] * 2
    assert {a["key"] for a in shown["user_attrs"]} > {"host", "attempts", "best.scores", "seconds.parts"}
    assert len(shown["artifacts"]) == 1
    assert not list((tmp_path / "runs").rglob("*.png"))
    assert not [line for line in log if line.startswith(("WARNING", "ERROR"))]


def ask(application: Callable[..., Any], path: str) -> bytes:
    """The body of a page of the stock dashboard."""
    statuses: list[str] = []
    environ = {"REQUEST_METHOD": "GET", "PATH_INFO": path, "QUERY_STRING": "", "wsgi.input": io.BytesIO()}
    body = application(environ, lambda status, *_: statuses.append(status))
    content = b"".join(body)
    close_body = getattr(body, "close", None)
    if close_body is not None:
        close_body()
    assert statuses == ["200 OK"], (path, content)
    return content


def test_images_that_are_off_are_neither_drawn_nor_kept(
    sqlite_url: str, open_again: Join, short: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    search = open_again(sqlite_url, "off", short)
    assert search.spec.dashboard.images == "off"  # the default

    def drawn(*_: object) -> Path:
        raise AssertionError("a picture was drawn")

    monkeypatch.setattr(Cohort, "picture", drawn)
    folder = train(search, tmp_path, images=search.spec.dashboard.images == "validation")
    for trial in search.trials(search.spec.main):
        assert trial.state.name == "COMPLETE"
        assert files_of(search, trial) == []
        assert not [key for key in trial.system_attrs if "artifact" in key]
    assert list(folder.iterdir()) == []
    assert not list(tmp_path.rglob("*.png"))


def test_a_picture_that_a_careless_worker_sends_is_not_kept_while_images_are_off(local: Join, tmp_path: Path) -> None:
    search = local()
    folder = tmp_path / "artifacts"
    one = begun(search, tmp_path, artifacts=Artifacts(folder, search.opened.storage), images=False)
    picture = tmp_path / "private.png"
    picture.write_bytes(b"private")
    weights = Saved(tmp_path / "best", "0" * 64, 7)
    report = EpochReport(4, 3, {"dice": 0.5}, {}, {}, True)
    one.members.store(EpochDone(one.key, one.claim.held.token, report, weights, picture))
    assert one.trial.state.name == "COMPLETE"
    assert files_of(search, one.trial) == []
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("trouble", ["drawing", "folder"])
def test_a_picture_that_cannot_be_had_costs_a_line_and_no_trial(
    sqlite_url: str, open_again: Join, short: str, tmp_path: Path, log: list[str], trouble: str
) -> None:
    search = open_again(sqlite_url, "trouble", short, "budget.trials=1")

    def draw(_key: int, _path: Path) -> Path:
        raise MemoryError("no room\nfor a picture")

    def change(cohort: Cohort) -> None:
        if trouble == "folder":
            shutil.rmtree(tmp_path / "artifacts")
        else:
            cohort.picture = draw  # type: ignore[method-assign]

    train(search, tmp_path, images=True, change=change)
    (trial,) = search.trials(search.spec.main)
    assert (trial.state.name, files_of(search, trial)) == ("COMPLETE", [])
    (line,) = [line for line in log if line.startswith(("WARNING", "ERROR"))]
    expected = (
        "no picture: MemoryError: no room for a picture" if trouble == "drawing" else "its picture cannot be kept"
    )
    assert expected in line


def test_an_upload_is_repeated_without_a_second_picture(join: Join, tmp_path: Path) -> None:
    search = join()
    one = begun(search, tmp_path)
    files = Artifacts(tmp_path / "artifacts", search.opened.storage)
    path = tmp_path / "case.png"
    path.write_bytes(b"first")
    first = files.to_trial(one.key, path, "image/png")
    path.write_bytes(b"second")
    assert files.to_trial(one.key, path, "image/png") == first
    assert [meta.artifact_id for meta in files_of(search, one.trial)] == [first]
    assert (tmp_path / "artifacts" / first).read_bytes() == b"second"


@pytest.mark.parametrize("network", ["unet", "resunet"])
def test_drawing_changes_no_bit_of_any_member(teacher: dict[str, Any], tmp_path: Path, network: str) -> None:
    def end(*, draws: bool) -> list[Any]:
        cohort = Cohort(CPU(), slots=2, cache=tmp_path)
        cohort.admit(0, taught(teacher, epochs=3, student={"name": network, "width": 4}))
        cohort.admit(1, run_of(epochs=3))
        for _ in range(3):
            cohort.epoch()
            if draws:
                outer, mode = torch.get_rng_state(), cohort._members[0].trained.network.training
                assert cohort.picture(0, tmp_path / "case.png") == tmp_path / "case.png"
                assert torch.equal(torch.get_rng_state(), outer)
                assert cohort._members[0].trained.network.training == mode
        return [cohort._members[key].trained.state() for key in (0, 1)]

    assert same(end(draws=False), end(draws=True))


def same(first: Any, second: Any) -> bool:
    """Equal bit for bit, through dicts and lists."""
    if isinstance(first, torch.Tensor):
        return torch.equal(first, second)
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(same(first[key], second[key]) for key in first)
    if isinstance(first, list):
        return len(first) == len(second) and all(map(same, first, second))
    return bool(first == second)


def test_a_picture_reads_a_few_validation_images_and_nothing_else(teacher: dict[str, Any], tmp_path: Path) -> None:
    cohort = Cohort(CPU(), slots=1, cache=tmp_path)
    run = taught(teacher)
    cohort.admit(0, run)
    assert cohort.epoch()[0].epoch == 1
    data = cohort._resources.data(run)
    read: set[tuple[str, str, int]] = set()

    def watch(name: str) -> None:
        inner = getattr(data, name)

        def reading(part: str, index: int, *rest: object) -> Any:
            read.add((name, part, index))
            return inner(part, index, *rest)

        setattr(data, name, reading)

    for name in ("fitted", "native", "native_mask", "placement"):
        watch(name)
    assert cohort.picture(0, tmp_path / "case.png") is not None
    assert {part for _, part, _ in read} == {"validation"}
    assert len({index for _, _, index in read}) == 6
    best = cohort._members[0].trained.best
    assert best is not None
    assert {sorted(range(9), key=best["dice"].__getitem__)[0]} <= {index for _, _, index in read}


def test_there_is_no_picture_before_a_validation(tmp_path: Path) -> None:
    cohort = Cohort(CPU(), slots=1, cache=tmp_path)
    cohort.admit(0, run_of(epochs=2, validate={"from": 2, "every": 1}))
    cohort.epoch()
    assert cohort.picture(0, tmp_path / "case.png") is None
    assert not (tmp_path / "case.png").exists()
