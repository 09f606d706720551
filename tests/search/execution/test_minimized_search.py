"""A real search over pictures of three classes that minimises a distance of one class: what is best is the lowest."""

import sqlite3
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from search.commands.export import exported
from search.commands.preflight import preflight
from search.commands.status import lines, look
from search.commands.validate import preflight_lines
from search.confirm.plan import made
from search.dashboard.note import write
from search.execution.database_thread import DatabaseThread
from search.execution.epoch_loop import run_group
from search.execution.group import SingleProcess
from search.execution.messages import WorkerSettings
from search.report.content.build import report
from search.report.page import page
from search.report.tables import tables
from search.spec.config import Dashboard
from search.spec.identity import arm_identity
from search.spec.load import identity, load, record
from search.storage.database import Database, open_storage
from search.storage.statements import Owner
from search.study.create import Identity, open_search
from search.study.snapshot import read
from trainer.data.splits.split import Row, write_split
from trainer.distributed.ranks import Ranks
from trainer.engine.cohort import Cohort

METRIC = "hd95_missed_as_diagonal.disc"
STUDY = """
[objective]
minimize = "hd95_missed_as_diagonal.disc"
[front]
along = "student.width"
[run]
method = "none"
epochs = 3
batch_size = 4
student = {{ name = "unet", width = 4 }}
losses = {{ ce = {{ class_weights = "balanced" }}, dice = {{}} }}
optim = {{ lr = 1e-2 }}
[run.data]
name = "pictures"
root = "{folder}"
split = "{folder}/split.csv"
size = 32
near_duplicates = "accept"
classes = [
  {{ name = "ground", value = 0 }},
  {{ name = "disc", value = 20, colour = "#b43c3c" }},
  {{ name = "bar", value = 40 }},
  {{ name = "ring", value = 60 }},
]
[space]
"student.width" = {{ choices = [2, 4] }}
"optim.lr" = {{ low = 1e-4, high = 5e-2, log = true }}
[sampler]
name = "random"
[pruner]
name = "median"
startup = 1
warmup_epochs = 1
[budget]
trials = 6
in_flight = 2
"""


def draw(folder: Path) -> None:
    """Eight pictures to train on, four to validate, four of test: a red disc and a blue bar; no ring."""
    rows = []
    for n in range(16):
        draws = np.random.default_rng(n)
        image, mask = draws.normal(90, 12, (32, 32, 3)), np.zeros((32, 32), np.uint8)
        y, x = np.mgrid[:32, :32]
        cy, cx, top = *draws.integers(8, 24, 2), int(draws.integers(2, 26))
        mask[top : top + 4, 4:28] = 40
        mask[(y - cy) ** 2 + (x - cx) ** 2 < 36] = 20
        image[mask == 20], image[mask == 40] = (200, 60, 60), (60, 60, 200)
        for name, values in (("i", image.clip(0, 255).astype(np.uint8)), ("m", mask)):
            Image.fromarray(values).save(folder / f"{name}{n:02}.png")
        part = "train" if n < 8 else "validation" if n < 12 else "test"
        rows.append(Row("drawn", f"i{n:02}.png", f"m{n:02}.png", "", part))
    write_split(folder / "split.csv", rows)


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Database]:
    """The study file and the database of a search that has ended."""
    folder = tmp_path_factory.mktemp("classes")
    draw(folder)
    study, url = folder / "low.toml", f"sqlite:///{folder / 'study.db'}"
    study.write_text(STUDY.format(folder=folder))
    spec, hashes = load(study), {"data_hash": "d", "teacher_hash": None}
    ids = {arm.name: arm_identity(arm, **hashes) for arm in spec.arms}
    opened = open_storage(url)
    search = open_search(opened, url, spec, Identity(identity(spec, **hashes), ids, record(spec, **hashes)))
    students = Cohort(Ranks("cpu"), slots=2, cache=folder / "cache", monitor=spec.objective.metric)
    settings = WorkerSettings(Owner("me", "here"), 2, folder / "runs", 1, {}, breach=lambda _: None)
    run_group(SingleProcess(), students, DatabaseThread(search, settings))
    return study, opened


def test_what_is_best_is_the_lowest_from_the_trials_to_the_plan_of_a_confirmation(ended):
    _, opened = ended
    rows = read(opened, "low")
    (main,) = (arm.name for arm in rows.arms)
    complete = [lease for lease in rows.leases[main] if lease.failure is None and lease.weights is not None]
    lowest = min(complete, key=lambda lease: lease.known_score)
    trials = {trial.number: trial for trial in rows.trials[main]}
    # A trial is worth its lowest epoch, whose weights are kept.
    values = trials[lowest.number].intermediate_values
    assert lowest.known_score == pytest.approx(min(values.values()))
    assert values[lowest.best_epoch] == lowest.known_score
    # A trial is pruned where it is above the others of its width.
    for pruned in (trial for trial in trials.values() if trial.state.name == "PRUNED"):
        width = pruned.params["student.width"]
        others = [t for t in trials.values() if t.state.name == "COMPLETE" and t.params["student.width"] == width]
        assert pruned.intermediate_values[pruned.last_step] > min(min(t.intermediate_values.values()) for t in others)
    ranking = exported(opened, "low", 6)["best"]
    assert [entry["value"] for entry in ranking] == sorted(entry["value"] for entry in ranking)
    assert ranking[0]["trial"] == lowest.number
    text = lines(look(opened, "low"))
    assert any(f"{METRIC} {lowest.known_score:.4f} px (#{lowest.number})" in line for line in text)
    plan = made(rows, load(ended[0]).confirm, name="low.confirm", dashboard=Dashboard(), early=False)
    assert plan.configurations[0].trial == lowest.number
    study = report(opened, ["low"]).studies[0]
    assert (study.search.arms[0].best.trial, study.search.maximize) == (lowest.number, False)
    assert study.search.front[0].best[main] <= max(dot.score for dot in study.search.dots)


def test_classes_stand_in_status_note_report_and_validate_with_their_colours(ended):
    file, opened = ended
    assert any(
        line.split("by class: ")[-1].startswith("disc 0.") for line in lines(look(opened, "low")) if "by class" in line
    )
    document = look(opened, "low").as_json()
    assert document["classes"] == {"disc": "#b43c3c", "bar": "#e69f00", "ring": "#56b4e9"}
    assert "dice.bar" in document["arms"]["kd"]["best"]["by_class"]
    study = report(opened, ["low"]).studies[0]
    table = next(table for table in tables(study) if table.name == "classes-searched")
    assert [row[0] for row in table.rows] == ["disc", "bar", "ring"]
    whole = page(report(opened, ["low"]))
    assert '<span class="swatch" style="background: #b43c3c"></span> disc' in whole
    assert "at threshold" not in whole
    write(opened, "low", None)
    with closing(sqlite3.connect(opened.engine.url.database)) as connection:
        notes = "".join(str(row[0]) for row in connection.execute("select value_json from study_system_attributes"))
    assert "Dice by class" in notes
    assert f"best {METRIC} (px)" in notes
    facts = preflight(load(file), file.parent / "cache")
    assert facts.data.absent == {"train": ["ring"], "validation": ["ring"]}
    assert sum(facts.data.classes.values()) == pytest.approx(1.0)
    text = next(line for line in preflight_lines(facts) if "classes" in line)
    assert text.endswith("ring 0.0%; no ring in train; no ring in validation")
