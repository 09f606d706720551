"""How often the interval of a gain holds the truth, and how often a gain is shown that is not there.

    python -m benchmarks.coverage
    python -m benchmarks.coverage --thresholds    # what the rule for the threshold does (`coverage_thresholds`)

Studies with a known truth are simulated: two searches (with KD and without) whose trials differ in true quality, are
chosen by a noisy validation score, and are then trained again on fresh seeds and scored on test images, as
`search confirm` does. Images belong to groups and are hard or easy for both networks; an image's Dice ends at 1, so
the noise is skewed. How large it is is assumed (`search.answer.power`), given (`--seed-sd` and the others), or measured
in a confirmed study of a database (`--study`).
Beside the method of the program stand a bootstrap over groups and then seeds, and what is often done: the better of
the two best trials, and a paired t test of one seed's images.
"""

import argparse
import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from scipy.stats import t

from benchmarks import coverage_thresholds
from search.answer.comparisons import TEST, metric_of, pairs
from search.answer.power import LONG, Noise, measured
from search.answer.score_arrays import score_arrays, shared
from search.answer.uncertainty import Floats, estimate, holm
from search.confirm.results import confirmed
from search.storage.database import open_storage
from search.storage.url import storage_url
from trainer.cli.entry import guard
from trainer.errors import UserError

OURS = "seeds x groups"


@dataclass(frozen=True)
class World:
    """What studies are drawn from."""

    effect: float
    """True Dice that the KD term adds to every run."""
    noise: Noise
    seeds: int = 5
    groups: int = 60
    images: int = 120
    trials: tuple[int, int] = (160, 160)
    """With KD, without."""
    quality: float = 0.01
    """Standard deviation of the trials' true Dice by their settings."""
    validation: int = 40
    """Images by which trials are chosen."""


@dataclass(frozen=True)
class Outcome:
    """One study by one method. held: whether the interval held the truth; None where there is none."""

    held: bool | None
    shown: bool
    false: bool
    """It was shown, and the truth is not above zero."""
    p: float = 1.0


def winner(draw: Generator, world: World, trials: int) -> tuple[float, float]:
    """True quality and validation score of the best of so many trials, as one validation pass ranks them."""
    quality = draw.normal(0.0, world.quality, trials)
    per_image = math.hypot(world.noise.group, world.noise.both)
    error = math.hypot(world.noise.seed, per_image / math.sqrt(world.validation)) / math.sqrt(2)
    score = quality + draw.normal(0.0, error, trials)
    best = int(score.argmax())
    return float(quality[best]), float(score[best])


def skewed(draw: Generator, sd: float, size: tuple[int, ...]) -> Floats:
    """Mean 0, the standard deviation given, a long tail at one side or the other."""
    sign = np.where(draw.random(size) < 0.5, 1.0, -1.0)
    return (draw.exponential(1.0, size) - 1.0) * sign * sd


def differences(draw: Generator, world: World, gain: float) -> tuple[Floats, tuple[str, ...]]:
    """(seeds, images) of one network's Dice less the other's, and the images' groups, of uneven size."""
    shares = draw.dirichlet(np.full(world.groups, 2.0))
    index = np.concatenate((np.arange(world.groups), draw.choice(world.groups, world.images - world.groups, p=shares)))
    noise, shape = world.noise, (world.seeds, world.groups)
    own = skewed(draw, noise.both / math.sqrt(2), (world.seeds, world.images))
    values = gain + draw.normal(0.0, noise.seed, (world.seeds, 1)) + skewed(draw, noise.group, shape[1:])[index]
    return values + skewed(draw, noise.both / math.sqrt(2), shape)[:, index] + own, tuple(map(str, index))


def bootstrap(draw: Generator, values: Floats, groups: tuple[str, ...], draws: int = 400) -> tuple[float, float]:
    """Percentiles of means over groups, then seeds, both drawn with replacement (Owen and Eckles 2012)."""
    _, index = np.unique(np.asarray(groups), return_inverse=True)
    count = int(index.max()) + 1
    sums = np.zeros((count, len(values)))
    np.add.at(sums, index, values.T)
    sizes = np.bincount(index)
    by_group = draw.multinomial(count, np.full(count, 1 / count), size=draws)
    by_seed = draw.multinomial(len(values), np.full(len(values), 1 / len(values)), size=draws) / len(values)
    means = ((by_group @ sums) * by_seed).sum(axis=1) / (by_group @ sizes)
    return float(np.quantile(means, 0.025)), float(np.quantile(means, 0.975))


def study(draw: Generator, world: World) -> dict[str, dict[str, Outcome]]:
    """By claim and method: the gain of one search's winner over the other's, the effect of the KD term in one run, and
    that both are shown together, corrected (Holm), as the report asks of "distillation was a reason".
    """
    quality, score = zip(*(winner(draw, world, trials) for trials in world.trials), strict=True)
    gain = quality[0] + world.effect - quality[1]
    naive = score[0] + world.effect - score[1]
    between = _outcomes(draw, world, gain)
    between["best of N"] = Outcome(None, naive > 0, naive > 0 and gain <= 0)
    term = _outcomes(draw, world, world.effect)
    both = all(
        p <= 0.05 and outcome.shown
        for p, outcome in zip(holm([between[OURS].p, term[OURS].p]), (between[OURS], term[OURS]), strict=True)
    )
    reason = Outcome(None, both, both and world.effect <= 0)
    return {"gain": between, "kd_term_effect": term, "both": {OURS: reason}}


