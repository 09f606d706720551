"""`python -m search init`: a commented study file for a folder of pictures with masks, and the split that it needs."""

import argparse
import re
import shlex
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from search.answer.power import describe_confirmation
from search.spec.draft import Draft, drafted
from search.spec.load import load
from search.spec.strategies import MOST_TRIALS
from trainer.atomic_files import write_output
from trainer.cli.numbers import whole
from trainer.cli.progress import Counting
from trainer.commands.data import add_near_duplicates, split_settings
from trainer.commands.data_flags import Stated, add_mask_arguments, prepared, sets_in, stated
from trainer.commands.data_lines import record_of, report_drawn, write_drawn
from trainer.config import LARGEST_SEED, MOST_EPOCHS, PictureData, VolumeData
from trainer.data import DataError
from trainer.data.classes import channels_of, classes_of, foreground_of, overlaps
from trainer.data.file_check import CheckedPair
from trainer.data.layouts import DataFolder
from trainer.data.layouts.volumes import MODALITY_ADVICE
from trainer.data.reading import images_of
from trainer.data.splits.draw import DrawnSplit, Kind, Wish, check_rows, codings_for, draw_split, kind_of, reading_for
from trainer.data.splits.mask_codings import mask_lines, refuse_absent_classes, refuse_empty_parts
from trainer.data.splits.part_sizes import counted_groups, scored_as
from trainer.data.splits.split import IMAGE_FORMS, PARTS, Row, read_split
from trainer.data.volumes.recipes import recipe_of
from trainer.errors import UserError, counted

if TYPE_CHECKING:
    from trainer.teacher.inspection import Inspection

STRIDE = 32
"""Every network takes sizes that are multiples of it."""
LARGEST = 352
"""The side that is chosen for large pictures; more is seldom worth its price."""
FEW = 100
"""Images below which more of them validate and test: a score over a handful says little."""
COARSE = 20
"""Validation images below which a warning is printed."""
PATCH_STRIDE = 16
SMALLEST_PATCH, LARGEST_PATCH = 32, 96
"""Sides of the patches that are chosen for volumes, in voxels."""
MOST_PATCHES = 4
"""In the batch that is chosen."""
STUDENT_STRIDE = 8
"""Of the students that are chosen for volumes."""
MEANING = ("name", "classes", "regions", "ignore", "channels", "swap")
"""What settings say of files and labels, and not of how cases are prepared."""
UNEVEN = 1.1
"""Ratio of the spacings of cases from which they are brought to one."""
STEPS = 3000
"""Optimizer steps that a student gets at least, within the bounds of EPOCHS."""
EPOCHS = (60, 200)
TRIALS = 40
GPU = Path("/dev/nvidia0")
SHORT = "--size 128 --epochs 20 --trials 9"
SHORT_VOLUMES = "--size 32 --epochs 20 --trials 9"
"""Flags that make a first try short."""


@dataclass(frozen=True)
class Places:
    """The files that a new study consists of; teacher and split are named after the study."""

    study: Path
    name: str
    split: Path
    teacher: Path
    written: tuple[Path, ...]
    """What the command makes."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of the command."""
    parser.add_argument(
        "root", type=Path, metavar="DATA_ROOT", help="images and masks in folders, or data sets of such"
    )
    target = parser.add_mutually_exclusive_group()
    target.add_argument("-o", "--output", type=Path, metavar="FILE", help="the study file (default: studies/NAME.toml)")
    target.add_argument("--name", help="the study's name (default: that of the folder)")
    parser.add_argument(
        "--size",
        type=int,
        help=f"side of the network's input; multiples of {STRIDE} suit all networks (default: what fits the images)",
    )
    parser.add_argument(
        "--epochs",
        type=whole(1, MOST_EPOCHS),
        help="epochs of a run; from which epoch on it is scored and may be pruned follows from it (default: what fits "
        "the data)",
    )
    parser.add_argument(
        "--trials", type=whole(1, MOST_TRIALS), default=TRIALS, help="trials of each arm (default: %(default)s)"
    )
    parser.add_argument("--split", type=Path, metavar="FILE", help="a split file that exists (default: one is written)")
    parser.add_argument(
        "--groups",
        type=Path,
        metavar="FILE",
        help=f"CSV image,group: the patient or sequence of each image; image is {IMAGE_FORMS}",
    )
    add_mask_arguments(parser)
    add_near_duplicates(parser)
    parser.add_argument(
        "--teacher",
        type=Path,
        metavar="FILE",
        help="a teacher that you bring: weights (.safetensors, .pt, .ckpt), ONNX, a .pt2, or a folder of `trainer "
        "teacher convert` (default: one is trained)",
    )
    parser.add_argument(
        "--seed",
        type=whole(0, LARGEST_SEED),
        default=1,
        help="random seed of the split that is drawn (default: %(default)s)",
    )


