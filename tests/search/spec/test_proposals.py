"""What samplers and pruners of a study file are warned of and refused, before any trial."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from search.spec.load import StudySpec, load
from search.spec.proposals import draw_notes, expected_complete, pruner_notes, sampler_notes
from trainer.errors import UserError


@pytest.fixture
def study(tmp_path: Path, small_study: Callable[..., str]) -> Callable[..., StudySpec]:
    """The small study of 27 epochs and 60 trials with another sampler, pruner and further parameters."""

    def loaded(sampler: str, pruner: str = 'name = "none"', *, space: str = "", more: str = "") -> StudySpec:
        text = small_study(trials=60, epochs=27, more=f"[pruner]\n{pruner}\n{more}")
        range_of_decay = '"optim.weight_decay" = { low = 0.0, high = 0.1 }'
        text = text.replace("[sampler]", f"{range_of_decay}\n{space}\n[sampler]").replace('name = "random"', sampler)
        path = tmp_path / "proposed.toml"
        path.write_text(text)
        return load(path)

    return loaded


@pytest.mark.parametrize(
    ("pruner", "expected"),
    [
        ('name = "none"', 60),
        ('name = "median"', 5 + 27),
        ('name = "percentile"\npercentile = 20', 5 + 11),
        ('name = "halving"', 2),
        ('name = "halving"\nmin_epochs = 9', 20),
        ('name = "hyperband"\nmin_epochs = 9', 40),
        ('name = "promote"', 20),
        ('name = "promote"\nmin_epochs = 1', 2),
        ('name = "curves"', 60),
        ('name = "threshold"\nlower = 0.3', 60),
    ],
)
def test_how_many_trials_are_to_be_expected_to_complete(
    study: Callable[..., StudySpec], pruner: str, expected: int
) -> None:
    assert expected_complete(study('name = "tpe"', pruner).main) == expected


@pytest.mark.parametrize(
    ("sampler", "pruner", "start"),
    [
        ('name = "gp"', 'name = "halving"', 10),
        ('name = "nsga2"', 'name = "percentile"', 20),
        ('name = "cmaes"', 'name = "halving"', 6),
        ('name = "gp"', 'name = "promote"\nmin_epochs = 1', 10),
        ('name = "gp"\nstartup = 80', 'name = "none"', 80),
    ],
)
def test_a_sampler_that_would_never_begin_to_learn_is_warned_of(
    study: Callable[..., StudySpec], sampler: str, pruner: str, start: int
) -> None:
    (note,) = sampler_notes(study(sampler, pruner).main)
    assert f"draws at random until {start} trials are complete, and about " in note
    assert not list(sampler_notes(study('name = "tpe"', pruner).main))


def test_what_a_sampler_leaves_to_chance_is_said(study: Callable[..., StudySpec]) -> None:
    choices = '"optim.name" = { choices = ["adamw", "sgd"] }\n'
    clip = '"optim.clip" = { low = 1.0, high = 4.0, when = { "optim.name" = "sgd" } }'
    (note,) = sampler_notes(study('name = "cmaes"', space=choices).main)
    assert note == "kd: sampler cmaes draws choices at random: optim.name"
    (note,) = sampler_notes(study('name = "gp"', space=choices + clip).main)
    assert "draws what not every trial has at random: optim.clip" in note
    (note,) = sampler_notes(study('name = "gp"', space=choices + clip, more='[front]\nalong = "optim.name"').main)
    assert "models optim.clip only in turns that look at one choice of optim.name alone" in note
    assert not list(sampler_notes(study('name = "tpe"', space=choices + clip).main))


@pytest.mark.parametrize(
    ("pruner", "note"),
    [
        ('name = "patient"\npatience = 26', "pruner.patience = 26: nothing is pruned in 27 epochs"),
        ('name = "patient"', "ends good trials that stand still"),
        ('name = "percentile"\nwarmup_epochs = 27', "pruner.warmup_epochs = 27: nothing is pruned in 27 epochs"),
        ('name = "threshold"\nupper = 0.9', "pruner.upper = 0.9: ends what is better than that"),
        (
            'name = "curves"\nstartup = 60',
            "pruner.startup = 60: all 60 trials are begun before a paused one goes on",
        ),
    ],
)
def test_a_pruner_that_may_not_be_meant_is_warned_of(study: Callable[..., StudySpec], pruner: str, note: str) -> None:
    (line,) = pruner_notes(study('name = "tpe"', pruner).main, maximize=True)
    assert note in line


@pytest.mark.parametrize(
    ("pruner", "message"),
    [
        ('name = "wilcoxon"', "a trial reports epochs: .*take median or percentile"),
        ('name = "threshold"', "neither lower nor upper is given"),
        ('name = "threshold"\nlower = 0.5\nupper = 0.4', "lower = 0.5: not below upper = 0.4"),
        ('name = "percentile"\npercentile = 100', "pruner.percentile = 100: .*less than 100"),
        ('name = "patient"\npatience = 0', "pruner.patience = 0: .*greater than"),
        ('name = "curves"\nfactor = 1.0', "pruner.factor = 1.0: .*1.1"),
        ('name = "curves"\nstartup = 0', "pruner.startup = 0: .*greater than"),
        ('name = "curves"\nidle_below = -1', "pruner.idle_below = -1: .*greater than"),
        ('name = "curves"\nmin_epochs = 27', "no trial can be paused within 27 epochs"),
    ],
)
def test_a_pruner_that_cannot_work_is_refused_in_one_line(
    study: Callable[..., StudySpec], pruner: str, message: str
) -> None:
    with pytest.raises(UserError, match=message) as mistake:
        study('name = "tpe"', pruner)
    assert len(str(mistake.value).splitlines()) == 1


def test_a_best_of_so_few_that_the_draws_decide_is_warned_of(study: Callable[..., StudySpec]) -> None:
    """Where it is more likely than not that no trial has a good value; not where all of them are given."""
    arm = study('name = "tpe"').main
    few = replace(arm, trials=2)
    (note,) = draw_notes(few)
    assert note.startswith("kd: the best of 2 trials is compared, and with a chance of 64% none has a value from the ")
    assert "best fifth of a range such as optim.lr's: a difference may be that of the draws" in note
    assert [len(list(draw_notes(arm, shares))) for shares in (60, 20, 15)] == [1, 1, 0]
    given = {"optim.lr": 1e-3, "optim.weight_decay": 1e-4}
    assert not list(draw_notes(replace(few, enqueue=(given, given))))
    (note,) = draw_notes(replace(few, enqueue=(given, {"optim.lr": 1e-3})))
    assert "best fifth of optim.weight_decay's range" in note
