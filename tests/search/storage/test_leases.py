"""Who runs which trial: taking, watching, closing, opening a database by many, and what a user hears of a bad one."""

import os
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from search.execution.held_trials import HeldTrials
from search.execution.messages import WorkerSettings
from search.storage import schema
from search.storage import url as storage_addresses
from search.storage.database import creation_lock, open_storage
from search.storage.errors import is_transient
from search.storage.leases import AttemptRow, EpochCount, LeaseDetails, LeaseHandle, LeaseRow, StaleLeases
from search.storage.schema import attempts, leases, searches, version_row
from search.storage.searches import ArmRow, SearchRow
from search.storage.statements import Owner, Refused
from search.storage.url import disk_kind, label_of
from search.study.adapter import Claim, StudyAdapter
from trainer.errors import UserError

STUDY = """
[objective]
maximize = "dice"
[run]
method = "none"
epochs = 9
batch_size = 4
data = { name = "blobs", size = 32, train = 8, validation = 4 }
student = { name = "unet", width = 4 }
losses = { ce = {} }
optim = { lr = 1e-3 }
[space]
"optim.lr" = { low = 1e-4, high = 1e-1, log = true }
[sampler]
name = "random"
[pruner]
name = "halving"
[budget]
trials = 8
in_flight = 8
max_failed = 2
wall = "1h"
gpu_hours = 2.0
"""
ARMS = """
[[arms]]
name = "wide"
set = { "student.width" = 6 }
trials = 4
"""
ME, OTHER = Owner("me", "here"), Owner("other", "there")

Join = Callable[..., StudyAdapter]


@pytest.fixture
def join(database_url: str, open_again: Join) -> Join:
    """Open the one search of the test once more, as another process would."""
    return lambda *changes, text=STUDY: open_again(database_url, "leased", text, *changes)


def nothing_on_hand(_row: LeaseRow) -> int:
    return 0


def claim(search: StudyAdapter, owner: Owner = ME, stale: tuple[LeaseRow, ...] = ()) -> Claim:
    return search.claim(owner, nothing_on_hand, stale)


def seen(search: StudyAdapter, held: LeaseHandle) -> LeaseRow:
    return next(row for row in search.leases.of_studies([held.study_id]) if row.trial_id == held.trial_id)


def trained(search: StudyAdapter, epochs: int, owner: Owner = ME) -> LeaseHandle:
    """A held trial with reports up to an epoch, a rung at each report, and a checkpoint's name."""
    claimed = claim(search, owner)
    search.suggest(claimed)
    search.commit(claimed, "{}", "{}")
    for epoch in range(1, epochs + 1):
        changes = {"epoch": epoch, "checkpoint": f"epoch-{epoch}.pt", "checkpoint_sha256": "0" * 64, "best_score": 0.5}
        search.report(claimed.held, epoch, epoch / 10, changes)
        search.pruned(claimed.held)
    return claimed.held


def search_row(search: StudyAdapter) -> Any:
    row = search.searches.search("leased")
    assert row is not None
    return row


def rungs(search: StudyAdapter, number: int) -> list[str]:
    return [key for key in search.trials(search.spec.main)[number].system_attrs if key.startswith("completed_rung")]


def test_epochs_are_counted_by_study_without_those_of_failed_trials(join: Join) -> None:
    search = join()
    done, bad, _ = trained(search, 4), trained(search, 3), trained(search, 2)
    search.complete(done, 0.5, {})
    search.fail(bad, "bug", "a test's")
    assert search.leases.epoch_counts([done.study_id, -1]) == {done.study_id: EpochCount(1, 1, 4, 2)}


# ---- taking


def test_a_take_raises_the_token_and_forgets_what_is_trained_again(join: Join) -> None:
    search = join()
    held = trained(search, 4)
    assert rungs(search, held.number)
    before = rungs(search, held.number)
    taken = search.leases.acquire(seen(search, held), OTHER, resume_epoch=4, lost=True)
    assert taken == replace(held, token=2)
    trial = search.trials(search.spec.main)[0]
    assert (list(trial.intermediate_values), rungs(search, 0)) == ([1, 2, 3, 4], before)

    assert taken is not None
    again = search.leases.acquire(seen(search, taken), ME, resume_epoch=0, lost=True)
    assert again == replace(held, token=3)
    trial = search.trials(search.spec.main)[0]
    assert (trial.intermediate_values, rungs(search, 0)) == ({}, [])
    row = search.leases.row(held.trial_id)
    assert row is not None
    assert (row.epoch, row.checkpoint, row.best_score, row.owner, row.lost) == (0, None, None, "me", 2)
    tries = search.leases.attempts_of([held.study_id])
    assert [(t.token, t.owner, t.first_epoch, t.why) for t in tries] == [
        (1, "me", 1, "lost"),
        (2, "other", 5, "lost"),
        (3, "me", 1, None),
    ]
    assert all((t.ended is None) == (t.why is None) for t in tries)


