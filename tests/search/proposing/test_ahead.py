"""In a large study the parameters of trials to come are drawn while students train."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from optuna.samplers import TPESampler

from search.proposing import ahead
from search.samplers import choice_for
from search.storage.statements import Owner
from search.study.adapter import Claim, StudyAdapter

ME, OTHER = Owner("me", "here"), Owner("other", "there")
LARGE = 12
Join = Callable[..., StudyAdapter]


@pytest.fixture
def text(small_study: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> str:
    """A study along a front of two widths, which counts as large from its twelfth trial on."""
    monkeypatch.setattr(ahead, "LARGE", LARGE)
    monkeypatch.setattr(ahead, "NEWER", 0.5)
    made = small_study(trials=30, in_flight=60, name="tpe", epochs=1)
    space = '"optim.lr" = { low = 1e-4, high = 1e-1, log = true }\n'
    assert space in made
    made = made.replace(space, space + '"student.width" = { choices = [8, 16] }\n')
    return made.replace('name = "tpe"', 'name = "tpe"\nstartup = 3') + '[front]\nalong = "student.width"\n'


@pytest.fixture
def join(database_url: str, open_again: Join, text: str) -> Join:
    """Open the one search of the test once more, as another process would."""
    return partial(open_again, database_url, "ahead", text)


@pytest.fixture
def draws(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The numbers that the sampler draws for, as it does."""
    made: list[int] = []
    drawn = TPESampler.sample_relative

    def counted(self: TPESampler, study: Any, trial: Any, space: Any) -> dict[str, Any]:
        made.append(trial.number)
        return drawn(self, study, trial, space)

    monkeypatch.setattr(TPESampler, "sample_relative", counted)
    return made


def begin(search: StudyAdapter, owner: Owner = ME) -> tuple[Claim, dict[str, Any]]:
    claimed = search.claim(owner, lambda _: 0, ())
    chosen = search.suggest(claimed)
    search.commit(claimed, "{}", "{}")
    return claimed, chosen


def finish(search: StudyAdapter, trials: int, owner: Owner = ME) -> None:
    for number in range(trials):
        claimed, _ = begin(search, owner)
        search.report(claimed.held, 1, 0.5 + number / 1000, {})
        search.complete(claimed.held, 0.5 + number / 1000, {})


def propose_all(search: StudyAdapter) -> None:
    while search.propose():
        pass


def test_a_trial_takes_parameters_that_were_drawn_before_it_existed(join: Join, draws: list[int]) -> None:
    search = join()
    finish(search, LARGE + 2)  # whole blocks of two
    propose_all(search)
    assert len(draws[LARGE + 2 :]) == 4  # two widths, seen through two views
    del draws[:]
    begun = [begin(search) for _ in range(4)]
    assert draws == []
    stored = search.trials(search.spec.main)
    front = search._front_of["kd"]
    assert front is not None
    for claimed, chosen in begun:
        number = claimed.held.number
        assert stored[number].params == chosen
        assert chosen["student.width"] == choice_for(front, number)["student.width"]
    assert len({chosen["optim.lr"] for _, chosen in begun}) == 4


def test_in_a_small_study_nothing_is_drawn_ahead(join: Join, draws: list[int]) -> None:
    search = join()
    finish(search, LARGE - 2)
    del draws[:]
    assert not search.propose()
    assert draws == []


def test_two_workers_never_draw_alike(join: Join) -> None:
    one, two = join(), join()
    finish(one, LARGE + 1)
    finish(two, 1, OTHER)
    propose_all(one)
    propose_all(two)
    rates = [begin(search, owner)[1]["optim.lr"] for _ in range(4) for search, owner in ((one, ME), (two, OTHER))]
    assert len(set(rates)) == len(rates)


def test_what_was_drawn_from_a_much_smaller_study_is_not_used(join: Join, draws: list[int]) -> None:
    search, other = join(), join()
    finish(search, LARGE + 1)
    propose_all(search)
    finish(other, 7, OTHER)
    del draws[:]
    claimed, _ = begin(search)
    assert draws == [claimed.held.number]


def test_what_is_enqueued_comes_before_what_was_drawn_ahead(join: Join) -> None:
    search = join()
    finish(search, LARGE + 1)
    propose_all(search)
    search.enqueue(search.spec.main, {"optim.lr": 0.05, "student.width": 16})
    assert begin(search)[1] == {"optim.lr": 0.05, "student.width": 16}


def test_a_worker_uses_them(join: Join, worker_of: Any, settings: Any, draws: list[int]) -> None:
    search = join()
    worker_of(search, settings()).run()
    numbers = [trial.number for trial in search.trials(search.spec.main)]
    assert numbers == list(range(30))
    ahead_of = [number for number in draws if number >= ahead.BEYOND]
    assert len(ahead_of) > 10
    assert len(set(draws)) == len(draws)
    assert len(draws) < 30 + 10  # most of what was drawn ahead was used


def test_a_bug_of_the_sampler_ends_a_trial_and_not_the_worker(
    join: Join, worker_of: Any, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = TPESampler.sample_relative

    def broken(self: TPESampler, study: Any, trial: Any, space: Any) -> dict[str, Any]:
        if trial.number >= ahead.BEYOND:
            raise ZeroDivisionError("a bug")
        return drawn(self, study, trial, space)

    monkeypatch.setattr(TPESampler, "sample_relative", broken)
    search = join()
    worker_of(search, settings()).run()
    assert search.counts()["kd"].complete == 30
