"""What a confirmation of this size could show at the noise that it had itself, and what more seeds or images would."""

from search.answer.comparisons import TEST, Grids, pairs
from search.answer.document import Needed, Smallest
from search.answer.power import CLAIMS, POWER, measured, smallest_gain
from search.answer.score_arrays import difference, shared
from search.confirm.results import Confirmed


def needed(confirmed: Confirmed, grids: Grids, metric: str, confidence: float) -> Needed | None:
    """By the first comparison on test that has an interval; None where none has."""
    for pair in pairs(confirmed):
        one, other = grids.get((pair.minuend.name, TEST)), grids.get((pair.subtrahend.name, TEST))
        found = None if one is None or other is None else difference(one, other, metric)[0]
        if one is None or other is None or found is None or found.error is None:
            continue
        seeds, groups = found.seeds, found.groups  # of the images that have a value for every seed
        both = shared(one, other)
        noise = measured(one.values(metric, both) - other.values(metric, both), one.one.groups)
        sizes = ((seeds, groups), (2 * seeds, groups), (seeds, 2 * groups), (2 * seeds, 2 * groups))
        gains = ((s, g, smallest_gain(g, s, noise, confidence)) for s, g in sizes)
        rows = [Smallest(seeds=s, groups=g, gain=gain) for s, g, gain in gains if gain is not None]
        return Needed(
            claim=pair.name, seed=noise.seed, group=noise.group, both=noise.both, power=POWER, claims=CLAIMS,
            smallest=tuple(rows), words=_words(pair.name, rows),
        )  # fmt: skip
    return None


def _words(claim: str, rows: list[Smallest]) -> str:
    here, seeds, images, both = rows
    return (
        f"At the noise that {claim} had here, {here.seeds} seeds and {here.groups} groups of test images show a true "
        f"difference of {here.gain:.3f} or more with a probability of {POWER:.0%}; {seeds.seeds} seeds one of "
        f"{seeds.gain:.3f}, {images.groups} groups one of {images.gain:.3f}, both one of {both.gain:.3f}. What is "
        "smaller can be there and not be shown."
    )
