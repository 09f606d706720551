"""Networks that expect other means and deviations share a stream, and each gets its images as its weights expect."""

import dataclasses
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from models.normalisation import IMAGENET, Normalisation
from trainer import checkpoint
from trainer.config import RunConfig
from trainer.data.streams.batches import normalise
from trainer.distributed.ranks import Ranks
from trainer.engine.cohort import Cohort
from trainer.engine.fit import fit
from trainer.errors import CheckpointError
from trainer.reports import EpochReport, Failure
from trainer.teacher.open import opened

pytestmark = pytest.mark.skipif(
    find_spec("segmentation_models_pytorch") is None, reason="the smp extra is not installed"
)
OTHER = Normalisation((0.0, 0.5, 0.4), (1.0, 0.5, 0.2))
SMP = {"name": "smp-unet", "encoder": "tu-mobilenetv3_small_050", "mean": OTHER.mean, "std": OTHER.std}
DATA = {"name": "blobs", "size": 32, "train": 8, "validation": 4, "augment": "standard"}
PLAIN = {"epochs": 1, "batch_size": 4, "data": DATA, "student": {"name": "unet", "width": 4}, "losses": {"ce": {}}}


def make(**changes: Any) -> RunConfig:
    return RunConfig.model_validate({**PLAIN, **changes})


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A teacher's table whose file says another normalisation, and which says none itself."""
    path = tmp_path_factory.mktemp("teacher") / "teacher.safetensors"
    for _ in fit(make(student=SMP), cache=path.parent, export=path, ranks=Ranks("cpu")):
        pass
    return {"name": "smp-unet", "encoder": SMP["encoder"], "checkpoint": str(path)}


def trained(folder: Path, *runs: RunConfig) -> list[EpochReport]:
    """The first epoch of each run, side by side."""
    cohort = Cohort(Ranks("cpu"), slots=4, cache=folder)
    for key, run in enumerate(runs):
        cohort.admit(key, run)
    reports = cohort.epoch()
    assert not any(isinstance(report, Failure) for report in reports.values())
    return [dataclasses.replace(reports[key], seconds={}) for key in range(len(runs))]  # type: ignore[type-var]


def inputs_of(network: torch.nn.Module) -> list[Tensor]:
    """Fills with the images that the network is given in training mode, or always where it is frozen."""
    images: list[Tensor] = []
    network.register_forward_pre_hook(lambda _, given: images.append(given[0].clone()))
    return images


