"""Packages for volumes that tests make of drawn weights."""

import json
import shutil
from pathlib import Path

import numpy as np
import torch

import models
from trainer import checkpoint
from trainer.package import inference

VALUED = [{"name": "ground", "value": 0}, {"name": "ball", "value": [1, 4]}, {"name": "core", "value": 2}]
RECIPE = {"recipe": "none", "spacing": [1.2, 1.2, 2.5], "window": [-1, 4], "crop": "positive", "zscore": "volume"}
MM = (0.7, 0.7, 5.0)


def oblique(mm=MM):
    """An affine of these spacings, turned by 20 degrees around x and by 30 around z, with x and y swapped."""
    a, b = np.deg2rad(20), np.deg2rad(30)
    around_x = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    around_z = np.array([[np.cos(b), -np.sin(b), 0], [np.sin(b), np.cos(b), 0], [0, 0, 1]])
    swapped = np.array([[0, -1, 0], [1, 0, 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3] = around_z @ around_x @ swapped @ np.diag(mm)
    affine[:3, 3] = (31, -17.5, 8)
    return affine


def weights(path: Path, settings) -> None:
    """Weights as `trainer fit -o` writes them, drawn so that masks have all labels."""
    from trainer.data.classes import classes_of

    classes = len(classes_of(settings.data))
    torch.manual_seed(3)
    network = models.build(settings.student, in_channels=1, classes=classes, size=settings.data.patch, dims=3)
    for tensor in network.parameters():
        if tensor.ndim > 1:
            tensor.data.normal_(0, (2 / tensor[0].numel()) ** 0.5)
    words = {
        "network": settings.student.model_dump(mode="json", exclude={"checkpoint"}),
        "channels": 1,
        "classes": classes,
        "data": _content(settings, path.parent),
        "train_images": [],
        "scores": {"dice": 0.25},
        "epoch": 1,
        "run": settings.model_dump(mode="json"),
    }
    checkpoint.export(path, network.state_dict(), words)


def _content(settings, folder):
    from trainer.data import open_data

    return open_data(settings.data, cache=folder / "cache").content_hash


def changed(package, folder, changes):
    """A copy of a package that says other things of itself, with sums that fit."""
    copy = folder / "changed"
    shutil.copytree(package, copy)
    path = copy / inference.PREPROCESSING
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    (copy / inference.SUMS).write_text(inference.sums(copy, inference.FILES))
    return copy
