"""How long until a good student is found: a finished trial within 0.005 of the best of N full-budget trials.

    python -m benchmarks.time_to_answer
    python -m benchmarks.time_to_answer --against FOLDER --blocks 5

Nothing is trained and no clock is waited for: the trials' curves are recorded ones or a formula's
(`benchmarks.worlds`), and time is counted from what an epoch costs. Sampler, pruner and the spread along the front are
the product's own. The plain search is Optuna's TPE and MedianPruner with their defaults, one trial at a time. Ours
trains K trials side by side: an epoch of K trials costs the shared part (teacher and data) once and each student's
own part. Times are in units of one plain epoch of the widest student.

`--against FOLDER` runs the whole by turns with the version whose checkout is in FOLDER (9f9c9df or later), and prints
what sampling and pruning took: this version's seconds over the other's, by arm (`benchmarks.against`); and
which arms came to other figures. They follow from the seeds, but for Hyperband's: its brackets hang on a study's name,
which Optuna draws.
"""

import argparse
import heapq
import math
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import optuna
from optuna.pruners import BasePruner, MedianPruner
from optuna.samplers import TPESampler
from optuna.study import Study
from optuna.trial import Trial, TrialState

from benchmarks import against
from benchmarks.record_curves import WIDTH, widths_of
from benchmarks.worlds import WORLDS, World
from search import pruners, samplers
from search.spec.arms import Arm
from search.spec.space import Choices, FloatRange, Scalar
from trainer.cli.entry import guard

WITHIN = 0.005


@dataclass(frozen=True)
class Cost:
    """Seconds of a step: the shared part, and a student's own by width."""

    shared: float = 0.65
    """Teacher and data; those of a ResNet-101 U-Net at 128 pixels, batch 8, on one core."""
    widest: float = 0.56
    """The widest student's own part; narrower ones in proportion to their width (reference: widths 16 and 8)."""

    def own(self, width: float, widest: float) -> float:
        """A student's part of an epoch, in units of a plain epoch of the widest."""
        return self.widest * width / widest / (self.shared + self.widest)

    @property
    def once(self) -> float:
        """The shared part in the same units."""
        return self.shared / (self.shared + self.widest)


@dataclass(frozen=True)
class Way:
    """How a search is run."""

    label: str
    slots: int = 8
    workers: int = 1
    pruner: dict[str, object] | None = None
    """Settings of the product's pruner; None: Optuna alone, with its defaults."""
    plain: bool = False
    spread: Literal["equal", "open", "open per hour"] = "equal"
    """How trials are dealt over the widths; open ones after 5 of each."""


@dataclass
class Found:
    """What a search came to."""

    answers: dict[Scalar | None, float] = field(default_factory=dict)
    """The time of the first good trial, of a width or (None) of all."""
    ended: float = 0.0
    epochs: int = 0
    """Trial epochs that were trained."""
    regret: float = 0.0
    """The best of N less the best that this search finished."""
    finished: list[tuple[float, Scalar, float]] = field(default_factory=list)
    """When each trial that was trained to its end was, its width, and its score."""


@dataclass
class Running:
    """A trial in a slot."""

    trial: Trial
    params: dict[str, Scalar]
    curve: Sequence[float]
    epoch: int = 0
    spent: float = 0.0
    """Its own part of its epochs, and its share of their shared part."""


