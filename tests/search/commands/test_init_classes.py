"""`search init`, `data split` and `data check` on data sets with named classes, given by a person or by a layout."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from search.__main__ import main
from search.spec.load import load
from trainer.__main__ import main as trainer_main
from trainer.cli.entry import guard
from trainer.config import PictureData, PolypData
from trainer.data import open_data

Run = Callable[..., tuple[int, str, str]]

COLOURS = np.array([(0, 0, 0), (200, 0, 0), (0, 0, 200)], np.uint8)
THREE = ("background", "liver", "spleen")


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """A command in the test's own folder: exit code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)

    def called(*words: object) -> tuple[int, str, str]:
        program, *rest = map(str, words)
        code = guard(lambda: trainer_main(["data", program, *rest]) if program != "init" else main(["init", *rest]))
        shown = capsys.readouterr()
        return code, shown.out, shown.err

    return called


def picture(number: int, channels: int = 3) -> np.ndarray:
    pixels = np.random.default_rng(number).integers(0, 256, (40, 48, channels), dtype=np.uint8)
    return pixels[..., 0] if channels == 1 else pixels


def labels(number: int) -> np.ndarray:
    mask = np.zeros((40, 48), np.uint8)
    mask[4 : 10 + number % 8, 3:20] = 1
    mask[25:35, 12 : 20 + number % 8] = 2
    return mask


def drawn(folder: Path, save: Callable[[np.ndarray, Path, int], None], count: int = 10) -> Path:
    for place in ("images", "masks"):
        (folder / place).mkdir(parents=True, exist_ok=True)
    for number in range(count):
        Image.fromarray(picture(number)).save(folder / "images" / f"{number}.png")
        save(labels(number), folder / "masks", number)
    return folder


def by_number(mask: np.ndarray, folder: Path, number: int) -> None:
    Image.fromarray(mask).save(folder / f"{number}.png")


def by_colour(mask: np.ndarray, folder: Path, number: int) -> None:
    Image.fromarray(COLOURS[mask]).save(folder / f"{number}.png")


def by_file(mask: np.ndarray, folder: Path, number: int) -> None:
    for label, name in enumerate(THREE[1:], 1):
        Image.fromarray((mask == label).astype(np.uint8) * 255).save(folder / f"{number}_{name}.png")


def by_folder(mask: np.ndarray, folder: Path, number: int) -> None:
    for label, name in enumerate(THREE[1:], 1):
        (folder / name).mkdir(exist_ok=True)
        Image.fromarray((mask == label).astype(np.uint8) * 255).save(folder / name / f"{number}.png")


@pytest.mark.parametrize(
    ("save", "classes"),
    [
        (by_number, "background=0,liver=1,spleen=2"),
        (by_colour, "background=#000000,liver=#c80000,spleen=#0000c8"),
        (by_file, "background,liver,spleen"),
        (by_folder, "background,liver,spleen"),
    ],
)
def test_named_classes_become_a_study(tmp_path: Path, run: Run, save: Callable[..., None], classes: str) -> None:
    drawn(tmp_path / "own", save)
    code, out, err = run("init", "own", "--classes", classes, "--size", "32")
    assert (code, err) == (0, ""), err
    data = load(Path("studies/own.toml")).run.data
    assert isinstance(data, PictureData)
    assert [known.name for known in data.classes] == list(THREE)
    assert "own: images and masks by the names of their folders; no known data set" in out
    assert "pixels: background 8" in out
    text = Path("studies/own.toml").read_text()
    assert "\nmin_dice   = 0.35            # validation Dice below which the search is refused; of a mean" in text
    assert '\nname    = "pictures"         # pictures with masks of named classes' in text
    assert '\n    { name = "spleen"' in text
    assert open_data(data, cache=tmp_path / "cache").classes == 3
    run("check", "splits/own.csv", "--root", "own")  # what opening the data logged goes with it
    # The record beside the split says what its masks are.
    code, out, err = run("check", "splits/own.csv", "--root", "own")
    assert (code, err) == (0, ""), err
    assert "pixels: background 8" in out
    assert run("init", "own", "--split", "splits/own.csv", "--name", "again", "--size", "32")[0] == 0
    assert load(Path("studies/again.toml")).run.data.model_dump() == data.model_dump()


