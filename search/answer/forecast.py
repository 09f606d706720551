"""What a confirmation of a study could show, from the size of its test part alone."""

from typing import Any

from search.answer.crossed import LEAST_GROUPS, LEAST_SEEDS
from search.answer.power import ASSUMED, POWER, smallest_gain
from search.spec import StudySpec
from trainer.data import DataSet


def forecast(spec: StudySpec, data: DataSet) -> dict[str, Any]:
    """Images and groups of the test part, seeds, and the smallest gain that is shown with a probability of 80 %.

    Test rows stay closed: their groups are taken to be as large as those of validation.
    """
    images = len(data.image_hashes("test"))
    known = [sample.group for sample in data.samples("validation")]
    groups = round(images * len(set(known)) / len(known)) if known else 0
    gain = smallest_gain(groups, len(spec.confirm.seeds))
    return {"images": images, "groups": groups, "seeds": len(spec.confirm.seeds), "power": POWER, "gain": gain}


def words(found: dict[str, Any]) -> str:
    """One line."""
    sizes = f"{found['images']} test images in about {found['groups']} groups, {found['seeds']} seeds"
    if found["gain"] is None:
        need = f"at least {LEAST_GROUPS} groups and {LEAST_SEEDS} seeds are needed"
        return f"no gain can be shown: {sizes}; {need}"
    noise = f"{ASSUMED.group:g} by group, {ASSUMED.both:g} by image, {ASSUMED.seed:g} by seed"
    return f"a true gain of {found['gain']:.3f} or more is likely to be shown ({sizes}; noise assumed: {noise})"
