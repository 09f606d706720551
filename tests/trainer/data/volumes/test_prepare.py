"""Cases as files become arrays in the cache, once; whatever is wrong with a file is one line, and the others stay."""

import gzip
import json
from pathlib import Path

import numpy as np
import pytest

from tests.trainer.native_grids import labels_back, native_scores
from trainer.config import VolumeData
from trainer.data.sets.volumes import _say_small
from trainer.data.volumes import prepare
from trainer.data.volumes.case import PreparedCase
from trainer.data.volumes.nifti import stored_labels
from trainer.data.volumes.prepare import PreparedCases, case_files, coding_for, prepare_cases
from trainer.data.volumes.recipes import recipe_of
from trainer.errors import DataError

nibabel = pytest.importorskip("nibabel")

CLASSES = [{"name": "background", "value": 0}, {"name": "liver", "value": 1}, {"name": "spleen", "value": [2, 3]}]
TILTED = np.array([[0.0, -1.0, 0.0, 30.0], [-0.5, 0.0, 0.0, -12.5], [0.0, 0.0, 2.0, 7.0], [0.0, 0.0, 0.0, 1.0]])
"""The first axis goes backward by half a millimetre, the second to the left by one, the third up by two."""


def settings(**changes: object) -> VolumeData:
    values: dict[str, object] = {"name": "volumes", "root": ".", "split": "s.csv", "classes": CLASSES, "ignore": 9}
    return VolumeData.model_validate(values | changes)


