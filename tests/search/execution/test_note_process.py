"""The child process that writes notes."""

from search.execution import note_process
from search.execution.note_process import FIRST_NOTES_SECONDS, NoteProcess
from search.storage.schema import searches


def test_notes_are_written_where_a_file_names_the_database(
    open_again, small_study, tmp_path, monkeypatch, log, database_url
):
    """The child gets the URL itself, and would refuse to be given both."""
    file = tmp_path / "url"
    file.write_text(database_url)
    file.chmod(0o600)
    monkeypatch.setenv("OPTUNA_STORAGE_FILE", str(file))
    monkeypatch.delenv("OPTUNA_STORAGE", raising=False)
    notes = NoteProcess(open_again(database_url, "noted", small_study()), 0.001, None)
    notes.start_if_due()
    assert notes.children
    notes.wait(120)
    assert not notes.children
    assert [line for line in log if "not written" in line] == []


def test_a_leader_s_first_notes_come_after_a_while_and_no_later_than_every_other(
    open_again, small_study, sqlite_url, monkeypatch
):
    """They would take a processor from the first trials to say that nothing has happened."""
    search = open_again(sqlite_url, "noted", small_study())
    now = [1000.0]
    monkeypatch.setattr(note_process.time, "monotonic", lambda: now[0])
    for every, waits in ((3600.0, FIRST_NOTES_SECONDS), (2.0, 2.0)):
        notes = NoteProcess(search, every, None, first=FIRST_NOTES_SECONDS)
        began: list[float] = []
        monkeypatch.setattr(notes, "_start", began.append)
        with search.opened.engine.begin() as connection:
            connection.execute(searches.update().values(noted=None))
        start = now[0]
        for now[0] in (start, start + waits - 0.1, start + waits, start + waits + 0.1):
            notes.start_if_due()
        assert began == [start + waits]
