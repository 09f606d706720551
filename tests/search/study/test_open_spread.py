"""A search whose trials go where the answer is open: two workers on SQLite, and what the database keeps of a choice."""

import hashlib
import sqlite3
import threading
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from search.execution.database_thread import DatabaseThread
from search.execution.epoch_loop import run_group
from search.execution.group import SingleProcess
from search.execution.simulated_students import Curves, SimulatedStudents
from search.samplers import choice_for
from search.storage.statements import LeaseLost, Owner
from search.study.adapter import Claim, StudyAdapter
from trainer.config import RunConfig

ME, OTHER = Owner("me", "here"), Owner("other", "there")
EASY, HARD = 4, 8
SPACE = '"optim.lr" = { low = 1e-4, high = 1e-1, log = true }\n'
FRONT = '[front]\nalong = "student.width"\nspread = "open"\nstart = 3\n'
PROMOTE = '[pruner]\nname = "promote"\nmin_epochs = 1\n'
Make = Callable[..., Any]


class EasyAndHard(Curves):
    """The narrow students all end alike, the wide ones anywhere."""

    def score(self, run: RunConfig, epoch: int) -> float:
        drawn = int.from_bytes(hashlib.sha256(str(run.optim.lr).encode()).digest()[:4], "big") / 2**32
        wide = getattr(run.student, "width", None) == HARD
        return 0.5 + (0.3 * drawn if wide else 0.001 * drawn) + 0.001 * epoch


@pytest.fixture
def text(small_study: Make) -> Make:
    """A study over two widths whose spread is open."""

    def made(more: str = "", **values: Any) -> str:
        study = small_study(more=f"{FRONT}{more}", **{"trials": 24, **values})
        return study.replace(SPACE, f'{SPACE}"student.width" = {{ choices = [{EASY}, {HARD}] }}\n')

    return made


@pytest.fixture
def join(sqlite_url: str, open_again: Make, text: Make) -> Callable[..., StudyAdapter]:
    """Open the one search of the test once more, as another process would."""
    return partial(open_again, sqlite_url, "open", text())


def begin(search: StudyAdapter, owner: Owner = ME) -> tuple[Claim, int]:
    claim = search.claim(owner, lambda _: 0, ())
    params = search.suggest(claim)
    search.commit(claim, "{}", "{}")
    return claim, int(params["student.width"])


def widths(search: StudyAdapter) -> list[int]:
    return [int(trial.params["student.width"]) for trial in search.trials(search.spec.main)]