class Simulation:
    """One search, by the clock of what epochs cost."""

    def __init__(self, world: World, way: Way, cost: Cost, trials: int, seed: int, within: float = WITHIN) -> None:
        self._within = within
        self.world, self.way, self.cost, self.left = world, way, cost, trials
        arm = world.arm
        self._widest = max(float(w) for w in widths_of(arm))
        choices = tuple(widths_of(arm))
        self._front = None if way.plain else samplers.FrontChoice.along(WIDTH, choices, seed=seed)
        settings = samplers.SamplerSettings("tpe", seed, arm.sampler.startup)
        sampler = TPESampler(seed=seed) if way.plain else samplers.sampler(settings, front=self._front)
        self.study: Study = optuna.create_study(direction="maximize", sampler=sampler)
        self._pruner: BasePruner = MedianPruner() if way.plain else _pruner(way, arm)
        self.found = Found()
        self._best = -math.inf
        self._spent: dict[int, float] = {}
        """What each trial took that has ended, by trial id."""

    def run(self) -> Found:
        """To the end of the budget: every worker goes from one epoch boundary to the next."""
        heap: list[tuple[float, int, list[Running]]] = [(0.0, worker, []) for worker in range(self.way.workers)]
        while heap:
            time, worker, members = heapq.heappop(heap)
            members = [member for member in members if not self._ended(member, time)]
            while len(members) < self.way.slots and self.left > 0:
                members.append(self._begin())
            if not members:
                self.found.ended = max(self.found.ended, time)
                continue
            for member in members:
                member.epoch += 1
            self.found.epochs += len(members)
            for member in members:
                member.spent += self._own(member) + self.cost.once / len(members)
            own = sum(map(self._own, members))
            heapq.heappush(heap, (time + self.cost.once + own, worker, members))
        self.found.regret = self.world.best() - self._best
        return self.found

    def _begin(self) -> Running:
        self.left -= 1
        if self._front is not None and self.way.spread != "equal":
            self.study.enqueue_trial(self._dealt(self._front))
        trial = self.study.ask()
        params = {p.name: _suggest(trial, p) for p in sorted(self.world.arm.space, key=lambda p: p.path != WIDTH)}
        return Running(trial, params, self.world.curve(params))

    def _dealt(self, front: samplers.FrontChoice) -> dict[str, Scalar]:
        trials = self.study.get_trials(deepcopy=False)
        spent = self._spent if self.way.spread == "open per hour" else None
        return dict(samplers.open_choice(front, len(trials), trials, start=5, minimize=False, seconds=spent))

    def _own(self, member: Running) -> float:
        return self.cost.own(float(member.params[WIDTH]), self._widest)

    def _ended(self, member: Running, time: float) -> bool:
        ended = self._judged(member, time)
        if ended:
            self._spent[member.trial._trial_id] = member.spent
        return ended

    def _judged(self, member: Running, time: float) -> bool:
        """Report the epoch that is over now; whether the trial is."""
        member.trial.report(member.curve[member.epoch - 1], member.epoch)
        if member.epoch == len(member.curve):
            value = max(member.curve)
            self.study.tell(member.trial, value)
            self._completed(value, member.params[WIDTH], time)
            return True
        trial = self.study._storage.get_trial(member.trial._trial_id)
        if pruners.should_prune(self._pruner, self.study, trial, front=self._front):
            self.study.tell(member.trial, state=TrialState.PRUNED)
            return True
        return False

    def _completed(self, value: float, width: Scalar, time: float) -> None:
        self._best = max(self._best, value)
        self.found.finished.append((time, width, value))
        for key in {width, None}:
            if value >= self.world.best(key) - self._within:
                self.found.answers.setdefault(key, time)


def _pruner(way: Way, arm: Arm) -> BasePruner:
    settings = {"name": "none", **(way.pruner or {})}
    return pruners.pruner(pruners.PrunerSettings(epochs=arm.epochs, **settings))  # type: ignore[arg-type]


def _suggest(trial: Trial, parameter: object) -> Scalar:
    if isinstance(parameter, Choices):
        chosen = trial.suggest_categorical(parameter.name, list(parameter.choices))
        return next(choice for choice in parameter.choices if choice == chosen)
    if isinstance(parameter, FloatRange):
        return trial.suggest_float(parameter.name, parameter.low, parameter.high, log=parameter.log)
    raise TypeError(f"{parameter!r} is not in the spaces of this benchmark")


