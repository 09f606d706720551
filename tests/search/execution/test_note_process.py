"""The child process that writes notes."""

from search.execution.note_process import NoteProcess


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