def save(path: Path, array: np.ndarray, affine: np.ndarray = TILTED, *, slope: float | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nibabel.Nifti1Image(array, affine)
    if slope is not None:
        image.header.set_slope_inter(slope, -1.0)
    nibabel.save(image, path)
    return path


def volume(seed: int = 0, shape: tuple[int, ...] = (12, 10, 8)) -> tuple[np.ndarray, np.ndarray]:
    """HU-like intensities with an empty rim, and labels 0 to 3 with some ignored."""
    rng = np.random.default_rng(seed)
    image = np.full(shape, -1000.0, np.float32)
    image[2:10, 1:9, 1:7] = rng.uniform(-100, 200, (8, 8, 6))
    labels = np.zeros(shape, np.uint8)
    labels[3:6, 2:5, 2:5], labels[6:9, 2:6, 2:5], labels[6:9, 6:8, 2:4] = 1, 2, 3
    labels[4, 4, 4] = 9
    return image, labels


def pair(root: Path, name: str = "case", seed: int = 0, ending: str = ".nii.gz") -> tuple[str, Path, Path]:
    image, labels = volume(seed)
    return name, save(root / f"{name}{ending}", image), save(root / f"{name}_seg{ending}", labels)


def prepared(config: VolumeData, rows: list[tuple[str, Path, Path]], cache: Path, **more: object) -> PreparedCases:
    return prepare_cases(config, case_files(rows, config.channels), cache=cache, **more)  # type: ignore[arg-type]


def one(config: VolumeData, row: tuple[str, Path, Path], cache: Path) -> PreparedCase:
    return prepared(config, [row], cache).cases[0]


def test_a_case_is_turned_z_last_labelled_and_knows_where_it_came_from(tmp_path):
    image, labels = volume()
    case = one(settings(), pair(tmp_path), tmp_path / "cache")
    assert case.image.shape == (1, 10, 12, 8)
    assert case.spacing == case.nominal == (1.0, 0.5, 2.0)
    assert np.array_equal(case.image[0], image.transpose(1, 0, 2)[::-1, ::-1])
    named = np.array([0, 1, 2, 2, *[99] * 5, 255], np.uint8)
    assert np.array_equal(case.label, named[labels].transpose(1, 0, 2)[::-1, ::-1])
    assert np.array_equal(case.native_label, named[labels])
    assert np.array_equal(labels_back(case.label, case.way, outside=7), case.native_label)
    assert [len(own) for own in case.foreground] == [26, 48]
    assert set(case.label.ravel()[case.foreground[1]]) == {2}
    first = case.grid.matrix @ [0, 0, 0, 1]
    assert np.allclose(first, TILTED @ [11, 9, 0, 1])
    card = json.loads((case.folder / "case.json").read_text())
    assert card["native"]["shape"] == [12, 10, 8]
    assert card["recipe"]["orientation"] == "RAS"
    assert len(card["sha256"]["image"]) == 64


def test_btcv_windows_resamples_and_crops_in_the_order_of_the_reference(tmp_path):
    image, _ = volume()
    case = one(settings(recipe="btcv", spacing=[1.0, 0.5, 1.0]), pair(tmp_path), tmp_path / "cache")
    assert case.image.shape == (1, 8, 8, 11)
    assert case.spacing == (1.0, 0.5, 1.0)
    assert 0 <= case.image.min() < case.image.max() <= 1
    between = (image[2:10, 1:9, 1].astype(np.float64) - 1000.0) / 2
    assert np.allclose(case.image[0, :, :, 1], 0) is False
    expected = np.clip((image[2:10, 1:9, 1].astype(np.float64) + 175) / 425, 0, 1)
    assert np.abs(case.image[0, :, :, 0] - expected.T[::-1, ::-1]).max() < 1e-6
    assert (between < -175).all()  # the half slice below is outside of the window, and outside of the crop
    assert np.array_equal(labels_back(case.label, case.way), case.native_label)


def test_brats_normalises_what_is_not_0_and_pads_to_multiples(tmp_path):
    rng = np.random.default_rng(3)
    image = np.zeros((12, 10, 8, 2), np.float32)
    image[2:10, 1:9, 1:7] = rng.uniform(1, 900, (8, 8, 6, 2))
    row = "b", save(tmp_path / "b.nii", image), save(tmp_path / "b_seg.nii", volume()[1])
    case = one(settings(recipe="brats21", channels=2, multiple=[8, 16, 16]), row, tmp_path / "cache")
    assert case.image.shape == (2, 8, 16, 16)
    inside = case.image != 0
    assert inside.sum() == 2 * 8 * 8 * 6
    for channel in (0, 1):
        values = case.image[channel][inside[channel]]
        assert abs(values.mean()) < 1e-6
        assert abs(values.std() - 1) < 1e-5
    assert (case.image[:, :, :4] == 0).all()
    assert (case.image[:, :, 12:] == 0).all()
    by_patch = one(settings(recipe="brats21", channels=2, zscore="nonzero-patch", multiple=[8, 16, 16]), row, tmp_path)
    assert by_patch.image.max() > 100
    assert np.allclose(by_patch.normaliser.of_case(by_patch.image), case.image, atol=1e-5)
    patch = by_patch.normaliser.of_patch(np.array(by_patch.image[:, :4], np.float32))
    assert abs(patch[0][patch[0] != 0].mean()) < 1e-6
    assert np.array_equal(case.normaliser.of_patch(case.image), case.image)


def test_regions_share_one_label_a_place_and_both_numbers_of_enhancing_tumour_are_read(tmp_path):
    labels = volume()[1]
    regions = {"core": [1, 3, 4], "whole": [1, 2, 3, 4], "enhancing": [3, 4]}
    made = []
    for name, enhancing in (("new", 3), ("old", 4)):
        own = np.where(labels == 3, enhancing, labels).astype(np.uint8)
        row = name, save(tmp_path / f"{name}.nii.gz", volume()[0]), save(tmp_path / f"{name}_seg.nii.gz", own)
        made.append(one(settings(classes=[], regions=regions), row, tmp_path / "cache"))
    assert np.array_equal(made[0].label, made[1].label)
    coding = coding_for(settings(classes=[], regions=regions))
    assert coding.regions is not None
    inside = coding.regions.table[made[0].native_label]
    assert np.array_equal(inside[..., 2] == 1, labels == 3)
    assert np.array_equal(inside[..., 1] == 1, (labels > 0) & (labels < 9))
    assert (inside[labels == 9] == 255).all()


def test_channels_are_files_by_name_or_the_last_axis_of_one(tmp_path):
    image, labels = volume()
    parts = np.stack([image, image * 0.5], axis=-1)
    seg = save(tmp_path / "seg.nii.gz", labels)
    whole = save(tmp_path / "both.nii.gz", parts)
    for at, name in enumerate(("flair", "t1ce")):
        save(tmp_path / f"case_{name}.nii.gz", parts[..., at])
    together = one(settings(channels=2), ("a", whole, seg), tmp_path / "cache")
    apart = one(
        settings(channels=["flair", "t1ce"]), ("a", tmp_path / "case_{channel}.nii.gz", seg), tmp_path / "cache"
    )
    assert np.array_equal(together.image, apart.image)
    turned = one(
        settings(channels=["t1ce", "flair"]), ("a", tmp_path / "case_{channel}.nii.gz", seg), tmp_path / "cache"
    )
    assert np.array_equal(turned.image, apart.image[::-1])


def test_slope_and_intercept_of_a_header_are_obeyed(tmp_path):
    image = np.arange(12 * 10 * 8, dtype=np.int16).reshape(12, 10, 8)
    path = tmp_path / "scaled.nii.gz"
    header = nibabel.Nifti1Image(image, np.eye(4))
    header.header.set_slope_inter(0.5, -1.0)
    header.header.set_data_dtype(np.int16)
    nibabel.save(header, path)
    stored = nibabel.load(path)
    assert stored.dataobj.slope != 1
    case = one(settings(), ("s", path, save(tmp_path / "seg.nii.gz", volume()[1], np.eye(4))), tmp_path / "cache")
    assert np.allclose(case.image[0], stored.get_fdata(), atol=1e-4)


def test_what_is_prepared_is_taken_again_and_another_recipe_or_coding_is_another_case(tmp_path):
    rows = [pair(tmp_path, "a"), pair(tmp_path, "b", 1, ".nii")]
    cache = tmp_path / "cache"
    calls: list[tuple[int, int]] = []
    assert prepared(settings(), rows, cache, progress=lambda *done: calls.append(done)).fresh == 2
    assert calls == [(1, 2), (2, 2)]
    again = prepared(settings(), rows, cache, jobs=1, sums=True)
    assert (again.fresh, again.damaged) == (0, [])
    assert [case.name for case in again.cases] == ["a", "b"]
    assert prepared(settings(storage="float16"), rows, cache).cases[0].image.dtype == np.float16
    joined = [CLASSES[0], {"name": "organ", "value": "1-3"}]
    assert prepared(settings(classes=joined), rows, cache).fresh == 2
    assert prepared(settings(patch=[32, 32, 32], overlap=0.25), rows, cache).fresh == 0


def test_a_damaged_case_is_named_and_made_again_also_one_whose_sizes_are_right(tmp_path, capfd):
    rows, cache = [pair(tmp_path, "a"), pair(tmp_path, "b", 1)], tmp_path / "cache"
    first = prepared(settings(), rows, cache).cases
    (first[0].folder / "label.npy").write_bytes(b"half")
    again = prepared(settings(), rows, cache)
    assert (again.fresh, again.damaged) == (1, ["a"])
    content = bytearray((first[1].folder / "image.npy").read_bytes())
    content[-1] ^= 1
    (first[1].folder / "image.npy").write_bytes(content)
    assert prepared(settings(), rows, cache).damaged == []
    assert prepared(settings(), rows, cache, sums=True).damaged == ["b"]
    assert prepared(settings(), rows, cache, sums=True).cases[1].digest == first[1].digest


def test_an_interrupted_preparation_goes_on_where_it_stopped_and_leaves_nothing_half(tmp_path, monkeypatch):
    rows, cache = [pair(tmp_path, name, at) for at, name in enumerate("abc")], tmp_path / "cache"
    write = prepare.write_case

    def stops(folder: Path, case: PreparedCase, more: object) -> None:
        if case.name == "b":
            (folder / "image.npy").write_bytes(b"half")
            raise KeyboardInterrupt
        write(folder, case, more)  # type: ignore[arg-type]

    monkeypatch.setattr(prepare, "write_case", stops)
    with pytest.raises(KeyboardInterrupt):
        prepared(settings(), rows, cache, jobs=1)
    assert not list((cache / "volumes").glob(".*.tmp"))
    monkeypatch.setattr(prepare, "write_case", write)
    assert prepared(settings(), rows, cache).fresh in (1, 2)  # the third may have begun before the main thread heard


def test_a_disk_without_room_is_refused_before_anything_is_made(tmp_path, monkeypatch):
    row = pair(tmp_path)
    monkeypatch.setattr(prepare, "expected_bytes", lambda *_: 10**18)
    with pytest.raises(DataError, match=r"1 case take about 1e\+06 TB before they are cropped, and .* are free"):
        prepared(settings(), [row], tmp_path / "cache")


def test_what_becomes_of_labels_is_remarked(tmp_path):
    name, image, label = pair(tmp_path)
    empty = save(tmp_path / "empty.nii.gz", np.zeros((12, 10, 8), np.uint8))
    assert one(settings(), (name, image, empty), tmp_path / "c").remarks == (
        "holds no foreground: only the ground is learned from it",
    )
    assert one(settings(), (name, image, label), tmp_path / "c").remarks == ()
    coarse = one(settings(spacing=[20.0, 20.0, 20.0]), (name, image, label), tmp_path / "c").remarks
    assert coarse == ("has no voxel of liver, spleen any more at the prepared spacing or in the crop",)
    cropped = volume()[0]
    cropped[:4] = -1000
    cut = one(
        settings(recipe="btcv", spacing="native"), (name, save(tmp_path / "x.nii", cropped), label), tmp_path / "c"
    )
    assert cut.remarks == ("9 labelled voxels of 74 lie outside of the crop",)


def test_cases_smaller_than_a_patch_are_said_in_one_line_however_often_they_are_opened(tmp_path, log):
    config = settings(patch=(16, 16, 8))
    cases = prepared(
        config, [pair(tmp_path, name, seed) for seed, name in enumerate(("a", "b"))], tmp_path / "cache"
    ).cases
    for _ in range(2):
        _say_small(cases, config)
    (line,) = (line for line in log if "smaller than a patch" in line)
    assert line.startswith("WARNING 2 of 2 cases to train on are smaller than a patch of 16 x 16 x 8 voxels")


def zero_spacing(path: Path) -> None:
    header = bytearray(gzip.decompress(path.read_bytes()))
    header[84:88] = np.float32(0).tobytes()
    path.write_bytes(gzip.compress(bytes(header)))


def flat_affine(path: Path) -> None:
    affine = TILTED.copy()
    affine[:3, 1] = affine[:3, 0] * 2
    image = nibabel.load(path)
    made = nibabel.Nifti1Image(np.asarray(image.dataobj), None)
    made.header.set_sform(affine, 1)
    made.header["pixdim"][1:4] = 1
    nibabel.save(made, path)


def resaved(array: np.ndarray, affine: np.ndarray = TILTED):
    return lambda path: save(path, array, affine)


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-300])


