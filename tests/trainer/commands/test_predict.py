"""`trainer predict` over a folder: what is read, what is left out, and what could not be read."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from trainer.commands.predict import NOT_ALL, segment
from trainer.data.classes import TWO_CLASSES
from trainer.data.dataset import Pixels
from trainer.data.files import read_image
from trainer.data.reading import Reading
from trainer.data.slices import slices_of
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
    assert line.endswith("bad02.png and 27 more; the first: cannot identify image file; 1 bytes)")
    assert "left out  2 .webp files, of a kind that is not read (a.webp, b.webp)" in said.out
    assert "1 masks and overlays" in said.out
    assert [path.name for path in (tmp_path / "out" / "masks").iterdir()] == ["good.png"]


def test_a_folder_without_pictures_says_what_is_there(tmp_path: Path) -> None:
    (tmp_path / "a.dcm").write_bytes(b"x")
    with pytest.raises(
        UserError, match=r"holds no picture; known kinds: .*; found: 1 \.dcm file, of a kind that is not"
    ):
        segment(tmp_path, tmp_path / "out", bright, classes=TWO_CLASSES, read=read_image, by="a test")


def written(folder: Path, name: str) -> list[str]:
    """Three slices as a file of this kind; the names of their masks."""
    volume = np.random.default_rng(1).random((3, 8, 9)).astype(np.float32)
    folder.mkdir()
    if name.endswith(".npz"):
        np.savez(folder / name, image=volume[0], label=volume[0] > 0.5)
        return [f"{Path(name).stem}.png"]
    if name.endswith(".h5"):
        with pytest.importorskip("h5py").File(folder / name, "w") as file:
            file["image"], file["label"] = volume, volume > 0.5
    else:
        nibabel = pytest.importorskip("nibabel")
        nibabel.save(nibabel.Nifti1Image(volume.T, np.diag([-1.0, -1.0, 1.0, 1.0])), folder / name)
    return [f"{name}-000{number}.png" for number in range(3)]


@pytest.mark.parametrize("name", ["one.npz", "case.h5", "case.nii.gz"])
def test_slices_are_read_where_the_data_has_them(name: str, tmp_path: Path) -> None:
    """A mask a slice; for networks of pictures such files are left out."""
    folder, out = tmp_path / "in", tmp_path / "out"
    names = written(folder, name)
    read = Reading(None, ("ground", "liver"), 1, 16, (0.0, 1.0)).image
    assert segment(folder, out, bright, classes=TWO_CLASSES, read=read, slices=slices_of, by="x") == 0
    assert sorted(path.name for path in (out / "masks").iterdir()) == names
    with pytest.raises(UserError, match=r"holds no picture; .*1 \.\w+ file"):
        segment(folder, out, bright, classes=TWO_CLASSES, read=read, by="x")


def test_a_damaged_volume_is_named_and_the_others_are_done(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("h5py")
    pytest.importorskip("nibabel")
    folder, out = tmp_path / "in", tmp_path / "out"
    names = written(folder, "case.h5")
    (folder / "broken.h5").write_bytes(b"x" * 50)
    (folder / "broken.nii.gz").write_bytes(b"y" * 50)
    read = Reading(None, ("ground", "liver"), 1, 16, (0.0, 1.0)).image
    assert segment(folder, out, bright, classes=TWO_CLASSES, read=read, slices=slices_of, by="x") == 2
    assert sorted(path.name for path in (out / "masks").iterdir()) == names
    shown = capsys.readouterr()
    assert [name for name in ("broken.h5", "broken.nii.gz") if name in shown.err] == ["broken.h5", "broken.nii.gz"]
    assert "2 of 5 pictures could not be read" in shown.out
