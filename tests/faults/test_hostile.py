"""What a careless or hostile hand may give: names, files and passwords that must do nothing but be refused."""

import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import sqlalchemy as sa

from search.postgres.backup import backup, without_secrets
from search.spec.load import load
from search.storage.url import label_of
from trainer.errors import UserError

SECRET = "p{0}%q'; DROP TABLE trials; --"  # noqa: S105 - it opens nothing
NAMES = [
    "",
    ".",
    "..",
    "a/../../b",
    "/etc/passwd",
    "a\nb",
    "a b",
    "x" * 600,
    "<img src=x onerror=alert(1)>",
    "'; DROP TABLE studies; --",
    "$(touch /tmp/x)",
    "a\x00b",
    "ñ",
    "-rf",
]


@pytest.mark.parametrize("name", NAMES, ids=lambda name: repr(name)[:24])
def test_a_name_that_is_more_than_a_name_is_refused(tmp_path: Path, tools: SimpleNamespace, name: str) -> None:
    """It would be a folder, a row, a word of a page and an argument of a command."""
    study = tmp_path / "plain.toml"
    study.write_text(tools.STUDY)
    with pytest.raises(UserError, match="name") as raised:
        load(study, name=name)
    assert "\n" not in str(raised.value)
    assert len(str(raised.value)) < 400


@pytest.mark.parametrize(
    "text",
    [
        "[objective]\nmaximize = " + "[" * 100_000,
        "a = " + "{ a = " * 40 + "1" + " }" * 40,
        ".".join("a" * 3000) + " = 1",
        "# " + "x" * 2_000_000,
        "[objective]\nmaximize = 1e999999999",
        '[objective]\nmaximize = "dice"\n[run]\nmethod = "!!python/object/apply:os.system"',
        "\x00\x01\x02",
    ],
    ids=["brackets", "tables", "dots", "size", "number", "tag", "bytes"],
)
def test_a_file_made_to_hurt_is_refused_in_one_line(tmp_path: Path, text: str) -> None:
    study = tmp_path / "bad.toml"
    study.write_text(text)
    with pytest.raises(UserError) as raised:
        load(study)
    assert "\n" not in str(raised.value)
    assert len(str(raised.value)) < 600


def test_a_password_is_nowhere_but_in_the_environment(herd: Any, proxy: Any, tools: SimpleNamespace) -> None:
    """Not in the arguments, the log, the files of the run or our own tables, also while the database is away."""
    away = proxy(herd.url)
    url = sa.make_url(away.url).set(password=SECRET).render_as_string(hide_password=False)
    herd.study.write_text(tools.STUDY.replace(f"epochs = {tools.EPOCHS}", "epochs = 1000"))
    worker = herd.start(url, epoch=0.1, anew=True)
    tools.until(lambda: any(row.epoch for row in herd.rows()), 60)
    words = Path(f"/proc/{worker.pid}/cmdline").read_bytes()
    environment = Path(f"/proc/{worker.pid}/environ").read_bytes()
    away.go()
    tools.until(lambda: worker.lines("database away"))
    away.come_back()
    tools.until(lambda: worker.lines("database back"))
    worker.send(signal.SIGTERM)
    herd.finish()
    parts = [SECRET.encode(), SECRET[:4].encode(), sa.make_url(url).render_as_string(hide_password=False).encode()]
    encoded = url.split(":", 2)[2].rpartition("@")[0].encode()
    assert encoded in environment  # the search for it would find it
    for secret in [*parts, encoded]:
        assert secret not in words
        assert secret not in worker.log.encode()
        for path in (herd.folder / "runs").rglob("*"):
            assert path.is_dir() or secret not in path.read_bytes()
    with herd.look().opened.engine.begin() as connection:
        for table in ("kd_search", "kd_arm", "kd_lease", "kd_attempt", "kd_orphan", "study_user_attributes"):
            rows = connection.execute(sa.text(f"SELECT * FROM {table}")).all()  # noqa: S608 - names of this list
            assert SECRET not in str(rows)
            assert encoded.decode() not in str(rows)


def test_no_secret_of_a_url_is_an_argument_or_shown(postgres_url: str, join: Any, tmp_path: Path) -> None:
    """The password of a client certificate stands in the query; PostgreSQL's programs get it by a private file."""
    engine = join().opened.engine
    engine.dispose()
    url = sa.make_url(postgres_url).update_query_dict({"sslpassword": SECRET, "password": SECRET})
    with without_secrets(url) as (conninfo, environment):
        assert SECRET[:4] not in sa.make_url(conninfo).render_as_string(hide_password=False)
        file = Path(environment["PGSERVICEFILE"])
        assert f"sslpassword={SECRET}\n" in file.read_text()
        assert file.stat().st_mode & 0o777 == 0o600
    assert not file.exists()
    shown = label_of(url.render_as_string(hide_password=False))
    assert "p%7B0%7D" not in shown
    assert SECRET[:4] not in shown
    assert "sslpassword=%2A%2A%2A" in shown or "sslpassword=***" in shown
    counts = backup(url.render_as_string(hide_password=False), tmp_path / "some.dump", None)
    assert counts.studies == 1
