"""Slices of volumes and cells of SegPC as pictures: what is read, and what is refused in one line."""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from trainer.config import PictureData
from trainer.data import open_data
from trainer.data.dataset import Opening
from trainer.data.files import file_hash
from trainer.data.masks import coding_of_classes
from trainer.data.reading import Reading, reading_of
from trainer.data.sets import pictures
from trainer.data.slices import _VOLUMES, order_of, slices_in, spacing_of
from trainer.data.splits.near_duplicates import twins
from trainer.data.splits.split import Row, read_split, write_split
from trainer.errors import DataError

OPENING = Opening("test", "2026-01-01T00:00:00+00:00", "test")
NAMES = ("ground", "aorta", "gallbladder", "left-kidney", "right-kidney", "liver", "pancreas", "spleen", "stomach")
ABDOMEN = "abdomen-multiorgan"
LOW, HIGH = -125.0, 275.0

hdf5 = pytest.mark.skipif(find_spec("h5py") is None, reason="h5py is not installed (extra volumes)")
nifti = pytest.mark.skipif(find_spec("nibabel") is None, reason="nibabel is not installed (extra volumes)")


def volume(seed: int, slices: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """Intensities of a CT and labels, (slices, 24, 30) both; the first slice is empty."""
    rng = np.random.default_rng(seed)
    image = rng.integers(-1000, 1000, (slices, 24, 30)).astype(np.int16)
    labels = np.zeros((slices, 24, 30), np.uint8)
    for label in range(1, len(NAMES)):
        labels[1:, 2 + label : 4 + label, 3 * label : 3 * label + 2] = label
    return image, labels


def shares(image: np.ndarray) -> np.ndarray:
    return np.clip((image.astype(np.float64) - LOW) / (HIGH - LOW), 0, 1).astype(np.float32)


def deep(image: np.ndarray) -> np.ndarray:
    return np.rint(np.clip((image.astype(np.float64) - LOW) / (HIGH - LOW), 0, 1) * 65535).astype(np.uint16)


def settings(root: Path, **changes: object) -> PictureData:
    values = {
        "name": "pictures", "root": str(root), "split": str(root / "split.csv"), "size": 32, "augment": "none",
        "channels": 1, "bits": 16, "window": [LOW, HIGH],
        "classes": [{"name": name, "value": label} for label, name in enumerate(NAMES)],
    }  # fmt: skip
    return PictureData.model_validate(values | changes)


def reading(**changes: object) -> Reading:
    config = settings(Path("/nowhere"), **changes)
    return reading_of(config, coding_of_classes(config.classes, config.ignore))


def write_npz(root: Path, case: str, image: np.ndarray, labels: np.ndarray) -> list[tuple[str, str]]:
    names = [f"{case}_slice{at:03d}.npz" for at in range(len(image))]
    for at, name in enumerate(names):
        np.savez(root / name, image=shares(image[at]), label=labels[at].astype(np.float32))
    return [(name, name) for name in names]


def write_h5(root: Path, case: str, image: np.ndarray, labels: np.ndarray) -> list[tuple[str, str]]:
    import h5py

    with h5py.File(root / f"{case}.npy.h5", "w") as file:
        file["image"], file["label"] = shares(image), labels.astype(np.float32)
    return [(f"{case}.npy.h5#{at}",) * 2 for at in range(len(image))]


def write_nifti(
    root: Path, case: str, image: np.ndarray, labels: np.ndarray, turned: str = "RAS"
) -> list[tuple[str, str]]:
    """The same slices, stored across, down, between as `turned` says of the first two axes."""
    import nibabel

    flips = (slice(None, None, 1 if turned[0] == "R" else -1), slice(None, None, -1 if turned[1] == "A" else 1))
    affine = np.diag([1.5 if turned[0] == "R" else -1.5, 1.25 if turned[1] == "A" else -1.25, 5.0, 1.0])
    for name, stack in ((case, image), (f"{case}_gt", labels)):
        nibabel.save(nibabel.Nifti1Image(stack.T[flips], affine), root / f"{name}.nii.gz")
    return [(f"{case}.nii.gz#{at}", f"{case}_gt.nii.gz#{at}") for at in range(len(image))]


FORMS = [
    pytest.param(write_npz, id="npz"),
    pytest.param(write_h5, id="h5", marks=hdf5),
    pytest.param(write_nifti, id="nifti", marks=nifti),
]


def make(root: Path, write, slices: int = 4) -> Path:
    """Four cases, two of them trained on, below a root with their split file."""
    root.mkdir()
    rows = []
    for number, part in enumerate(("train", "train", "validation", "test")):
        for image, mask in write(root, f"case{number:04d}", *volume(number, slices)):
            rows.append(Row("S", image, mask, f"case{number:04d}", part, f"case{number:04d}"))
    write_split(root / "split.csv", rows)
    return root


@pytest.mark.parametrize("write", FORMS)
def test_slices_of_every_form_give_the_same_pictures_labels_and_cases(tmp_path, write):
    data = open_data(settings(make(tmp_path / "d", write, slices=11)), cache=tmp_path / "cache")
    assert not _VOLUMES._kept  # their memory is given back
    image, labels = volume(2, 11)
    samples = data.samples("validation")
    assert len(samples) == 11
    assert {sample.case for sample in samples} == {sample.group for sample in samples} == {"S/case0002"}
    for at in range(11):
        pixels, mask = data.native("validation", at)
        assert int(np.abs(pixels[..., 0].astype(int) - deep(image[at])).max()) <= 1  # shares are float32
        assert np.array_equal(mask, labels[at])
    assert data.native_mask("validation", 10).any()
    assert data.fitted("train", 0)[0].dtype == np.uint16
    assert len(data.native("test", 0, OPENING)[0].shape) == 3
    assert samples[0].spacing == ((5.0, 1.25, 1.5) if write is write_nifti else None)


@nifti
@pytest.mark.parametrize("turned", ["RAS", "LAS", "LPS", "RPS"])
def test_a_nifti_slice_lies_the_same_way_however_it_is_stored(tmp_path, turned):
    image, labels = volume(0)
    (first, *_) = write_nifti(tmp_path, "a", image, labels, turned)
    del first
    pixels, mask = reading().pair(tmp_path / "a.nii.gz#2", tmp_path / "a_gt.nii.gz#2")
    assert np.array_equal(pixels[..., 0], deep(image[2]))
    assert np.array_equal(mask, labels[2])
    assert spacing_of(tmp_path / "a.nii.gz#2") == (5.0, 1.25, 1.5)
    assert slices_in(tmp_path / "a.nii.gz") == 4


@nifti
def test_a_nifti_slice_is_scaled_as_its_header_says(tmp_path):
    import nibabel

    stored = nibabel.Nifti1Image(np.arange(24, dtype=np.float64).reshape(3, 4, 2) * 10, np.diag([-1.5, -1.25, 5, 1]))
    stored.set_data_dtype(np.int16)
    stored.to_filename(tmp_path / "scaled.nii.gz")
    assert nibabel.load(tmp_path / "scaled.nii.gz").dataobj.slope != 1
    pixels = reading(window=[0, 230], bits=8).image(tmp_path / "scaled.nii.gz#1")
    assert sorted(pixels.ravel().tolist()) == [round(value / 230 * 255) for value in range(10, 240, 20)]


def test_windows_make_8_or_16_bits_and_shares_of_a_window_are_kept(tmp_path):
    values = np.array([[-500.0, -125.0, 75.0, 275.0, 900.0]])
    np.savez(tmp_path / "hounsfield.npz", image=values, label=np.zeros((1, 5), np.uint8))
    np.savez(tmp_path / "shares.npz", image=shares(values), label=np.zeros((1, 5), np.uint8))
    np.savez(tmp_path / "whole.npz", image=np.array([[7, 40000]], np.uint16), label=np.zeros((1, 2), np.uint8))
    for bits, most in ((8, 255), (16, 65535)):
        for name in ("hounsfield", "shares"):
            for window in ([LOW, HIGH],) if name == "hounsfield" else ([LOW, HIGH], None):
                pixels = reading(bits=bits, window=window).image(tmp_path / f"{name}.npz")
                assert pixels[..., 0].tolist() == [[0, 0, round(most / 2), most, most]]
    assert reading(window=None).image(tmp_path / "whole.npz")[..., 0].tolist() == [[7, 40000]]
    assert reading(bits=8, channels=3).image(tmp_path / "shares.npz").shape == (1, 5, 3)


def test_one_coding_may_join_labels_and_name_what_is_left_out(tmp_path):
    np.savez(tmp_path / "a.npz", image=np.zeros((1, 4), np.float32), label=np.array([[0, 5, 11, 13]], np.float32))
    classes = [{"name": "ground", "value": [0, 5]}, {"name": "pancreas", "value": 11}]
    assert reading(classes=classes, ignore=13).mask(tmp_path / "a.npz").tolist() == [[0, 0, 1, 255]]


ZEROS = np.zeros((4, 5), np.float32)


@pytest.mark.parametrize(
    ("arrays", "changes", "message"),
    [
        pytest.param({"image": ZEROS}, {}, r"has no array 'label'.*it has image", id="no label"),
        pytest.param({"label": ZEROS}, {}, "has no array 'image'", id="no image"),
        pytest.param({"image": ZEROS, "label": ZEROS.T}, {}, "differ in size.*5 x 4.*4 x 5", id="shapes"),
        pytest.param({"image": ZEROS + np.nan, "label": ZEROS}, {}, "no numbers", id="nan"),
        pytest.param({"image": ZEROS, "label": ZEROS + np.inf}, {}, "no numbers", id="inf label"),
        pytest.param({"image": ZEROS, "label": ZEROS + 0.5}, {}, "other values than whole", id="fraction"),
        pytest.param({"image": ZEROS, "label": ZEROS - 1}, {}, "other values than whole", id="negative"),
        pytest.param({"image": ZEROS, "label": ZEROS + 9}, {}, "nobody named; expected 0 is ground", id="unknown"),
        pytest.param({"image": ZEROS[None], "label": ZEROS}, {}, "has 5 channels, and data.channels = 1", id="axes"),
        pytest.param({"image": ZEROS - 7, "label": ZEROS}, {"window": None}, r"window.*values from -7 to -7", id="raw"),
    ],
)
def test_a_slice_that_cannot_be_used_is_one_line(tmp_path, arrays, changes, message):
    path = tmp_path / "a.npz"
    np.savez(path, **arrays)
    with pytest.raises(DataError, match=message) as caught:
        reading(**changes).pair(path, path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut off", b"no archive"])
def test_a_damaged_slice_is_one_line(tmp_path, content):
    (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(DataError, match="damaged or no such volume"):
        reading().image(tmp_path / "a.npz")


@hdf5
@pytest.mark.parametrize(
    ("sets", "name", "message"),
    [
        ({"image": ZEROS[None]}, "#0", "has no data set 'label'.*it has image"),
        ({"image": ZEROS, "label": ZEROS}, "#0", "'image' has 2 axes; expected slices, height, width"),
        ({"image": ZEROS[None], "label": ZEROS.T[None]}, "#0", "differ in size.*1 x 4 x 5 and 1 x 5 x 4"),
        ({"image": ZEROS[None], "label": ZEROS[None]}, "#1", "the volume has 1 slices, counted from 0"),
        (None, "#0", "damaged or no such volume"),
    ],
)
def test_an_h5_that_cannot_be_used_is_one_line(tmp_path, sets, name, message):
    import h5py

    if sets is None:
        (tmp_path / "a.h5").write_bytes(b"no such thing")
    else:
        with h5py.File(tmp_path / "a.h5", "w") as file:
            for key, values in sets.items():
                file[key] = values
    with pytest.raises(DataError, match=message):
        reading().pair(tmp_path / f"a.h5{name}", tmp_path / f"a.h5{name}")


@nifti
def test_a_nifti_that_cannot_be_used_is_one_line(tmp_path):
    import nibabel

    image, labels = volume(0)
    write_nifti(tmp_path, "a", image, labels)
    write_nifti(tmp_path, "b", image, labels, "LAS")
    read = reading()
    with pytest.raises(DataError, match=r"a.nii.gz#4: the volume has 4 slices, counted from 0"):
        read.image(tmp_path / "a.nii.gz#4")
    with pytest.raises(DataError, match=r"different orientations.*RAS 30 x 24 x 4.*LAS 30 x 24 x 4.*resample"):
        read.pair(tmp_path / "a.nii.gz#0", tmp_path / "b_gt.nii.gz#0")
    nibabel.save(nibabel.Nifti1Image(np.zeros((3, 3, 3, 2), np.int16), np.eye(4)), tmp_path / "c.nii.gz")
    with pytest.raises(DataError, match="has 4 axes; expected width, height, slices"):
        read.image(tmp_path / "c.nii.gz#0")
    whole = (tmp_path / "a.nii.gz").read_bytes()
    (tmp_path / "d.nii.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match="damaged or no such volume"):
        read.image(tmp_path / "d.nii.gz#0")


def test_a_missing_library_is_one_line(tmp_path, monkeypatch):
    def absent(name):
        raise ImportError(name)

    monkeypatch.setattr("trainer.data.slices.import_module", absent)
    for name, library in (("a.h5#0", "h5py"), ("a.nii.gz#0", "nibabel")):
        with pytest.raises(
            DataError, match=rf"read with {library}, which is not installed; pip install 'kd-search\[volumes"
        ):
            reading().image(tmp_path / name)


def test_a_split_takes_slices_and_hashes_a_volume_once(tmp_path, monkeypatch):
    root = make(tmp_path / "d", write_npz)
    assert len(read_split(root / "split.csv", root)) == 16
    (root / "split.csv").write_text("source,image,mask,group,split\nS,gone.npy.h5#3,gone.npy.h5#3,,train\n")
    with pytest.raises(DataError, match=r"line 2: image: no such file .*gone.npy.h5#3"):
        read_split(root / "split.csv", root)
    (root / "split.csv").write_text("source,image,mask,group,split\nS,split.csv,split.csv,,train\n")
    with pytest.raises(DataError, match="image and mask are the same file"):
        read_split(root / "split.csv", root)
    assert sorted(["a.h5#10", "a.h5#9", "b10.png", "b9.png"], key=order_of) == [
        "a.h5#9",
        "a.h5#10",
        "b10.png",
        "b9.png",
    ]


@hdf5
def test_a_volume_is_hashed_once_for_all_its_slices(tmp_path, monkeypatch):
    hashed = []

    def counted(path):
        hashed.append(path.name)
        return file_hash(path)

    monkeypatch.setattr(pictures, "file_hash", counted)
    monkeypatch.setattr("trainer.data.slices.file_hash", counted)
    data = open_data(settings(make(tmp_path / "d", write_h5)), cache=tmp_path / "cache")
    assert sorted(hashed) == [f"case000{at}.npy.h5" for at in range(4)]
    assert len({*data.image_hashes("train"), *data.image_hashes("test")}) == 12


def test_neighbours_empty_slices_and_bodies_at_one_height_are_no_twins_but_a_copied_volume_is(tmp_path):
    from trainer.data.perceptual_hash import image_hashes

    def smooth(seed: int) -> np.ndarray:
        low = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
        return np.asarray(Image.fromarray(low).resize((48, 48), Image.Resampling.BICUBIC))

    def rows(case: str, part: str, group: str = "") -> list[Row]:
        return [Row("S", f"{case}.h5#{at}", f"{case}.h5#{at}", group, part, case) for at in range(4)]

    empty = np.zeros((48, 48, 3), np.uint8)
    ours = [empty, smooth(1), np.clip(smooth(1), 3, 250), smooth(2)]
    others = [empty, smooth(3), smooth(4), np.clip(smooth(2), 3, 250)]
    both = [*rows("a", "train"), *rows("b", "test")]
    assert twins(both, [image_hashes(pixels) for pixels in [*ours, *others]]) == []
    copied = [np.clip(pixels, 6, 247) for pixels in ours]
    (pair,) = [pair for pair in twins(both, [image_hashes(pixels) for pixels in [*ours, *copied]]) if pair.crosses]
    assert not pair.identical


# ---- cells of SegPC-2021


def cells(root: Path) -> PictureData:
    """Three pictures of 60 x 50 with two cells each."""
    for folder in ("x", "y"):
        (root / folder).mkdir(parents=True)
    rows = []
    for number, part in enumerate(("train", "validation", "test")):
        rng = np.random.default_rng(number)
        Image.fromarray(rng.integers(0, 256, (50, 60, 3), dtype=np.uint8)).save(root / "x" / f"{number}.bmp")
        for cell, (top, left) in enumerate(((4, 3), (30, 40)), 1):
            mask = np.zeros((50, 60), np.uint8)
            mask[top : top + 8, left : left + 10] = 20
            mask[top + 2 : top + 6, left + 2 : left + 8] = 40
            Image.fromarray(np.repeat(mask[..., None], 3, axis=2)).save(root / "y" / f"{number}_{cell}.bmp")
            rows.append(Row("S", f"x/{number}.bmp", f"y/{number}_{cell}.bmp", str(number), part))
    write_split(root / "split.csv", rows)
    classes = [{"name": "ground"}, {"name": "cell"}]
    return settings(root, channels=4, bits=8, window=None, classes=classes, reader="segpc-cell")


@pytest.mark.parametrize(("reader", "inner"), [("segpc-cell", 1), ("segpc-cytoplasm", 0)])
def test_a_cell_is_cut_out_around_its_nucleus_which_is_its_fourth_channel(tmp_path, reader, inner):
    config = cells(tmp_path / "d").model_copy(update={"reader": reader})
    data = open_data(config, cache=tmp_path / "cache")
    assert [sample.name for sample in data.samples("train")] == ["S/0_1.bmp", "S/0_2.bmp"]
    assert {sample.group for sample in data.samples("train")} == {"S/0"}
    pixels, mask = data.native("train", 0)
    # A nucleus of 4 x 6 at (6, 5): grown by round(5) = 5 rows and round(7.5) = 8 columns.
    assert pixels.shape == (14, 22, 4)
    whole = np.asarray(Image.open(tmp_path / "d" / "x" / "0.bmp"))
    assert np.array_equal(pixels[:, 3:, :3], whole[1:15, :19])
    assert not pixels[:, :3].any()
    nucleus = np.zeros((14, 22), bool)
    nucleus[5:9, 8:14] = True
    assert np.array_equal(pixels[..., 3], 255 * nucleus)
    cell = np.zeros((14, 22), bool)
    cell[3:11, 6:16] = True
    assert np.array_equal(mask, np.where(nucleus, inner, cell))
    assert data.fitted("train", 0)[0].shape == (32, 32, 4)


def test_cells_that_cannot_be_cut_are_one_line(tmp_path):
    config = cells(tmp_path / "d")
    read = reading_of(config, None)
    mask = np.zeros((50, 60), np.uint8)
    mask[5:9, 5:9] = 20
    Image.fromarray(mask).save(tmp_path / "m.bmp")
    with pytest.raises(DataError, match="the cell has no nucleus"):
        read.pair(tmp_path / "d" / "x" / "0.bmp", tmp_path / "m.bmp")
    mask[5, 5] = 3
    Image.fromarray(mask).save(tmp_path / "m.bmp")
    with pytest.raises(DataError, match="holds the values 3; a cell has 0, cytoplasm from 20"):
        read.mask(tmp_path / "m.bmp")
    with pytest.raises(ValueError, match="reader = 'segpc-cell': has 4 channels, not 3; change channels"):
        PictureData.model_validate(config.model_dump() | {"channels": 3})
    with pytest.raises(DataError, match=r"image 'x/0.bmp' is already in line 2"):
        read_split(tmp_path / "d" / "split.csv", tmp_path / "d")


# ---- a real abdomen


@hdf5
@nifti
def test_one_real_volume_gives_the_same_slices_in_three_forms(real_data: Path):
    folder = real_data / ABDOMEN
    if not folder.is_dir():
        pytest.skip(f"no {ABDOMEN} in {real_data}")
    read = reading()
    assert (
        slices_in(folder / "test_vol_h5/case0001.npy.h5") == slices_in(folder / "nifti/imagesTr/case0001.nii.gz") == 30
    )
    used = set()
    for at in range(0, 30, 3):
        forms = [
            (folder / f"train_npz/case0001_slice{at:03d}.npz",) * 2,
            (folder / f"test_vol_h5/case0001.npy.h5#{at}",) * 2,
            (folder / f"nifti/imagesTr/case0001.nii.gz#{at}", folder / f"nifti/labelsTr/case0001.nii.gz#{at}"),
        ]
        (first, mask), *others = [read.pair(*form) for form in forms]
        used |= set(np.unique(mask))
        for pixels, labels in others:
            assert np.array_equal(labels, mask)
            assert int(np.abs(pixels.astype(int) - first).max()) <= 1
    assert used == set(range(9))
    assert spacing_of(folder / "nifti/imagesTr/case0001.nii.gz#0") == (3.0, 3.0, 3.0)
