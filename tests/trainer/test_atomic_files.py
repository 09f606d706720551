"""Folders with pictures, weights and databases are their owner's alone, unless somebody says otherwise; a place that
cannot be written is refused before anything is made."""

import os
import re
import stat
from pathlib import Path

import pytest

from trainer.atomic_files import FOLDER_MODE, check_output, private_folder, writable
from trainer.errors import UserError


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_folder_is_its_owner_s_alone_whatever_the_umask_and_stays_as_it_is(tmp_path, monkeypatch):
    monkeypatch.delenv(FOLDER_MODE, raising=False)
    private_folder(tmp_path / "above" / "cache")
    assert mode(tmp_path / "above" / "cache") == mode(tmp_path / "above") == 0o700
    (tmp_path / "there").mkdir(mode=0o755)
    private_folder(tmp_path / "there")
    assert mode(tmp_path / "there") == 0o755


def test_a_group_may_share_it_where_the_variable_says_so(tmp_path, monkeypatch):
    monkeypatch.setenv(FOLDER_MODE, "2770")
    private_folder(tmp_path / "cache")
    assert mode(tmp_path / "cache") == 0o2770


@pytest.mark.parametrize("text", ["", "rwx", "0o700", "070", "77777"])
def test_another_text_is_refused(tmp_path, monkeypatch, text):
    monkeypatch.setenv(FOLDER_MODE, text)
    with pytest.raises(UserError, match=r"KD_FOLDER_MODE = .*such as 2770"):
        private_folder(tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def test_a_search_and_its_cache_are_private(tmp_path, small_study, module):
    """With the usual umask, a worker leaves nothing that others can read."""
    (tmp_path / "small.toml").write_text(small_study(epochs=1))
    module("search", "status", "small", cwd=tmp_path, code=2)
    assert not (tmp_path / "runs").exists(), "looking makes nothing"
    module(
        "search", "simulate", "small.toml", "--workers", "1", "--storage", f"sqlite:///{tmp_path}/s.db", cwd=tmp_path
    )
    private = [path for path in tmp_path.rglob("*") if path.is_dir() and path.name in ("runs", "cache", "artifacts")]
    assert private
    assert [path for path in private if mode(path) != 0o700] == []


def test_a_place_that_cannot_be_written_is_refused_and_nothing_is_made(tmp_path):
    (tmp_path / "file").write_text("")
    check_output(tmp_path / "new" / "below" / "page.html")
    check_output(tmp_path / "file")
    places = {tmp_path: "a folder", tmp_path / "file" / "page": "file is a file", tmp_path / ("x" * 300): "too long"}
    for place, why in places.items():
        with pytest.raises(UserError, match=f"^--output .*{why}"):
            check_output(place)
        with pytest.raises(UserError, match=f"^{re.escape(str(place))}: .*{why}"):
            writable(place)
    writable(None)
    assert os.listdir(tmp_path) == ["file"]
    writable(tmp_path / "new" / "below" / "student.safetensors")
    assert os.listdir(tmp_path / "new" / "below") == []


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is forbidden to root")
def test_a_folder_without_permission_is_refused(tmp_path):
    (tmp_path / "closed").mkdir(mode=0o500)
    with pytest.raises(UserError, match="closed must not be written into"):
        check_output(tmp_path / "closed" / "new" / "page.html")
