"""Masks of a split: what they mean by source, parts in which all are empty, and counts that are kept."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from trainer.config import PolypData
from trainer.data import DataError, DataSet, Opening, open_data
from trainer.data.dataset import Part
from trainer.data.files import file_hash
from trainer.data.reading import PLAIN, Reading, read_mask_values
from trainer.data.sets.pictures import open_unseen
from trainer.data.splits.mask_codings import codings_of, kept_values, mask_lines, refuse_empty_parts
from trainer.data.splits.split import Row, write_split

OPENING = Opening("test", "2026-01-01T00:00:00+00:00", "tests")
PARTS: tuple[Part, ...] = ("train", "train", "train", "validation", "validation", "test")


def make(root: Path, objects: tuple[int, ...] = (255,) * 6, source: str = "S") -> list[Row]:
    """Six pictures of noise with a square of the given value each, 0 for an empty mask, and their split `s.csv`."""
    rows = []
    for folder in ("images", "masks"):
        (root / source / folder).mkdir(parents=True, exist_ok=True)
    for number, (part, value) in enumerate(zip(PARTS, objects, strict=True)):
        image = np.random.default_rng([number, len(source)]).integers(0, 256, (24, 32, 3), dtype=np.uint8)
        mask = np.zeros((24, 32), np.uint8)
        mask[4:12, 4 : 12 + number] = value
        Image.fromarray(image).save(root / source / "images" / f"{number}.png")
        Image.fromarray(mask).save(root / source / "masks" / f"{number}.png")
        rows.append(Row(source, f"{source}/images/{number}.png", f"{source}/masks/{number}.png", "", part))
    write_split(root / "s.csv", rows)
    return rows


def opened(root: Path, **changes: object) -> DataSet:
    config = {"name": "polyp", "root": str(root), "split": str(root / "s.csv"), "size": 32} | changes
    return open_data(PolypData.model_validate(config), cache=root / "cache")


@pytest.mark.parametrize(
    ("objects", "stated"),
    [
        ((255, 255, 0, 0, 0, 255), r"every mask of validation is empty .*train 2 of 3, validation 0 of 2, test 1 of 1"),
        ((0, 0, 0, 255, 255, 255), r"every mask of train is empty .*train 0 of 3, validation 2 of 2, test 1 of 1"),
        ((255, 0, 0, 255, 0, 0), r"every mask of test is empty"),
        ((0, 0, 0, 0, 0, 255), r"every mask of train and validation is empty"),
        ((0,) * 6, r"every mask is empty \(with an object: train 0 of 3, validation 0 of 2, test 0 of 1\)"),
    ],
)
def test_a_part_of_empty_masks_is_refused_with_counts(tmp_path: Path, objects: tuple[int, ...], stated: str) -> None:
    """When data are opened, by whatever command."""
    make(tmp_path, objects)
    with pytest.raises(DataError, match=rf"data\.split = .*s\.csv': {stated}"):
        opened(tmp_path)


def test_a_part_with_one_object_is_enough(tmp_path: Path) -> None:
    make(tmp_path, (255, 0, 0, 0, 255, 255))
    assert len(opened(tmp_path).samples("validation")) == 2


def test_sources_have_codings_of_their_own(tmp_path: Path) -> None:
    """One with 0 and 255, one with 0 and 1: both give labels 0 and 1, from files and from the cache."""
    rows = make(tmp_path, (1,) * 6, "ones") + make(tmp_path, source="whites")
    write_split(tmp_path / "s.csv", rows)
    data = opened(tmp_path)
    for part in ("train", "validation", "test"):
        for index in range(len(data.samples(part, OPENING))):
            native = data.native_mask(part, index, OPENING)
            assert set(np.unique(native)) == {0, 1}
            assert np.array_equal(data.native(part, index, OPENING)[1], native)
    values = [read_mask_values(tmp_path / row.mask, PLAIN) for row in rows]
    codings = codings_of(rows, values, None)
    (line,) = mask_lines(rows, values, codings)
    assert line.startswith("masks of ones: 0 is background, 1 is object; the object has ")


def test_every_source_with_a_fault_is_counted_in_one_line(tmp_path: Path) -> None:
    rows = [row for source in ("A", "B", "C") for row in make(tmp_path, (1, 2, 255, 1, 1, 1), source)]
    with pytest.raises(DataError, match=r"^A: 2 of 6 masks .* \(and 2 more sources: B, C\)$"):
        codings_of(rows, [read_mask_values(tmp_path / row.mask, PLAIN) for row in rows], None)


def test_what_a_person_says_reaches_the_labels_and_the_content(tmp_path: Path) -> None:
    """255 is ignored where that is said; the data are then others than without."""
    rows = make(tmp_path)
    plain = opened(tmp_path)
    for row in rows:
        with Image.open(tmp_path / row.mask) as file:
            mask = np.array(file) // 255
        mask[0, :] = 255
        Image.fromarray(mask).save(tmp_path / row.mask)
    with pytest.raises(DataError, match=r'such as data\.labels = "0: background, 1: object, 255: ignored"'):
        opened(tmp_path)
    data = opened(tmp_path, labels="0: background, 1: object, 255: ignored")
    assert set(np.unique(data.native_mask("train", 0))) == {0, 1, 255}
    assert (data.fitted("train", 0)[1] == 1).sum() > 0
    assert data.native_mask("train", 0)[1:].max() == 1
    other = opened(tmp_path, labels="0: background, 1: object, 255: object")
    assert len({plain.content_hash, data.content_hash, other.content_hash}) == 3
    assert set(np.unique(other.native_mask("train", 0))) == {0, 1}
    with pytest.raises(DataError, match=r"data\.labels = 'x': 'x' is no VALUE: MEANING"):
        opened(tmp_path, labels="x")


def test_black_and_white_is_found_in_a_cache_of_before(tmp_path: Path) -> None:
    """The key of decoded pictures is what it was: sha256 of format, contents, size and fit."""
    import hashlib

    make(tmp_path)
    data = opened(tmp_path)
    folders = {path.name for path in (tmp_path / "cache").iterdir() if path.is_dir()}
    keys = set()
    for part in ("train", "validation"):
        rows = sorted(
            "\x1f".join(
                (
                    sample.name,
                    file_hash(tmp_path / sample.image),
                    file_hash(tmp_path / sample.image.replace("images", "masks")),
                    sample.group,
                    part,
                )
            )
            for sample in data.samples(part)
        )
        content = hashlib.sha256("\x1e".join(rows).encode()).hexdigest()
        keys.add(hashlib.sha256(f"1\x1f{content}\x1f32\x1fletterbox".encode()).hexdigest()[:32])
    assert folders == keys


def test_a_run_without_labels_is_written_as_before(tmp_path: Path) -> None:
    """No key more in exports and hashes of runs."""
    config = PolypData(name="polyp", root="r", split="s")
    assert "labels" not in config.model_dump()
    assert "labels" not in config.model_dump_json()
    said = PolypData(name="polyp", root="r", split="s", labels="0: background, 1: object")
    assert PolypData.model_validate_json(said.model_dump_json()) == said


def test_counts_are_kept_by_the_hash_of_files(tmp_path: Path) -> None:
    """A second time no file is read; a table that is not whole is made again."""
    rows = make(tmp_path, (255, 0, 1, 255, 255, 3))
    files = [(file_hash(tmp_path / row.mask), tmp_path / row.mask) for row in rows]
    first = kept_values(tmp_path / "cache", files)
    assert first == [read_mask_values(path, PLAIN) for _, path in files]
    gone = [(digest, path.with_suffix(".gone")) for digest, path in files]
    assert kept_values(tmp_path / "cache", gone) == first
    (table,) = (tmp_path / "cache").glob("values-*.json")
    table.write_text("[[1")
    assert kept_values(tmp_path / "cache", files) == first


def test_an_unseen_source_takes_groups_from_its_folder(tmp_path: Path) -> None:
    """Without `groups.csv` each image is a group of its own; the masks have a coding of their own."""
    make(tmp_path)
    make(tmp_path, (1,) * 6, "other")
    config = PolypData(name="polyp", root=str(tmp_path), split=str(tmp_path / "s.csv"), size=32)
    source = open_unseen(config, "other", cache=tmp_path / "cache")
    assert len({sample.group for sample in source.samples("test", OPENING)}) == 6
    assert source.native_mask("test", 0, OPENING).max() == 1
    table = "image,group\n" + "".join(f"other/images/{number}.png,patient-{number // 3}\n" for number in range(6))
    (tmp_path / "other" / "groups.csv").write_text(table)
    source = open_unseen(config, "other", cache=tmp_path / "cache")
    groups = [sample.group for sample in source.samples("test", OPENING)]
    assert groups == ["other/patient-0"] * 3 + ["other/patient-1"] * 3
    (tmp_path / "other" / "groups.csv").write_text("image,group\nnobody,1\n")
    with pytest.raises(DataError, match=r"groups\.csv, line 2: image 'nobody' is none of the 6 images"):
        open_unseen(config, "other", cache=tmp_path / "cache")
    (tmp_path / "other" / "groups.csv").unlink()
    make(tmp_path, (0,) * 6, "other")
    with pytest.raises(DataError, match=r"unseen = 'other': every mask is empty \(with an object: test 0 of 6\)"):
        open_unseen(config, "other", cache=tmp_path / "cache")


def test_given_parts_are_refused_with_another_remedy(tmp_path: Path) -> None:
    rows = make(tmp_path, (255, 255, 255, 0, 0, 255))
    values = [read_mask_values(tmp_path / row.mask, PLAIN) for row in rows]
    codings = codings_of(rows, values, None)
    with pytest.raises(DataError, match=r"^here: every mask of validation is empty .*: draw again$"):
        refuse_empty_parts(rows, values, codings, "here", remedy="draw again")
    moved = [replace(row, part="train") if row.part == "validation" else row for row in rows]
    refuse_empty_parts(moved, values, codings, "here")
    assert Reading(codings["S"]).mask(tmp_path / rows[0].mask).max() == 1
