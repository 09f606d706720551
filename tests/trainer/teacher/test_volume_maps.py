"""Stored probabilities of whole volumes as a teacher: patches of them, their score, what does not suit."""

from pathlib import Path

import numpy as np
import pytest
import torch

from search.commands.preflight import preflight
from search.spec.load import load
from tests.trainer.volume_files import REGIONS, drawn_cases, run, write
from trainer.config import RunConfig
from trainer.data import open_data
from trainer.data.sets.volumes import VolumeCases
from trainer.data.streams.batches import BatchImages
from trainer.distributed.ranks import Ranks
from trainer.dry_run import check
from trainer.engine.fit import fit
from trainer.engine.resources import SharedResources
from trainer.errors import CheckpointError, DataError
from trainer.teacher.assessment import facts
from trainer.teacher.open import opened
from trainer.teacher.volume_maps import VolumeMaps

nibabel = pytest.importorskip("nibabel")
CPU = torch.device("cpu")
TWO = [{"name": "ground", "value": 0}, {"name": "object", "value": [1, 2]}]


@pytest.fixture
def cases(tmp_path: Path) -> Path:
    drawn_cases(tmp_path)
    return tmp_path


def taught(root: Path, **changes: object) -> RunConfig:
    """A run that learns from the maps below `root`."""
    losses = {"ce": {}, "kl": {}}
    data = {"views": 2} | changes.pop("data", {})  # type: ignore[operator]
    teacher = {"name": "maps", "checkpoint": str(root / "maps")}
    return run(root, root / "split.csv", teacher=teacher, method="kl", losses=losses, data=data, **changes)


def write_maps(root: Path, kind: str = "classes", test: bool = False) -> None:
    """Certain maps that are the labels themselves: a channel a class or region, the foreground alone, or whole numbers
    with a scale."""
    for number in range(6 if test else 5):
        label = np.asarray(nibabel.load(root / f"labels/case_{number}.nii.gz").dataobj)
        affine = nibabel.load(root / f"images/case_{number}.nii.gz").affine
        whole, core = label > 0, label == 2
        marks = {
            "classes": np.stack([label == value for value in range(3)], -1),
            "regions": np.stack([whole, core], -1),
            "foreground": whole,
            "bytes": whole,
        }[kind]
        path = root / f"maps/images/case_{number}.nii.gz"
        if kind != "bytes":
            write(path, marks.astype(np.float32), affine)
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        image = nibabel.Nifti1Image((marks * 255).astype(np.uint8), affine)
        image.header.set_slope_inter(1 / 255, 0)
        nibabel.save(image, path)


