"""The data set of a split file: contents, test lock, and the decoded cache that processes share."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock
from loguru import logger
from PIL import Image

from trainer.config import PolypData
from trainer.data import DataError, DataSet, open_data, record_opening
from trainer.data import cache as cache_module
from trainer.data.dataset import Opening, Part
from trainer.data.files import file_hash
from trainer.data.letterbox import fit_image, fit_mask, place
from trainer.data.reading import PLAIN
from trainer.data.splits.split import Row, write_split

OPENING = Opening("test", "2026-01-01T00:00:00+00:00", "tests")
COUNTS: dict[Part, int] = {"train": 6, "validation": 3, "test": 2}


def make_set(root: Path) -> list[Row]:
    """Eleven noisy pictures of different sizes with a square each, and their split file `root/s.csv`."""
    rng = np.random.default_rng(0)
    rows = []
    parts = [part for part, count in COUNTS.items() for _ in range(count)]
    for folder in ("images", "masks"):
        (root / "S" / folder).mkdir(parents=True, exist_ok=True)
    for number, part in enumerate(parts):
        height, width = 20 + 3 * number, 44 - 2 * number
        image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        mask = np.zeros((height, width), np.uint8)
        mask[5 : 9 + number, 4:12] = 255
        Image.fromarray(image).save(root / "S" / "images" / f"{number}.png")
        Image.fromarray(mask).save(root / "S" / "masks" / f"{number}.png")
        rows.append(Row("S", f"S/images/{number}.png", f"S/masks/{number}.png", f"p{number}", part))
    write_split(root / "s.csv", rows)
    return rows


def opened(folder: Path, cache: Path, **changes: object) -> DataSet:
    config = {"name": "polyp", "root": str(folder), "split": str(folder / "s.csv"), "size": 32} | changes
    return open_data(PolypData.model_validate(config), cache=cache)


def folders(cache: Path) -> list[Path]:
    return sorted(path for path in cache.iterdir() if path.is_dir())


def test_every_part_gives_what_the_files_hold(tmp_path: Path) -> None:
    """Fitted, native, mask, placement, hash and names agree with the files, sorted by name."""
    make_set(tmp_path)
    data = opened(tmp_path, tmp_path / "cache")
    for part, count in COUNTS.items():
        samples = data.samples(part, OPENING)
        assert len(samples) == count
        assert [s.name for s in samples] == sorted(s.name for s in samples)
        for index, sample in enumerate(samples):
            number = sample.name.removeprefix("S/").removesuffix(".png")
            file = tmp_path / "S" / "images" / f"{number}.png"
            image, mask = PLAIN.pair(file, tmp_path / "S" / "masks" / f"{number}.png")
            height, width = mask.shape
            where = place(height, width, 32, "letterbox")
            fitted, labels = data.fitted(part, index, OPENING)
            assert np.array_equal(fitted, fit_image(image, where, 32))
            assert np.array_equal(labels, fit_mask(mask, where, 32))
            assert np.array_equal(data.native(part, index, OPENING)[0], image)
            assert np.array_equal(data.native_mask(part, index, OPENING), mask)
            assert data.placement(part, index, OPENING) == where
            assert data.image_hashes(part)[index] == file_hash(file)
            assert (sample.source, sample.group) == ("S", f"S/p{number}")
    assert (data.channels, data.classes) == (3, 2)


def test_an_image_without_a_group_is_its_own(tmp_path: Path) -> None:
    """The group is then the sample's name."""
    write_split(tmp_path / "s.csv", [replace(row, group="") for row in make_set(tmp_path)])
    assert all(s.group == s.name for s in opened(tmp_path, tmp_path / "cache").samples("train"))


def test_handed_out_pixels_cannot_be_changed(tmp_path: Path) -> None:
    """The cache is mapped read-only."""
    make_set(tmp_path)
    data = opened(tmp_path, tmp_path / "cache")
    for array in (*data.fitted("train", 0), data.native_mask("train", 0)):
        with pytest.raises(ValueError, match="read-only"):
            array[0, 0] = 1


