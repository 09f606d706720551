"""Trials of an older study inform the sampler of a new one, by their ranks, and are nowhere else."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import create_trial

from search import __main__ as search_main
from search.proposing.warm_start import fits
from search.samplers import FrontChoice, Older, SamplerSettings, sampler, tpe
from search.spec.load import identity, load
from search.storage.statements import Owner
from search.study.adapter import StudyAdapter
from trainer.errors import UserError

Join = Callable[..., StudyAdapter]
ME = Owner("me", "here")
WARM = '[warm_start]\nfrom = "older"\n'
TPE = "tpe"


def ask(search: StudyAdapter) -> tuple[Any, dict[str, Any]]:
    claim = search.claim(ME, lambda _: 0, ())
    params = search.suggest(claim)
    search.commit(claim, "{}", "{}")
    return claim, params


def grow(search: StudyAdapter, trials: int, best: float = -2.0, height: float = 0.9) -> list[float]:
    """The logarithms of the learning rates that were asked for; scores fall with the distance from `best`."""
    rates = []
    for _ in range(trials):
        claim, params = ask(search)
        rates.append(math.log10(params["optim.lr"]))
        search.complete(claim.held, height - 0.1 * abs(rates[-1] - best), {})
    return rates


@pytest.fixture
def join(sqlite_url: str, open_again: Join, small_study: Callable[..., str]) -> Join:
    """A study of the test's database, with twelve trials: `join("older", more=WARM)`."""

    def opened(name: str, *changes: str, more: str = "", space: str = "", url: str = "") -> StudyAdapter:
        text = small_study(trials=16, in_flight=16).replace('name = "random"', f'name = "{TPE}"')
        if space:
            text = text.replace('"optim.lr" = { low = 1e-4, high = 1e-1, log = true }', space)
        return open_again(url or sqlite_url, name, text + more, *changes)

    return opened


def test_older_trials_lead_to_the_good_region_at_once_and_count_nowhere(join: Join, log: list[str]) -> None:
    older = join("older")
    grow(older, 14)
    new = join("new", more=WARM)
    assert "INFO new: 14 of 14 finished trials of older inform its sampler" in log
    # The same order on other data, where every score is lower.
    rates = grow(new, 8, height=0.4)
    assert sum(abs(rate + 2.0) < 0.8 for rate in rates[::2]) >= 3, "the other half sees none of them"
    assert len(set(rates)) == 8
    counts = new.counts()["kd"]
    assert (counts.complete, counts.admitted) == (8, 8)
    assert [trial.number for trial in new.trials(new.spec.main)] == list(range(8))
    assert older.counts()["kd"].complete == 14
    assert {t._trial_id for t in new.trials(new.spec.main)}.isdisjoint(
        t._trial_id for t in older.trials(older.spec.main)
    )


def test_a_new_worker_proposes_what_the_former_one_would(join: Join) -> None:
    grow(join("older"), 12)

    def third(name: str) -> float:
        for _ in range(2):
            grow(join(name, more=WARM), 1)
        return grow(join(name, more=WARM), 1)[0]

    assert third("one") == third("two")


def test_it_is_no_part_of_the_identity_and_a_change_of_it_is_said(join: Join, log: list[str]) -> None:
    grow(join("older"), 2)
    cold, warm = join("new"), join("new", more=WARM)
    assert next(identity(s.spec, data_hash=None, teacher_hash=None) for s in (cold, warm)) == identity(
        warm.spec, data_hash=None, teacher_hash=None
    )
    assert any('warm_start.from: absent -> "older"' in line for line in log)


