"""`python -m trainer data split` and `data check`: split files for folders of images and masks, and what is in them."""

import argparse
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from trainer.cli.numbers import whole
from trainer.cli.parser import CommandLine
from trainer.cli.progress import Counting
from trainer.commands import data_fetch, data_prepare
from trainer.commands.data_flags import Stated, add_mask_arguments, add_meanings, prepared, stated
from trainer.commands.data_lines import (
    how_drawn,
    print_bad,
    print_pictures,
    print_sources,
    print_twins,
    recorded,
    report_drawn,
    toml_lines,
    write_drawn,
)
from trainer.config import LARGEST_SEED
from trainer.data.file_check import CheckedPair, summarised
from trainer.data.layouts import DataFolder, recognised
from trainer.data.splits.draw import ACCEPT, Kind, Wish, codings_for, draw_split, kind_of, read_all, reading_for
from trainer.data.splits.mask_codings import mask_lines, refuse_absent_classes, refuse_empty_parts
from trainer.data.splits.near_duplicates import twins
from trainer.data.splits.split import IMAGE_FORMS, PARTS, Fractions, Row, read_split, samples
from trainer.errors import DataError
from trainer.repository import expand

_RAW = argparse.RawDescriptionHelpFormatter


def add_arguments(subparsers: "argparse._SubParsersAction[CommandLine]") -> None:
    """Add `split`, `check`, `fetch` and `prepare` below `python -m trainer data`."""
    split = subparsers.add_parser(
        "split",
        help="write a split file for folders of images and masks",
        description="Find images and masks as data sets ship, read them all, write who trains, validates and tests.",
        epilog="example:\n  python -m trainer data split $POLYP_ROOT/Kvasir-SEG $POLYP_ROOT/CVC-ClinicDB \\\n"
        "      --by group --groups clinicdb-frames.csv --seed 1 -o splits/kvasir-clinic.csv",
        formatter_class=_RAW,
    )
    split.add_argument(
        "folders", nargs="+", type=Path, metavar="FOLDER", help="a data set; its name becomes the source"
    )
    split.add_argument("-o", "--output", required=True, type=Path, metavar="FILE", help="the split file to write")
    split.add_argument(
        "--root", type=Path, help="folder that the paths in the file start from (default: the common parent)"
    )
    split.add_argument(
        "--by", choices=["image", "group"], help="what stays together (default: group where --groups is given)"
    )
    split.add_argument(
        "--groups", type=Path, metavar="FILE", help=f"CSV image,group: the patient or sequence; image is {IMAGE_FORMS}"
    )
    split.add_argument(
        "--fractions",
        default="0.8,0.1,0.1",
        metavar="T,V,T",
        help="train, validation, test as shares, or as counts such as 100,30,30 (default: %(default)s)",
    )
    split.add_argument("--seed", type=whole(0, LARGEST_SEED), default=1, help="of the draw (default: %(default)s)")
    add_mask_arguments(split)
    add_near_duplicates(split)
    split.set_defaults(data_command="split")
    check = subparsers.add_parser(
        "check",
        help="read every file of a split and name the bad ones",
        description="Read every image and mask that a split file names. Exit code 2 where something is bad.",
        epilog="example:\n  python -m trainer data check splits/kvasir-clinic.csv --root $POLYP_ROOT",
        formatter_class=_RAW,
    )
    check.add_argument("split", type=Path, metavar="FILE", help="the split file")
    check.add_argument("--root", default="$POLYP_ROOT", help="folder that its paths start from (default: %(default)s)")
    add_meanings(check)
    add_near_duplicates(check)
    check.set_defaults(data_command="check")
    data_fetch.add_arguments(subparsers)
    data_prepare.add_arguments(subparsers)


def add_near_duplicates(parser: argparse.ArgumentParser) -> None:
    """What becomes of near-identical pictures in two parts."""
    parser.add_argument(
        ACCEPT,
        choices=["refuse", "accept"],
        default="refuse",
        help="near-identical pictures in two parts of a given split (default: %(default)s)",
    )


