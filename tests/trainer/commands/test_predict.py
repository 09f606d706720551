"""`trainer predict` over a folder: what is read, what is left out, and what could not be read."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from trainer.commands.predict import NOT_ALL, segment
from trainer.data.classes import TWO_CLASSES
from trainer.data.dataset import Pixels
from trainer.data.files import read_image
from trainer.errors import UserError


def bright(images: list[Pixels]) -> list[Pixels]:
    return [(image.mean(axis=2) > 127).astype(np.uint8) for image in images]


def test_a_folder_is_read_as_all_folders_are(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Hidden files are left alone, kinds that are not read are named, and one cause of many bad files is one line."""
    folder = tmp_path / "in"
    folder.mkdir()
    Image.fromarray(np.full((8, 9, 3), 200, np.uint8)).save(folder / "good.png")
    for number in range(30):
        (folder / f"bad{number:02}.png").write_bytes(b"x")
    for name in ("a.webp", "b.webp", "._good.png"):
        (folder / name).write_bytes(b"RIFF")
    assert segment(folder, tmp_path / "out", bright, classes=TWO_CLASSES, read=read_image, by="a test") == NOT_ALL
    said = capsys.readouterr()
    (line,) = [line for line in said.err.splitlines() if "segmenting" not in line]
    assert line.startswith("error: 30 files: damaged or no picture (")
    assert line.endswith("bad02.png and 27 more)")
    assert "left out  2 .webp files, of a kind that is not read (a.webp, b.webp)" in said.out
    assert "1 masks and overlays" in said.out
    assert [path.name for path in (tmp_path / "out" / "masks").iterdir()] == ["good.png"]


def test_a_folder_without_pictures_says_what_is_there(tmp_path: Path) -> None:
    (tmp_path / "a.dcm").write_bytes(b"x")
    with pytest.raises(
        UserError, match=r"holds no picture; known kinds: .*; found: 1 \.dcm file, of a kind that is not"
    ):
        segment(tmp_path, tmp_path / "out", bright, classes=TWO_CLASSES, read=read_image, by="a test")
