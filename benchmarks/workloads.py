"""What the throughput benchmark trains: drawn JPEGs of about 560 x 480 with elliptical masks, and pairs of networks."""

import csv
import math
import os
import random
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file

import models
from models.config import SmpTeacher
from search.spec.load import StudySpec, load
from trainer.config import Precision

SIZE = int(os.environ.get("KD_BENCHMARK_SIZE", "128"))
"""The side of the networks' input, of all arms alike. A test takes a smaller one, where no time is measured."""
BATCH = 8
SIZES = ((480, 560), (510, 600), (530, 640))
"""Heights and widths of the drawn pictures."""
CLASSES, CHANNELS = 2, 3


@dataclass(frozen=True)
class Workload:
    """A teacher and a student."""

    name: str
    encoder: str
    width: int


WORKLOADS = {
    w.name: w
    for w in (
        Workload("r101-16", "resnet101", 16),
        Workload("r101-8", "resnet101", 8),
        Workload("r18-32", "resnet18", 32),
        Workload("r18-8", "resnet18", 8),  # of `--quick`
    )
}


@dataclass(frozen=True)
class Parts:
    """How many pictures each part has."""

    train: int
    validation: int
    test: int = 2


FULL, TINY = Parts(48, 6), Parts(16, 2)
"""8 training pictures to one for validation, as Kvasir-SEG's 800 and 100; the tiny one is for `--quick`."""


def draw_data(folder: Path, parts: Parts, seed: int = 0) -> None:
    """Write `pictures/images/*.jpg`, `pictures/masks/*.png` and `split.csv` into the folder."""
    draw = random.Random(seed)  # noqa: S311 - no secret
    rows = []
    for part in ("train", "validation", "test"):
        for number in range(getattr(parts, part)):
            name = f"{part}-{number:03d}"
            image, mask = _picture(draw)
            places = [f"pictures/images/{name}.jpg", f"pictures/masks/{name}.png"]
            for place, pixels in zip(places, (image, mask), strict=True):
                (folder / place).parent.mkdir(parents=True, exist_ok=True)
                cv2.imwrite(str(folder / place), pixels)
            rows.append(["pictures", *places, "", part])
    with (folder / "split.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["source", "image", "mask", "group", "split"], *rows])


def _picture(draw: random.Random) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """A bright ellipse on a wavy ground with grain, as polyps have: BGR and its mask of 0 and 255."""
    height, width = draw.choice(SIZES)
    y, x = np.mgrid[:height, :width].astype(np.float32)
    ground = 90 + 40 * np.sin(x / draw.uniform(30, 90)) * np.cos(y / draw.uniform(30, 90))
    axes = (int(draw.uniform(40, 130)), int(draw.uniform(40, 130)))
    centre = (int(draw.uniform(0.3, 0.7) * width), int(draw.uniform(0.3, 0.7) * height))
    mask = np.zeros((height, width), np.uint8)
    cv2.ellipse(mask, centre, axes, math.degrees(draw.uniform(0, math.pi)), 0, 360, 255, -1)
    soft = cv2.GaussianBlur(mask, (21, 21), 0).astype(np.float32) / 255
    grain = np.random.default_rng(draw.randrange(2**32)).normal(0, 8, (height, width)).astype(np.float32)
    shades = [ground * 0.6 + 20 * soft, ground * 0.8 + 35 * soft, ground + 60 * soft]
    return np.clip(np.stack([shade + grain for shade in shades], axis=2), 0, 255).astype(np.uint8), mask


def teacher_file(folder: Path, encoder: str) -> Path:
    """Random weights of a U-Net on the encoder, made once: what a pass costs does not depend on them."""
    path = folder / f"{encoder}.safetensors"
    if not path.is_file():
        torch.manual_seed(0)
        network = models.build(SmpTeacher(name="smp-unet", encoder=encoder), in_channels=CHANNELS, classes=CLASSES)
        save_file({name: tensor.contiguous() for name, tensor in network.state_dict().items()}, path)
    return path


def searched(trials: int, seed: int) -> str:
    """What every workload trains with and searches: the last tables of its study file."""
    return f"""\
[run.losses]
ce   = {{ weight = 1.0 }}
dice = {{ weight = 1.0 }}
kl   = {{ weight = 1.0, temperature = 4.0 }}
[run.optim]
name     = "adamw"
schedule = {{ name = "one-cycle", warmup_epochs = 1 }}
[space]
"losses.kl.temperature" = {{ low = 1.0, high = 8.0, log = true }}
"losses.kl.weight"      = {{ low = 0.1, high = 10.0, log = true }}
"optim.lr"              = {{ low = 1e-4, high = 1e-2, log = true }}
[sampler]
name = "tpe"
seed = {seed}
[budget]
trials    = {trials}
in_flight = {trials}
"""


def study(
    folder: Path,
    workload: Workload,
    *,
    precision: Precision,
    trials: int,
    epochs: int,
    more: tuple[str, ...] = (),
    seed: int = 0,
) -> StudySpec:
    """The study file of a workload, in the folder of its pictures. `more`: PATH=VALUE as of `--set`."""
    path = folder / f"{workload.name}.toml"
    path.write_text(
        f"""\
[objective]
maximize = "dice"
[run]
method     = "kl"
epochs     = {epochs}
batch_size = {BATCH}
precision  = "{precision}"
[run.data]
name    = "polyp"
root    = "{folder}"
split   = "{folder}/split.csv"
size    = {SIZE}
augment = "standard"
[run.teacher]
name       = "smp-unet"
encoder    = "{workload.encoder}"
checkpoint = "{teacher_file(folder, workload.encoder)}"
[run.student]
name  = "unet"
width = {workload.width}
{searched(trials, seed)}"""
    )
    return load(path, list(more), name=f"{workload.name}-{precision}")
