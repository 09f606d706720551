"""`python -m trainer predict`: masks for a folder of pictures, or a grid of validation cases beside the teacher's.

A package runs through onnxruntime; torch is then neither needed nor imported.
"""

import csv
import io
import shlex
from argparse import Namespace
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from trainer.atomic_files import writable
from trainer.cli.progress import Counting
from trainer.commands.evaluate import run_of
from trainer.commands.predict_volumes import Wanted, packed_reader, predict_volumes, trained_reader
from trainer.config import PictureData, VolumeData
from trainer.data.classes import TWO_CLASSES, LabelClass, classes_of, hexadecimal, numbered, opening_work
from trainer.data.dataset import DataSet, Picture, Pixels, by_threshold
from trainer.data.file_check import summarised
from trainer.data.files import SUFFIXES, listed_pictures
from trainer.data.masks import regions_of
from trainer.data.reading import as_rgb, images_of
from trainer.data.slices import slice_place, slices_of
from trainer.data.splits.part_sizes import scored_as
from trainer.distributed.launch import device
from trainer.errors import DataError, UserError, counted, on_stderr, one_line, refusal_text
from trainer.figures.cases import chosen, drawn, predicted_labels
from trainer.figures.grid import legend, overlay
from trainer.package.inference import DEFAULT_THRESHOLD, WEIGHTS
from trainer.package.inference import labels as thresholded
from trainer.package.opened import open_package, with_threshold
from trainer.package.volumes import PackedVolumes
from trainer.run_file import Entry, read

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from models.config import TeacherConfig
    from models.output import Segmenter
    from trainer.checkpoint import Ready
    from trainer.config import Precision
    from trainer.evaluation.metrics import Scores


def main(args: Namespace) -> int:
    """Write masks and overlays, or the grid; 2 where a picture could not be used. Raises UserError, CheckpointError,
    DataError."""
    if args.grid == (args.images is not None):
        raise UserError("predict: give a folder of pictures or --grid, one of the two")
    if args.grid:
        _refuse_volume_flags(args, "a grid")
    if args.threshold is not None and not 0 < args.threshold < 1:
        raise UserError(f"--threshold {args.threshold:g}: a probability between 0 and 1, without both")
    if args.weights.is_dir() and not args.grid:
        return _package(args)
    import torch

    from trainer.checkpoint import ready

    where = torch.device(device(args.device) or ("cuda" if torch.cuda.is_available() else "cpu"))
    made = ready(args.weights / WEIGHTS if args.weights.is_dir() else _weights(args), device=where)
    if args.grid:
        return _grid(args, made, where)
    return _network(args, made, where)


def _package(args: Namespace) -> int:
    for flag, value in (("--data", args.data), ("--precision", args.precision), ("--rank", args.rank)):
        if value is not None:
            raise UserError(f"{flag} {value}: a package says itself how it computes; leave it out")
    packed = open_package(args.weights, device=args.device)
    if args.threshold is not None:
        packed = with_threshold(packed, args.threshold)
    if isinstance(packed, PackedVolumes):
        return predict_volumes(packed_reader(packed, args.weights), args.images, args.output, _wanted(args))
    _refuse_volume_flags(args, "a network for pictures")
    p = packed.preprocessing
    return segment(
        args.images,
        args.output,
        packed.masks,
        classes=p.label_classes,
        regions=p.regions,
        order=p.order,
        read=p.read_picture,
        by=str(args.weights),
        slices=slices_of if p.schema_ > 1 else no_slices,
    )


def _wanted(args: Namespace) -> Wanted:
    return Wanted(args.form, args.series)


def _refuse_volume_flags(args: Namespace, what: str) -> None:
    """Raise UserError for a flag that is of volumes alone."""
    for flag, value in (("--as", args.form), ("--series", next(iter(args.series), None))):
        if value is not None:
            raise UserError(f"{flag} {value}: is for volumes, and this is {what}; leave it out")


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
    existing = [place for place in _places(path, entry) if place.is_file()]
    if not existing:
        raise UserError(
            f"{path}: the weights of #{entry.rank} are not here; train them: "
            f"python -m trainer fit {path} --rank {entry.rank} -o weights.safetensors"
        )
    return existing[0]