def shifted(path: Path) -> None:
    affine = TILTED.copy()
    affine[2, 3] += 0.5
    save(path, volume()[1], affine)


def nan(path: Path) -> None:
    image = volume()[0]
    image[3, 3, 3] = np.nan
    save(path, image)


@pytest.mark.parametrize(
    ("half", "spoil", "message"),
    [
        ("image", zero_spacing, r"the spacing is 0 along an axis; write the true lengths .*\(0.5 x 0 x 2 mm\)"),
        ("image", flat_affine, "the affine cannot be inverted"),
        ("image", resaved(volume()[0][:-1]), r"and label differ in size \(11 x 10 x 8, bad_seg.nii.gz 12 x 10 x 8"),
        ("label", shifted, r"image and label lie on different grids .*up to 0.5 mm away"),
        ("label", resaved(np.full((12, 10, 8), 7, np.uint8)), r"labels that no class has: 7; 0 is background, 1"),
        ("label", resaved(np.full((12, 10, 8), 300, np.int16)), "other values than whole numbers from 0 to 255"),
        ("label", resaved(np.full((12, 10, 8), 0.5, np.float32)), "other values than whole numbers from 0 to 255"),
        ("image", truncated, "damaged or no NIfTI volume"),
        ("image", lambda path: path.write_bytes(b"nothing"), "damaged or no NIfTI volume"),
        ("image", nan, r"intensities that are no numbers \(nan or inf\) \(1 voxels\)"),
        ("image", resaved(np.zeros((12, 10), np.float32)), r"has 2 axes \(12 x 10\)"),
        ("image", resaved(np.zeros((12, 10, 1), np.float32)), r"is one slice \(12 x 10 x 1\) and no volume"),
        ("image", resaved(np.zeros((12, 10, 8, 3), np.float32)), "has 3 of the 1 channels that data.channels name"),
    ],
)  # fmt: skip
def test_a_bad_case_is_one_line_and_the_others_are_prepared(tmp_path, half, spoil, message):
    rows = [pair(tmp_path, "bad"), pair(tmp_path, "good", 1)]
    spoil(rows[0][1 if half == "image" else 2])
    config = settings()
    with pytest.raises(DataError, match=message) as caught:
        prepared(config, rows, tmp_path / "cache")
    assert str(caught.value).startswith("1 of 2 cases cannot be prepared: ")
    assert "\n" not in str(caught.value)
    assert prepared(config, rows[1:], tmp_path / "cache").fresh == 0