def test_each_network_of_a_stream_gets_the_same_pixels_in_its_own_way(
    tmp_path: Path, teacher: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = [make(), make(student=SMP), make(teacher=teacher, method="kl", losses={"ce": {}, "kl": {}})]
    cohort = Cohort(Ranks("cpu"), slots=4, cache=tmp_path)
    for key, run in enumerate(runs):
        cohort.admit(key, run)
    taught = cohort._resources.teacher(runs[2])
    assert taught is not None
    assert taught.normalisation == OTHER
    plain, other, third = (inputs_of(cohort._members[key].trained.network) for key in range(3))
    listened = inputs_of(taught)
    pixels = [batch.images.clone() for batch in cohort._resources.stream(runs[0]).epoch(0)]
    cohort.epoch()
    for step, images in enumerate(pixels):
        assert torch.equal(plain[step], normalise(images))
        assert torch.equal(third[step], normalise(images))
        assert torch.equal(other[step], normalise(images, OTHER))
        assert torch.equal(listened[step], normalise(images, OTHER))
    assert cohort.counters.teacher_forwards == len(pixels)


def test_beside_one_of_another_normalisation_a_run_gives_the_same_numbers(
    tmp_path: Path, teacher: dict[str, Any]
) -> None:
    runs = [make(), make(student=SMP), make(teacher=teacher, method="kl", losses={"ce": {}, "kl": {}})]
    together = trained(tmp_path, *runs)
    alone = [trained(tmp_path, run)[0] for run in runs]
    bare: Callable[[EpochReport], EpochReport] = lambda report: dataclasses.replace(report, passes=0.0)  # noqa: E731
    assert [bare(report) for report in together] == [bare(report) for report in alone]


def test_stored_views_are_what_the_teacher_says_of_images_in_its_own_way(
    tmp_path: Path, teacher: dict[str, Any]
) -> None:
    run = make(teacher=teacher, method="kl", losses={"ce": {}, "kl": {}}, data=DATA | {"views": 1})
    cohort = Cohort(Ranks("cpu"), slots=1, cache=tmp_path)
    cohort.admit(0, run)
    resources = cohort._resources
    (batch, *_) = list(resources.stream(run).epoch(0))
    network = resources.teacher(run)
    assert network is not None
    with torch.no_grad():
        expected = network(normalise(batch.images, OTHER)).logits
    assert torch.equal(resources._view_logits(run, 0, batch.indices, batch.images), expected)


def test_weights_say_how_they_were_trained_and_a_file_without_numbers_means_imagenets(
    tmp_path: Path, teacher: dict[str, Any]
) -> None:
    file = checkpoint.weights(Path(teacher["checkpoint"]))
    assert (file.word("network")["mean"], file.word("network")["std"]) == (list(OTHER.mean), list(OTHER.std))
    assert checkpoint.ready(Path(teacher["checkpoint"]), device=torch.device("cpu")).network.normalisation == OTHER
    older = dict(file.word("network"))
    del older["mean"], older["std"]
    words = {name: file.word(name) for name in file.metadata} | {"network": older}
    checkpoint.export(tmp_path / "older.safetensors", file.tensors, words)
    run = make(teacher=teacher | {"checkpoint": str(tmp_path / "older.safetensors")})
    data = Cohort(Ranks("cpu"), slots=1, cache=tmp_path)._resources.data(run)
    assert opened(run, data, device=torch.device("cpu")).network.normalisation == IMAGENET


def test_settings_that_contradict_a_teachers_file_are_refused(tmp_path: Path, teacher: dict[str, Any]) -> None:
    run = make(teacher=teacher | {"mean": [0.5] * 3, "std": [0.5] * 3})
    data = Cohort(Ranks("cpu"), slots=1, cache=tmp_path)._resources.data(run)
    with pytest.raises(CheckpointError, match=r"was trained with mean \[0\.0, 0\.5, 0\.4\].*teacher\.mean = .*"):
        opened(run, data, device=torch.device("cpu"))


def test_an_ensemble_of_different_ways_gives_each_member_its_own(tmp_path: Path, teacher: dict[str, Any]) -> None:
    plain = tmp_path / "plain.safetensors"
    for _ in fit(make(), cache=tmp_path, export=plain, ranks=Ranks("cpu")):
        pass
    members = [{"name": "unet", "width": 4, "checkpoint": str(plain)}, teacher]
    run = make(teacher={"name": "ensemble", "members": members})
    resources = Cohort(Ranks("cpu"), slots=1, cache=tmp_path)._resources
    data = resources.data(run)
    network = opened(run, data, device=torch.device("cpu")).network
    images = next(iter(resources.stream(run).epoch(0))).images
    ways = ((plain, IMAGENET), (Path(teacher["checkpoint"]), OTHER))
    with torch.no_grad():
        chances = [
            checkpoint.ready(path, device=torch.device("cpu")).network(normalise(images, way)).logits.softmax(1)
            for path, way in ways
        ]
        together = network(normalise(images, network.normalisation)).logits.softmax(1)
    assert torch.allclose(together, torch.stack(chances).mean(0), atol=1e-5)


def test_a_student_may_not_start_from_weights_of_another_way(tmp_path: Path, teacher: dict[str, Any]) -> None:
    start = {"name": "smp-unet", "encoder": SMP["encoder"], "checkpoint": teacher["checkpoint"]}
    cohort = Cohort(Ranks("cpu"), slots=2, cache=tmp_path)
    cohort.admit(0, make(student=start))
    cohort.admit(1, make(student=start | {"mean": OTHER.mean, "std": OTHER.std}))
    reports = cohort.epoch()
    refused = reports[0]
    assert isinstance(refused, Failure)
    assert "set student.mean and student.std to those of the file" in refused.message
    assert isinstance(reports[1], EpochReport)