def test_a_value_may_be_ignored_and_several_may_be_one_class(tmp_path: Path, run: Run) -> None:
    def greys(mask: np.ndarray, folder: Path, number: int) -> None:
        grey = np.array([0, 3, 7], np.uint8)[mask]
        grey[0, :5], grey[20, :9] = 255, 4
        Image.fromarray(grey).save(folder / f"{number}.png")

    drawn(tmp_path / "own", greys)
    words = ("own", "-o", "s.csv", "--classes", "background=0,liver=3-4,spleen=5+7", "--ignore", "255")
    code, out, err = run("split", *words)
    assert (code, err) == (0, ""), err
    assert "0 is background, 3-4 is liver, 5 7 is spleen, 255 is ignored" in out
    assert '  classes = [\n      { name = "background", value = 0 },\n' in out
    assert json.loads(Path("s.json").read_text())["data"]["ignore"] == 255
    assert run("check", "s.csv", "--root", ".", "--classes", "background=0,liver=3-4,spleen=5-7+255")[0] == 0
    assert "255 (" in run("check", "s.csv", "--root", ".", "--classes", "background=0,liver=3-4,spleen=7")[2]


def test_a_label_outside_the_classes_names_its_file(tmp_path: Path, run: Run) -> None:
    root = drawn(tmp_path / "own", by_number)
    mask = labels(7)
    mask[0, 0] = 9
    by_number(mask, root / "masks", 7)
    code, _, err = run("init", "own", "--classes", "background=0,liver=1,spleen=2")
    assert (code, len(err.splitlines())) == (2, 1)
    assert "own: 1 of 10 masks hold values that nobody named: 0 (" in err
    assert "9 (0.05%) (masks/7.png)" in err
    assert "name them in --classes, or in --ignore" in err
    assert not Path("splits/own.csv").exists()


@pytest.mark.parametrize("part", ["train", "validation"])
def test_a_class_that_a_part_lacks_is_named(tmp_path: Path, run: Run, part: str) -> None:
    for name in ("train", "validation", "test"):

        def some(mask: np.ndarray, folder: Path, number: int, name: str = name) -> None:
            by_number(np.where(mask == 2, 0, mask) if name == part else mask, folder, number)

        drawn(tmp_path / "own" / name, some, 3)
        for number in range(3):
            seed = 100 * len(name) + number
            Image.fromarray(picture(seed)).save(tmp_path / "own" / name / "images" / f"{number}.png")
    code, out, err = run("init", "own", "--classes", "background=0,liver=1,spleen=2", "--size", "32")
    if part == "train":
        assert (code, out) == (2, "")
        assert "no mask of train holds spleen: nothing of it is learned" in err
    else:
        assert (code, err) == (0, "")
        assert "warning: no mask of validation holds spleen" in out
    assert Path("studies/own.toml").exists() == (code == 0)


@pytest.mark.parametrize(
    ("save", "regions"),
    [(by_number, "whole=1+2,core=2"), (by_file, "spleen,liver")],
    ids=["by value", "a file each"],
)
def test_regions_become_a_study_whose_losses_take_them(
    tmp_path: Path, run: Run, save: Callable[..., None], regions: str
) -> None:
    drawn(tmp_path / "own", save)
    code, out, err = run("init", "own", "--regions", regions, "--size", "32")
    assert (code, err) == (0, "")
    text = Path("studies/own.toml").read_text()
    by_value = "regions = { whole = [1, 2], core = 2 }"
    assert (by_value if "=" in regions else "regions = { spleen = {  }, liver = {  } }") in text
    spec = load(Path("studies/own.toml"))
    assert isinstance(spec.run.data, PictureData)
    assert set(spec.run.losses.terms()) == {"bce-dice", "kl"}
    data = open_data(spec.run.data, cache=tmp_path / "cache")
    assert (data.classes, data.regions is not None) == (2, True)
    assert f"pixels: {data.class_names[0]} " in out
    code, out, _ = run("check", "splits/own.csv", "--root", "own")
    assert code == 0, out
    assert "pixels: " in out