def main(args: argparse.Namespace) -> int:
    """Look at the folder, write split and study, and say what comes next. Raises UserError, DataError."""
    if args.size is not None and (args.size < STRIDE or args.size % STRIDE):
        near = max(STRIDE, round(args.size / STRIDE) * STRIDE)
        raise UserError(f"--size = {args.size}: multiples of {STRIDE} suit every network; try {near}")
    if args.groups is not None and args.split is not None:
        raise UserError(f"--groups {args.groups}: has no effect on --split {args.split}, which is drawn already")
    root = Path(args.root).expanduser().absolute()
    places = _places(args, root)
    taken = _given(args, root) if args.split is not None else _drawn(args, root)
    under = _under_nnunet(args, taken)
    taken = taken if under is None else under.taken
    draft = _draft(args, root, places, taken, under)
    _write(draft, places, taken.drawn)
    for line in taken.lines:
        print(line)
    if taken.drawn is not None:
        report_drawn(taken.drawn, places.split, root)
    _say(draft, places, taken.checked, sized=bool(args.size or args.epochs or args.trials != TRIALS))
    return 0


@dataclass(frozen=True)
class Taken:
    """The pictures that a study is made for, all of them read."""

    rows: Sequence[Row]
    checked: Sequence[CheckedPair]
    drawn: DrawnSplit | None
    """The split that is to be written; None where one was given."""
    settings: Mapping[str, Any]
    """What [run.data] says of them, without root and split."""
    kind: Kind
    """The settings as a value."""
    lines: Sequence[str]
    """What is worth saying of a given split's masks, or of what folders were taken for."""


@dataclass(frozen=True)
class Under:
    """A study of volumes under a converted teacher of nnU-Net, whose plans say how they are prepared."""

    taken: Taken
    teacher: "Inspection"
    patch: tuple[int, int, int]


def _under_nnunet(args: argparse.Namespace, taken: Taken) -> Under | None:
    """What the plans of --teacher make of the data; None of pictures, and where no folder is brought. Raises
    UserError, CheckpointError."""
    if args.teacher is None or not isinstance(taken.kind, VolumeData) or not args.teacher.is_dir():
        return None
    if args.size is not None:
        raise UserError(f"--size {args.size}: the plans of --teacher {args.teacher} fix the patch; leave it out")
    from trainer.teacher.nnunet import described, inspection  # with torch, which nothing else here needs

    x, y, z = described(args.teacher).patch_of(STUDENT_STRIDE)
    meaning = {key: taken.settings[key] for key in MEANING if key in taken.settings}
    settings = meaning | described(args.teacher).data_settings() | {"patch": [x, y, z]}
    kind = kind_of(settings, str(args.teacher))
    if not isinstance(kind, VolumeData):
        raise TypeError(f"{kind.name}: is no data set of volumes")
    teacher = inspection(args.teacher, kind, {row.image: row.part for row in taken.rows})
    shown = {key: value for key, value in settings.items() if key != "patch"}
    # What a layout advises on spacing and window is decided by the plans.
    lines = [line for line in taken.lines if MODALITY_ADVICE not in line]
    return Under(replace(taken, settings=shown, kind=kind, lines=lines), teacher, (x, y, z))