def test_test_rows_need_an_opening_and_are_not_decoded_before(tmp_path: Path) -> None:
    """Every way is closed; the cache holds train and validation alone until the rows are opened."""
    make_set(tmp_path)
    data = opened(tmp_path, tmp_path / "cache")
    for read in (
        lambda: data.samples("test"),
        lambda: data.fitted("test", 0),
        lambda: data.native("test", 0),
        lambda: data.native_mask("test", 0),
        lambda: data.placement("test", 0),
    ):
        with pytest.raises(DataError, match="evaluate --open-test"):
            read()
    assert len(data.image_hashes("test")) == 2
    assert len(folders(tmp_path / "cache")) == 2
    data.fitted("test", 0, record_opening(tmp_path / "runs", "confirm"))
    assert len(folders(tmp_path / "cache")) == 3
    with pytest.raises(DataError, match="evaluate --open-test"):
        data.fitted("test", 0)


def test_the_content_hash_is_of_contents_not_places(tmp_path: Path) -> None:
    """Another folder, order of rows, size or preset changes nothing; a pixel, mask, group or part does."""
    rows = make_set(tmp_path / "a")
    first = opened(tmp_path / "a", tmp_path / "cache").content_hash
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    write_split(tmp_path / "b" / "s.csv", rows[::-1])
    assert opened(tmp_path / "b", tmp_path / "cache", size=16, augment="none").content_hash == first
    (tmp_path / "b" / "S").rename(tmp_path / "b" / "T")
    moved = [replace(row, image=row.image.replace("S/", "T/"), mask=row.mask.replace("S/", "T/")) for row in rows]
    write_split(tmp_path / "b" / "s.csv", moved)
    assert opened(tmp_path / "b", tmp_path / "cache").content_hash == first
    seen = {first}
    for change in (replace(rows[0], group="other"), replace(rows[0], part="validation")):
        write_split(tmp_path / "a" / "s.csv", [change, *rows[1:]])
        seen.add(opened(tmp_path / "a", tmp_path / "cache").content_hash)
    write_split(tmp_path / "a" / "s.csv", rows)
    for name in ("images/0.png", "masks/0.png"):
        path = tmp_path / "a" / "S" / name
        pixels = np.array(Image.open(path))
        pixels[0, 0] = 255 - pixels[0, 0]
        Image.fromarray(pixels).save(path)
        seen.add(opened(tmp_path / "a", tmp_path / "cache").content_hash)
    assert len(seen) == 5