def ways(epochs: int) -> list[Way]:
    """The plain search, ours by the number in flight, and ours by its pruner."""
    tenth, quarter = round(epochs / 10), round(epochs / 4)
    chosen: dict[str, object] = {"name": "median", "startup": 5, "warmup_epochs": tenth}
    found = [Way("plain TPE + median, one at a time", slots=1, plain=True)]
    found += [Way(f"ours, {k} in flight in 1 worker", slots=k, pruner=chosen) for k in (1, 2, 4, 8, 16, 24)]
    found += [Way("ours, 24 in flight in 3 workers", slots=8, workers=3, pruner=chosen)]
    for startup, warmup in (
        (5, 0),
        (1, tenth),
        (2, tenth),
        (3, tenth),
        (10, tenth),
        (2, 0),
        (2, quarter),
        (5, quarter),
    ):
        settings: dict[str, object] = {"name": "median", "startup": startup, "warmup_epochs": warmup}
        found.append(Way(f"ours, 8, median startup {startup}, warm-up {warmup} of {epochs}", pruner=settings))
    found.append(Way("ours, 8, no pruner", pruner={"name": "none"}))
    for name in ("halving", "hyperband"):
        settings = {"name": name, "min_epochs": tenth, "reduction": 3}
        found.append(Way(f"ours, 8, {name} from epoch {tenth}", pruner=settings))
    return found


def _median(times: Sequence[float]) -> float:
    return statistics.median(times)


def _shown(times: Sequence[float]) -> str:
    reached = sum(map(math.isfinite, times))
    middle = _median(times)
    return f"{middle:.0f} ({reached}/{len(times)})" if math.isfinite(middle) else f"> all ({reached}/{len(times)})"


def compare(world: World, cost: Cost, trials: int, seeds: int, within: float) -> None:
    """Print one table."""
    arm = world.arm
    print(f"\n### {world.name}: {trials} trials of {arm.epochs} epochs, {seeds} sampler seeds, within {within:g}\n")
    print(
        "| search | answer over all widths (reached) | x plain | worst width answered (reached) | x plain |"
        " budget spent | x plain | share of epochs | regret |"
    )
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    base: tuple[float, ...] = ()
    for way in ways(arm.epochs):
        every = [Simulation(world, way, cost, trials, seed, within).run() for seed in range(seeds)]
        overall = [found.answers.get(None, math.inf) for found in every]
        worst = [max(found.answers.get(width, math.inf) for width in widths_of(arm)) for found in every]
        ended = [found.ended for found in every]
        base = base or tuple(map(_median, (overall, worst, ended)))
        share = statistics.mean(found.epochs for found in every) / (trials * arm.epochs)
        cells = [way.label]
        for times, plain in zip((overall, worst), base, strict=False):
            cells += [_shown(times), _times(plain, _median(times))]
        cells += [f"{_median(ended):.0f}", _times(base[2], _median(ended)), f"{share:.0%}"]
        cells.append(f"{statistics.mean(found.regret for found in every):.4f}")
        print(f"| {' | '.join(cells)} |", flush=True)


def _times(plain: float, ours: float) -> str:
    return f"{plain / ours:.1f}" if math.isfinite(plain) and math.isfinite(ours) else "-"


def main() -> int:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=60)
    parser.add_argument("--seeds", type=int, default=7)
    parser.add_argument("--within", type=float, default=WITHIN, help="of the best: what counts as an answer")
    parser.add_argument("--worlds", nargs="+", choices=tuple(WORLDS), default=["recorded", "formula"])
    parser.add_argument("--shared", type=float, default=Cost.shared, help="seconds of teacher and data a step")
    parser.add_argument("--widest", type=float, default=Cost.widest, help="seconds of the widest student a step")
    parser.add_argument("--against", type=Path, metavar="FOLDER", help="a checkout of another version, by turns")
    parser.add_argument("--blocks", type=int, default=3, help="with --against: how often each version runs (default 3)")
    args = parser.parse_args()
    if args.against is not None:
        words = [f"--{name}={getattr(args, name)}" for name in ("trials", "seeds", "within", "shared", "widest")]
        commands = {world: ["--worlds", world, *words] for world in args.worlds}
        compared = against.versions(args.against, "benchmarks.time_to_answer")
        rows = against.by_turns(compared, "benchmarks.time_to_answer", commands, args.blocks)
        print("\n".join([against.table(rows, {"time": "whole arm"}), "", *against.differing(rows)]))
        return 0
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    for name in args.worlds:
        compare(WORLDS[name](), Cost(args.shared, args.widest), args.trials, args.seeds, args.within)
    return 0


if __name__ == "__main__":
    sys.exit(guard(main))
