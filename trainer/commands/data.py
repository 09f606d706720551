"""`python -m trainer data split` and `data check`: what they print, and the record that is left beside a split."""

import argparse
import csv
import hashlib
import io
import json
import os
import shlex
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainer.atomic_files import write_text
from trainer.cli.parser import CommandLine
from trainer.cli.progress import Counting
from trainer.data.file_check import CheckedPair, check_pairs, summarised
from trainer.data.files import file_hash, inside
from trainer.data.masks import EXAMPLE, FLAG
from trainer.data.splits.folders import PATTERN, Pair, Pattern, pattern_from, survey
from trainer.data.splits.mask_codings import AGAIN, Codings, codings_of, mask_lines, refuse_empty_parts
from trainer.data.splits.near_duplicates import Twins, refuse_crossing, twins
from trainer.data.splits.split import (
    IMAGE_FORMS,
    PARTS,
    Fractions,
    Row,
    assign,
    read_groups,
    read_split,
    samples,
    write_split,
)
from trainer.errors import DataError
from trainer.repository import expand

ACCEPT = "--near-duplicates"

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
        "--groups", type=Path, metavar="FILE", help=f"CSV image,group: the patient or sequence; image is {IMAGE_FORMS}"
    )
    split.add_argument(
        "--fractions",
        default="0.8,0.1,0.1",
        metavar="T,V,T",
        help="train, validation, test as shares, or as counts such as 100,30,30 (default: %(default)s)",
    )
    split.add_argument("--seed", type=int, default=1, help="of the draw (default: %(default)s)")
    add_mask_arguments(split)
    _add_near_duplicates(split)
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
    _add_labels(check)
    _add_near_duplicates(check)
    check.set_defaults(data_command="check")


def add_mask_arguments(parser: argparse.ArgumentParser) -> None:
    """What a person can say of masks: which belongs to which image, and what their values mean."""
    parser.add_argument(
        PATTERN,
        metavar="PATTERN",
        help="how masks are named: {} is the image's name, '{}_lesion'; or both sides, '{}_image={}_lesion' "
        "(default: an equal name, then one with _mask or the like behind it)",
    )
    _add_labels(parser)


def _add_labels(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        FLAG,
        metavar="TEXT",
        help=f"what the masks' values mean, such as {EXAMPLE} (default: black and one other are two classes)",
    )


def _add_near_duplicates(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        ACCEPT,
        choices=["refuse", "accept"],
        default="refuse",
        help="near-identical pictures in two parts of a given split (default: %(default)s)",
    )


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
    pattern = None if args.masks_pattern is None else pattern_from(args.masks_pattern)
    drawn = draw_split(
        folders,
        root,
        groups=args.groups,
        seed=args.seed,
        fractions=fractions,
        accept=args.near_duplicates == "accept",
        labels=args.labels,
        pattern=pattern,
    )
    drawn.write(args.output)
    drawn.report(args.output, root)
    if args.labels is not None:
        print(f"for the study file, below [run.data]: labels = {json.dumps(args.labels, ensure_ascii=False)}")
    arguments = [str(root), "--split", str(args.output), "--name", args.output.stem]
    labels = [] if args.labels is None else [f"--labels={args.labels}"]
    print(f"next: {shlex.join(['python', '-m', 'search', 'init', *arguments, *labels])}")
    return 0


@dataclass(frozen=True)
class DrawnSplit:
    """A split that was drawn and checked, and is not yet written."""

    rows: list[Row]
    checked: list[CheckedPair]
    """What each row's files hold."""
    codings: Codings
    pairs: list[Twins]
    left: list[str]
    """What of the folders was left out."""
    how: Mapping[str, Any]
    """How it was drawn, as JSON values."""

    def write(self, output: Path) -> None:
        """Write the split file, its record, and the pairs that show the same. Raises DataError."""
        write_split(output, self.rows)
        listed = output.with_suffix(".duplicates.csv")
        listed.unlink(missing_ok=True)
        if self.pairs:
            write_twins(listed, self.pairs)
        write_record(output, self.rows, self.pairs, self.how)

    def report(self, output: Path, root: Path) -> None:
        """Print what is in the split that was written."""
        print_sources(self.rows)
        for line in (*self.left, *mask_lines(self.rows, [entry.values for entry in self.checked], self.codings)):
            print(line)
        if self.pairs:
            print_twins(self.pairs, accept=self.how["near_duplicates"] == "accept")
            listed = output.with_suffix(".duplicates.csv")
            print(f"{listed}  all of them; those that were not in a given split are kept in one part")
        digest, seed = file_hash(output), self.how["seed"]
        print(f"{output}  {len(self.rows)} images, seed {seed}, sha256 {digest[:8]}...; paths start at {root}")


