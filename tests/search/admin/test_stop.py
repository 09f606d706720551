"""`search stop`: who still holds trials is said at once, and `--wait` returns when nobody does."""

import argparse
import threading
import time
from collections.abc import Callable
from types import SimpleNamespace

import pytest

from search.admin import stop
from search.storage.lookup import known_search
from search.storage.statements import Owner
from search.study.adapter import Claim, StudyAdapter
from trainer.errors import UserError

Stop = Callable[..., tuple[int, list[str]]]


@pytest.fixture
def search(database_url: str, open_again: Callable[..., StudyAdapter], small_study: Callable[..., str]) -> StudyAdapter:
    return open_again(database_url, "tiny", small_study(trials=9, in_flight=9))


@pytest.fixture
def stopped(database_url: str, capsys: pytest.CaptureFixture[str]) -> Stop:
    """The command in this process: its exit code and the lines that it printed."""

    def run(*words: str) -> tuple[int, list[str]]:
        parser = argparse.ArgumentParser()
        stop.add_arguments(parser)
        code = stop.main(parser.parse_args(["tiny", "--storage", database_url, *words]))
        return code, capsys.readouterr().out.splitlines()

    return run


def claim(search: StudyAdapter, host: str) -> Claim:
    return search.claim(Owner(f"{host}:1", host), lambda _row: 0, ())


def test_the_answer_names_who_holds_trials_and_where_they_are_stored(search: StudyAdapter, stopped: Stop) -> None:
    code, lines = stopped()
    assert (code, len(lines)) == (0, 1)
    stopped("--undo")
    for host in ("gpu1", "gpu2", "gpu1"):
        claim(search, host)
    code, (plain, who) = stopped()
    assert who.startswith("still held: 3 trials (2 by gpu1, 1 by gpu2); --wait")
    _, (now, again) = stopped("--now")
    assert again == who
    assert plain.endswith(f"[{search.opened.label}]")
    assert "go on to their end" in plain
    assert "give their trials back" in now


def test_waiting_ends_with_the_last_trial_that_is_held(search: StudyAdapter, stopped: Stop) -> None:
    held = [claim(search, "gpu1").held for _ in range(2)]
    with pytest.raises(UserError, match=r"still held after 0.1 s: 2 trials \(2 by gpu1\)"):
        stopped("--now", "--wait", "0.1")

    def give_back() -> None:
        for one in held:
            time.sleep(0.3)
            search.leases.give_back(one)

    giver = threading.Thread(target=give_back)
    giver.start()
    code, lines = stopped("--now", "--wait", "60")
    giver.join()
    assert (code, lines[-1]) == (0, "tiny: no trial is held any more")


def test_waiting_ends_where_somebody_takes_the_wish_back(search: StudyAdapter, stopped: Stop) -> None:
    claim(search, "gpu1")

    def undo() -> None:
        end = time.monotonic() + 60
        while known_search(search.opened, "tiny").stop is None and time.monotonic() < end:
            time.sleep(0.02)
        search.searches.ask_to_stop(search.search_id, None)

    somebody = threading.Thread(target=undo)
    somebody.start()
    with pytest.raises(UserError, match="took the wish back"):
        stopped("--wait", "60")
    somebody.join()


def test_nobody_is_waited_for_who_is_dead(search: StudyAdapter, stopped: Stop, monkeypatch: pytest.MonkeyPatch) -> None:
    claim(search, "gpu1")
    monkeypatch.setattr(stop, "SILENT_SECONDS", 0.5)
    code, lines = stopped("--wait")
    assert code == 0
    assert "1 trial (1 by gpu1) are held by workers without a sign of life" in lines[-1]


def test_one_living_holder_is_worth_waiting_for() -> None:
    now = [0.0]
    beats = stop._Beats(lambda: now[0])
    living, dead = SimpleNamespace(trial_id=1, token=1, beat=0), SimpleNamespace(trial_id=2, token=1, beat=7)
    for seconds in (0.0, stop.SILENT_SECONDS, 1.5 * stop.SILENT_SECONDS):
        now[0], living.beat = seconds, living.beat + 1
        assert not beats.silent([living, dead])
    assert beats.silent([dead])
    assert not beats.silent([])
