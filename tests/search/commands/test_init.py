"""`search init`: from a folder of pictures to a study file that validates, or one line that says what is missing."""

import csv
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from search.__main__ import main
from search.commands import init
from search.spec.load import load
from trainer.cli.entry import guard
from trainer.config import PolypData
from trainer.data import open_data
from trainer.data.sets.blobs import draw
from trainer.errors import UserError

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """The command in the test's own folder: exit code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)

    def called(*words: str) -> tuple[int, str, str]:
        code = guard(lambda: main(["init", *words]))
        said = capsys.readouterr()
        return code, said.out, said.err

    return called


def pictures(folder: Path, count: int, images: str = "images", masks: str = "masks", size: int = 100) -> None:
    """Drawn pictures as people have them: photographs as .jpg and .png, masks as .png of the same name."""
    for place in (images, masks):
        (folder / place).mkdir(parents=True, exist_ok=True)
    for number in range(count):
        image, mask = draw(number, size)
        Image.fromarray(image).save(folder / images / f"IMG_{number:03}.{'jpg' if number % 2 else 'png'}")
        Image.fromarray(mask * 255).save(folder / masks / f"IMG_{number:03}.png")


def refused(done: tuple[int, str, str], *parts: str) -> bool:
    code, out, err = done
    assert (code, len(err.splitlines())) == (2, 1), err
    for part in ("error: ", *parts):
        assert part in err
    return "next:" not in out


@pytest.mark.parametrize("layout", ["the folder itself", "one data set in it", "other names"])
def test_twenty_pictures_in_natural_folders_become_a_study(tmp_path: Path, run: Run, layout: str) -> None:
    names = ("imgs", "Labels") if layout == "other names" else ("images", "masks")
    pictures(tmp_path / "mine" / ("clinic" if layout == "one data set in it" else ""), 20, *names)
    code, out, err = run("mine")
    assert (code, err) == (0, "")
    rows = list(csv.DictReader(Path("splits/mine.csv").read_text().splitlines()))
    assert {row["source"] for row in rows} == {"clinic" if layout == "one data set in it" else "mine"}
    assert [sum(row["split"] == part for row in rows) for part in ("train", "validation", "test")] == [12, 4, 4]
    spec = load(Path("studies/mine.toml"))
    assert (spec.run.data.size, spec.run.batch_size, spec.run.method) == (96, 4, "kl")
    assert [arm.name for arm in spec.arms] == ["kd", "no-kd"]
    assert (spec.front.along if spec.front else None) == "student.width"
    assert "warning: 4 validation and 4 test images" in out
    commands = [line.strip() for line in out.partition("next:\n")[2].splitlines()]
    assert commands == [
        "python -m trainer teach studies/mine.toml",
        "python -m search validate mine",
        "python -m search work mine",
        "python -m search status mine",
    ]


def test_the_file_says_what_each_value_is_for(tmp_path: Path, run: Run) -> None:
    pictures(tmp_path / "mine", 12)
    assert run("mine", "-o", "here/own name.toml".replace(" ", "-"), "--size", "64")[0] == 0
    text = Path("here/own-name.toml").read_text()
    for table in ("objective", "front", "limits", "run", "run.data", "run.teacher", "space", "pruner", "budget"):
        assert f"\n[{table}]" in text
    values = [line for line in text.splitlines() if " = " in line and not line.startswith("#")]
    assert [line for line in values if "#" not in line] == []
    assert load(Path("here/own-name.toml")).run.data.size == 64


def test_the_study_validates_once_its_teacher_is_trained(tmp_path: Path, run: Run, module: Callable[..., Any]) -> None:
    """The printed commands as typed; the teacher is cut down to one epoch of a small network."""
    pictures(tmp_path / "mine", 10, size=40)
    code, out, _ = run("mine", "--size", "32", "--epochs", "1")
    assert code == 0
    file = Path("studies/mine.toml")
    small = {
        "width      = 48": "width = 2",
        "= 0.5 ": "= 0.0 ",
    }
    small |= {"choices = [8, 16, 24]": "choices = [2, 4]"}
    text = file.read_text()
    for written, smaller in small.items():
        assert written in text
        text = text.replace(written, smaller)
    file.write_text(text)
    teach, validate = [line.split() for line in out.partition("next:\n")[2].splitlines()[:2]]
    for words in (teach, validate):
        assert words[:2] == ["python", "-m"]
        done = module(*words[2:], cwd=Path.cwd())
    assert "ok        nothing was written but decoded pictures" in done.stdout


def test_what_follows_from_epochs_and_trials_follows(tmp_path: Path, run: Run) -> None:
    pictures(tmp_path / "mine", 12)
    assert run("mine", "--epochs", "3", "--trials", "4")[0] == 0
    spec = load(Path("studies/mine.toml"))
    assert (spec.run.epochs, spec.run.validation.from_) == (3, 1)
    assert (spec.pruner.model_dump()["warmup_epochs"], spec.budget.trials, spec.budget.max_failed) == (0, 4, 2)
    assert [arm.trials for arm in spec.arms] == [4, 4]
    with pytest.raises(UserError, match=r"from: 5 is after the last epoch 3; set it to 1\.\.3, or raise epochs"):
        load(Path("studies/mine.toml"), ["run.validate.from=5"])


def test_a_short_first_try_is_typed_as_it_is_told(tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    pictures(tmp_path / "mine", 12)
    monkeypatch.setattr(init, "GPU", tmp_path / "none")
    _, out, _ = run("mine")
    told = re.search(r"no GPU.*delete (.+) and (.+) and repeat with (.*)", out)
    assert told is not None
    for path in (told[1], told[2]):
        Path(path).unlink()
    assert run("mine", *told[3].split())[0] == 0
    assert load(Path("studies/mine.toml")).run.epochs == 20


def test_real_pictures_become_a_study(real_data: Path, run: Run) -> None:
    """A data set that is split already keeps its parts."""
    code, out, err = run(str(real_data / "Kvasir-SEG"), "--name", "kvasir")
    assert code == 0
    assert all(line.startswith("reading images ") for line in err.splitlines())  # on a busy machine
    spec = load(Path("studies/kvasir.toml"))
    assert spec.run.data.size == 352
    assert spec.run.batch_size == 16
    assert "Kvasir-SEG" in out


def test_nothing_is_ever_overwritten(tmp_path: Path, run: Run) -> None:
    pictures(tmp_path / "mine", 10)
    assert run("mine")[0] == 0
    before = {path: path.read_bytes() for path in (Path("studies/mine.toml"), Path("splits/mine.csv"))}
    assert refused(
        run("mine"), "studies/mine.toml: exists, and is never overwritten", "--name", "delete studies/mine.toml and"
    )
    assert refused(run("mine", "-o", "other/mine.toml"), "splits/mine.csv: exists", "--split splits/mine.csv")
    assert {path: path.read_bytes() for path in before} == before
    assert refused(run("mine/images", "--name", "second", "--split", "splits/mine.csv"), "give that folder in place of")
    assert run("mine", "--name", "second", "--split", "splits/mine.csv")[0] == 0
    assert load(Path("studies/second.toml")).run.data.model_dump()["split"] == "splits/mine.csv"
    assert not Path("splits/second.csv").exists()


def test_patients_stay_together(tmp_path: Path, run: Run) -> None:
    pictures(tmp_path / "mine", 20)
    groups = [f"IMG_{number:03},patient-{number // 2}" for number in range(20)]
    Path("groups.csv").write_text("\n".join(["image,group", *groups]) + "\n")
    assert run("mine", "--groups", "groups.csv")[0] == 0
    rows = list(csv.DictReader(Path("splits/mine.csv").read_text().splitlines()))
    parts = {row["group"]: row["split"] for row in rows}
    assert len(parts) == 10
    assert all(parts[row["group"]] == row["split"] for row in rows)


def loose(folder: Path) -> None:
    pictures(folder, 3)
    for path in (folder / "images").iterdir():
        path.rename(folder / path.name)
    (folder / "images").rmdir()


def dark(folder: Path) -> None:
    pictures(folder, 10)
    for path in (folder / "masks").iterdir():
        with Image.open(path) as mask:
            shape = (mask.height, mask.width)
        Image.fromarray(np.zeros(shape, np.uint8)).save(path)


def three(folder: Path) -> None:
    pictures(folder, 10)
    for path in (folder / "masks").iterdir():
        mask = np.zeros((100, 100), np.uint8)
        mask[10:50, 10:50], mask[20:30, 20:30] = 1, 2
        Image.fromarray(mask).save(path)
        Image.fromarray(np.random.default_rng(int(path.stem[-3:])).integers(0, 256, (100, 100, 3), np.uint8)).save(
            folder / "images" / f"{path.stem}.png"
        )
        (folder / "images" / f"{path.stem}.jpg").unlink(missing_ok=True)


def placeholder(folder: Path, side: int, only: str = "*", count: int = 1) -> None:
    """Files of another size in the place of the first ones."""
    for path in sorted(folder.glob(f"{only}/*")):
        if int(path.stem[-3:]) < count:
            Image.new("L", (side, side), 255).save(path)


LACKING: dict[str, tuple[Callable[[Path], None], list[str]]] = {
    "an empty folder": (lambda _: None, ["holds no pictures with masks", "images/ and masks/", "found: nothing"]),
    "no masks": (lambda f: (f / "images").mkdir(), ["known: images/ and masks/", "found: folders images"]),
    "masks without pictures": (
        lambda f: pictures(f, 0),
        ["images: the set is empty", ".jpg"],
    ),
    "pictures in no folder": (loose, ["found: 3 pictures that lie in no folder and folders masks"]),
    "a mask too few": (
        lambda f: (pictures(f, 10), (f / "masks" / "IMG_003.png").unlink())[1],
        ["1 images without a mask", "IMG_003.jpg"],
    ),
    "masks that are all empty": (dark, ["every mask is empty (with an object: train 0 of 6, validation 0 of 2, test"]),
    "masks of a kind that is not read": (
        lambda f: (pictures(f, 10), (f / "masks" / "IMG_003.png").rename(f / "masks" / "IMG_003.webp"))[0],
        ["1 images without a mask", "masks: 1 .webp file, of a kind that is not read (IMG_003.webp)"],
    ),
    "masks of three values": (three, ["1 (", "2 (", "--labels"]),
    "one fault in all files": (
        lambda f: (pictures(f, 10), [(path.write_bytes(b"x")) for path in (f / "masks").iterdir()])[0],
        ["10 of 10 pairs are bad: 10 files: damaged or no picture (", "and 7 more"],
    ),
    "pictures of one pixel": (
        lambda f: (pictures(f, 10), placeholder(f, 1))[0],
        ["1 of 10 pairs are bad: ", "IMG_000.png: less than 8 pixels on a side, so no picture (1 x 1)"],
    ),
    "masks of other sizes": (
        lambda f: (pictures(f, 10), placeholder(f, 40, "masks", 3))[0],
        ["3 files: image and mask differ in size (", "; the first: IMG_000.png is ", "its mask IMG_000.png is 40 x 40"],
    ),
    "too few to split": (lambda f: pictures(f, 2), ["2 groups cannot fill 3 parts"]),
}


@pytest.mark.parametrize("case", LACKING)
def test_what_is_missing_is_one_line(tmp_path: Path, run: Run, case: str) -> None:
    make, parts = LACKING[case]
    (tmp_path / "mine").mkdir()
    make(tmp_path / "mine")
    assert refused(run("mine"), *parts)
    assert not Path("studies").exists()
    assert not Path("splits").exists()
    assert refused(run("mine"), *parts)


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["absent"], ["absent: no such folder"]),
        (["mine", "--size", "100"], ["--size = 100", "multiples of 32", "try 96"]),
        (["mine", "-o", "studies/mine.txt"], ["ends in .toml"]),
        (["mine", "--name", "a b"], ["--name 'a b'", "letters, digits"]),
        (["mine", "--trials", "0"], ["argument --trials: '0'", "from 1 to 1000000"]),
        (["mine/images"], ["did you mean", "/mine?"]),
        (["mine", "--labels", "0: background"], ["--labels = '0: background'", "no value is the object"]),
        (["mine", "--masks-pattern", "x"], ["--masks-pattern 'x'", "write {} once"]),
        (["mine", "--split", "s.csv", "--masks-pattern", "{}"], ["--masks-pattern {}", "has no effect on --split"]),
        (["mine", "--split", "s.csv", "--groups", "g.csv"], ["--groups g.csv", "drawn already"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) and len(value) < 4 else None,
)
def test_a_mistake_is_one_line(tmp_path: Path, run: Run, words: list[str], parts: list[str]) -> None:
    pictures(tmp_path / "mine", 6)
    assert refused(run(*words), *parts)


def test_what_a_person_says_of_masks_stands_in_the_study(tmp_path: Path, run: Run) -> None:
    """Names by a pattern, values by labels: the study opens the same data."""
    (tmp_path / "mine").mkdir()
    three(tmp_path / "mine")
    for path in (tmp_path / "mine" / "masks").iterdir():
        path.rename(path.with_stem(f"lesion-{path.stem}"))
    labels = "0: background, 1-2: object"
    assert refused(run("mine"), "10 images without a mask", "--masks-pattern 'lesion-{}'")
    code, out, err = run("mine", "--masks-pattern", "lesion-{}", "--labels", labels)
    assert (code, err) == (0, "")
    assert "masks of mine: 0 is background, 1-2 is object; the object has" in out
    config = load(Path("studies/mine.toml")).run.data
    assert isinstance(config, PolypData)
    assert config.labels == labels
    assert open_data(config, cache=tmp_path / "cache").native_mask("train", 0).max() == 1


def test_a_dollar_in_the_folder_is_a_dollar(tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether a variable of that name is set or not."""
    pictures(tmp_path / "we $dir", 10)
    assert run(str(tmp_path / "we $dir"), "--name", "mine")[0] == 0
    config = load(Path("studies/mine.toml")).run.data
    for value in (None, "elsewhere"):
        monkeypatch.delenv("dir", raising=False) if value is None else monkeypatch.setenv("dir", value)
        assert len(open_data(config, cache=tmp_path / "cache").samples("train")) == 6


