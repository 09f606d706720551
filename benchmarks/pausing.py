"""How much sooner the answer comes where trials are paused at rungs and promoted, and what a model of curves adds.

    python -m benchmarks.pausing
    python -m benchmarks.pausing --calibration
    python -m benchmarks.pausing --foretelling

Nothing is trained: curves and clock are those of `benchmarks.time_to_answer`, and sampler, front and rules are the
product's own. Lines of the table: today's default (8 in flight, median), also with trials dealt where the answer is
open, by trial and by hour; `promote`, also so; `curves`, by its first rung, by how many trials of each width are begun
first (5, unless it says 10), and by whether slots stay empty where a further trial would only slow down the promising;
plain TPE with the median pruner, one trial at a time. The last line knows all: configurations in random order are
trained for one epoch each, and from then on it spends nothing on what will not be an answer. The line before it knows
that only after half of the epochs: a rule that goes by curves knows no more where these tell no more. A seed without an
answer counts the whole budget: the time of all trials to their ends, 8 side by side.
"""

import argparse
import math
import random
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from typing import Any, Literal

import numpy as np
import optuna
from optuna.storages import InMemoryStorage
from optuna.trial import FrozenTrial, Trial

from benchmarks.record_curves import WIDTH, drawn, widths_of
from benchmarks.time_to_answer import Cost, Found, Simulation, Way, _suggest
from benchmarks.worlds import WORLDS, World
from search import pruners, samplers
from search.curve_model import RungModel, rungs_of
from search.curve_rule import GFLOPS
from search.promotion import ArmTrials, Pausing
from search.samplers.storage_view import paused, storage_through
from search.spec.space import Scalar
from trainer.cli.entry import guard

SLOTS = 8
KNOWING = "all-knowing"


@dataclass
class Member:
    """A trial on its way."""

    trial: Trial
    width: Scalar
    curve: Sequence[float]
    epoch: int = 0

    @property
    def key(self) -> int:
        """The id of its trial."""
        return self.trial._trial_id


class PausedSearch:
    """One search with pauses, by the clock of what epochs cost; one worker."""

    def __init__(self, world: World, rule: Pausing, cost: Cost, trials: int, seed: int, within: float) -> None:
        self.world, self.rule, self.cost, self.left, self._within = world, rule, cost, trials, within
        self.widths = list(widths_of(world.arm))
        self._front = samplers.FrontChoice.along(WIDTH, tuple(self.widths), seed=seed)
        settings = samplers.SamplerSettings("tpe", seed, world.arm.sampler.startup)
        self._paused: set[int] = set()
        self._passed: set[int] = set()
        self.storage = InMemoryStorage()
        seen = storage_through(self.storage, paused(self._paused))
        sampler = samplers.sampler(settings, front=self._front)
        self.study = optuna.create_study(direction="maximize", storage=seen, sampler=sampler)
        self.members: dict[int, Member] = {}
        self.found = Found()
        self._best = -math.inf

    def run(self) -> Found:
        """To the end of the budget."""
        time, members = 0.0, list[Member]()
        while True:
            members = self._go_on(members, time)
            while len(members) < SLOTS and (member := self._turn(members)) is not None:
                members.append(member)
            if not members:
                break
            for member in members:
                member.epoch += 1
            self.found.epochs += len(members)
            time += self.cost.once + sum(self.own(member.width) for member in members)
        self.found.ended, self.found.regret = time, self.world.best() - self._best
        return self.found

    def own(self, width: Scalar) -> float:
        """What an epoch of a student costs beside the shared part."""
        return self.cost.own(float(width), max(map(float, self.widths)))

    def _arm(self) -> ArmTrials:
        trials: list[FrozenTrial] = self.storage.get_all_trials(self.study._study_id, deepcopy=False)
        ahead = range(len(trials), len(trials) + min(self.left, SLOTS))
        coming = [samplers.choice_for(self._front, number)[WIDTH] for number in ahead]
        return ArmTrials(trials, False, lambda trial: trial.params[WIDTH], coming, self._passed)

    def _go_on(self, members: Sequence[Member], time: float) -> list[Member]:
        """Report the epoch that is over now; the members that keep their slots, neither finished nor paused."""
        held = [member for member in members if not self._reported(member, time)]
        for member in list(held):
            if member.epoch in self.rule.rungs:
                trial = self.storage.get_trial(member.key)
                if self.rule.goes_on(self._arm(), trial, [each.key for each in held], SLOTS):
                    self._passed.add(member.key)
                else:
                    self._paused.add(member.key)
                    held.remove(member)
        return held

    def _turn(self, members: Sequence[Member]) -> Member | None:
        """What the next free slot gets; None where it stays empty."""
        turn = self.rule.turn(self._arm(), self._paused, [member.key for member in members])
        if turn.paused:
            member = self.members[turn.paused[0]._trial_id]
            self._paused.discard(member.key)
            self._passed.add(member.key)
            return member
        return self._begin() if turn.new and self.left > 0 else None

    def _begin(self) -> Member:
        """Admit a new trial."""
        self.left -= 1
        trial = self.study.ask()
        params = {p.name: _suggest(trial, p) for p in sorted(self.world.arm.space, key=lambda p: p.path != WIDTH)}
        trial.set_user_attr(GFLOPS, float(params[WIDTH]) ** 2)  # an epoch takes seconds in proportion to the width
        self.members[trial._trial_id] = member = Member(trial, params[WIDTH], self.world.curve(params))
        return member

    def _reported(self, member: Member, time: float) -> bool:
        """Report the epoch that is over now; whether the trial is finished."""
        self._passed.discard(member.key)
        member.trial.report(member.curve[member.epoch - 1], member.epoch)
        if member.epoch < len(member.curve):
            return False
        value = max(member.curve)
        self.study.tell(member.trial, value)
        self._best = max(self._best, value)
        self.found.finished.append((time, member.width, value))
        for key in {member.width, None}:
            if value >= self.world.best(key) - self._within:
                self.found.answers.setdefault(key, time)
        return True


