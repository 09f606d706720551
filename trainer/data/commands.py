"""`python -m trainer data split` and `data check`."""

import argparse
import csv
import io
import os
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from trainer.data.assign import Fractions, assign, read_groups
from trainer.data.check import Examined, Identical, examine_all, identical
from trainer.data.dataset import DataError
from trainer.data.durable import write_text
from trainer.data.files import inside
from trainer.data.layout import Pair, find_pairs
from trainer.data.polyp import expand
from trainer.data.split import PARTS, Row, read_split, samples, write_split
from trainer.progress import Counting
from trainer.words import CommandLine

FEWEST_GROUPS = 10
"""Test groups below which no interval is given."""

_RAW = argparse.RawDescriptionHelpFormatter


def add_arguments(subparsers: "argparse._SubParsersAction[CommandLine]") -> None:
    """Add `split` and `check` below `python -m trainer data`."""
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
        "--groups", type=Path, metavar="FILE", help="CSV image,group: the patient or sequence of each image"
    )
    split.add_argument(
        "--fractions", default="0.8,0.1,0.1", metavar="T,V,T", help="train, validation, test (default: %(default)s)"
    )
    split.add_argument("--seed", type=int, default=1, help="of the draw (default: %(default)s)")
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
    check.set_defaults(data_command="check")


def main(args: argparse.Namespace) -> int:
    """Run `split` or `check`: 0, or 2 with what is wrong on stderr."""
    try:
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
    split_folders(folders, root, args.output, groups=args.groups, seed=args.seed, fractions=fractions)
    return 0


def split_folders(
    folders: Sequence[Path], root: Path, output: Path, *, groups: Path | None, seed: int, fractions: Fractions
) -> tuple[list[Row], list[Examined]]:
    """Write the split file of data sets below a root, and print what is in it; its rows, and what each pair holds.

    Raises DataError; bad files are named on stderr before.
    """
    rows, drawn = _rows(folders, root)
    if groups:
        rows = read_groups(groups, rows)
    found = examined(rows, root)
    twins = identical(rows, found)
    at = {row.image: number for number, row in enumerate(rows)}
    links = [(at[twin.first.image], at[twin.second.image]) for twin in twins]
    rows = _assigned(rows, drawn, links, seed, fractions)
    samples(rows)  # names must differ before the file is written
    _refuse_crossing(rows)
    crossing = [Identical(rows[one], rows[other]) for one, other in links if rows[one].part != rows[other].part]
    if crossing:
        raise DataError(
            f"identical pictures in two parts of a given split, {_pair(crossing[0])}; "
            f"{len(crossing)} in all: remove one of each"
        )
    write_split(output, rows)
    _print_sources(rows)
    if twins:
        _write_twins(output.with_suffix(".duplicates.csv"), [Identical(rows[one], rows[other]) for one, other in links])
    print(f"{output}  {len(rows)} images; paths start at {root}")
    return rows, found


def examined(rows: Sequence[Row], root: Path) -> list[Examined]:
    """What each pair of files holds. Raises DataError where one is bad; all bad ones are named on stderr before."""
    found = _read_all(rows, root)
    bad = _print_bad(found)
    if bad:
        raise DataError(f"{bad} of {len(rows)} pairs are bad; mend or remove them")
    return [entry for entry in found if isinstance(entry, Examined)]


def _read_all(rows: Sequence[Row], root: Path) -> list[Examined | DataError]:
    return examine_all([(root / row.image, root / row.mask) for row in rows], Counting("reading images"))


def _check(args: argparse.Namespace) -> int:
    root = expand(args.root, "--root")
    if not root.is_dir():
        raise DataError(f"--root {args.root}: no such folder {root}")
    rows = read_split(args.split, root)
    samples(rows)
    found = _read_all(rows, root)
    bad = _print_bad(found)
    if bad:
        print(f"{bad} of {len(rows)} pairs are bad", file=sys.stderr)
    _print_sources(rows)
    _print_pictures(found)
    twins = identical(rows, found)
    crossing = [twin for twin in twins if twin.crosses]
    for twin in crossing:
        print(f"bad: identical pictures in two parts, {_pair(twin)}", file=sys.stderr)
    if twins:
        print(f"identical pictures: {len(twins)}, of which {len(crossing)} across parts")
    verdict = f"{bad} bad files" + (f", {len(crossing)} identical pictures across parts" if crossing else "")
    print(f"{args.split}  {len(rows)} images; {verdict}; no group in two parts")
    return 2 if bad or crossing else 0


def _fractions(text: str) -> Fractions:
    try:
        numbers = [float(word) for word in text.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) != len(PARTS) or not (min(numbers) >= 0 and abs(sum(numbers) - 1) < 1e-6):
        raise DataError(f"--fractions {text!r}: expected three shares that sum to 1, such as 0.8,0.1,0.1")
    return dict(zip(PARTS, numbers, strict=True))