def _places(path: Path, entry: Entry) -> Iterator[Path]:
    """Where an export may mean: beside itself, or from the working folder."""
    if entry.weights is not None:
        yield path.parent / entry.weights
        yield Path(entry.weights)


def _network(args: Namespace, made: "Ready", where: "torch.device") -> int:
    """Masks by the trained weights themselves."""
    from trainer.data.letterbox import fit_image, place
    from trainer.evaluation.metrics import native_logits

    config = made.run.data
    precision = args.precision or made.run.precision
    if isinstance(config, VolumeData):
        reader = trained_reader(made, config, threshold=args.threshold, precision=precision, where=where)
        return predict_volumes(reader, args.images, args.output, _wanted(args))
    _refuse_volume_flags(args, "a network for pictures")
    regions = regions_of(config)
    thresholds = by_threshold(made.classes, regions=regions is not None)
    if args.threshold is not None and not thresholds:
        raise UserError(f"--threshold {args.threshold:g}: {made.path} has {made.classes} classes; leave it out")
    least = (args.threshold or DEFAULT_THRESHOLD,) if thresholds else ()

    def masks(images: Sequence[Picture]) -> list[Pixels]:
        places = [place(image.shape[0], image.shape[1], config.size, config.fit) for image in images]
        fitted = [fit_image(image, at, config.size) for image, at in zip(images, places, strict=True)]
        logits = _logits(made.network, np.stack(fitted), where, precision)
        natives = [native_logits(logits[row : row + 1], at)[0] for row, at in enumerate(places)]
        return [thresholded(each.cpu().numpy(), least, regions=regions is not None) for each in natives]

    return segment(
        args.images,
        args.output,
        masks,
        classes=numbered(classes_of(config), made.classes),
        regions=regions is not None,
        order=None if regions is None else regions.order,
        read=images_of(config).image,
        by=str(made.path),
        slices=slices_of if isinstance(config, PictureData) else no_slices,
    )


def _logits(network: "Segmenter", fitted: Picture, where: "torch.device", precision: "Precision") -> "Tensor":
    import torch

    from trainer.data.streams.batches import normalise
    from trainer.evaluation.metrics import autocast

    with torch.no_grad(), autocast(where, precision):
        logits: Tensor = network(normalise(torch.from_numpy(fitted).to(where), network.normalisation)).logits
    return logits.float()


def _grid(args: Namespace, made: "Ready", where: "torch.device") -> int:
    from trainer.data import open_data
    from trainer.data.sets.volumes import VolumeCases
    from trainer.figures.volumes import worst_volumes
    from trainer.teacher import assessment

    writable(args.output)
    run = run_of(args, made)
    data = open_data(run.data, cache=args.cache, progress=Counting(opening_work(run.data)))
    precision = args.precision or run.precision
    networks = {"student": made.network}
    if run.teacher is not None and _here(run.teacher):
        networks = {"teacher": assessment.load(run, data, device=where), **networks}
    by_network = {name: _masks(network, data, where, precision) for name, network in networks.items()}
    dice = by_network["student"][0].images["dice"]
    cases = by_network["student"][0].cases.get("dice")
    worst, median = chosen(dice if cases is None else cases)
    means = ", ".join(f"{name} {scores.means['dice']:.3f}" for name, (scores, _) in by_network.items())
    of = counted(len(dice if cases is None else cases), f"validation {scored_as(run.data)}")
    title = f"{made.path.name}: mean Dice on {of}: {means}"
    if isinstance(data, VolumeCases):
        each = len(worst)
        picture = worst_volumes(title, data, dice, networks, each=each, device=where, precision=precision)
    else:
        masks = {name: kept for name, (_, kept) in by_network.items()}
        picture = drawn(title, data, (worst, median), masks)
    picture.save(args.output, format="PNG")
    columns = ", ".join(["image", "truth", *by_network])
    print(f"{args.output}  {len(worst)} worst, {len(median)} median: {columns}")
    if "teacher" not in by_network:
        print("without the teacher: " + _absent(run.teacher is not None))
    weights = shlex.quote(str(args.weights if args.weights.is_dir() else made.path))
    following = f"predict {weights} FOLDER -o masks" if args.weights.is_dir() else f"package {weights} ship"
    print(f"next: python -m trainer {following}")
    return 0


