"""Folders as shipped, split files and the commands over them."""

import argparse
import csv
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from trainer.commands import data
from trainer.data.dataset import Part
from trainer.data.file_check import CheckedPair, check_pairs
from trainer.data.masks import BLACK_AND_WHITE
from trainer.data.splits.folders import find_pairs
from trainer.data.splits.near_duplicates import twins
from trainer.data.splits.split import Row, assign, read_groups, read_split, samples, write_split
from trainer.errors import DataError

FRACTIONS: dict[Part, float] = {"train": 0.8, "validation": 0.1, "test": 0.1}


def save(path: Path, seed: int, *, mask: bool = False) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).integers(0, 256, (8, 10) if mask else (8, 10, 3), dtype=np.uint8)
    Image.fromarray((noise > 200).astype(np.uint8) * 255 if mask else noise).save(path)


def pair(
    folder: Path, name: str, seed: int, *, images: str = "images", masks: str = "masks", ending: str = ".png"
) -> None:
    save(folder / images / f"{name}{ending}", seed)
    save(folder / masks / f"{name}.png", seed, mask=True)


def source(folder: Path, count: int, *, first_seed: int = 0) -> Path:
    for number in range(count):
        pair(folder, f"{number:03d}", first_seed + number)
    return folder


def run(*words: object) -> int:
    parser = argparse.ArgumentParser()
    data.add_arguments(parser.add_subparsers(required=True))
    return data.main(parser.parse_args([str(word) for word in words]))


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


# Folders


@pytest.mark.parametrize(
    ("images", "masks"),
    [
        ("images", "masks"),
        ("Images", "Masks"),
        ("Original", "Ground Truth"),
        ("X_Training_Input", "X_Training_GroundTruth"),
    ],
)
def test_pairs_are_found_in_every_shipped_layout(tmp_path: Path, images: str, masks: str) -> None:
    """Sorted by name, whatever the folders are called."""
    for number in (2, 10, 1):
        pair(tmp_path, str(number), number, images=images, masks=masks)
    found = find_pairs(tmp_path)
    assert [(p.image.name, p.mask.name, p.part) for p in found] == [
        (f"{n}.png", f"{n}.png", None) for n in ("1", "10", "2")
    ]
    assert found[0].image.parent.name == images


@pytest.mark.parametrize("ending", [".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp", ".JPG"])
def test_every_kind_of_image_is_found(tmp_path: Path, ending: str) -> None:
    """Not only the names that end in jpg."""
    pair(tmp_path, "a", 1, ending=ending)
    assert [p.image.suffix for p in find_pairs(tmp_path)] == [ending]


@pytest.mark.parametrize("suffix", ["_segmentation", "_Segmentation", "_mask", ""])
def test_a_mask_may_carry_a_suffix(tmp_path: Path, suffix: str) -> None:
    """ISIC's two spellings among them; licences and hidden files in the folders are left alone."""
    save(tmp_path / "images" / "ISIC_1.jpg", 1)
    save(tmp_path / "masks" / f"ISIC_1{suffix}.png", 1, mask=True)
    (tmp_path / "images" / "LICENSE.txt").write_text("terms")
    (tmp_path / "masks" / ".DS_Store").write_bytes(b"x")
    assert [p.mask.stem for p in find_pairs(tmp_path)] == [f"ISIC_1{suffix}"]


def test_split_folders_keep_their_parts(tmp_path: Path) -> None:
    """`val` is validation; a part may be missing."""
    pair(tmp_path / "train", "a", 1)
    pair(tmp_path / "val", "b", 2)
    assert [(p.image.stem, p.part) for p in find_pairs(tmp_path)] == [("a", "train"), ("b", "validation")]


def test_halves_of_pairs_are_named(tmp_path: Path) -> None:
    """Both kinds at once, with their paths."""
    source(tmp_path, 2)
    save(tmp_path / "images" / "lonely.png", 9)
    save(tmp_path / "masks" / "spare.png", 9, mask=True)
    with pytest.raises(
        DataError, match=r"1 images without a mask \(.*lonely\.png\) and 1 masks without an image \(.*spare\.png\)"
    ):
        find_pairs(tmp_path)