def learned(config: RunConfig, cache: Path, epoch: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Logits and labels of the batches of an epoch."""
    resources = SharedResources(Ranks("cpu"), cache)
    resources.prepare(config, epoch)
    pairs = []
    for batch in resources.stream(config).epoch(epoch):
        kept = resources.teacher_output(config, epoch, batch.indices, BatchImages(torch.empty(0)), frozenset())
        assert kept is not None
        pairs.append((kept.logits, batch.masks))
    return pairs


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("classes", {}),
        ("classes", {"swap": [["ball", "core"]]}),
        ("foreground", {"classes": TWO}),
        ("bytes", {"classes": TWO}),
        ("regions", {"classes": [], "regions": REGIONS}),
        ("classes", {"patch": [32, 32, 8], "recipe": "none"}),
    ],
)
def test_they_are_cut_where_the_labels_of_the_patch_are(cases, kind, settings):
    write_maps(cases, kind)
    config = taught(cases, data=settings)
    regions = open_data(config.data, cache=cases / "cache").regions
    for epoch in (0, 1):
        for logits, masks in learned(config, cases / "cache", epoch):
            inside = masks != 255
            assert inside.any()
            if regions is None:
                assert torch.equal(logits.argmax(1)[inside], masks.long()[inside])
            else:
                targets = regions.targets(masks)
                assert torch.equal((logits > 0)[targets != 255], (targets == 1)[targets != 255])


def test_stored_patches_have_the_bits_of_the_prepared_map(cases):
    """Where nothing is resampled these are those of the file, rounded to float16 once; no store changes them."""
    rng = np.random.default_rng(0)
    for number in range(5):
        image = nibabel.load(cases / f"images/case_{number}.nii.gz")
        chances = rng.dirichlet(np.ones(3), image.shape).astype(np.float32)
        write(cases / f"maps/images/case_{number}.nii.gz", chances, image.affine)
    config = taught(cases, data={"augment": "none"})
    data = open_data(config.data, cache=cases / "cache")
    assert isinstance(data, VolumeCases)
    teacher = opened(config, data, device=CPU).network
    assert isinstance(teacher, VolumeMaps)
    whole = teacher.prepared("train", 0)
    file = np.asarray(nibabel.load(cases / "maps" / data.case_place("train", 0)).dataobj)
    turned = np.flip(file, (0, 1)).transpose(3, 0, 1, 2)  # files lie L, P, S
    assert np.array_equal(whole, np.log(np.clip(turned, 5e-7, 1 - 5e-7)).astype(np.float16))
    resources = SharedResources(Ranks("cpu"), cases / "cache")
    for batch in resources.stream(config).epoch(1):
        kept = resources.teacher_output(config, 1, batch.indices, BatchImages(torch.empty(0)), frozenset())
        assert kept is not None
        assert torch.equal(kept.logits, teacher.warped(config.seed, 1, batch.indices))
        for index, image, logits in zip(batch.indices, batch.images, kept.logits, strict=True):
            number = index // 2
            prepared = data.cases("train")[number].image[0]
            spots = [
                (x, y, z)
                for x in range(prepared.shape[0] - 15)
                for y in range(prepared.shape[1] - 15)
                for z in range(prepared.shape[2] - 7)
                if np.array_equal(prepared[x : x + 16, y : y + 16, z : z + 8], image[0].numpy())
            ]
            ((x, y, z),) = spots
            own = teacher.prepared("train", number)[:, x : x + 16, y : y + 16, z : z + 8]
            assert np.array_equal(own.astype(np.float32), logits.numpy())


@pytest.mark.parametrize(
    ("kind", "settings"),
    [("classes", {}), ("regions", {"classes": [], "regions": REGIONS}), ("bytes", {"classes": TWO})],
)
def test_their_dice_is_that_of_the_maps(cases, kind, settings):
    write_maps(cases, kind)
    config = taught(cases, data=settings)
    known = facts(config, open_data(config.data, cache=cases / "cache"), whole=True)
    assert (known.dice, known.train_dice, known.seen) == (1.0, 1.0, None)
    assert known.entropy is not None
    assert known.entropy < 0.02


def test_on_another_grid_they_are_interpolated(cases):
    write_maps(cases)
    config = taught(cases, data={"spacing": [1.5, 1.5, 1.5]})
    known = facts(config, open_data(config.data, cache=cases / "cache"))
    assert 0.85 < known.dice < 1.0


def test_a_student_learns_from_them_and_a_second_run_prepares_nothing(cases):
    write_maps(cases)
    check(taught(cases))
    reports = list(fit(taught(cases), cache=cases / "cache", ranks=Ranks("cpu")))
    assert reports[-1].losses["kl"] > 0
    kept = {path: path.stat().st_mtime_ns for path in (cases / "cache/volume-maps").glob("*.npy")}
    assert kept
    again = list(fit(taught(cases), cache=cases / "cache", ranks=Ranks("cpu")))
    assert [each.losses for each in again] == [each.losses for each in reports]
    assert {path: path.stat().st_mtime_ns for path in (cases / "cache/volume-maps").glob("*.npy")} == kept


def test_a_damaged_file_of_the_cache_is_made_again(cases):
    write_maps(cases)
    config = taught(cases)
    first = learned(config, cases / "cache", 0)
    for path in (cases / "cache/volume-maps").glob("*.npy"):
        path.write_bytes(path.read_bytes()[:-2])
    for path in (cases / "cache").glob("views-*/*.f16"):
        path.unlink()
    assert all(torch.equal(a, b) for (a, _), (b, _) in zip(first, learned(config, cases / "cache", 0), strict=True))


def _gone(root: Path) -> None:
    for number in (0, 1, 2):
        (root / f"maps/images/case_{number}.nii.gz").unlink()


def _rewritten(root: Path, change: object) -> None:
    for path in (root / "maps").rglob("*.nii.gz"):
        image = nibabel.load(path)
        values, affine = change(np.asarray(image.dataobj), image.affine)  # type: ignore[operator]
        write(path, values, affine)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda values, affine: (values[:-1], affine),
            r"does not lie on the grid of drawn/case_0\.nii\.gz \(17 x 16 x 12",
        ),
        (
            lambda values, affine: (values, affine @ np.diag([1, 1, 1.1, 1])),
            "write the map with the shape and the affine",
        ),
        (lambda values, affine: (values * 2, affine), "holds values from 0 to 2; expected probabilities"),
        (lambda values, affine: (values * np.nan, affine), "holds values from nan to nan"),
        (lambda values, affine: (values * 0.5, affine), "add up to 0.5 to 0.5"),
        (lambda values, affine: (values[..., :2], affine), "has 2 channels, and the data has 3 classes"),
        (lambda values, affine: (values[..., 0], affine), "has 1 channel, and the data has 3 classes"),
    ],
)
def test_what_is_no_map_of_its_case_is_one_line(cases, change, message):
    write_maps(cases)
    _rewritten(cases, change)
    with pytest.raises(DataError, match=message) as caught:
        learned(taught(cases), cases / "cache", 0)
    assert "\n" not in str(caught.value)


def test_missing_and_broken_files_are_named(cases):
    write_maps(cases)
    path = next((cases / "maps").rglob("case_0.nii.gz"))
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(DataError, match=r"case_0\.nii\.gz"):
        learned(taught(cases), cases / "cache", 0)
    _gone(cases)
    with pytest.raises(CheckpointError, match=r"3 train images have no map: images/case_0\.nii, .*\.nii or \.nii\.gz"):
        learned(taught(cases), cases / "cache", 0)


def test_without_views_they_are_refused(cases):
    with pytest.raises(ValueError, match=r"needs data\.views"):
        check(taught(cases, data={"views": None}))


def test_what_they_take_on_disk_is_said_beforehand(cases, tmp_path):
    """Two views of 3 cases with 2 patches of 16 x 16 x 8, and 5 prepared maps of 18 x 16 x 12, 3 classes, 2 bytes."""
    write_maps(cases)
    path = tmp_path / "stored.toml"
    classes = ", ".join(f'{{ name = "{name}", value = {at} }}' for at, name in enumerate(("ground", "ball", "core")))
    path.write_text(
        f"""
[objective]
maximize = "dice"
[run]
method = "kl"
epochs = 2
batch_size = 2
student = {{ name = "tiny-unet-3d", width = 4 }}
losses = {{ ce = {{}}, kl = {{}} }}
teacher = {{ name = "maps", checkpoint = "{cases / "maps"}" }}
[run.data]
name = "volumes"
root = "{cases}"
split = "{cases / "split.csv"}"
recipe = "msd"
patch = [16, 16, 8]
patches = 2
views = 2
classes = [{classes}]
[space]
"optim.lr" = {{ low = 1e-4, high = 1e-2, log = true }}
[budget]
trials = 4
[pruner]
name = "none"
"""
    )
    size = 2 * 6 * 3 * 16 * 16 * 8 * 2 + 5 * 3 * 18 * 16 * 12 * 2
    assert any(f"take {size / 1e9:.3g} GB" in note for note in preflight(load(path), cases / "cache").notes)