def _here(config: "TeacherConfig") -> bool:
    """Whether the teacher can be asked about a validation image: its files are here, and it is no folder of maps."""
    from trainer.errors import CheckpointError
    from trainer.teacher.open import refuse_absent

    try:
        refuse_absent(config)
    except CheckpointError:
        return False
    return config.name != "maps"


def _absent(named: bool) -> str:
    return "its file is not here" if named else "the run has none"


def _masks(
    network: "Segmenter", data: DataSet, where: "torch.device", precision: "Precision"
) -> tuple["Scores", dict[int, Pixels]]:
    from trainer.distributed.ranks import Ranks
    from trainer.evaluation.metrics import validate

    kept: dict[int, Pixels] = {}

    def keep(index: int, logits: "Tensor") -> None:
        kept[index] = predicted_labels(logits, regions=data.regions is not None)

    scores = validate(network, data, "validation", ranks=Ranks(where), precision=precision, keep=keep)
    return scores, kept


BATCH = 8
"""Pictures that go through a network together."""
NOT_ALL = 2
"""Exit code where a picture could not be read."""

Read = Callable[[Path], Picture]
"""A file to its picture (H, W, channels). Raises DataError."""
Masks = Callable[[Sequence[Picture]], list[Pixels]]
"""Pictures (H, W, channels) of any sizes to labels (H, W), of regions to their masks (regions, H, W)."""
LEGEND, CLASSES = "legend.png", "classes.csv"
"""Beside the masks of more than two classes: the classes' names and colours to be seen, and to be read by programs."""


def no_slices(_path: Path) -> Sequence[Path]:
    """Of data whose files are pictures alone."""
    return ()


def segment(
    images: Path,
    output: Path,
    masks: Masks,
    *,
    classes: Sequence[LabelClass],
    read: Read,
    by: str,
    regions: bool = False,
    order: Sequence[int] | None = None,
    slices: Callable[[Path], Sequence[Path]] = no_slices,
) -> int:
    """Write `output`/masks and `output`/overlays for the pictures of a folder; 0, or NOT_ALL.

    classes: of the labels, or the regions. slices: the paths of the slices of a file that is no picture. Masks of two
    classes are black and white. Those of more are PNGs with a palette: the index of a pixel is its label, its colour
    that of the class, and LEGEND and CLASSES say which is which. Of regions that lie in one another, whose places from
    the outermost in are `order`, they are such PNGs, too: a pixel has the innermost region that it is in, counted from
    1. Of others there is a folder with black and white masks a region. Raises UserError where the folder holds no
    picture or the output cannot be written.
    """
    if not images.is_dir():
        raise UserError(f"{images}: no such folder; give one that holds pictures")
    files, left, unopened = _listed(images, slices)
    writable(output / "masks" / files[0].name)
    names = _names(files)
    labels = (TWO_CLASSES[0], *classes) if regions else classes
    if len(labels) > 2:
        _save(output / LEGEND, legend(labels))
        _write_classes(output / CLASSES, labels)
    counting = Counting("segmenting")
    done = seen = 0
    bad: list[DataError] = []
    for start in range(0, len(files), BATCH):
        batch = list(_readable(files[start : start + BATCH], read, bad, unopened))
        predicted = masks([image for _, image in batch]) if batch else []
        for (file, image), mask in zip(batch, predicted, strict=True):
            pictures = {f"masks/{place}": picture for place, picture in mask_pictures(mask, classes, order)}
            pictures["overlays"] = Image.fromarray(overlay(as_rgb(image), mask, classes, order))
            _save_all({output / place / names[file]: picture for place, picture in pictures.items()})
        done += len(batch)
        seen = min(start + BATCH, len(files))
        counting(seen, len(files))
    failed = len(files) - done
    for line in summarised(bad):
        on_stderr(f"error: {one_line(line)}")
    for line in left:
        print(f"left out  {line}")
    print(
        f"{output}  {done} masks and overlays at native size, by {by}"
        + (f"; {failed} of {len(files)} pictures could not be read" if failed else "")
    )
    if done:
        print(f"next: look through {output / 'overlays'}, where each mask lies over its picture")
    return NOT_ALL if failed else 0


