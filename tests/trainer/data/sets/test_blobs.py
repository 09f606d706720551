"""Drawn pictures, the geometry between native and fitted, and augmentation."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.config import BlobsData
from trainer.data import DataError, DataSet, open_data, record_opening
from trainer.data.augment import PRESETS, build
from trainer.data.dataset import Opening
from trainer.data.letterbox import IGNORED, fit_image, fit_mask, place

OPENING = Opening("test", "2026-01-01T00:00:00+00:00", "tests")
Fit = Literal["letterbox", "stretch"]


def blobs(**changes: object) -> DataSet:
    config = BlobsData.model_validate({"name": "blobs", "size": 48, "train": 12, "validation": 6, "test": 5} | changes)
    return open_data(config, cache=Path("never written"))


# Drawn pictures


def test_drawn_pictures_are_the_same_for_ever_and_write_nothing(tmp_path: Path) -> None:
    """Two openings agree in every pixel, in whatever order they are asked for; parts and seeds differ."""
    one = open_data(BlobsData(name="blobs", train=4), cache=tmp_path / "cache")
    two = open_data(BlobsData(name="blobs", train=4), cache=tmp_path / "cache")
    backwards = [two.native("train", index) for index in (3, 2, 1, 0)][::-1]
    for index in range(4):
        for here, there in zip(one.native("train", index), backwards[index], strict=True):
            assert np.array_equal(here, there)
    assert list(tmp_path.iterdir()) == []
    assert one.content_hash == two.content_hash
    assert one.image_hashes("train") == two.image_hashes("train")
    assert not set(one.image_hashes("train")) & set(one.image_hashes("validation"))
    assert not set(one.image_hashes("train")) & set(blobs(size=64, train=4, seed=1).image_hashes("train"))


def test_what_changes_pictures_changes_the_hash() -> None:
    """Size, seed and counts are content; how they are fitted and augmented is not."""
    known = {blobs().content_hash}
    for change in ({"size": 64}, {"seed": 1}, {"train": 13}, {"test": 6}):
        known.add(blobs(**change).content_hash)
    assert len(known) == 5
    assert blobs(fit="stretch", augment="none").content_hash == blobs().content_hash


def test_loose_masks_hold_the_exact_ones_and_are_of_the_training_part_alone() -> None:
    """The pictures are those that exact masks belong to, so that a teacher may have learned from these."""
    exact, loose = blobs(), blobs(loose=0.5)
    assert loose.image_hashes("train") == exact.image_hashes("train")
    assert loose.content_hash not in {exact.content_hash, blobs(loose=0.25).content_hash}
    areas = []
    for index in range(12):
        inner, outer = (data.native_mask("train", index) for data in (exact, loose))
        assert (outer >= inner).all()
        areas.append((inner.sum(), outer.sum()))
    inner_area, outer_area = np.sum(areas, axis=0)
    assert 1.5 < outer_area / inner_area <= 1.5**2
    for part, count in (("validation", 6), ("test", 5)):
        for index in range(count):
            masks = [data.native(part, index, OPENING)[1] for data in (exact, loose)]
            assert np.array_equal(*masks)


def test_exact_masks_are_no_part_of_a_run_and_keep_its_hashes() -> None:
    """Runs that were stored before masks could be loose have no such key."""
    assert "loose" not in BlobsData(name="blobs", loose=0.0).model_dump()
    assert BlobsData(name="blobs", loose=0.5).model_dump()["loose"] == 0.5
    assert blobs().content_hash == "12f0443ff2d61485caf18fb3b6970511fe8e868f9bac55292c4fa8129dfca307"


def test_drawn_pictures_exercise_fit_and_scores() -> None:
    """Sizes vary and are not square; about a tenth has no ellipse; no picture is all ellipse."""
    data = blobs(train=200)
    masks = [data.native_mask("train", index) for index in range(200)]
    assert all(48 <= side <= 63 for mask in masks for side in mask.shape)
    assert len({mask.shape for mask in masks}) > 50
    assert 8 <= sum(mask.max() == 0 for mask in masks) <= 36
    assert max(mask.mean() for mask in masks) < 0.7
    assert {int(value) for mask in masks for value in np.unique(mask)} == {0, 1}


def test_brightness_alone_does_not_give_the_mask() -> None:
    """The best single threshold on any channel stays clearly below what a small network reaches (above 0.9)."""
    data = blobs(train=40)
    best = 0.0
    pictures = [data.native("train", index) for index in range(40)]
    for channel in range(3):
        for limit in range(40, 250, 10):
            for above in (True, False):
                dice = []
                for image, mask in pictures:
                    guess = (image[..., channel] > limit) == above
                    dice.append(
                        1.0
                        if guess.sum() + mask.sum() == 0
                        else 2 * (guess & (mask > 0)).sum() / (guess.sum() + mask.sum())
                    )
                best = max(best, float(np.mean(dice)))
    assert best < 0.75


def test_drawn_pictures_obey_the_contract() -> None:
    """Shapes, types, names, groups; what is handed out cannot be changed."""
    data = blobs()
    image, mask = data.fitted("train", 0)
    assert image.shape == (48, 48, 3)
    assert mask.shape == (48, 48)
    assert image.dtype == mask.dtype == np.uint8
    native, native_mask = data.native("train", 0)
    assert native.shape[:2] == native_mask.shape == data.placement("train", 0)[:2]
    assert (data.channels, data.classes) == (3, 2)
    assert len({sample.name for sample in data.samples("train")}) == 12
    with pytest.raises(ValueError, match="read-only"):
        image[0, 0, 0] = 1
    with pytest.raises(IndexError, match="train has 12 pictures"):
        data.native("train", 12)


def test_drawn_test_rows_are_locked_too() -> None:
    """Every way to a test picture needs an opening; hashes open nothing."""
    data = blobs()
    for read in (
        lambda: data.samples("test"),
        lambda: data.fitted("test", 0),
        lambda: data.native("test", 0),
        lambda: data.native_mask("test", 0),
        lambda: data.placement("test", 0),
    ):
        with pytest.raises(DataError, match="evaluate --open-test"):
            read()
    assert len(data.image_hashes("test")) == 5
    assert len(data.samples("test", OPENING)) == 5
    assert data.fitted("test", 0, OPENING)[0].shape == (48, 48, 3)


# Geometry


@given(height=st.integers(1, 2000), width=st.integers(1, 2000), size=st.integers(8, 512))
def test_a_letterboxed_picture_keeps_its_aspect_and_lies_inside(height: int, width: int, size: int) -> None:
    """The longer side fills the square, the shorter is within half a pixel of its share, the rest is even."""
    where = place(height, width, size, "letterbox")
    assert max(where.inner_height, where.inner_width) == size
    assert min(where.inner_height, where.inner_width) >= 1
    wished = max(1.0, min(height, width) * size / max(height, width))
    assert abs(min(where.inner_height, where.inner_width) - wished) <= 0.5
    assert 0 <= size - where.inner_height - 2 * where.top <= 1
    assert 0 <= size - where.inner_width - 2 * where.left <= 1


def test_padding_is_black_and_ignored() -> None:
    """Rows above and below a wide picture; `stretch` has none."""
    image, mask = np.full((20, 40, 3), 200, np.uint8), np.ones((20, 40), np.uint8)
    where = place(20, 40, 40, "letterbox")
    assert where == (20, 40, 10, 0, 20, 40)
    fitted, labels = fit_image(image, where, 40), fit_mask(mask, where, 40)
    assert (fitted[:10] == 0).all()
    assert (fitted[10:30] == 200).all()
    assert (labels[:10] == IGNORED).all()
    assert (labels[30:] == IGNORED).all()
    assert (labels[10:30] == 1).all()
    where = place(20, 40, 40, "stretch")
    assert (fit_image(image, where, 40) == 200).all()
    assert (fit_mask(mask, where, 40) == 1).all()


@pytest.mark.parametrize("fit", ["letterbox", "stretch"])
@pytest.mark.parametrize("shape", [(90, 131), (300, 211), (64, 64), (33, 20)])
def test_the_way_back_finds_the_mask_again(fit: Fit, shape: tuple[int, int]) -> None:
    """Cut and resize by the placement: the disc lies where it was, to within its rim."""
    rows, columns = np.mgrid[0 : shape[0], 0 : shape[1]]
    radius = min(shape) / 3
    disc = ((rows - shape[0] * 0.4) ** 2 + (columns - shape[1] * 0.55) ** 2 < radius**2).astype(np.uint8)
    where = place(*shape, 64, fit)
    fitted = fit_mask(disc, where, 64)
    inner = fitted[where.top : where.top + where.inner_height, where.left : where.left + where.inner_width]
    back = cv2.resize(inner, (where.width, where.height), interpolation=cv2.INTER_NEAREST_EXACT)
    both = 2 * (back & disc).sum() / (back.sum() + disc.sum())
    assert both > 0.95
    moved = np.argwhere(back).mean(0) - np.argwhere(disc).mean(0)
    assert np.abs(moved).max() < 0.5 * max(1.0, max(shape) / 64)


def test_image_and_mask_are_fitted_alike() -> None:
    """A bright disc's centre is the same in both after fitting."""
    rows, columns = np.mgrid[0:200, 0:120]
    disc = ((rows - 70) ** 2 + (columns - 50) ** 2 < 30**2).astype(np.uint8)
    where = place(200, 120, 64, "letterbox")
    image = fit_image(np.repeat(disc[..., None] * 255, 3, axis=2), where, 64)
    mask = fit_mask(disc, where, 64)
    assert np.allclose(np.argwhere(image[..., 0] > 127).mean(0), np.argwhere(mask == 1).mean(0), atol=0.3)


