"""The smallest gain that a confirmation can show: before any training, from the size of the test part alone, and
afterwards, at the noise that it had, with what more seeds or images would change.
"""

import json
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from search.answer.document import Needed, Smallest, claim_title
from search.answer.uncertainty import FEW_SEEDS, LEAST_GROUPS, LEAST_SEEDS, Floats
from search.spec.load import StudySpec
from trainer.config import DataConfig, RunConfig
from trainer.data import DataSet
from trainer.data.splits.part_sizes import Scored, counted_groups, scored_as

if TYPE_CHECKING:
    from search.answer.comparisons import Grids
    from search.confirm.results import Confirmed
    from search.study.snapshot import SearchSnapshot


@dataclass(frozen=True)
class Noise:
    """Standard deviations of the paired difference of two networks' scores of one image with one seed, by where they
    come from. `python -m benchmarks.coverage --study NAME` measures those of a confirmation.
    """

    seed: float
    """What a seed changes on all images alike."""
    group: float
    """What is a patient's or sequence's own, whatever the seed."""
    both: float
    """What belongs to one seed and one group."""


LONG = Noise(seed=0.006, group=0.05, both=0.09)
"""Assumed of trainings that run until the score stands still, at full size: no measured one is behind it."""
SHORT = Noise(seed=0.065, group=0.134, both=0.167)
"""Measured: 5 seeds of 12 epochs on 180 images of 64 pixels (colonoscopy, 40 test images)."""
POWER = 0.8
CLAIMS = 3
"""That are corrected together: the first of them is held against a third of what is allowed to be wrong."""


def smallest_gain(
    groups: int, seeds: int, noise: Noise, confidence: float = 0.95, claims: int = CLAIMS
) -> float | None:
    """The true difference that is shown with a probability of 80 %, whatever the other claims say.

    None where no interval can be estimated. groups: of the test part, taken as of equal size. The interval's formula
    (`search.answer.uncertainty`) with its variance known, at the first step of Holm's correction over so many claims.
    """
    if groups < LEAST_GROUPS or seeds < LEAST_SEEDS:
        return None
    from scipy.stats import t

    of_seeds = noise.seed**2 / seeds + noise.both**2 / (seeds * groups)
    of_groups = noise.group**2 / groups + noise.both**2 / (seeds * groups)
    variance = of_seeds + of_groups - noise.both**2 / (seeds * groups)
    if variance == 0:
        return 0.0
    freedom = variance**2 / (of_seeds**2 / (seeds - 1) + of_groups**2 / (groups - 1))
    wrong = (1 - confidence) / claims
    return float((t.ppf(1 - wrong / 2, freedom) + t.ppf(POWER, freedom)) * math.sqrt(variance))


def measured(values: Floats, groups: tuple[str, ...]) -> Noise:
    """The parts of the variance of differences (seeds, images), by the moments of a two-way layout without repetition.

    An image without a value for every seed is left out. Raises ValueError where there are fewer than two seeds or
    groups.
    """
    known = np.isfinite(values).all(axis=0)
    values = values[:, known]
    names, index = np.unique(np.asarray(groups)[known], return_inverse=True)
    if len(values) < 2 or len(names) < 2:
        raise ValueError(f"{len(values)} seeds and {len(names)} groups: two of each are needed")
    cells = np.stack([np.bincount(index, row) for row in values]) / np.bincount(index)
    by_seed, by_group = cells.mean(axis=1), cells.mean(axis=0)
    rest = cells - by_seed[:, None] - by_group + cells.mean()
    seeds, count = cells.shape
    both = float((rest**2).sum()) / ((seeds - 1) * (count - 1))
    seed = max(0.0, float(by_seed.var(ddof=1)) - both / count)
    group = max(0.0, float(by_group.var(ddof=1)) - both / seeds)
    return Noise(math.sqrt(seed), math.sqrt(group), math.sqrt(both))


