"""Ends of the search space that the best trials hit: the best may lie beyond."""

import math
from collections.abc import Iterator, Sequence
from typing import Any, Literal

SHARE = 0.1
"""The best tenth of the trials trained to their end, and not fewer than FEWEST_FOR_EDGES."""
FEWEST_FOR_EDGES = 5
NEAR = 0.1
"""Within a tenth of the range, on its own scale."""

Hit = tuple[str, Any, Literal["lowest", "highest"], int, int, str]


def edges_of(trials: Sequence[Any], *, maximize: bool, along: str | None) -> Iterator[Hit]:
    """(parameter, end, lowest or highest, hits, of, words) for each range of which at least half of the best trials lie
    at one end; of the front's parameter, where the very best trial has its first or last number.

    Chance alone puts one trial in ten there.
    """
    done = [t for t in trials if t.state.name == "COMPLETE" and t.values and math.isfinite(t.values[0])]
    done.sort(key=lambda t: t.values[0], reverse=maximize)
    if len(done) < FEWEST_FOR_EDGES:
        return
    best = _best_of(done, along)
    for name in sorted({name for trial in best for name in trial.params}):
        if name == along:
            yield from _front_end(name, done[0])
            continue
        live = [trial for trial in best if name in trial.params]
        if len(live) < FEWEST_FOR_EDGES:
            continue
        places = [_place(trial.distributions[name], trial.params[name]) for trial in live]
        for which, hits in (("lowest", _count(places, 0.0)), ("highest", _count(places, 1.0))):
            if 2 * hits >= len(live):
                end = _ends(live[0].distributions[name])[0 if which == "lowest" else 1]
                words = (
                    f"{name} = {end:g} is the space's end, and {hits} of the best {len(live)} trials lie there: widen"
                )
                yield name, end, "lowest" if which == "lowest" else "highest", hits, len(live), words


def _best_of(done: Sequence[Any], along: str | None) -> list[Any]:
    """The best tenth within each choice of the front, so that the largest network does not speak for all."""
    groups: dict[Any, list[Any]] = {}
    for trial in done:
        groups.setdefault(None if along is None else trial.params.get(along), []).append(trial)
    return [t for group in groups.values() for t in group[: max(FEWEST_FOR_EDGES, math.ceil(SHARE * len(group)))]]


def _front_end(name: str, first: Any) -> Iterator[Hit]:
    choices = [c for c in first.distributions[name].choices if isinstance(c, int | float) and not isinstance(c, bool)]
    value = first.params[name]
    if len(choices) > 1 and value in (min(choices), max(choices)):
        which: Literal["lowest", "highest"] = "lowest" if value == min(choices) else "highest"
        yield name, value, which, 1, 1, f"{name} = {value:g} is the space's end, and the best trial has it: widen"


def _ends(distribution: Any) -> tuple[float, float]:
    choices = getattr(distribution, "choices", None)
    return (distribution.low, distribution.high) if choices is None else (min(choices), max(choices))


def _place(distribution: Any, value: Any) -> float | None:
    """Where a value lies in its range, from 0 to 1; None where the range has no ends."""
    choices = getattr(distribution, "choices", None)
    if choices is not None:
        if len(choices) < 3 or not all(isinstance(c, int | float) and not isinstance(c, bool) for c in choices):
            return None
        return sorted(choices).index(value) / (len(choices) - 1)
    low, high = float(distribution.low), float(distribution.high)
    if high <= low:
        return None
    if distribution.log:
        return float(math.log(value / low) / math.log(high / low))
    return float((value - low) / (high - low))


def _count(places: Sequence[float | None], end: float) -> int:
    return sum(place is not None and abs(place - end) <= NEAR for place in places)
