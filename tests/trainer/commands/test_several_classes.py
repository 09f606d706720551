"""What ships masks knows any number of classes, 1, 3 and 4 channels and 16 bits: evaluate, predict, package."""

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

import models
import trainer.__main__ as trainer_main
from models.output import Segmenter
from trainer import checkpoint
from trainer.cli.entry import guard
from trainer.config import RunConfig
from trainer.data import open_data
from trainer.data.classes import normalisation_of
from trainer.data.dataset import Picture
from trainer.data.splits.split import Row, write_split
from trainer.data.streams.batches import normalise
from trainer.package import inference

NAMES = ("ground", "liver", "spleen")
COLOURS = ((0, 0, 0), (200, 0, 0), (230, 159, 0))
"""Given for the liver, of the fixed palette for the others."""
PARTS = ("train", "validation", "validation", "test")
Trainer = Callable[..., int]


class Place(NamedTuple):
    """Drawn pictures with their weights."""

    folder: Path
    channels: int
    bits: int

    @property
    def weights(self) -> Path:
        """Of three classes, drawn at random."""
        return self.folder / "student.safetensors"


def draw(folder: Path, channels: int, bits: int) -> None:
    """Four pictures with masks of 0, 20 and 40, and their split file."""
    rows = []
    for number, part in enumerate(PARTS):
        rng = np.random.default_rng(number)
        top = 2**bits - 1
        pixels = rng.integers(0, top + 1, (30, 40, channels)).astype(np.uint16 if bits == 16 else np.uint8)
        mask = np.zeros((30, 40), np.uint8)
        mask[3 : 10 + number, 4:16], mask[14:25, 20 : 30 + number] = 20, 40
        pixels[mask == 20], pixels[mask == 40] = top, top // 2
        image = folder / f"images/{number}.png"
        flat = pixels[..., 0] if channels == 1 else pixels[..., [2, 1, 0, 3][:channels]]
        cv2.imwrite(str(image), flat)
        cv2.imwrite(str(folder / f"masks/{number}.png"), mask)
        rows.append(Row("S", f"images/{number}.png", f"masks/{number}.png", "", part))
    write_split(folder / "split.csv", rows)


def run_of(place: Place, **changes: Any) -> dict[str, Any]:
    """A run of three classes on the drawn pictures."""
    values = [{"name": "ground", "value": 0}, {"name": "liver", "value": 20, "colour": "#c80000"}]
    data = {"root": str(place.folder), "split": str(place.folder / "split.csv"), "size": 32, "augment": "none"}
    data |= {"name": "pictures", "channels": place.channels, "bits": place.bits}
    data["classes"] = [*values, {"name": "spleen", "value": 40}]
    student = {"name": "unet", "width": 4}
    return {"epochs": 1, "batch_size": 4, "data": data | changes, "student": student, "losses": {"ce": {}}}


def write_weights(place: Place) -> None:
    """Weights as `trainer fit -o` writes them, with scores of their own for the card."""
    run = RunConfig.model_validate(run_of(place))
    data = open_data(run.data, cache=place.folder / "cache")
    torch.manual_seed(1)
    network = models.build(run.student, in_channels=data.channels, classes=3, normalisation=normalisation_of(run.data))
    for name, buffer in network.named_buffers():
        if name.endswith("running_mean"):
            buffer.normal_(0.0, 0.3)
    balance(network, np.stack([data.fitted("train", 0)[0]]))
    names = ("dice", "iou", "precision", "recall")
    scores = {f"{name}{of}": 0.5 + at / 10 for name in names for at, of in enumerate(("", ".liver", ".spleen"))}
    metadata = {
        "network": run.student.model_dump(mode="json", exclude={"checkpoint"}),
        "channels": data.channels,
        "classes": 3,
        "data": data.content_hash,
        "train_images": list(data.image_hashes("train")),
        "scores": scores,
        "epoch": 1,
        "run": run.model_dump(mode="json"),
    }
    checkpoint.export(place.weights, network.state_dict(), metadata)


def balance(network: Segmenter, images: Picture) -> None:
    """Turn the last weights so that no class has the greater logits on average: each is somewhere the likeliest."""
    *_, head = (layer for layer in network.modules() if isinstance(layer, torch.nn.Conv2d))
    seen: list[torch.Tensor] = []
    hook = head.register_forward_pre_hook(lambda _layer, given: seen.append(given[0]))
    with torch.no_grad():
        network.eval()(normalise(torch.from_numpy(images), network.normalisation))
        mean = seen[0].mean((0, 2, 3))
        weight = head.weight[:, :, 0, 0]
        head.weight -= (weight @ mean / (mean @ mean))[:, None, None, None] * mean[:, None, None]
    hook.remove()