def test_unusable_folders_say_why(tmp_path: Path) -> None:
    """Missing, empty, without known folders, one level too high, two names for one part, doubled stems."""
    with pytest.raises(DataError, match="no such folder"):
        find_pairs(tmp_path / "gone")
    with pytest.raises(DataError, match=r"holds no pictures with masks; known: images/ and masks/"):
        find_pairs(tmp_path)
    (tmp_path / "empty" / "images").mkdir(parents=True)
    (tmp_path / "empty" / "masks").mkdir()
    with pytest.raises(DataError, match=r"the set is empty; known kinds of files: \.bmp"):
        find_pairs(tmp_path / "empty")
    source(tmp_path / "high" / "PNG", 1)
    with pytest.raises(DataError, match="the folder 'PNG' in it does: give that"):
        find_pairs(tmp_path / "high")
    for name in ("val", "validation"):
        pair(tmp_path / "twice" / name, "a", 1)
    with pytest.raises(DataError, match="two folders for one part"):
        find_pairs(tmp_path / "twice")
    source(tmp_path / "both", 1)
    pair(tmp_path / "both" / "train", "a", 1)
    with pytest.raises(DataError, match="beside the parts train; keep one"):
        find_pairs(tmp_path / "both")
    source(tmp_path / "stems", 1)
    save(tmp_path / "stems" / "images" / "000.jpg", 1)
    with pytest.raises(DataError, match=r"000\.png: has the same name as 000\.jpg"):
        find_pairs(tmp_path / "stems")


# Split files


def rows_in(folder: Path, count: int = 4) -> list[Row]:
    source(folder / "S", count)
    return [Row("S", f"S/images/{n:03d}.png", f"S/masks/{n:03d}.png", "", "train") for n in range(count)]


def test_a_split_file_comes_back_as_it_was_written(tmp_path: Path) -> None:
    """Groups, parts, commas in names; a byte-order mark of a spreadsheet does no harm; no scrap is left beside."""
    rows = rows_in(tmp_path)
    rows[1] = replace(rows[1], group="patient 7, left", part="test")
    (tmp_path / "out").mkdir()
    write_split(tmp_path / "out" / "s.csv", rows)
    assert read_split(tmp_path / "out" / "s.csv", tmp_path) == rows
    text = (tmp_path / "out" / "s.csv").read_text()
    (tmp_path / "out" / "s.csv").write_text("\ufeff" + text.replace("\n", "\r\n"), newline="")
    assert read_split(tmp_path / "out" / "s.csv", tmp_path) == rows
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["s.csv"]


