"""Data sets that name their classes: values, colours, palettes, a file a class; channels and bits."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from trainer.config import PictureData
from trainer.data import DataError, open_data
from trainer.data.dataset import Opening
from trainer.data.splits.split import Row, write_split

OPENING = Opening("test", "2026-01-01T00:00:00+00:00", "test")
PARTS = ("train", "train", "validation", "test")
COLOURS = np.array([(0, 0, 0), (200, 0, 0), (0, 0, 200)], np.uint8)
THREE = ("ground", "liver", "spleen")


def labels(number: int) -> np.ndarray:
    """A mask of 0, 1 and 2, another for each number."""
    mask = np.zeros((20, 24), np.uint8)
    mask[2 : 8 + number, 3:9] = 1
    mask[10:15, 12 : 18 + number] = 2
    return mask


def image(number: int, channels: int = 3) -> np.ndarray:
    pixels = np.random.default_rng(number).integers(0, 256, (20, 24, channels), dtype=np.uint8)
    return pixels[..., 0] if channels == 1 else pixels


def make(root: Path, save, *, mask: str = "masks/{}.png", channels: int = 3) -> Path:
    """Four pictures, each with what `save(mask, folder, number)` writes, and their split file."""
    (root / "images").mkdir(parents=True)
    (root / "masks").mkdir()
    rows = []
    for number, part in enumerate(PARTS):
        Image.fromarray(image(number, channels)).save(root / "images" / f"{number}.png")
        save(labels(number), root / "masks", number)
        rows.append(Row("S", f"images/{number}.png", mask.replace("{}", str(number)), "", part))
    write_split(root / "split.csv", rows)
    return root


def settings(root: Path, values=(0, 1, 2), **more) -> PictureData:
    classes = [
        {"name": name} if value is None else {"name": name, "value": value}
        for name, value in zip(THREE, values, strict=True)
    ]
    return PictureData.model_validate(
        {"name": "pictures", "root": str(root), "split": str(root / "split.csv"), "size": 32, "classes": classes}
        | {"augment": "none"} | more
    )  # fmt: skip


def indices(mask, folder, number):
    Image.fromarray(mask).save(folder / f"{number}.png")


def scattered(mask, folder, number):
    Image.fromarray(np.array([0, 20, 40], np.uint8)[mask]).save(folder / f"{number}.png")


def coloured(mask, folder, number):
    Image.fromarray(COLOURS[mask]).save(folder / f"{number}.png")


def palette(mask, folder, number):
    picture = Image.fromarray(mask, "P")
    picture.putpalette(COLOURS.ravel().tolist())
    picture.save(folder / f"{number}.png")


def files(mask, folder, number):
    for label, name in enumerate(THREE[1:], 1):
        Image.fromarray(((mask == label) * 255).astype(np.uint8)).save(folder / f"{number}_{name}.png")


@pytest.mark.filterwarnings("ignore:'mode' parameter is deprecated")
@pytest.mark.parametrize(
    ("save", "values", "mask"),
    [
        pytest.param(indices, (0, 1, 2), "masks/{}.png", id="indices"),
        pytest.param(scattered, ("0-19", "20-39", 40), "masks/{}.png", id="ranges"),
        pytest.param(coloured, ("#000000", "#c80000", "#0000c8"), "masks/{}.png", id="colours"),
        pytest.param(palette, ("#000000", "#c80000", "#0000c8"), "masks/{}.png", id="palette by colour"),
        pytest.param(palette, (0, 1, 2), "masks/{}.png", id="palette by index"),
        pytest.param(files, (None, None, None), "masks/{}_{class}.png", id="a file a class"),
    ],
)
def test_masks_of_every_form_give_the_same_labels(tmp_path, save, values, mask):
    data = open_data(settings(make(tmp_path / "d", save, mask=mask), values), cache=tmp_path / "cache")
    assert (data.classes, data.channels) == (3, 3)
    for part, numbers in (("train", (0, 1)), ("validation", (2,)), ("test", (3,))):
        for index, number in enumerate(numbers):
            opening = OPENING if part == "test" else None
            assert np.array_equal(data.native_mask(part, index, opening), labels(number))
            pixels, native = data.native(part, index, opening)
            assert np.array_equal(pixels, image(number))
            assert np.array_equal(native, labels(number))
    fitted = data.fitted("train", 0)[1]
    assert set(np.unique(fitted)) == {0, 1, 2, 255}


def test_an_ignored_value_is_neither_learned_nor_scored(tmp_path):
    def save(mask, folder, number):
        mask[:2] = 9
        indices(mask, folder, number)

    data = open_data(settings(make(tmp_path / "d", save), ignore=9), cache=tmp_path / "cache")
    assert (data.native_mask("train", 0)[:2] == 255).all()


@pytest.mark.parametrize(
    ("save", "values", "message"),
    [
        pytest.param(scattered, (0, 1, 2), r"S: 4 of 4 masks hold values that nobody named: .*20 .*40", id="unknown"),
        pytest.param(coloured, (0, 1, 2), r"nobody named: .*#c80000.*name them in data.classes", id="rgb"),
        pytest.param(indices, (0, 1, "1-2"), r"data.classes.spleen.value = '1-2': 1 is liver already", id="twice"),
        pytest.param(indices, (0, 1, "x"), r"data.classes.spleen.value = 'x': expected a number", id="text"),
    ],
)  # fmt: skip
def test_a_value_without_one_meaning_is_refused_in_one_line(tmp_path, save, values, message):
    with pytest.raises(DataError, match=message) as error:
        open_data(settings(make(tmp_path / "d", save), values), cache=tmp_path / "cache")
    assert "\n" not in str(error.value)


def test_masks_of_classes_that_overlap_are_refused(tmp_path):
    def save(mask, folder, number):
        files(mask, folder, number)
        both = np.full(mask.shape, 255, np.uint8)
        Image.fromarray(both).save(folder / f"{number}_spleen.png")

    root = make(tmp_path / "d", save, mask="masks/{}_{class}.png")
    with pytest.raises(DataError, match=r"spleen\.png: covers pixels that are liver already"):
        open_data(settings(root, (None, None, None)), cache=tmp_path / "cache")


@pytest.mark.parametrize("channels", [1, 4])
def test_grey_and_four_channels_come_as_they_are(tmp_path, channels):
    root = make(tmp_path / "d", indices, channels=channels)
    data = open_data(settings(root, channels=channels), cache=tmp_path / "cache")
    assert data.channels == channels
    assert data.fitted("train", 0)[0].shape == (32, 32, channels)
    assert np.array_equal(data.native("train", 0)[0], image(0, channels).reshape(20, 24, channels))


def test_pictures_of_other_channels_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"has 3 channels, and data\.channels = 1"):
        open_data(settings(make(tmp_path / "d", indices), channels=1), cache=tmp_path / "cache")


def test_sixteen_bits_are_kept(tmp_path):
    root = make(tmp_path / "d", indices, channels=1)
    deep = [np.random.default_rng(n).integers(0, 65536, (20, 24), dtype=np.uint16) for n in range(len(PARTS))]
    for number, pixels in enumerate(deep):
        cv2.imwrite(str(root / "images" / f"{number}.png"), pixels)
    data = open_data(settings(root, channels=1, bits=16), cache=tmp_path / "cache")
    image_, _ = data.fitted("train", 0)
    assert image_.dtype == np.uint16
    assert np.array_equal(data.native("train", 0)[0][..., 0], deep[0])


@pytest.mark.parametrize(("numbers", "warned"), [((8, 9, 10), False), ((8, 9, 12), True)])
def test_a_scored_volume_without_some_of_its_slices_is_named(tmp_path, log, numbers, warned):
    names = [f"v_{number}" for number in (1, 2, 4, *numbers)]
    rows = []
    for at, name in enumerate(names):
        part = "train" if at < 3 else "validation"
        for folder, pixels in (("images", image(at)), ("masks", labels(at))):
            (tmp_path / folder).mkdir(exist_ok=True)
            Image.fromarray(pixels).save(tmp_path / folder / f"{name}.png")
        rows.append(Row("S", f"images/{name}.png", f"masks/{name}.png", part, part, f"volume of {part}"))
    write_split(tmp_path / "split.csv", rows)
    open_data(settings(tmp_path), cache=tmp_path / "cache")
    said = [line for line in log if "lack slices" in line]
    assert len(said) == warned, "volumes that train may have gaps"
    if warned:
        assert "1 of 1 volumes that are scored lack slices" in said[0]
        assert "S/volume of validation: none between 9 and 12" in said[0]