def test_a_take_that_fails_half_way_changes_nothing(join: Join) -> None:
    """The token, the reports and the attempts change together."""
    search = join()
    held = trained(search, 3)
    row, trial = search.leases.row(held.trial_id), search.trials(search.spec.main)[0]
    with search.opened.engine.begin() as connection:
        blocked = dict(trial_id=held.trial_id, token=2, owner="x", host="x", first_epoch=1, began=0.0)
        connection.execute(attempts.insert().values(**blocked))
    with pytest.raises(Refused, match="attempt 2 already"):
        search.leases.acquire(seen(search, held), OTHER, resume_epoch=0, lost=True)
    assert search.leases.row(held.trial_id) == row
    assert search.trials(search.spec.main)[0].intermediate_values == trial.intermediate_values
    assert [t.why for t in search.leases.attempts_of([held.study_id])] == [None, None]


def test_a_lease_is_taken_only_as_it_was_seen(join: Join) -> None:
    search = join()
    held = trained(search, 1)
    row = seen(search, held)
    assert search.leases.heartbeat([held]) == set()
    assert search.leases.acquire(row, OTHER, resume_epoch=1, lost=True) is None  # it lives
    search.leases.give_back(held)
    free = seen(search, held)
    assert search.leases.acquire(row, OTHER, resume_epoch=1, lost=True) is None
    taken = search.leases.acquire(free, OTHER, resume_epoch=1, lost=False)
    assert taken is not None
    assert search.leases.acquire(free, ME, resume_epoch=1, lost=False) is None  # somebody was quicker
    search.complete(taken, 0.5, {})
    assert search.leases.acquire(replace(free, token=2, state="held"), ME, resume_epoch=1, lost=True) is None


def test_free_goes_before_waiting_before_new(join: Join) -> None:
    search = join()
    given = trained(search, 1)
    search.leases.give_back(given)
    search.enqueue(search.spec.main, {"optim.lr": 1e-2})
    order = [claim(search) for _ in range(3)]
    assert [c.held.number for c in order] == [0, 1, 2]
    assert (order[0].held.token, order[0].seen is not None) == (2, True)
    assert [search.suggest(c)["optim.lr"] == 1e-2 for c in order[1:]] == [True, False]


def test_an_owner_takes_its_own_trials_back_at_once_and_nobody_elses(join: Join) -> None:
    search, restarted = join(), join()
    own, others = trained(search, 2), trained(search, 1, OTHER)
    claims = restarted.reacquire(ME, lambda row: row.epoch)
    assert [c.held for c in claims] == [replace(own, token=2)]
    row = search.leases.row(own.trial_id)
    assert row is not None
    assert (row.lost, row.epoch, row.owner) == (0, 2, "me")  # a restart is not charged
    assert search.leases.attempts_of([own.study_id])[0].why == "restarted"
    assert search.leases.heartbeat([own, others]) == {own.trial_id}  # the rank that still lives is a zombie now


# ---- watching


def row_of(number: int, *, beat: int = 0, token: int = 1, state: str = "held") -> LeaseRow:
    return LeaseRow(number, 1, number, state, "w", token, beat, 0, 0, None, None, None, None)


def test_nothing_is_stale_before_a_whole_time_to_live_of_contact() -> None:
    watch = StaleLeases(60.0)
    for now in range(0, 60, 5):
        assert watch.stale([row_of(1)], 1000.0 + now) == []
    assert watch.stale([row_of(1)], 1060.0) == [row_of(1)]


def test_a_beat_or_another_token_begins_anew() -> None:
    watch = StaleLeases(60.0)
    for now in range(0, 55, 5):
        watch.stale([row_of(1), row_of(2), row_of(3)], float(now))
    assert watch.stale([row_of(1, beat=1), row_of(2, token=2), row_of(3)], 55.0) == []
    assert watch.stale([row_of(1, beat=1), row_of(2, token=2), row_of(3)], 60.0) == [row_of(3)]
    for now in range(65, 115, 5):
        watch.stale([row_of(1, beat=1), row_of(2, token=2)], float(now))
    assert watch.stale([row_of(1, beat=1), row_of(2, token=2)], 115.0) == [row_of(1, beat=1), row_of(2, token=2)]