HEAD = "source,image,mask,group,split\n"
GOOD = "S,S/images/000.png,S/masks/000.png,,train\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"line 1: columns are '' ?; expected source,image,mask,group,split"),
        ("source,image,mask,split\n", r"line 1: columns are 'source,image,mask,split'; expected"),
        ("source,image,mask,group,part\n", r"line 1: unknown column 'part'; known: .*"),
        (HEAD, "holds no rows"),
        (
            HEAD + "S,S/images/000.png,S/masks/000.png,,val\n",
            r"line 2: split = 'val': unknown part; known: test, train, validation",
        ),
        (
            HEAD + GOOD + "S,S/images/000.png,S/masks/001.png,,train\n",
            r"line 3: image 'S/images/000\.png' is already in line 2",
        ),
        (
            HEAD + GOOD + "S,S/images/001.png,S/masks/000.png,,train\n",
            r"line 3: mask 'S/masks/000\.png' is already in line 2",
        ),
        (
            HEAD + "S,/etc/passwd,S/masks/000.png,,train\n",
            r"line 2: image: '/etc/passwd': expected a path below the data root",
        ),
        (HEAD + "S,../x.png,S/masks/000.png,,train\n", r"line 2: image: '\.\./x\.png': expected a path below"),
        (HEAD + "S,S/images/out.png,S/masks/000.png,,train\n", r"line 2: image: .* a link leads out of the data root"),
        (HEAD + "S,S/images/000.png,S/masks/gone.png,,train\n", r"line 2: mask: no such file .*gone\.png"),
        (HEAD + "S,S/images/000.png,S/images/000.png,,train\n", "line 2: image and mask are the same file"),
        (HEAD + "S,S/images/000.png\n", r"line 2: expected 5 cells"),
        (HEAD + "S,S/images/000.png,S/masks/000.png,,train,more\n", r"line 2: expected 5 cells"),
        (HEAD + "a/b,S/images/000.png,S/masks/000.png,,train\n", r"line 2: source is 'a/b'"),
        (
            HEAD + "S,S/images/000.png,S/masks/000.png,g,train\nS,S/images/001.png,S/masks/001.png,g,test\n",
            r"line 3: group 'g' of S is in test here and in train in line 2",
        ),
    ],
)
def test_bad_split_files_are_refused_with_their_line(tmp_path: Path, text: str, message: str) -> None:
    """The user finds the spot at once."""
    rows_in(tmp_path / "root", 2)
    save(tmp_path / "elsewhere.png", 1)
    (tmp_path / "root" / "S" / "images" / "out.png").symlink_to(tmp_path / "elsewhere.png")
    (tmp_path / "s.csv").write_text(text)
    with pytest.raises(DataError, match=message) as caught:
        read_split(tmp_path / "s.csv", tmp_path / "root")
    assert "\n" not in str(caught.value)