def test_a_part_of_empty_masks_is_refused_before_anything_is_written(tmp_path: Path, run: Run) -> None:
    """By part, with counts; another seed is the remedy that is named, and helps. A given split is looked at as well."""
    pictures(tmp_path / "mine", 10)
    assert run("mine", "--name", "first")[0] == 0
    rows = list(csv.DictReader(Path("splits/first.csv").read_text().splitlines()))
    for row in rows:
        with Image.open(tmp_path / "mine" / row["mask"]) as file:
            mask = np.array(file)
        mask[:] = 0
        mask[10:20, 10:20] = 0 if row["split"] == "validation" else 255
        Image.fromarray(mask).save(tmp_path / "mine" / row["mask"])
    told = "every mask of validation is empty (masks with an object: train 6 of 6, validation 0 of 2, test 2 of 2)"
    assert refused(run("mine"), told, "--seed")
    assert refused(run("mine", "--split", "splits/first.csv"), f"splits/first.csv: {told}")
    assert not Path("studies/mine.toml").exists()
    assert not Path("splits/mine.csv").exists()
    assert run("mine", "--seed", "2")[0] == 0


def test_a_split_that_cannot_be_written_leaves_no_study(tmp_path: Path, run: Run) -> None:
    pictures(tmp_path / "mine", 10)
    Path("splits").write_text("a file in the folder's place")
    assert refused(run("mine"), "splits/mine.csv: cannot be written")
    assert not list(Path("studies").glob("*.toml"))


def test_what_is_left_out_and_what_moved_is_said(tmp_path: Path, run: Run) -> None:
    """Kinds that are not read, greys of JPEGs, and the one size that all have."""
    for folder in ("images", "masks"):
        (tmp_path / "mine" / folder).mkdir(parents=True)
    for number in range(10):
        noise = np.random.default_rng(number).integers(0, 256, (96, 96, 3), np.uint8)
        mask = np.zeros((96, 96), np.uint8)
        mask[21:60, 21:60] = 255
        Image.fromarray(noise).save(tmp_path / "mine" / "images" / f"{number}.png")
        Image.fromarray(mask).save(tmp_path / "mine" / "masks" / f"{number}.jpg", quality=70)
    (tmp_path / "mine" / "images" / "extra.webp").write_bytes(b"RIFF")
    code, out, _ = run("mine")
    assert code == 0
    assert "left out  mine/images: 1 .webp file, of a kind that is not read (extra.webp)" in out
    assert re.search(r"masks of mine: 10 are JPEGs; \d+\.\d\d% of the pixels lay between the named values", out)
    assert "pictures of 96 pixels on the longer side" in out