def draw_split(
    folders: Sequence[Path],
    root: Path,
    *,
    groups: Path | None,
    seed: int,
    fractions: Fractions,
    accept: bool = False,
    labels: str | None = None,
    pattern: Pattern | None = None,
) -> DrawnSplit:
    """Read data sets below a root and draw who trains, validates and tests; nothing is written. Pictures that show the
    same go into one part.

    Raises DataError, also where a given split has such in two parts (`accept` lets near-identical ones pass), where a
    mask's values have no meaning, and where all masks of a part are empty. Bad files are named on stderr before.
    """
    given, drawn, left = _rows(folders, root, pattern)
    if groups:
        given = read_groups(groups, given, root)
    checked = check_rows(given, root)
    codings = codings_of(given, [entry.values for entry in checked], labels)
    looks = [entry.hashes for entry in checked]
    at = {row.image: number for number, row in enumerate(given)}
    links = [(at[pair.first.image], at[pair.second.image]) for pair in twins(given, looks)]
    rows = _assigned(given, drawn, links, seed, fractions)
    samples(rows)  # names must differ before the file is written
    _refuse_crossing(rows)
    pairs = twins(rows, looks)
    refuse_crossing(pairs, "the given split", accept=accept, remedy=f"remove one of each, or {ACCEPT} accept")
    remedy = AGAIN if any(drawn) else "move images with an object into it"
    refuse_empty_parts(rows, [entry.values for entry in checked], codings, str(root), remedy=remedy)
    how = {
        "seed": seed,
        "fractions": dict(fractions),
        "sources": [folder.name for folder in folders],
        "groups": None if groups is None else file_hash(groups),
        "near_duplicates": "accept" if accept else "refuse",
        **({} if labels is None else {"labels": labels}),
        **({} if pattern is None else {"masks_pattern": str(pattern)}),
    }
    return DrawnSplit(rows, checked, codings, pairs, left, how)


def check_rows(rows: Sequence[Row], root: Path) -> list[CheckedPair]:
    """What each pair of files holds. Raises DataError where one is bad; where there are several causes, each is named
    on stderr before."""
    checked = _read_all(rows, root)
    bad = [entry for entry in checked if isinstance(entry, DataError)]
    if bad:
        lines = summarised(bad)
        count = f"{len(bad)} of {len(rows)} pairs are bad"
        if len(lines) == 1:
            raise DataError(f"{count}: {lines[0]}; mend or remove them")
        print_bad(lines)
        raise DataError(f"{count}; mend or remove them")
    return [entry for entry in checked if isinstance(entry, CheckedPair)]


def _read_all(rows: Sequence[Row], root: Path) -> list[CheckedPair | DataError]:
    return check_pairs([(root / row.image, root / row.mask) for row in rows], Counting("reading images"))


def _check(args: argparse.Namespace) -> int:
    root = Path(args.root)
    if not root.is_dir():  # a folder whose name has a dollar is meant as it stands
        root = expand(args.root, "--root")
    if not root.is_dir():
        raise DataError(f"--root {args.root}: no such folder {root}")
    rows = read_split(args.split, root)
    samples(rows)
    checked = _read_all(rows, root)
    bad = [entry for entry in checked if isinstance(entry, DataError)]
    print_bad(summarised(bad))
    if bad:
        print(f"{len(bad)} of {len(rows)} pairs are bad", file=sys.stderr)
    print_sources(rows)
    mistaken = _print_masks(rows, checked, args)
    looks = [entry.hashes if isinstance(entry, CheckedPair) else None for entry in checked]
    crossing = print_twins(twins(rows, looks), accept=args.near_duplicates == "accept")
    verdict = f"{len(bad)} bad files" + (f", {crossing} pairs of the same picture across parts" if crossing else "")
    print(f"{args.split}  {len(rows)} images; {verdict}; no group in two parts; {how_drawn(args.split)}")
    return 2 if bad or crossing or mistaken else 0


def _print_masks(rows: Sequence[Row], checked: Sequence[CheckedPair | DataError], args: argparse.Namespace) -> bool:
    """Sizes and masks of the pairs that can be read; whether something is wrong with the masks as a whole."""
    good = [(row, entry) for row, entry in zip(rows, checked, strict=True) if isinstance(entry, CheckedPair)]
    own, pairs = [row for row, _ in good], [entry for _, entry in good]
    if not pairs:
        return False
    print_pictures(pairs)
    values = [entry.values for entry in pairs]
    try:
        codings = codings_of(own, values, args.labels)
        shares = sorted(codings[row.source].share(entry.values) for row, entry in good)
        empty = sum(share == 0 for share in shares)
        spread = f"{shares[0]:.1%} to {shares[-1]:.1%}, median {shares[len(shares) // 2]:.1%}"
        print(f"masks     {empty} empty ({empty / len(good):.1%}); foreground {spread}")
        for line in mask_lines(own, values, codings):
            print(line)
        refuse_empty_parts(own, values, codings, str(args.split))
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


