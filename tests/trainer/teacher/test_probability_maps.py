"""Teachers that are stored probability maps."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from trainer.data import DataSet
from trainer.data.streams.batches import BatchImages
from trainer.distributed.ranks import Ranks
from trainer.dry_run import check
from trainer.engine.resources import SharedResources
from trainer.teacher.assessment import facts, floor
from trainer.teacher.probability_maps import Maps


@pytest.fixture
def folder(data: DataSet, tmp_path: Path) -> Path:
    """Maps that are the masks themselves, of all three kinds."""
    for part in ("train", "validation"):
        for index, sample in enumerate(data.samples(part)):
            path = (tmp_path / "maps" / sample.name).with_suffix(".png")
            path.parent.mkdir(parents=True, exist_ok=True)
            mask = data.native_mask(part, index)
            if index % 3 == 0:
                cv2.imwrite(str(path), mask * 255)
            elif index % 3 == 1:
                cv2.imwrite(str(path), mask.astype(np.uint16) * 65535)
            else:
                np.save(path.with_suffix(".npy"), mask.astype(np.float32))
    return tmp_path / "maps"


class TestMaps:
    def test_they_are_bent_along_with_the_mask_in_every_view(self, data, folder, tmp_path, taught_by):
        run = taught_by({"name": "maps", "checkpoint": str(folder)})
        resources = SharedResources(Ranks("cpu"), tmp_path)
        for epoch in (0, 1):
            for batch in resources.stream(run).epoch(epoch):
                heard = resources.teacher_output(run, epoch, batch.indices, BatchImages(torch.empty(0)), frozenset())
                assert heard is not None
                inside = batch.masks != 255
                # OpenCV rounds places differently in planes of floats: a pixel here and there is its neighbour's.
                wrong = heard.logits.argmax(1)[inside] != batch.masks.long()[inside]
                assert int(wrong.sum()) <= 0.03 * int((batch.masks == 1).sum())
        assert resources.visible(run) is None

    def test_their_dice_is_that_of_the_maps(self, data, folder, taught_by):
        known = facts(taught_by({"name": "maps", "checkpoint": str(folder)}), data, whole=True)
        assert (known.dice, known.train_dice, known.seen) == (1.0, 1.0, None)
        assert known.entropy is not None
        assert known.entropy < 0.02

    def test_missing_maps_are_counted_and_named(self, data, folder, taught_by, refusal):
        gone = sorted(folder.rglob("*.png"))
        for path in gone:
            path.unlink()
        text = refusal(lambda: floor(taught_by({"name": "maps", "checkpoint": str(folder)}), data))
        assert "4 train images have no map" in text
        assert "and 1 more" in text

    def test_maps_of_the_foreground_are_refused_for_more_than_two_classes(self, folder, refusal, monkeypatch, data):
        monkeypatch.setattr(data, "classes", 3)
        text = refusal(lambda: Maps(folder, data))
        assert 'teacher.name = "maps": tells two classes apart, and the data has 3; bring the network' in text

    def test_what_is_no_map_is_refused(self, data, folder, taught_by, refusal):
        run = taught_by({"name": "maps", "checkpoint": str(folder)})
        for path in folder.rglob("*.npy"):
            np.save(path, np.full((4, 4), 7.0))
        assert "from 0 to 1" in refusal(lambda: facts(run, data, whole=True))

    def test_without_views_they_are_refused(self, folder, taught_by):
        plain = {"name": "blobs", "size": 32, "train": 6, "validation": 4, "test": 2, "augment": "standard"}
        with pytest.raises(ValueError, match=r"needs data\.views"):
            check(taught_by({"name": "maps", "checkpoint": str(folder)}, data=plain))
