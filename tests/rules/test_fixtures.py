"""The fixtures keep what they promise: real servers, fresh databases, room for every client."""

import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
import sqlalchemy as sa
import torch

CLIENTS = 32


def test_each_database_is_empty_and_takes_writes(database_url):
    engine = sa.create_engine(database_url)
    with engine.begin() as connection:
        connection.execute(sa.text("CREATE TABLE seen (word TEXT)"))
        connection.execute(sa.text("INSERT INTO seen VALUES ('x')"))
    assert sa.inspect(engine).get_table_names() == ["seen"]
    engine.dispose()


def test_postgres_serves_32_clients_at_once(postgres_url):
    engine = sa.create_engine(postgres_url, pool_size=CLIENTS)
    connections = [engine.connect() for _ in range(CLIENTS)]
    assert [connection.execute(sa.text("SELECT 1")).scalar_one() for connection in connections] == [1] * CLIENTS
    for connection in connections:
        connection.close()
    engine.dispose()


def test_processes_run_on_one_thread():
    words = [sys.executable, "-c", "import torch; print(torch.get_num_threads())"]
    assert subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip() == "1"
    assert torch.get_num_threads() == 1


@pytest.mark.slow
def test_a_killed_session_leaves_no_server(tmp_path, repository, monkeypatch):
    """A session that is killed in the middle of a test takes its own PostgreSQL with it."""
    monkeypatch.delenv("KD_TEST_DATABASE", raising=False)
    monkeypatch.setenv("PYTHONPATH", str(repository))
    inner = tmp_path / "test_inner.py"
    inner.write_text(
        "import os, signal\n"
        "def test_dies(postgres_server):\n"
        f"    open({str(tmp_path / 'socket')!r}, 'w').write(postgres_server.query['host'])\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    (tmp_path / "conftest.py").write_text((repository / "tests" / "conftest.py").read_text())
    words = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(tmp_path), str(inner)]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == -9, done.stdout + done.stderr
    _assert_gone(Path((tmp_path / "socket").read_text()).parent)


def _assert_gone(folder: Path) -> None:
    deadline = time.monotonic() + 30.0
    while folder.exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not folder.exists()


def test_the_line_above_the_last_says_what_all_processes_cost(tmp_path, repository):
    """Those of pytest-xdist and their children, too: the child of this test alone takes a second."""
    burn = "import time; [0 for _ in iter(time.process_time, None) if time.process_time() > 1 and exit()]"
    inner = tmp_path / "test_inner.py"
    inner.write_text(f"import subprocess, sys\ndef test_burns(): subprocess.run([sys.executable, '-c', {burn!r}])\n")
    (tmp_path / "conftest.py").write_text((repository / "tests" / "processes.py").read_text())
    words = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-n", "1", "--rootdir", str(tmp_path)]
    done = subprocess.run([*words, str(inner)], cwd=tmp_path, capture_output=True, text=True, check=True)
    *_, above, last = done.stdout.splitlines()
    total, user, _ = map(int, re.fullmatch(r"CPU seconds: (\d+) \(user (\d+), system (\d+)\)", above).groups())
    assert total >= user >= 1
    assert last.startswith("1 passed")


def test_a_command_under_test_hears_ctrl_c_though_the_tests_were_started_in_the_background(tmp_path, repository):
    """A script's & makes what it starts ignore SIGINT, and that is inherited."""
    inner = tmp_path / "test_inner.py"
    inner.write_text(
        "import signal, subprocess, sys\n"
        "def test_child():\n"
        "    code = 'import signal; raise SystemExit(signal.getsignal(signal.SIGINT) is signal.SIG_IGN)'\n"
        "    assert subprocess.run([sys.executable, '-c', code]).returncode == 0\n"
    )
    (tmp_path / "conftest.py").write_text((repository / "tests" / "processes.py").read_text())
    words = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(tmp_path), str(inner)]
    done = subprocess.run(["bash", "-c", 'trap "" INT; exec "$@"', "bash", *words], cwd=tmp_path, check=False)
    assert done.returncode == 0
