"""What a sampler can do with an arm's space and budget: what it refuses, what it is warned of, and a grid's cells."""

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from decimal import Decimal
from importlib.util import find_spec

from search.spec.arms import Arm
from search.spec.config import Front, RungsConfig
from search.spec.front import title
from search.spec.space import Choices, FloatRange, IntRange, Parameter, Scalar, active
from search.spec.strategies import (
    CmaesConfig,
    CurvesConfig,
    FinishedTrialsRule,
    GpConfig,
    Nsga2Config,
    PatientConfig,
    PercentileConfig,
    PromoteConfig,
    ThresholdConfig,
    WarmStart,
)
from trainer.errors import UserError, counted

MOST_CELLS = 100_000
"""Of a grid."""
GOOD_SHARE = 0.2
"""Of a range that counts as good where the chance is told that no trial lies in it."""


def check_sampler(arm: Arm) -> None:
    """A sampler that cannot do what a study asks of it is refused with the reason. Raises UserError in one line."""
    place = f"{arm.where}: sampler.name = {arm.sampler.name!r}"
    if arm.sampler.name == "grid":
        _check_grid(arm, place)
    if isinstance(arm.sampler, CmaesConfig):
        _check_cmaes(arm, place)


_BY_NUMBER = {
    "qmc": "has the points of a choice in the order of its turns in the equal spread",
    "grid": "tries every cell once, so that each choice has its cells whatever is open",
}
"""By sampler, why trials are not dealt where the answer is open."""


def check_spread(front: Front | None, arm: Arm) -> None:
    """Raises UserError where an arm's sampler or pruner cannot go where the answer is open."""
    if front is None or front.spread != "open" or not arm.front:
        return
    if arm.sampler.name in _BY_NUMBER:
        raise UserError(
            f"{arm.where}: sampler.name = {arm.sampler.name!r}: {_BY_NUMBER[arm.sampler.name]}; "
            "take sampler tpe or random, or remove front.spread = 'open'"
        )
    if arm.pruner.name == "curves":
        raise UserError(
            f"{arm.where}: pruner.name = 'curves': weighs the next trials by their turns in the equal spread; "
            "take pruner promote, or remove front.spread = 'open'"
        )


_UNWARMED = {
    "random": "learns from no trial",
    "qmc": "learns from no trial",
    "grid": "learns from no trial",
    "gp": "has no weights: an older trial would count as much as one of this study, and where a range differs it "
    "leaves that parameter to chance",
    "cmaes": "adapts to generations of its own draws, which trials of another study are not",
    "nsga2": "would breed from older trials whose scores are not this study's",
}
"""By sampler, why it takes no trials of another study."""


def check_warm_start(given: WarmStart, arms: Sequence[Arm], name: str, where: str) -> None:
    """Raises UserError where a study would start from itself, or no sampler of it takes older trials."""
    place = f"{where}: warm_start.from = {given.source!r}"
    if given.source == name and given.storage is None:
        raise UserError(f"{place}: is this study itself; name an older one")
    if all(arm.sampler.name in _UNWARMED for arm in arms):
        sampler = arms[0].sampler.name
        raise UserError(f"{place}: sampler {sampler} {_UNWARMED[sampler]}; take sampler tpe, or remove [warm_start]")


def cells(arm: Arm) -> list[dict[str, Scalar]]:
    """Every combination of the values of an arm's live parameters, each once, in the file's order; up to one more than
    MOST_CELLS. Raises UserError for a parameter that has no end."""
    made: list[dict[str, Scalar]] = []
    for cell in _extended(arm, 0, {}):
        made.append(cell)
        if len(made) > MOST_CELLS:
            break
    return made


def _extended(arm: Arm, at: int, cell: dict[str, Scalar]) -> Iterator[dict[str, Scalar]]:
    if at == len(arm.space):
        yield cell
        return
    parameter = arm.space[at]
    if not active(parameter, arm.values(cell)):
        yield from _extended(arm, at + 1, cell)
        return
    for value in _values(parameter, arm.where):
        yield from _extended(arm, at + 1, {**cell, parameter.name: value})