@pytest.mark.parametrize("kind", [np.uint8, np.int16])
def test_labels_that_were_stored_as_floats_under_a_header_of_whole_numbers_are_what_they_were(tmp_path, kind):
    """nibabel spreads floats over all whole numbers that the header's type has: of 21 labels, 9 may become 8.96."""
    labels = np.random.default_rng(0).integers(0, 21, (6, 5, 4))
    header = nibabel.Nifti1Header()
    header.set_data_dtype(kind)
    path = tmp_path / "label.nii.gz"
    nibabel.save(nibabel.Nifti1Image(labels.astype(np.float32), TILTED, header), path)
    assert (np.asanyarray(nibabel.load(path).dataobj) != labels).any()
    assert (stored_labels(path)[1] == labels).all()


@pytest.mark.parametrize("slope", [0.1, 0.19, 0.5, 1.2])
def test_a_scale_that_makes_other_values_than_whole_numbers_is_refused(tmp_path, slope):
    image = nibabel.Nifti1Image(np.arange(48, dtype=np.uint8).reshape(6, 4, 2), TILTED)
    image.header.set_slope_inter(slope, 0)
    path = tmp_path / "label.nii.gz"
    nibabel.save(image, path)
    raw = bytearray(gzip.decompress(path.read_bytes()))  # nibabel writes its own scale
    raw[112:120] = np.float32([slope, 0]).tobytes()
    path.write_bytes(gzip.compress(bytes(raw)))
    with pytest.raises(DataError, match="other values than whole numbers from 0 to 255"):
        stored_labels(path)