def test_a_missing_or_binary_split_file_is_named(tmp_path: Path) -> None:
    """With the command that writes one."""
    with pytest.raises(DataError, match=r"no such split file; `python -m trainer data split` writes one"):
        read_split(tmp_path / "gone.csv", tmp_path)
    (tmp_path / "s.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="cannot be read"):
        read_split(tmp_path / "s.csv", tmp_path)


def test_one_group_word_in_two_sources_is_two_groups(tmp_path: Path) -> None:
    """Sequence 1 of one data set is not sequence 1 of another."""
    rows = rows_in(tmp_path, 1)
    source(tmp_path / "T", 1)
    other = Row("T", "T/images/000.png", "T/masks/000.png", "1", "test")
    write_split(tmp_path / "s.csv", [replace(rows[0], group="1"), other])
    assert [sample.group for sample in samples(read_split(tmp_path / "s.csv", tmp_path))] == ["S/1", "T/1"]


def test_sample_names_are_unique_and_short() -> None:
    """`source/file`; with the part where a file name comes twice; an error where even that does not help."""
    rows = [Row("S", f"S/{part}/images/1.png", f"S/{part}/masks/1.png", "", part) for part in ("train", "test")]
    assert [s.name for s in samples(rows[:1])] == ["S/1.png"]
    assert [s.name for s in samples(rows)] == ["S/train/1.png", "S/test/1.png"]
    assert [s.group for s in samples(rows)] == ["S/train/1.png", "S/test/1.png"]
    with pytest.raises(DataError, match=r"S/train/1\.png: two images have this name"):
        samples([rows[0], replace(rows[0], image="S/more/1.png")])


# Who goes where


def made(groups: Sequence[int], source_name: str = "S") -> list[Row]:
    """Rows of groups with the given sizes."""
    names = [(f"g{at}", number) for at, size in enumerate(groups) for number in range(size)]
    return [
        Row(source_name, f"{source_name}/{g}-{n}.png", f"{source_name}/m-{g}-{n}.png", g, "train") for g, n in names
    ]


@given(groups=st.lists(st.integers(1, 30), min_size=3, max_size=40), seed=st.integers(0, 2**31))
@settings(max_examples=60, deadline=None)
def test_groups_never_cross_and_no_part_is_empty(groups: list[int], seed: int) -> None:
    """For all group sizes and seeds; and the draw does not depend on the order of rows."""
    rows = made(groups)
    out = assign(rows, [], seed=seed, fractions=FRACTIONS)
    parts: dict[str, set[str]] = {}
    for row in out:
        parts.setdefault(row.group, set()).add(row.part)
    assert all(len(found) == 1 for found in parts.values())
    assert {row.part for row in out} == {"train", "validation", "test"}
    assert sorted(assign(rows[::-1], [], seed=seed, fractions=FRACTIONS), key=str) == sorted(out, key=str)


def test_single_images_are_shared_out_exactly() -> None:
    """1000 images at 80/10/10; another seed gives other images."""
    rows = [replace(row, group="") for row in made([1000])]
    out = assign(rows, [], seed=1, fractions=FRACTIONS)
    assert Counter(row.part for row in out) == {"train": 800, "validation": 100, "test": 100}
    other = assign(rows, [], seed=2, fractions=FRACTIONS)
    assert {r.image for r in out if r.part == "test"} != {r.image for r in other if r.part == "test"}


def test_every_source_is_split_by_itself() -> None:
    """A small source is present in each part."""
    rows = made([1] * 200, "big") + made([1] * 20, "small")
    out = assign(rows, [], seed=3, fractions=FRACTIONS)
    assert Counter(row.part for row in out if row.source == "small") == {"train": 16, "validation": 2, "test": 2}


def test_linked_rows_go_together_also_across_sources() -> None:
    """Whatever the seed: identical pictures never cross, nor do the groups that they join."""
    rows = made([2] * 10, "A") + made([1] * 10, "B")
    for seed in range(30):
        out = assign(rows, [(0, 25), (3, 5)], seed=seed, fractions=FRACTIONS)
        assert out[0].part == out[1].part == out[25].part
        assert out[2].part == out[3].part == out[4].part == out[5].part


def test_too_few_groups_are_an_error_and_a_share_of_zero_is_none() -> None:
    """No part is silently empty, and none is filled against the wish."""
    with pytest.raises(
        DataError, match=r"S: 2 groups cannot fill 3 parts \(train, validation, test\); change --fractions"
    ):
        assign(made([5, 5]), [], seed=0, fractions=FRACTIONS)
    out = assign(made([5, 5]), [], seed=0, fractions={"train": 0.5, "validation": 0.5, "test": 0.0})
    assert {row.part for row in out} == {"train", "validation"}


def test_groups_are_read_by_file_stem_or_source(tmp_path: Path) -> None:
    """Sources that the file does not name keep single images."""
    rows = [replace(row, group="") for row in made([1, 1], "A") + made([1, 1], "B")]
    (tmp_path / "g.csv").write_text("image,group\nA/g0-0.png,s1\nA/g1-0,s1\n")
    assert [row.group for row in read_groups(tmp_path / "g.csv", rows)] == ["s1", "s1", "", ""]
    (tmp_path / "g.csv").write_text("image,group\ng0-0,s1\n")
    assert [row.group for row in read_groups(tmp_path / "g.csv", made([1]))] == ["s1"]


@pytest.mark.parametrize(
    "form", ["{name}.png", "{name}", "S/{name}.png", "images/{name}.png", "{path}", "{root}/{path}"]
)
@pytest.mark.parametrize("part", ["", "train/"])
def test_an_image_of_a_group_is_named_by_any_end_of_its_path(tmp_path: Path, form: str, part: str) -> None:
    """As in the split file, from /, or shorter; in folders that come as parts, too."""
    rows = [
        Row("S", f"data/S/{part}images/{n:03d}.png", f"data/S/{part}masks/{n:03d}.png", "", "train") for n in range(3)
    ]
    names = [form.format(name=f"{n:03d}", path=rows[n].image, root=tmp_path) for n in range(3)]
    (tmp_path / "g.csv").write_text("\n".join(["image,group", *(f"{name},p{n}" for n, name in enumerate(names))]))
    assert [row.group for row in read_groups(tmp_path / "g.csv", rows, tmp_path)] == ["p0", "p1", "p2"]


def test_one_file_name_in_two_parts_needs_more_of_its_path(tmp_path: Path) -> None:
    rows = [Row("S", f"S/{part}/images/1.png", f"S/{part}/masks/1.png", "", part) for part in ("train", "test")]
    (tmp_path / "g.csv").write_text("image,group\nS/1.png,a\n")
    with pytest.raises(DataError, match=r"stands for 2 images \(S/train/images/1\.png, S/test/images/1\.png\): write"):
        read_groups(tmp_path / "g.csv", rows)
    (tmp_path / "g.csv").write_text("image,group\ntrain/images/1.png,a\ntest/images/1.png,b\n")
    assert [row.group for row in read_groups(tmp_path / "g.csv", rows)] == ["a", "b"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("picture,group\n", "line 1: columns are 'picture,group'; expected image,group"),
        ("image,group\n", "holds no rows"),
        (
            "image,group\nnobody.png,1\n",
            r"line 2: image 'nobody\.png' is none of the 4 images, such as A/g0-0\.png; an image",
        ),
        ("image,group\ng0-0,1\n", "line 2: image 'g0-0' stands for 2 images .*: write source/image"),
        ("image,group\nA/g0-0,\n", "line 2: expected an image and its group"),
        ("image,group\nA/g0-0,1\nA/g0-0.png,2\n", r"line 3: image 'A/g0-0\.png' already has the group '1'"),
        ("image,group\nA/g0-0,1\n", r"names 1 of the 2 images of A; without a group: A/g1-0\.png"),
    ],
)
def test_bad_groups_files_are_refused(tmp_path: Path, text: str, message: str) -> None:
    """A group that is wrong or half known would leak."""
    (tmp_path / "g.csv").write_text(text)
    rows = [replace(row, group="") for row in made([1, 1], "A") + made([1, 1], "B")]
    with pytest.raises(DataError, match=message):
        read_groups(tmp_path / "g.csv", rows)