def test_an_older_study_of_another_database_is_named_by_a_variable(
    join: Join, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"sqlite:///{tmp_path / 'there.db'}"
    grow(join("older", url=url), 12)
    more = f'{WARM}storage = "OLDER_STORAGE"\n'
    with pytest.raises(UserError, match="the variable OLDER_STORAGE is not set"):
        join("new", more=more)
    monkeypatch.setenv("OLDER_STORAGE", url)
    assert sum(abs(rate + 2.0) < 0.8 for rate in grow(join("new", more=more), 7)[::2]) >= 3


def test_trials_outside_of_the_new_ranges_and_parameters_that_it_lacks_are_left_out(join: Join, log: list[str]) -> None:
    older = join("older", space='"optim.lr" = { low = 1e-4, high = 1e-1, log = true }\n"seed" = { low = 1, high = 9 }')
    grow(older, 12)
    more = '"optim.lr" = { low = 1e-3, high = 1.0, log = true }\n"optim.weight_decay" = { low = 0.0, high = 0.1 }'
    new = join("new", more=WARM, space=more)
    inside = sum(trial.params["optim.lr"] >= 1e-3 for trial in older.trials(older.spec.main))
    assert 0 < inside < 12
    assert f"INFO new: {inside} of 12 finished trials of older inform its sampler" in log
    for _ in range(4):
        claim, params = ask(new)
        assert params.keys() == {"optim.lr", "optim.weight_decay"}
        new.complete(claim.held, 0.5, {})


@pytest.mark.parametrize(
    ("trials", "warm", "changes", "space", "message"),
    [
        (1, '[warm_start]\nfrom = "oldr"\n', [], "", "study 'oldr' is not in .*nearest: older; name an older study"),
        (0, WARM, [], "", "none of its trials has finished"),
        (1, WARM, [], '"seed" = { low = 1, high = 9 }', r"no parameter of it is in this space \(seed\)"),
        (2, WARM, [], '"optim.lr" = { low = 1.0, high = 2.0 }', "none of its 2 trials lies in this space, .*optim.lr"),
        (1, '[warm_start]\nfrom = "new"\n', [], "", "is this study itself"),
        (1, WARM, ['sampler.name="gp"'], "", "sampler gp has no weights: .*take sampler tpe"),
        (1, WARM, ['sampler.name="random"'], "", "sampler random learns from no trial"),
        (1, f"{WARM}weight = 0.0\n", [], "", "warm_start.weight = 0.0: .*greater than 0"),
    ],
)  # fmt: skip
def test_what_cannot_inform_a_study_is_refused_in_one_line(
    join: Join, trials: int, warm: str, changes: list[str], space: str, message: str
) -> None:
    grow(join("older"), trials)
    with pytest.raises(UserError, match=message) as mistake:
        join("new", *changes, more=warm, space=space)
    assert len(str(mistake.value).splitlines()) == 1
    assert "new.toml" in str(mistake.value)


def test_validate_says_it_before_a_worker_does(
    join: Join, sqlite_url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    grow(join("older"), 2)
    join("new", more=WARM)
    path = tmp_path / "other.toml"
    for source, code in (("older", 0), ("nothing", 2)):
        path.write_text((tmp_path / "new.toml").read_text().replace('from = "older"', f'from = "{source}"'))
        words = ["validate", str(path), "--no-data", "--no-timing", "--storage", sqlite_url]
        assert search_main.main(words) == code
        printed = capsys.readouterr().out
        assert f"warm      from {source}, a trial of it counts 0.3" in printed
        assert ("study 'nothing' is not in" in printed) == (code == 2)
    assert load(path).warm_start is not None


# How it is weighed


def older_trials(count: int, best: float) -> Older:
    space = FloatDistribution(0.0, 1.0)
    trials = []
    for number in range(count):
        x = (number + 0.5) / count
        trial = create_trial(value=1.0 - abs(x - best), params={"x": x}, distributions={"x": space})
        trial.number = number - count
        trials.append(trial)
    return Older(tuple(trials), 0.3)


def drawn(older: Older | None, trials: int, best: float, front: FrontChoice | None = None) -> list[float]:
    """What is drawn in a study whose best is at `best`, and whose scores are far above those of the older one."""
    study = optuna.create_study(
        direction="maximize", sampler=sampler(SamplerSettings("tpe", seed=3), older=older, front=front)
    )
    for _ in range(trials):
        trial = study.ask()
        if front is not None:
            trial.suggest_categorical("w", (4, 8))
        x = trial.suggest_float("x", 0.0, 1.0)
        study.tell(trial, 100.0 - abs(x - best))
    return [trial.params["x"] for trial in study.trials]


def test_a_wrong_older_study_leads_half_of_the_trials_astray_and_the_other_half_sees_none_of_it() -> None:
    wrong, nothing = drawn(older_trials(20, best=0.9), 60, 0.2), drawn(None, 10, 0.2)
    assert sum(x > 0.6 for x in wrong[:8:2]) >= 3
    assert wrong[1:10:2] == nothing[1:10:2], "at random, as they would be anyway"
    assert sum(abs(x - 0.2) < 0.2 for x in wrong[31::2]) >= 10
    assert sum(abs(x - 0.2) < 0.2 for x in wrong[30::2]) > sum(abs(x - 0.2) < 0.2 for x in wrong[:30:2])


def test_an_older_trial_counts_its_weight_and_less_with_every_own_one(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[float]] = []
    real = tpe._ParzenEstimator

    def noted(observations: Any, space: Any, parameters: Any, weights: Any = None) -> Any:
        seen.append([] if weights is None else [float(w) for w in weights])
        return real(observations, space, parameters, weights)

    monkeypatch.setattr(tpe.Weighed, "_parzen_estimator_cls", staticmethod(noted), raising=False)
    made = tpe.warm(0, 10, 0.3)
    made._parzen_estimator_cls = noted  # type: ignore[assignment]
    assert made.weight == 0.3
    study = optuna.create_study(direction="maximize")
    older = list(older_trials(4, 0.5).trials)
    for number in range(10):
        study.add_trial(
            create_trial(value=number / 10, params={"x": 0.5}, distributions={"x": FloatDistribution(0.0, 1.0)})
        )
    made._build_parzen_estimator(study, {"x": FloatDistribution(0.0, 1.0)}, [*older, *study.trials], False)
    assert seen == [[0.15] * 4 + [1.0] * 10]


def test_along_a_front_every_second_block_sees_older_trials() -> None:
    front = FrontChoice.along("w", (4, 8), seed=1)
    values, nothing = drawn(older_trials(20, best=0.9), 12, 0.2, front), drawn(None, 12, 0.2, front)
    seen = [at // 2 % 2 == 0 for at in range(12)]
    assert all(one == other for one, other, warm in zip(values[:8], nothing, seen[:8], strict=False) if not warm)
    assert sum(x > 0.6 for x, warm in zip(values, seen, strict=True) if warm) >= 4


@pytest.mark.parametrize(
    ("distribution", "inside", "outside"),
    [
        (FloatDistribution(0.0, 1.0), [0.0, 1, 0.5], [1.1, True, "0.5", None]),
        (FloatDistribution(0.0, 1.0, step=0.25), [0.25, 1.0], [0.3]),
        (IntDistribution(2, 8, step=2), [2, 8, 4.0], [3, 2.5, 10, False]),
        (CategoricalDistribution((1, 2)), [1, 2], [True, 3, "1"]),
    ],
    ids=str,
)
def test_a_value_of_another_study_fits_a_range_or_not(distribution: Any, inside: list[Any], outside: list[Any]) -> None:
    assert all(fits(distribution, value) for value in inside)
    assert not any(fits(distribution, value) for value in outside)