def test_variables_are_taken_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both spellings; an unset or empty one is named with the remedy."""
    make_set(tmp_path)
    monkeypatch.setenv("KD_TEST_ROOT", str(tmp_path))
    for root in ("$KD_TEST_ROOT", "${KD_TEST_ROOT}"):
        assert len(opened(tmp_path, tmp_path / "cache", root=root, split="$KD_TEST_ROOT/s.csv").samples("train")) == 6
    for value in (None, ""):
        monkeypatch.delenv("KD_TEST_ROOT", raising=False)
        if value is not None:
            monkeypatch.setenv("KD_TEST_ROOT", value)
        with pytest.raises(
            DataError, match=r"data\.root = '\$KD_TEST_ROOT': the variable KD_TEST_ROOT is not set; export"
        ):
            opened(tmp_path, tmp_path / "cache", root="$KD_TEST_ROOT")
    with pytest.raises(DataError, match=r"data\.root = .*gone': no such folder"):
        opened(tmp_path, tmp_path / "cache", root=str(tmp_path / "gone"))
    with pytest.raises(DataError, match=r"data\.split = .*gone\.csv': no such file"):
        opened(tmp_path, tmp_path / "cache", split=str(tmp_path / "gone.csv"))


def test_a_bad_file_ends_the_opening_with_its_name_and_leaves_no_cache(tmp_path: Path) -> None:
    """A cut image in training, a mis-sized mask in validation; test images are looked at for leaks, and test masks for
    their values."""
    make_set(tmp_path)
    bad = tmp_path / "S" / "images" / "8.png"
    good = bad.read_bytes()
    bad.write_bytes(good[:100])
    with pytest.raises(DataError, match=r"S/images/8\.png: damaged or no picture"):
        opened(tmp_path, tmp_path / "cache")
    assert len(folders(tmp_path / "cache")) == 1  # training was good and stays
    bad.write_bytes(good)
    Image.fromarray(np.zeros((5, 5), np.uint8)).save(tmp_path / "S" / "masks" / "2.png")
    with pytest.raises(
        DataError, match=r"S/images/2\.png: image and mask differ .* is 40 x 26, its mask 2\.png is 5 x 5"
    ):
        opened(tmp_path, tmp_path / "other")
    assert folders(tmp_path / "other") == []
    make_set(tmp_path)
    image = tmp_path / "S" / "images" / "10.png"
    good = image.read_bytes()
    image.write_bytes(b"x")
    with pytest.raises(DataError, match=r"S/images/10\.png: damaged"):
        opened(tmp_path, tmp_path / "cache")
    image.write_bytes(good)
    (tmp_path / "S" / "masks" / "10.png").write_bytes(b"x")
    with pytest.raises(DataError, match=r"S/masks/10\.png: damaged"):
        opened(tmp_path, tmp_path / "cache")


def test_a_set_without_training_rows_can_be_opened(tmp_path: Path) -> None:
    """Unseen sets are test only."""
    write_split(tmp_path / "s.csv", [replace(row, part="test") for row in make_set(tmp_path)])
    data = opened(tmp_path, tmp_path / "cache")
    assert len(data.samples("train")) == len(data.samples("validation")) == 0
    assert len(data.samples("test", OPENING)) == 11


# The cache


def test_the_second_opening_decodes_nothing(tmp_path: Path) -> None:
    """Files are hashed, not decoded or looked at for leaks; another size or fit is another entry."""
    make_set(tmp_path)
    calls: list[tuple[int, int]] = []
    config = PolypData(name="polyp", root=str(tmp_path), split=str(tmp_path / "s.csv"), size=32)
    for _ in range(2):
        open_data(config, cache=tmp_path / "cache", progress=lambda done, total: calls.append((done, total)))
    assert calls == [(n, total) for total in (11, 6, 3, 11) for n in range(1, total + 1)]
    opened(tmp_path, tmp_path / "cache", size=16)
    opened(tmp_path, tmp_path / "cache", fit="stretch")
    opened(tmp_path, tmp_path / "cache", augment="none")
    assert len(folders(tmp_path / "cache")) == 6


def damage_cut(folder: Path) -> None:
    with (folder / "images.u8").open("r+b") as file:
        file.truncate(100)


def damage_missing(folder: Path) -> None:
    (folder / "native.u8").unlink()


def damage_manifest(folder: Path) -> None:
    (folder / "manifest.json").write_text("{")


def damage_count(folder: Path) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["placements"].pop()
    (folder / "manifest.json").write_text(json.dumps(manifest))


@pytest.mark.parametrize("damage", [damage_cut, damage_missing, damage_manifest, damage_count])
def test_a_damaged_cache_is_built_again(tmp_path: Path, damage: object) -> None:
    """Cut, incomplete, unreadable: the pictures come out right, and the log says so."""
    make_set(tmp_path)
    wished = [np.array(opened(tmp_path, tmp_path / "cache").fitted("train", i)[0]) for i in range(6)]
    assert callable(damage)
    for folder in folders(tmp_path / "cache"):
        damage(folder)
    lines: list[str] = []
    handler = logger.add(lines.append, format="{message}")
    data = opened(tmp_path, tmp_path / "cache")
    logger.remove(handler)
    assert sum("is damaged; its pictures were decoded again" in line for line in lines) == 2
    for index, image in enumerate(wished):
        assert np.array_equal(data.fitted("train", index)[0], image)
    assert not [path for path in (tmp_path / "cache").iterdir() if path.name.endswith(".tmp")]


OPEN = """
import sys
from pathlib import Path
from loguru import logger
from trainer.config import PolypData
from trainer.data import open_data
logger.remove(); logger.add(sys.stdout, format="{message}")
root = Path(sys.argv[1])
print("ready", flush=True)
sys.stdin.readline()
data = open_data(PolypData(name="polyp", root=str(root), split=str(root / "s.csv"), size=32), cache=root / "cache")
print("sum", sum(int(data.fitted("train", i)[0].sum()) for i in range(6)))
"""


HOLD = """
import sys, time
from filelock import FileLock
lock = FileLock(sys.argv[1])
lock.acquire()
print("held", flush=True)
time.sleep(60)
"""


def start(root: Path, repository: Path) -> "subprocess.Popen[str]":
    """A process that opens the data when it gets a line."""
    words = [sys.executable, "-c", OPEN, str(root)]
    return subprocess.Popen(words, cwd=repository, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def test_four_processes_build_the_cache_once(tmp_path: Path, repository: Path) -> None:
    """All see the same pictures; each part is decoded by exactly one of them."""
    make_set(tmp_path)
    processes = [start(tmp_path, repository) for _ in range(4)]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    outs = [process.communicate(timeout=60)[0] for process in processes]
    sums = {line for out in outs for line in out.splitlines() if line.startswith("sum")}
    assert len(sums) == 1
    assert sum(out.count("decoded 6 pictures") for out in outs) == 1
    assert sum(out.count("decoded 3 pictures") for out in outs) == 1


def test_waiting_for_another_process_is_said(tmp_path: Path, repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that finds the lock taken waits and says for what; it goes on when the lock is free."""
    make_set(tmp_path)
    opened(tmp_path, tmp_path / "cache")
    train = max(folders(tmp_path / "cache"), key=lambda folder: (folder / "images.u8").stat().st_size)
    shutil.rmtree(train)
    monkeypatch.setattr(cache_module, "LOG_SECONDS", 0.3)
    lines: list[str] = []
    lock = str(tmp_path / "cache" / f".{train.name}.lock")
    holder = subprocess.Popen([sys.executable, "-c", HOLD, lock], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    holder.stdout.readline()

    def hear(line: str) -> None:
        lines.append(line)
        if "waiting for" in line:
            holder.send_signal(signal.SIGKILL)  # a dead holder's lock is free

    handler = logger.add(hear, format="{message}")
    begin = time.monotonic()
    data = opened(tmp_path, tmp_path / "cache")
    logger.remove(handler)
    holder.communicate()
    assert "another process makes" in lines[0]
    assert 0.3 < time.monotonic() - begin < 20
    assert data.fitted("train", 0)[0].shape == (32, 32, 3)


def test_what_a_killed_builder_left_is_removed(tmp_path: Path) -> None:
    """Its half folder neither counts as the cache nor stays."""
    make_set(tmp_path)
    opened(tmp_path, tmp_path / "cache")
    left = []
    for folder in folders(tmp_path / "cache"):
        left.append(folder.with_name(f".{folder.name}.99999999.tmp"))
        folder.rename(left[-1])
        (left[-1] / "images.u8").write_bytes(b"half")
    opened(tmp_path, tmp_path / "cache")
    assert not any(path.exists() for path in left)
    assert len(folders(tmp_path / "cache")) == 2


def test_the_lock_is_free_afterwards(tmp_path: Path) -> None:
    """Also when the decoding failed."""
    make_set(tmp_path)
    (tmp_path / "S" / "images" / "0.png").write_bytes(b"x")
    with pytest.raises(DataError, match=r"0\.png"):
        opened(tmp_path, tmp_path / "cache")
    for path in (tmp_path / "cache").glob(".*.lock"):
        FileLock(path).acquire(timeout=0).lock.release()


def test_a_cache_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    """A file stands where the folder belongs."""
    make_set(tmp_path)
    (tmp_path / "cache").write_text("x")
    with pytest.raises(DataError, match=r"cache: cannot be written .*; choose another cache folder"):
        opened(tmp_path, tmp_path / "cache")


def test_shipped_pictures_are_the_same_data_in_both_formats(real_data: Path, tmp_path: Path) -> None:
    """ClinicDB as tif and as PNG decode to the same training arrays; Kvasir's sizes differ and all fit."""
    arrays = []
    shipped = real_data / "as-shipped" / "CVC-ClinicDB"
    stems = sorted(path.stem for path in (shipped / "Original").glob("*.tif"))
    found = {stem: next((real_data / "CVC-ClinicDB").glob(f"*/images/{stem}.png")) for stem in stems}
    images = {stem: path.relative_to(real_data).as_posix() for stem, path in found.items()}
    base = "as-shipped/CVC-ClinicDB"
    tifs = [Row("C", f"{base}/Original/{s}.tif", f"{base}/Ground Truth/{s}.tif", "", "train") for s in stems]
    pngs = [Row("C", images[s], images[s].replace("/images/", "/masks/"), "", "train") for s in stems]
    for rows, labels in ((tifs, "0-127: background, 128-255: object"), (pngs, None)):
        write_split(tmp_path / "s.csv", rows)
        data = opened(real_data, tmp_path / "cache", split=str(tmp_path / "s.csv"), size=96, labels=labels)
        arrays.append([(*data.fitted("train", i), data.native_mask("train", i)) for i in range(3)])
    for tif, png in zip(*arrays, strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(tif, png, strict=True))
        assert tif[0][..., 0].mean() > tif[0][..., 2].mean() + 20  # reddish, not grey
    assert os.listdir(tmp_path / "cache")
