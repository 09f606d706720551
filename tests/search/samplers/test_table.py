"""The table of docs/study-file.md: what each sampler and pruner can do is tried, cell by cell, in a search."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from search.commands.simulate import simulated_identity
from search.pruners import PRUNERS
from search.samplers import PLACES, SAMPLERS, choice_for
from search.spec.load import load
from search.spec.reference import ABLE_IN, ability, able_study
from search.storage.database import Database, open_storage
from search.storage.statements import Owner
from search.study.adapter import Claim, StudyAdapter
from search.study.create import open_search
from trainer.errors import UserError

Join = Callable[[int], StudyAdapter]
ME, OTHER = Owner("me", "here"), Owner("other", "there")
NAMES = [("sampler", name) for name in sorted({**SAMPLERS, **PLACES})]
NAMES += [("pruner", name) for name in sorted({*PRUNERS, "wilcoxon"} - {"none"})]
CELLS = [pytest.param(*row, feature, id=f"{row[1]}, {feature}") for row in NAMES for feature in ABLE_IN]
STARTS = {"gp": "startup = 3\n", "nsga2": "options = { population_size = 3 }\n", "tpe": "startup = 3\n"}
STARTS |= {"cmaes": "options = { population_size = 4 }\n", "median": "startup = 1\n", "percentile": "startup = 1\n"}
STARTS |= {"curves": "startup = 2\nidle_below = 0\n"}


@pytest.fixture(scope="module")
def databases(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, list[Database]]]:
    """One database for all cells, opened as two workers have it."""
    url = f"sqlite:///{tmp_path_factory.mktemp('able') / 'able.db'}"
    opened = [open_storage(url) for _ in range(2)]
    yield url, opened
    for each in opened:
        each.engine.dispose()


@pytest.fixture
def joined(
    kind: str, name: str, feature: str, databases: tuple[str, list[Database]], tmp_path: Path
) -> Callable[[int], StudyAdapter]:
    """The search of a cell as one of two workers has it; it begins to learn after a few trials."""
    named = f'name = "{name}"\n'
    path = tmp_path / f"{kind}-{name}-{feature.replace(' ', '-')}.toml"
    path.write_text(able_study(kind, name, feature).replace(named, named + STARTS.get(name, "")))
    url, opened = databases

    def join(worker: int) -> StudyAdapter:
        spec = load(path)
        return open_search(opened[worker], url, spec, simulated_identity(spec))

    return join


def begin(search: StudyAdapter, owner: Owner = ME) -> tuple[Claim, dict[str, Any]]:
    claim = search.claim(owner, lambda _: 0, ())
    params = search.suggest(claim)
    search.commit(claim, "{}", "{}")
    return claim, params


def finish(search: StudyAdapter, claim: Claim, score: float) -> bool:
    """Report epochs until a verdict ends the trial; whether one did."""
    if claim.arm.pruner.name == "none":
        search.complete(claim.held, score, {})
        return False
    for epoch in range(1, 4):
        search.report(claim.held, epoch, score, {"epoch": epoch})
        if search.pruned(claim.held):
            search.prune(claim.held, {}, value=score)
            return True
    search.complete(claim.held, score, {})
    return False


SCORES = (0.8, 0.82, 0.81, 0.1, 0.2, 0.15, 0.12)
"""Of the trials of a group, in turn; the hopeless ones are several, as some brackets of hyperband let them go on."""


@pytest.mark.parametrize(("kind", "name", "feature"), CELLS)
def test_the_cell_is_as_it_stands(kind: str, name: str, feature: str, joined: Join, tmp_path: Path) -> None:
    cell = ability(kind, name, feature)
    if cell.startswith("refused"):
        (tmp_path / "refused.toml").write_text(able_study(kind, name, feature))
        with pytest.raises(UserError, match=f"{kind}.*{name}|{kind}: "):
            load(tmp_path / "refused.toml")
        return
    if kind == "pruner":
        judge(name, feature, joined)
    else:
        propose(name, feature, joined)


def propose(name: str, feature: str, joined: Join) -> None:
    own = joined(0)
    theirs = joined(1) if feature == "several workers" else own
    if feature == "trials that change hands":
        changed_hands(own)
        return
    flying = [begin(own), begin(theirs, OTHER)]
    seen = [params for _, params in flying]
    for at in range(4 if feature != "arms" else 6):
        claim, params = flying.pop(0)
        search = theirs if claim.held.number % 2 else own
        finish(search, claim, 0.5 + params.get("optim.weight_decay", 0.0) + at / 1000)
        flying.append(begin(own if at % 2 else theirs, ME))
        seen.append(flying[-1][1])
    trials = {arm.name: own.trials(arm) for arm in own.spec.arms}
    for arm in own.spec.arms:
        for trial in trials[arm.name]:
            arm.resolve(trial.params)
        unlike = {tuple(sorted(trial.params.items())) for trial in trials[arm.name]}
        assert name in ("tpe", "gp", "nsga2", "random", "cmaes") or len(unlike) == len(trials[arm.name])
    if feature == "a front":
        dealt = [trial.params["student.width"] for trial in trials["kd"]]
        assert all(set(dealt[at : at + 2]) == {4, 8} for at in range(0, len(dealt) - 1, 2))
        front = own._front_of["kd"]
        assert front is not None
        assert name == "grid" or dealt == [choice_for(front, n)["student.width"] for n in range(len(dealt))]
    if feature == "an open front":
        counts = Counter(trial.params["student.width"] for trial in trials["kd"])
        assert min(counts.values()) >= 2
    if feature == "arms":
        assert all("student.width" not in trial.params for trial in trials["wide"])
        assert len(trials["wide"]) >= 4
    if feature == "conditions":
        assert all(("optim.clip" in params) == (params["student.width"] == 8) for params in seen)


def changed_hands(search: StudyAdapter) -> None:
    """A trial that was given back before its run was stored, and one after: both go on as they were."""
    for at in range(3):
        claim, _ = begin(search)
        finish(search, claim, 0.5 + at / 10)
    for stored in (False, True):
        claim = search.claim(ME, lambda _: 0, ())
        params = search.suggest(claim)
        if stored:
            search.commit(claim, "{}", "{}")
        search.leases.give_back(claim.held)
        taken = search.claim(OTHER, lambda _: 0, ())
        assert taken.held.trial_id == claim.held.trial_id
        assert search.suggest(taken) == params
        finish(search, taken, 0.6)
    begin(search)


def judge(name: str, feature: str, joined: Join) -> None:
    own = joined(0)
    theirs = joined(1) if feature == "several workers" else own
    if name in ("promote", "curves"):
        pause_and_promote(own, theirs)
        return
    if feature == "trials that change hands":
        judged_again(name, own)
        return
    ended: dict[str, list[bool]] = defaultdict(list)
    each = 6 if name == "hyperband" else 4
    for at in range(2 * each if feature == "arms" or "front" in feature else each):
        worker, owner = (theirs, OTHER) if at % 2 else (own, ME)
        claim, params = begin(worker, owner)
        group = claim.arm.name if feature == "arms" else str(params["student.width"]) if "front" in feature else ""
        ended[group].append(finish(worker, claim, SCORES[len(ended[group]) % len(SCORES)]))
    for group in ended.values():
        if name == "patient":
            assert all(group), "what stands still ends"
        else:
            assert any(group[3:]) or len(group) < each, "a hopeless one ends"
            assert not group[0], "the first has nobody to be worse than"


def pause_and_promote(own: StudyAdapter, theirs: StudyAdapter) -> None:
    """Trials are paused at the first rung, and the best of a choice goes on, whoever asks."""
    paused, promoted = 0, []
    for number in range(12):
        search, owner = (theirs, OTHER) if number % 2 else (own, ME)
        claim = search.claim(owner, lambda row: row.epoch, ())
        if claim.seen is not None:
            promoted.append((claim.arm.name, claim.held.number))
            search.complete(claim.held, 0.9, {})
            continue
        search.suggest(claim)
        search.commit(claim, "{}", "{}")
        search.report(claim.held, 1, SCORES[number % 7], {"epoch": 1})
        if search.pauses(claim.held):
            paused += 1
            search.leases.pause(claim.held)
    assert paused >= 4
    assert len(set(promoted)) == len(promoted) >= 1


def judged_again(name: str, search: StudyAdapter) -> None:
    """The verdict that ends a trial is the same whoever asks again, and after the epoch was trained again."""
    for score in (0.8, 0.82, 0.84):
        claim, _ = begin(search)
        finish(search, claim, score)
    claim, _ = begin(search)
    for epoch in range(1, 4):
        search.report(claim.held, epoch, 0.2, {"epoch": epoch})
        if search.pruned(claim.held):
            break
    else:
        pytest.fail("not ended")
    assert search.pruned(claim.held)
    row = next(row for row in search.leases.of_studies(list(search.arms)) if row.trial_id == claim.held.trial_id)
    taken = search.leases.acquire(row, OTHER, resume_epoch=epoch - 1, lost=True)
    assert taken is not None
    assert search.opened.storage.get_trial(taken.trial_id).last_step == (epoch - 1 or None)
    search.report(taken, epoch, 0.2, {"epoch": epoch})
    assert search.pruned(taken)
    assert search.pruned(taken)