def _given(args: argparse.Namespace, root: Path) -> Taken:
    """The rows of a split file that exists."""
    if args.masks_pattern is not None:
        raise UserError(f"--masks-pattern {args.masks_pattern}: has no effect on --split {args.split}; leave one out")
    if not root.is_dir():
        raise DataError(f"{root}: no such folder")
    statement = stated(args)
    if statement.layout is not None:
        raise UserError(f"--layout {statement.layout}: has no effect on --split {args.split}; leave one out")
    settings = split_settings(args.split, statement)
    kind = kind_of(settings, str(args.split))
    reading = reading_for(kind)
    rows = _read(args.split, root, cells=reading.cells is not None)
    checked = check_rows(rows, root, reading, Counting("reading images"))
    values = [entry.values for entry in checked]
    codings = codings_for(rows, values, kind)
    refuse_empty_parts(rows, values, codings, str(args.split), remedy="draw a split anew with another --seed")
    absent = refuse_absent_classes(rows, values, codings, str(args.split))
    return Taken(rows, checked, None, settings, kind, [*mask_lines(rows, values, codings), *absent])


def _read(split: Path, root: Path, *, cells: bool) -> Sequence[Row]:
    """The rows of a split file. Raises DataError, which names the folder above where the file's paths start there."""
    try:
        return read_split(split, root, cells=cells)
    except DataError as error:
        try:
            read_split(split, root.parent, cells=cells)
        except DataError:
            raise error from None
        raise DataError(f"{error}; paths in it start at {root.parent}: give that folder in place of {root}") from None


def _drawn(args: argparse.Namespace, root: Path) -> Taken:
    """The rows of a split that is drawn here."""
    statement = stated(args)
    sets = prepared(_sets(root, statement), statement)
    count = sum(len(survey.pairs) for _, survey in sets.sources)
    shares = (0.8, 0.1, 0.1) if count >= FEW else (0.6, 0.2, 0.2)
    wish = Wish(args.seed, dict(zip(PARTS, shares, strict=True)), args.groups, accept=args.near_duplicates == "accept")
    kind = kind_of(sets.settings, "the data set's settings")
    drawn = draw_split(sets.sources, root, kind, wish, how=sets.how, progress=Counting("reading images"))
    return Taken(drawn.rows, drawn.checked, drawn, sets.settings, kind, sets.lines)


def _write(draft: Draft, places: Places, drawn: DrawnSplit | None) -> None:
    """Write split and study, or nothing. Raises UserError, DataError."""
    text = drafted(draft)
    with TemporaryDirectory() as folder:
        tried = Path(folder, places.study.name)
        tried.write_text(text)
        load(tried)
    write_output(places.study, text)
    try:
        if drawn is not None:
            write_drawn(drawn, places.split)
    except BaseException:
        for path in (places.study, places.split, record_of(places.split)):
            with suppress(OSError):  # half of them can be neither used nor written again
                path.unlink()
        raise


def _places(args: argparse.Namespace, root: Path) -> Places:
    """Where everything goes; nothing that is there is ever overwritten. Raises UserError."""
    if args.output is not None and args.output.suffix != ".toml":
        raise UserError(f"--output {args.output}: a study file's name ends in .toml")
    given = args.output.stem if args.output else args.name
    name = given or re.sub(r"[^a-z0-9._-]+", "-", root.name.lower()).strip("-.") or "study"
    if not re.fullmatch(r"[A-Za-z0-9._-]{1,128}", name):
        raise UserError(f"--name {name!r}: a study's name is 1 to 128 letters, digits, '.', '_' and '-'")
    study = args.output or Path("studies", f"{name}.toml")
    split = args.split or Path("splits", f"{name}.csv")
    if not f"{study}{split}".isprintable():
        raise UserError(f"--output {str(study)!r}: has characters that cannot be printed; choose another name")
    if study.exists():
        anew = f"{study} and {split}" if args.split is None and split.exists() else str(study)
        raise UserError(
            f"{study}: exists, and is never overwritten; give another --name or -o FILE, or delete {anew} to begin anew"
        )
    if args.split is None and split.exists():
        raise UserError(
            f"{split}: exists, and is never overwritten; use it with --split {split}, give another --name, or delete "
            f"{study} and {split} to begin anew"
        )
    written = (study, split) if args.split is None else (study,)
    return Places(study, name, split, args.teacher or Path("teachers", f"{name}.safetensors"), written)


