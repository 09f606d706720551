"""The child process that writes notes."""

from io import BytesIO

import pytest

from search.execution import note_process
from search.execution.note_process import FIRST_NOTES_SECONDS, Child, NoteProcess
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
    notes = NoteProcess(open_again(database_url, "noted", small_study()), 0.001, None, first=0.0)
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
        notes = NoteProcess(search, every, None)
        began: list[float] = []
        monkeypatch.setattr(notes, "_start", began.append)
        with search.opened.engine.begin() as connection:
            connection.execute(searches.update().values(noted=None))
        start = now[0]
        for now[0] in (start, start + waits - 0.1, start + waits, start + waits + 0.1):
            notes.start_if_due()
        assert began == [start + waits]


@pytest.mark.parametrize(("processors", "between"), [(1, 300.0), (2, 150.0), (20, 65.0)])
def test_a_leader_has_notes_written_in_a_small_share_of_its_processors_time(
    open_again, small_study, sqlite_url, monkeypatch, processors, between
):
    """Where one takes six seconds and `every` is 60, whose turn is asked every 10 s; the last ones are not put off."""
    now, began = [1000.0], []
    monkeypatch.setattr(note_process.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(note_process.os, "sched_getaffinity", lambda _: set(range(processors)))
    monkeypatch.setattr(note_process, "claim_note_turn", lambda *_: not began or now[0] - began[-1] >= 60.0)
    monkeypatch.setattr(note_process, "claim_last_note_turn", lambda *_: True)
    notes = NoteProcess(open_again(sqlite_url, "noted", small_study()), 60.0, None, first=0.0)

    def start(at: float) -> None:
        began.append(at)
        notes.children.append(Child(Process(lambda: now[0] - at >= 6.0), BytesIO(), at))

    monkeypatch.setattr(notes, "_start", start)
    for second in range(700):
        now[0] = 1000.0 + second
        notes.start_if_due()
    assert began == [1000.0 + between * n for n in range(len(began))]
    assert len(began) == 1 + 699 // between
    monkeypatch.setattr(notes, "wait", lambda _: None)  # the clock stands still
    notes.write_last()
    assert began[-1] == now[0]


class Process:
    """A child that ends by the clock of the test."""

    def __init__(self, ended):
        self.ended, self.returncode = ended, None

    def poll(self):
        self.returncode = 0 if self.ended() else None
        return self.returncode
