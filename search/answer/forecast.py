"""What a confirmation of a study could show, from the size of its test part alone."""

from typing import Any

from search.answer.power import LONG, POWER, SHORT, smallest_gain
from search.answer.uncertainty import FEW_SEEDS, LEAST_GROUPS, LEAST_SEEDS
from search.spec.load import StudySpec
from trainer.data import DataSet


def forecast(spec: StudySpec, data: DataSet) -> dict[str, Any]:
    """Images and groups of the test part, seeds, and the smallest gains that are shown with a probability of 80 %.

    `gain` is that of long trainings, `gain_of_short` that of short ones: what seeds differ by is not known before.
    Test rows stay closed: their groups are taken to be as large as those of validation.
    """
    images, seeds = len(data.image_hashes("test")), len(spec.confirm.seeds)
    known = [sample.group for sample in data.samples("validation")]
    groups = round(images * len(set(known)) / len(known)) if known else 0
    gains = {key: smallest_gain(groups, seeds, noise) for key, noise in (("gain", LONG), ("gain_of_short", SHORT))}
    return {"images": images, "groups": groups, "seeds": seeds, "power": POWER, **gains}


def words(found: dict[str, Any]) -> str:
    """One line."""
    sizes = f"{found['images']} test images in about {found['groups']} groups, {found['seeds']} seeds"
    if found["gain"] is None:
        need = f"at least {LEAST_GROUPS} groups and {LEAST_SEEDS} seeds are needed"
        return f"no gain can be shown: {sizes}; {need}"
    few = "" if found["seeds"] >= FEW_SEEDS else f"; fewer than {FEW_SEEDS} seeds make every interval unsure"
    return (
        f"a true gain of {found['gain']:.3f} or more is likely to be shown where trainings are long (noise assumed), "
        f"one of {found['gain_of_short']:.2f} where they are short (noise measured); {sizes}{few}"
    )
