"""What a study shows in the dashboard: tables, figures, inert text; who writes it and when; and `status --watch`."""

import contextlib
import io
import json
import os
import pty
import re
import select
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import optuna
import pytest
import sqlalchemy as sa
import waitress
from optuna.artifacts import FileSystemArtifactStore
from optuna_dashboard import get_note, save_note, wsgi
from PIL import Image

from search.dashboard.figures import Curve, Dot, best_figure, curves_figure, size_figure
from search.dashboard.note import MARK, write
from search.dashboard.note_text import code, table
from search.execution.database_thread import DatabaseThread
from search.execution.epoch_loop import run_group
from search.execution.group import SingleProcess
from search.execution.messages import WorkerSettings
from search.execution.note_process import NoteProcess
from search.execution.simulated_students import Curves, SimulatedStudents
from search.plotting import Scale
from search.storage.database import open_storage
from search.storage.schema import leases
from search.storage.searches import claim_last_note_turn, claim_note_turn, notes_begun
from search.storage.statements import Owner, put_attributes
from search.study.adapter import StudyAdapter
from search.study.progress import read_progress

STUDY = """
[objective]
maximize = "dice"
[front]
along = "student.width"
[run]
method = "none"
epochs = 4
batch_size = 4
data = { name = "blobs", size = 32, train = 8, validation = 4 }
student = { name = "unet" }
losses = { ce = {} }
optim = { lr = 1e-3 }
[space]
"student.width" = { choices = [4, 8] }
"optim.lr" = { low = 1e-4, high = 1e-1, log = true }
[sampler]
name = "random"
[budget]
trials = 6
in_flight = 4
[[arms]]
name = "fixed"
set = { "optim.name" = "adam" }
trials = 3
"""
ME = Owner("me", "here")
HOSTILE = (
    "x` | <script>alert(1)</script> <img src=x onerror=alert(2)> ![p](http://evil.test/p.png)\n"
    "# [k](javascript:alert(3)) www.evil.test ``` \\| `"
)

Join = Callable[..., StudyAdapter]


def train(search: StudyAdapter, runs: Path, **changes: Any) -> DatabaseThread:
    """One simulated worker, to the end of the search."""
    values: dict[str, Any] = dict(breach=lambda _: None, ttl=60.0)
    settings = WorkerSettings(ME, 4, runs, 1, {}, **{**values, **changes})
    students = SimulatedStudents(Curves(), slots=4, metric="dice", epoch_seconds=0.0, fail_share=0.0)
    desk = DatabaseThread(search, settings)
    run_group(SingleProcess(), students, desk)
    return desk


def put_shares(search: StudyAdapter, trial_id: int, shares: dict[str, float]) -> None:
    """What a trial's real training would have said of its loss terms."""
    with search.opened.engine.begin() as connection:
        put_attributes(connection, search.opened.engine.dialect.name, trial_id, {"gradient.shares": shares})


def spoil(search: StudyAdapter, **values: str) -> None:
    """Give every lease of the search what a user may have written."""
    with search.opened.engine.begin() as connection:
        connection.execute(leases.update().where(leases.c.study_id.in_(list(search.arms))).values(**values))


def studies_of(search: StudyAdapter) -> list[optuna.Study]:
    names = [arm.study_name for arm in search.arms.values()]
    return [optuna.load_study(study_name=name, storage=search.opened.storage) for name in names]


# ---- the note


