"""What the values of masks mean: two name themselves, a person says the rest, and nothing unnamed is rounded."""

import io
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from trainer.data.dataset import Pixels
from trainer.data.masks import (
    BLACK_AND_WHITE,
    Coding,
    MaskValues,
    coding_from,
    coding_of,
    meaning_text,
)
from trainer.data.reading import PLAIN, Reading, read_mask_values
from trainer.errors import DataError


def disc(radius: int, side: int = 96) -> Pixels:
    rows, columns = np.mgrid[0:side, 0:side]
    return ((rows - side / 2) ** 2 + (columns - side / 2) ** 2 < radius**2).astype(np.uint8)


def bordered(inner: int, border: int) -> Pixels:
    """A disc of one value with a rim of another."""
    return np.where(disc(20) > 0, inner, disc(23) * border).astype(np.uint8)


def saved(folder: Path, masks: Mapping[str, Pixels | Image.Image], *, quality: int = 95) -> dict[str, MaskValues]:
    for name, mask in masks.items():
        picture = mask if isinstance(mask, Image.Image) else Image.fromarray(mask)
        picture.save(folder / name, **({"quality": quality} if name.endswith("jpg") else {}))
    return {name: read_mask_values(folder / name, PLAIN) for name in masks}


def palette(labels: Pixels, *colours: tuple[int, int, int]) -> Image.Image:
    image = Image.fromarray(labels, "P")
    image.putpalette([level for colour in colours for level in colour])
    return image


RED = (128, 0, 0)
TWO_CLASSES: dict[str, tuple[Pixels | Image.Image, str]] = {
    "black and white": (disc(20) * 255, "0 is background, 255 is object"),
    "zero and one": (disc(20), "0 is background, 1 is object"),
    "zero and some value": (disc(20) * 38, "0 is background, 38 is object"),
    "bits": (Image.fromarray(disc(20) * 255).convert("1"), "0 is background, 255 is object"),
    "a palette of black and red": (palette(disc(20), (0, 0, 0), RED), "0 is background, #800000 is object"),
    "a palette that shows nothing": (palette(disc(20), (0, 0, 0), (0, 0, 0)), "0 is background, 1 is object"),
    "colours without a palette": (disc(20)[..., None] * np.array(RED, np.uint8), "0 is background, #800000 is object"),
    "grey in three channels": (np.repeat(disc(20)[..., None] * 255, 3, axis=2), "0 is background, 255 is object"),
}


@pytest.mark.parametrize("kind", TWO_CLASSES)
@pytest.mark.parametrize("ending", ["png", "bmp", "tif"])
def test_two_classes_name_themselves(tmp_path: Path, kind: str, ending: str) -> None:
    """Also where some masks are empty, and one is full."""
    mask, meaning = TWO_CLASSES[kind]
    empty = np.zeros((96, 96), np.uint8)
    values = saved(tmp_path, {f"a.{ending}": mask, f"b.{ending}": empty})
    coding = coding_of(values, "S")
    assert meaning_text(coding) == meaning
    assert np.array_equal(Reading(coding).mask(tmp_path / f"a.{ending}"), disc(20))
    assert Reading(coding).mask(tmp_path / f"b.{ending}").sum() == 0
    assert coding.share(values[f"a.{ending}"]) == pytest.approx(disc(20).mean())
    assert coding.moved(values[f"a.{ending}"]) == 0