# Commands


def test_split_writes_what_check_accepts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two sources, one with sequences; counts and the warning about few test sequences are printed."""
    source(tmp_path / "K", 20)
    source(tmp_path / "C", 24, first_seed=100)
    (tmp_path / "g.csv").write_text("image,group\n" + "".join(f"C/{n:03d},seq{n // 4}\n" for n in range(24)))
    out = tmp_path / "splits" / "s.csv"
    assert run("split", tmp_path / "K", tmp_path / "C", "--by", "group", "--groups", tmp_path / "g.csv", "-o", out) == 0
    said = capsys.readouterr().out
    assert "20 images, no groups known (each image its own)  16 / 2 / 2" in said
    assert "24 images in 6 groups" in said
    assert "test groups in C: no interval will be given for that source alone" in said
    assert f"paths start at {tmp_path}" in said
    assert said.splitlines()[-1] == f"next: python -m search init {tmp_path} --split {out} --name s"
    assert {row["group"] for row in read(out) if row["source"] == "K"} == {""}
    assert run("check", out, "--root", tmp_path) == 0
    said = capsys.readouterr().out
    assert "sizes     10-10 x 8-8 (width x height), 1 different" in said
    assert "masks     0 empty (0.0%)" in said
    assert "44 images; 0 bad files; no group in two parts" in said


def test_the_same_seed_writes_the_same_bytes(tmp_path: Path) -> None:
    """A split can be made again, and another seed makes another."""
    source(tmp_path / "K", 20)
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        fractions = "16,2,2" if name == "b" else "0.8,0.1,0.1"  # the same, as counts
        assert run("split", tmp_path / "K", "--seed", seed, "--fractions", fractions, "-o", tmp_path / name) == 0
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert (tmp_path / "a").read_bytes() != (tmp_path / "c").read_bytes()


def test_split_keeps_given_folders_and_the_wished_root(tmp_path: Path) -> None:
    """Shipped splits stay as they are; paths start where asked."""
    for part in ("train", "validation", "test"):
        pair(tmp_path / "data" / "K" / part, part[0], ord(part[1]))
    assert run("split", tmp_path / "data" / "K", "--root", tmp_path, "-o", tmp_path / "s.csv") == 0
    rows = read(tmp_path / "s.csv")
    assert [(row["image"], row["split"]) for row in rows] == [
        (f"data/K/{part}/images/{part[0]}.png", part) for part in ("train", "validation", "test")
    ]


def test_identical_pictures_move_together_and_are_listed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The same pixels under two names, in two formats: one part, whatever the seed."""
    source(tmp_path / "K", 12)
    save(tmp_path / "K" / "images" / "twin.bmp", 3)
    save(tmp_path / "K" / "masks" / "twin.png", 77, mask=True)
    for seed in range(12):
        assert run("split", tmp_path / "K", "--seed", seed, "-o", tmp_path / "s.csv") == 0
        parts = {Path(row["image"]).name: row["split"] for row in read(tmp_path / "s.csv")}
        assert parts["003.png"] == parts["twin.bmp"]
    assert "\nidentical pictures: 1 pairs, of which 0 across parts" in capsys.readouterr().out
    listed = read(tmp_path / "s.duplicates.csv")
    assert [(row["first"], row["second"]) for row in listed] == [("K/images/003.png", "K/images/twin.bmp")]
    assert run("check", tmp_path / "s.csv", "--root", tmp_path) == 0
    assert "identical pictures: 1 pairs, of which 0 across parts" in capsys.readouterr().out