def made(folder: Path, channels: int, bits: int) -> Place:
    """Pictures of these channels and bits, with weights."""
    for below in ("images", "masks"):
        (folder / below).mkdir()
    place = Place(folder, channels, bits)
    draw(folder, channels, bits)
    write_weights(place)
    return place


@pytest.fixture(scope="module", params=[(1, 16), (4, 8)], ids=["deep grey", "four channels"])
def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Place:
    """Pictures, weights and what came of them: `ship`, `by-weights`, `by-package`."""
    place = made(tmp_path_factory.mktemp("classes"), *request.param)
    folder, cache = place.folder, ("--cache", str(place.folder / "cache"))
    assert trainer("package", str(place.weights), str(folder / "ship"), *cache) == 0
    for source, out in ((place.weights, "by-weights"), (folder / "ship", "by-package")):
        assert trainer("predict", str(source), str(folder / "images"), "-o", str(folder / out)) == 0
    return place


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """RGB pictures and weights alone."""
    return made(tmp_path_factory.mktemp("plain"), 3, 8)


def trainer(*texts: str) -> int:
    return guard(lambda: trainer_main.main(texts))


class TestPredict:
    def test_a_mask_holds_labels_with_the_colours_of_their_classes(self, place: Place) -> None:
        seen: set[int] = set()
        for number in range(len(PARTS)):
            with Image.open(place.folder / f"by-weights/masks/{number}.png") as mask:
                assert (mask.mode, mask.size) == ("P", (40, 30))
                assert tuple((mask.getpalette() or [])[:9]) == tuple(value for colour in COLOURS for value in colour)
                seen |= set(np.unique(np.asarray(mask)).tolist())
        assert seen <= {0, 1, 2}
        assert len(seen) > 1

    def test_the_package_gives_the_masks_of_its_weights(self, place: Place) -> None:
        for number in range(len(PARTS)):
            one, two = (place.folder / by / f"masks/{number}.png" for by in ("by-weights", "by-package"))
            differ = np.asarray(Image.open(one)) != np.asarray(Image.open(two))
            assert differ.mean() < 1e-3

    def test_names_and_colours_lie_beside_the_masks(self, place: Place) -> None:
        for by in ("by-weights", "by-package"):
            rows = list(csv.reader((place.folder / by / "classes.csv").read_text().splitlines()))
            assert rows == [
                ["label", "name", "colour"],
                ["0", "ground", "#000000"],
                ["1", "liver", "#c80000"],
                ["2", "spleen", "#e69f00"],
            ]
            drawn = np.asarray(Image.open(place.folder / by / "legend.png")).reshape(-1, 3)
            assert {COLOURS[1], COLOURS[2]} <= {tuple(pixel) for pixel in drawn}

    def test_overlays_are_rgb(self, place: Place) -> None:
        with Image.open(place.folder / "by-package/overlays/0.png") as overlay:
            assert (overlay.mode, overlay.size) == ("RGB", (40, 30))

    def test_a_picture_of_other_channels_is_named(
        self, place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        pixels = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "a.png")
        for source in (place.weights, place.folder / "ship"):
            assert trainer("predict", str(source), str(tmp_path), "-o", str(tmp_path / "out")) == 2
            (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error")]
            assert "a.png" in line

    def test_a_grid_of_cases_is_drawn(self, place: Place, tmp_path: Path) -> None:
        grid, cache = tmp_path / "grid.png", str(place.folder / "cache")
        assert trainer("predict", str(place.weights), "--grid", "-o", str(grid), "--cache", cache) == 0
        pixels = np.asarray(Image.open(grid)).reshape(-1, 3)
        colours = {tuple(pixel) for pixel in np.unique(pixels, axis=0)}
        assert set(COLOURS[1:]) <= colours


class TestPackage:
    def test_preprocessing_says_all_that_is_needed(self, place: Place) -> None:
        p = json.loads((place.folder / "ship" / inference.PREPROCESSING).read_text())
        assert p["schema"] == 2
        assert p["classes"] == list(NAMES)
        assert p["colours"] == ["#000000", "#c80000", "#e69f00"]
        assert p["channels"] == {1: "grey", 4: ["red", "green", "blue", "fourth"]}[place.channels]
        assert p.get("bits", 8) == place.bits
        assert len(p["mean"]) == len(p["std"]) == place.channels
        assert p["threshold"] is None

    def test_parity_is_said_of_each_class(self, place: Place) -> None:
        found = json.loads((place.folder / "ship" / inference.PARITY).read_text())
        assert list(found["probability_by_class"]) == list(NAMES)
        assert max(found["probability_by_class"].values()) == found["probability"] < 1e-4

    def test_the_card_lists_classes_with_their_scores(self, place: Place) -> None:
        card = (place.folder / "ship" / inference.CARD).read_text()
        assert "into ground, liver and spleen" in card
        assert "| 1 | liver | `#c80000` | 0.6000 | 0.6000 | 0.6000 | 0.6000 |" in card
        assert "| | mean without ground | | 0.5000 |" in card
        assert {1: "takes grey with 16 bits at", 4: "takes red, green, blue, fourth at"}[place.channels] in card
        assert "threshold" not in card.partition("## Limits")[2].partition("## Files")[0]

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"colours": ["#000000"]}, "colours: 1 of 3 classes"),
            ({"mean": [0.5] * 7}, "values, one a channel"),
            ({"channels": ["a", "b"]}, "channels: 2 names"),
            ({"channels": "RGB", "mean": [0.5] * 3, "std": [0.5] * 3}, "the network takes ("),
            ({"classes": ["ground", "li\nver", "spleen"]}, "classes"),
            ({"schema": 3}, "schema"),
            ({"colours": ["#000000", "red", "#e69f00"]}, "colours"),
        ],
    )
    def test_what_does_not_fit_is_one_line(
        self, place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str], changes: dict[str, Any], message: str
    ) -> None:
        foreign = tmp_path / "foreign"
        shutil.copytree(place.folder / "ship", foreign)
        path = foreign / inference.PREPROCESSING
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))
        (foreign / inference.SUMS).write_text(inference.sums(foreign, inference.FILES))
        assert trainer("predict", str(foreign), str(place.folder / "images"), "-o", str(tmp_path / "out")) == 2
        error = capsys.readouterr().err
        assert message in error
        assert len(error.splitlines()) == 1

    def test_a_threshold_is_of_two_classes(self, plain: Place, capsys: pytest.CaptureFixture[str]) -> None:
        words = ("package", str(plain.weights), str(plain.folder / "none"), "--cache", str(plain.folder / "cache"))
        assert trainer(*words, "--threshold", "0.4") == 2
        assert "has 3 classes; leave it out" in capsys.readouterr().err