def test_tiny_objects_survive_in_the_image_when_shrunk() -> None:
    """Area means: a bright speck dims but never vanishes between the samples."""
    image = np.zeros((640, 640, 3), np.uint8)
    image[333, 211] = 255
    assert fit_image(image, place(640, 640, 64, "letterbox"), 64).max() > 0


# Augmentation


@pytest.mark.parametrize("name", PRESETS)
def test_augmentation_is_drawn_from_its_seed_alone(name: str) -> None:
    """Same seed, same 8-bit pixels, in another instance, after other samples, whatever the global state."""
    image, mask = blobs().fitted("train", 0)
    first, second = build(name), build(name)
    wished = first(image, mask, 5)
    np.random.seed(0)  # a global state that must not matter
    for seed in (1, 2**62 + 3):
        second(image, mask, seed)
    for here, there in zip(wished, second(image, mask, 5), strict=True):
        assert np.array_equal(here, there)
        assert here.dtype == np.uint8
    assert wished[0].shape == image.shape
    assert wished[1].shape == mask.shape


@pytest.mark.parametrize("name", PRESETS)
def test_augmented_masks_hold_only_labels_and_move_with_their_image(name: str) -> None:
    """0, 1 and 255; the red square of the image stays under the label."""
    image, mask = np.zeros((64, 64, 3), np.uint8), np.zeros((64, 64), np.uint8)
    image[20:40, 10:34], mask[20:40, 10:34] = (255, 40, 40), 1
    augment = build(name)
    changed = 0
    for seed in range(40):
        out, labels = augment(image, mask, seed)
        assert set(np.unique(labels)) <= {0, 1, IGNORED}
        changed += not np.array_equal(labels, mask)
        red = (out[..., 0].astype(int) - out[..., 1] > 60) & (labels != IGNORED)
        if (labels == 1).sum() > 50:
            overlap = 2 * (red & (labels == 1)).sum() / (red.sum() + (labels == 1).sum())
            assert overlap > 0.75
    assert (changed == 0) == (name == "none")