def test_several_bad_cases_are_each_named(tmp_path, capsys):
    rows = [pair(tmp_path, "a"), pair(tmp_path, "b"), pair(tmp_path, "c")]
    nan(rows[0][1])
    truncated(rows[1][1])
    with pytest.raises(
        DataError, match="2 of 3 cases cannot be prepared; mend or remove them; the others are prepared"
    ):
        prepared(settings(), rows, tmp_path / "cache")
    lines = capsys.readouterr().err.splitlines()
    assert [line.split("/")[-1].split(":")[0] for line in lines if line.startswith("bad: ")] == ["a.nii.gz", "b.nii.gz"]


def test_a_missing_channel_and_an_image_without_foreground_are_one_line(tmp_path):
    name, image, label = pair(tmp_path)
    with pytest.raises(DataError, match=r"case_t2.nii.gz: no such file"):
        one(settings(channels=["t1", "t2"]), (name, named(image, "t1"), label), tmp_path / "cache")
    air = save(tmp_path / "air.nii", np.full((12, 10, 8), -1000, np.float32))
    with pytest.raises(DataError, match=r"no voxel of the image is above 0 after the window \[-175.0, 250.0\]"):
        one(settings(recipe="btcv"), (name, air, label), tmp_path / "cache")
    with pytest.raises(DataError, match="the 960 voxels of channel 0 are all -1000: there is nothing to divide by"):
        one(settings(recipe="msd"), (name, air, label), tmp_path / "cache")
    large = save(tmp_path / "large.nii", np.full((12, 10, 8), 70_000, np.float32))
    with pytest.raises(DataError, match="intensities up to 70000 do not fit into float16"):
        one(settings(storage="float16"), (name, large, label), tmp_path / "cache")


