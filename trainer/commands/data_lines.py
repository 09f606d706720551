"""What `trainer data` and `search init` print of a split, and the files that are left beside it."""

import csv
import hashlib
import io
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from trainer.atomic_files import write_text
from trainer.data.file_check import CheckedPair
from trainer.data.files import file_hash
from trainer.data.splits.draw import DrawnSplit
from trainer.data.splits.mask_codings import mask_lines
from trainer.data.splits.near_duplicates import Twins
from trainer.data.splits.split import PARTS, Row, write_split

FEWEST_GROUPS = 10
"""Test groups below which no interval is given."""
SHOWN = 20
"""Pairs across parts that are named one by one."""


def write_drawn(drawn: DrawnSplit, output: Path) -> None:
    """Write the split file, its record, and the pairs that show the same. Raises DataError."""
    write_split(output, drawn.rows)
    listed = output.with_suffix(".duplicates.csv")
    listed.unlink(missing_ok=True)
    if drawn.pairs:
        write_twins(listed, drawn.pairs)
    write_record(output, drawn.rows, drawn.pairs, drawn.how)


def report_drawn(drawn: DrawnSplit, output: Path, root: Path) -> None:
    """Print what is in the split that was written."""
    print_sources(drawn.rows)
    for line in (*drawn.left, *mask_lines(drawn.rows, [entry.values for entry in drawn.checked], drawn.codings)):
        print(line)
    if drawn.pairs:
        print_twins(drawn.pairs, accept=drawn.how["near_duplicates"] == "accept")
        listed = output.with_suffix(".duplicates.csv")
        print(f"{listed}  all of them; those that were not in a given split are kept in one part")
    digest, seed = file_hash(output), drawn.how["seed"]
    print(f"{output}  {len(drawn.rows)} images, seed {seed}, sha256 {digest[:8]}...; paths start at {root}")


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
    depths = [entry.depth for entry in checked if entry.depth]
    if depths:
        lengths = [entry.spacing for entry in checked if entry.spacing is not None]
        spread = " x ".join(_from_to(axis) for axis in zip(*lengths, strict=True))
        print(f"volumes   {_from_to(depths)} voxels deep, spacing {spread} mm (x, y, z)")
    turned = sum(entry.orientation != 1 for entry in checked)
    if turned:
        print(f"warning: {turned} images carry an EXIF orientation, which is not obeyed; look whether their masks fit")


def _from_to(values: Sequence[float]) -> str:
    return f"{min(values):g}-{max(values):g}" if min(values) < max(values) else f"{min(values):g}"


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


def recorded(split: Path) -> Mapping[str, Any] | None:
    """What the record beside a split says of its pictures and masks, as settings of [run.data]; None: nothing."""
    try:
        table = json.loads(record_of(split).read_text())
    except (OSError, ValueError):
        return None
    data = table.get("data") if isinstance(table, dict) else None
    return data if isinstance(data, dict) and isinstance(data.get("name"), str) else None


def toml_lines(settings: Mapping[str, Any]) -> list[str]:
    """Settings of [run.data] as TOML, a line each, and a line a class."""
    lines = []
    for key, value in settings.items():
        if key == "classes":
            lines += [f"{key} = [", *(f"    {_toml(known)}," for known in value), "]"]
        else:
            lines.append(f"{key} = {_toml(value)}")
    return lines


def _toml(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{key} = {_toml(entry)}" for key, entry in value.items()) + " }"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_toml, value))}]"
    return json.dumps(value, ensure_ascii=False)