def _values(parameter: Parameter, where: str) -> Iterator[Scalar]:
    if isinstance(parameter, Choices):
        yield from parameter.choices
    elif isinstance(parameter, IntRange):
        yield from range(parameter.low, parameter.high + 1, parameter.step)
    elif parameter.low == parameter.high:
        yield parameter.low
    elif parameter.step is not None:
        low, step = Decimal(str(parameter.low)), Decimal(str(parameter.step))
        count = int((Decimal(str(parameter.high)) - low) / step)
        yield from (float(low + i * step) for i in range(count + 1))
    else:
        raise UserError(
            f"{where}: sampler.name = 'grid': space.{parameter.name} has every value from {parameter.low} to "
            f"{parameter.high}; give it choices or a step, or take sampler qmc"
        )


def _check_grid(arm: Arm, place: str) -> None:
    count = len(cells(arm))
    if count > MOST_CELLS:
        raise UserError(f"{place}: its grid has more than {MOST_CELLS} cells; take fewer values, or sampler qmc")
    if arm.trials > count:
        own = f"give the arm trials = {count} or a sampler of its own" if ": arms." in arm.where else ""
        raise UserError(
            f"{place}: its grid has {counted(count, 'cell')} for a budget of {arm.trials} trials; "
            f"{own or f'set budget.trials = {count}, or take another sampler'}"
        )


def _check_cmaes(arm: Arm, place: str) -> None:
    conditional = next((p.name for p in arm.space if p.when), None)
    if conditional is not None:
        raise UserError(
            f"{place}: space.{conditional} has a condition, and its distribution needs every number in every trial; "
            "take sampler tpe"
        )
    count = len(numbers(arm))
    if count < 2:
        raise UserError(f"{place}: {counted(count, 'number')} in the space, and it needs two or more; take sampler tpe")
    if find_spec("cmaes") is None:
        raise UserError(f"{place}: the package cmaes is not installed; pip install cmaes, or take sampler tpe")


def numbers(arm: Arm) -> list[Parameter]:
    """The parameters that are ranges of more than one value."""
    return [p for p in arm.space if isinstance(p, FloatRange | IntRange) and p.low < p.high]


def start_of(arm: Arm) -> int:
    """Complete trials before a sampler that learns from those alone begins to learn; 0 of the others."""
    sampler = arm.sampler
    if isinstance(sampler, GpConfig):
        return sampler.startup
    if isinstance(sampler, Nsga2Config):
        return sampler.options.population_size
    if isinstance(sampler, CmaesConfig):
        return sampler.options.population_size or 4 + int(3 * math.log(max(1, len(numbers(arm)))))
    return 0


def expected_complete(arm: Arm) -> int:
    """About how many trials of an arm are to be expected to train to their end, by the share that its pruner lets go
    on; a rule that looks at one trial alone, or at a model of curves, may end none."""
    pruner = arm.pruner
    if isinstance(pruner, RungsConfig):
        left = float(pruner.reduction) ** -rungs(arm, pruner)
        if pruner.name == "hyperband":
            count = rungs(arm, pruner) + 1
            left = sum(float(pruner.reduction) ** -i for i in range(count)) / count
        return max(1, round(arm.trials * left))
    if isinstance(pruner, PromoteConfig):
        from search.promotion import LEAST, Promotion  # imports Optuna, which other questions to a study file spare

        passed = len(Promotion(arm.epochs, pruner.first_rung(arm.epochs), pruner.reduction).rungs)
        going = round(arm.trials * float(pruner.reduction) ** -passed)
        return min(arm.trials, max(LEAST * max(1, len(arm.points)), going))
    if isinstance(pruner, FinishedTrialsRule) and pruner.warmup(arm.epochs) < arm.epochs - 1:
        first = min(arm.trials, pruner.startup * max(1, len(arm.points)))
        share = pruner.percentile / 100 if isinstance(pruner, PercentileConfig) else 0.5
        return first + int((arm.trials - first) * share)
    return arm.trials


def rungs(arm: Arm, pruner: RungsConfig) -> int:
    """The rungs before the last epoch, at which a trial may end."""
    count, rung = 0, pruner.first_rung
    while rung < arm.epochs:
        count, rung = count + 1, rung * pruner.reduction
    return count