@pytest.mark.parametrize("noticed", [True, False], ids=["errors", "a pause of the watcher"])
def test_an_outage_proves_nothing(noticed: bool) -> None:
    """Neither where calls failed nor where the watcher itself stood still (suspended, swapped out)."""
    watch = StaleLeases(60.0)
    for now in range(0, 55, 5):
        watch.stale([row_of(1)], float(now))
    if noticed:
        watch.interrupt()
    back = 400.0
    for now in range(0, 60, 5):
        assert watch.stale([row_of(1)], back + now) == []
    assert watch.stale([row_of(1)], back + 60.0) == [row_of(1)]


def test_free_trials_are_never_stale() -> None:
    watch = StaleLeases(60.0)
    for now in range(0, 200, 10):
        assert watch.stale([row_of(1, state="free")], float(now)) == []


# ---- closing


def test_a_trial_whose_worker_vanished_three_times_fails(join: Join, tmp_path: Path) -> None:
    """Told by whoever takes it; giving back is not charged."""
    search = join()
    members = HeldTrials(search, WorkerSettings(OTHER, 1, tmp_path, 1, {}, breach=lambda _: None))
    held = claim(search).held
    for _ in range(5):
        search.leases.give_back(held)
        held = claim(search).held
    for lost in (1, 2):
        taken = claim(search, OTHER, (seen(search, held),))
        members.begin(taken)
        assert members.held.pop(held.trial_id).lease == taken.held
        row = search.leases.row(held.trial_id)
        assert row is not None
        assert (row.lost, row.state) == (lost, "held")
        held = taken.held
    members.begin(claim(search, OTHER, (seen(search, held),)))
    assert members.held == {}
    row = search.leases.row(held.trial_id)
    assert row is not None
    assert (row.state, row.failure, row.lost) == ("finished", "lost", 3)
    assert search.counts()["kd"].failed == 1
    assert search.leases.attempts_of([held.study_id])[-1].why == "lost"


def age(search: StudyAdapter, **values: float) -> None:
    with search.opened.engine.begin() as connection:
        connection.execute(searches.update().values(**values))


def fail_two(search: StudyAdapter) -> None:
    for _ in range(2):
        search.fail(claim(search).held, "bug", "broken")


def use_up(search: StudyAdapter) -> None:
    with search.opened.engine.begin() as connection:
        connection.execute(leases.update().values(gpu_seconds=7200.0))


CLOSINGS: dict[str, tuple[Callable[[StudyAdapter], None], str]] = {
    "max_failed": (fail_two, "max_failed: 2 trials failed"),
    "wall": (lambda s: age(s, began=1.0), "wall: 1.00 h are over"),
    "gpu_hours": (use_up, "gpu_hours: 2.0 are used"),
    "stop": (lambda s: s.searches.ask_to_stop(s.search_id, "drain"), r"the search was asked to stop \(running"),
}


@pytest.mark.parametrize("kind", CLOSINGS)
def test_a_closed_search_admits_nothing_new_but_lets_free_trials_end(join: Join, kind: str) -> None:
    search = join()
    close, expected = CLOSINGS[kind]
    free = claim(search).held
    search.enqueue(search.spec.main, {"optim.lr": 1e-2})
    assert search.searches.closed(search.search_id) == (None, None)
    search.leases.give_back(free)
    if kind == "max_failed":
        taken = claim(search)
        close(search)  # two others fail
        search.leases.give_back(taken.held)
        search.enqueue(search.spec.main, {"optim.lr": 1e-2})
    else:
        close(search)
    taken = claim(search, OTHER)
    assert taken.held.trial_id == free.trial_id
    with pytest.raises(Refused, match=expected) as refused:
        claim(search, OTHER)
    assert refused.value.final
    search.complete(taken.held, 0.5, {})
    assert search.counts()["kd"].waiting == 1
    why, stop = search.searches.closed(search.search_id)
    assert why is not None
    assert (why.kind.name.lower(), why.text) == (kind, refused.value.reason)
    assert stop == ("drain" if kind == "stop" else None)