def test_a_region_that_no_training_mask_has_is_an_error(tmp_path: Path, run: Run) -> None:
    drawn(tmp_path / "own", by_number)
    code, _, err = run("init", "own", "--regions", "whole=1+2,core=3")
    assert (code, len(err.splitlines())) == (2, 1)
    assert "no mask of train holds core: nothing of it is learned" in err
    assert "leave it out of the regions" in err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--regions", "whole=1,core"), "--regions 'whole=1,core': 'core' has no value and 'whole' has one"),
        (("--regions", "whole=1+x"), "--regions whole = 'x': expected a number from 0 to 255"),
        (("--regions", "my core=1"), "'my core' is no name of a region"),
        (
            ("--regions", "a=spleen", "--classes", "background=0,liver=1"),
            "data.regions.a = 'spleen': expected a number",
        ),
        (("--regions", "a=1", "--labels", "0: background, 1: object"), "both say what masks hold"),
        (("--classes", "liver=1"), "1 named; expected the ground and 1 to 253 more"),
        (("--classes", "background=0,liver"), "'liver' has no value and 'background' has one"),
        (("--classes", "background=0,background=1"), "two are named 'background'"),
        (("--classes", "background=0,my liver=1"), "'my liver' is no name of a class"),
        (("--classes", "background=0,liver=300"), "--classes liver = 300: expected a number from 0 to 255"),
        (("--classes", "background=0,liver=0-3"), "0 is background already; keep one"),
        (("--classes", "background=0,liver=1", "--ignore", "1"), "1 is liver already; keep one"),
        (("--classes", "background=0,liver=1", "--ignore", "no"), "--ignore = 'no': expected a number"),
        (("--ignore", "255"), "--ignore 255: needs --classes"),
        (("--classes", "background,liver", "--masks-pattern", "{}_m"), "a mask a class needs {class} in its name"),
        (("--classes", "background,liver"), "10 masks are missing (0.png: no mask of liver"),
        (("--layout", "acdc"), "does not lie as ACDC"),
    ],
)
def test_what_is_wrong_with_classes_is_one_line(tmp_path: Path, run: Run, words: tuple[str, ...], message: str) -> None:
    drawn(tmp_path / "own", by_number)
    code, _, err = run("init", "own", *words)
    assert (code, len(err.splitlines())) == (2, 1), err
    assert message in err


def test_glands_by_number_train_and_some_of_them_validate(tmp_path: Path, run: Run) -> None:
    folder = tmp_path / "glas"
    folder.mkdir()
    for number, name in enumerate([*(f"train_{at}" for at in range(1, 9)), "testA_1", "testB_1"]):
        Image.fromarray(picture(number)).save(folder / f"{name}.bmp")
        Image.fromarray(labels(number) * 7).save(folder / f"{name}_anno.bmp")
    (folder / "Grade.csv").touch()
    code, out, err = run("init", "glas", "--size", "32")
    assert (code, err) == (0, ""), err
    assert "glas: GlaS (Warwick-QU): glands of the colon (glas): it holds pictures train_" in out
    assert "left out  glas/glas: 1 file not of this data set (Grade.csv)" in out
    assert "glas: has no part to validate; some of its training pictures are drawn for that" in out
    assert "6 / 2 / 2" in out
    data = load(Path("studies/glas.toml")).run.data
    assert isinstance(data, PolypData)
    assert data.labels == "0: background, 1-255: object"


def test_a_raw_folder_of_nnunet_becomes_a_study_of_grey_pictures(tmp_path: Path, run: Run) -> None:
    for place in ("imagesTr", "labelsTr"):
        (tmp_path / "Dataset001_X" / place).mkdir(parents=True)
    for number in range(10):
        Image.fromarray(picture(number, 1)).save(tmp_path / "Dataset001_X" / "imagesTr" / f"c{number}_0000.png")
        Image.fromarray(labels(number)).save(tmp_path / "Dataset001_X" / "labelsTr" / f"c{number}.png")
    card = {"channel_names": {"0": "CT"}, "labels": {"background": 0, "liver": 1, "spleen": 2}, "file_ending": ".png"}
    (tmp_path / "Dataset001_X" / "dataset.json").write_text(json.dumps(card))
    code, out, err = run("init", "Dataset001_X", "--name", "x", "--size", "32")
    assert (code, err) == (0, ""), err
    assert "(nnunet-2d): it holds imagesTr, labelsTr and dataset.json" in out
    data = load(Path("studies/x.toml")).run.data
    assert isinstance(data, PictureData)
    assert (data.channels, [known.name for known in data.classes]) == (1, list(THREE))
    assert open_data(data, cache=tmp_path / "cache").channels == 1


