"""One search along a front against separate searches, one a width: what each width gets, and what is found there.

    python -m benchmarks.front

Nothing is trained: a trial's curve is a formula with noise, and its true end is known. The best settings are equal at
all widths, or drift with the width by a quarter or by half of their range from the narrowest to the widest. Sampler,
dealing and pruner are the product's own; the separate searches use the same sampler and pruner and the same trials in
total; the last way leaves the width to TPE as one parameter among others.
"""

import argparse
import math
import random
import statistics
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import product

import optuna
from optuna.study import Study
from optuna.trial import Trial, TrialState

from benchmarks.clock import interval
from search import pruners, samplers
from trainer.cli.entry import guard
from trainer.seeds import derive

WIDTHS = (8, 16, 24, 32)
EPOCHS = 20
WEIGHTS = {"lr": 0.10, "temperature": 0.05, "weight": 0.05}
"""By parameter, on 0..1 of its range: Dice lost at the far end of the range from the best place in it."""
NOISE = 0.004
"""Standard deviation of a trial's end, as `search simulate` has it of an epoch."""
WAYS = ("along", "separate", "width as a parameter")


@dataclass(frozen=True)
class Case:
    """One repetition."""

    drift: float
    way: str
    trials: int
    in_flight: int
    seed: int


@dataclass(frozen=True)
class Found:
    """By width: trials that ended (pruned ones too), those that were trained to their end, and true Dice lost."""

    ended: Mapping[int, int]
    complete: Mapping[int, int]
    regret: Mapping[int, float]


def place(width: int, drift: float) -> dict[str, float]:
    """The best settings of a width on 0..1 of their ranges: lr and weight drift against each other."""
    part = WIDTHS.index(width) / (len(WIDTHS) - 1) - 0.5
    return {"lr": 0.5 - drift * part, "temperature": 0.4, "weight": 0.5 + drift * part}


def true_loss(width: int, settings: Mapping[str, float], drift: float) -> float:
    """Dice that the settings lose against the best ones of the width."""
    best = place(width, drift)
    return sum(c * (settings[name] - best[name]) ** 2 / 0.25 for name, c in WEIGHTS.items())


def curve(width: int, settings: Mapping[str, float], drift: float, key: int) -> list[float]:
    """Scores by epoch; a wider student ends higher."""
    draw = random.Random(key)  # noqa: S311 - no secret
    end = 0.94 - 0.35 / (width + 2) - true_loss(width, settings, drift) + draw.gauss(0.0, NOISE)
    return [end - 0.25 * math.exp(-4.5 * epoch / EPOCHS) + draw.gauss(0.0, NOISE / 4) for epoch in range(1, EPOCHS + 1)]


class Search:
    """Trials of one study in lockstep, as a cohort trains them."""

    def __init__(self, case: Case, widths: Sequence[int], trials: int, in_flight: int, seed: int) -> None:
        self._case, self._widths, self._left, self._in_flight = case, widths, trials, in_flight
        self._front = samplers.FrontChoice.along("width", widths, seed=seed) if case.way == "along" else None
        settings = samplers.SamplerSettings("tpe", seed, 10)
        sampler = samplers.sampler(settings, front=self._front)
        self.study: Study = optuna.create_study(direction="maximize", sampler=sampler)
        self._pruner = pruners.pruner(pruners.PrunerSettings("median", EPOCHS, startup=5, warmup_epochs=2))

    def run(self) -> Study:
        """To the end of its trials."""
        running: dict[Trial, list[float]] = {}
        while self._left or running:
            while self._left and len(running) < self._in_flight:
                trial = self.study.ask()
                running[trial] = self._begun(trial)
                self._left -= 1
            for trial, scores in list(running.items()):
                if self._over(trial, scores):
                    del running[trial]
        return self.study

    def _begun(self, trial: Trial) -> list[float]:
        width = trial.suggest_categorical("width", self._widths) if len(self._widths) > 1 else self._widths[0]
        settings = {name: trial.suggest_float(name, 0.0, 1.0) for name in WEIGHTS}
        trial.set_user_attr("width", width)
        return curve(width, settings, self._case.drift, derive(self._case.seed, "noise", width, trial.number))

    def _over(self, trial: Trial, scores: list[float]) -> bool:
        epoch = EPOCHS - len(scores) + 1
        trial.report(scores.pop(0), epoch)
        frozen = self.study._storage.get_trial(trial._trial_id)
        if not scores:
            self.study.tell(trial, frozen.intermediate_values[EPOCHS])
        elif pruners.should_prune(self._pruner, self.study, frozen, front=self._front):
            self.study.tell(trial, state=TrialState.PRUNED)
        else:
            return False
        return True


