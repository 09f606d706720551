"""Decoded pictures on disk, read through memory maps, so that ranks and runs of one machine share them in memory.

A folder holds one part of a data set: `images.u8` (n, size, size, channels; `.u16` of 16 bits), `masks.u8` (n, size,
size), `native.u8` (the native masks one after another) and `manifest.json`. Its name is the hash of what was decoded
and how. One process builds it beside its place and renames it once all is on the disk; others wait for the lock,
outside any collective. A folder whose files have not the sizes that its manifest says is built again.
"""

import hashlib
import json
import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import numpy as np
from filelock import FileLock, Timeout
from loguru import logger

from trainer.atomic_files import private_folder, sync_folder, whole_folder, write_text
from trainer.config import PictureData, PolypData
from trainer.data.classes import bits_of, channels_of
from trainer.data.dataset import Picture, Pixels, Placement
from trainer.data.file_check import Progress, threads
from trainer.data.letterbox import fit_image, fit_mask, place
from trainer.data.masks import BLACK_AND_WHITE
from trainer.data.reading import OUTLINES, Reading
from trainer.errors import DataError

FORMAT = 1
"""Goes up with every change of what the arrays hold."""
ASK_SECONDS = 0.2
LOG_SECONDS = 15.0
"""Seconds between two tries for the lock, and between two lines that say that this process waits."""

_AT_ONCE = 64

T = TypeVar("T")
Depth = type[np.uint8] | type[np.uint16]


@dataclass(frozen=True)
class Decoded:
    """One part, decoded; read-only."""

    images: Picture
    """(n, size, size, channels)."""
    masks: Pixels
    """(n, size, size) labels, around a letterboxed picture 255, or 0 where the padding is background."""
    native: tuple[Pixels, ...]
    """n masks (height, width)."""
    placements: tuple[Placement, ...]
    fresh: bool = False
    """Whether this process decoded it just now."""


Settings = PolypData | PictureData
Pair = tuple[Path, Path, Reading]
"""An image, its mask, and how both are read."""


def decoded(
    folder: Path, content: str, pairs: Sequence[Pair], config: Settings, progress: Progress | None = None
) -> Decoded:
    """The decoded part, built where the folder does not hold it yet.

    `content` is the hash of all files in `pairs`. Raises DataError where a file turns out bad or the folder cannot be
    written.
    """
    # Pictures of two plain classes have the names that they always had.
    keys = [reading.key or str(BLACK_AND_WHITE) for *_, reading in pairs]
    named = "\x1f".join(keys) if any(reading.key for *_, reading in pairs) else ""
    padded = "" if config.padding == "ignored" else f" on {config.padding}"
    text = f"{FORMAT}\x1f{content}\x1f{config.size}\x1f{config.fit}{padded}" + (named and f"\x1f{named}")
    text += "\x1fholes" if any(mask.suffix.lower() == OUTLINES for _, mask, _ in pairs) else ""  # once were filled
    key = hashlib.sha256(text.encode()).hexdigest()[:32]
    place_of = folder / key
    cached = _open(place_of, len(pairs), config)
    built = False
    if cached is None:
        try:
            private_folder(folder)
            with locked(folder / f".{key}.lock", place_of):
                cached = _open(place_of, len(pairs), config)
                if cached is None:
                    _build(place_of, pairs, config, progress)
                    built = True
        except OSError as error:
            raise DataError(
                f"{folder}: the decoded pictures cannot be kept there ({error}); choose another cache folder"
            ) from error
        cached = cached or _open(place_of, len(pairs), config)
    if cached is None:
        raise DataError(f"{place_of}: does not hold what was just written there; is the disk damaged?")
    return replace(cached, fresh=built)


def kept_file(place: Path, make: Callable[[], T], *, write: Callable[[T], str], read: Callable[[str], T]) -> T:
    """What a small file of the cache holds, made once where it is not there or not whole.

    `read` raises ValueError or TypeError for what `write` never wrote. Raises DataError where the folder cannot be
    written.
    """
    value = _read_kept(place, read)
    if value is not None:
        return value
    try:
        private_folder(place.parent)
        with locked(place.parent / f".{place.stem}.lock", place):
            value = _read_kept(place, read)
            if value is None:
                value = make()
                write_text(place, write(value))
    except OSError as error:
        raise DataError(f"{place.parent}: cannot be written ({error}); choose another cache folder") from error
    return value


def _read_kept(place: Path, read: Callable[[str], T]) -> T | None:
    try:
        return read(place.read_text())
    except (OSError, ValueError, TypeError):
        return None


