"""Whether each network can learn at all: eight real polyp images by heart, on a CPU.

    OMP_NUM_THREADS=1 nice -n 19 python -m benchmarks.overfit --data FOLDER    # goes on after what is done
    python -m benchmarks.overfit --data FOLDER --table --sheet $HOME/overfit.png

FOLDER holds `Kvasir-SEG/train/{images,masks}`; its first eight pictures by name, squeezed to the network's size, are
one batch, without augmentation. Cross-entropy and Dice of the logits, and of the heads where there are any, AdamW;
every ten steps the network is put into evaluation mode, so that running means count, and the mean Dice of the eight
is taken. A network that has not passed 0.9 within the steps begins again at a smaller learning rate. Weights are
random. The sheet shows images, truths and the predictions of each network.
"""

import argparse
import base64
import sys
import time
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from torch import Tensor

import losses
from benchmarks.cells import HERE, Cells
from benchmarks.structures import STRUCTURES, network, student
from losses.config import CeDice
from losses.term import Loss
from models.output import Segmenter
from trainer.cli.entry import guard
from trainer.data.streams.batches import normalise
from trainer.errors import UserError

RAW = HERE / "overfit_raw.jsonl"
IMAGES, EVERY, GOAL = 8, 10, 0.9
RATES, GENTLE = (3e-3, 1e-3), (1e-3, 3e-4)
"""Learning rates that are tried, of plain networks and of those with transformers."""
TRANSFORMERS = ("transunet", "uctransnet", "missformer", "swin-", "hiformer-", "cascade-")
TAILS = ("small-tail-attention", "small-tail-wide", "small-tail-residual")
WIDER: Mapping[str, Mapping[str, Any]] = {
    **{name: {"width": 8} for name, each in STRUCTURES.items() if each.options.get("width") == 4},
    "transunet": {"width": 16, "layers": 2},
    "uctransnet": {"width": 8, "layers": 2},
    "missformer": {"width": 16},
    "swin-unet": {"width": 24},
    "hiformer-s": {"width": 24},
    "hiformer-b": {"width": 24},
    "hiformer-l": {"width": 24},
    "cascade-transunet": {"width": 16, "layers": 2},
    **{name: {"width": 16} for name in (*TAILS, "small-skips")},
    "small-double": {"width": 32},
}
"""Options over those of `benchmarks.structures`, where those are too small to learn much."""
LONGER: Mapping[str, int] = {
    **dict.fromkeys((*TAILS, "small-double"), 6),
    **dict.fromkeys(("missformer", "small-skips", "smp-linknet"), 3),
}
"""How many times the steps are given to those that go on slowly but go on."""


class Pictures(NamedTuple):
    """All in one batch."""

    images: NDArray[np.uint8]
    """(N, side, side, 3), RGB."""
    masks: NDArray[np.bool_]
    """(N, side, side)"""


def pictures(folder: Path, side: int) -> Pictures:
    """The first eight by name. Raises UserError where there are fewer."""
    place = folder / "Kvasir-SEG" / "train"
    paths = sorted((place / "images").glob("*.jpg"))[:IMAGES]
    if len(paths) < IMAGES:
        raise UserError(f"--data {folder}: {len(paths)} pictures in {place / 'images'}; expected {IMAGES} at least")
    images, masks = [], []
    for path in paths:
        image = cv2.imread(str(path))
        mask = cv2.imread(str(place / "masks" / f"{path.stem}.png"), cv2.IMREAD_GRAYSCALE)
        if image is None or mask is None:
            raise UserError(f"{path}: it or its mask cannot be read; expected masks/{path.stem}.png beside images")
        images.append(cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA)[..., ::-1])
        masks.append(cv2.resize(mask, (side, side), interpolation=cv2.INTER_AREA) > 127)
    return Pictures(np.ascontiguousarray(np.stack(images), np.uint8), np.stack(masks))


def dice(predicted: NDArray[np.bool_], truth: NDArray[np.bool_]) -> float:
    """The mean over images; no mask is empty."""
    both, sizes = (predicted & truth).sum((1, 2)), predicted.sum((1, 2)) + truth.sum((1, 2))
    return float((2 * both / sizes).mean())


def train(built: Segmenter, given: Pictures, rate: float, steps: int) -> tuple[int, float, NDArray[np.bool_]]:
    """Steps that were taken, the Dice then, and the masks."""
    images = normalise(torch.from_numpy(given.images), built.normalisation)
    target = torch.from_numpy(given.masks).long()
    config = CeDice(heads=1.0) if built.deep_heads else CeDice()
    loss = losses.build("ce-dice", config, student=built.taps, teacher=None, classes=2, heads=built.deep_heads)
    optimizer = torch.optim.AdamW(built.parameters(), lr=rate, weight_decay=0.0)
    best, masks = 0.0, given.masks
    for step in range(1, steps + 1):
        _step(built.train(), loss, images, target, optimizer)
        if step % EVERY == 0:
            masks = _masks(built.eval(), images)
            best = dice(masks, given.masks)
            if best > GOAL:
                return step, best, masks
    return steps, best, masks