class TestEvaluate:
    def test_a_table_of_classes_is_printed_and_written_and_torchmetrics_agrees(
        self, plain: Place, capsys: pytest.CaptureFixture[str]
    ) -> None:
        path = plain.folder / "scores.json"
        words = ("evaluate", str(plain.weights), "--cache", str(plain.folder / "cache"))
        assert trainer(*words, "--json", str(path)) == 0
        document = json.loads(path.read_text())
        assert list(document["classes"]) == ["liver", "spleen"]
        for name, values in document["classes"].items():
            assert values == {score: document["scores"][f"{score}.{name}"] for score in values}
        assert np.mean([v["dice"] for v in document["classes"].values()]) == pytest.approx(document["scores"]["dice"])
        assert document["torchmetrics"]["images_compared"] == 2
        assert any(name.startswith("dice.") for name in document["torchmetrics"])
        lines = capsys.readouterr().out.splitlines()
        at = next(n for n, line in enumerate(lines) if line.split() == ["class", "dice", "iou", "precision", "recall"])
        assert [line.split()[0] for line in lines[at + 1 : at + 4]] == ["liver", "spleen", "mean"]
        assert lines[at + 3].split()[1] == f"{document['scores']['dice']:.4f}"
        assert any(line.startswith("torchmetrics agrees") for line in lines)
        assert not [line for line in lines if line.startswith("dice.")]

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            (
                {"classes": [{"name": name, "value": n} for n, name in enumerate(("ground", "spleen", "liver"))]},
                "data.classes = ground, spleen, liver: ",
            ),
            (
                {"classes": [{"name": name, "value": n} for n, name in enumerate("abcd")]},
                "made for 3 classes and 3 channels, but the data has 4 and 3",
            ),
            ({"channels": 1}, "made for 3 classes and 3 channels, but the data has 3 and 1"),
        ],
    )
    def test_data_of_other_classes_are_refused_in_one_line(
        self, plain: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str], changes: dict[str, Any], message: str
    ) -> None:
        other = tmp_path / "run.json"
        other.write_text(json.dumps(run_of(plain, **changes)))
        for command in (("evaluate",), ("predict", "--grid", "-o", str(tmp_path / "grid.png"))):
            assert trainer(*command, str(plain.weights), "--data", str(other)) == 2
            error = capsys.readouterr().err
            assert message in error
            assert len(error.splitlines()) == 1