def test_the_clock_of_wall_begins_with_the_first_admission(join: Join) -> None:
    search = join()
    search.enqueue(search.spec.main, {"optim.lr": 1e-2})
    assert search_row(search).began is None
    claim(search)
    began = search_row(search).began
    assert began > 1.6e9
    claim(search)
    assert search_row(search).began == began
    age(search, began=began - 3590.0)
    claim(search)
    age(search, began=began - 3601.0)
    with pytest.raises(Refused, match="wall"):
        claim(search)


# ---- opening


def test_a_changed_study_is_refused_with_the_difference(join: Join) -> None:
    search = join()
    with pytest.raises(UserError) as refused:
        join(text=STUDY.replace("epochs = 9", "epochs = 5").replace("high = 1e-1", "high = 1e-2"))
    message = str(refused.value)
    assert "study 'leased' exists with another identity" in message
    assert "run.epochs: 9 -> 5" in message
    assert "0.1 -> 0.01" in message
    assert "--name" in message
    assert "\n" not in message
    again = join("budget.trials=9", "budget.in_flight=9", "sampler.seed=7", "budget.wall='2h'")  # these may change
    assert (again.folder, again.search_id) == (search.folder, search.search_id)
    assert search_row(again).wall_seconds == 7200.0
    assert [claim(again).held.number for _ in range(9)] == list(range(9))


def test_two_arms_share_by_need(join: Join) -> None:
    """The arm that is furthest behind its share is served first, so both end together."""
    search = join("budget.wall='2h'", text=STUDY + ARMS)
    drawn = [claim(search).arm.name for _ in range(12)]
    for done in range(1, 13):
        main, wide = drawn[:done].count("kd"), drawn[:done].count("wide")
        assert abs(main / 8 - wide / 4) <= 0.25
    assert (drawn.count("kd"), drawn.count("wide")) == (8, 4)
    with pytest.raises(Refused):
        claim(search)
    assert {c.running for c in search.counts().values()} == {8, 4}


OPENER = """
import os
from pathlib import Path
from search.study.create import open_search
from search.commands.simulate import simulated_identity
from search.spec.load import load
from search.storage.database import open_storage
spec = load(Path({path!r}))
os.read({gate}, 1)
search = open_search(open_storage({url!r}), {url!r}, spec, simulated_identity(spec))
print(search.folder, sorted(search.arms))
"""


def test_an_empty_database_opened_by_eight_processes_holds_one_search(
    database_url: str, tmp_path: Path, fork: Callable[..., Any]
) -> None:
    path = tmp_path / "leased.toml"
    path.write_text(STUDY + ARMS + '[[enqueue]]\n"optim.lr" = 1e-2\n')
    gate, opens = os.pipe()
    script = OPENER.format(path=str(path), url=database_url, gate=gate)
    children = [fork(script) for _ in range(8)]
    os.write(opens, b"go go go")
    outputs = []
    for child in children:
        assert child.wait(100) == 0, child.log
        outputs.append(child.log)
    os.close(gate)
    os.close(opens)
    assert len(set(outputs)) == 1, outputs
    opened = open_storage(database_url)
    assert opened.searches.names() == ["leased"]
    search_id = getattr(opened.searches.search("leased"), "search_id", 0)
    assert [arm.name for arm in opened.searches.arms_of(search_id)] == ["kd", "wide"]
    assert len(opened.storage.get_all_studies()) == 2
    assert sum(opened.searches.states([a.study_id for a in opened.searches.arms_of(search_id)]).values()) == 1
    opened.engine.dispose()


# ---- databases that cannot be used


SECRET = "s3cret-{0}-{x"  # noqa: S105 - the point of the test


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        pytest.param(f"postgresql://user:{SECRET}@127.0.0.1:9/db", "does not answer", id="no server"),
        pytest.param(f"postgresql://user:{SECRET}@127.0.0.1:port/db", "no database URL", id="port is a word"),
        pytest.param(
            f"postgresql://user:a/{SECRET}:{SECRET}@127.0.0.1:9/db", "does not answer", id="slash in password"
        ),
        pytest.param(f"user:{SECRET}@127.0.0.1", "no database URL", id="no URL"),
        pytest.param(f"mysql://user:{SECRET}@127.0.0.1/db", "'mysql' is not supported", id="another database"),
        pytest.param(
            f"postgresql+pg8000://user:{SECRET}@127.0.0.1/db",
            "'postgresql+pg8000' is not supported",
            id="a driver that is not there",
        ),
        pytest.param("sqlite://", "in-memory", id="in memory"),
        pytest.param("sqlite:////nowhere/to/be/found/s.db", "does not exist; create it first", id="no folder"),
    ],
)
@pytest.mark.parametrize("create", [True, False])
def test_a_database_that_cannot_be_used_is_one_line_without_the_password(url: str, expected: str, create: bool) -> None:
    with pytest.raises(UserError) as refused:
        open_storage(url, create=create)
    message = str(refused.value)
    assert expected in message
    assert "\n" not in message
    assert "s3cret" not in message
    assert refused.value.__cause__ is None
    assert refused.value.__suppress_context__ or refused.value.__context__ is None


