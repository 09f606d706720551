"""What the dashboard answers, to whom, and what it says on its terminal."""

import json
from typing import Any
from wsgiref.util import setup_testing_defaults

import optuna
import pytest
import sqlalchemy as sa
from optuna.storages import BaseStorage
from optuna_dashboard import wsgi

from search.dashboard.server import Guarded, _hosts
from search.dashboard.unmixed import Application, Unmixed
from search.storage.database import open_storage
from trainer.errors import UserError


def asked(application: Guarded, path: str = "/api/studies", **more: str) -> str:
    """The status line of an answer; more: variables of the request."""
    environ: dict[str, object] = {"PATH_INFO": path, **more}
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


def json_of(application: Application, path: str) -> Any:
    """The document of an answer."""
    environ: dict[str, Any] = {"PATH_INFO": path, "HTTP_HOST": "localhost"}
    setup_testing_defaults(environ)
    return json.loads(b"".join(application(environ, lambda *_: None)))


def a_study(url: str, parameter: str, trials: int) -> int:
    """A new study with trials of one parameter, made by another process; returns its id."""
    study = optuna.create_study(study_name="x", storage=url)
    study.optimize(lambda trial: trial.suggest_float(parameter, 0.0, 1.0), n_trials=trials)
    return study._study_id


def test_a_study_with_a_deleted_one_s_id_is_shown_as_itself(sqlite_url: str) -> None:
    """Of its list of parameters, its importances and its trials, which the dashboard keeps by the study's id."""
    opened = open_storage(sqlite_url)
    application = Guarded(Unmixed(opened, wsgi), "none")
    old = a_study(sqlite_url, "old", 4)
    for _ in range(2):
        shown = json_of(application, f"/api/studies/{old}")
        assert {each["name"] for each in shown["union_search_space"]} == {"old"}
    assert json_of(application, f"/api/studies/{old}/param_importances")["param_importances"]
    optuna.delete_study(study_name="x", storage=sqlite_url)
    assert a_study(sqlite_url, "new", 4) == old
    shown = json_of(application, f"/api/studies/{old}")
    assert {each["name"] for each in shown["union_search_space"]} == {"new"}
    assert {each["name"] for trial in shown["trials"] for each in trial["params"]} == {"new"}
    (importances,) = json_of(application, f"/api/studies/{old}/param_importances")["param_importances"]
    assert [each["name"] for each in importances] == ["new"]
    opened.engine.dispose()


def test_an_answer_that_was_begun_before_a_study_was_replaced_is_given_anew(sqlite_url: str) -> None:
    opened = open_storage(sqlite_url)
    old, replaced = a_study(sqlite_url, "old", 2), []

    def build(storage: BaseStorage) -> Application:
        real = wsgi(storage)

        def application(environ: dict[str, Any], start_response: Any) -> Any:
            body = real(environ, start_response)
            if not replaced:
                replaced.append(optuna.delete_study(study_name="x", storage=sqlite_url))
                a_study(sqlite_url, "new", 2)
            return body

        return application

    shown = json_of(Guarded(Unmixed(opened, build), "none"), f"/api/studies/{old}")
    assert {each["name"] for each in shown["union_search_space"]} == {"new"}
    opened.engine.dispose()


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "POST", "DELETE", "OPTIONS"])
@pytest.mark.parametrize("host", ["evil.example:8080", "localhost.evil.example", "", "127.0.0.1@evil", "[::2]"])
def test_a_host_that_it_was_not_started_for_is_refused(sqlite_url: str, method: str, host: str) -> None:
    opened = open_storage(sqlite_url)
    application = Guarded(Unmixed(opened, wsgi), "all")
    assert asked(application, REQUEST_METHOD=method, HTTP_HOST=host).startswith("403")
    opened.engine.dispose()


@pytest.mark.parametrize(
    "host", ["localhost:8080", "LOCALHOST", "127.0.0.1:9000", "[::1]:8080", "gpu1:8080", "GPU1.lab", "[fe80::1]"]
)
def test_loopback_names_and_those_that_were_given_are_answered(sqlite_url: str, host: str) -> None:
    opened = open_storage(sqlite_url)
    application = Guarded(Unmixed(opened, wsgi), "none", _hosts("gpu1", ["gpu1.lab", "fe80::1"]))
    assert asked(application, HTTP_HOST=host).startswith("200")
    opened.engine.dispose()


@pytest.mark.parametrize("given", ["http://gpu1", "gpu1:8080", "[::1]", "", "a/b"])
def test_a_host_that_is_no_name_is_a_mistake(given: str) -> None:
    with pytest.raises(UserError, match=r"--allow-host .*: give a name or an address alone"):
        _hosts("127.0.0.1", [given])


def test_the_page_lists_the_newest_search_first_and_its_main_study_before_the_others(sqlite_url: str) -> None:
    """The page itself turns the list that it gets round."""
    opened = open_storage(sqlite_url)
    for name in (
        "old",
        "old.no-kd",
        "new",
        "new.no-kd",
        "old.confirm",
        "new.confirm",
        "new.confirm.control-1",
        "newer",
    ):
        optuna.create_study(study_name=name, storage=opened.storage)
    listed = json_of(Guarded(Unmixed(opened, wsgi), "none"), "/api/studies")["study_summaries"]
    opened.engine.dispose()
    assert [study["study_name"] for study in reversed(listed)] == [
        *("newer", "new", "new.no-kd", "new.confirm", "new.confirm.control-1"),
        *("old", "old.no-kd", "old.confirm"),
    ]