def test_two_workers_end_with_exactly_n_and_every_choice_has_half_of_its_share(
    sqlite_url: str, open_again: Make, text: Make, settings: Make
) -> None:
    def work(search: StudyAdapter, owner: Owner) -> None:
        students = SimulatedStudents(EasyAndHard(), slots=2, metric="dice", epoch_seconds=0.01, fail_share=0.0)
        run_group(SingleProcess(), students, DatabaseThread(search, settings(owner=owner)))

    searches = [open_again(sqlite_url, "open", text(PROMOTE, trials=16, epochs=2)) for _ in range(2)]
    threads = [threading.Thread(target=work, args=pair) for pair in zip(searches, (ME, OTHER), strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    counts = searches[0].counts()["kd"]
    assert (counts.complete + counts.pruned, counts.running, counts.waiting, counts.failed) == (16, 0, 0, 0)
    dealt = Counter(widths(searches[0]))
    assert min(dealt[EASY], dealt[HARD]) >= 4  # half of an equal share
    leases = searches[0].leases.details(list(searches[0].arms))
    assert {lease.owner for lease in leases} <= {ME.name, OTHER.name, None}


def test_workers_that_ask_at_once_see_what_the_others_were_dealt(join: Callable[..., StudyAdapter]) -> None:
    """Each begins two trials of which nobody reports: the fair start gives both widths the same."""
    searches = [join(), join()]
    together = threading.Barrier(2)

    def ask(search: StudyAdapter, owner: Owner) -> None:
        together.wait()
        for _ in range(2):
            begin(search, owner)

    threads = [threading.Thread(target=ask, args=pair) for pair in zip(searches, (ME, OTHER), strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert Counter(widths(searches[0])) == {EASY: 2, HARD: 2}


def grow(search: StudyAdapter, trials: int, seconds: Callable[[int], float] = lambda _: 1.0) -> None:
    for number in range(trials):
        claim, width = begin(search)
        score = 0.5 + 0.01 * (number * 7 % 10)
        search.complete(claim.held, score, {"gpu_seconds": seconds(width)})


def test_a_resumed_worker_deals_the_same(
    join: Callable[..., StudyAdapter], open_again: Make, text: Make, sqlite_url: str, tmp_path: Path
) -> None:
    search = join()
    grow(search, 8)
    begin(search)
    copy = tmp_path / "copy.db"
    now = sqlite3.connect(sqlite_url.removeprefix("sqlite:///"))
    with closing(now), closing(sqlite3.connect(copy)) as target:
        now.backup(target)
    resumed = open_again(f"sqlite:///{copy}", "open", text())
    for _ in range(3):
        begin(search)
        begin(resumed)
    assert widths(resumed) == widths(search)
    front = search._front_of["kd"]
    assert front is not None
    assert widths(search)[:6] == [choice_for(front, number)["student.width"] for number in range(6)]


def test_a_choice_stays_with_its_trial_whoever_holds_it(join: Callable[..., StudyAdapter]) -> None:
    search, other = join(), join()
    claim = search.claim(ME, lambda _: 0, ())
    params = search.suggest(claim)
    assert search.trials(search.spec.main)[0].params == {"student.width": params["student.width"]}
    for _ in range(2):  # by now another width would be its turn
        begin(other, OTHER)
    search.leases.give_back(claim.held)
    again = other.claim(OTHER, lambda _: 0, ())
    assert again.held.number == claim.held.number
    assert other.suggest(again) == params
    other.commit(again, "{}", "{}")
    search.suggest(claim)
    with pytest.raises(LeaseLost):
        search.commit(claim, "{}", "{}")
    assert other.trials(other.spec.main)[0].params == params


def test_an_enqueued_choice_is_kept_and_counts(sqlite_url: str, open_again: Make, text: Make) -> None:
    queue = "".join(f'[[enqueue]]\n"student.width" = {HARD}\n"optim.lr" = 1e-{n}\n' for n in (1, 2, 3))
    search = open_again(sqlite_url, "open", text(queue))
    grow(search, 6)
    assert widths(search) == [HARD] * 3 + [EASY] * 3


def test_per_hour_the_cheap_choice_gets_more(sqlite_url: str, open_again: Make, text: Make) -> None:
    """Scores are alike, and the wide ones take ten times as long: those get what is kept for every choice."""
    search = open_again(sqlite_url, "open", text('per = "hour"\n'))
    grow(search, 16, lambda width: 1.0 if width == EASY else 10.0)
    dealt = Counter(widths(search))
    assert 4 <= dealt[HARD] <= 6


def test_what_a_trial_cost_is_known_of_those_that_finished(join: Callable[..., StudyAdapter]) -> None:
    search = join()
    grow(search, 2, lambda width: float(width))
    claim, _ = begin(search)
    search.fail(claim.held, "bug", "broke")
    begin(search)
    (study_id,) = search.arms
    seconds = search.leases.device_seconds(study_id)
    assert [seconds[trial._trial_id] for trial in search.trials(search.spec.main)[:2]] == widths(search)[:2]
    assert len(seconds) == 2


def test_the_spread_may_change_while_a_search_goes_on_and_a_change_is_logged(
    sqlite_url: str, open_again: Make, text: Make, log: list[str]
) -> None:
    equal = text().replace('spread = "open"\nstart = 3\n', "")
    search = open_again(sqlite_url, "open", equal)
    grow(search, 4)
    assert "front" not in search.searches.search("open").settings
    opened = open_again(sqlite_url, "open", text())
    (line,) = [line for line in log if "front.spread" in line]
    assert line.endswith('changed since the last worker joined: front.spread: absent -> "open"')
    grow(opened, 8)
    assert Counter(widths(opened))[EASY] >= 3


def test_a_choice_whose_scores_lie_apart_gets_more(join: Callable[..., StudyAdapter]) -> None:
    search = join()
    for number in range(20):
        claim, width = begin(search)
        search.complete(claim.held, 0.5 + (0.02 if width == HARD else 0.0001) * (number * 7 % 10), {})
    dealt = Counter(widths(search))
    assert dealt[HARD] > dealt[EASY] >= 5