def test_identical_pictures_across_given_parts_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By split, which writes nothing, and by check for a file that has them."""
    pair(tmp_path / "K" / "train", "a", 1)
    pair(tmp_path / "K" / "test", "b", 1)
    assert run("split", tmp_path / "K", "-o", tmp_path / "s.csv") == 2
    said = capsys.readouterr().err
    assert (
        "the given split: identical pictures in two parts, K/train/images/a.png (train) and K/test/images/b.png" in said
    )
    assert not (tmp_path / "s.csv").exists()
    train = Row("K", "K/train/images/a.png", "K/train/masks/a.png", "", "train")
    rows = [train, Row("K", "K/test/images/b.png", "K/test/masks/b.png", "", "test")]
    write_split(tmp_path / "s.csv", rows)
    assert run("check", tmp_path / "s.csv", "--root", tmp_path) == 2
    assert "bad: identical pictures in two parts" in capsys.readouterr().err


def test_groups_that_cross_given_parts_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A groups file that contradicts shipped folders shows a leak."""
    pair(tmp_path / "K" / "train", "a", 1)
    pair(tmp_path / "K" / "test", "b", 2)
    (tmp_path / "g.csv").write_text("image,group\na,1\nb,1\n")
    assert run("split", tmp_path / "K", "--groups", tmp_path / "g.csv", "-o", tmp_path / "s.csv") == 2
    assert "group '1' of K is in two parts of the given split" in capsys.readouterr().err


