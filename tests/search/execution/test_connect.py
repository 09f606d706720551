"""A worker that begins while its database is away waits for it, within bounds; all groups begin together or none."""

import json
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from search.execution.connect import AskedToStopError, connect
from search.execution.group import SingleProcess
from search.storage.database import Database, open_storage
from search.storage.errors import repeated
from trainer.errors import UserError

PLACE = "postgresql://u:***@h/db"


def together(work: Callable[[], Database], patience: float) -> Database | None:
    """As the groups of a worker open their search."""
    return connect(SingleProcess(), work, place=PLACE, patience=patience)


def alone(work: Callable[[], Database], patience: float) -> Database | None:
    """As one of them reads and keeps what a confirmation needs."""
    return repeated(work, place=PLACE, patience=patience)


by_one_rule = pytest.mark.parametrize("opened", [together, alone])


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@by_one_rule
def test_it_waits_with_one_line_and_goes_on_when_the_database_is_there(
    opened: Callable[..., Database | None], postgres_url: str, postgres_admin: sa.Engine, log: list[str]
) -> None:
    """Connections are refused as by a server with too many, until somebody lets them in."""
    url = sa.make_url(postgres_url)
    role = f"r_{url.database}"

    def admin(statement: str) -> None:
        with postgres_admin.connect() as connection:
            connection.execute(sa.text(statement))

    admin(f'CREATE ROLE "{role}" LOGIN CONNECTION LIMIT 0')
    admin(f'ALTER DATABASE "{url.database}" OWNER TO "{role}"')

    def let_in() -> None:
        end = time.monotonic() + 20
        while not any("database away" in line for line in log) and time.monotonic() < end:
            time.sleep(0.05)
        admin(f'ALTER ROLE "{role}" CONNECTION LIMIT -1')

    somebody = threading.Thread(target=let_in)
    somebody.start()
    try:
        mine = url.set(username=role).render_as_string(hide_password=False)
        found: Database | None = opened(lambda: open_storage(mine), 30)
        assert found is not None
        found.engine.dispose()
    finally:
        somebody.join()
        admin(f'DROP DATABASE "{url.database}" WITH (FORCE)')
        admin(f'DROP ROLE "{role}"')
    (away,) = [line for line in log if "database away" in line]
    assert PLACE in away
    assert "too many connections" in away
    assert "waiting up to 30 s" in away
    assert len([line for line in log if "database back" in line]) == 1


@by_one_rule
def test_the_wait_is_bounded(opened: Callable[..., Database | None]) -> None:
    nobody = f"postgresql://u@127.0.0.1:{free_port()}/db"
    with pytest.raises(UserError, match=r"does not answer for 1 s: .*refused"):
        opened(lambda: open_storage(nobody), 1)
    with pytest.raises(UserError, match="does not answer: "):
        opened(lambda: open_storage(nobody), 0)


def test_a_wish_to_stop_ends_the_wait_at_once() -> None:
    group = SingleProcess()
    threading.Timer(1.0, group.ask_to_stop).start()
    began = time.monotonic()
    with socket.create_server(("127.0.0.1", 0)) as silent:
        # It takes the connection and says nothing: the call itself hangs.
        url = f"postgresql://u@127.0.0.1:{silent.getsockname()[1]}/db"
        with pytest.raises(AskedToStopError):
            connect(group, lambda: open_storage(url), place=PLACE, patience=60)
    assert time.monotonic() - began < 9, "a connection that says nothing is given up after 10 s"


@by_one_rule
@pytest.mark.parametrize("mistake", ["database", "username", "host"])
def test_a_mistake_is_told_at_once(
    opened: Callable[..., Database | None],
    postgres_server: sa.URL,
    mistake: str,
    monkeypatch: pytest.MonkeyPatch,
    log: list[str],
) -> None:
    """An unknown host is one, but for ranks that were started again: they had the database before."""
    wrong = {"database": "nowhere", "username": "nobody", "host": "no-such-host.invalid"}[mistake]
    url = postgres_server.set(**{mistake: wrong}, query={} if mistake == "host" else postgres_server.query)
    text = url.render_as_string(hide_password=False)
    began = time.monotonic()
    with pytest.raises(UserError) as raised:
        opened(lambda: open_storage(text), 60)
    if mistake == "host" and "Temporary failure" in str(raised.value):
        pytest.skip("no name server can be asked here")
    assert time.monotonic() - began < 30
    assert not any("database away" in line for line in log)
    if mistake == "host":
        monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
        with pytest.raises(UserError, match="does not answer for 1 s"):
            opened(lambda: open_storage(text), 1)


GROUPS = """
import json, time
from pathlib import Path
from search.execution.connect import connect
from trainer.errors import UserError
from trainer.distributed.ranks import Ranks
ranks = Ranks.join(1, stall=20, device="cpu")
found = [ranks.groups, connect(ranks, lambda: ranks.group, place="there", patience=5)]

def wrong():
    if ranks.group == 1:
        time.sleep(1)
        raise UserError("the mistake of one")
    return "ready"

try:
    connect(ranks, wrong, place="there", patience=5)
except UserError as error:
    found.append(str(error))
Path({out!r}, str(ranks.group)).write_text(json.dumps(found))
ranks.leave()
"""


def test_a_mistake_of_one_group_is_that_of_all(tmp_path: Path, fork: Callable[..., Any]) -> None:
    """Two groups of one rank each: neither goes on to train beside a device that stands idle."""
    code = GROUPS.format(out=str(tmp_path))
    plain = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    ranks = [fork(code, **plain, RANK=str(index)) for index in range(2)]
    assert [rank.wait(60) for rank in ranks] == [0, 0], ranks[0].log + ranks[1].log
    found = [json.loads((tmp_path / str(group)).read_text()) for group in range(2)]
    assert found == [[2, 0, "the mistake of one"], [2, 1, "the mistake of one"]]
