"""Which mask belongs to which image, what of a folder is left out, and what a person can say of names."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from trainer.data.splits.folders import find_pairs, pattern_from, survey
from trainer.errors import DataError


def touch(folder: Path, *names: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        Image.fromarray(np.zeros((2, 2), np.uint8)).save(folder / name)


def paired(folder: Path, pattern: str | None = None) -> dict[str, str]:
    pairs = find_pairs(folder, None if pattern is None else pattern_from(pattern))
    return {pair.image.name: pair.mask.name for pair in pairs}


@pytest.mark.parametrize("name", ["a_seg", "case-gt", "b_mask", "c_label", "d_segmentation"])
def test_an_equal_name_goes_before_every_other_rule(tmp_path: Path, name: str) -> None:
    """Also where it ends as the names of masks do."""
    touch(tmp_path / "images", f"{name}.jpg")
    touch(tmp_path / "masks", f"{name}.png")
    assert paired(tmp_path) == {f"{name}.jpg": f"{name}.png"}


def test_an_ending_counts_where_no_name_is_equal(tmp_path: Path) -> None:
    """Image by image: `a_seg` belongs to `a_seg`, so that `a` takes `a_mask`."""
    touch(tmp_path / "images", "a.jpg", "a_seg.jpg")
    touch(tmp_path / "masks", "a_mask.png", "a_seg.png")
    assert paired(tmp_path) == {"a.jpg": "a_mask.png", "a_seg.jpg": "a_seg.png"}


def test_a_second_mask_of_one_image_is_refused(tmp_path: Path) -> None:
    touch(tmp_path / "images", "a.jpg")
    touch(tmp_path / "masks", "a.png", "a_mask.png")
    with pytest.raises(DataError, match=r"1 masks without an image \(.*a_mask\.png\)"):
        find_pairs(tmp_path)
    (tmp_path / "masks" / "a.png").rename(tmp_path / "masks" / "a_gt.png")
    with pytest.raises(DataError, match=r"a_mask\.png: is a second mask of one image, beside a_gt\.png"):
        find_pairs(tmp_path)


@pytest.mark.parametrize(
    ("image", "mask", "pattern"),
    [
        ("a", "a_lesion", "{}_lesion"),
        ("1", "p1", "p{}"),
        ("a_image", "a_lesion", "{}_image={}_lesion"),
        ("img-7-x", "lab-7-y", "img-{}-x=lab-{}-y"),
    ],
)
def test_a_pattern_says_how_masks_are_named(tmp_path: Path, image: str, mask: str, pattern: str) -> None:
    touch(tmp_path / "images", f"{image}.jpg")
    touch(tmp_path / "masks", f"{mask}.png")
    with pytest.raises(DataError) as caught:
        find_pairs(tmp_path)
    assert "_segmentation, _seg, _mask, _gt, _label behind it; other names: --masks-pattern '" in str(caught.value)
    assert paired(tmp_path, pattern) == {f"{image}.jpg": f"{mask}.png"}
    assert str(pattern_from(pattern)) == pattern
    touch(tmp_path / "images", "other.jpg")
    with pytest.raises(DataError, match=r"1 images without a mask \(.*other\.jpg\); paired by --masks-pattern"):
        paired(tmp_path, pattern)


def test_the_pattern_that_would_fit_is_proposed(tmp_path: Path) -> None:
    """And fits when it is typed."""
    touch(tmp_path / "images", "1.png", "11.png")
    touch(tmp_path / "masks", "p1_l.png", "p11_l.png")
    with pytest.raises(DataError, match=r"2 images without a mask .*--masks-pattern 'p\{\}_l'"):
        find_pairs(tmp_path)
    assert paired(tmp_path, "p{}_l") == {"1.png": "p1_l.png", "11.png": "p11_l.png"}


@pytest.mark.parametrize("text", ["", "lesion", "{}{}", "image={}_lesion", "{}=x"])
def test_a_pattern_without_one_place_for_the_name_is_refused(text: str) -> None:
    with pytest.raises(DataError, match=r"--masks-pattern .*: write \{\} once for what image and mask share"):
        pattern_from(text)


def test_files_of_kinds_that_are_not_read_are_named(tmp_path: Path) -> None:
    """Where something is missing, and in the account of what was left; hidden files and folders are not spoken of."""
    touch(tmp_path / "images", "a.jpg")
    touch(tmp_path / "masks", "a.png", "b.png", "c.png")
    for name in ("b.webp", "c.webp", ".DS_Store"):
        (tmp_path / "images" / name).write_bytes(b"RIFF")
    (tmp_path / "images" / "more.png").mkdir()
    (tmp_path / "masks" / "LICENSE").write_text("terms")
    with pytest.raises(
        DataError,
        match=r"2 masks without an image .*; left out: images: 2 \.webp files, of a kind that is not read "
        r"\(b\.webp, c\.webp\); masks: 1 nameless file, of a kind that is not read \(LICENSE\)",
    ):
        find_pairs(tmp_path)
    for name in ("b.png", "c.png"):
        (tmp_path / "masks" / name).unlink()
    taken = survey(tmp_path)
    assert len(taken.pairs) == 1
    assert [line.partition(",")[0] for line in taken.left] == ["images: 2 .webp files", "masks: 1 nameless file"]


def test_a_thousand_masks_without_images_are_one_line(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "masks").mkdir()
    for number in range(1000):
        (tmp_path / "masks" / f"{number:04}.png").write_bytes(b"")
    with pytest.raises(DataError) as caught:
        find_pairs(tmp_path)
    assert "1000 masks without an image" in str(caught.value)
    assert "and 997 more" in str(caught.value)
    assert len(str(caught.value)) < 700