def _sets(root: Path, statement: Stated) -> list[DataFolder]:
    """The data sets in the folder. Raises DataError, which asks for the folder above where that is meant."""
    try:
        return sets_in(root, statement)
    except DataError as error:
        try:
            above = sets_in(root.parent, statement)
        except DataError:
            raise error from None
        meant = [entry.folder for entry in above] == [root.parent]
        raise DataError(f"{error}; did you mean {root.parent}?" if meant else str(error)) from None


def _draft(args: argparse.Namespace, root: Path, places: Places, taken: Taken, under: Under | None) -> Draft:
    """The settings that follow from the pictures. Raises DataError where nothing can be learned from them."""
    counts = {part: sum(row.part == part for row in taken.rows) for part in PARTS}
    for part in ("train", "validation"):
        if not counts[part]:
            raise DataError(f"{places.split}: no image in {part}; a search needs both train and validation")
    longer = median(max(entry.height, entry.width) for entry in taken.checked)
    size = args.size or min(LARGEST, max(2 * STRIDE, int(longer // STRIDE) * STRIDE))
    volumes = _volumes(args, taken, under) if isinstance(taken.kind, VolumeData) else {}
    examples = counts["train"] * (taken.kind.patches if isinstance(taken.kind, VolumeData) else 1)
    batch = 1
    while batch < (MOST_PATCHES if volumes else 16) and 2 * batch <= examples / 3:
        batch *= 2
    steps = examples // batch
    epochs = args.epochs or min(max(-(-STEPS // steps // 10) * 10, EPOCHS[0]), EPOCHS[1])
    brought = _brought(args, root, taken, size, volumes.get("patch")) if under is None else under.teacher
    return Draft(
        name=places.name,
        root=str(root),
        split=str(places.split),
        teacher=str(places.teacher),
        counts=counts,
        size=size,
        batch_size=batch,
        epochs=epochs,
        trials=args.trials,
        command=_named(places),
        data=taken.settings,
        accept=args.near_duplicates == "accept",
        brought=brought,
        foreground=len(foreground_of(taken.kind)),
        **(volumes | _students(brought, taken.kind)),
    )


def _volumes(args: argparse.Namespace, taken: Taken, under: Under | None) -> dict[str, Any]:
    """Of a draft what volumes have in place of a size: patch, spacing where cases differ, and students."""
    students = {"widths": (16, 32, 48), "millions": (0.49, 1.96, 4.41)}
    if under is not None or not isinstance(taken.kind, VolumeData):
        return students | ({} if under is None else {"patch": under.patch})
    recipe, checked = recipe_of(taken.kind), taken.checked
    lengths = [entry.spacing for entry in checked if entry.spacing is not None]
    middle = [median(axis) for axis in zip(*lengths, strict=True)]
    uneven = any(max(axis) > UNEVEN * min(axis) for axis in zip(*lengths, strict=True))
    spacing = tuple(float(f"{length:.2g}") for length in middle) if uneven and recipe.spacing is None else None
    patch = [args.size] * 3
    if args.size is None:
        for at, side in enumerate(zip(*((e.width, e.height, e.depth) for e in checked), strict=True)):
            target = (spacing or recipe.spacing or middle)[at]
            voxels = median(side) * middle[at] / target
            patch[at] = min(LARGEST_PATCH, max(SMALLEST_PATCH, int(voxels // PATCH_STRIDE) * PATCH_STRIDE))
    return students | {"patch": tuple(patch), "spacing": spacing}


def _brought(
    args: argparse.Namespace, root: Path, taken: Taken, size: int, patch: tuple[int, ...] | None
) -> "Inspection | None":
    """What the file of a teacher is. patch: of volumes. Raises CheckpointError."""
    if args.teacher is None:
        return None
    from trainer.teacher.inspection import inspect  # with torch, which nothing else here needs

    # Of cells, only their masks say which part of a picture the network sees.
    cells = isinstance(taken.kind, PictureData) and taken.kind.reader is not None
    shown = patch is None and not cells
    pictures = [root / row.image for row in taken.rows if row.part == "validation" and shown]
    channels, classes = _form(taken.kind)
    read, regions = images_of(taken.kind).image, overlaps(taken.kind)
    return inspect(
        args.teacher,
        channels=channels,
        classes=classes,
        pictures=pictures,
        size=size,
        read=read,
        regions=regions,
        patch=patch,
    )


def _form(kind: Kind) -> tuple[int, int]:
    """Channels of pictures, and classes of masks or regions."""
    return channels_of(kind), len(classes_of(kind))


def _students(brought: "Inspection | None", kind: Kind) -> dict[str, Any]:
    """Widths of students that are small beside their teacher, with parameters and limit; none: the usual."""
    if brought is None or brought.parameters is None:
        return {}
    from trainer.teacher.inspection import students_below

    channels, classes = _form(kind)
    dims = 3 if isinstance(kind, VolumeData) else 2
    students = students_below(brought.parameters, channels=channels, classes=classes, dims=dims)
    return {"widths": students.widths, "millions": students.millions, "limit": students.limit}


def _named(places: Places) -> str:
    """How commands call the study: by its name where they find it by that."""
    usual = places.study == Path("studies", f"{places.name}.toml")
    return places.name if usual else shlex.quote(str(places.study))


def _say(draft: Draft, places: Places, checked: Sequence[CheckedPair], *, sized: bool) -> None:
    """Print what was written and what comes next. sized: whether what a try costs was given, so that no advice on it is
    needed."""
    sides = sorted(max(entry.height, entry.width, entry.depth) for entry in checked)
    spread = f"{sides[0]} to {sides[-1]}" if sides[0] < sides[-1] else str(sides[0])
    what = (
        f"pictures of {spread} pixels on the longer side, brought to {draft.size} x {draft.size}"
        if draft.patch is None
        else f"volumes of {spread} voxels on the longest side, patches of {' x '.join(map(str, draft.patch))}"
    )
    print(f"{places.study}  {what}; batches of {draft.batch_size}, {counted(draft.epochs, 'epoch')}")
    if draft.brought is not None:
        count = draft.brought.parameters
        print(f"{places.teacher}  {draft.brought.title}" + (f", {count / 1e6:.3g} M parameters" if count else ""))
        for remark in draft.brought.remarks:
            print(f"  {remark}")
    spec = load(places.study)
    sizes = {part: counted_groups(spec.run.data, part) for part in ("validation", "test")}
    few = {part: size[0] for part, size in sizes.items() if size is not None and size[0] < COARSE}
    if few:
        counts = " and ".join(f"{count} {part}" for part, count in few.items())
        print(
            f"warning: {counts} {scored_as(spec.run.data)}s: scores over so few are coarse, and small "
            "differences between students are chance; for an answer more are needed"
        )
    if not GPU.exists() and not sized:
        anew, flags = " and ".join(map(str, places.written)), SHORT if draft.patch is None else SHORT_VOLUMES
        print(f"no GPU is seen here: for a first try that is short on a CPU, delete {anew} and repeat with {flags}")
    print(f"after the search: {describe_confirmation(spec)}")
    print("next:")
    for command in draft.next_commands():
        print(f"  {command}")
