"""`search init` for volumes: a study that loads, with patches that fit the cases and networks for three axes."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import models
from models.config import network_config
from search.__main__ import main
from search.spec.load import load
from trainer.cli.entry import guard
from trainer.config import VolumeData

nibabel = pytest.importorskip("nibabel")


def decathlon(root: Path, spacings: list[float]) -> Path:
    """A case a spacing along z, of 40 x 70 x 20 voxels."""
    rng = np.random.default_rng(0)
    for number, spacing in enumerate(spacings):
        labels = np.zeros((40, 70, 20), np.uint8)
        labels[5:20, 5:20, 5:10], labels[22:30, 22:30, 5:10] = 1, 2
        for kind, array in (("images", rng.normal(size=labels.shape).astype(np.float32)), ("labels", labels)):
            place = root / f"{kind}Tr" / f"case_{number:02d}.nii.gz"
            place.parent.mkdir(parents=True, exist_ok=True)
            nibabel.save(nibabel.Nifti1Image(array, np.diag([-1.0, -1.0, spacing, 1.0])), place)
    names = [f"case_{number:02d}.nii.gz" for number in range(len(spacings))]
    training = [{"image": f"./imagesTr/{name}", "label": f"./labelsTr/{name}"} for name in names]
    table = {"labels": {"0": "background", "1": "left", "2": "right"}, "modality": {"0": "MRI"}, "training": training}
    (root / "dataset.json").write_text(json.dumps(table))
    return root


def test_a_study_of_volumes_is_drafted_and_loads(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    root = decathlon(tmp_path / "Task99_Drawn", [2.0, 2.0, 4.0, 4.0, 4.0, 6.0])
    assert guard(lambda: main(["init", str(root), "--name", "drawn"])) == 0
    said = capsys.readouterr().out
    assert "volumes of 70 voxels on the longest side, patches of 32 x 64 x 32" in said
    assert "repeat with --size 32 " in said or Path("/dev/nvidia0").exists()
    run = load(Path("studies/drawn.toml")).run
    assert isinstance(run.data, VolumeData)
    assert (run.data.patch, run.data.spacing, run.data.recipe) == ((32, 64, 32), (1.0, 1.0, 4.0), "msd")
    assert (run.student.name, run.teacher and run.teacher.name) == ("tiny-unet-3d", "residual-unet-3d")
    assert run.batch_size == 4
    text = Path("studies/drawn.toml").read_text()
    assert "picture" not in text
    assert "which volume trains" in text


def test_a_patch_a_split_and_a_teacher_may_be_given(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    root = decathlon(tmp_path / "Task99_Drawn", [2.0] * 6)
    assert guard(lambda: main(["init", str(root), "--name", "first", "--size", "32"])) == 0
    first = load(Path("studies/first.toml")).run.data
    assert isinstance(first, VolumeData)
    assert (first.patch, first.spacing) == ((32, 32, 32), None)
    assert guard(lambda: main(["init", str(root), "--name", "second", "--split", "splits/first.csv"])) == 0
    second = load(Path("studies/second.toml")).run.data
    assert isinstance(second, VolumeData)
    assert second.classes == first.classes
    capsys.readouterr()
    network = models.build(network_config("residual-unet-3d", width=16), in_channels=1, classes=3, dims=3)
    torch.save(network.state_dict(), "t.pt")
    third = ["init", str(root), "--name", "third", "--split", "splits/first.csv", "--size", "32", "--teacher"]
    assert guard(lambda: main([*third, "u.pt"])) == 2
    assert "u.pt: no such file" in capsys.readouterr().err
    assert guard(lambda: main([*third, "t.pt"])) == 0
    assert "t.pt  a state dict of residual-unet-3d width 16, 1.19 M parameters" in capsys.readouterr().out
    run = load(Path("studies/third.toml")).run
    assert (run.student.name, run.student.options()["width"]) == ("tiny-unet-3d", 8)
    flags = ["--no-timing", "--set", "run.teacher.min_dice=0.0"]
    assert guard(lambda: main(["validate", "third", *flags])) == 0, capsys.readouterr().err
    assert "t.pt: 49 keys match" in (said := capsys.readouterr().out), said
