"""The same picture found again, whatever its format, size or turn; what follows where it is in two parts."""

import argparse
import csv
import json
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from trainer.commands import data
from trainer.config import PolypData
from trainer.data import DataError, DataSet, open_data
from trainer.data.dataset import Part, Pixels
from trainer.data.files import read_image
from trainer.data.perceptual_hash import BYTES, alike, image_hashes, sketch
from trainer.data.sets.blobs import draw
from trainer.data.splits.near_duplicates import packed, twins, unpacked
from trainer.data.splits.split import Row, read_split, write_split


def jpeg(image: Pixels, quality: int) -> Pixels:
    stored = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    return np.asarray(cv2.imdecode(stored, cv2.IMREAD_COLOR)[..., ::-1], np.uint8)


def sized(image: Pixels, factor: float) -> Pixels:
    how = cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(image, None, fx=factor, fy=factor, interpolation=how), np.uint8)


CHANGES: dict[str, Callable[[Pixels], Pixels]] = {
    "jpeg-30": lambda image: jpeg(image, 30),
    "jpeg-95": lambda image: jpeg(image, 95),
    "a-quarter": lambda image: sized(image, 0.25),
    "double": lambda image: sized(image, 2.0),
    "squeezed": lambda image: np.asarray(cv2.resize(image, (200, 120)), np.uint8),
    "mirrored": lambda image: image[:, ::-1],
    "upside-down": lambda image: image[::-1],
    "turned-90": lambda image: np.rot90(image),
    "turned-270-mirrored": lambda image: np.rot90(image[::-1], 3),
    "grey": lambda image: np.repeat(image.mean(axis=2, keepdims=True).astype(np.uint8), 3, axis=2),
    "framed": lambda image: np.asarray(cv2.copyMakeBorder(image, 9, 9, 30, 5, cv2.BORDER_CONSTANT), np.uint8),
    "cropped": lambda image: image[2:-2, 2:-2],
    "half-turned-jpeg-50": lambda image: jpeg(sized(np.rot90(image, 2).copy(), 0.5), 50),
}


@pytest.fixture(scope="module")
def drawn() -> list[Pixels]:
    """Two hundred different pictures of at least 192 pixels."""
    return [draw(seed, 192)[0] for seed in range(200)]


@pytest.fixture(scope="module")
def sketches(drawn: list[Pixels]) -> list[bytes]:
    """Of the drawn pictures."""
    return [sketch(image) for image in drawn]


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_copy_is_found_and_taken_for_no_other(
    drawn: list[Pixels], sketches: list[bytes], change: str
) -> None:
    """Re-encoded, resized, mirrored, turned, without colour, framed, cropped by a hundredth, and several at once."""
    copies = [sketch(np.ascontiguousarray(CHANGES[change](image))) for image in drawn[:12]]
    assert [(pair.first, pair.second) for pair in alike(copies, sketches)] == [(at, at) for at in range(12)]


def test_different_drawn_pictures_are_never_alike(sketches: list[bytes]) -> None:
    """Not nearly: the threshold is far from what pictures have in common."""
    assert alike(sketches, least=0.8) == []


def test_each_pair_is_told_once_with_its_places(sketches: list[bytes]) -> None:
    """Also across the rows that are compared at once."""
    many = [*sketches * 3, sketches[5]]
    pairs = [pair for pair in alike(many) if {pair.first, pair.second} & {600}]
    assert [(pair.first, pair.second) for pair in pairs] == [(5, 600), (205, 600), (405, 600)]
    assert all(pair.similarity == pytest.approx(1.0, abs=1e-5) for pair in pairs)
    assert len(alike(many)) == 3 * 200 + 3


def test_pictures_of_one_colour_are_alike_to_nothing() -> None:
    """They show nothing to compare; the very same pixels are still the same."""
    flat = [np.full((40, 50, 3), value, np.uint8) for value in (0, 0, 9)]
    assert alike([sketch(image) for image in flat], least=-1.0) == [(0, 1, 0.0), (0, 2, 0.0), (1, 2, 0.0)]
    rows = [Row("S", f"{at}.png", f"{at}-m.png", "", "train") for at in range(3)]
    found = twins(rows, [image_hashes(image) for image in flat])
    assert [(pair.first.image, pair.second.image, pair.identical) for pair in found] == [("0.png", "1.png", True)]


def test_sketches_travel_as_text(sketches: list[bytes]) -> None:
    """And what is no such text is refused."""
    assert unpacked(packed(sketches)) == sketches
    assert len(sketches[0]) == BYTES == 512
    for wrong in ("AAAA", "no base64"):
        with pytest.raises(ValueError, match=r"sketches|base64|padding|characters"):
            unpacked(wrong)


