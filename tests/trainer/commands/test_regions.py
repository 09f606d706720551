"""What ships masks of regions, which overlap: evaluate, predict, package, and the teacher that has to have them."""

import csv
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

import models
import trainer.__main__ as trainer_main
from models.output import Output, Segmenter
from trainer import checkpoint
from trainer.cli.entry import guard
from trainer.config import RunConfig
from trainer.data import DataSet, open_data
from trainer.data.classes import PALETTE
from trainer.data.splits.split import Row, write_split
from trainer.errors import CheckpointError
from trainer.package import inference
from trainer.teacher.open import Ensemble, opened

NESTED = {"core": [1, 4], "whole": [1, 2, 4]}
"""The inner one first, so that the order of outputs is not that of painting."""
APART = {"left": [1, 2], "right": [1, 4]}
PARTS = ("train", "validation", "validation", "test")


def trainer(*texts: str) -> int:
    return guard(lambda: trainer_main.main(texts))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four pictures with masks of 0, 1, 2 and 4, their split, and weights of both kinds of regions."""
    folder = tmp_path_factory.mktemp("regions")
    rows = []
    for number, part in enumerate(PARTS):
        rng = np.random.default_rng(number)
        mask = np.zeros((30, 40), np.uint8)
        mask[3 : 20 + number, 4:30], mask[6:14, 8:20], mask[8:12, 10 : 14 + number] = 2, 1, 4
        pixels = np.clip(mask[..., None] * 50 + rng.integers(0, 50, (30, 40, 3)), 0, 255).astype(np.uint8)
        for below, array in (("images", pixels), ("masks", mask)):
            (folder / below).mkdir(exist_ok=True)
            cv2.imwrite(str(folder / below / f"{number}.png"), array)
        rows.append(Row("S", f"images/{number}.png", f"masks/{number}.png", "", part))
    write_split(folder / "split.csv", rows)
    for name, regions in (("nested", NESTED), ("apart", APART)):
        write_weights(folder, name, regions)
    return folder


def run_of(folder: Path, regions: object, **changes: object) -> RunConfig:
    data = {"name": "pictures", "root": str(folder), "split": str(folder / "split.csv"), "size": 32}
    data |= {"regions": regions, "augment": "none", "near_duplicates": "accept"}
    student = {"name": "unet", "width": 4}
    run = {"epochs": 1, "batch_size": 1, "data": data, "student": student, "losses": {"bce-dice": {}}}
    return RunConfig.model_validate(run | changes)


def data_of(folder: Path, run: RunConfig) -> DataSet:
    return open_data(run.data, cache=folder / "cache")


def write_weights(folder: Path, name: str, regions: object) -> None:
    """Weights drawn at random whose outputs are on either side of 0, with what a file of ours says."""
    run = run_of(folder, regions)
    data = data_of(folder, run)
    torch.manual_seed(2)
    network = models.build(run.student, in_channels=3, classes=data.classes)
    scores = {f"{score}{of}": 0.5 for score in ("dice", "iou", "precision", "recall") for of in ("", ".core", ".whole")}
    metadata = {
        "network": run.student.model_dump(mode="json", exclude={"checkpoint"}),
        "channels": 3,
        "classes": data.classes,
        "data": data.content_hash,
        "epoch": 1,
        "scores": scores,
        "train_images": [],
        "run": run.model_dump(mode="json"),
    }
    checkpoint.export(folder / f"{name}.safetensors", network.state_dict(), metadata)


def masks_by(folder: Path, source: str, *more: str, out: str) -> Path:
    assert trainer("predict", source, str(folder / "images"), "-o", str(folder / out), *more) == 0
    return folder / out / "masks"


def test_regions_in_one_another_are_one_picture_painted_from_the_outermost_in(folder):
    masks = masks_by(folder, str(folder / "nested.safetensors"), out="nested")
    with Image.open(masks / "0.png") as mask:
        assert (mask.mode, mask.size) == ("P", (40, 30))
        assert tuple((mask.getpalette() or [])[3:9]) == (*PALETTE[0], *PALETTE[1])
        assert set(np.unique(np.asarray(mask))) == {0, 1, 2}, "1 is the core, 2 the whole around it"
    rows = list(csv.reader((folder / "nested/classes.csv").read_text().splitlines()))
    assert [row[:2] for row in rows[1:]] == [["0", "background"], ["1", "core"], ["2", "whole"]]
    assert (folder / "nested/legend.png").is_file()


def test_regions_that_overlap_are_a_folder_each(folder):
    masks = masks_by(folder, str(folder / "apart.safetensors"), out="apart")
    left, right = (np.asarray(Image.open(masks / name / "1.png")) for name in APART)
    assert set(np.unique(left)) <= {0, 255}
    assert ((left > 0) & (right > 0)).any(), "a pixel may be in both"
    assert not (masks / "1.png").exists()


def test_a_package_of_regions_says_so_and_gives_the_masks_of_its_weights(folder):
    cache = ("--cache", str(folder / "cache"))
    for name, painted in (("nested", ["whole", "core"]), ("apart", None)):
        ship = folder / f"ship-{name}"
        assert trainer("package", str(folder / f"{name}.safetensors"), str(ship), "--threshold", "0.4", *cache) == 0
        p = json.loads((ship / inference.PREPROCESSING).read_text())
        assert (p["schema"], p["regions"], p["threshold"], p.get("painted")) == (3, True, 0.4, painted)
        parity = json.loads((ship / inference.PARITY).read_text())
        assert list(parity["probability_by_class"]) == p["classes"]
        one = masks_by(folder, str(folder / f"{name}.safetensors"), "--threshold", "0.4", out=f"{name}-weights")
        other = masks_by(folder, str(ship), out=f"{name}-package")
        files = sorted(path.relative_to(one) for path in one.rglob("*.png"))
        assert len(files) == len(PARTS) * (1 if painted else 2)
        for file in files:
            differ = np.asarray(Image.open(one / file)) != np.asarray(Image.open(other / file))
            assert differ.mean() < 5e-3
    card = (folder / "ship-nested" / inference.CARD).read_text()
    assert "into core and whole" in card
    assert "| 0 | core | `#009e73` | 0.5000 |" in card
    assert "a pixel is in each whose sigmoid is above 0.4 (given by hand)" in card


def test_evaluate_agrees_with_torchmetrics_region_by_region(folder, capsys):
    words = ("evaluate", str(folder / "nested.safetensors"), "--cache", str(folder / "cache"))
    assert trainer(*words, "--json", str(folder / "scores.json"), "--per-image", str(folder / "cases.csv")) == 0
    document = json.loads((folder / "scores.json").read_text())
    assert (document["threshold"], list(document["regions"])) == (0.5, list(NESTED))
    assert {"dice", "dice.core", "iou.whole"} <= document["torchmetrics"].keys()
    assert "torchmetrics agrees" in (said := capsys.readouterr().out)
    assert "each region above threshold 0.5" in said
    rows = list(csv.DictReader((folder / "cases.csv").read_text().splitlines()))
    assert {"dice.core", "hd95.whole", "brier"} <= rows[0].keys()


def test_a_grid_shows_every_region_in_its_colour(folder):
    for name in ("nested", "apart"):
        grid, cache = folder / f"{name}.png", str(folder / "cache")
        weights = str(folder / f"{name}.safetensors")
        assert trainer("predict", weights, "--grid", "-o", str(grid), "--cache", cache) == 0
        pixels = np.asarray(Image.open(grid)).reshape(-1, 3)
        assert {PALETTE[0], PALETTE[1]} <= {tuple(pixel) for pixel in np.unique(pixels, axis=0).tolist()}


@pytest.mark.parametrize(
    ("regions", "message"),
    [
        (APART, r"was trained on the regions core, whole, and the data has the regions left, right"),
        (
            {name: NESTED[name] for name in ("whole", "core")},
            r"was trained on the regions core, whole, and the data has",
        ),
    ],
)
def test_a_teacher_has_the_same_regions_in_the_same_order(folder, regions, message):
    teacher = {"name": "unet", "width": 4, "checkpoint": str(folder / "nested.safetensors")}
    run = run_of(folder, regions, teacher=teacher, method="kl", losses={"bce-dice": {}, "kl": {}})
    with pytest.raises(CheckpointError, match=message):
        opened(run, data_of(folder, run), device=torch.device("cpu"))


def test_a_teacher_of_classes_teaches_no_regions(folder):
    classes = [{"name": f"c{value}", "value": value} for value in (0, 1, 2, 4)]
    run = run_of(folder, {"a": 1, "b": 2, "c": 4, "d": [1, 2]})
    path = folder / "classes.safetensors"
    network = models.build(run.student, in_channels=3, classes=4)
    trained = {"data": {"name": "pictures", "classes": classes}}
    checkpoint.export(path, network.state_dict(), {"classes": 4, "channels": 3, "run": trained})
    teacher = {"name": "unet", "width": 4, "checkpoint": str(path)}
    run = run.model_copy(update={"teacher": run_of(folder, NESTED, teacher=teacher).teacher})
    with pytest.raises(CheckpointError, match=r"was trained on classes, and the data has the regions a, b, c, d"):
        opened(run, data_of(folder, run), device=torch.device("cpu"))


class Fixed(Segmenter):
    """The same logits whatever it sees."""

    stride, taps = 1, {}

    def __init__(self, logits: torch.Tensor) -> None:
        super().__init__()
        self.logits = logits

    def forward(self, images: torch.Tensor) -> Output:
        return Output(self.logits, {})


def test_an_ensemble_of_regions_is_the_mean_of_sigmoids():
    draws = [torch.randn(1, 3, 4, 4, generator=torch.Generator().manual_seed(seed)) * 9 for seed in range(3)]
    logits = Ensemble([Fixed(each) for each in draws], regions=True)(torch.zeros(1, 3, 4, 4)).logits
    torch.testing.assert_close(logits.sigmoid(), torch.stack(draws).sigmoid().mean(0), rtol=1e-5, atol=1e-6)