def test_a_password_with_braces_and_percents_reaches_the_server(
    postgres_url: str, postgres_admin: sa.Engine, tmp_path: Path
) -> None:
    """Optuna formats the URL as a template, alembic interpolates it: neither may change a password."""
    user = f"kd_user_{tmp_path.name[-6:]}".replace("-", "_")
    secret = "p{0}%s%%{SCHEMA_VERSION}w"  # noqa: S105 - the point of the test
    url = sa.make_url(postgres_url)
    with postgres_admin.connect() as connection:
        connection.execute(sa.text(f'CREATE ROLE "{user}" LOGIN SUPERUSER PASSWORD :secret'), {"secret": secret})
    try:
        own = url.set(username=user, password=secret).render_as_string(hide_password=False)
        opened = open_storage(own)
        with opened.engine.connect() as connection:
            assert connection.execute(sa.text("SELECT current_user")).scalar_one() == user
            assert opened.engine.url.password == secret
        opened.engine.dispose()
        assert secret not in opened.label
        assert "***" in opened.label
    finally:
        with postgres_admin.connect() as connection:
            connection.execute(sa.text(f'DROP DATABASE IF EXISTS "{url.database}" WITH (FORCE)'))
            connection.execute(sa.text(f'DROP ROLE "{user}"'))


def test_the_documented_url_of_postgresql_names_no_driver(postgres_url: str) -> None:
    """SQLAlchemy 2.1 means another driver by it than 2.0: ours is the one that is installed with us."""
    plain = sa.make_url(postgres_url).set(drivername="postgresql").render_as_string(hide_password=False)
    opened = open_storage(plain)
    with creation_lock(plain):
        assert opened.searches.names() == []
    opened.engine.dispose()
    seen_again = open_storage(plain, create=False)
    assert seen_again.searches.names() == []
    seen_again.engine.dispose()


def test_a_label_shows_everything_but_the_password() -> None:
    assert label_of("postgresql://me:pw@host:1/db") == "postgresql://me:***@host:1/db"
    assert label_of("sqlite:///runs/search.db") == "sqlite:///runs/search.db"


@pytest.mark.parametrize(
    "password", ["Top@s3cret", "p@s3/cret@x", "s3?cret@x", "a@s3cret?b", "@s3cret", "s3cret@", "s3@cret#%"]
)
def test_a_password_with_an_at_is_refused_with_the_remedy_and_not_shown(password: str) -> None:
    """SQLAlchemy ends a password at its first @, so that the rest would be shown as the host."""
    with pytest.raises(UserError, match="password holds '@'; write it as %40") as refused:
        label_of(f"postgresql://me:{password}@host:1/db")
    assert "me:***@host:1/db" in str(refused.value)
    assert not any(part in str(refused.value) for part in ("s3", "cret", "Top"))


@pytest.mark.parametrize(
    ("url", "label"),
    [
        ("postgresql://me:a%40b@host/db", "postgresql://me:***@host/db"),
        ("postgresql://me@host/d@b", "postgresql://me@host/d%40b"),
        ("postgresql://me:pw@host/db?application_name=a@b", "postgresql://me:***@host/db?application_name=a%40b"),
    ],
)
def test_an_at_that_ends_no_password_is_read(url: str, label: str) -> None:
    assert label_of(url) == label


def test_the_kind_of_disk_is_that_of_the_deepest_mount(tmp_path: Path) -> None:
    mounts = tmp_path / "mounts"
    mounts.write_text(
        "/dev/sda1 / ext4 rw 0 0\nserver:/home /home nfs4 rw 0 0\ntmpfs /home/me/fast tmpfs rw 0 0\n"
        "//nas/x /media/with\\040space cifs rw 0 0\nbroken\n"
    )
    kinds = {"/srv": "ext4", "/home/me": "nfs4", "/home/me/fast/a": "tmpfs", "/homes": "ext4"}
    assert {folder: disk_kind(Path(folder), mounts) for folder in kinds} == kinds
    assert disk_kind(Path("/media/with space/a"), mounts) == "cifs"
    assert disk_kind(tmp_path, tmp_path / "absent") == "unknown"


