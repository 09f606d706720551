"""Real searches of students that have no foreground at a threshold of 0.5, by Dice there and at the best one."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from search.commands.confirm import plan_lines
from search.commands.export import exported
from search.commands.status import lines, look
from search.confirm.plan import made
from search.execution.database_thread import DatabaseThread
from search.execution.epoch_loop import run_group
from search.execution.group import SingleProcess
from search.execution.messages import WorkerSettings
from search.report.content.build import report
from search.report.page import page
from search.spec.config import Dashboard
from search.spec.identity import arm_identity
from search.spec.load import StudySpec, identity, load, record
from search.storage.database import Database, open_storage
from search.storage.statements import Owner
from search.study.create import Identity, open_search
from search.study.outcomes import largest_tie
from search.study.snapshot import read
from trainer.checkpoint import ready
from trainer.data import open_data
from trainer.distributed.ranks import Ranks
from trainer.engine.cohort import Cohort
from trainer.evaluation.metrics import validate

STUDY = """
[objective]
maximize = "{metric}"
[run]
method = "none"
epochs = {epochs}
batch_size = 4
student = {{ name = "unet", width = 4 }}
losses = {{ ce = {{ class_weights = [4.0, 1.0] }} }}
validate = {{ from = {epochs} }}
[run.data]
name = "blobs"
size = 32
train = 32
validation = 8
test = 4
[space]
"optim.lr" = {{ choices = [0.008, 0.015, 0.02] }}
[sampler]
name = "grid"
[budget]
trials = 3
in_flight = 3
"""
Searched = Callable[[str, int], tuple[StudySpec, Database]]


@pytest.fixture
def searched(tmp_path: Path) -> Searched:
    """Of a metric and so many epochs: the study, and the database in which its search has ended."""

    def search(metric: str, epochs: int) -> tuple[StudySpec, Database]:
        study, url = tmp_path / "low.toml", f"sqlite:///{tmp_path / 'study.db'}"
        study.write_text(STUDY.format(metric=metric, epochs=epochs))
        spec, hashes = load(study), {"data_hash": "d", "teacher_hash": None}
        ids = {arm.name: arm_identity(arm, **hashes) for arm in spec.arms}
        opened = open_storage(url)
        begun = open_search(opened, url, spec, Identity(identity(spec, **hashes), ids, record(spec, **hashes)))
        students = Cohort(Ranks("cpu"), slots=3, cache=tmp_path / "cache", monitor=spec.objective.metric)
        settings = WorkerSettings(Owner("me", "here"), 3, tmp_path / "runs", 1, {}, breach=lambda _: None)
        run_group(SingleProcess(), students, DatabaseThread(begun, settings))
        return spec, opened

    return search


def test_students_without_foreground_at_a_half_are_counted_and_their_scores_at_the_best_threshold_differ(
    searched: Searched, tmp_path: Path
) -> None:
    spec, opened = searched("dice", 6)
    (leases,) = read(opened, "low").leases.values()
    data = open_data(spec.main.base.data, cache=tmp_path / "cache")
    empty = np.mean([not (data.native_mask("validation", i) == 1).any() for i in range(8)])
    scores = {}
    for lease in leases:
        network = ready(Path(lease.weights or ""), device=torch.device("cpu")).network
        monitor = "dice_at_best_threshold"
        means = validate(network, data, "validation", ranks=Ranks("cpu"), precision="fp32", monitor=monitor).means
        assert means["dice"] == lease.known_score
        scores[lease.known_score, means[monitor]] = lease
    blind = [best for half, best in scores if half == empty]
    assert len(blind) == 2
    assert min(blind) > empty + 0.2
    assert max(scores, key=lambda pair: pair[1])[0] == empty  # what is best of all is worth what an empty mask is
    says = f"2 of 3 complete trials have one score, {empty:.4f}: at threshold 0.5 their masks are alike"
    status = look(opened, "low")
    assert sum(says in line for line in lines(status)) == 1
    assert status.as_json()["tie"] == {"trials": 2, "score": empty, "instead": "dice_at_best_threshold"}
    rows = read(opened, "low")
    assert largest_tie(rows) is not None
    confirms = json.dumps(rows.record | {"confirm": {"study": "low"}})  # whose seeds have thresholds of their own
    assert largest_tie(replace(rows, search=replace(rows.search, spec=confirms))) is None
    assert "2 of 3 trials that were trained to their end have one score" in page(report(opened, ["low"]))


def test_a_search_by_the_best_threshold_says_so_wherever_its_scores_stand(searched: Searched) -> None:
    spec, opened = searched("dice_at_best_threshold", 1)
    status = look(opened, "low")
    assert "tie" not in status.as_json()
    (best,) = (line for line in lines(status) if line.startswith("kd "))
    assert "dice_at_best_threshold 0." in best
    assert exported(opened, "low", 1)["best"][0]["value"] >= 0.3
    plan = made(read(opened, "low"), spec.confirm, name="low.confirm", dashboard=Dashboard(), early=False)
    assert "searched: on validation, each at its own best threshold, unconfirmed" in plan_lines(plan)
    text = page(report(opened, ["low"]))
    assert "Each network is scored at the threshold that is best for it" in text
    assert "at threshold 0.5" not in text