UNNAMED: dict[str, tuple[dict[str, Pixels | Image.Image], list[str]]] = {
    "an object and a border to ignore": (
        {"a.png": bordered(1, 255)},
        ["S: 1 of 1 masks hold", "1 (", "255 (", '"0: background, 1: object, 255: ignored"'],
    ),
    "half grey": ({"a.png": bordered(127, 255)}, ["127 (", "255 ("]),
    "three classes": ({"a.png": bordered(1, 2)}, ['"0: background, 1: object, 2: object"', "two classes are trained"]),
    "two codings in one source": (
        {"a.png": disc(20), "b.png": disc(20) * 255, "c.png": disc(21) * 255},
        ["S: 1 of 3 masks hold", "(a.png)", "0 is background, 255 is object"],
    ),
    "another class in each file": (
        {"a.png": disc(20), "b.png": disc(20) * 2},
        ["S: 1 of 2 masks"],
    ),
    "a rim of greys": ({"a.png": np.where(disc(20) > 0, 255, disc(23) * 11).astype(np.uint8)}, ["11 ("]),
    "a palette of three": (
        {"a.png": palette(bordered(1, 2), (0, 0, 0), RED, (0, 128, 0))},
        ["#800000 (", "#008000 (", "#008000: object"],
    ),
    "no black": ({"a.png": palette(disc(20), (68, 1, 84), (253, 231, 37))}, ["#440154 (", "#fde725 ("]),
}


@pytest.mark.parametrize("case", UNNAMED)
def test_a_value_that_nobody_named_is_refused(tmp_path: Path, case: str) -> None:
    """In one line with values, shares and how to say what they mean; saying that is then enough."""
    masks, parts = UNNAMED[case]
    values = saved(tmp_path, masks)
    with pytest.raises(DataError) as caught:
        coding_of(values, "S")
    message = str(caught.value)
    for part in ["say what each value means, such as --labels", "%", *parts]:
        assert part in message
    assert "\n" not in message
    text = message.split('--labels "')[1].split('"')[0]
    if case not in ("two codings in one source", "another class in each file"):
        coding = coding_of(values, "S", given=coding_from(text, "labels"))
        assert set(np.unique(Reading(coding).mask(tmp_path / "a.png"))) <= {0, 1, 255}


def test_an_image_in_the_masks_place_is_named_alone(tmp_path: Path) -> None:
    """One photograph among good masks, lossless or not."""
    noise = np.random.default_rng(0).integers(0, 256, (96, 96, 3), dtype=np.uint8)
    grey = noise[..., 0]
    values = saved(tmp_path, {"a.png": disc(20) * 255, "b.png": disc(9) * 255, "image.png": noise})
    with pytest.raises(DataError, match=r"1 of 3 masks .*\(image\.png\).*images in the masks' place\?"):
        coding_of(values, "S")
    values = saved(tmp_path, {"a.jpg": disc(20) * 255, "b.jpg": disc(9) * 255, "image.jpg": grey})
    with pytest.raises(DataError, match=r"1 of 3 masks are JPEGs .*\(image\.jpg\).*images in the masks' place\?"):
        coding_of(values, "S")
    Image.fromarray(disc(20)[..., None] * np.array(RED, np.uint8)).save(tmp_path / "red.jpg")
    with pytest.raises(DataError, match=r"red\.jpg: the mask is a coloured JPEG"):
        read_mask_values(tmp_path / "red.jpg", PLAIN)


@pytest.mark.parametrize("quality", [40, 75, 95])
def test_greys_of_a_jpeg_go_to_the_nearest_named_value(tmp_path: Path, quality: int) -> None:
    """White where it was white: the same as a threshold at 127. The share that moved is known."""
    values = saved(tmp_path, {"a.jpg": disc(30) * 255, "b.jpg": disc(30) * 128}, quality=quality)
    white = coding_of({"a.jpg": values["a.jpg"]}, "S")
    assert white == BLACK_AND_WHITE
    with Image.open(tmp_path / "a.jpg") as file:
        assert np.array_equal(Reading(white).mask(tmp_path / "a.jpg"), (np.asarray(file) > 127).astype(np.uint8))
    assert (Reading(white).mask(tmp_path / "a.jpg") != disc(30)).sum() <= 12
    assert white.moved(values["a.jpg"]) > 0
    grey = coding_of({"b.jpg": values["b.jpg"]}, "S")
    assert (Reading(grey).mask(tmp_path / "b.jpg") != disc(30)).sum() <= 12


