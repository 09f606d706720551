"""Folders of small random pictures with masks, as data sets are shipped."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image


def save(path: Path, seed: int, *, mask: bool = False) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).integers(0, 256, (8, 10) if mask else (8, 10, 3), dtype=np.uint8)
    Image.fromarray((noise > 200).astype(np.uint8) * 255 if mask else noise).save(path)


def pair(
    folder: Path, name: str, seed: int, *, images: str = "images", masks: str = "masks", ending: str = ".png"
) -> None:
    save(folder / images / f"{name}{ending}", seed)
    save(folder / masks / f"{name}.png", seed, mask=True)


def source(folder: Path, count: int, *, first_seed: int = 0) -> Path:
    for number in range(count):
        pair(folder, f"{number:03d}", first_seed + number)
    return folder


@pytest.fixture(scope="session", name="save")
def _save() -> Callable[..., Any]:
    """Write a random picture, or mask: `save(path, seed, mask=True)`."""
    return save


@pytest.fixture(scope="session", name="pair")
def _pair() -> Callable[..., Any]:
    """Write a picture and its mask: `pair(folder, name, seed)`."""
    return pair


@pytest.fixture(scope="session", name="source")
def _source() -> Callable[..., Any]:
    """Write so many pairs; returns the folder: `source(folder, count)`."""
    return source
