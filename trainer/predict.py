"""`python -m trainer predict`: masks for a folder of pictures, or a grid of validation cases beside the teacher's."""

from argparse import Namespace
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from trainer.cases import drawn, labels
from trainer.data.dataset import DataSet, Pixels
from trainer.errors import UserError
from trainer.evaluate import run_of
from trainer.launch import device, writable
from trainer.pictures import chosen, overlay
from trainer.progress import Counting
from trainer.runfile import Entry, read

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from models.output import Segmenter
    from trainer.config import Precision
    from trainer.scores import Scores
    from trainer.weights import Ready

BATCH = 8


def main(args: Namespace) -> int:
    """Write masks and overlays, or the grid. Raises UserError, CheckpointError, DataError."""
    import torch

    from trainer.weights import ready

    if args.grid == (args.images is not None):
        raise UserError("predict: give a folder of pictures or --grid, one of the two")
    where = torch.device(device(args.device) or ("cuda" if torch.cuda.is_available() else "cpu"))
    made = ready(_weights(args), device=where)
    if args.grid:
        return _grid(args, made, where)
    return _folder(args, made, where)


def _weights(args: Namespace) -> Path:
    """The weights' file itself, or the one that an export names. Raises UserError."""
    path: Path = args.weights
    if path.suffix != ".json":
        if args.rank is not None:
            raise UserError(f"--rank {args.rank}: {path} is no export of a search; leave --rank out")
        return path
    entry = read(path, rank=args.rank).entry
    if entry is None:
        raise UserError(f"{path}: is a run, not weights; train it: python -m trainer fit {path} -o weights.safetensors")
    found = [place for place in _places(path, entry) if place.is_file()]
    if not found:
        raise UserError(
            f"{path}: the weights of #{entry.rank} are not here; train them: "
            f"python -m trainer fit {path} --rank {entry.rank} -o weights.safetensors"
        )
    return found[0]


def _places(path: Path, entry: Entry) -> Iterator[Path]:
    """Where an export may mean: beside itself, or from the working folder."""
    if entry.weights is not None:
        yield path.parent / entry.weights
        yield Path(entry.weights)


def _folder(args: Namespace, made: "Ready", where: "torch.device") -> int:
    from trainer.data.files import SUFFIXES, read_image
    from trainer.data.fit import fit_image, place
    from trainer.scores import native_logits

    if not args.images.is_dir():
        raise UserError(f"{args.images}: no such folder; give one that holds pictures")
    files = sorted(file for file in args.images.iterdir() if file.suffix.lower() in SUFFIXES)
    if not files:
        raise UserError(f"{args.images}: holds no picture; known kinds: {', '.join(sorted(SUFFIXES))}")
    writable(args.output / "masks" / files[0].name)
    config = made.run.data
    precision = args.precision or made.run.precision
    names = _names(files)
    for start in range(0, len(files), BATCH):
        images = [read_image(file) for file in files[start : start + BATCH]]
        placements = [place(image.shape[0], image.shape[1], config.size, config.fit) for image in images]
        fitted = [fit_image(image, at, config.size) for image, at in zip(images, placements, strict=True)]
        logits = _logits(made.network, np.stack(fitted), where, precision)
        for offset, (image, at) in enumerate(zip(images, placements, strict=True)):
            mask = labels(native_logits(logits[offset : offset + 1], at)[0])
            name = names[start + offset]
            # Two classes as other programs expect a mask: black and white.
            _save(args.output / "masks" / name, mask * 255 if made.classes == 2 else mask)
            _save(args.output / "overlays" / name, overlay(image, mask))
    print(f"{args.output}  {len(files)} masks and overlays at native size, by {made.path}")
    return 0


def _names(files: Sequence[Path]) -> list[str]:
    """A PNG's name for each picture; the old suffix stays in where two would get the same."""
    stems = [file.stem for file in files]
    return [f"{file.stem if stems.count(file.stem) == 1 else file.name}.png" for file in files]


def _logits(network: "Segmenter", fitted: Pixels, where: "torch.device", precision: "Precision") -> "Tensor":
    import torch

    from trainer.data.stream import normalise
    from trainer.scores import autocast

    with torch.no_grad(), autocast(where, precision):
        logits: Tensor = network(normalise(torch.from_numpy(fitted).to(where))).logits
    return logits.float()


def _grid(args: Namespace, made: "Ready", where: "torch.device") -> int:
    from trainer import teacher
    from trainer.data import open_data

    writable(args.output)
    run = run_of(args, made.run)
    data = open_data(run.data, cache=args.cache, progress=Counting("decoding pictures"))
    precision = args.precision or run.precision
    networks = {"student": made.network}
    if run.teacher is not None and run.teacher.checkpoint is not None and teacher.located(run.teacher).is_file():
        networks = {"teacher": teacher.load(run, data, device=where), **networks}
    found = {name: _masks(network, data, where, precision) for name, network in networks.items()}
    dice = found["student"][0].images["dice"]
    worst, median = chosen(dice)
    means = ", ".join(f"{name} {scores.means['dice']:.3f}" for name, (scores, _) in found.items())
    title = f"{made.path.name}: mean Dice on {len(dice)} validation images: {means}"
    masks = {name: kept for name, (_, kept) in found.items()}
    drawn(title, data, (worst, median), masks).save(args.output, format="PNG")
    words = ", ".join(["image", "truth", *found])
    print(f"{args.output}  {len(worst)} worst, {len(median)} median: {words}")
    if "teacher" not in found:
        print("without the teacher: " + _absent(run.teacher is not None))
    return 0


def _absent(named: bool) -> str:
    return "its file is not here" if named else "the run has none"


def _masks(
    network: "Segmenter", data: DataSet, where: "torch.device", precision: "Precision"
) -> tuple["Scores", dict[int, Pixels]]:
    from trainer.ranks import Ranks
    from trainer.scores import validate

    kept: dict[int, Pixels] = {}

    def keep(index: int, logits: "Tensor") -> None:
        kept[index] = labels(logits)

    scores = validate(network, data, "validation", ranks=Ranks(where), precision=precision, keep=keep)
    return scores, kept


def _save(path: Path, pixels: Pixels) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, format="PNG")
