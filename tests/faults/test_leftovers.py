"""What a command's ranks keep in the temporary folder goes with it, and that of a killed one with the next."""

import fcntl
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from search.execution.checkpoint_writer import remove_all
from search.execution.messages import PICTURE, WEIGHTS
from trainer.distributed.temporary import swept_folder


@pytest.mark.slow
def test_nothing_is_left_of_workers_that_were_killed_or_ended(
    tmp_path: Path, repository: Path, small_study, tools: SimpleNamespace
) -> None:
    temporary = tmp_path / "t"
    temporary.mkdir()
    (tmp_path / "small.toml").write_text(small_study(epochs=1))
    environment = {**os.environ, "PYTHONPATH": str(repository), "OMP_NUM_THREADS": "1", "TMPDIR": str(temporary)}
    words = [sys.executable, "-m", "search", "work", "small.toml", "--ranks", "1", "--note-every", "0"]
    with (tmp_path / "log").open("wb") as log:
        killed = subprocess.Popen(words, cwd=tmp_path, env=environment, stdout=log, stderr=log)
        try:
            tools.until(lambda: list(temporary.glob("kd-work-*/kd-ranks-*")))
        finally:
            killed.send_signal(signal.SIGKILL)
            killed.wait()
    assert list(temporary.iterdir())
    done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    left = {path.name for path in temporary.iterdir()}
    assert {name for name in left if not name.startswith("torchinductor_")} == set()  # one folder of torch's an account


def test_only_folders_of_commands_that_are_gone_are_swept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    for name in ("kd-x-dead", "kd-x-alive", "kd-x-somebodys", "other"):
        (tmp_path / name).mkdir()
        if name != "kd-x-somebodys":
            (tmp_path / name / ".kd-search-lock").touch()
    (tmp_path / "kd-x-link").symlink_to(tmp_path / "other")
    with (tmp_path / "kd-x-alive" / ".kd-search-lock").open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with swept_folder("kd-x-") as folder, swept_folder("kd-x-") as second:
            assert folder.stat().st_mode & 0o077 == 0
            names = {path.name for path in tmp_path.iterdir()}
            assert names == {"kd-x-alive", "kd-x-somebodys", "other", "kd-x-link", folder.name, second.name}
    assert not folder.exists()
    assert not second.exists()


def test_pictures_of_a_trial_that_is_over_go_with_its_checkpoints(tmp_path: Path) -> None:
    for token in ("1", "2"):
        (tmp_path / token).mkdir()
        for name in (PICTURE, WEIGHTS, "epoch-3.pt"):
            (tmp_path / token / name).touch()
    (tmp_path / "1" / f".{PICTURE}.77.part").touch()
    remove_all(tmp_path, 2)
    assert [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()] == [f"2/{WEIGHTS}"]