def test_a_note_tells_what_became_of_the_search_and_keeps_what_people_wrote(
    database_url: str, open_again: Join, tmp_path: Path
) -> None:
    search = open_again(database_url, "note", STUDY)
    main, control = studies_of(search)
    save_note(main, "Seen by a person.")
    train(search, tmp_path / "runs")
    folder = tmp_path / "artifacts"
    assert write(search.opened, "note", folder) == "2 notes with 3 figures"
    first, second = get_note(main), get_note(control)
    best = read_progress(search.opened, "note").arms["kd"].best
    assert best is not None
    assert f"`kd` **{best.score:.4f}** ([#{best.trial}](/dashboard/studies/{main._study_id}/trials" in first
    assert "The search ended: 9 of 9 trials finished" in first
    assert "| `kd` | 6 | 0 | 0 | 0 | 0 | 6 |" in first
    assert "| `fixed` | 3 | 0 | 0 | 0 | 0 | 3 |" in second
    assert "arm `fixed`" in second
    assert first.endswith(f"{MARK}\n\nSeen by a person.")

    shown = re.findall(rf"!\[[^]]+\]\(/artifacts/{main._study_id}/([0-9a-f-]+)\?v=[0-9a-f]+\)", first)
    assert sorted(shown) == sorted(path.name for path in folder.iterdir())
    for name in shown:
        with Image.open(folder / name) as picture:
            assert picture.format == "PNG"
            assert picture.width >= 1000
            assert picture.height >= 500

    save_note(main, f"{get_note(main)} And once more.")
    assert "What the loss terms moved" not in first, "curves that were made up have no terms"
    for trial in main.trials:
        put_shares(search, trial._trial_id, {"ce": 0.996, "kl": 0.004})
    again = open_storage(database_url, create=False)  # which reads finished trials once
    write(again, "note", folder)
    again.engine.dispose()
    assert "`ce` | 99.6% | 0 of 6 |" in get_note(control)
    assert "`kl` | 0.4% | 6 of 6: **dead** |" in get_note(control)
    assert sorted(path.name for path in folder.iterdir()) == sorted(shown), "figures are replaced, not added"
    assert get_note(main).endswith(f"{MARK}\n\nSeen by a person. And once more.")
    assert main.user_attrs["progress"] == "6 of 6 trials finished, 0 running, the search has ended"


def test_a_folder_that_cannot_be_written_costs_the_figures_alone(
    sqlite_url: str, open_again: Join, tmp_path: Path
) -> None:
    search = open_again(sqlite_url, "note", STUDY)
    (tmp_path / "file").write_text("no folder")
    assert write(search.opened, "note", tmp_path / "file") == "2 notes with 0 figures"
    body = get_note(studies_of(search)[0])
    assert "No figures: their folder cannot be written" in body
    assert "0 of 9 trials finished" in body
    assert "unknown (0 of 5 finished trials that a rate needs)" in body


@pytest.mark.parametrize("text", [HOSTILE, "``", "`", " ` ", "a\\`b", "", "\u202egnp", "x" * 500, "a\x00\tb|c"])
def test_no_text_leaves_its_code_span_or_its_cell(text: str) -> None:
    span = code(text)
    assert re.fullmatch(r"(`+)(?!`)(.+?)(?<!`)\1|\N{EN DASH}", span), span
    assert len(span) < 200
    assert span.isprintable()
    assert table(["a"], [[span]]).count("|") == 6


@pytest.fixture
def dashboard(sqlite_url: str, tmp_path: Path) -> Iterator[str]:
    """The real optuna-dashboard over the test's database; its address."""
    storage = optuna.storages.get_storage(sqlite_url)
    (tmp_path / "artifacts").mkdir()
    application = wsgi(storage, artifact_store=FileSystemArtifactStore(tmp_path / "artifacts"))
    server = waitress.create_server(application, host="127.0.0.1", port=0)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.effective_port}"
    server.close()
    thread.join(10)