def test_of_one_group_nothing_follows(drawn: list[Pixels]) -> None:
    """Frames of one sequence look alike and are in one part anyway; of two groups the pair is told."""
    looks = [image_hashes(drawn[0]), image_hashes(jpeg(drawn[0], 50)), image_hashes(drawn[1])]
    one = [Row("S", f"{at}.png", f"{at}-m.png", "sequence", "train") for at in range(3)]
    assert twins(one, looks) == []
    two = [one[0], Row("S", "1.png", "1-m.png", "other", "test"), one[2]]
    (pair,) = twins(two, looks)
    assert (pair.crosses, pair.identical) == (True, False)
    assert str(pair).startswith("0.png (train) and 1.png (test), similarity 0.9")


# A set with a planted copy


def planted(root: Path, drawn: list[Pixels], copy: Pixels, part: Part = "test", group: str = "") -> list[Row]:
    """Four pictures to train on, two to validate and one more, which is `copy`; and `root/s.csv`."""
    images = [*drawn[:6], copy]
    parts: list[Part] = ["train", "train", "train", "train", "validation", "validation", part]
    rows = []
    for folder in ("images", "masks"):
        (root / "S" / folder).mkdir(parents=True)
    for at, (image, where) in enumerate(zip(images, parts, strict=True)):
        Image.fromarray(np.ascontiguousarray(image)).save(root / "S" / "images" / f"{at}.png")
        mask = np.zeros(image.shape[:2], np.uint8)
        mask[5:20, 5:20] = 255
        Image.fromarray(mask).save(root / "S" / "masks" / f"{at}.png")
        rows.append(Row("S", f"S/images/{at}.png", f"S/masks/{at}.png", group if at in (0, 6) else "", where))
    write_split(root / "s.csv", rows)
    return rows


def opened(root: Path, **changes: object) -> DataSet:
    config = {"name": "polyp", "root": str(root), "split": str(root / "s.csv"), "size": 32} | changes
    return open_data(PolypData.model_validate(config), cache=root / "cache")


def run(*words: object) -> int:
    parser = argparse.ArgumentParser()
    data.add_arguments(parser.add_subparsers(required=True))
    return data.main(parser.parse_args([str(word) for word in words]))


@pytest.mark.parametrize("part", ["validation", "test"])
def test_data_with_a_near_identical_picture_in_two_parts_is_refused_until_that_is_accepted(
    tmp_path: Path, drawn: list[Pixels], part: Part
) -> None:
    """The line names both files, how alike they are, and what to do; what is accepted is counted."""
    planted(tmp_path, drawn, jpeg(np.rot90(drawn[0]).copy(), 60), part)
    with pytest.raises(DataError, match="near-identical pictures in two parts") as error:
        opened(tmp_path)
    for word in ("S/images/0.png (train)", f"S/images/6.png ({part})", "similarity 0.9", "data check", "data split"):
        assert word in str(error.value)
    assert 'data.near_duplicates = "accept"' in str(error.value)
    assert opened(tmp_path, near_duplicates="accept").near_duplicates == 1


def test_an_identical_picture_in_two_parts_is_always_refused(tmp_path: Path, drawn: list[Pixels]) -> None:
    """Nobody can want it."""
    planted(tmp_path, drawn, drawn[0])
    with pytest.raises(DataError, match=r": identical pictures in two parts.+remove one"):
        opened(tmp_path, near_duplicates="accept")


def test_within_a_part_alike_pictures_are_no_mistake(tmp_path: Path, drawn: list[Pixels]) -> None:
    """They leak nothing."""
    planted(tmp_path, drawn, sized(drawn[0], 0.5), "train")
    assert opened(tmp_path).near_duplicates == 0


def test_looks_are_kept_and_made_again_where_they_are_damaged(tmp_path: Path, drawn: list[Pixels]) -> None:
    """By the contents of the images: a second opening reads no image for them."""
    planted(tmp_path, drawn, drawn[7])
    first = opened(tmp_path).sketches("test")
    (kept,) = (tmp_path / "cache").glob("looks-*.json")
    written = kept.stat().st_mtime_ns
    assert opened(tmp_path).sketches("test") == first == [sketch(drawn[7])]
    assert kept.stat().st_mtime_ns == written
    kept.write_text(kept.read_text()[:-9])
    assert opened(tmp_path).sketches("test") == first
    assert len(json.loads(kept.read_text())) == 7