def counted_test_groups(config: DataConfig) -> tuple[int, int] | None:
    """How many cases and groups the test part has, as `counted_groups` counts them."""
    return counted_groups(config, "test")


def powerless(config: DataConfig, seeds: int) -> str | None:
    """Why no claim of a confirmation could be estimated, whatever it trains; None where one might, or where the test
    groups cannot be counted here."""
    known = counted_test_groups(config)
    if known is not None and known[1] < LEAST_GROUPS:
        sizes = f"{known[0]} test {scored_as(config)}s in {known[1]} groups"
        return f"{sizes}: at least {LEAST_GROUPS} groups are needed for an interval"
    if seeds < LEAST_SEEDS:
        return f"{seeds} seed: at least {LEAST_SEEDS} are needed for an interval"
    return None


def data_of_search(rows: "SearchSnapshot") -> DataConfig | None:
    """The data of a search as a worker began it; None before any trial."""
    run = next((lease.run for lease in rows.every if lease.run is not None), None)
    return None if run is None else RunConfig.model_validate_json(run).data


def powerless_search(rows: "SearchSnapshot") -> str | None:
    """Why a confirmation of the search as it was begun could show nothing; None where one might, or nobody can say."""
    table, data = json.loads(rows.search.settings).get("confirm"), data_of_search(rows)
    if rows.confirms is not None or table is None or data is None:
        return None
    return powerless(data, len(table["seeds"]))


def most_trainings(spec: StudySpec) -> int:
    """How many networks `search confirm` trains at most: winners, for each other arm its best and the best of no more
    parameters than each winner, the best winner without its teacher, and the untuned network; each on every seed."""
    main, *others = spec.arms
    winners = min(spec.confirm.top, main.trials)
    controls = sum(min(winners + 1, arm.trials) for arm in others)
    if compared_methods(spec):
        controls += winners
    return (winners + controls + bool(main.base.methods()) + 1) * len(spec.confirm.seeds)


def compared_methods(spec: StudySpec) -> tuple[str, ...]:
    """The ways of distilling that a study deals its trials over, beside none; empty where it does not."""
    choices = [point["method"] for point in spec.main.points if "method" in point]
    return tuple(dict.fromkeys(str(each) for each in choices if each != "none")) if "none" in choices else ()


@dataclass(frozen=True)
class ConfirmationSize:
    """How much a confirmation trains."""

    trainings: int
    """Networks at most."""
    epochs: int
    """How long each is trained."""


@dataclass(frozen=True)
class DetectableGains:
    """The smallest gains that a confirmation shows with the probability `power`; the form that `validate --json`
    prints."""

    images: int
    """Images of the test part, or cases where those are scored."""
    groups: int
    """Groups that these images are of, such as patients."""
    seeds: int
    trainings: int
    """Networks that are trained at most."""
    epochs: int
    power: float
    gain: float | None
    """Where trainings are long; None where none can be shown."""
    gain_of_short: float | None
    """Where they are short: what seeds differ by is not known before."""
    unit: Scored = "image"
    """What `images` counts."""


def detectable_gains(spec: StudySpec, data: DataSet) -> DetectableGains:
    """What a confirmation on this test part can show, and how much it trains.

    Test rows stay closed: their groups are counted in the split file, or taken to be as large as those of validation.
    """
    images, seeds = len(data.image_hashes("test")), len(spec.confirm.seeds)
    claims = len(compared_methods(spec)) or CLAIMS
    counted = counted_test_groups(spec.run.data)
    known = [sample.group for sample in data.samples("validation")]
    guessed = round(images * len(set(known)) / len(known)) if known else 0
    groups = guessed if counted is None else counted[1]
    return DetectableGains(
        images=images if counted is None else counted[0],
        groups=groups,
        seeds=seeds,
        trainings=most_trainings(spec),
        epochs=spec.run.epochs,
        power=POWER,
        gain=smallest_gain(groups, seeds, LONG, claims=claims),
        gain_of_short=smallest_gain(groups, seeds, SHORT, claims=claims),
        unit=scored_as(spec.run.data),
    )


