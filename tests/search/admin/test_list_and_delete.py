"""`search list` names every search of a database; `search delete` leaves nothing but who opened the test rows."""

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import optuna
import pytest
import sqlalchemy as sa

from search.admin import delete, list
from search.storage.evidence import Evidence
from search.storage.schema import metadata
from search.storage.statements import Owner
from search.study.adapter import StudyAdapter
from search.study.artifacts import Artifacts
from trainer.errors import UserError
from trainer.reports import PerImageResult

Command = Callable[..., tuple[int, str]]


@pytest.fixture
def search(database_url: str, open_again: Callable[..., StudyAdapter], small_study: Callable[..., str]) -> StudyAdapter:
    return open_again(database_url, "tiny", small_study(trials=9, in_flight=9))


@pytest.fixture
def command(database_url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Command:
    """A command in this process: its exit code and what it printed."""

    def run(module, *arguments: str) -> tuple[int, str]:
        parser = argparse.ArgumentParser()
        module.add_arguments(parser)
        code = module.main(parser.parse_args([*arguments, "--storage", database_url]))
        return code, capsys.readouterr().out

    return run


def claim(search: StudyAdapter) -> None:
    search.claim(Owner("gpu1:1", "gpu1"), lambda _row: 0, ())


def counts(search: StudyAdapter) -> dict[str, int]:
    """Rows of our own tables and of Optuna's that a study has."""
    names = [table.name for table in metadata.sorted_tables if table.name not in ("kd_schema", "kd_opening")]
    names += ["studies", "trials", "trial_params", "trial_intermediate_values", "study_system_attributes"]
    with search.opened.engine.connect() as connection:
        known = sa.inspect(connection).get_table_names()
        return {
            name: connection.execute(sa.select(sa.func.count()).select_from(sa.table(name))).scalar_one()
            for name in names
            if name in known
        }


def test_every_search_is_listed_with_owner_state_and_pace(search, command, open_again, small_study, database_url):
    open_again(database_url, "second", small_study(trials=2))
    claim(search)
    code, text = command(list)
    assert code == 0
    head, _, second, tiny = text.splitlines()
    assert head.endswith(": 2 searches")
    assert second.split()[0] == "second"
    assert "waiting" in second
    assert tiny.split()[:5] == ["tiny", tiny.split()[1], "working", "0/9", "1"]
    document = json.loads(command(list, "--json")[1])
    assert [each["study"] for each in document["searches"]] == ["second", "tiny"]
    assert document["searches"][0]["owner"].count("@") == 1


def test_a_search_that_was_begun_before_owners_were_kept_has_none(search, command):
    with search.opened.engine.begin() as connection:
        table = metadata.tables["kd_search"]
        settings = json.loads(connection.execute(sa.select(table.c.settings)).scalar_one())
        del settings["owner"]
        connection.execute(table.update().values(settings=json.dumps(settings)))
    assert json.loads(command(list, "--json")[1])["searches"][0]["owner"] is None
    assert " -  " in command(list)[1]


def test_a_deleted_study_leaves_nothing_but_who_opened_its_test_rows(search, command, tmp_path, database_url):
    before = dict.fromkeys(counts(search), 0)
    claim(search)
    runs = tmp_path / "runs"
    (runs / search.folder / "kd").mkdir(parents=True)
    (runs / search.folder / "kd" / "last.pt").write_bytes(b"weights")
    (runs / "another").mkdir()
    picture = tmp_path / "p.png"
    picture.write_bytes(b"png")
    (study_id,) = search.arms
    shown = Artifacts(runs / "artifacts", search.opened.storage).to_study(study_id, "p.png", picture, "image/png")
    evidence = Evidence(search.opened.engine)
    evidence.open("tiny", search.folder, "me@here", "confirm", ["kd-1"])
    evidence.keep(search.folder, 0, [PerImageResult("test", 0.5, (), (), (), {}, ())])

    with pytest.raises(UserError, match=r"workers hold 1 trial; stop them first: python -m search stop tiny --now"):
        command(delete, "tiny", "--runs", str(runs), "--yes")
    with pytest.raises(UserError, match="nobody can be asked here; --yes"):
        command(delete, "tiny", "--runs", str(runs), "--anyway")
    assert (runs / search.folder).is_dir()

    code, text = command(delete, "tiny", "--runs", str(runs), "--yes", "--anyway")
    assert code == 0
    assert "tiny: deleted, 1 trial  [" in text
    assert text.splitlines()[-1] == "kept: 1 record of who opened its test rows, and when"
    assert counts(search) == before
    assert optuna.get_all_study_names(search.opened.storage) == []
    assert sorted(path.name for path in runs.iterdir()) == ["another", "artifacts"]
    assert not (runs / "artifacts" / shown).exists()
    assert [opening.who for opening in evidence.openings("tiny")] == ["me@here"]


def test_files_that_are_not_here_are_named_and_an_unknown_study_is_a_mistake(search, command, tmp_path):
    code, text = command(delete, "tiny", "--runs", str(tmp_path / "none"), "--yes")
    assert code == 0
    assert f"not here, remove where the workers ran: {tmp_path / 'none' / search.folder}" in text
    with pytest.raises(UserError, match="'tiny' is not in"):
        command(delete, "tiny", "--yes")


@pytest.mark.parametrize(("answer", "gone"), [("tiny", True), ("tinny", False)])
def test_the_study_is_named_again_before_it_is_deleted(search, command, monkeypatch, tmp_path, answer, gone):
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", lambda _prompt: answer)
    if gone:
        assert "python -m search db backup" in command(delete, "tiny", "--runs", str(tmp_path))[1]
    else:
        with pytest.raises(UserError, match="nothing was deleted"):
            command(delete, "tiny", "--runs", str(tmp_path))
    assert (search.opened.searches.search("tiny") is None) == gone
