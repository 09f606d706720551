"""A pair of parameters is one choice: to the deal, to what the sampler sees and to the pruner."""

from collections import Counter
from typing import Any

import optuna
import pytest
from optuna.trial import Trial, TrialState

from search.pruners import PrunerSettings, pruner, should_prune
from search.samplers import SAMPLERS, FrontChoice, SamplerSettings, choice_of, sampler
from search.samplers.per_trial import PerTrial
from tests.search.samplers.test_samplers import onlooker

NAME, UNET, RESUNET = "student.name", "student.width[0]", "student.width[1]"
FRONT = FrontChoice(
    (
        *({NAME: "unet", UNET: width} for width in (4, 8)),
        *({NAME: "resunet", RESUNET: width} for width in (4, 8, 16)),
        {NAME: "plain"},
    ),
    seed=3,
)


def draw(trial: Trial) -> dict[str, Any]:
    name = trial.suggest_categorical(NAME, ["unet", "resunet", "plain"])
    params: dict[str, Any] = {NAME: name}
    if name == "unet":
        params[UNET] = trial.suggest_categorical(UNET, [4, 8])
    if name == "resunet":
        params[RESUNET] = trial.suggest_categorical(RESUNET, [4, 8, 16])
    return params | {"lr": trial.suggest_float("lr", 1e-4, 1e-2, log=True)}


def dealt(params: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(value for name, value in params.items() if name != "lr")


@pytest.mark.parametrize("name", sorted({*SAMPLERS} - {"gp"}))
def test_every_block_has_every_pair_once(name: str) -> None:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(sampler=sampler(SamplerSettings(name, 1, startup=4), front=FRONT))
    for number in range(36):
        trial = study.ask()
        value = draw(trial)["lr"]
        study.tell(trial, state=TrialState.FAIL) if number % 5 == 1 else study.tell(trial, value)
    expected = {tuple(point.values()) for point in FRONT.points}
    for block in range(6):
        assert {dealt(t.params) for t in study.trials[6 * block : 6 * block + 6]} == expected
    assert Counter(t.params[NAME] for t in study.trials) == {"unet": 12, "resunet": 18, "plain": 6}


def test_an_enqueued_part_of_a_pair_is_kept_and_the_rest_of_it_is_dealt() -> None:
    study = optuna.create_study(sampler=sampler(SamplerSettings("random", 1), front=FRONT))
    for name in ("unet", "resunet", "plain", "resunet"):
        study.enqueue_trial({NAME: name})
    study.enqueue_trial({RESUNET: 16})
    for _ in range(5):
        trial = study.ask()
        before = choice_of(FRONT, study.trials[trial.number])
        params = draw(trial)
        assert {name: value for name, value in params.items() if name != "lr"} == before
    assert [t.params[NAME] for t in study.trials] == ["unet", "resunet", "plain", "resunet", "resunet"]
    assert study.trials[4].params[RESUNET] == 16


def test_a_sampler_sees_its_own_pair_alone_or_quantiles_within_pairs() -> None:
    build, shown, _ = onlooker()
    study = optuna.create_study(sampler=PerTrial(build, seed=1, front=FRONT, own_after=1))
    for _ in range(24):
        trial = study.ask()
        params = draw(trial)
        study.tell(trial, 1000.0 * (params[NAME] == "unet") + params.get(UNET, 0) + params["lr"])
    alone = [number for number in range(6, 24) if number // 6 % 2 == 1]
    for number in alone:
        assert {dealt(t.params) for t in shown[number]} == {dealt(study.trials[number].params)}
    ranked = [t for t in shown[12] if t.state == TrialState.COMPLETE]
    assert sorted(t.value for t in ranked) == [0.25] * 6 + [0.75] * 6, "two of each pair, whatever its scores"


def test_a_pair_is_judged_among_its_like() -> None:
    settings = PrunerSettings("median", 4, startup=1)

    def resunet(width: int) -> dict[str, Any]:
        return {NAME: "resunet", RESUNET: width}

    def train(score: float, params: dict[str, Any]) -> bool:
        study.enqueue_trial(params)
        trial = study.ask()
        trial.suggest_categorical(NAME, ["unet", "resunet", "plain"])
        trial.suggest_categorical(RESUNET, [4, 8, 16])
        trial.report(score, 1)
        frozen = study.trials[trial.number]
        pruned = should_prune(pruner(settings), study, frozen, front=FRONT)
        study.tell(trial, state=TrialState.PRUNED) if pruned else study.tell(trial, score)
        return pruned

    study = optuna.create_study(direction="maximize")
    assert not train(0.9, resunet(16))
    assert not train(0.5, resunet(8)), "another width of the same network"
    assert train(0.4, resunet(8))