def test_a_jpeg_with_a_third_value_is_refused(tmp_path: Path) -> None:
    """More than a twentieth of the pixels lie far from black and white; names for greys help."""
    values = saved(tmp_path, {"a.jpg": np.where(disc(20) > 0, 127, disc(28) * 255).astype(np.uint8)})
    with pytest.raises(DataError, match=r"1 of 1 masks are JPEGs of which more than 5% is near no named value: 0 \("):
        coding_of(values, "S")
    coding = coding_of(values, "S", given=coding_from("0: background, 127: object, 255: ignored", "labels"))
    labels = Reading(coding).mask(tmp_path / "a.jpg")
    assert (labels == 1).sum() == pytest.approx(disc(20).sum(), rel=0.05)
    assert set(np.unique(labels)) == {0, 1, 255}


def test_a_jpeg_inside_a_tiff_is_a_jpeg(tmp_path: Path) -> None:
    Image.fromarray(disc(30) * 255).save(tmp_path / "a.tif", compression="jpeg", quality=60)
    values = read_mask_values(tmp_path / "a.tif", PLAIN)
    assert values.lossy
    assert coding_of({"a.tif": values}, "S") == BLACK_AND_WHITE
    tifffile.imwrite(tmp_path / "b.tif", disc(30) * 255)
    assert not read_mask_values(tmp_path / "b.tif", PLAIN).lossy


def test_what_a_person_says_is_read(tmp_path: Path) -> None:
    """Single values, ranges and colours; a gap is an error, not a guess."""
    coding = coding_from("0-2: background, 3: object, 4: object, #800000: ignored", "labels")
    assert coding.labels == tuple(
        sorted([(0, 0), (0x010101, 0), (0x020202, 0), (0x030303, 1), (0x040404, 1), (0x800000, 255)])
    )
    values = saved(tmp_path, {"a.png": np.array([[0, 2, 3, 4]], np.uint8), "b.png": np.array([[0, 5]], np.uint8)})
    assert Reading(coding).mask(tmp_path / "a.png").tolist() == [[0, 0, 1, 1]]
    with pytest.raises(
        DataError, match=r"1 of 2 masks hold .* 5 \(50\.00%\).*\(b\.png\); 0-2 is background, 3-4 is obj"
    ):
        coding_of(values, "S", given=coding)
    with pytest.raises(DataError, match=r"b\.png: the mask holds values that nobody named"):
        Reading(coding).mask(tmp_path / "b.png")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "'' is no VALUE: MEANING; write '0: background"),
        ("0 background", "'0 background' is no VALUE: MEANING"),
        ("0: background, 1: polyp", "unknown meaning 'polyp'; known: background, ignored, object"),
        ("0: background, 1-300: object", "'1-300: object': values go from 0 to 255"),
        ("0: background, 9-3: object", "values go from 0 to 255"),
        ("0-5: background, 5: object", "5 has two meanings; keep one"),
        ("0: background, 255: ignored", "no value is the object"),
        ("1: object", "no value is the background"),
    ],
)
def test_a_mistake_in_what_a_person_says_is_one_line(text: str, message: str) -> None:
    with pytest.raises(DataError) as caught:
        coding_from(text, "data.labels")
    assert str(caught.value).startswith(f"data.labels = {text!r}: ")
    assert message in str(caught.value)


def test_shipped_kvasir_masks_keep_their_labels(real_data: Path) -> None:
    """JPEG masks with grey rims: none is far from black and white, and the labels are those of a threshold at 127."""
    files = sorted((real_data / "as-shipped" / "Kvasir-SEG" / "masks").glob("*.jpg"))
    values = {file.name: read_mask_values(file, PLAIN) for file in files}
    coding = coding_of(values, "Kvasir-SEG")
    assert coding == BLACK_AND_WHITE
    assert 0.001 < sum(map(coding.moved, values.values())) / sum(v.pixels for v in values.values()) < 0.02
    for file in files:
        with Image.open(io.BytesIO(file.read_bytes())) as picture:
            grey = np.asarray(picture)
        assert np.array_equal(Reading(coding).mask(file), (grey > 127).astype(np.uint8))


def test_an_empty_coding_says_nothing() -> None:
    assert meaning_text(Coding(())) == ""