def _outcomes(draw: Generator, world: World, truth: float) -> dict[str, Outcome]:
    values, groups = differences(draw, world, truth)
    first = values[0]
    half = float(t.ppf(0.975, len(first) - 1)) * first.std(ddof=1) / math.sqrt(len(first))
    ours = estimate(values, groups)
    intervals = {
        OURS: ours.interval(0.95) or (-math.inf, math.inf),
        "bootstrap": bootstrap(draw, values, groups),
        "t over images": (float(first.mean()) - half, float(first.mean()) + half),
    }
    return {
        name: Outcome(low <= truth <= high, low > 0, low > 0 >= truth, ours.two_sided() or 1.0 if name == OURS else 1.0)
        for name, (low, high) in intervals.items()
    }


def rows(worlds: dict[str, World], studies: int, seed: int) -> Iterator[str]:
    """Lines of a Markdown table."""
    yield "| world | KD adds | claim | method | interval holds the truth | shown | shown falsely |"
    yield "|---|---:|---|---|---:|---:|---:|"
    for label, world in worlds.items():
        draw = np.random.default_rng(seed)
        found = [study(draw, world) for _ in range(studies)]
        for claim, methods in found[0].items():
            for method in methods:
                outcomes = [each[claim][method] for each in found]
                held = [o.held for o in outcomes if o.held is not None]
                said = f"{np.mean(held):.1%}" if held else ""
                shown, false = np.mean([o.shown for o in outcomes]), np.mean([o.false for o in outcomes])
                where = label.rpartition(", KD")[0]
                yield f"| {where} | {world.effect:g} | {claim} | {method} | {said} | {shown:.1%} | {false:.1%} |"


def of_study(storage: str | None, study: str) -> Noise:
    """The noise of the claims of a confirmed study on test, each printed; of each part the most. Raises UserError."""
    opened = open_storage(storage_url(storage), create=False)
    found = confirmed(opened, study)
    opened.engine.dispose()
    by_name, all_of = score_arrays(found), []
    for pair in pairs(found):
        minuend, subtrahend = by_name.get((pair.minuend.name, TEST)), by_name.get((pair.subtrahend.name, TEST))
        if minuend is not None and subtrahend is not None:
            seeds = shared(minuend, subtrahend)
            column = metric_of(found)
            values = minuend.values(column, seeds) - subtrahend.values(column, seeds)
            all_of.append(measured(values, minuend.one.groups))
            print(f"{pair.name}: {pair.minuend.name} less {pair.subtrahend.name}: {all_of[-1]}")
    if not all_of:
        raise UserError(f"study {study!r}: has no claim whose noise could be measured")
    return Noise(*(max(getattr(each, part) for each in all_of) for part in ("seed", "group", "both")))


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.coverage", description=__doc__.splitlines()[0])
    parser.add_argument("--studies", type=int, default=1000, help="simulated studies a row (default 1000)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--seeds", type=int, default=5, help="fresh seeds of a confirmation (default 5)")
    parser.add_argument("--seed-sd", type=float, default=LONG.seed, help="of the difference, by seed")
    parser.add_argument("--group-sd", type=float, default=LONG.group, help="of the difference, by group")
    parser.add_argument("--both-sd", type=float, default=LONG.both, help="of the difference, by seed and group")
    parser.add_argument("--study", help="take the noise of the claims of this confirmed study in its place")
    parser.add_argument("--storage", help="its database; default: as of python -m search")
    parser.add_argument("--thresholds", action="store_true", help="the rule for the threshold in place of intervals")
    args = parser.parse_args()
    if args.thresholds:
        print(f"{args.studies} networks a row, {coverage_thresholds.TEST_IMAGES} new images each; gains in Dice")
        print("\n".join(coverage_thresholds.rows(coverage_thresholds.KINDS, args.studies, args.seed)))
        return 0
    noise = Noise(args.seed_sd, args.group_sd, args.both_sd)
    if args.study is not None:
        noise = of_study(args.storage, args.study)
    worlds = {}
    for effect in (0.0, 0.02):
        worlds[f"60 groups, 160 and 160 trials, KD {effect:g}"] = World(effect, noise, seeds=args.seeds)
        worlds[f"60 groups, 160 and 40 trials, KD {effect:g}"] = World(
            effect, noise, seeds=args.seeds, trials=(160, 40)
        )
        worlds[f"15 groups, 160 and 160 trials, KD {effect:g}"] = World(effect, noise, seeds=args.seeds, groups=15)
    print(f"{args.studies} studies a row; noise of the difference: {noise}")
    print("\n".join(rows(worlds, args.studies, args.seed)))
    return 0


if __name__ == "__main__":
    sys.exit(guard(main))