def test_a_leak_of_an_official_split_is_known_of(tmp_path: Path, run: Run) -> None:
    """The same picture, stored again, trains and tests."""
    for part, first in (("train", 0), ("validation", 20), ("test", 40)):
        for number in range(3):
            for place in ("images", "masks"):
                (tmp_path / "own" / part / place).mkdir(parents=True, exist_ok=True)
            smooth = np.kron(picture(first + number)[::8, ::8], np.ones((16, 16, 1), np.uint8))
            Image.fromarray(smooth).save(tmp_path / "own" / part / "images" / f"{part}{number}.png")
            mask = np.zeros(smooth.shape[:2], np.uint8)
            mask[:20, :20] = 255
            Image.fromarray(mask).save(tmp_path / "own" / part / "masks" / f"{part}{number}.png")
    shown = Image.open(tmp_path / "own" / "train" / "images" / "train0.png")
    shown.save(tmp_path / "own" / "test" / "images" / "test0.jpg", quality=60)
    (tmp_path / "own" / "test" / "images" / "test0.png").unlink()
    assert "near-identical pictures in two parts" in run("init", "own", "--size", "32")[2]
    code, out, _ = run("init", "own", "--size", "32", "--near-duplicates", "accept")
    assert code == 0
    assert "accepted: near-identical pictures in two parts" in out
    data = load(Path("studies/own.toml")).run.data
    assert isinstance(data, PolypData)
    assert data.near_duplicates == "accept"
    assert open_data(data, cache=tmp_path / "cache").near_duplicates == 1


def test_cells_of_segpc_become_a_study_of_four_channels(tmp_path: Path, run: Run) -> None:
    """All cells of a picture stay in one part, and the masks' names are those of the rows."""
    for part, count in (("train", 6), ("validation", 2)):
        for place in ("x", "y"):
            (tmp_path / "TCIA_SegPC_dataset" / part / place).mkdir(parents=True)
        for number in range(count):
            at = tmp_path / "TCIA_SegPC_dataset" / part
            Image.fromarray(picture(50 * len(part) + number)).save(at / "x" / f"{number}.bmp")
            for cell in (1, 2):
                mask = np.zeros((40, 48), np.uint8)
                mask[10:24, 10 * cell : 10 * cell + 14] = 20
                mask[14:20, 10 * cell + 4 : 10 * cell + 10] = 40
                Image.fromarray(mask).save(at / "y" / f"{number}_{cell}.bmp")
    code, out, err = run("init", ".", "--name", "cells", "--size", "32")
    assert (code, err) == (0, ""), err
    assert "(segpc-2021): it holds train/x and train/y and validation/x and validation/y in TCIA_SegPC_dataset" in out
    assert "16 images in 8 groups" in out
    assert "identical pictures" not in out
    data = load(Path("studies/cells.toml")).run.data
    assert isinstance(data, PictureData)
    assert (data.reader, data.channels) == ("segpc-cell", 4)
    cells = open_data(data, cache=tmp_path / "cache")
    assert (len(cells.samples("train")), len(cells.samples("validation"))) == (8, 4)
    assert cells.fitted("train", 0)[0].shape == (32, 32, 4)
    assert run("check", "splits/cells.csv", "--root", ".")[0] == 0


def test_nuclei_in_outlines_become_a_study(tmp_path: Path, run: Run) -> None:
    train = tmp_path / "monuseg" / "MoNuSeg 2018 Training Data"
    for place in ("Tissue Images", "Annotations"):
        (train / place).mkdir(parents=True)
    corners = "".join(f'<Vertex X="{x}" Y="{y}"/>' for x, y in ((5, 5), (30, 5), (30, 25), (5, 25)))
    for number in range(8):
        name = f"TCGA-18-559{number}-01Z-00-DX1"
        Image.fromarray(picture(number)).save(train / "Tissue Images" / f"{name}.tif")
        text = f"<Annotations><Annotation><Regions><Region><Vertices>{corners}</Vertices></Region></Regions>"
        (train / "Annotations" / f"{name}.xml").write_text(f"{text}</Annotation></Annotations>")
    code, out, err = run("init", "monuseg", "--size", "32")
    assert (code, err) == (0, ""), err
    assert "8 images in 8 groups" in out
    assert open_data(load(Path("studies/monuseg.toml")).run.data, cache=tmp_path / "cache").classes == 2