@pytest.mark.slow
def test_what_users_wrote_stays_inert_in_a_browser(
    sqlite_url: str, open_again: Join, tmp_path: Path, dashboard: str
) -> None:
    """Host, message and class of failed trials, hostile on purpose, as Chromium shows them in the real dashboard."""
    browser = shutil.which("chromium")
    if browser is None:
        pytest.skip("chromium is not installed")
    search = open_again(sqlite_url, "note", STUDY)
    train(search, tmp_path / "runs")
    spoil(search, failure=HOSTILE[:32], message=HOSTILE, host=HOSTILE[:90])
    assert write(search.opened, "note", tmp_path / "artifacts") == "2 notes with 3 figures"
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
    flags += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
    flags += [f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=20000", "--dump-dom"]
    page = f"{dashboard}/dashboard/studies/{studies_of(search)[0]._study_id}/note"
    done = subprocess.run([browser, *flags, page], capture_output=True, text=True, timeout=240, check=False)
    body = done.stdout[done.stdout.index("<body") :]
    assert "Failed trials" in body, done.stderr[-2000:]
    assert body.count("<table") >= 3
    assert len(re.findall(r'<img [^>]*src="/artifacts/', body)) == 3
    assert "&lt;script&gt;alert(1)" in body
    assert not re.search(r"<script[^>]*>\s*alert", body)
    assert not re.search(r'(href|src)="[^"]*(evil\.test|javascript:|onerror|^x)', body)
    assert 'src="x"' not in body


# ---- figures


def test_figures_are_drawn_of_nothing_of_one_trial_and_of_names_that_look_like_formulas() -> None:
    arms = ["$x^$", "_hidden", "\u202e\u4e2d<b>"]
    one = [Dot(arms[0], 0, 0.9, 0.5, 1)]
    many = [Dot(arms[i % 3], i, 0.8 + 0.001 * i, 0.1 * (i % 4), i // 3 + 1) for i in range(60)] + [
        Dot(arms[1], 60, 0.01, 2.0, 21)
    ]
    curves = [Curve(i, arms[i % 3], arms[i % 2], [(e, 0.1 * e) for e in range(1, 5)], i < 4) for i in range(20)]
    sizes = []
    for dots, lines in (([], []), (one, curves[:1]), (many, curves)):
        scale = Scale("dice", True, 0.95)
        finished = {arm: sum(dot.arm == arm for dot in dots) for arm in arms}
        for data in (
            size_figure(dots, arms, scale, "$m$"),
            best_figure(dots, finished, scale),
            curves_figure(lines, arms, scale, "$p$"),
        ):
            with Image.open(io.BytesIO(data)) as picture:
                sizes.append(picture.size)
                assert len(picture.convert("L").getcolors(256) or []) > 10
    assert all(width == 1200 and 500 <= height <= 1000 for width, height in sizes)


# ---- who writes, and when


def test_over_all_leads_one_writes_in_a_while(database_url: str, open_again: Join) -> None:
    search = open_again(database_url, "note", STUDY)
    others = [open_storage(database_url) for _ in range(4)]
    together = threading.Barrier(4)

    def try_it(engine: sa.Engine) -> bool:
        together.wait()
        return claim_note_turn(engine, search.search_id, 60.0)

    with ThreadPoolExecutor(4) as pool:
        assert sum(pool.map(try_it, [other.engine for other in others])) == 1
        assert sum(pool.map(try_it, [other.engine for other in others])) == 0
    assert notes_begun(others[0].engine, search.search_id) is not None
    assert claim_note_turn(others[1].engine, search.search_id, 0.0)
    for other in others:
        other.engine.dispose()


def test_the_last_notes_are_written_once_by_who_ends_when_nobody_trains(
    database_url: str, open_again: Join, tmp_path: Path
) -> None:
    search = open_again(database_url, "note", STUDY)
    engine, ids = search.opened.engine, list(search.arms)
    assert claim_note_turn(engine, search.search_id, 60.0)
    held = search.claim(ME, lambda _: 0, []).held
    assert not claim_last_note_turn(engine, search.search_id, ids), "somebody trains"
    search.leases.give_back(held)
    time.sleep(0.01)  # SQLite's clock counts milliseconds, and within one of them nobody knows what came first
    assert claim_last_note_turn(engine, search.search_id, ids)
    assert not claim_last_note_turn(engine, search.search_id, ids), "nothing ended since"


def test_a_lead_has_the_notes_written_by_a_child_that_shows_no_secret(
    postgres_url: str, open_again: Join, tmp_path: Path
) -> None:
    word = "hunter2"
    url = sa.make_url(postgres_url).set(password=word).render_as_string(hide_password=False)
    search = open_again(url, "note", STUDY)
    note_process = NoteProcess(search, 3600.0, tmp_path / "artifacts", first=0.0)
    note_process.start_if_due()
    (child,) = note_process.children
    arguments, environment = _shown(child.process.pid)
    note_process.start_if_due()
    assert note_process.children == [child], "one at a time"
    assert child.process.wait(120) == 0
    assert b"search" in arguments
    assert word.encode() not in arguments
    assert b"OPTUNA_STORAGE" in environment
    assert "0 of 9 trials finished" in get_note(studies_of(search)[0])
    note_process.start_if_due()
    assert note_process.children == [], "not again within an hour"


def _shown(pid: int) -> tuple[bytes, bytes]:
    """What the system shows of a process that has just been started: its arguments and its environment.

    Both are empty for a moment after exec has closed the pipe that Popen waits for.
    """
    for _ in range(1000):
        arguments, environment = (Path(f"/proc/{pid}/{name}").read_bytes() for name in ("cmdline", "environ"))
        if arguments and environment:
            break
        time.sleep(0.01)
    return arguments, environment


def test_a_worker_leaves_the_last_state_in_the_notes(sqlite_url: str, open_again: Join, tmp_path: Path) -> None:
    search = open_again(sqlite_url, "note", STUDY)
    desk = train(search, tmp_path / "runs", note_every=3600.0)
    desk._thread.join(60)
    note_process = desk._note_process
    assert note_process is not None
    note_process.wait(120)  # a leader that ends waits for some seconds alone
    assert note_process.children == []
    body = get_note(studies_of(search)[0])
    assert "The search ended: 9 of 9 trials finished" in body
    assert "No figures" in body


def test_a_child_that_fails_is_one_line_of_the_log(
    sqlite_url: str, open_again: Join, tmp_path: Path, log: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    search = open_again(sqlite_url, "note", STUDY)
    monkeypatch.setattr(sys, "executable", "/bin/false")
    note_process = NoteProcess(search, 0.0, None, share=1.0)
    for _ in range(3):
        note_process.start_if_due()
        assert len(note_process.children) == 1
        note_process.wait(30)
    assert [line for line in log if "note" in line] == ["WARNING note for the dashboard not written: exit code 1"]


# ---- status


def watching(url: str, *flags: str, **streams: Any) -> "subprocess.Popen[bytes]":
    environment = os.environ | {"OPTUNA_STORAGE": url, "TERM": "xterm"}
    command = [sys.executable, "-m", "search", "status", "note", "--watch", "0.2", *flags]
    root = Path(__file__).resolve().parents[3]
    return subprocess.Popen(command, env=environment, cwd=root, **streams)


def test_watching_ends_with_the_search_and_is_plain_where_no_terminal_is(
    sqlite_url: str, open_again: Join, tmp_path: Path
) -> None:
    search = open_again(sqlite_url, "note", STUDY)
    first = search.claim(ME, lambda _: 0, [])
    process = watching(sqlite_url, stdout=subprocess.PIPE, bufsize=0)  # what a buffer took, communicate would miss
    try:
        assert process.stdout is not None
        head = process.stdout.readline() + process.stdout.readline()
        search.leases.give_back(first.held)
        train(search, tmp_path / "runs")
        rest, _ = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 0
    text = (head + rest).decode()
    assert re.match(r"---- \d{4}-\d\d-\d\d \d\d:\d\d:\d\d\nnote  [0-9a-f]{8}  [^\n]*\n", text)
    assert "running kd #0 on here: epoch 0" in text
    assert "ETA unknown" in text
    assert "\x1b" not in text
    assert "the search has ended" in text.rsplit("----", 1)[1]
    figures = json.loads(watching(sqlite_url, "--json", stdout=subprocess.PIPE).communicate(timeout=60)[0])
    assert figures["ended"] is True
    assert figures["trials_an_hour"] > 0
    assert figures["eta_seconds"] == 0.0


def test_watching_draws_over_itself_on_a_terminal_and_leaves_at_ctrl_c(sqlite_url: str, open_again: Join) -> None:
    open_again(sqlite_url, "note", STUDY)
    terminal, child_side = pty.openpty()
    process = watching(sqlite_url, stdin=child_side, stdout=child_side, stderr=child_side, start_new_session=True)
    os.close(child_side)
    seen = b""
    try:
        end = time.monotonic() + 60
        while seen.count(b"Ctrl-C leaves") < 3 and time.monotonic() < end:
            if select.select([terminal], [], [], 1.0)[0]:
                seen += os.read(terminal, 65536)
        process.send_signal(signal.SIGINT)
        end = time.monotonic() + 30
        while process.poll() is None and time.monotonic() < end:
            if select.select([terminal], [], [], 0.1)[0]:
                with contextlib.suppress(OSError):  # the last who could write is gone
                    seen += os.read(terminal, 65536)
        assert process.wait(1) == 0
    finally:
        process.kill()
        process.wait()
        os.close(terminal)
    frames = seen.split(b"\x1b[J")
    height = frames[0].count(b"\n")
    assert f"\x1b[{height}F".encode() in frames[1], "the second drawing begins where the first did"
    assert b"\x1b[2J" not in seen, "a cleared screen flickers"
