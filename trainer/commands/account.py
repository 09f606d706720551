"""What `python -m trainer data` says of a split, and the record that it leaves beside one."""

import csv
import hashlib
import io
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from trainer.atomic_files import write_text
from trainer.data.files import file_hash
from trainer.data.file_check import Examined
from trainer.data.splits.near_duplicates import Twins
from trainer.data.splits.split import PARTS, Row
from trainer.errors import DataError

FEWEST_GROUPS = 10
"""Test groups below which no interval is given."""
SHOWN = 20
"""Pairs across parts that are named one by one."""


def print_bad(found: Sequence[Examined | DataError]) -> int:
    bad = [entry for entry in found if isinstance(entry, DataError)]
    for entry in bad:
        print(f"bad: {entry}", file=sys.stderr)
    return len(bad)


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


def print_pictures(found: Sequence[Examined | DataError]) -> None:
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


def print_twins(found: Sequence[Twins], *, accept: bool) -> int:
    """One line a pair across parts, on stderr where it is refused; returns how many are refused."""
    refused = 0
    for identical, word in ((True, "identical"), (False, "near-identical")):
        pairs = [pair for pair in found if pair.identical == identical]
        crossing = [pair for pair in pairs if pair.crosses]
        bad = identical or not accept
        for pair in crossing[:SHOWN]:
            told = f"{'bad' if bad else 'accepted'}: {word} pictures in two parts, {pair}"
            print(told, file=sys.stderr if bad else sys.stdout)
        if len(crossing) > SHOWN:
            print(f"and {len(crossing) - SHOWN} more {word} pairs", file=sys.stderr if bad else sys.stdout)
        if pairs:
            print(f"{word} pictures: {len(pairs)} pairs, of which {len(crossing)} across parts")
        refused += len(crossing) if bad else 0
    return refused


def write_twins(path: Path, found: Sequence[Twins]) -> None:
    """All pairs as CSV `first,second,similarity,identical,first_split,second_split`."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("first", "second", "similarity", "identical", "first_split", "second_split"))
    for pair in found:
        same = "yes" if pair.identical else "no"
        paths = pair.first.image, pair.second.image
        writer.writerow((*paths, f"{pair.similarity:.3f}", same, pair.first.part, pair.second.part))
    write_text(path, text.getvalue())


def record_of(split: Path) -> Path:
    """Where it stands how a split was drawn."""
    return split.with_suffix(".json")


def write_record(split: Path, rows: Sequence[Row], found: Sequence[Twins], how: Mapping[str, Any]) -> str:
    """Write down how a split was made, and its sha256, which is returned."""
    digest = file_hash(split)
    parts = {
        part: {
            "images": sum(row.part == part for row in rows),
            "groups": len({row.group_key for row in rows if row.part == part}),
        }
        for part in PARTS
    }
    kept = {
        "identical": sum(pair.identical for pair in found),
        "near_identical": sum(not pair.identical for pair in found),
        "near_identical_across_parts": sum(pair.crosses and not pair.identical for pair in found),
    }
    table = {"split": split.name, "sha256": digest, **how, "parts": parts, "pairs": kept}
    write_text(record_of(split), json.dumps(table, indent=1) + "\n")
    return digest


def how_drawn(split: Path) -> str:
    """One phrase: how the split was drawn, and whether it was changed since."""
    digest = hashlib.sha256(split.read_bytes()).hexdigest()
    try:
        table = json.loads(record_of(split).read_text())
        seed, known = table["seed"], table["sha256"]
    except (OSError, ValueError, KeyError, TypeError):
        return f"sha256 {digest[:8]}..., no record of how it was drawn"
    return f"sha256 {digest[:8]}..., drawn by seed {seed}" + ("" if known == digest else ", changed since")
