"""Data sets with regions, which overlap: by values of one mask, by classes, and a file a region."""

import re
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from pydantic import ValidationError

from trainer.config import PictureData
from trainer.data import DataError, open_data
from trainer.data.classes import classes_of, foreground_of
from trainer.data.dataset import DataSet, foreground_names
from trainer.data.masks import Regions, regions_of
from trainer.data.splits.split import Row, write_split
from trainer.data.streams.stream import Stream

PARTS = ("train", "train", "validation", "test")
NESTED = {"whole": [1, 2, 4], "core": [1, 4], "enhancing": 4}
APART = {"disc": (slice(4, 14), slice(4, 16)), "cup": (slice(8, 18), slice(10, 20))}
"""Two boxes that overlap, and neither lies in the other."""


def nested(number: int) -> np.ndarray:
    """A mask of 0, 2 around 1 around 4, and a corner of 9, which is to be ignored."""
    mask = np.zeros((20, 24), np.uint8)
    mask[2:18, 4 : 18 + number] = 2
    mask[5:14, 7:15] = 1
    mask[8:11, 9:12] = 4
    mask[:2, :2] = 9
    return mask


def make(root: Path, mask: str = "masks/{}.png") -> Path:
    """Four pictures with a nested mask, two files of regions that overlap, and their split file."""
    for below in ("images", "masks"):
        (root / below).mkdir(parents=True)
    rows = []
    for number, part in enumerate(PARTS):
        pixels = np.random.default_rng(number).integers(0, 256, (20, 24, 3), dtype=np.uint8)
        cv2.imwrite(str(root / f"images/{number}.png"), pixels)
        cv2.imwrite(str(root / f"masks/{number}.png"), nested(number))
        for name, box in APART.items():
            one = np.zeros((20, 24), np.uint8)
            one[box] = 255
            cv2.imwrite(str(root / f"masks/{number}_{name}.png"), one)
        rows.append(Row("S", f"images/{number}.png", mask.replace("{}", str(number)), "", part))
    write_split(root / "split.csv", rows)
    return root


def settings(root: Path, **more: object) -> PictureData:
    places = {"root": str(root), "split": str(root / "split.csv")}
    return PictureData.model_validate({"name": "pictures", "size": 32, "augment": "none", **places, **more})


def opened(root: Path, **more: object) -> DataSet:
    return open_data(settings(root, **more), cache=root / "cache")


def regions(data: DataSet) -> Regions:
    assert data.regions is not None
    return data.regions


def test_values_of_one_mask_are_in_several_regions(tmp_path):
    data = opened(make(tmp_path), regions=NESTED, ignore=9)
    assert (data.classes, tuple(data.class_names)) == (3, ("whole", "core", "enhancing"))
    assert foreground_names(data) == data.class_names, "none of them is the ground"
    masks, shipped = regions(data).masks(data.native_mask("train", 1)), nested(1)
    assert (masks.shape, masks.dtype) == ((3, 20, 24), np.uint8)
    for mask, values in zip(masks, ([1, 2, 4], [1, 4], [4]), strict=True):
        expected = np.isin(shipped, values).astype(np.uint8)
        expected[shipped == 9] = 255
        assert (mask == expected).all(), "what is ignored is so in every region"


def test_classes_name_what_masks_hold_and_regions_take_them_by_name(tmp_path):
    names = {"ground": 0, "necrosis": 1, "oedema": 2, "enhancing": 4}
    classes = [{"name": name, "value": value} for name, value in names.items()]
    by_name = {"whole": ["necrosis", "oedema", "enhancing"], "core": ["necrosis", 4], "enhancing": "enhancing"}
    root = make(tmp_path)
    one, other = opened(root, regions=NESTED, ignore=9), opened(root, regions=by_name, classes=classes, ignore=9)
    assert (one.native_mask("train", 0) == other.native_mask("train", 0)).all()
    assert regions(one) == regions(other)
    assert one.content_hash != other.content_hash, "what a person wrote of the values is part of the data"


def test_files_of_regions_may_overlap(tmp_path):
    data = opened(make(tmp_path, "masks/{}_{class}.png"), regions={"disc": {}, "cup": {"colour": "#ff0000"}})
    disc, cup = regions(data).masks(data.native_mask("train", 0))
    for mask, box in ((disc, APART["disc"]), (cup, APART["cup"])):
        assert mask[box].all()
        assert mask.sum() == mask[box].sum()
    assert (disc & cup).any(), "each pixel is in as many as it lies in"
    assert [known.colour for known in foreground_of(data.config)][1] == (255, 0, 0)