def _step(built: Segmenter, loss: Loss, images: Tensor, target: Tensor, optimizer: torch.optim.Optimizer) -> None:
    term = loss(built(images), None, target)
    optimizer.zero_grad()
    (term.total / term.count).backward()
    torch.nn.utils.clip_grad_norm_(built.parameters(), 1.0)
    optimizer.step()


def _masks(built: Segmenter, images: Tensor) -> NDArray[np.bool_]:
    with torch.no_grad():
        masks: NDArray[np.bool_] = (built(images).logits.argmax(1) == 1).numpy()
    return masks


def measure(name: str, folder: Path, steps: int) -> dict[str, Any]:
    """A line of the raw file."""
    size = STRUCTURES[name].size
    given, options = pictures(folder, size), WIDER.get(name, {})
    begun, tries = time.process_time(), []
    for rate in GENTLE if name.startswith(TRANSFORMERS) else RATES:
        built = network(student(name, **options), size)
        taken, score, masks = train(built, given, rate, LONGER.get(name, 1) * steps)
        tries.append({"rate": rate, "steps": taken, "dice": round(score, 4)})
        if score > GOAL:
            break
    return {
        "network": name,
        "options": {**STRUCTURES[name].options, **options},
        "size": size,
        "parameters": sum(each.numel() for each in built.parameters()),
        "tries": tries,
        "masks": base64.b64encode(zlib.compress(np.packbits(masks).tobytes(), 9)).decode(),
        "cpu_seconds": round(time.process_time() - begun, 1),
    }


def in_order(cells: Cells) -> list[dict[str, Any]]:
    """The lines, networks as `benchmarks.structures` lists them."""
    places = list(STRUCTURES)
    return sorted(cells.lines(), key=lambda line: places.index(line["network"]))


def table(cells: Cells) -> Iterator[str]:
    """A row a network, in Markdown."""
    yield "| network | options | side | parameters | rate | steps | Dice of the eight | CPU s |"
    yield "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |"
    lines = in_order(cells)
    for line in lines:
        options = ", ".join(f"{key} {value}" for key, value in line["options"].items())
        last = line["tries"][-1]
        cost = f"{line['parameters']:,} | {last['rate']:g} | {last['steps']} | {last['dice']:.3f}"
        yield f"| {line['network']} | {options} | {line['size']} | {cost} | {line['cpu_seconds']:.0f} |"
    yield ""
    there = sum(line["tries"][-1]["dice"] > GOAL for line in lines)
    yield f"{there} of {len(lines)} networks pass {GOAL}."


TILE, LABEL = 64, 190


def sheet(cells: Cells, folder: Path) -> Image.Image:
    """Images, truths and the predictions of each network, a row each, in two columns."""
    given = pictures(folder, TILE)
    rows: list[tuple[str, NDArray[np.uint8]]] = [("images", given.images), ("truth", _white(given.masks))]
    for line in in_order(cells):
        bits = np.frombuffer(zlib.decompress(base64.b64decode(line["masks"])), np.uint8)
        masks = np.unpackbits(bits).reshape(IMAGES, line["size"], line["size"]).astype(bool)
        rows.append((f"{line['network']}  {line['tries'][-1]['dice']:.3f}", _white(masks)))
    half = (len(rows) + 3) // 2
    columns = [rows[:half], [*rows[:2], *rows[half:]]]
    wide = LABEL + IMAGES * (TILE + 2)
    page = Image.new("RGB", (2 * wide, max(map(len, columns)) * (TILE + 2)), "black")
    draw = ImageDraw.Draw(page)
    for column, listed in enumerate(columns):
        for number, (label, tiles) in enumerate(listed):
            top = number * (TILE + 2)
            draw.text((column * wide + 6, top + TILE // 2 - 6), label, fill="white")
            for place, tile in enumerate(tiles):
                small = Image.fromarray(tile).resize((TILE, TILE), Image.Resampling.NEAREST)
                page.paste(small, (column * wide + LABEL + place * (TILE + 2), top))
    return page


def _white(masks: NDArray[np.bool_]) -> NDArray[np.uint8]:
    return np.repeat(masks[..., None] * np.uint8(255), 3, axis=3)


def main() -> int:
    """Train those that are not done yet, print the table and draw the sheet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, metavar="FOLDER", help="holds Kvasir-SEG")
    parser.add_argument("--networks", nargs="+", choices=STRUCTURES, default=list(STRUCTURES), metavar="NAME")
    parser.add_argument("--steps", type=int, default=150, help="at each learning rate, at most")
    parser.add_argument("--raw", type=Path, default=RAW, help="one line a network; what is there is not done again")
    parser.add_argument("--sheet", type=Path, help="PNG to draw")
    parser.add_argument("--table", action="store_true", help="train nothing")
    args = parser.parse_args()
    torch.set_num_threads(1)
    cells = Cells(args.raw, ("network",))
    for name in () if args.table else args.networks:
        if {"network": name} not in cells:
            cells.add(**measure(name, args.data, args.steps))
    if args.sheet is not None:
        sheet(cells, args.data).save(args.sheet)
    print("\n".join(table(cells)))
    return 0


if __name__ == "__main__":
    sys.exit(guard(main))