def test_check_names_the_pairs_across_parts_and_can_accept_them(
    tmp_path: Path, drawn: list[Pixels], capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 2, or 0 with the same words."""
    planted(tmp_path, drawn, sized(drawn[0][:, ::-1].copy(), 0.5))
    assert run("check", tmp_path / "s.csv", "--root", tmp_path) == 2
    said = capsys.readouterr()
    named = "near-identical pictures in two parts, S/images/0.png (train) and S/images/6.png (test), similarity"
    assert f"bad: {named}" in said.err
    assert "1 pairs of the same picture across parts" in said.out
    assert run("check", tmp_path / "s.csv", "--root", tmp_path, "--near-duplicates", "accept") == 0
    assert f"accepted: {named}" in capsys.readouterr().out


def test_split_keeps_alike_pictures_in_one_part_and_writes_down_how_it_was_drawn(
    tmp_path: Path, drawn: list[Pixels], capsys: pytest.CaptureFixture[str]
) -> None:
    """Whatever the seed, also across sources; the record has seed and hash, and `check` tells a change since."""
    planted(tmp_path / "a", drawn, sized(drawn[0], 0.5))
    planted(tmp_path / "b", drawn[10:], jpeg(np.rot90(drawn[3]).copy(), 50))
    folders = tmp_path / "a" / "S", (tmp_path / "b" / "S").rename(tmp_path / "b" / "T")
    for seed in range(8):
        split = tmp_path / "s.csv"
        words = ("--fractions", "0.4,0.3,0.3", "--seed", seed, "-o", split, "--root", tmp_path)
        assert run("split", *folders, *words) == 0
        parts = {row.image: row.part for row in read_split(split, tmp_path)}
        assert parts["a/S/images/0.png"] == parts["a/S/images/6.png"]
        assert parts["a/S/images/3.png"] == parts["b/T/images/6.png"]
    record = json.loads((tmp_path / "s.json").read_text())
    assert (record["seed"], record["sources"], record["pairs"]["near_identical"]) == (7, ["S", "T"], 2)
    with (tmp_path / "s.duplicates.csv").open(newline="") as file:
        listed = [(row["first"], row["second"], row["identical"]) for row in csv.DictReader(file)]
    assert ("a/S/images/0.png", "a/S/images/6.png", "no") in listed
    capsys.readouterr()
    assert run("check", split, "--root", tmp_path) == 0
    assert f"sha256 {record['sha256'][:8]}..., drawn by seed 7\n" in capsys.readouterr().out
    split.write_text(split.read_text() + "\n")
    assert run("check", split, "--root", tmp_path) == 0
    assert "drawn by seed 7, changed since" in capsys.readouterr().out


def test_a_given_split_with_alike_pictures_is_written_only_where_they_are_accepted(
    tmp_path: Path, drawn: list[Pixels], capsys: pytest.CaptureFixture[str]
) -> None:
    """Shipped folders train and test that share a picture."""
    for part, image in (("train", drawn[0]), ("test", jpeg(drawn[0], 40))):
        for folder, content in (("images", image), ("masks", np.full(image.shape[:2], 255, np.uint8))):
            (tmp_path / "S" / part / folder).mkdir(parents=True)
            Image.fromarray(content).save(tmp_path / "S" / part / folder / f"{part}.png")
    assert run("split", tmp_path / "S", "-o", tmp_path / "s.csv") == 2
    assert "near-identical pictures in two parts, S/train/images/train.png (train)" in capsys.readouterr().err
    assert not (tmp_path / "s.csv").exists()
    assert run("split", tmp_path / "S", "-o", tmp_path / "s.csv", "--near-duplicates", "accept") == 0
    assert json.loads((tmp_path / "s.json").read_text())["pairs"]["near_identical_across_parts"] == 1


def test_on_real_pictures_only_moments_of_one_video_and_second_copies_are_alike(real_data: Path) -> None:
    """Each pair was looked at: the three of ETIS are the same scene a moment apart, as-shipped holds copies."""
    folders = sorted(path for path in real_data.rglob("*") if path.is_dir() and path.name in {"images", "Original"})
    paths = [path for folder in folders for path in sorted(folder.iterdir())]
    assert len(paths) > 300
    sketches = [sketch(read_image(path)) for path in paths]
    pairs = {
        (paths[pair.first].relative_to(real_data), paths[pair.second].relative_to(real_data))
        for pair in alike(sketches)
    }
    copies = {
        pair for pair in pairs if pair[0].stem == pair[1].stem and "as-shipped" in {each.parts[0] for each in pair}
    }
    assert len(copies) == 7
    scenes = {("10.jpg", "8.jpg"), ("7.jpg", "9.jpg"), ("19.jpg", "20.jpg")}
    assert {(one.name, other.name) for one, other in pairs - copies} == scenes
    assert {each.parts[0] for pair in pairs - copies for each in pair} == {"ETIS-LaribPolypDB"}
