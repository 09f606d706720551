"""What a confirmation found, read from the database: files are needed for weights alone."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from search.confirm.configurations import Configuration
from search.confirm.plan import Plan, confirmations, plan_of
from search.planning.network_costs import teacher_size
from search.spec.config import Choose
from search.storage.database import Database
from search.storage.evidence import TEACHER, Evidence, OpeningRecord
from search.storage.leases import LeaseDetails
from search.storage.schema import FINISHED
from search.study.snapshot import SearchSnapshot, read
from trainer.config import RunConfig
from trainer.data.splits.part_sizes import IMAGES, Nouns, Scored, nouns_of
from trainer.errors import UserError
from trainer.reports import PerImageResult


@dataclass(frozen=True, kw_only=True)
class PerImageScores(PerImageResult):
    """What one trained network of a confirmation did on each image of one part of the data."""

    configuration: str
    seed: int | None
    """None: the teacher."""
    scored: Scored = "image"
    """What each of `images` is."""


@dataclass(frozen=True)
class Confirmed:
    """Everything that the answer is computed from."""

    study: str
    objective: str
    configurations: tuple[Configuration, ...]
    findings: tuple[PerImageScores, ...]
    budgets: Mapping[str, tuple[int, int]]
    """Arm of the search to (trials finished, trials of the budget)."""
    choose: Choose
    openings: tuple[OpeningRecord, ...]
    """Openings of the test rows for every confirmation of the study, the oldest first."""
    missing: tuple[str, ...]
    """What was to be confirmed and is not there, in words."""
    methods: tuple[str, ...] = ()
    """The ways of distilling that the search dealt its trials over, beside none; each is a claim of its own."""
    nouns: Nouns = IMAGES
    """What sentences call the things of the data."""


def confirmed(opened: Database, study: str, *, sized: bool = True) -> Confirmed:
    """What the newest confirmation of a study found so far. Raises UserError where there is none.

    sized: count the teacher's parameters and operations, which loads torch; else they are 0.
    """
    search = read(opened, study)
    names = confirmations(study, opened.searches.names())
    if not names:
        raise UserError(f"study {study!r}: is not confirmed yet; python -m search confirm {study}")
    rows = read(opened, names[-1])
    plan, evidence = plan_of(names[-1], rows.record), Evidence(opened.engine)
    measured = evidence.findings(rows.search.uuid)
    scores, missing = _trials(rows, plan, measured)
    teacher = _teacher(plan, sized)
    configurations = plan.configurations if teacher is None else (*plan.configurations, teacher)
    if teacher is not None and TEACHER not in measured:
        missing.append("teacher: not examined yet")
    scores += [_as_findings("teacher", None, each) for each in measured.get(TEACHER, ())]
    nouns = nouns_of(RunConfig.model_validate(plan.configurations[0].run).data)
    return Confirmed(
        study=study,
        objective=plan.objective.metric,
        configurations=configurations,
        findings=tuple(replace(each, scored=nouns.scored) for each in scores),
        budgets={arm.name: (_ended(search, arm.name), arm.trials) for arm in search.arms},
        choose=plan.table.choose,
        openings=evidence.openings(study),
        missing=tuple(missing),
        methods=plan.methods,
        nouns=nouns,
    )


def _trials(
    rows: SearchSnapshot, plan: Plan, measured: Mapping[int, Sequence[PerImageResult]]
) -> tuple[list[PerImageScores], list[str]]:
    scores: list[PerImageScores] = []
    missing: list[str] = []
    for each in plan.configurations:
        leases = {_seed(lease): lease for lease in rows.leases.get(each.name, ())}
        for seed in plan.table.seeds:
            lease = leases.get(seed)
            if lease is not None and lease.trial_id in measured:
                scores += [_as_findings(each.name, seed, one) for one in measured[lease.trial_id]]
            else:
                missing.append(f"{each.name} seed {seed}: {_why(lease)}")
    return scores, missing


def _seed(lease: LeaseDetails) -> int | None:
    return None if lease.run is None else int(json.loads(lease.run)["seed"])


def _why(lease: LeaseDetails | None) -> str:
    if lease is None:
        return "not begun"
    if lease.failure is not None:
        return f"failed ({lease.failure})"
    return "not measured" if lease.state == FINISHED else f"still {lease.state}, epoch {lease.epoch}"


def _as_findings(configuration: str, seed: int | None, one: PerImageResult) -> PerImageScores:
    return PerImageScores(configuration=configuration, seed=seed, **vars(one))


def _ended(rows: SearchSnapshot, arm: str) -> int:
    states = [trial.state.name for trial in rows.trials[arm]]
    return sum(state in ("COMPLETE", "PRUNED") for state in states)


def _teacher(plan: Plan, sized: bool) -> Configuration | None:
    """The teacher as a configuration; None where no configuration was taught by one."""
    taught = next((each for each in plan.configurations if each.run["method"] != "none"), None)
    if taught is None:
        return None
    params, gflops = teacher_size(RunConfig.model_validate(taught.run)) if sized else (0, 0.0)
    return Configuration(
        name="teacher", role="teacher", arm=taught.arm, of=None, rank=1, trial=None, searched=None,
        params=params, gflops=gflops, run=taught.run,
    )  # fmt: skip
