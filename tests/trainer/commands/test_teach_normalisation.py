"""`teach` gives an encoder what its pretrained weights expect, and leaves a teacher from before as it was."""

import json
import shutil
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import trainer.__main__ as trainer_main
from models.normalisation import IMAGENET
from trainer import checkpoint
from trainer.cli.entry import guard
from trainer.run_file import read

pytestmark = pytest.mark.skipif(
    find_spec("segmentation_models_pytorch") is None, reason="the smp extra is not installed"
)
ENCODER, MODEL = "timm-mobilenetv3_small_100", "tf_mobilenetv3_small_100"
STUDY = """
[run]
method = "kl"
epochs = 1
batch_size = 4
data = {{ name = "blobs", size = 32, train = 8, validation = 4, test = 2, augment = "none" }}
student = {{ name = "unet", width = 4 }}
teacher = {{ name = "smp-unet", encoder = "{encoder}", weights = "imagenet", checkpoint = "{folder}/{file}" }}
losses = {{ ce = {{}}, kl = {{}} }}
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a study file; drawn weights lie in the cache of a hub that cannot be reached."""
    from huggingface_hub import constants

    from models.torchvision_guard import make_importable

    make_importable()
    import timm

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    torch.manual_seed(5)
    weights = timm.create_model(MODEL).state_dict()
    repository = timm.get_pretrained_cfg(MODEL).hf_hub_id
    folder = tmp_path / "hub" / f"models--{repository.replace('/', '--')}"
    for part in ("refs", "snapshots/1234"):
        (folder / part).mkdir(parents=True)
    (folder / "refs" / "main").write_text("1234")
    save_file(weights, folder / "snapshots" / "1234" / "model.safetensors")
    (tmp_path / "study.toml").write_text(STUDY.format(folder=tmp_path, encoder=ENCODER, file="teacher.safetensors"))
    return tmp_path


def taught(place: Path, *words: str) -> int:
    arguments = ["teach", str(place / "study.toml"), "--cache", str(place / "cache"), "--device", "cpu", *words]
    return guard(lambda: trainer_main.main(arguments))


def network_in(place: Path) -> dict[str, object]:
    table: dict[str, object] = checkpoint.weights(place / "teacher.safetensors").word("network")
    return table


def test_the_teacher_is_trained_as_its_weights_expect_and_its_file_says_so(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert taught(place) == 0
    assert network_in(place) | {"mean": [0.5] * 3, "std": [0.5] * 3} == network_in(place)
    run = read(place / "study.toml").run
    assert run.teacher is not None
    assert "mean" not in run.teacher.model_dump()
    capsys.readouterr()
    assert taught(place) == 0
    assert "nothing to do" in capsys.readouterr().out


def test_a_teacher_from_before_is_the_one_that_the_recipe_made(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = (place / "study.toml").read_text()
    (place / "study.toml").write_text(file.replace('weights = "im', 'normalisation = "imagenet", weights = "im'))
    assert taught(place) == 0
    assert "mean" not in network_in(place)
    assert json.dumps(IMAGENET.mean[0]) not in json.dumps(network_in(place))
    (place / "study.toml").write_text(file)
    capsys.readouterr()
    assert taught(place) == 0
    assert "nothing to do" in capsys.readouterr().out
    assert taught(place, "--again") == 0
    assert network_in(place)["mean"] == [0.5] * 3


def test_weights_that_cannot_be_had_are_one_line_that_names_the_teacher(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What was asked for, from where, and how to bring the file."""
    shutil.rmtree(place / "hub")
    assert taught(place) == 2
    *_, said = capsys.readouterr().err.splitlines()
    assert f"study.toml: run.teacher.weights = 'imagenet': the file for encoder '{ENCODER}'" in said
    assert f"timm/{MODEL}.in1k of huggingface.co" in said
    assert f"hf download timm/{MODEL}.in1k" in said
    assert str(place / "hub") in said
    assert "HF_HOME" in said
    assert not list(place.glob(".teacher*"))


def test_of_a_student_they_are_named_as_the_students(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree(place / "hub")
    file = (place / "study.toml").read_text()
    teacher = next(line for line in file.splitlines() if line.startswith("teacher"))
    student = next(line for line in file.splitlines() if line.startswith("student"))
    alone = file.replace(student, teacher.replace("teacher", "student", 1)).replace(f"\n{teacher}\n", "\n", 1)
    alone = alone.replace('method = "kl"', 'method = "none"').replace(
        f', checkpoint = "{place}/teacher.safetensors"', ""
    )
    (place / "study.toml").write_text(alone)
    arguments = ["fit", str(place / "study.toml"), "--cache", str(place / "cache"), "--device", "cpu"]
    assert guard(lambda: trainer_main.main(arguments)) == 2
    *_, said = capsys.readouterr().err.splitlines()
    assert "study.toml: run.student.weights = 'imagenet': the file for encoder" in said