def describe_gains(gains: DetectableGains) -> tuple[str, ...]:
    """Short lines: what a confirmation can show with these test images and seeds, and how much it trains."""
    sizes = f"{gains.images} test {gains.unit}s in {gains.groups} groups, {gains.seeds} seeds"
    size = describe_size(ConfirmationSize(gains.trainings, gains.epochs))
    if gains.gain is None or gains.gain_of_short is None:
        return (
            f"no gain can be shown with {sizes}",
            f"at least {LEAST_GROUPS} groups and {LEAST_SEEDS} seeds are needed; search confirm asks for --anyway",
            size,
        )
    few = "" if gains.seeds >= FEW_SEEDS else f"; fewer than {FEW_SEEDS} seeds make every interval unsure"
    return (
        f"{sizes}: a true gain is likely to be shown{few}",
        f"from {gains.gain:.3f} on where trainings are long (noise assumed)",
        f"from {gains.gain_of_short:.2f} on where they are short (noise measured)",
        size,
    )


def describe_confirmation(spec: StudySpec) -> str:
    """How large a confirmation of this study will be, and whether its test part can show anything; one line."""
    size = describe_size(ConfirmationSize(most_trainings(spec), spec.run.epochs))
    why = powerless(spec.run.data, len(spec.confirm.seeds))
    return size if why is None else f"no gain can be shown, and search confirm will refuse: {why}"


def describe_size(size: ConfirmationSize) -> str:
    """How many networks a confirmation trains."""
    epochs = "1 epoch" if size.epochs == 1 else f"{size.epochs} epochs"
    return (
        f"search confirm trains at most {size.trainings} networks, {epochs} each; top and seeds in [confirm] make "
        "it smaller"
    )


def needed(confirmed: "Confirmed", grids: "Grids", metric: str, confidence: float) -> Needed | None:
    """By the first comparison on test that has an interval; None where none has."""
    # With Optuna, which the forecast of `validate` does not need.
    from search.answer.comparisons import TEST, pairs
    from search.answer.score_arrays import difference, shared

    for pair in pairs(confirmed):
        one, other = grids.get((pair.minuend.name, TEST)), grids.get((pair.subtrahend.name, TEST))
        estimate = None if one is None or other is None else difference(one, other, metric)[0]
        if one is None or other is None or estimate is None or estimate.error is None:
            continue
        seeds, groups = estimate.seeds, estimate.groups  # of the images that have a value for every seed
        both = shared(one, other)
        claims = len(confirmed.methods) or CLAIMS
        noise = measured(one.values(metric, both) - other.values(metric, both), one.one.groups)
        sizes = ((seeds, groups), (2 * seeds, groups), (seeds, 2 * groups), (2 * seeds, 2 * groups))
        gains = ((s, g, smallest_gain(g, s, noise, confidence, claims)) for s, g in sizes)
        rows = [Smallest(seeds=s, groups=g, gain=gain) for s, g, gain in gains if gain is not None]
        return Needed(
            claim=pair.name, seed=noise.seed, group=noise.group, both=noise.both, power=POWER, claims=claims,
            smallest=tuple(rows), words=_describe_smallest(claim_title(pair.name), rows, one.one.scored),
        )  # fmt: skip
    return None


def _describe_smallest(claim: str, rows: list[Smallest], scored: Scored) -> str:
    here, seeds, images, both = rows
    return (
        f'At the noise that "{claim}" had here, {here.seeds} seeds and {here.groups} groups of test {scored}s show a '
        f"true difference of {here.gain:.3f} or more with a probability of {POWER:.0%}; {seeds.seeds} seeds one of "
        f"{seeds.gain:.3f}, {images.groups} groups one of {images.gain:.3f}, both one of {both.gain:.3f}. What is "
        "smaller can be there and not be shown."
    )
