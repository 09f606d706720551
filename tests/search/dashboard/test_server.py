"""What the dashboard says on its terminal."""

from wsgiref.util import setup_testing_defaults

import pytest
import sqlalchemy as sa
from optuna_dashboard import wsgi

from search.dashboard.server import Guarded
from search.storage.database import open_storage


def asked(application: Guarded, path: str = "/api/studies") -> str:
    """The status line of an answer."""
    environ: dict[str, object] = {"PATH_INFO": path}
    setup_testing_defaults(environ)
    statuses: list[str] = []

    def begin(status: str, *_: object) -> None:
        statuses.append(status)

    list(application(environ, begin))
    return statuses[0]


def test_a_database_that_goes_is_one_line_and_one_when_it_is_back(
    postgres_url: str, postgres_admin: sa.Engine, log: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """However often visitors' browsers ask meanwhile."""
    opened = open_storage(postgres_url)
    application = Guarded(wsgi(opened.storage), "none")
    name = sa.make_url(postgres_url).database
    gone = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = :name"
    assert asked(application).startswith("200")
    with postgres_admin.connect() as admin:
        admin.execute(sa.text(f'ALTER DATABASE "{name}" WITH ALLOW_CONNECTIONS false'))
        admin.execute(sa.text(gone), {"name": name})
        assert [asked(application)[:3] for _ in range(3)] == ["500"] * 3
        admin.execute(sa.text(f'ALTER DATABASE "{name}" WITH ALLOW_CONNECTIONS true'))
    assert [asked(application)[:3] for _ in range(2)] == ["200"] * 2
    opened.engine.dispose()
    output = capsys.readouterr()
    assert (output.out, output.err) == ("", "")
    lines = [line for line in log if "database" in line]
    assert ["does not answer" in line for line in lines] == [True, False], log
    assert "is back" in lines[1]
    assert not any("Traceback" in line for line in log)


def test_another_error_keeps_its_traceback(sqlite_url: str, log: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    opened = open_storage(sqlite_url)

    def broken() -> list[object]:
        raise ValueError("a bug")

    monkeypatch.setattr(opened.storage, "get_all_studies", broken)
    assert asked(Guarded(wsgi(opened.storage), "none")).startswith("500")
    opened.engine.dispose()
    assert any("Exception: a bug" in line and "test_server.py" in line for line in log)
