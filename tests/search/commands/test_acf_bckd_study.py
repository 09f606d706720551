"""The study of ACF-BCKD on BTCV, on a drawn tree that lies as BTCV does."""

import json
from pathlib import Path

import numpy as np
import pytest

from search.__main__ import main
from search.spec.load import find, load
from trainer.__main__ import main as trainer_main
from trainer.data import open_data
from trainer.data.layouts.btcv import ORGANS
from trainer.distributed.ranks import Ranks
from trainer.engine.cohort import Cohort
from trainer.engine.fit import fit
from trainer.reports import EpochReport
from trainer.run_file import RunFile
from trainer.teacher import assessment

nibabel = pytest.importorskip("nibabel")
ACF = "acfd+boundary-hard+boundary-soft"


def btcv(root: Path) -> Path:
    """Cases of 24 x 24 x 14 voxels with all thirteen organs, as imagesTr, labelsTr and dataset_0.json; two validate."""
    parts = {"training": (1, 2, 3, 4), "validation": (35, 36)}
    table = {}
    for part, numbers in parts.items():
        table[part] = [
            {"image": f"imagesTr/img{number:04d}.nii.gz", "label": f"labelsTr/label{number:04d}.nii.gz"}
            for number in numbers
        ]
        for number, entry in zip(numbers, table[part], strict=True):
            rng = np.random.default_rng(number)
            label = np.zeros((24, 24, 14), np.uint8)
            for organ in range(len(ORGANS)):
                x, y = 2 + organ % 4 * 5, 2 + organ // 4 * 5
                label[x : x + 4, y : y + 4, 3:11] = organ + 1
            image = (label * 15.0 - 50 + rng.normal(0, 20, label.shape)).astype(np.int16)
            for place, array in ((entry["image"], image), (entry["label"], label)):
                (root / place).parent.mkdir(parents=True, exist_ok=True)
                nibabel.save(nibabel.Nifti1Image(array, np.diag([-1.5, -1.5, 2.0, 1.0])), root / place)
    (root / "dataset_0.json").write_text(json.dumps(table))
    return root


def test_the_study_is_valid_on_a_tree_like_btcv_and_both_methods_train(tmp_path, monkeypatch, capsys):
    root = btcv(tmp_path / "BTCV")
    monkeypatch.setenv("BTCV_ROOT", str(root))
    split, teacher = tmp_path / "btcv.csv", tmp_path / "teacher.safetensors"
    assert trainer_main(["data", "split", str(root), "--root", str(root), "-o", str(split)]) == 0
    changes = {
        "run.data.split": str(split),
        "run.data.patch": [16, 16, 16],
        "run.batch_size": 8,  # more than there are cases, and half of the patches of an epoch
        "run.epochs": 2,
        "run.validate.from": 1,
        "run.validate.every": 1,
        "run.teacher.width": 8,
        "run.teacher.checkpoint": str(teacher),
        "run.teacher.min_dice": 0.0,
        "run.student.width": 8,
        "pruner.warmup_epochs": 2,
    }
    sets = [f"{path}={json.dumps(value)}" for path, value in changes.items()]
    spec = load(find("acf-bckd-btcv"), sets, name="drawn")
    for _ in fit(RunFile(spec.source, spec.run, teach={"epochs": 1}).teacher_run(), cache=tmp_path, export=teacher):
        pass
    flags = [*(f"--set={each}" for each in sets), "--name=drawn", "--cache", str(tmp_path), "--no-timing"]
    assert main(["validate", "acf-bckd-btcv", *flags]) == 0
    shown = capsys.readouterr().out
    assert "\nok " in shown
    assert "volumes  6 cases  train 4 / validation 2 / test 0" in shown
    assert "no case twice" in shown
    assert "of the training voxels: background" in shown
    assert "0 test cases in 0 groups" in shown
    known, other = spec.run, spec.run.model_copy(update={"data": spec.run.data.model_copy(update={"overlap": 0.25})})
    data = open_data(known.data, cache=tmp_path)
    assert [assessment.floor(run, data).measured for run in (known, other)] == [False, True], "windows decide"
    cohort = Cohort(Ranks("cpu"), slots=2, cache=tmp_path)
    for key, method in enumerate((ACF, "none")):
        cohort.admit(key, spec.run.model_copy(update={"method": method}))
    terms = []
    for _ in range(2):
        reports = cohort.epoch()
        assert all(isinstance(report, EpochReport) and report.scores for report in reports.values()), reports
        terms.append([sorted(report.losses) for report in reports.values() if isinstance(report, EpochReport)])
    assert terms == [[sorted(["ce-dice", *ACF.split("+")]), ["ce-dice"]]] * 2


def test_the_study_has_the_published_values():
    spec = load(find("acf-bckd-btcv"))
    run, (acf, none) = spec.run, spec.main.enqueue
    assert run.losses.acfd is not None
    assert (run.losses.acfd.alpha, run.losses.acfd.beta, run.losses.acfd.taps) == (25_000, 25_000, "acf-bckd-t1")
    assert {name: value for name, value in acf.items() if name.endswith("weight")} == dict.fromkeys(
        [f"losses.{term}.weight" for term in ACF.split("+")], 1.0
    )
    assert acf["optim.lr"] == none["optim.lr"] == run.optim.lr == 0.01