@contextmanager
def locked(path: Path, what: Path) -> Iterator[None]:
    """Hold the lock, and say which `what` another process makes while it is waited for. The system frees it when its
    holder dies."""
    lock = FileLock(path)
    start = logged_at = time.monotonic()
    while True:
        try:
            lock.acquire(timeout=0)
            break
        except Timeout:
            if time.monotonic() - logged_at >= LOG_SECONDS:
                logged_at = time.monotonic()
                logger.info("another process makes {}; waiting for {:.0f} s", what, logged_at - start)
            time.sleep(ASK_SECONDS)
    try:
        yield
    finally:
        lock.release()


def _build(place_of: Path, pairs: Sequence[Pair], config: Settings, progress: Progress | None) -> None:
    start = time.monotonic()
    with whole_folder(place_of) as beside:
        _write(beside, pairs, config, progress)
        if place_of.exists():
            logger.warning("{} is damaged; its pictures were decoded again", place_of)
    logger.info("decoded {} pictures into {} in {:.1f} s", len(pairs), place_of, time.monotonic() - start)


def _write(folder: Path, pairs: Sequence[Pair], config: Settings, progress: Progress | None) -> None:
    """Decode all pairs, a few at once, in order; memory stays bounded."""

    def one(pair: Pair) -> tuple[Picture, Pixels, Pixels, Placement]:
        path, mask_path, reading = pair
        image, mask = reading.pair(path, mask_path)
        height, width = mask.shape
        placement = place(height, width, config.size, config.fit)
        fitted = fit_mask(mask, placement, config.size, config.padding)
        return fit_image(image, placement, config.size), fitted, mask, placement

    placements: list[Placement] = []
    with (
        ThreadPoolExecutor(threads(), thread_name_prefix="decode") as pool,
        (folder / _images(config)).open("wb") as images,
        (folder / "masks.u8").open("wb") as masks,
        (folder / "native.u8").open("wb") as native,
    ):
        for start in range(0, len(pairs), _AT_ONCE):
            for image, mask, native_mask, placement in pool.map(one, pairs[start : start + _AT_ONCE]):
                images.write(image.tobytes())
                masks.write(mask.tobytes())
                native.write(native_mask.tobytes())
                placements.append(placement)
                if progress:
                    progress(len(placements), len(pairs))
        for file in (images, masks, native):
            _flush(file)
    manifest = {"format": FORMAT, "size": config.size, "placements": placements, "bytes": _bytes(placements, config)}
    with (folder / "manifest.json").open("wb") as file:
        file.write(json.dumps(manifest).encode())
        _flush(file)
    sync_folder(folder)


def _open(folder: Path, count: int, config: Settings) -> Decoded | None:
    """The arrays, or None where they are not there or not whole."""
    try:
        manifest = json.loads((folder / "manifest.json").read_text())
        placements = tuple(Placement(*map(int, numbers)) for numbers in manifest["placements"])
        sizes = {name: (folder / name).stat().st_size for name in (_images(config), "masks.u8", "native.u8")}
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if len(placements) != count or sizes != _bytes(placements, config) or manifest["bytes"] != sizes:
        return None
    side = config.size
    flat = _map(folder / "native.u8", (sizes["native.u8"],), np.uint8)
    ends = list(accumulate(p.height * p.width for p in placements))
    starts = [0, *ends[:-1]]
    native = tuple(flat[a:b].reshape(p.height, p.width) for a, b, p in zip(starts, ends, placements, strict=False))
    return Decoded(
        images=_map(folder / _images(config), (count, side, side, channels_of(config)), _depth(config)),
        masks=_map(folder / "masks.u8", (count, side, side), np.uint8),
        native=native,
        placements=placements,
    )


def _bytes(placements: Sequence[Placement], config: Settings) -> dict[str, int]:
    area = config.size * config.size
    native = sum(p.height * p.width for p in placements)
    pixel = channels_of(config) * np.dtype(_depth(config)).itemsize
    return {_images(config): len(placements) * area * pixel, "masks.u8": len(placements) * area, "native.u8": native}


def _depth(config: Settings) -> Depth:
    return np.uint16 if bits_of(config) > 8 else np.uint8


def _images(config: Settings) -> str:
    return "images.u16" if _depth(config) is np.uint16 else "images.u8"


def _map(path: Path, shape: tuple[int, ...], depth: Depth) -> Any:
    if math.prod(shape) == 0:
        return np.empty(shape, depth)  # an empty file cannot be mapped
    return np.memmap(path, depth, mode="r", shape=shape)


def _flush(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())
