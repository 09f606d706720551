"""The scores of single classes that a search stored, and the classes that they are of."""

import json
from collections.abc import Mapping

from search.storage.leases import LeaseDetails
from search.study.snapshot import SearchSnapshot
from trainer.config import RunConfig
from trainer.data.classes import LabelClass, overlaps
from trainer.data.classes import foreground_of as foreground_data

SHOWN_SCORES = ("dice", "iou", "precision", "recall")
"""Scores of single classes that tables show."""


def foreground_of(rows: SearchSnapshot) -> tuple[LabelClass, ...]:
    """The foreground classes or regions of a search's data in their order, where there are several; else nothing.

    Known from the first run that a worker began, so that nobody needs the data.
    """
    run = _begun(rows)
    return () if run is None else several(run)


def has_regions(rows: SearchSnapshot) -> bool:
    """Whether a search's data has regions, which overlap, in place of classes; known as `foreground_of` is."""
    run = _begun(rows)
    return run is not None and overlaps(run.data)


def _begun(rows: SearchSnapshot) -> RunConfig | None:
    run = next((lease.run for lease in rows.every if lease.run is not None), None)
    return None if run is None else RunConfig.model_validate_json(run)


def several(run: RunConfig) -> tuple[LabelClass, ...]:
    """The foreground classes or regions of a run's data where there are several; else nothing."""
    foreground = foreground_data(run.data)
    return foreground if len(foreground) > 1 else ()


def scores_by_class(lease: LeaseDetails) -> dict[str, float]:
    """The scores of single classes at the best epoch of a trial, as `dice.liver`; nothing with one foreground class."""
    scores: Mapping[str, float] = json.loads(lease.scores or "{}")
    return {name: score for name, score in scores.items() if "." in name}


def shown_score(metric: str, by_class: Mapping[str, float]) -> str:
    """The bare name of the score by class that stands beside a study's own: the same where it is there, else Dice."""
    bare = metric.partition(".")[0]
    return bare if sum(name.startswith(f"{bare}.") for name in by_class) > 1 else "dice"


def hexadecimal(known: LabelClass) -> str:
    """A class's colour as `#009e73`."""
    return "#{:02x}{:02x}{:02x}".format(*known.colour)
