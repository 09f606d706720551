"""How many planted copies of a picture are found again, and how many different pictures are taken for one.

Run as `python -m benchmarks.duplicates` on drawn pictures, with `--root FOLDER` on those of data sets. Writes nothing.
"""

import argparse
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np

from trainer.data.dataset import Pixels
from trainer.data.files import read_image
from trainer.data.perceptual_hash import ALIKE, alike, sketch
from trainer.data.sets.blobs import draw
from trainer.data.splits.folders import find_pairs, find_sets
from trainer.seeds import derive

SIDE = 256
"""Of drawn pictures, in pixels, at least."""


def jpeg(image: Pixels, quality: int) -> Pixels:
    """The picture after it was a JPEG of that quality."""
    stored = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    return np.ascontiguousarray(cv2.imdecode(stored, cv2.IMREAD_COLOR)[..., ::-1])


def resized(image: Pixels, factor: float) -> Pixels:
    """Both sides times the factor."""
    how = cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(image, None, fx=factor, fy=factor, interpolation=how), np.uint8)


def cropped(image: Pixels, share: float) -> Pixels:
    """Without this share of each side's length at either end."""
    down, right = (round(side * share) for side in image.shape[:2])
    return image[down : image.shape[0] - down, right : image.shape[1] - right]


def framed(image: Pixels, share: float, colour: int) -> Pixels:
    """With a frame of one grey, each side's share of the height wide."""
    width = round(image.shape[0] * share)
    edges = [width] * 4
    return np.asarray(cv2.copyMakeBorder(image, *edges, cv2.BORDER_CONSTANT, value=(colour,) * 3), np.uint8)


def grey(image: Pixels) -> Pixels:
    """Without colour."""
    return np.repeat(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[..., None], 3, axis=2)


def brighter(image: Pixels) -> Pixels:
    """A fifth more, cut at white."""
    return np.clip(image * 1.2 + 10, 0, 255).astype(np.uint8)


PLANTED: dict[str, Callable[[Pixels], Pixels]] = {
    "JPEG quality 95": lambda image: jpeg(image, 95),
    "JPEG quality 70": lambda image: jpeg(image, 70),
    "JPEG quality 30": lambda image: jpeg(image, 30),
    "half the size": lambda image: resized(image, 0.5),
    "a quarter of the size": lambda image: resized(image, 0.25),
    "twice the size": lambda image: resized(image, 2.0),
    "squeezed to a square": lambda image: np.asarray(cv2.resize(image, (256, 256)), np.uint8),
    "mirrored left to right": lambda image: image[:, ::-1],
    "upside down mirrored": lambda image: image[::-1],
    "turned by 90 degrees": lambda image: np.rot90(image),
    "turned by 180 degrees": lambda image: np.rot90(image, 2),
    "turned by 270 degrees": lambda image: np.rot90(image, 3),
    "grey": grey,
    "brighter by a fifth": brighter,
    "a quarter, mirrored, turned, JPEG 30": lambda image: jpeg(resized(np.rot90(image[::-1]).copy(), 0.25), 30),
    "black frame of 5 %": lambda image: framed(image, 0.05, 0),
    "white frame of 10 %, JPEG 50": lambda image: jpeg(framed(image, 0.10, 255), 50),
    "cropped by 1 % at each edge": lambda image: cropped(image, 0.01),
    "cropped by 2.5 % at each edge": lambda image: cropped(image, 0.025),
    "cropped by 5 % at each edge": lambda image: cropped(image, 0.05),
}


def found(originals: Sequence[bytes], images: Sequence[Pixels], change: Callable[[Pixels], Pixels]) -> float:
    """The share of images, of 1, whose changed copy is alike to its original."""
    copies = [sketch(np.ascontiguousarray(change(image))) for image in images]
    own = {pair.first for pair in alike(copies, originals[: len(images)]) if pair.first == pair.second}
    return len(own) / len(images)


def pictures(root: Path | None, count: int) -> tuple[list[str], list[Pixels]]:
    """Names and pictures: those of the data sets below a root, at most so many, or as many drawn ones."""
    if root is None:
        return [f"drawn {at}" for at in range(count)], [
            draw(derive(0, "duplicates", at), SIDE)[0] for at in range(count)
        ]
    paths = [pair.image for folder in find_sets(root) for pair in find_pairs(folder)][:count]
    return [str(path.relative_to(root)) for path in paths], [read_image(path) for path in paths]


def main() -> None:
    """Print two Markdown tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, help="a folder of data sets, as `search init` takes it")
    parser.add_argument("--images", type=int, default=2000, help="at most (default: %(default)s)")
    parser.add_argument(
        "--planted", type=int, default=200, help="of them that copies are planted of (default: %(default)s)"
    )
    args = parser.parse_args()
    names, images = pictures(args.root, args.images)
    start = time.perf_counter()
    sketches = [sketch(image) for image in images]
    sketched = time.perf_counter()
    pairs = alike(sketches)
    compared = time.perf_counter()
    everything = len(images) * (len(images) - 1) // 2
    print(f"| change | found of {len(images[: args.planted])} |\n| --- | ---: |")
    for name, change in PLANTED.items():
        print(f"| {name} | {found(sketches, images[: args.planted], change):.1%} |")
    near = max((pair.similarity for pair in alike(sketches, least=0.5)), default=None)
    nearest = "below 0.5" if near is None else f"{near:.3f}"
    print(
        f"\n| pictures | pairs | alike from {ALIKE} | per million pairs | most alike | sketching s | comparing s |\n"
        "| ---: | ---: | ---: | ---: | ---: | ---: | ---: |\n"
        f"| {len(images)} | {everything} | {len(pairs)} | {1e6 * len(pairs) / everything:.2f} | {nearest} | "
        f"{sketched - start:.1f} | {compared - sketched:.1f} |"
    )
    for pair in sorted(pairs, key=lambda pair: -pair.similarity):
        print(f"\n{names[pair.first]} and {names[pair.second]}: {pair.similarity:.3f}")


if __name__ == "__main__":
    main()
