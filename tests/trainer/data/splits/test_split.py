"""Folders as shipped, split files, and who goes where."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.data.dataset import Part
from trainer.data.splits.folders import find_pairs
from trainer.data.splits.split import Row, assign, read_groups, read_split, samples, write_split
from trainer.errors import DataError

FRACTIONS: dict[Part, float] = {"train": 0.8, "validation": 0.1, "test": 0.1}


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
def test_pairs_are_found_in_every_shipped_layout(tmp_path: Path, images: str, masks: str, pair: Any) -> None:
    """Sorted by name, whatever the folders are called."""
    for number in (2, 10, 1):
        pair(tmp_path, str(number), number, images=images, masks=masks)
    found = find_pairs(tmp_path)
    assert [(p.image.name, p.mask.name, p.part) for p in found] == [
        (f"{n}.png", f"{n}.png", None) for n in ("1", "10", "2")
    ]
    assert found[0].image.parent.name == images


@pytest.mark.parametrize("ending", [".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp", ".JPG"])
def test_every_kind_of_image_is_found(tmp_path: Path, ending: str, pair: Any) -> None:
    """Not only the names that end in jpg."""
    pair(tmp_path, "a", 1, ending=ending)
    assert [p.image.suffix for p in find_pairs(tmp_path)] == [ending]


@pytest.mark.parametrize("suffix", ["_segmentation", "_Segmentation", "_mask", ""])
def test_a_mask_may_carry_a_suffix(tmp_path: Path, suffix: str, save: Any) -> None:
    """ISIC's two spellings among them; licences and hidden files in the folders are left alone."""
    save(tmp_path / "images" / "ISIC_1.jpg", 1)
    save(tmp_path / "masks" / f"ISIC_1{suffix}.png", 1, mask=True)
    (tmp_path / "images" / "LICENSE.txt").write_text("terms")
    (tmp_path / "masks" / ".DS_Store").write_bytes(b"x")
    assert [p.mask.stem for p in find_pairs(tmp_path)] == [f"ISIC_1{suffix}"]


def test_split_folders_keep_their_parts(tmp_path: Path, pair: Any) -> None:
    """`val` is validation; a part may be missing."""
    pair(tmp_path / "train", "a", 1)
    pair(tmp_path / "val", "b", 2)
    assert [(p.image.stem, p.part) for p in find_pairs(tmp_path)] == [("a", "train"), ("b", "validation")]


def test_halves_of_pairs_are_named(tmp_path: Path, save: Any, source: Any) -> None:
    """Both kinds at once, with their paths."""
    source(tmp_path, 2)
    save(tmp_path / "images" / "lonely.png", 9)
    save(tmp_path / "masks" / "spare.png", 9, mask=True)
    with pytest.raises(
        DataError, match=r"1 images without a mask \(.*lonely\.png\) and 1 masks without an image \(.*spare\.png\)"
    ):
        find_pairs(tmp_path)


def test_unusable_folders_say_why(tmp_path: Path, save: Any, pair: Any, source: Any) -> None:
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


@pytest.fixture
def rows_in(source: Callable[..., Path]) -> Callable[..., list[Row]]:
    """Rows of pairs that are there: `rows_in(folder)`."""

    def rows(folder: Path, count: int = 4) -> list[Row]:
        source(folder / "S", count)
        return [Row("S", f"S/images/{n:03d}.png", f"S/masks/{n:03d}.png", "", "train") for n in range(count)]

    return rows


def test_a_split_file_comes_back_as_it_was_written(tmp_path: Path, rows_in: Any) -> None:
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
def test_bad_split_files_are_refused_with_their_line(
    tmp_path: Path, text: str, message: str, save: Any, rows_in: Any
) -> None:
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


def test_one_group_word_in_two_sources_is_two_groups(tmp_path: Path, source: Any, rows_in: Any) -> None:
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