def test_every_bad_file_is_named_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Not the first alone; the exit code says 2, and split writes nothing."""
    source(tmp_path / "K", 12)
    write_split(
        tmp_path / "s.csv", [Row("K", f"K/images/{n:03d}.png", f"K/masks/{n:03d}.png", "", "train") for n in range(12)]
    )
    (tmp_path / "K" / "images" / "002.png").write_bytes(b"")
    (tmp_path / "K" / "images" / "005.png").write_bytes((tmp_path / "K" / "images" / "005.png").read_bytes()[:60])
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(tmp_path / "K" / "masks" / "007.png")
    for words in (
        ("check", tmp_path / "s.csv", "--root", tmp_path),
        ("split", tmp_path / "K", "-o", tmp_path / "new.csv"),
    ):
        assert run(*words) == 2
        said = capsys.readouterr().err
        assert [name in said for name in ("002.png", "005.png", "007.png")] == [True] * 3
        assert "3 of 12 pairs are bad" in said
    assert not (tmp_path / "new.csv").exists()


def test_negatives_are_counted_and_allowed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A frame without a polyp is data, not a fault."""
    source(tmp_path / "K", 10)
    Image.fromarray(np.zeros((8, 10), np.uint8)).save(tmp_path / "K" / "masks" / "004.png")
    assert run("split", tmp_path / "K", "-o", tmp_path / "s.csv") == 0
    assert run("check", tmp_path / "s.csv", "--root", tmp_path) == 0
    assert "masks     1 empty (10.0%)" in capsys.readouterr().out


def test_turned_images_are_pointed_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An orientation tag is not obeyed; the user is asked to look."""
    source(tmp_path / "K", 5)
    exif = Image.Exif()
    exif[0x0112] = 3
    Image.open(tmp_path / "K" / "images" / "000.png").save(tmp_path / "K" / "images" / "000.png", exif=exif)
    assert run("split", tmp_path / "K", "-o", tmp_path / "s.csv") == 0
    assert run("check", tmp_path / "s.csv", "--root", tmp_path) == 0
    assert "1 images carry an EXIF orientation" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--fractions", "0.8,0.1"), "--fractions '0.8,0.1': expected three shares that sum to 1"),
        (("--fractions", "0.8,0.1,0.2"), "expected three shares"),
        (("--fractions", "a,b,c"), "expected three shares"),
        (("--fractions", "1.2,-0.1,-0.1"), "expected three shares"),
        (("--fractions", "nan,nan,nan"), "expected three shares"),
        (("--by", "group"), "--by group: needs --groups FILE"),
        (("--by", "image", "--groups", "g.csv"), "--by image: contradicts --groups"),
        (("--groups", "gone.csv"), "gone.csv: cannot be read"),
        (("--root", "/usr"), "--root /usr: "),
    ],
)
def test_wrong_options_of_split_are_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], message: str
) -> None:
    """And nothing is written."""
    source(tmp_path / "K", 5)
    assert run("split", tmp_path / "K", *words, "-o", tmp_path / "s.csv") == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1
    assert not (tmp_path / "s.csv").exists()


def test_two_folders_of_one_name_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The name is the source."""
    source(tmp_path / "a" / "K", 4)
    source(tmp_path / "b" / "K", 4, first_seed=50)
    assert run("split", tmp_path / "a" / "K", tmp_path / "b" / "K", "-o", tmp_path / "s.csv") == 2
    assert "two folders are named 'K'" in capsys.readouterr().err


