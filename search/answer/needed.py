"""What a confirmation of this size could show at the noise that it had itself, and what more seeds or images would."""

from search.answer.claims import TEST, Grids, pairs
from search.answer.crossed import LEAST_GROUPS, LEAST_SEEDS
from search.answer.grid import shared
from search.answer.part import Needed, Smallest
from search.answer.power import CLAIMS, POWER, measured, smallest_gain
from search.confirmed import Confirmed


def needed(confirmed: Confirmed, grids: Grids, metric: str, confidence: float) -> Needed | None:
    """By the first comparison that was made on test; None where there is none with its seeds and groups."""
    for pair in pairs(confirmed):
        one, other = grids.get((pair.minuend.name, TEST)), grids.get((pair.subtrahend.name, TEST))
        if one is None or other is None:
            continue
        seeds = shared(one, other)
        groups = len(set(one.one.groups))
        if len(seeds) < LEAST_SEEDS or groups < LEAST_GROUPS:
            continue
        noise = measured(one.values(metric, seeds) - other.values(metric, seeds), one.one.groups)
        sizes = ((len(seeds), groups), (2 * len(seeds), groups), (len(seeds), 2 * groups), (2 * len(seeds), 2 * groups))
        rows = [Smallest(seeds=s, groups=g, gain=smallest_gain(g, s, noise, confidence) or 0.0) for s, g in sizes]
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