def test_sqlite_on_a_network_disk_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mounts = tmp_path / "mounts"
    mounts.write_text(f"/dev/sda1 / ext4 rw 0 0\nserver:/x {tmp_path.resolve()} nfs rw 0 0\n")
    real = disk_kind
    monkeypatch.setattr(storage_addresses, "disk_kind", lambda folder: real(folder, mounts))
    with pytest.raises(UserError, match=r"lies on a network disk \(nfs\).*python -m search db start --dir"):
        open_storage(f"sqlite:///{tmp_path / 's.db'}")
    assert not (tmp_path / "s.db").exists()


@pytest.mark.parametrize(
    ("stored", "expected"),
    [(99, "newer than this program's .*use the program"), (0, "older .*python -m search db upgrade")],
)
def test_tables_of_another_version_are_refused(sqlite_url: str, stored: int, expected: str) -> None:
    opened = open_storage(sqlite_url)
    with opened.engine.begin() as connection:
        connection.execute(version_row.update().values(version=stored))
    opened.engine.dispose()
    with pytest.raises(UserError, match=f"tables of version {stored}, {expected}"):
        open_storage(sqlite_url)


@pytest.mark.parametrize(("version", "remedy"), [("v0.9.0.a", "search db upgrade"), ("v9.9.9.a", "use the program of")])
def test_tables_of_another_optuna_are_refused_with_the_remedy(sqlite_url: str, version: str, remedy: str) -> None:
    opened = open_storage(sqlite_url)
    with opened.engine.begin() as connection:
        connection.execute(sa.text(f"UPDATE alembic_version SET version_num = '{version}'"))  # noqa: S608 - of this test
    opened.engine.dispose()
    with pytest.raises(UserError, match=f"of version {version}.*{remedy}") as refused:
        open_storage(sqlite_url)
    assert "\n" not in str(refused.value)


def test_looking_makes_no_database(tmp_path: Path, postgres_url: str) -> None:
    absent = tmp_path / "absent.db"
    with pytest.raises(UserError, match="no such file"):
        open_storage(f"sqlite:///{absent}", create=False)
    assert not absent.exists()
    with pytest.raises(UserError, match="holds no search yet"):
        open_storage(postgres_url, create=False)
    engine = sa.create_engine(postgres_url, poolclass=sa.NullPool)
    assert sa.inspect(engine).get_table_names() == []
    engine.dispose()


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_sqlite_takes_its_write_lock_at_begin(join: Join) -> None:
    """Otherwise two processes pop the same waiting trial."""
    one, two = join(), join()
    with one.opened.engine.begin() as connection:
        connection.execute(sa.select(searches))
        raw = two.opened.engine.raw_connection()
        raw.driver_connection.execute("PRAGMA busy_timeout = 50")  # type: ignore[union-attr]
        raw.close()
        with pytest.raises(sa.exc.OperationalError, match="locked"), two.opened.engine.begin():
            pass
    with one.opened.engine.connect() as connection:
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar_one() == "wal"


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_an_sqlite_file_that_was_removed_or_replaced_is_a_database_that_is_away(join: Join) -> None:
    """SQLite itself would write on into what nobody can open any more, or begin an empty file."""
    engine = join().opened.engine
    file = Path(str(engine.url.database))
    aside = file.rename(file.with_name("aside.db"))
    for state in ("was removed", "is another file than before"):
        with pytest.raises(sa.exc.OperationalError, match=state) as error, engine.begin():
            pass
        assert is_transient(error.value)
        assert file.exists() == (state != "was removed")
        file.touch()
    aside.rename(file)
    with engine.begin() as connection:
        assert connection.execute(sa.select(searches)).all()


@pytest.mark.parametrize(
    ("row", "table"),
    [
        (LeaseDetails, schema.leases),
        (AttemptRow, schema.attempts),
        (SearchRow, schema.searches),
        (ArmRow, schema.arms),
    ],
)
def test_a_typed_row_has_the_columns_of_its_table(row: type[Any], table: sa.Table) -> None:
    columns = {column.name: column.nullable for column in table.columns}
    optional = {each.name: "None" in str(each.type) for each in fields(row)}
    assert optional == columns