def _rows(folders: Sequence[Path], root: Path) -> tuple[list[Row], list[bool]]:
    """All pairs as rows, and which of them still need a part."""
    names = Counter(folder.name for folder in folders)
    double = [name for name, count in names.items() if count > 1]
    if double:
        raise DataError(f"two folders are named {double[0]!r}, which names the source; rename one")
    rows, drawn = [], []
    for folder in folders:
        for pair in find_pairs(folder):
            rows.append(_row(folder, pair, root))
            drawn.append(pair.part is None)
    return rows, drawn


def _row(folder: Path, pair: Pair, root: Path) -> Row:
    places = []
    for path in (pair.image, pair.mask):
        if not path.is_relative_to(root):
            raise DataError(f"--root {root}: {path} is not below it")
        places.append(path.relative_to(root).as_posix())
        inside(root, places[-1])
    return Row(folder.name, places[0], places[1], "", pair.part or "train")


def _assigned(
    rows: list[Row], drawn: Sequence[bool], links: Sequence[tuple[int, int]], seed: int, fractions: Fractions
) -> list[Row]:
    """Parts for the rows of folders that came without; the others keep theirs."""
    free = [at for at, needs in enumerate(drawn) if needs]
    where = {at: number for number, at in enumerate(free)}
    inner = [(where[one], where[other]) for one, other in links if one in where and other in where]
    parts = dict(zip(free, assign([rows[at] for at in free], inner, seed=seed, fractions=fractions), strict=True))
    return [parts.get(at, row) for at, row in enumerate(rows)]


def _refuse_crossing(rows: Sequence[Row]) -> None:
    """A groups file may contradict the folders of a given split."""
    first: dict[str, Row] = {}
    for row in rows:
        known = first.setdefault(row.group_key, row)
        if known.part != row.part:
            raise DataError(
                f"group {row.group!r} of {row.source} is in two parts of the given split: {known.image} ({known.part}) "
                f"and {row.image} ({row.part}); move one, or give the set as one folder"
            )


def _print_bad(found: Sequence[Examined | DataError]) -> int:
    bad = [entry for entry in found if isinstance(entry, DataError)]
    for entry in bad:
        print(f"bad: {entry}", file=sys.stderr)
    return len(bad)


def _print_sources(rows: Sequence[Row]) -> None:
    """One line a source, then what is wrong with how few groups there are."""
    warnings = []
    for source in sorted({row.source for row in rows}):
        own = [row for row in rows if row.source == source]
        counts = " / ".join(str(sum(row.part == part for row in own)) for part in PARTS)
        if not any(row.group for row in own):
            print(f"{source:20} {len(own):6} images, no groups known (each image its own)  {counts}")
            continue
        groups = {part: len({row.group_key for row in own if row.part == part}) for part in PARTS}
        shares = " / ".join(str(groups[part]) for part in PARTS)
        print(f"{source:20} {len(own):6} images in {sum(groups.values())} groups  {counts}  ({shares} groups)")
        if 0 < groups["test"] < FEWEST_GROUPS:
            warnings.append(
                f"{groups['test']} test groups in {source}: no interval will be given for that source alone"
            )
    for warning in warnings:
        print(f"warning: {warning}")


def _print_pictures(found: Sequence[Examined | DataError]) -> None:
    good = [entry for entry in found if isinstance(entry, Examined)]
    if not good:
        return
    heights, widths = [entry.height for entry in good], [entry.width for entry in good]
    sizes = len({(entry.height, entry.width) for entry in good})
    print(f"sizes     {min(widths)}-{max(widths)} x {min(heights)}-{max(heights)} (width x height), {sizes} different")
    shares = sorted(entry.foreground for entry in good)
    empty = sum(share == 0 for share in shares)
    spread = f"{shares[0]:.1%} to {shares[-1]:.1%}, median {shares[len(shares) // 2]:.1%}"
    print(f"masks     {empty} empty ({empty / len(good):.1%}); foreground {spread}")
    turned = sum(entry.orientation != 1 for entry in good)
    if turned:
        print(f"warning: {turned} images carry an EXIF orientation, which is not obeyed; look whether their masks fit")


def _pair(twin: Identical) -> str:
    return f"{twin.first.image} ({twin.first.part}) and {twin.second.image} ({twin.second.part})"


def _write_twins(path: Path, twins: Sequence[Identical]) -> None:
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("first", "second", "split"))
    writer.writerows((twin.first.image, twin.second.image, twin.first.part) for twin in twins)
    write_text(path, text.getvalue())
    print(f"identical pictures: {len(twins)} pairs, kept in one part (listed in {path})")