def _listed(
    images: Path, slices: Callable[[Path], Sequence[Path]]
) -> tuple[Sequence[Path], Sequence[str], Mapping[Path, DataError]]:
    """The pictures and slices of a folder, what is left out of it, and the files that cannot be opened, which are among
    the pictures. Raises UserError where there is none."""
    unopened: dict[Path, DataError] = {}

    def inner(path: Path) -> Sequence[Path]:
        try:
            return slices(path)
        except DataError as error:
            unopened[path] = error
            return [path]

    files, left = listed_pictures(images, inner)
    if not files:
        unread = f"; found: {'; '.join(left)}" if left else ""
        raise UserError(f"{images}: holds no picture; known kinds: {', '.join(sorted(SUFFIXES))}{unread}")
    return files, left, unopened


def mask_pictures(
    mask: Pixels, classes: Sequence[LabelClass], order: Sequence[int] | None
) -> Iterator[tuple[str, Image.Image]]:
    """The pictures of a mask, each with the folder that it goes to; see `segment`."""
    if mask.ndim == 2:
        yield "", mask_picture(mask, classes)
    elif len(mask) == 1:
        yield "", Image.fromarray(mask[0] * 255)
    elif order is None:
        yield from ((known.name, Image.fromarray(one * 255)) for known, one in zip(classes, mask, strict=True))
    else:
        painted = np.zeros(mask.shape[1:], np.uint8)
        for at in order:
            painted[mask[at] == 1] = at + 1
        yield "", mask_picture(painted, (TWO_CLASSES[0], *classes))


def mask_picture(mask: Pixels, classes: Sequence[LabelClass]) -> Image.Image:
    """Labels (H, W) as a picture: of two classes black and white, as other programs expect a mask; of more labels with
    the classes' colours as their palette."""
    if len(classes) == 2:
        return Image.fromarray(mask * 255)
    picture = Image.fromarray(mask)
    picture.putpalette([value for known in classes for value in known.colour])
    return picture


def _write_classes(path: Path, classes: Sequence[LabelClass]) -> None:
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("label", "name", "colour"))
    writer.writerows((label, known.name, hexadecimal(known.colour)) for label, known in enumerate(classes))
    try:
        path.write_text(text.getvalue(), encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({refusal_text(error)}); choose another place") from error


def _readable(
    files: Sequence[Path], read: Read, bad: list[DataError], unopened: Mapping[Path, DataError]
) -> Iterator[tuple[Path, Picture]]:
    for file in files:
        try:
            if file in unopened:
                raise unopened[file]
            yield file, read(file)
        except DataError as error:
            bad.append(error)


def _names(files: Sequence[Path]) -> dict[Path, str]:
    """A PNG's name for each picture; the old suffix stays in where two would get the same. Slices of a volume get their
    number behind its name: `case.h5-0017.png`."""
    stems = Counter(file.stem for file in files)
    return {file: _numbered(file) or f"{file.stem if stems[file.stem] == 1 else file.name}.png" for file in files}


def _numbered(file: Path) -> str | None:
    """The name of a slice's mask; None where a file is one picture."""
    place = slice_place(file)
    if place is None or place.number is None:
        return None
    return f"{place.file.name}-{place.number:04}.png"


def _save_all(pictures: Mapping[Path, Image.Image]) -> None:
    for path, picture in pictures.items():
        _save(path, picture)


def _save(path: Path, picture: Image.Image) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        picture.save(path, format="PNG")
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({refusal_text(error)}); choose another place") from error
