"""nnU-Net's results folders as teachers: against nnunetv2 where it is installed, and every bad folder in one line."""

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch

from search.spec.load import load
from trainer import __main__ as trainer_main
from trainer.config import BlobsData, DataConfig, VolumeData
from trainer.data import open_data
from trainer.data.volumes.prepare import made_case
from trainer.data.volumes.recipes import recipe_of
from trainer.dry_run import check
from trainer.errors import CheckpointError, UserError
from trainer.evaluation.native_slices import native_slices, window_of
from trainer.teacher import nnunet
from trainer.teacher.nnunet_folder import read
from trainer.teacher.open import opened

pytest.importorskip("nibabel")
CT = {"percentile_00_5": -2.0, "percentile_99_5": 165.0, "mean": 60.0, "std": 33.0}
MAKER = Path(__file__).with_name("nnunet_maker.py")
CPU = torch.device("cpu")


@dataclass
class Made:
    root: Path
    results: Path
    raw: Path
    teacher: Path
    answers: dict[str, np.ndarray]


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Made:
    """What nnunetv2 made, converted by the command."""
    if find_spec("nnunetv2") is None:
        pytest.skip("nnunetv2 is not installed: it asks for an older timm than constraints.txt has")
    root = tmp_path_factory.mktemp("nnunet") / "root"
    done = subprocess.run([sys.executable, MAKER, root], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    name = "Dataset901_Drawn"
    results = root / "nnUNet_results" / name / "nnUNetTrainer__nnUNetPlans__3d_fullres"
    folder = root / "teacher"
    assert trainer_main.main(["teacher", "convert", str(results), "-o", str(folder)]) == 0
    with np.load(root / "answers.npz") as answers:
        return Made(root, results, root / "nnUNet_raw" / name, folder, dict(answers))


def networks(made: Made, folds: int, *, mirrored: bool = False) -> nnunet.NnunetNetwork:
    described = nnunet.described(made.teacher)
    entries = described.folds[:folds]
    tensors = [nnunet.checkpoint.weights(made.teacher / fold.file).tensors for fold in entries]
    built = [nnunet.network(described, each, "here") for each in tensors]
    return nnunet.NnunetNetwork(described, built, mirrored=mirrored).eval()


def labels_of(network: nnunet.NnunetNetwork, made: Made, case: str) -> np.ndarray:
    """From file to labels, as a study under the teacher validates."""
    config = VolumeData.model_validate(data(nnunet.described(made.teacher)))
    image = (made.root if case == "thick" else made.raw / "imagesTr") / f"{case}_0000.nii.gz"
    prepared = made_case(case, [image], recipe_of(config), 1)
    labels = np.empty(prepared.way.native.shape, np.uint8)
    with torch.no_grad():
        slices = native_slices(prepared.image, prepared.way, window_of(config), lambda x: network(x).logits, CPU)
        for depth, logits in slices:
            labels[:, :, depth] = logits.argmax(0)
    return labels


def data(description: nnunet.Description) -> dict[str, object]:
    classes = [{"name": name, "value": values[0]} for name, values in description.classes]
    return {"name": "volumes", "root": ".", "split": "s.csv", "classes": classes, **description.data_settings()}


def test_logits_and_whole_cases_are_nnunets(made):
    one = networks(made, 1)
    with torch.no_grad():
        logits = one(torch.from_numpy(made.answers["patch"])).logits
    assert np.abs(logits.numpy() - made.answers["logits"]).max() < 1e-4
    assert np.mean(labels_of(one, made, "case_0") != made.answers["half-case_0"]) <= 5e-3  # its sums are half precision
    for wish, network in (
        ("single", one),
        ("single-both", networks(made, 2)),
        ("single-flips", networks(made, 1, mirrored=True)),
    ):
        for case in ("case_0", "case_1", "thick"):
            assert np.array_equal(labels_of(network, made, case), made.answers[f"{wish}-{case}"]), (wish, case)


def test_tensors_are_written_once_and_the_description_is_whole(made):
    description = nnunet.described(made.teacher)
    weights = nnunet.checkpoint.weights(made.teacher / "fold_0.safetensors")
    held = torch.load(made.results / "fold_0" / "checkpoint_final.pth", weights_only=False)["network_weights"]
    assert len(weights.tensors) + len(description.shared) == len(held) > 2 * len(weights.tensors)
    built = nnunet.network(description, weights.tensors, "here")
    assert sum(each.numel() for each in weights.tensors.values()) == sum(each.numel() for each in built.parameters())
    assert description.patch == (14, 16, 20)
    assert description.spatial(description.patch) == (20, 16, 14)
    assert description.strides == (4, 4, 2)
    assert description.patch_of(8) == [24, 16, 16]
    assert description.mirroring == (0, 1, 2)
    assert [(fold.fold, len(fold.train), len(fold.val)) for fold in description.folds] == [("0", 4, 1), ("1", 4, 1)]


def test_three_commands_lead_from_the_results_folder_to_students(made, tmp_path, monkeypatch):
    """Those of docs/nnunet.md, as they are written."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("nnUNet_raw", str(made.root / "nnUNet_raw"))
    monkeypatch.setenv("nnUNet_results", str(made.root / "nnUNet_results"))
    page = Path(nnunet.__file__).parents[2] / "docs" / "nnunet.md"
    text = page.read_text().replace("Dataset007_Pancreas", made.raw.name)
    install, convert, init, work = re.findall(r"^\$ (.*)$", text, flags=re.MULTILINE)
    assert install.startswith("pip install 'kd-search[nnunet")
    monkeypatch.setenv("PYTHONPATH", str(page.parents[1]))
    typed(convert)
    assert "spacing is kept as stored" not in typed(f"{init} --epochs 1 --trials 1")
    study = Path("studies/pancreas.toml")
    text = study.read_text().replace("choices = [2, 4, 6]", "choices = [4]").replace("width = 32", "width = 4")
    text = text.replace("min_dice   = 0.35", "min_dice   = 0.0")
    study.write_text(text)
    data_settings = load(study).run.data
    assert isinstance(data_settings, VolumeData)
    assert data_settings.patch == (24, 16, 16)
    assert "kd #0 complete" in typed(work)
    feature = text.replace('method     = "kl"', 'method     = "at+kl"')
    feature = feature.replace("kl   =", 'at   = { taps = [["mid", "mid"]] }\nkl   =', 1)
    assert "teacher.name = 'nnunet': has logits alone, and method 'at+kl'" in refused(study, feature)
    assert "data.spacing = [0.8" in refused(study, text.replace("spacing = [0.9", "spacing = [0.8"))
    rows = Path("splits/pancreas.csv")
    rows.write_text(
        rows.read_text().replace("case_1,train", "case_1,validation").replace("case_0,validation", "case_0,train")
    )
    assert "case_1: not in the part that fold 0" in refused(study, text)


def typed(line: str) -> str:
    """What a command of a page prints."""
    line = line.replace("python ", f"{shlex.quote(sys.executable)} ", 1)
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def refused(study: Path, text: str) -> str:
    """What validate, fit and work say of a study file."""
    study.write_text(text)
    run = load(study).run
    try:
        check(run)
        opened(run, open_data(run.data, cache=Path("cache")), device=CPU)
    except (CheckpointError, ValueError) as refusal:
        return str(refusal)
    return "not refused"


PLANS = {
    "dataset_name": "Dataset901_Drawn",
    "transpose_forward": [0, 1, 2],
    "foreground_intensity_properties_per_channel": {"0": CT},
    "configurations": {
        "2d": {"patch_size": [16, 16]},
        "3d_fullres": {
            "preprocessor_name": "DefaultPreprocessor",
            "patch_size": [14, 16, 20],
            "spacing": [1.25, 1.0, 0.9],
            "normalization_schemes": ["CTNormalization"],
            "use_mask_for_norm": [False],
            "architecture": {
                "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
                "arch_kwargs": {"n_stages": 1, "conv_op": "torch.nn.modules.conv.Conv3d", "strides": [[1, 2, 2]]},
                "_kw_requires_import": ["conv_op"],
            },
            **{f"resampling_fn_{of}": "resample_data_or_seg_to_shape" for of in ("data", "probabilities")},
            **{
                f"resampling_fn_{of}_kwargs": {"is_seg": False, "order": order, "order_z": 0, "force_separate_z": None}
                for of, order in (("data", 3), ("probabilities", 1))
            },
        },
        "3d_cascade_fullres": {"inherits_from": "3d_fullres", "previous_stage": "3d_lowres"},
    },
}
DATASET = {"channel_names": {"0": "CT"}, "labels": {"background": 0, "organ": 1, "ignore": 2}}


def checkpoint_of(folder: Path, fold: str = "0", **changes: object) -> None:
    """A checkpoint with the keys of nnU-Net's, whose two names are one tensor."""
    (folder / f"fold_{fold}").mkdir(parents=True, exist_ok=True)
    weight = torch.ones(2, 3)
    file = {
        "network_weights": {"encoder.weight": weight, "decoder.encoder.weight": weight},
        "init_args": {"configuration": "3d_fullres", "fold": 0},
        "trainer_name": "nnUNetTrainer",
        "inference_allowed_mirroring_axes": (0, 1),
        "current_epoch": 1000,
        "logging": {"mean_fg_dice": [np.float64(0.5), np.float32(0.25)]},
    }
    torch.save(file | changes, folder / f"fold_{fold}" / "checkpoint_final.pth")


@pytest.fixture
def results(tmp_path) -> Path:
    """A results folder at nnU-Net's place, with one fold."""
    folder = tmp_path / "nnUNet_results" / "Dataset901_Drawn" / "nnUNetTrainer__nnUNetPlans__3d_fullres"
    checkpoint_of(folder)
    (folder / "plans.json").write_text(json.dumps(PLANS))
    (folder / "dataset.json").write_text(json.dumps(DATASET))
    splits = tmp_path / "nnUNet_preprocessed" / "Dataset901_Drawn" / "splits_final.json"
    splits.parent.mkdir(parents=True)
    splits.write_text(json.dumps([{"train": ["a", "b"], "val": ["c"]}, {"train": ["b", "c"], "val": ["a"]}]))
    return folder


def test_a_folder_is_read_without_nnunetv2(results):
    entry = read(results)
    description = entry.description
    assert (entry.tensors, entry.numbers) == (1, 6)
    assert description.shared == {"decoder.encoder.weight": "encoder.weight"}
    assert description.classes == (("background", (0,)), ("organ", (1,)))
    assert (description.regions, description.ignore, description.mirroring) == (False, 2, (0, 1))
    assert (description.folds[0].epoch, description.folds[0].val) == (1000, ("c",))
    assert description.data_settings()["spacing"] == [0.9, 1.0, 1.25]
    assert description.data_settings()["schemes"] == [
        {"scheme": "CTNormalization", "low": -2.0, "high": 165.0, "mean": 60.0, "std": 33.0}
    ]


def test_regions_keep_the_order_of_dataset_json(results):
    labels = {"background": 0, "whole": [1, 2, 3], "core": [2, 3], "enhancing": 3}
    (results / "dataset.json").write_text(json.dumps(DATASET | {"labels": labels, "regions_class_order": [1, 2, 3]}))
    description = read(results).description
    assert description.regions
    assert description.classes == (("whole", (1, 2, 3)), ("core", (2, 3)), ("enhancing", (3,)))
    settings = data(description) | {"classes": [], "regions": {"whole": "1-3", "core": [2, 3], "enhancing": 3}}
    nnunet.refuse_other_data(description, Path("T"), VolumeData.model_validate(settings))
    turned = settings | {"regions": {"core": [2, 3], "whole": "1-3", "enhancing": 3}}
    with pytest.raises(
        CheckpointError, match=r"data\.regions have the values 2\+3, 1\+2\+3, 3: the outputs of T are of"
    ):
        nnunet.refuse_other_data(description, Path("T"), VolumeData.model_validate(turned))


class Runs:
    """What runs a program where it is unpickled."""

    def __reduce__(self):
        return eval, ("1 + 1",)


def plans(folder: Path, *path: str, to: object) -> None:
    table = json.loads((folder / "plans.json").read_text())
    place = table
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = to
    (folder / "plans.json").write_text(json.dumps(table))


FULL = ("configurations", "3d_fullres")
BAD: dict[str, tuple[Callable[[Path], object], str]] = {
    "no plans": (lambda f: (f / "plans.json").unlink(), "plans.json: cannot be read"),
    "cut plans": (lambda f: (f / "plans.json").write_text("{"), "plans.json: is no JSON"),
    "plans of another kind": (lambda f: (f / "plans.json").write_text("{}"), "no plans file of nnU-Net v2.4"),
    "no labels": (lambda f: (f / "dataset.json").write_text('{"channel_names": {"0": "CT"}}'), "labels = "),
    "gaps": (
        lambda f: (f / "dataset.json").write_text(json.dumps(DATASET | {"labels": {"background": 0, "organ": 3}})),
        "labels have the values 0, 3: expected 0, 1, 2",
    ),
    "no folds": (lambda f: (f / "fold_0").rename(f / "old"), "holds no fold_0, fold_1"),
    "no checkpoint": (lambda f: (f / "fold_0/checkpoint_final.pth").unlink(), "holds no checkpoint_final.pth or"),
    "a program": (lambda f: checkpoint_of(f, logging=Runs()), "eval, which is no weight"),
    "cut checkpoint": (
        lambda f: (f / "fold_0/checkpoint_final.pth").write_bytes(b"PK" + bytes(100)),
        "is not read: it is cut short or damaged",
    ),
    "another file of torch": (
        lambda f: torch.save({"state_dict": {}}, f / "fold_0/checkpoint_final.pth"),
        "it is no checkpoint of nnU-Net v2",
    ),
    "not finite": (
        lambda f: checkpoint_of(f, network_weights={"a": torch.tensor([float("nan")])}),
        "a holds numbers that are not finite",
    ),
    "slices": (lambda f: checkpoint_of(f, init_args={"configuration": "2d"}), "2d is of slices"),
    "cascade": (
        lambda f: checkpoint_of(f, init_args={"configuration": "3d_cascade_fullres"}),
        "3d_cascade_fullres needs the labels of another stage",
    ),
    "unknown configuration": (
        lambda f: checkpoint_of(f, init_args={"configuration": "3d_huge"}),
        "configurations: no '3d_huge'; known: 2d, 3d_fullres",
    ),
    "two trainings": (lambda f: checkpoint_of(f, "1", trainer_name="Other"), "its folds are of several trainings"),
    "two networks": (
        lambda f: checkpoint_of(f, "1", network_weights={"a": torch.ones(2)}),
        "its folds hold different networks",
    ),
    "a fold without split": (lambda f: checkpoint_of(f, "4"), "fold_4: splits_final.json has 2 folds"),
    "preprocessor": (lambda f: plans(f, *FULL, "preprocessor_name", to="Mine"), "preprocessor Mine: only Default"),
    "resampling": (
        lambda f: plans(f, *FULL, "resampling_fn_data_kwargs", "order", to=1),
        "resampling_fn_data = resample_data_or_seg_to_shape",
    ),
    "scheme": (lambda f: plans(f, *FULL, "normalization_schemes", to=["Mine"]), "schemes.0.scheme"),
    "any class of Python": (
        lambda f: plans(f, *FULL, "architecture", "network_class_name", to="subprocess.Popen"),
        "network = 'subprocess.Popen'",
    ),
    "any argument": (
        lambda f: plans(f, *FULL, "architecture", "arch_kwargs", "conv_op", to="os.system"),
        "conv_op = 'os.system': expected a class of torch.nn",
    ),
}


@pytest.mark.parametrize("what", BAD)
def test_a_bad_folder_is_refused_in_one_line(results, what):
    change, line = BAD[what]
    change(results)
    with pytest.raises(CheckpointError) as refusal:
        read(results)
    assert line in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_wrong_words_are_refused_in_one_line(results, tmp_path, monkeypatch):
    for name in ("nnunetv2", "nnunetv2.utilities.get_network_from_plans"):
        monkeypatch.setitem(sys.modules, name, None)
    convert = ["teacher", "convert", str(results), "-o", str(tmp_path / "out")]
    with pytest.raises(CheckpointError, match=r'pip install "kd-search\[nnunet\]"'):
        trainer_main.main(convert)
    assert not list(tmp_path.glob("*out*"))
    with pytest.raises(CheckpointError, match="no fold_3; there are 0"):
        trainer_main.main([*convert, "--folds", "3"])
    with pytest.raises(CheckpointError, match=r"holds no mine\.pth"):
        trainer_main.main([*convert, "--checkpoint", "mine.pth"])
    with pytest.raises(UserError, match="is there already, and a teacher is never written over"):
        trainer_main.main([*convert[:-1], str(tmp_path)])
    (tmp_path / "nnUNet_preprocessed/Dataset901_Drawn/splits_final.json").unlink()
    with pytest.raises(CheckpointError, match="give --splits FILE"):
        trainer_main.main(convert)
    with pytest.raises(CheckpointError, match="no such folder"):
        trainer_main.main(["teacher", "convert", str(tmp_path / "none"), "-o", str(tmp_path / "out")])
    with pytest.raises(CheckpointError, match="convert it first: python -m trainer teacher convert"):
        nnunet.described(results)


OTHER: dict[str, tuple[dict[str, object], str]] = {
    "recipe": ({"recipe": "none", "schemes": []}, "data.recipe = 'none': T fixes it to 'nnunet'"),
    "spacing": ({"spacing": [1.0, 1.0, 1.25]}, "data.spacing = [1.0, 1.0, 1.25]: T fixes it to [0.9, 1.0, 1.25]"),
    "schemes": ({"schemes": [{"scheme": "NoNormalization"}]}, "data.schemes = "),
    "patch": ({"patch": [96, 96, 96]}, "data.patch = [96, 96, 96]: T fixes it to [20, 16, 14]"),
    "classes": (
        {"classes": [{"name": "a", "value": 1}, {"name": "b", "value": 0}]},
        "data.classes have the values 1, 0",
    ),
    "ignore": ({"ignore": None}, "data.ignore = None: T ignores 2"),
    "regions": ({"classes": [], "regions": {"organ": [1]}}, "data.regions: T was trained on classes"),
}


@pytest.mark.parametrize("field", OTHER)
def test_data_that_is_not_the_plans_is_refused_with_both_values(results, field):
    description = read(results).description
    settings = data(description) | {"ignore": 2}
    nnunet.refuse_other_data(description, Path("T"), VolumeData.model_validate(settings))
    rounded = settings | {"patch": description.patch_of(8)}
    nnunet.refuse_other_data(description, Path("T"), VolumeData.model_validate(rounded))
    change, line = OTHER[field]
    with pytest.raises(CheckpointError) as refusal:
        nnunet.refuse_other_data(description, Path("T"), VolumeData.model_validate(settings | change))
    assert str(refusal.value).startswith(line)


def test_pictures_have_no_teacher_of_nnunet(results):
    pictures: DataConfig = BlobsData(name="blobs", size=32, train=4, validation=2)
    with pytest.raises(CheckpointError, match=r"is a teacher of volumes; data\.name = 'blobs'"):
        nnunet.refuse_other_data(read(results).description, Path("T"), pictures)
