"""Volumes as a data set: cases are prepared once, trained by patches and scored by the slices of their files."""

import shutil

import numpy as np
import pytest
import torch

import models
from tests.trainer.volume_files import REGIONS, drawn_cases, run, volume
from trainer.data import open_data, record_opening
from trainer.data.dataset import cases_of, examples_an_epoch
from trainer.data.streams.examples import examples_of
from trainer.data.streams.stream import Stream
from trainer.distributed.ranks import Ranks
from trainer.errors import DataError
from trainer.evaluation import metrics


@pytest.fixture(scope="module")
def split(tmp_path_factory):
    return drawn_cases(tmp_path_factory.mktemp("volumes"))


@pytest.fixture
def opened(split, tmp_path):
    def opened(**changes):
        return open_data(run(split.parent, split, data=changes).data, cache=tmp_path / "cache")

    opened.root = split.parent
    return opened


def test_slices_of_a_case_are_samples_that_are_scored_as_one(opened, tmp_path):
    data = opened()
    samples = data.samples("validation")
    assert len(samples) == 2 * 12
    assert cases_of(samples) == [0] * 12 + [1] * 12
    assert samples[13].spacing == (2.0, 1.0, 1.0)
    assert samples[13].name == "drawn/case_4.nii.gz#1"
    _, label = volume(4)
    assert (data.native_mask("validation", 13) == label[:, :, 1]).all()
    picture, mask = data.native("validation", 13 + 5)
    assert picture.shape == (18, 16, 1)
    assert picture[mask == 2].mean() > picture[mask == 0].mean() + 100
    with pytest.raises(DataError, match="test"):
        data.samples("test")
    assert len(data.samples("test", record_opening(tmp_path, "a test"))) == 12
    assert len(data.image_hashes("test")) == len(data.sketches("test")) == 1


@pytest.mark.parametrize(
    "changes", [{}, {"classes": [], "regions": REGIONS}, {"spacing": [1.5, 1.0, 1.5]}, {"weights": "gaussian"}]
)
def test_slices_that_are_counted_together_have_the_scores_of_single_ones(opened, changes, monkeypatch):
    """And whoever keeps logits gets the same ones, each once."""
    data, settings = opened(**changes), run(opened.root, opened.root / "split.csv", data=changes)
    torch.manual_seed(0)
    network = models.build(settings.student, in_channels=1, classes=data.classes, dims=3)
    results = []
    for together in (0, 700, 2**18):
        monkeypatch.setattr(metrics, "_TOGETHER", together)
        kept: dict[int, torch.Tensor] = {}
        scores = metrics.validate(
            network, data, "validation", ranks=Ranks("cpu"), precision="fp32", keep=kept.__setitem__
        )
        results.append((scores.means, {name: each.tolist() for name, each in scores.images.items()}, kept))
    for means, images, kept in results[1:]:
        assert (means, images) == results[0][:2]
        assert kept.keys() == set(range(len(data.samples("validation"))))
        assert all(torch.equal(logits, results[0][2][index]) for index, logits in kept.items())


def test_an_epoch_has_as_many_patches_of_each_case_as_the_settings_say(opened):
    data = opened()
    assert examples_an_epoch(data) == examples_of(data).count == 6
    (first, *_), (again, *_) = (list(Stream(data, batch_size=2, seed=1, rank=0, world=1).epoch(0)) for _ in range(2))
    assert first.images.shape == (2, 1, 16, 16, 8)
    assert first.masks.shape == (2, 16, 16, 8)
    assert (first.images == again.images).all()


def test_a_region_has_a_target_of_its_own(opened):
    data = opened(classes=[], regions=REGIONS)
    batch = next(iter(Stream(data, batch_size=2, seed=1, rank=0, world=1).epoch(0)))
    target = batch.target(batch.masks.device)
    assert target.shape == (2, 2, 16, 16, 8)
    whole, core = target.numpy().swapaxes(0, 1)
    assert core.sum() > 0
    assert (whole[core == 1] == 1).all()


def test_the_content_says_what_cases_are_and_how_they_are_prepared(opened, split, tmp_path):
    before = opened().content_hash
    assert opened().content_hash == before
    assert opened(recipe="none").content_hash != before
    moved = tmp_path / "elsewhere"
    shutil.copytree(split.parent, moved)
    there = open_data(run(moved, moved / "split.csv").data, cache=tmp_path / "cache")
    assert there.content_hash == before
    assert there.decoded == 0  # the cache had them
    assert np.array_equal(there.cases("train")[0].image, opened().cases("train")[0].image)


def test_one_image_in_two_parts_is_refused(split, tmp_path):
    shutil.copytree(split.parent, tmp_path / "v")
    shutil.copy(tmp_path / "v/images/case_0.nii.gz", tmp_path / "v/images/case_5.nii.gz")
    with pytest.raises(DataError, match=r"case_5\.nii\.gz \(test\) and .*case_0\.nii\.gz \(train\) are the same image"):
        open_data(run(tmp_path / "v", tmp_path / "v/split.csv").data, cache=tmp_path / "cache")


def test_a_swap_of_regions_needs_a_label_for_the_mirrored_ones(opened):
    data = opened(classes=[], regions=REGIONS, swap=[["whole", "core"]])
    with pytest.raises(DataError, match=r"data\.swap: no value of the label files is in core alone"):
        examples_of(data)
