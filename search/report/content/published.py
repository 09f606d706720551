"""What others printed of a study, out of studies/published/, beside what was confirmed here; never mixed."""

import csv
import json
import statistics
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from search.answer.comparisons import TEST, first, unit_of_metric
from search.answer.score_arrays import ScoreArray, score_arrays
from search.confirm.configurations import Configuration
from search.confirm.results import Confirmed
from search.report.content.document import PublishedNumber, PublishedPart
from search.spec.config import Published
from trainer.repository import REPOSITORY

FOLDERS = (Path("studies") / "published", REPOSITORY / "studies" / "published")
"""Where files of published numbers are looked for, as `studies/` itself is."""
NEAREST = {
    "dice": "dice",
    "iou": "iou",
    "precision": "precision",
    "recall": "recall",
    "hd95": "hd95_missed_as_diagonal",
}
"""What a published score is set beside where the same one is not kept for single images: another score of the same
quantity, which the page names."""
MISLEADING = ("dice_of_rows",)
"""Scores that bear a name and say something else (docs/scores.md)."""


def published_part(settings: str, confirmed: Confirmed | None) -> PublishedPart | None:
    """What the study of these settings names; None where it names nothing.

    settings: of the search, as the database keeps them.
    """
    table = json.loads(settings).get("published")
    if table is None:
        return None
    given = Published.model_validate(table)
    file = next((path for folder in FOLDERS if (path := folder / f"{given.file}.csv").is_file()), None)
    if file is None:
        why = f"no file studies/published/{given.file}.csv, here or beside the program"
        return PublishedPart(file=given.file, rows=(), differs=given.differs, missing=why)
    rows = [row for row in _rows(file) if _wanted(row, given.rows)]
    arrays = {} if confirmed is None else score_arrays(confirmed)
    return PublishedPart(
        file=given.file,
        rows=tuple(_number(row, given.methods, confirmed, arrays) for row in rows),
        differs=given.differs,
        missing=None if rows else f"no row of studies/published/{given.file}.csv is as [published] rows says",
    )


def _rows(file: Path) -> Iterator[dict[str, str]]:
    with file.open(newline="", encoding="utf-8") as lines:
        yield from csv.DictReader(lines)


def _wanted(row: Mapping[str, str], rows: Mapping[str, str | tuple[str, ...]]) -> bool:
    return all(row[column] in ((wanted,) if isinstance(wanted, str) else wanted) for column, wanted in rows.items())


def _number(
    row: Mapping[str, str],
    methods: Mapping[str, str],
    confirmed: Confirmed | None,
    arrays: Mapping[tuple[str, str], ScoreArray],
) -> PublishedNumber:
    method = methods.get(row["method"], row["method"])
    ours = None if confirmed is None else _ours(row, method, confirmed)
    array = None if ours is None else arrays.get((ours.name, TEST))
    metric = None if array is None else _our_metric(row["metric"], array)
    means = [] if array is None or metric is None else _means(array, metric)
    return PublishedNumber(
        **{column: row[column] for column in ("data", "part", "method", "teacher", "student", "pretrained", "metric")},
        value=float(row["value"]) if row["value"] else None,
        deviation=float(row["deviation"]) if row["deviation"] else None,
        unit=row["unit"],
        source=row["source"],
        blank=row["blank"],
        ours=ours.name if ours is not None and means else None,
        our_metric=metric if means else None,
        our_value=statistics.fmean(means) if means else None,
        our_deviation=statistics.stdev(means) if len(means) > 1 else None,
        our_unit="" if array is None or metric is None else unit_of_metric(metric, array.one.length_unit) or "share",
    )


def _ours(row: Mapping[str, str], method: str, confirmed: Confirmed) -> Configuration | None:
    """The configuration with the same network, trained the same way; None where none was confirmed. method: the row's,
    as it is called here."""
    named = row["student"]
    every = confirmed.configurations
    if method == "teacher":
        return first(c for c in every if c.role == "teacher" and c.run["teacher"]["name"] == named)
    alike = [c for c in every if c.role != "teacher" and c.run["student"]["name"] == named]
    if method == "default settings":
        return first(c for c in alike if c.role == "defaults")
    searched = [c for c in alike if c.role in ("winner", "control")]
    if method == "search":
        return first(c for c in searched if c.role == "winner")
    taught = [c for c in searched if c.run["method"] == method]
    teacher = row["teacher"]
    return first(c for c in taught if method == "none" or not teacher or c.run["teacher"]["name"] == teacher)


def _our_metric(published: str, array: ScoreArray) -> str | None:
    """The same score where it is kept for single images, else the nearest; None where nothing compares."""
    if array.has(published):
        return published
    if published in MISLEADING:
        return None
    bare = published.removeprefix("pooled_").partition("_")[0]
    nearest = next((ours for name, ours in NEAREST.items() if bare in (name, f"m{name}")), None)
    return nearest if nearest is not None and array.has(nearest) else None


def _means(array: ScoreArray, metric: str) -> list[float]:
    """The mean over images, a seed; nothing where an image has no value."""
    rows = array.values(metric)
    return [float(row.mean()) for row in rows if not np.isnan(row).any()]