def named(image: Path, channel: str) -> Path:
    """The image as one of several channels; its path with the place of their names."""
    image.rename(image.with_name(f"case_{channel}.nii.gz"))
    return image.with_name("case_{channel}.nii.gz")


def test_settings_change_a_recipe_and_switch_off_what_it_has():
    assert recipe_of(settings(recipe="word")).window == (-175.0, 250.0)
    changed = recipe_of(settings(recipe="word", spacing="native", window="off", crop="off", grid="edge-to-edge"))
    assert (changed.spacing, changed.window, changed.crop, changed.grid) == (None, None, None, "edge-to-edge")
    assert coding_for(settings()).names == ("background", "liver", "spleen")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"channels": ["a", "a"]}, "names that differ"),
        ({"channels": ["a/b"]}, "letters, digits"),
        ({"swap": [["liver", "kidney"]]}, "swap: 'kidney' is no class"),
        ({"window": [5, 5]}, "the lower intensity before the higher"),
        ({"classes": [{"name": "a"}, {"name": "b"}]}, "'a' has no value"),
    ],
)
def test_settings_that_contradict_themselves_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        settings(**changes)


def real_cases(folder: Path, which: str) -> tuple[VolumeData, list[tuple[str, Path, Path]]]:
    if which == "hippocampus":
        root = folder / "Task04_Hippocampus"
        classes = [{"name": name, "value": at} for at, name in enumerate(("background", "anterior", "posterior"))]
        names = sorted(path.name for path in (root / "labelsTr").glob("*.nii.gz"))[:4]
        rows = [(name, root / "imagesTr" / name, root / "labelsTr" / name) for name in names]
        return settings(recipe="msd", classes=classes), rows
    if which == "brats":
        classes = [{"name": f"c{at}", "value": at} for at in range(5)]
        rows = [
            (sub.name, sub / "{channel}_subtrMeanDivStd.nii.gz", sub / "OTMultiClass.nii.gz")
            for sub in sorted((folder / "BraTS2013-crop").iterdir())
        ]
        return settings(recipe="brats21", classes=classes, channels=["Flair", "T1c"]), rows
    root = folder / "abdomen-multiorgan" / "nifti"
    classes = [{"name": f"c{at}", "value": at} for at in range(9)]
    image, label = (next((root / name).glob("*.nii*")) for name in ("imagesTr", "labelsTr"))
    return settings(recipe="btcv", classes=classes), [("abdomen", image, label)]


@pytest.mark.parametrize("which", ["hippocampus", "brats", "abdomen"])
def test_real_cases_are_prepared_and_their_labels_come_back(tmp_path, real_data, which):
    config, rows = real_cases(real_data, which)
    for case in prepared(config, rows, tmp_path).cases:
        assert np.isfinite(case.image).all()
        back = labels_back(case.label, case.way)
        same = float((back == case.native_label)[case.native_label > 0].mean())
        assert same == 1.0 if which != "abdomen" else same > 0.99
        soft = np.stack([case.label == label for label in range(len(config.classes))]).astype(np.float32)
        scored = native_scores(soft, case.way).argmax(axis=0)
        both = 2 * ((scored > 0) & (case.native_label > 0)).sum()
        assert both / ((scored > 0).sum() + (case.native_label > 0).sum()) > 0.99
        assert sum(map(len, case.foreground)) == int((case.label > 0).sum())