class OpenPausedSearch(PausedSearch):
    """The same with trials dealt where the answer is open; a paused one is a draw that was not better."""

    def _begin(self) -> Member:
        trials = self.study.get_trials(deepcopy=False)
        dealt = samplers.open_choice(self._front, len(trials), trials, start=5, minimize=False)
        self.study.enqueue_trial(dict(dealt))
        return super()._begin()


def all_knowing(world: World, cost: Cost, seed: int, within: float, knows: int = 1) -> Found:
    """See the module's text; configurations are not limited in number. knows: the epoch after which it knows how a
    curve ends."""
    widths = list(widths_of(world.arm))
    front = samplers.FrontChoice.along(WIDTH, tuple(widths), seed=seed)
    draw = random.Random(seed)  # noqa: S311 - no secret
    open_, number, time, last = set(widths), 0, 0.0, world.arm.epochs
    members: list[tuple[Scalar, int, Sequence[float]]] = []  # width, epochs done, curve
    found = Found()
    while len(found.answers) < len(widths):
        while open_ and len(members) < SLOTS:
            width = samplers.choice_for(front, number)[WIDTH]
            number += 1
            if width in open_:
                members.append((width, 0, world.curve(drawn(world.arm, draw, int(width)))))
        time += cost.once + sum(cost.own(float(width), max(map(float, widths))) for width, *_ in members)
        kept: list[tuple[Scalar, int, Sequence[float]]] = []
        for width, done, curve in members:
            epoch, good = done + 1, max(curve) >= world.best(width) - within
            if epoch == knows and width in open_ and good:
                open_.remove(width)
                kept.append((width, epoch, curve))
            elif epoch > knows or (epoch < knows and width in open_):
                kept.append((width, epoch, curve))
        found.answers.update((width, time) for width, epoch, _ in kept if epoch == last)
        members = [member for member in kept if member[1] < last and (member[1] >= knows or member[0] in open_)]
    return found


def whole_budget(world: World, cost: Cost, trials: int) -> float:
    """The time of all trials to their ends, side by side in full slots."""
    widths = list(widths_of(world.arm))
    mean = statistics.mean(cost.own(float(width), max(map(float, widths))) for width in widths)
    return trials / SLOTS * world.arm.epochs * (cost.once + SLOTS * mean)


