"""`data prepare` from a split with its record and from a study file: one line at the end, and nothing is made twice."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from trainer.__main__ import main
from trainer.cli.entry import guard

nibabel = pytest.importorskip("nibabel")

STUDY = """
[run]
epochs = 1
losses = {{ ce = {{ weight = 1.0 }} }}
[run.data]
name = "volumes"
root = "{root}"
split = "{split}"
classes = [{{ name = "background", value = 0 }}, {{ name = "liver", value = 1 }}]
recipe = "msd"
"""


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six cases in imagesTr and labelsTr, one without any foreground, and their split."""
    folder = tmp_path_factory.mktemp("volumes")
    rng = np.random.default_rng(1)
    for number in range(6):
        labels = np.zeros((8, 9, 6), np.uint8)
        labels[2:5, 2:5, 2:4] = number < 5
        for kind, array in (("images", rng.normal(size=labels.shape).astype(np.float32)), ("labels", labels)):
            place = folder / "Liver" / f"{kind}Tr" / f"case{number}.nii.gz"
            place.parent.mkdir(parents=True, exist_ok=True)
            nibabel.save(nibabel.Nifti1Image(array, np.diag([-1.0, -1.0, 2.0, 1.0])), place)
    words = ["data", "split", str(folder / "Liver"), "-o", str(folder / "split.csv"), "--seed", "1"]
    assert main([*words, "--classes", "background=0,liver=1"]) == 0
    return folder


def run(words: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    code = guard(lambda: main(["data", "prepare", *words]))
    said = capsys.readouterr()
    return code, said.out, said.err


def test_a_split_is_prepared_once_and_a_damaged_case_again(drawn, tmp_path, capsys):
    words = [str(drawn / "split.csv"), "--root", str(drawn), "--cache", str(tmp_path / "cache"), "--jobs", "2"]
    code, out, _ = run(words, capsys)
    assert code == 0
    first, last = out.splitlines()
    assert first == "warning: Liver/case5.nii.gz: holds no foreground: only the ground is learned from it"
    assert last.startswith(f"{drawn / 'split.csv'}  6 cases: 6 prepared, 0 were there; ")
    assert last.endswith(f" next: python -m search init {drawn} --split {drawn / 'split.csv'}")
    victim = next((tmp_path / "cache" / "volumes").glob("*/image.npy"))
    victim.write_bytes(victim.read_bytes()[:-1] + b"\x01")
    assert "6 cases: 1 prepared, 1 of them again, since they were damaged, 5 were there" in run(words, capsys)[1]
    assert "6 cases: 0 prepared, 6 were there" in run(words, capsys)[1]


def test_a_study_is_prepared_by_its_own_recipe(drawn, tmp_path, capsys):
    study = tmp_path / "liver.toml"
    study.write_text(STUDY.format(root=drawn, split=drawn / "split.csv"))
    code, out, _ = run([str(study), "--cache", str(tmp_path / "cache")], capsys)
    assert code == 0
    assert out.splitlines()[-1].endswith(f"next: python -m search validate {study}")


def test_what_cannot_be_prepared_is_one_line(drawn, tmp_path, capsys):
    split = str(drawn / "split.csv")
    alone = tmp_path / "alone.csv"
    shutil.copy(split, alone)
    study = tmp_path / "polyps.toml"
    study.write_text(STUDY.format(root=drawn, split=split).partition("[run.data]")[0] + '[run.data]\nname = "blobs"\n')
    for words, message in (
        ([split], "error: --root: missing; name the folder that the paths of"),
        ([split, "--root", str(tmp_path / "no")], "no': no such folder"),
        ([str(alone), "--root", str(drawn)], "no record alone.json beside it says what its files hold"),
        ([split, "--root", str(drawn), "--jobs", "0"], "argument --jobs: '0': expected a whole number of 1 or more"),
        ([str(study)], "data.name = 'blobs': pictures need no such step"),
        ([str(study), "--root", str(drawn)], "has no effect on"),
    ):
        code, _, err = run(words, capsys)
        assert code == 2
        assert message in err
        assert err.count("\n") == 1
