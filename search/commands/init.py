"""`python -m search init`: a commented study file for a folder of pictures with masks, and the split that it needs."""

import argparse
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from search.commands.draft import Draft, drafted
from search.commands.export import write_beside
from search.spec.load import load
from trainer.data import DataError
from trainer.commands.data import examined, split_folders
from trainer.data.file_check import Examined
from trainer.data.splits.folders import find_sets
from trainer.data.splits.split import PARTS, Row, read_split
from trainer.errors import UserError

STRIDE = 32
"""Every network takes sizes that are multiples of it."""
LARGEST = 352
"""The side that is chosen for large pictures; more is seldom worth its price."""
FEW = 100
"""Images below which more of them validate and test: a score over a handful says little."""
COARSE = 20
"""Validation images below which a warning is printed."""
STEPS = 3000
"""Optimizer steps that a student gets at least, within the bounds of EPOCHS."""
EPOCHS = (60, 200)
TRIALS = 40
GPU = Path("/dev/nvidia0")
SHORT = "--size 128 --epochs 20 --trials 9"
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
    parser.add_argument("--size", type=int, help=f"side of the network's input, a multiple of {STRIDE} (default: fits)")
    parser.add_argument(
        "--epochs", type=int, help="of a run; first scored and first pruned epoch follow from it (default: fits)"
    )
    parser.add_argument("--trials", type=int, default=TRIALS, help="of each arm (default: %(default)s)")
    parser.add_argument("--split", type=Path, metavar="FILE", help="a split file that exists (default: one is written)")
    parser.add_argument("--groups", type=Path, metavar="FILE", help="CSV image,group: the patient of each image")
    parser.add_argument("--seed", type=int, default=1, help="of the split's draw (default: %(default)s)")


def main(args: argparse.Namespace) -> int:
    """Look at the folder, write split and study, and say what comes next. Raises UserError, DataError."""
    if args.size is not None and (args.size < STRIDE or args.size % STRIDE):
        near = max(STRIDE, round(args.size / STRIDE) * STRIDE)
        raise UserError(f"--size = {args.size}: a multiple of {STRIDE}, for the networks' strides; try {near}")
    for name in ("epochs", "trials"):
        value = getattr(args, name)
        if value is not None and value < 1:
            raise UserError(f"--{name} = {value}: at least 1")
    if args.groups is not None and args.split is not None:
        raise UserError(f"--groups {args.groups}: has no effect on --split {args.split}, which is drawn already")
    root = Path(args.root).expanduser().absolute()
    places = _places(args, root)
    rows, found = _split(args, root, places)
    draft = _draft(args, root, places, rows, found)
    write_beside(places.study, drafted(draft))
    load(places.study)
    _say(draft, places, found)
    return 0


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
    return Places(study, name, split, Path("teachers", f"{name}.safetensors"), written)


def _split(args: argparse.Namespace, root: Path, places: Places) -> tuple[list[Row], list[Examined]]:
    """The rows of the split, written here or given, with what every pair holds."""
    if args.split is not None:
        if not root.is_dir():
            raise DataError(f"{root}: no such folder")
        rows = read_split(args.split, root)
        return rows, examined(rows, root)
    folders = _sets(root)
    shares = (0.8, 0.1, 0.1) if _pictures(folders) >= FEW else (0.6, 0.2, 0.2)
    fractions = dict(zip(PARTS, shares, strict=True))
    return split_folders(folders, root, places.split, groups=args.groups, seed=args.seed, fractions=fractions)


def _sets(root: Path) -> list[Path]:
    """The data sets in the folder. Raises DataError, which asks for the folder above where that is meant."""
    try:
        return find_sets(root)
    except DataError as error:
        try:
            above = find_sets(root.parent)
        except DataError:
            raise error from None
        raise DataError(f"{error}; did you mean {root.parent}?" if above == [root.parent] else str(error)) from None


def _pictures(folders: Sequence[Path]) -> int:
    from trainer.data.splits.folders import find_pairs

    return sum(len(find_pairs(folder)) for folder in folders)


def _draft(
    args: argparse.Namespace, root: Path, places: Places, rows: Sequence[Row], found: Sequence[Examined]
) -> Draft:
    """The settings that follow from the pictures. Raises DataError where nothing can be learned from them."""
    counts = {part: sum(row.part == part for row in rows) for part in PARTS}
    for part in ("train", "validation"):
        if not counts[part]:
            raise DataError(f"{places.split}: no image in {part}; a search needs both train and validation")
    if not any(entry.foreground for entry in found):
        raise DataError(f"{root}: every mask is empty: nothing in them is brighter than 127; expected 0 and 255")
    longer = median(max(entry.height, entry.width) for entry in found)
    size = args.size or min(LARGEST, max(2 * STRIDE, int(longer // STRIDE) * STRIDE))
    batch = 1
    while batch < 16 and 2 * batch <= counts["train"] / 3:
        batch *= 2
    steps = counts["train"] // batch
    epochs = args.epochs or min(max(-(-STEPS // steps // 10) * 10, EPOCHS[0]), EPOCHS[1])
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
    )


def _named(places: Places) -> str:
    """How commands call the study: by its name where they find it by that."""
    usual = places.study == Path("studies", f"{places.name}.toml")
    return places.name if usual else shlex.quote(str(places.study))


def _say(draft: Draft, places: Places, found: Sequence[Examined]) -> None:
    sides = sorted(max(entry.height, entry.width) for entry in found)
    print(
        f"{places.study}  pictures of {sides[0]} to {sides[-1]} pixels, brought to {draft.size} x {draft.size}; "
        f"batches of {draft.batch_size}, {draft.epochs} epochs"
    )
    few = {part: draft.counts[part] for part in ("validation", "test") if draft.counts[part] < COARSE}
    if few:
        words = " and ".join(f"{count} {part}" for part, count in few.items())
        print(
            f"warning: {words} images: scores over so few are coarse, and small differences between students chance; "
            "give --epochs and --trials for a try, and more pictures for an answer"
        )
    if not GPU.exists():
        anew = " and ".join(str(path) for path in places.written)
        print(f"no GPU is seen here: for a first try that is short on a CPU, delete {anew} and repeat with {SHORT}")
    print("next:")
    for command in draft.next_commands():
        print(f"  {command}")