def searched(case: Case) -> Found:
    """What the searches of one repetition came to."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    if case.way == "separate":
        share, each = case.trials // len(WIDTHS), max(1, case.in_flight // len(WIDTHS))
        studies = [Search(case, [width], share, each, derive(case.seed, width) % 2**31).run() for width in WIDTHS]
    else:
        studies = [Search(case, WIDTHS, case.trials, case.in_flight, case.seed).run()]
    trials = [trial for study in studies for trial in study.get_trials(deepcopy=False)]
    full = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    regret = {}
    for width in WIDTHS:
        own = [trial for trial in full if trial.user_attrs["width"] == width]
        best = max(own, key=lambda trial: trial.value, default=None)
        regret[width] = math.inf if best is None else true_loss(width, best.params, case.drift)
    return Found(
        Counter(trial.user_attrs["width"] for trial in trials),
        Counter(trial.user_attrs["width"] for trial in full),
        regret,
    )


def table(results: Mapping[Case, Found], drifts: Sequence[float]) -> Iterator[str]:
    """Lines of a Markdown table; Dice lost is the mean over repetitions, with what `separate` lost
    more.
    """
    heads = ("drift", "way", "trials by width (least)", "trained to the end", "Dice lost by width", "mean", "spared")
    yield f"| {' | '.join(heads)} |"
    yield "|---" * len(heads) + "|"
    for drift, way in product(drifts, WAYS):
        found = [f for case, f in results.items() if (case.drift, case.way) == (drift, way)]
        other = [f for case, f in results.items() if (case.drift, case.way) == (drift, "separate")]
        ended = " ".join(f"{statistics.mean(f.ended[w] for f in found):.0f}" for w in WIDTHS)
        least = min(f.ended[w] for f in found for w in WIDTHS)
        full = " ".join(f"{statistics.mean(f.complete[w] for f in found):.0f}" for w in WIDTHS)
        lost = " ".join(f"{statistics.mean(f.regret[w] for f in found):.4f}" for w in WIDTHS)
        means = [statistics.mean(f.regret.values()) for f in found]
        gains = [statistics.mean(o.regret.values()) - m for o, m in zip(other, means, strict=True)]
        said = "" if way == "separate" else f"{statistics.mean(gains):+.4f} ({_spread(gains)})"
        yield f"| {drift} | {way} | {ended} ({least}) | {full} | {lost} | {statistics.mean(means):.4f} | {said} |"


def _spread(values: Sequence[float]) -> str:
    if not all(map(math.isfinite, values)):
        return "a width without a trial"
    low, high = interval(list(values))
    return f"median {low:+.4f} to {high:+.4f}"


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.front", description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=160, help="in total (default 160)")
    parser.add_argument("--in-flight", type=int, default=8, help="trials side by side in total (default 8)")
    parser.add_argument("--repeats", type=int, default=40, help="searches of each kind (default 40)")
    parser.add_argument("--drifts", type=float, nargs="+", default=[0.0, 0.25, 0.5], help="parts of the range")
    parser.add_argument("--processes", type=int, default=2, help="at once (default 2)")
    args = parser.parse_args()
    cases = [
        Case(drift, way, args.trials, args.in_flight, seed)
        for seed, drift, way in product(range(1, args.repeats + 1), args.drifts, WAYS)
    ]
    results: dict[Case, Found] = {}
    with ProcessPoolExecutor(args.processes) as pool:
        for case, found in zip(cases, pool.map(searched, cases), strict=True):
            results[case] = found
            if sys.stderr.isatty():
                print(f"\r{len(results)} of {len(cases)}", end="", file=sys.stderr)
    print(f"{args.trials} trials in total, {args.in_flight} in flight, {args.repeats} repetitions")
    print("\n".join(table(results, args.drifts)))
    return 0


if __name__ == "__main__":
    sys.exit(guard(main))