def test_check_needs_its_root(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An unset variable or a folder that is not there is named."""
    monkeypatch.delenv("POLYP_ROOT", raising=False)
    assert run("check", tmp_path / "s.csv") == 2
    assert "the variable POLYP_ROOT is not set" in capsys.readouterr().err
    assert run("check", tmp_path / "s.csv", "--root", tmp_path / "gone") == 2
    assert "no such folder" in capsys.readouterr().err


def test_an_output_that_cannot_be_written_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A file stands where a folder is needed."""
    source(tmp_path / "K", 5)
    (tmp_path / "file").write_text("x")
    assert run("split", tmp_path / "K", "-o", tmp_path / "file" / "s.csv") == 2
    assert "cannot be written" in capsys.readouterr().err


def test_progress_counts_every_pair(tmp_path: Path) -> None:
    """From 1 to all, in order."""
    source(tmp_path, 5)
    seen: list[tuple[int, int]] = []
    pairs = [(p.image, p.mask) for p in find_pairs(tmp_path)]
    found = check_pairs(pairs, lambda done, total: seen.append((done, total)))
    assert seen == [(n, 5) for n in range(1, 6)]
    assert all(isinstance(entry, CheckedPair) for entry in found)


def test_the_commands_need_no_torch(repository: Path) -> None:
    """`data check` starts at once."""
    code = "import sys, trainer.data, trainer.commands.data, trainer.data.augment; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=repository, check=False).returncode == 0


def test_real_sets_split_as_shipped(real_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """All four polyp sets keep their parts and pass the check; tiny and huge polyps are both there."""
    names = ("Kvasir-SEG", "CVC-ClinicDB", "CVC-ColonDB", "ETIS-LaribPolypDB")
    assert run("split", *(real_data / name for name in names), "-o", tmp_path / "s.csv") == 0
    rows = read_split(tmp_path / "s.csv", real_data)
    assert Counter(row.part for row in rows if row.source == "Kvasir-SEG") == {
        "train": 110,
        "validation": 25,
        "test": 25,
    }
    found = check_pairs([(real_data / row.image, real_data / row.mask) for row in rows])
    shares = [BLACK_AND_WHITE.share(entry.values) for entry in found if isinstance(entry, CheckedPair)]
    assert len(shares) == len(rows) == 287
    assert min(shares) < 0.01 < 0.6 < max(shares)
    looks = [entry.hashes for entry in found if isinstance(entry, CheckedPair)]
    assert {source for pair in twins(rows, looks) for source in (pair.first.source, pair.second.source)} == {
        "ETIS-LaribPolypDB"  # frames of one video, a moment apart
    }
    assert run("check", tmp_path / "s.csv", "--root", real_data) == 0


def test_original_layouts_are_split(real_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Kvasir's JPEG masks, ClinicDB's tif folders with a space and its greys, which have to be named, ISIC's suffix."""
    folders = [
        real_data / "as-shipped" / "Kvasir-SEG",
        real_data / "as-shipped" / "CVC-ClinicDB",
        real_data / "ISIC2018",
    ]
    words = ("split", *folders, "-o", tmp_path / "s.csv")
    assert run(*words) == 2
    said = capsys.readouterr().err
    assert "CVC-ClinicDB: 3 of 3 masks hold values that nobody named: 0 (82.80%), 9" in said
    named = re.search(r'--labels "(.*?)"', said)
    assert named is not None
    assert run(*words, "--labels", named[1]) == 0
    said = capsys.readouterr().out
    assert "masks of Kvasir-SEG: 0-127 is background, 128-255 is object; the object has" in said
    assert f'for the study file, below [run.data]: labels = "{named[1]}"' in said
    assert Counter(row["source"] for row in read(tmp_path / "s.csv")) == {
        "Kvasir-SEG": 4,
        "CVC-ClinicDB": 3,
        "ISIC2018": 60,
    }


def test_a_shipped_image_is_recognised_in_another_format(
    real_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], copy_folder: Callable[[Path, Path], None]
) -> None:
    """ClinicDB's tif and its PNG re-pack show the same pixels: one set in two formats is refused as a leak."""
    copy_folder(real_data / "as-shipped" / "CVC-ClinicDB", tmp_path / "root" / "tifs")
    copy_folder(real_data / "CVC-ClinicDB" / "train", tmp_path / "root" / "pngs" / "train")
    copy_folder(real_data / "CVC-ClinicDB" / "test", tmp_path / "root" / "pngs" / "test")
    words = ("split", tmp_path / "root" / "tifs", tmp_path / "root" / "pngs", "-o", tmp_path / "s.csv")
    run(*words, "--labels", "0-127: background, 128-255: object")
    assert "identical pictures" in "".join(capsys.readouterr())


@pytest.fixture
def copy_folder() -> Callable[[Path, Path], None]:
    """Copy a folder of pictures below a root of the test's own (links out of a root are refused)."""

    def copy(here: Path, there: Path) -> None:
        for path in here.rglob("*.*"):
            if path.is_file():
                target = there / path.relative_to(here)
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(path.read_bytes())

    return copy
