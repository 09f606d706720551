"""What an older study gives a new one ([warm_start]), and when it harms; nothing is trained.

    python -m benchmarks.warm_start --seeds 7

The searches are those of `benchmarks.time_to_answer`, 8 in flight with the median pruner. The older study is the same
search with other seeds on: the same data; the other world; the same curves with the best learning rate moved by a third
of a decade, and by a whole one; and the same with every score turned round, so that its best trials are the worst. Each
way meets the same older studies; a seed without an answer counts the whole budget. Regret is the best of so many random
trials less the best that was finished, as a mean over seeds.
"""

import argparse
import math
import random
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import optuna

from benchmarks.record_curves import WIDTH, widths_of
from benchmarks.time_to_answer import WITHIN, Cost, Found, Simulation, Way
from benchmarks.worlds import Formula, Recorded, World
from search import samplers
from search.proposing.warm_start import fitting
from search.spec.space import Scalar
from trainer.cli.entry import guard

RATE = "optim.lr"
OLDER_SEED = 1000
"""Added to a seed for the older study of it."""


class Moved:
    """A world whose best learning rate lies elsewhere, by so many decades; or whose scores are turned round."""

    def __init__(self, world: World, decades: float = 0.0, *, turned: bool = False) -> None:
        self.world, self.decades, self.turned = world, decades, turned
        self.name, self.arm = world.name, world.arm
        rate = next(p for p in world.arm.space if p.path == RATE)
        self._low, self._high = (float(value) for value in (rate.probes()[0], rate.probes()[-1]))

    def curve(self, params: Mapping[str, Scalar]) -> Sequence[float]:
        """See `World`."""
        rate = min(max(float(params[RATE]) * 10**self.decades, self._low), self._high)
        curve = self.world.curve({**params, RATE: rate})
        return [1.0 - score for score in curve] if self.turned else curve

    def best(self, width: Scalar | None = None) -> float:
        """See `World`; nobody asks an older study for it."""
        return self.world.best(width)


@dataclass(frozen=True)
class Case:
    """A new study by what it begins from."""

    label: str
    source: World | None = None
    weight: float = 0.3


def cases(world: World, other: World) -> list[Case]:
    """From nothing, and from each older study."""
    third, whole, turned = Moved(world, 1 / 3), Moved(world, 1.0), Moved(world, turned=True)
    return [
        Case("from nothing"),
        Case("the same data", world),
        Case("the same data, weight 1", world, 1.0),
        Case(f"other data ({other.name})", other),
        Case("best rate a third of a decade away", third),
        Case("best rate a decade away", whole),
        Case("every score turned round", turned),
        Case("every score turned round, weight 1", turned, 1.0),
    ]


def search(world: World, case: Case, trials: int, seed: int, older: Sequence[Any]) -> Found:
    """One search; older: the trials of its older study."""
    way = Way(case.label, pruner=_median(world))
    simulation = Simulation(world, way, Cost(), trials, seed, WITHIN)
    if case.source is not None:
        settings = samplers.SamplerSettings("tpe", seed, world.arm.sampler.startup)
        kept = samplers.Older(fitting(world.arm, older, case.label), case.weight)
        front = samplers.FrontChoice.along(WIDTH, tuple(widths_of(world.arm)), seed=seed)
        simulation.study.sampler = samplers.sampler(settings, front=front, older=kept)
    return simulation.run()


def _median(world: World) -> dict[str, object]:
    return {"name": "median", "startup": 5, "warmup_epochs": round(world.arm.epochs / 10)}


def older_study(source: World, trials: int, seed: int) -> list[Any]:
    """The trials of a search on the source."""
    simulation = Simulation(source, Way("older", pruner=_median(source)), Cost(), trials, OLDER_SEED + seed, WITHIN)
    simulation.run()
    finished = (optuna.trial.TrialState.COMPLETE, optuna.trial.TrialState.PRUNED)
    return simulation.study.get_trials(deepcopy=False, states=finished)


def interval(ratios: Sequence[float]) -> str:
    """The middle of ratios and a bootstrap interval of 95 % for it, seeded."""
    draw = random.Random(0)  # noqa: S311 - no secret
    middles = sorted(statistics.median(draw.choices(ratios, k=len(ratios))) for _ in range(2000))
    shown = [f"{value:.2f}" if math.isfinite(value) else "never" for value in (middles[50], middles[1949])]
    middle = statistics.median(ratios)
    return f"{middle:.2f} ({shown[0]} to {shown[1]})" if math.isfinite(middle) else "never"


def compare(world: World, other: World, trials: int, seeds: int) -> None:
    """Print one table."""
    print(f"\n### {world.name}: {trials} trials of {world.arm.epochs} epochs, {seeds} seeds, within {WITHIN:g}\n")
    print(
        "| it begins from | answer over all widths (reached) | worst width answered (reached) | cold over warm,"
        " worst width | regret |"
    )
    print("| --- | ---: | ---: | ---: | ---: |")
    made: dict[tuple[int, int], list[Any]] = {}
    cold: list[float] = []
    for case in cases(world, other):
        every = []
        for seed in range(seeds):
            older: list[Any] = []
            if case.source is not None:
                key = (id(case.source), seed)
                older = made[key] if key in made else made.setdefault(key, older_study(case.source, trials, seed))
            every.append(search(world, case, trials, seed, older))
        overall = [found.answers.get(None, found.ended) for found in every]
        worst = [max(found.answers.get(width, found.ended) for width in widths_of(world.arm)) for found in every]
        cold = cold or worst
        reached = sum(None in found.answers for found in every)
        whole = sum(all(width in found.answers for width in widths_of(world.arm)) for found in every)
        cells = [
            case.label,
            f"{statistics.median(overall):.0f} ({reached}/{seeds})",
            f"{statistics.median(worst):.0f} ({whole}/{seeds})",
            interval([before / now for before, now in zip(cold, worst, strict=True)]),
            f"{statistics.mean(found.regret for found in every):.4f}",
        ]
        print(f"| {' | '.join(cells)} |", flush=True)


def main() -> int:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=60)
    parser.add_argument("--seeds", type=int, default=7)
    parser.add_argument("--worlds", nargs="+", choices=("recorded", "formula"), default=["recorded", "formula"])
    args = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    worlds: dict[str, World] = {"recorded": Recorded(), "formula": Formula()}
    for name in args.worlds:
        compare(worlds[name], next(w for key, w in worlds.items() if key != name), args.trials, args.seeds)
    return 0


if __name__ == "__main__":
    sys.exit(guard(main))
