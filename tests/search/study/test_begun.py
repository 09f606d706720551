"""A search from before encoders got the mean and deviation that their weights expect goes on as it was begun."""

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest

from search.commands.simulate import simulated_identity
from search.spec.identity import arm_identity
from search.spec.load import load, record
from search.storage.database import open_storage
from search.study.begun import as_begun
from search.study.create import open_search
from trainer.config import RunConfig
from trainer.run_file import read

pytestmark = pytest.mark.skipif(
    find_spec("segmentation_models_pytorch") is None, reason="the smp extra is not installed"
)
STUDENT = {"name": "smp-unet", "encoder": "timm-mobilenetv3_small_100", "weights": "imagenet"}
HALF = (0.5, 0.5, 0.5)


@pytest.fixture
def study(tmp_path: Path, small_study: Callable[..., str]) -> Path:
    path = tmp_path / "small.toml"
    path.write_text(small_study(student=STUDENT))
    return path


def test_a_new_study_records_what_its_encoder_expects(study: Path) -> None:
    spec = load(study)
    student = record(spec)["run"]["student"]
    assert (student["mean"], student["std"]) == ([0.5] * 3, [0.5] * 3)
    (params, *_) = spec.main.probes()
    run = spec.main.resolve(params)
    assert run.student.mean == HALF
    assert RunConfig.model_validate_json(run.model_dump_json(exclude_none=True)) == run
    assert read(study).run.student.mean == HALF


def test_in_json_that_a_program_wrote_missing_numbers_are_imagenets(study: Path, tmp_path: Path) -> None:
    table = load(study, pretrained="imagenet").run.model_dump_json()
    assert "mean" not in table
    (tmp_path / "run.json").write_text(table)
    assert read(tmp_path / "run.json").run.student.mean is None
    changed = read(tmp_path / "run.json", sets=["student.encoder=timm-mobilenetv3_large_100"])
    assert changed.run.student.mean == HALF


def test_the_file_may_say_imagenet_and_is_then_the_study_that_it_was(
    study: Path, small_study: Callable[..., str]
) -> None:
    older = load(study, pretrained="imagenet")
    study.write_text(small_study(student=STUDENT | {"normalisation": "imagenet"}))
    assert record(load(study)) == record(older)
    assert "mean" not in record(older)["run"]["student"]
    assert load(study).main.identity == older.main.identity


def test_a_network_that_takes_imagenets_is_the_study_that_it_was(study: Path, small_study: Callable[..., str]) -> None:
    study.write_text(small_study(student=STUDENT | {"encoder": "resnet18"}))
    assert record(load(study)) == record(load(study, pretrained="imagenet"))
    assert set(record(load(study))["run"]["student"]) == {"name", "encoder", "weights", "checkpoint"}


def test_encoders_that_the_space_chooses_get_their_own_and_are_part_of_the_identity(
    study: Path, small_study: Callable[..., str]
) -> None:
    encoders = '"student.encoder" = { choices = ["resnet18", "timm-mobilenetv3_small_100"] }\n'
    text = small_study(student=STUDENT | {"encoder": "resnet18"})
    study.write_text(text.replace("[space]\n", f"[space]\n{encoders}"))
    arm, older = load(study).main, load(study, pretrained="imagenet").main
    runs = {run.student.encoder: run.student.mean for run in (arm.resolve(params) for params in arm.probes())}
    assert runs == {"resnet18": None, "timm-mobilenetv3_small_100": HALF}
    assert arm_identity(arm) != arm_identity(older)
    assert {older.resolve(params).student.mean for params in older.probes()} == {None}


def test_a_control_with_another_encoder_gets_its_own(study: Path, small_study: Callable[..., str]) -> None:
    more = '[[arms]]\nname = "plain"\nset = { student = { name = "unet", width = 4 } }\n'
    study.write_text(small_study(student=STUDENT, more=more))
    control = load(study).arm("plain")
    assert control.base.student.name == "unet"
    assert not any("normalisation" in line for line in control.dropped)


@pytest.mark.parametrize("begun_with", ["imagenet", "encoder"])
def test_a_search_goes_on_as_it_was_begun(study: Path, tmp_path: Path, log: list[str], begun_with: str) -> None:
    url = f"sqlite:///{tmp_path / 'search.db'}"
    assert record(as_begun(load(study), url)) == record(load(study))
    spec = load(study, pretrained=begun_with)
    storage = open_storage(url)
    open_search(storage, url, spec, simulated_identity(spec))
    found = as_begun(load(study), url)
    assert record(found) == record(spec)
    open_search(storage, url, found, simulated_identity(found))
    storage.engine.dispose()
    assert any("goes on with ImageNet's mean and deviation" in line for line in log) == (begun_with == "imagenet")
