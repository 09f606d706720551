"""A first look at a search: quick, without Optuna, and without writing anything."""

import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from search.storage.glance import glance
from trainer.errors import UserError


def test_a_search_is_seen_where_it_is_and_not_where_it_is_not(database_url, open_again, small_study):
    open_again(database_url, "looked", small_study())
    seen = glance(database_url, "looked")
    assert (seen.begun, seen.finished, seen.trials) == (True, 0, 4)
    assert "joins the search in " in seen.text()
    assert glance(database_url, "another").begun is False


def test_a_file_that_is_not_there_is_named_absolutely_and_not_made(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    look = glance("sqlite:///runs/search.db", "mine")
    assert look.text() == f"begins a new search in sqlite:///{tmp_path}/runs/search.db"
    assert list(tmp_path.iterdir()) == []


def test_a_database_that_does_not_answer_is_no_mistake_yet(free_port):
    look = glance(f"postgresql://u:s3cret@127.0.0.1:{free_port}/db", "mine")
    assert look.begun is None
    assert "does not answer yet" in look.text()
    assert "s3cret" not in look.text()


def test_a_refusal_that_waiting_does_not_end_is_said_at_once(postgres_server, tmp_path):
    absent = postgres_server.set(database="kd_absent").render_as_string(hide_password=False)
    (tmp_path / "text.db").write_text("no database\n" * 100)
    known = ((absent, "cannot be used"), (f"sqlite:///{tmp_path}/text.db", "file is not a database"))
    for url, what in (*known, (f"sqlite:///{tmp_path}", "is a folder; name a file in it"), ("sqlite:///", "in-memory")):
        with pytest.raises(UserError, match=what):
            glance(url, "mine")


def test_a_file_that_nobody_may_write_is_no_database_that_is_away(tmp_path, monkeypatch):
    place = tmp_path / "s.db"
    sqlite3.connect(place).close()
    allowed = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: path != place and allowed(path, mode))  # root may write all
    with pytest.raises(UserError, match=r"s\.db is not writable for you"):
        glance(f"sqlite:///{place}", "mine")


def test_neither_optuna_nor_torch_is_imported(repository):
    code = (
        "import sys; from search import worker; from search.storage.glance import glance\n"
        "glance('sqlite:///nowhere.db', 'mine')\n"
        "print(sorted({'optuna', 'torch', 'albumentations'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=repository, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
    assert not Path(repository, "nowhere.db").exists()