def _rows(folders: Sequence[Path], root: Path, pattern: Pattern | None) -> tuple[list[Row], list[bool], list[str]]:
    """All pairs as rows, which of them still need a part, and what was left out."""
    names = Counter(folder.name for folder in folders)
    double = [name for name, count in names.items() if count > 1]
    if double:
        raise DataError(f"two folders are named {double[0]!r}, which names the source; rename one")
    rows, drawn, left = [], [], []
    for folder in folders:
        taken = survey(folder, pattern)
        left += [f"left out  {folder.name}/{line}" for line in taken.left]
        for pair in taken.pairs:
            rows.append(_row(folder, pair, root))
            drawn.append(pair.part is None)
    return rows, drawn, left


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


FEWEST_GROUPS = 10
"""Test groups below which no interval is given."""
SHOWN = 20
"""Pairs across parts that are named one by one."""


def print_bad(lines: Sequence[str]) -> None:
    """What is wrong, a line each, on stderr."""
    for line in lines:
        print(f"bad: {line}", file=sys.stderr)


def print_sources(rows: Sequence[Row]) -> None:
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


def print_pictures(checked: Sequence[CheckedPair]) -> None:
    """The sizes of pictures, and how many carry a tag that turns them."""
    heights, widths = [entry.height for entry in checked], [entry.width for entry in checked]
    sizes = len({(entry.height, entry.width) for entry in checked})
    print(f"sizes     {min(widths)}-{max(widths)} x {min(heights)}-{max(heights)} (width x height), {sizes} different")
    turned = sum(entry.orientation != 1 for entry in checked)
    if turned:
        print(f"warning: {turned} images carry an EXIF orientation, which is not obeyed; look whether their masks fit")


def print_twins(twins: Sequence[Twins], *, accept: bool) -> int:
    """One line a pair across parts, on stderr where it is refused; returns how many are refused."""
    refused = 0
    for identical, word in ((True, "identical"), (False, "near-identical")):
        pairs = [pair for pair in twins if pair.identical == identical]
        crossing = [pair for pair in pairs if pair.crosses]
        bad = identical or not accept
        for pair in crossing[:SHOWN]:
            text = f"{'bad' if bad else 'accepted'}: {word} pictures in two parts, {pair}"
            print(text, file=sys.stderr if bad else sys.stdout)
        if len(crossing) > SHOWN:
            print(f"and {len(crossing) - SHOWN} more {word} pairs", file=sys.stderr if bad else sys.stdout)
        if pairs:
            print(f"{word} pictures: {len(pairs)} pairs, of which {len(crossing)} across parts")
        refused += len(crossing) if bad else 0
    return refused


def write_twins(path: Path, twins: Sequence[Twins]) -> None:
    """All pairs as CSV `first,second,similarity,identical,first_split,second_split`."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("first", "second", "similarity", "identical", "first_split", "second_split"))
    for pair in twins:
        same = "yes" if pair.identical else "no"
        paths = pair.first.image, pair.second.image
        writer.writerow((*paths, f"{pair.similarity:.3f}", same, pair.first.part, pair.second.part))
    write_text(path, text.getvalue())


def record_of(split: Path) -> Path:
    """Where it stands how a split was drawn."""
    return split.with_suffix(".json")


def write_record(split: Path, rows: Sequence[Row], twins: Sequence[Twins], how: Mapping[str, Any]) -> None:
    """Write down how a split was made, and its sha256."""
    digest = file_hash(split)
    parts = {
        part: {
            "images": sum(row.part == part for row in rows),
            "groups": len({row.group_key for row in rows if row.part == part}),
        }
        for part in PARTS
    }
    kept = {
        "identical": sum(pair.identical for pair in twins),
        "near_identical": sum(not pair.identical for pair in twins),
        "near_identical_across_parts": sum(pair.crosses and not pair.identical for pair in twins),
    }
    table = {"split": split.name, "sha256": digest, **how, "parts": parts, "pairs": kept}
    write_text(record_of(split), json.dumps(table, indent=1) + "\n")


def how_drawn(split: Path) -> str:
    """One phrase: how the split was drawn, and whether it was changed since."""
    digest = hashlib.sha256(split.read_bytes()).hexdigest()
    try:
        table = json.loads(record_of(split).read_text())
        seed, known = table["seed"], table["sha256"]
    except (OSError, ValueError, KeyError, TypeError):
        return f"sha256 {digest[:8]}..., no record of how it was drawn"
    return f"sha256 {digest[:8]}..., drawn by seed {seed}" + ("" if known == digest else ", changed since")