def main(args: argparse.Namespace) -> int:
    """Run the command: 0, or 2 with what is wrong on stderr; 1 where data are to be fetched by hand."""
    try:
        if args.data_command == "fetch":
            return data_fetch.main(args)
        if args.data_command == "prepare":
            return data_prepare.main(args)
        return _split(args) if args.data_command == "split" else _check(args)
    except DataError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def _split(args: argparse.Namespace) -> int:
    fractions = _fractions(args.fractions)
    if args.by == "group" and args.groups is None:
        raise DataError("--by group: needs --groups FILE, a CSV image,group")
    if args.by == "image" and args.groups is not None:
        raise DataError(f"--by image: contradicts --groups {args.groups}; leave one out")
    folders = [Path(os.path.abspath(folder)) for folder in args.folders]  # links stay as given
    root = (
        Path(os.path.abspath(args.root))
        if args.root
        else Path(os.path.commonpath([folder.parent for folder in folders]))
    )
    statement = stated(args)
    sets = prepared([DataFolder(folder, recognised(folder, statement.layout)) for folder in folders], statement)
    wish = Wish(args.seed, fractions, args.groups, accept=args.near_duplicates == "accept")
    kind = kind_of(sets.settings, "the data set's settings")
    drawn = draw_split(sets.sources, root, kind, wish, how=sets.how, progress=Counting("reading images"))
    write_drawn(drawn, args.output)
    for line in sets.lines:
        print(line)
    report_drawn(drawn, args.output, root)
    more = {key: value for key, value in sets.settings.items() if sets.settings["name"] != "polyp" or key != "name"}
    if more:
        lines = toml_lines(more)
        print("for the study file, below [run.data]:" + (f" {lines[0]}" if len(lines) == 1 else ""))
        for line in lines if len(lines) > 1 else ():
            print(f"  {line}")
    arguments = [str(root), "--split", str(args.output), "--name", args.output.stem]
    accepted = [f"{ACCEPT}=accept"] if wish.accept else []
    labels = [] if args.labels is None else [f"--labels={args.labels}"]
    print(f"next: {shlex.join(['python', '-m', 'search', 'init', *arguments, *labels, *accepted])}")
    return 0


def _check(args: argparse.Namespace) -> int:
    root = Path(args.root)
    if not root.is_dir():  # a folder whose name has a dollar is meant as it stands
        root = expand(args.root, "--root")
    if not root.is_dir():
        raise DataError(f"--root {args.root}: no such folder {root}")
    kind = kind_of(split_settings(args.split, stated(args)), str(args.split))
    rows = read_split(args.split, root, cells=reading_for(kind).cells is not None)
    samples(rows)
    checked = read_all(rows, root, reading_for(kind), Counting("reading images"))
    bad = [entry for entry in checked if isinstance(entry, DataError)]
    print_bad(summarised(bad))
    if bad:
        print(f"{len(bad)} of {len(rows)} pairs are bad", file=sys.stderr)
    print_sources(rows)
    mistaken = _print_masks(rows, checked, kind, str(args.split))
    looks = [entry.hashes if isinstance(entry, CheckedPair) else None for entry in checked]
    crossing = print_twins(twins(rows, looks), accept=args.near_duplicates == "accept")
    verdict = f"{len(bad)} bad files" + (f", {crossing} pairs of the same picture across parts" if crossing else "")
    print(f"{args.split}  {len(rows)} images; {verdict}; no group in two parts; {how_drawn(args.split)}")
    return 2 if bad or crossing or mistaken else 0


def split_settings(split: Path, statement: Stated) -> dict[str, Any]:
    """What [run.data] says of a split's pictures and masks, without root and split: what a person says, else what the
    record beside it says, else two classes. Raises DataError."""
    known = recorded(split)
    return statement.settings({"name": "polyp"} if statement.labels is not None or known is None else known)


def _print_masks(rows: Sequence[Row], checked: Sequence[CheckedPair | DataError], kind: Kind, where: str) -> bool:
    """Sizes and masks of the pairs that can be read; whether something is wrong with the masks as a whole."""
    good = [(row, entry) for row, entry in zip(rows, checked, strict=True) if isinstance(entry, CheckedPair)]
    own, pairs = [row for row, _ in good], [entry for _, entry in good]
    if not pairs:
        return False
    print_pictures(pairs)
    values = [entry.values for entry in pairs]
    try:
        codings = codings_for(own, values, kind)
        shares = sorted(codings[row.source].foreground(entry.values) for row, entry in good)
        empty = sum(share == 0 for share in shares)
        spread = f"{shares[0]:.1%} to {shares[-1]:.1%}, median {shares[len(shares) // 2]:.1%}"
        print(f"masks     {empty} empty ({empty / len(good):.1%}); foreground {spread}")
        for line in mask_lines(own, values, codings):
            print(line)
        refuse_empty_parts(own, values, codings, where)
        for line in refuse_absent_classes(own, values, codings, where):
            print(line)
    except DataError as error:
        print_bad([str(error)])
        return True
    return False


def _fractions(text: str) -> Fractions:
    try:
        numbers = [float(word) for word in text.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) == len(PARTS) and all(number.is_integer() for number in numbers) and sum(numbers) > 1:
        numbers = [number / sum(numbers) for number in numbers]  # written as counts of images
    if len(numbers) != len(PARTS) or not (min(numbers) >= 0 and abs(sum(numbers) - 1) < 1e-6):
        raise DataError(
            f"--fractions {text!r}: expected three shares that sum to 1, such as 0.8,0.1,0.1, or numbers of images, "
            "such as 100,30,30"
        )
    return dict(zip(PARTS, numbers, strict=True))