def test_a_batch_has_one_mask_a_region_whose_padding_is_ignored_in_all(tmp_path):
    data = opened(make(tmp_path), regions=NESTED, ignore=9, augment="standard")
    batch = next(Stream(data, batch_size=2, seed=1, rank=0, world=1).epoch(0))
    target = batch.target(torch.device("cpu"))
    assert (tuple(target.shape), target.dtype) == ((2, 3, 32, 32), torch.uint8)
    ignored = target == 255
    assert ignored.any()
    assert (ignored == ignored[:, :1]).all()
    whole, core, enhancing = target.unbind(1)
    assert (whole >= core).all()
    assert (core >= enhancing).all()
    assert (enhancing == 1).any()


@pytest.mark.parametrize(
    "more", [{"regions": NESTED}, {"classes": [{"name": f"c{v}", "value": v} for v in (0, 1, 2, 4)]}]
)
def test_padding_is_background_where_the_settings_say_so(tmp_path, more):
    root = make(tmp_path)
    usual, other = (opened(root, ignore=9, **more, **padding) for padding in ({}, {"padding": "background"}))
    one, two = usual.fitted("train", 0)[1], other.fitted("train", 0)[1]
    around = one[:2]
    assert (around == 255).all()
    assert (two[:2] == 0).all()
    assert (two == 255).any(), "what the mask ignores stays ignored"
    inside = slice(3, 29)
    assert (one[inside] == two[inside]).all()
    assert "padding" not in usual.config.model_dump()


def test_runs_keep_regions_as_a_list_in_their_order(tmp_path):
    config = settings(tmp_path, regions=NESTED)
    assert [known.name for known in classes_of(config)] == list(NESTED)
    kept = PictureData.model_validate_json(config.model_dump_json())
    assert kept == config
    assert kept.model_dump_json() == config.model_dump_json()


@pytest.mark.parametrize(
    ("stated", "message"),
    [
        ({"regions": {"a": 1, "b": {}}}, "regions: 'b' has no value and 'a' has one"),
        ({"regions": [{"name": "a", "value": 1}, {"name": "a", "value": 2}]}, "regions: two are named 'a'"),
        ({}, "classes: 0 named, expected 2 or more, the ground first; for objects that overlap name regions"),
        ({"regions": {f"r{at}": {} for at in range(8)}}, "regions: 8 in files of their own, 7 at most"),
        ({"regions": {"a": {}}, "classes": [{"name": "b"}]}, "classes: regions without values are a file each"),
        ({"regions": {"a": 1}, "classes": [{"name": "b"}]}, "classes: regions take classes by their values"),
        ({"regions": {"a": 1}, "reader": "segpc-cell", "channels": 4}, "reader = 'segpc-cell': a cell has no regions"),
    ],
)
def test_what_cannot_be_regions_is_refused_where_it_is_written(tmp_path, stated, message):
    with pytest.raises(ValidationError, match=re.escape(message)):
        settings(tmp_path, **stated)


CLASSES = [{"name": "ground", "value": 0}, {"name": "core", "value": [1, 4]}]


@pytest.mark.parametrize(
    ("stated", "message"),
    [
        ({"regions": {"a": "oedema"}}, "data.regions.a = 'oedema': expected a number from 0 to 255"),
        ({"regions": {"a": 2}, "classes": CLASSES}, "data.regions.a = 2: no class of data.classes has 2"),
        ({"regions": {"a": 1}, "ignore": 1}, "data.ignore = 1: 1 has a class or a region"),
        ({"regions": {"a": 1}, "classes": [*CLASSES, {"name": "b", "value": 4}]}, "4 is core already; keep one"),
    ],
)
def test_values_of_regions_that_mean_nothing_are_refused(tmp_path, stated, message):
    with pytest.raises(DataError, match=re.escape(message)):
        regions_of(settings(tmp_path, **stated))


def test_a_value_that_no_region_has_is_an_error_that_names_the_file(tmp_path):
    with pytest.raises(DataError, match=r"hold values that nobody named: .*9 .*masks/0\.png"):
        opened(make(tmp_path), regions=NESTED)
