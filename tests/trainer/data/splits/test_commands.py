"""`python -m trainer data split` and `check`: what they write, say and refuse, on drawn and on real folders."""

import argparse
import csv
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from trainer.commands import data
from trainer.data.file_check import CheckedPair, check_pairs
from trainer.data.masks import BLACK_AND_WHITE
from trainer.data.splits.folders import find_pairs
from trainer.data.splits.near_duplicates import twins
from trainer.data.splits.split import Row, read_split, write_split


def run(*words: object) -> int:
    parser = argparse.ArgumentParser()
    data.add_arguments(parser.add_subparsers(required=True))
    return data.main(parser.parse_args([str(word) for word in words]))


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_split_writes_what_check_accepts(tmp_path: Path, capsys: pytest.CaptureFixture[str], source: Any) -> None:
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


def test_the_same_seed_writes_the_same_bytes(tmp_path: Path, source: Any) -> None:
    """A split can be made again, and another seed makes another."""
    source(tmp_path / "K", 20)
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        fractions = "16,2,2" if name == "b" else "0.8,0.1,0.1"  # the same, as counts
        assert run("split", tmp_path / "K", "--seed", seed, "--fractions", fractions, "-o", tmp_path / name) == 0
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert (tmp_path / "a").read_bytes() != (tmp_path / "c").read_bytes()


def test_split_keeps_given_folders_and_the_wished_root(tmp_path: Path, pair: Any) -> None:
    """Shipped splits stay as they are; paths start where asked."""
    for part in ("train", "validation", "test"):
        pair(tmp_path / "data" / "K" / part, part[0], ord(part[1]))
    assert run("split", tmp_path / "data" / "K", "--root", tmp_path, "-o", tmp_path / "s.csv") == 0
    rows = read(tmp_path / "s.csv")
    assert [(row["image"], row["split"]) for row in rows] == [
        (f"data/K/{part}/images/{part[0]}.png", part) for part in ("train", "validation", "test")
    ]


def test_identical_pictures_move_together_and_are_listed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], save: Any, source: Any
) -> None:
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


def test_identical_pictures_across_given_parts_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], pair: Any
) -> None:
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


def test_groups_that_cross_given_parts_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], pair: Any
) -> None:
    """A groups file that contradicts shipped folders shows a leak."""
    pair(tmp_path / "K" / "train", "a", 1)
    pair(tmp_path / "K" / "test", "b", 2)
    (tmp_path / "g.csv").write_text("image,group\na,1\nb,1\n")
    assert run("split", tmp_path / "K", "--groups", tmp_path / "g.csv", "-o", tmp_path / "s.csv") == 2
    assert "group '1' of K is in two parts of the given split" in capsys.readouterr().err


def test_every_bad_file_is_named_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str], source: Any) -> None:
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


def test_negatives_are_counted_and_allowed(tmp_path: Path, capsys: pytest.CaptureFixture[str], source: Any) -> None:
    """A frame without a polyp is data, not a fault."""
    source(tmp_path / "K", 10)
    Image.fromarray(np.zeros((8, 10), np.uint8)).save(tmp_path / "K" / "masks" / "004.png")
    assert run("split", tmp_path / "K", "-o", tmp_path / "s.csv") == 0
    assert run("check", tmp_path / "s.csv", "--root", tmp_path) == 0
    assert "masks     1 empty (10.0%)" in capsys.readouterr().out


def test_turned_images_are_pointed_out(tmp_path: Path, capsys: pytest.CaptureFixture[str], source: Any) -> None:
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
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], message: str, source: Any
) -> None:
    """And nothing is written."""
    source(tmp_path / "K", 5)
    assert run("split", tmp_path / "K", *words, "-o", tmp_path / "s.csv") == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1
    assert not (tmp_path / "s.csv").exists()


def test_two_folders_of_one_name_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str], source: Any) -> None:
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


def test_an_output_that_cannot_be_written_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], source: Any
) -> None:
    """A file stands where a folder is needed."""
    source(tmp_path / "K", 5)
    (tmp_path / "file").write_text("x")
    assert run("split", tmp_path / "K", "-o", tmp_path / "file" / "s.csv") == 2
    assert "cannot be written" in capsys.readouterr().err


def test_progress_counts_every_pair(tmp_path: Path, source: Any) -> None:
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


def test_real_sets_split_as_shipped(
    real_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], pair: Any, source: Any
) -> None:
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
    assert run(*words) == 0
    said = capsys.readouterr().out
    assert "CVC-ClinicDB: CVC-ClinicDB: polyps (cvc-clinicdb): it holds Original and Ground Truth" in said
    assert 'below [run.data]: labels = "0-127: background, 128-255: object"' in said
    words = (*words, "--layout", "folders")
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