def sampler_notes(arm: Arm) -> Iterator[str]:
    """What a sampler does with an arm that may not be meant, a line each."""
    name, place = arm.sampler.name, f"{arm.name}: sampler {arm.sampler.name}"
    start, expected = start_of(arm), expected_complete(arm)
    if start > expected:
        ended = "" if expected == arm.trials else f" with pruner {arm.pruner.name}"
        yield (
            f"{place} draws at random until {start} trials are complete, and about {expected} are to be expected"
            f"{ended}; take sampler tpe, which learns from pruned trials too"
        )
    if name in ("gp", "nsga2"):
        open_ones = [p.name for p in arm.space if p.when and not set(dict(p.when)) <= set(arm.front)]
        if open_ones:
            yield f"{place} draws what not every trial has at random: {', '.join(open_ones)}; sampler tpe models it"
        dealt = [p.name for p in arm.space if p.when and p.name not in open_ones and p.path not in arm.front]
        if dealt:
            yield (
                f"{place} models {', '.join(dealt)} only in turns that look at one choice of {title(arm.front)} alone, "
                "and draws it at random in the others; sampler tpe models it in all"
            )
    if name == "cmaes":
        choices = [p.name for p in arm.space if isinstance(p, Choices) and p.path not in arm.front]
        if choices:
            yield f"{place} draws choices at random: {', '.join(choices)}"
    if name == "grid" and arm.trials < (count := len(cells(arm))):
        yield f"{place}: {arm.trials} of {count} cells are tried"
    off = [dict(entry) for entry in arm.enqueue if name == "grid" and not _on_grid(arm, entry)]
    yield from (f"{place}: the enqueued {entry} is on no cell, so one cell is not tried" for entry in off)


def spread_notes(front: Front | None, arm: Arm) -> Iterator[str]:
    """What an open spread does with an arm that may not be meant, a line."""
    if front is not None and front.spread == "open" and arm.front:
        fair = front.start * len(arm.points)
        if arm.trials <= fair:
            yield (
                f"{arm.name}: front.start = {front.start}: {counted(fair, 'trial')} begin before the spread is open, "
                f"and {arm.trials} are wanted; lower it, or raise budget.trials"
            )


def _on_grid(arm: Arm, entry: object) -> bool:
    wanted = dict(entry) if isinstance(entry, dict) else {}
    return any(all(cell.get(name) == value for name, value in wanted.items()) for cell in cells(arm))


def pruner_notes(arm: Arm, *, maximize: bool) -> Iterator[str]:
    """What a pruner does with an arm that may not be meant, a line each."""
    pruner, epochs = arm.pruner, counted(arm.epochs, "epoch")
    if isinstance(pruner, FinishedTrialsRule) and pruner.warmup(arm.epochs) >= arm.epochs:
        yield f"{arm.name}: pruner.warmup_epochs = {pruner.warmup_epochs}: nothing is pruned in {epochs}"
    if isinstance(pruner, CurvesConfig) and pruner.startup * max(1, len(arm.points)) >= arm.trials:
        whole = f"all {arm.trials} trials are begun before a paused one goes on"
        yield f"{arm.name}: pruner.startup = {pruner.startup}: {whole}"
    if isinstance(pruner, PatientConfig):
        if max(pruner.patience, pruner.warmup_epochs) + 1 >= arm.epochs:
            yield f"{arm.name}: pruner.patience = {pruner.patience}: nothing is pruned in {epochs}"
        else:
            yield f"{arm.name}: pruner patient ends good trials that stand still, too, and exports have none that ended"
    if isinstance(pruner, ThresholdConfig):
        bound, value = ("upper", pruner.upper) if maximize else ("lower", pruner.lower)
        if value is not None:
            yield f"{arm.name}: pruner.{bound} = {value}: ends what is better than that"


def draw_notes(arm: Arm, shares: int = 1) -> Iterator[str]:
    """A line where so few trials are drawn that none lies in a range's best fifth more likely than not.

    shares: among how many ways of distilling the trials are dealt, of which the best of each is compared.
    """
    trials = max(1, arm.trials // shares)
    given = Counter(name for entry in arm.enqueue for name in entry)
    drawn = [p.name for p in numbers(arm) if not p.when and given[p.name] < arm.trials]
    chance = (1 - GOOD_SHARE) ** trials
    if drawn and chance > 0.5:
        of = f"{drawn[0]}'s range" if len(drawn) == 1 else f"a range such as {drawn[0]}'s"
        yield (
            f"{arm.name}: the best of {counted(trials, 'trial')} is compared, and with a chance of {chance:.0%} none "
            f"has a value from the best fifth of {of}: a difference may be that of the draws; raise trials, or give "
            "every arm the same values in [[enqueue]]"
        )