def test_what_a_warp_brings_in_is_ignored() -> None:
    """Pixels from outside are no background that a loss may teach."""
    image, mask = np.full((64, 64, 3), 255, np.uint8), np.zeros((64, 64), np.uint8)
    augment = build("standard")
    seen = 0
    for seed in range(30):
        out, labels = augment(image, mask, seed)
        outside = labels == IGNORED
        seen += outside.any()
        if outside.any():
            assert out[outside].mean() < 80 < out[~outside].mean()
    assert seen > 10


def test_an_unknown_preset_is_named_with_the_nearest() -> None:
    """Before anything is read or imported."""
    with pytest.raises(DataError, match=r"data\.augment = 'standart': unknown preset; known: .*nearest: standard"):
        blobs(augment="standart")


def test_presets_are_checked_without_heavy_imports_and_nothing_phones_home(repository: Path) -> None:
    """The names, and pictures as they are, need neither torch nor albumentations; none asks for a newer version."""
    code = (
        "import os, sys\n"
        "from trainer.data.augment import PRESETS, build\n"
        "assert 'standard' in PRESETS\n"
        "build('none')\n"
        "assert not {'torch', 'albumentations'} & set(sys.modules)\n"
        "import cv2\n"
        "assert cv2.getNumThreads() == 1, cv2.getNumThreads()\n"
        "import socket\n"
        "def refuse(*a, **k): raise SystemExit('phoned home')\n"
        "socket.create_connection = refuse; socket.getaddrinfo = refuse\n"
        "build('strong')\n"
        "assert os.environ['NO_ALBUMENTATIONS_UPDATE'] == '1'\n"
        "assert cv2.getNumThreads() == 1, cv2.getNumThreads()\n"
    )
    environment = {key: value for key, value in os.environ.items() if key != "NO_ALBUMENTATIONS_UPDATE"}
    subprocess.run([sys.executable, "-c", code], cwd=repository, env=environment, check=True)


# The record of openings


def test_every_opening_is_a_line_that_stays(tmp_path: Path) -> None:
    """Who, when (UTC), what for; later ones are added; none is needed to read the record."""
    from trainer.data import read_openings

    assert read_openings(tmp_path / "runs") == []
    first = record_opening(tmp_path / "runs", "confirm polyp-kd")
    second = record_opening(tmp_path / "runs", "evaluate ü")
    assert read_openings(tmp_path / "runs") == [first, second]
    assert first.when.endswith("+00:00")
    assert "@" in first.who
    assert (first.purpose, second.purpose) == ("confirm polyp-kd", "evaluate ü")


def test_without_a_record_there_is_no_opening(tmp_path: Path) -> None:
    """An empty purpose, or a place that cannot be written; a damaged record is named."""
    from trainer.data import read_openings

    with pytest.raises(DataError, match="the purpose is empty"):
        record_opening(tmp_path, "  ")
    (tmp_path / "file").write_text("x")
    with pytest.raises(DataError, match=r"the opening cannot be recorded .*test rows stay closed"):
        record_opening(tmp_path / "file", "confirm")
    (tmp_path / "openings.jsonl").write_text('{"who": 1\n')
    with pytest.raises(DataError, match="holds a line that is no opening record"):
        read_openings(tmp_path)
