"""A connection pooler in transaction mode between the workers and PostgreSQL."""

import getpass
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
import sqlalchemy as sa

from search.storage import database
from search.storage.errors import DatabaseUnavailable
from trainer.errors import UserError

INI = """\
[databases]
{name} = {where} dbname={name}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = any
pool_mode = transaction
ignore_startup_parameters = {ignored}
logfile = {folder}/log
"""


@pytest.fixture
def pooler(postgres_url, request):
    """The URL of a real pgbouncer in transaction mode before a fresh database, and its log."""
    ignored = getattr(request, "param", "options, extra_float_digits")
    program = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin")
    if program is None:
        pytest.skip("pgbouncer is not installed (Debian: apt install pgbouncer)")
    url = sa.make_url(postgres_url)
    folder = Path(tempfile.mkdtemp(prefix="kd-pooler-", dir="/tmp"))  # pytest's own folders are closed to other users
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    host = url.query.get("host") or url.host
    where = f"host={host} user={url.username}" + (f" port={url.port}" if url.port else "")
    where += f" password={url.password}" if url.password else ""
    (folder / "pooler.ini").write_text(
        INI.format(name=url.database, where=where, port=port, folder=folder, ignored=ignored)
    )
    user = None
    if os.getuid() == 0:  # it does not run as root
        user = Path(host).owner() if str(host).startswith("/") else "nobody"  # whoever may reach the server's socket
        shutil.chown(folder, user)
    server = subprocess.Popen([program, str(folder / "pooler.ini")], user=user, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            assert server.poll() is None, (folder / "log").read_text()
            time.sleep(0.05)
        name = url.username or getpass.getuser()
        yield f"postgresql+psycopg2://{name}@127.0.0.1:{port}/{url.database}", folder / "log"
    finally:
        server.send_signal(signal.SIGINT)
        server.wait(20)
        shutil.rmtree(folder)


def test_workers_share_a_study_through_a_pooler(pooler, tmp_path, repository):
    """Locks are those of transactions: one of a session would stay in the pooler's connection and block everybody."""
    url, log = pooler
    words = ["--name", "pooled", "--workers", "2", "--ttl", "2", "--runs", str(tmp_path), "--set", "budget.trials=6"]
    done = subprocess.run(
        [sys.executable, "-m", "search", "simulate", "demo", "--shared", *words],
        cwd=repository,
        env=os.environ | {"OPTUNA_STORAGE": url},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, f"{done.stderr}\n{log.read_text()}"
    assert log.read_text().count("login attempt") >= 3, "the statements went another way"
    assert "0 left running or waiting" in done.stdout


def test_a_blocked_statement_ends_through_a_pooler_and_leaves_its_connection_free(pooler, postgres_url, monkeypatch):
    """What a connection asks for at its start is dropped by the pooler; the limit stands in each transaction."""
    monkeypatch.setattr(database, "CALL_SECONDS", 1)
    pooled = database.open_storage(pooler[0])
    other = sa.create_engine(postgres_url, poolclass=sa.NullPool)
    update = sa.text("UPDATE kd_schema SET version = version")
    with other.begin() as holder:
        holder.execute(update)
        with (
            pytest.raises(sa.exc.OperationalError, match=r"due to (lock|statement) timeout"),
            pooled.engine.begin() as own,
        ):
            own.execute(update)
    with pooled.engine.begin() as own:
        own.execute(update)
    pooled.engine.dispose()


def test_without_a_pooler_transactions_have_no_statement_more(postgres_url):
    opened = database.open_storage(postgres_url)
    statements = []
    sa.event.listen(opened.engine, "before_cursor_execute", lambda *call: statements.append(call[2]))
    with opened.engine.begin() as own:
        own.execute(sa.text("SELECT 1"))
    opened.engine.dispose()
    assert statements == ["SELECT 1"]


@pytest.mark.parametrize("pooler", ["extra_float_digits"], indirect=True, ids=["takes no options"])
def test_a_pooler_that_is_not_set_up_is_a_mistake_and_not_waited_for(pooler):
    with pytest.raises(UserError, match="unsupported startup parameter: options") as refused:
        database.open_storage(pooler[0])
    assert not isinstance(refused.value, DatabaseUnavailable)


def test_who_waits_too_long_for_the_creation_lock_is_told_so(database_url, monkeypatch):
    database.open_storage(database_url).engine.dispose()
    monkeypatch.setattr(database, "CREATION_SECONDS", 1)
    with database.creation_lock(database_url), pytest.raises(UserError, match="another process has been making tables"):
        database.open_storage(database_url)