def lines(world: World, cost: Cost, trials: int, within: float) -> dict[str, Callable[[int], Found]]:
    """What is compared: label to a search by its seed; today's default first, all-knowing last."""
    epochs = world.arm.epochs
    tenth, third = max(epochs // 10, 1), round(epochs / 3)
    median = {"name": "median", "startup": 5, "warmup_epochs": tenth}
    today = Way("today", pruner=median)

    def dealt(spread: Literal["open", "open per hour"]) -> Callable[[int], Found]:
        way = Way(spread, pruner=median, spread=spread)
        return lambda seed: Simulation(world, way, cost, trials, seed, within).run()

    def pausing(
        name: str, first: int, kind: type[PausedSearch] = PausedSearch, **options: float
    ) -> Callable[[int], Found]:
        settings: dict[str, Any] = {"name": name, "epochs": epochs, "min_epochs": first, **options}
        rule = pruners.pruner(pruners.PrunerSettings(**settings))
        if not isinstance(rule, Pausing):
            raise TypeError(f"{name} pauses no trial")
        return lambda seed: kind(world, rule, cost, trials, seed, within).run()

    plain = Way("plain", slots=1, plain=True)
    return {
        "today: 8 in flight, median": lambda seed: Simulation(world, today, cost, trials, seed, within).run(),
        "today, open spread": dealt("open"),
        "today, open spread, per hour": dealt("open per hour"),
        f"promote, first rung {tenth}": pausing("promote", tenth),
        f"promote, first rung {third}": pausing("promote", third),
        f"promote, first rung {third}, open spread": pausing("promote", third, OpenPausedSearch),
        f"curves, first rung {tenth}": pausing("curves", tenth),
        f"curves, first rung {third}": pausing("curves", third),
        f"curves, first rung {tenth}, after 10": pausing("curves", tenth, startup=10),
        f"curves, first rung {tenth}, the promising alone": pausing("curves", tenth, idle_below=0.7),
        f"curves, first rung {third}, the promising alone": pausing("curves", third, idle_below=0.7),
        "plain TPE + median, one at a time": lambda seed: Simulation(world, plain, cost, trials, seed, within).run(),
        f"{KNOWING} from epoch {epochs // 2} on": lambda seed: all_knowing(world, cost, seed, within, epochs // 2),
        KNOWING: lambda seed: all_knowing(world, cost, seed, within),
    }


def interval(numerators: Sequence[float], denominators: Sequence[float]) -> str:
    """The ratio of two medians over the same seeds, with a 95 % interval of 2,000 resamples of the seeds."""
    draw = np.random.default_rng(0).integers(0, len(numerators), (2000, len(numerators)))
    above, below = np.array(numerators), np.array(denominators)
    ratios = np.median(above[draw], 1) / np.median(below[draw], 1)
    low, high = np.percentile(ratios, [2.5, 97.5])
    return f"{np.median(above) / np.median(below):.2f} [{low:.2f}, {high:.2f}]"


def compare(world: World, cost: Cost, trials: int, seeds: int, within: float, only: Sequence[str] = ()) -> None:
    """Print one table: today's default, and of the others those of `only` (* and ? stand for any text); none: all."""
    budget = whole_budget(world, cost, trials)
    print(
        f"\n### {world.name}: {trials} trials of {world.arm.epochs} epochs, {seeds} seeds, whole budget {budget:.0f}\n"
    )
    print(
        "| search | worst width: median (answered) | today's over this [95 %] | mean | all widths: median (answered) |"
        " time spent | share of epochs | regret |"
    )
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    first: list[float] = []
    for label, search in lines(world, cost, trials, within).items():
        if first and only and not any(fnmatch(label, text) for text in only):
            continue
        every = [search(seed) for seed in range(seeds)]
        answers = [max(each.answers.get(width, math.inf) for width in widths_of(world.arm)) for each in every]
        worst = [min(time, budget) for time in answers]
        first = first or worst
        overall = [min(each.answers.get(None, math.inf), budget) for each in every]
        cells = [label, f"{statistics.median(worst):.0f} ({sum(map(math.isfinite, answers))}/{seeds})"]
        cells += [interval(first, worst), f"{statistics.mean(worst):.0f}"]
        if label.startswith(KNOWING):
            cells += ["-"] * 4
        else:
            answered = sum(None in each.answers for each in every)
            cells += [f"{statistics.median(overall):.0f} ({answered}/{seeds})"]
            cells += [f"{statistics.median(each.ended for each in every):.0f}"]
            cells += [f"{statistics.mean(each.epochs for each in every) / trials / world.arm.epochs:.0%}"]
            cells += [f"{statistics.mean(each.regret for each in every):.4f}"]
        print(f"| {' | '.join(cells)} |", flush=True)


def calibration(world: World, seeds: Sequence[int], trials: int = 60, done: int = 10) -> None:
    """Print how often a trial beat a rival of its choice, by the probability that the model gave to it.

    Of each seed's random trials `done` are at their ends and the others at a rung; the model sees no more of these.
    """
    epochs = world.arm.epochs
    model = RungModel(rungs_of(epochs, max(epochs // 10, 1), 1.5))
    pairs: list[tuple[float, bool]] = []
    for seed in seeds:
        draw = random.Random(seed)  # noqa: S311 - no secret
        widths = [int(width) for width in widths_of(world.arm)]
        chosen = [widths[number % len(widths)] for number in range(trials)]
        curves = [list(world.curve(drawn(world.arm, draw, width))) for width in chosen]
        for rung in model.rungs[:-1]:
            rows = [
                model.row(dict(enumerate(curve, 1)), max(curve))
                if number < done
                else model.row(dict(enumerate(curve[:rung], 1)))
                for number, curve in enumerate(curves)
            ]
            mean, deviation = model.ends(rows)
            for one in range(done, trials):
                for other in range(done, one):
                    if chosen[one] == chosen[other]:
                        spread = math.hypot(deviation[one], deviation[other])
                        chance = 0.5 * math.erfc(-(mean[one] - mean[other]) / spread / math.sqrt(2))
                        pairs.append((chance, max(curves[one]) > max(curves[other])))
    print(f"\n### {world.name}: P(beats a rival of its width), {len(seeds)} draws of {trials} trials\n")
    print("| predicted | pairs | mean predicted | came true [95 %] |\n| --- | ---: | ---: | ---: |")
    for low in np.arange(0.0, 1.0, 0.1):
        inside = [(chance, won) for chance, won in pairs if low <= chance < low + 0.1 or (chance == 1.0 and low > 0.85)]
        if inside:
            share, count = statistics.mean(won for _, won in inside), len(inside)
            half = 1.96 * math.sqrt(max(share * (1 - share), 1e-4) / count)
            predicted = statistics.mean(chance for chance, _ in inside)
            print(f"| {low:.1f} to {low + 0.1:.1f} | {count} | {predicted:.2f} | {share:.2f} ± {half:.2f} |")


def foretelling(world: World, draws: int = 60) -> None:
    """Print how well a score at a rung foretells the end, by the rank correlation over random trials of one width.

    Three scores: the rung's own, the mean of the last third up to it, and the best up to it.
    """
    from scipy.stats import spearmanr

    epochs, widths, draw = world.arm.epochs, widths_of(world.arm), random.Random(0)  # noqa: S311 - no secret
    curves = [{tuple(world.curve(drawn(world.arm, draw, int(width)))) for _ in range(draws)} for width in widths]
    ways: list[Callable[[Sequence[float]], float]] = [
        lambda seen: seen[-1],
        lambda seen: statistics.mean(seen[-max(len(seen) // 3, 1) :]),
        max,
    ]
    print(f"\n### {world.name}: rank correlation with the end, mean (least) over {len(curves)} widths\n")
    print("| rung | its own score | mean of the last third up to it | best up to it |\n| ---: | ---: | ---: | ---: |")
    for rung in rungs_of(epochs, max(epochs // 10, 1), 1.5)[:-1]:
        cells = [str(rung)]
        for way in ways:
            correlations = [
                float(spearmanr([way(c[:rung]) for c in part], list(map(max, part))).statistic) for part in curves
            ]
            cells.append(f"{statistics.mean(correlations):.2f} ({min(correlations):.2f})")
        print(f"| {' | '.join(cells)} |")


def main() -> int:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=60)
    parser.add_argument("--seeds", type=int, default=15)
    parser.add_argument("--within", type=float, default=0.005, help="of the best: what counts as an answer")
    parser.add_argument("--worlds", nargs="+", choices=tuple(WORLDS), default=["recorded", "formula"])
    parser.add_argument(
        "--only", nargs="+", default=[], metavar="LABEL", help="lines beside today's; * and ? stand for any"
    )
    parser.add_argument("--foretelling", action="store_true", help="what scores at rungs say of ends, in their place")
    parser.add_argument("--calibration", action="store_true", help="of the model of curves, in place of the searches")
    args = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    for name in args.worlds:
        world = WORLDS[name]()
        if args.foretelling:
            foretelling(world)
        elif args.calibration:
            calibration(world, range(200, 205))
        else:
            compare(world, Cost(), args.trials, args.seeds, args.within, args.only)
    return 0


if __name__ == "__main__":
    sys.exit(guard(main))
