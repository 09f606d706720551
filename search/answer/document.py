"""What training again on fresh seeds showed, as values of report.json.

Scores are means over images (or cases, where `scored` says so), then over seeds, unless a name says otherwise.
None: not known or not estimable.
"""

from typing import Literal

from pydantic import Field

from models.config import Frozen
from trainer.data.splits.part_sizes import Scored

SEARCH_THRESHOLD = 0.5
"""Probability from which a pixel is foreground in validation scores of a search: the class of the greatest logit."""

Verdict = Literal["shown", "not_shown", "worse", "not estimable"]


def left_out(value: object) -> bool:
    """Whether a field has nothing to say; where it does not matter, such fields are not in JSON."""
    return not value


CLAIMS = {
    "gain": "gain over the search without distillation",
    "kd_term_effect": "effect of the distillation term",
    "tuning_gain": "gain of tuning",
    "not_below_teacher": "not below the teacher",
}
"""Name of a claim in JSON -> what readers are told."""


def claim_title(name: str) -> str:
    """A claim's name in plain words."""
    method = method_of(name)
    return CLAIMS.get(name, name) if method is None else f"gain of {method} over no distillation"


def method_claim(method: str) -> str:
    """The name of the claim of one way of distilling: `gain[cwd]`."""
    return f"gain[{method}]"


def method_of(claim: str) -> str | None:
    """The way of distilling that a claim is of, by its name; None of other claims."""
    return claim[5:-1] if claim.startswith("gain[") and claim.endswith("]") else None


class Comparison(Frozen):
    """One comparison with its interval."""

    name: str
    part: str = Field(description="the images: test, or an unseen source")
    minuend: str
    subtrahend: str
    estimate: float | None
    low: float | None
    high: float | None
    confidence: float
    p: float | None
    p_holm: float | None = Field(description="after Holm's correction over the claims; None: outside of that family")
    unit: str
    thresholds: tuple[tuple[float, ...], tuple[float, ...]] = Field(
        default=((), ()), description="of the minuend's and the subtrahend's seeds"
    )
    images: int
    groups: int
    seeds: int
    margin: float | None = Field(description="what the interval is compared with where that is not zero")
    verdict: Verdict
    reason: str | None
    words: str
    lower_is_better: bool = Field(
        default=False, exclude_if=left_out, description="whether the minuend gains by a difference below zero"
    )
    label: str = Field(default="", exclude_if=left_out, description="the class that it is of; empty: all of them")


class Network(Frozen):
    """One configuration that was trained again."""

    name: str
    role: Literal["winner", "control", "ablation", "defaults", "teacher"]
    arm: str
    of: str | None = Field(description="of an ablation: the winner whose KD weight is zero in it")
    rank: int
    trial: int | None
    words: str
    searched: float | None = Field(description="its validation score in the search")
    searched_threshold: float | None = Field(
        default=SEARCH_THRESHOLD, description="of that score, as of every score of a search; None: its own best one"
    )
    thresholds: tuple[tuple[int | None, float], ...] = Field(
        default=(),
        description="(seed, its own threshold), of its scores on validation, test and unseen sources; where regions "
        "have their own, one each in their order",
    )
    validation: float | None = Field(description="on validation, with the fresh seeds")
    test: float | None
    low: float | None = Field(description="of the interval of the test score")
    high: float | None
    by_seed: tuple[tuple[int, float], ...] = Field(description="(seed, test score)")
    params_m: float
    gflops: float
    latency_ms: float | None
    share_of_teacher: float | None
    chosen: bool


class Scores(Frozen):
    """What one network did on some images."""

    network: str
    part: str
    by: Literal["all", "source", "size"]
    stratum: str
    images: int
    groups: int
    seeds: int
    thresholds: tuple[float, ...] = Field(
        default=(), description="of the seeds, each at its own (of regions, at theirs)"
    )
    dice: float | None
    low: float | None
    high: float | None
    iou: float | None
    precision: float | None
    recall: float | None
    hd95: float | None = Field(description="pixels at native size; over images where truth and prediction have an area")
    hd95_left_out: float | None = Field(
        default=None, description="images without that distance, for want of a truth or a prediction; mean over seeds"
    )
    hd95_missed_as_diagonal: float | None = Field(
        default=None,
        description="pixels; over all images: the diagonal where truth or prediction alone is empty, 0 where both are",
    )
    brier: float | None
    ece_positive: float | None = Field(
        default=None,
        description="expected calibration error of the foreground, of all pixels; for the whole part alone",
    )
    ece: float | None = Field(description="expected calibration error of the chosen class; for the whole part alone")
    polyps: int | None
    missed: float | None = Field(description="share of objects none of whose pixels was predicted")
    negatives: int | None = Field(description="images without an object")
    false_positives: float | None = Field(description="predicted areas an image without an object")


class ClassScores(Frozen):
    """What one network did on one class of a part."""

    network: str
    part: str
    label: str = Field(description="the class")
    images: int = Field(description="images, or volumes where those are scored as one")
    groups: int
    seeds: int
    dice: float | None
    low: float | None = Field(description="of the interval of Dice")
    high: float | None
    iou: float | None
    precision: float | None
    recall: float | None
    hd95_missed_as_diagonal: float | None = Field(description="a length; a miss is the diagonal")


class Distances(Frozen):
    """How two networks' distances differ on the same images; below zero the minuend is nearer to the truth."""

    name: str = Field(description="of the claim")
    part: str
    minuend: str
    subtrahend: str
    images: int = Field(description="of the part")
    compared: int = Field(description="for which both have a distance with every seed: what hd95 is of")
    hd95: float | None = Field(description="difference in pixels over those alone; a miss has no say in it")
    hd95_missed_as_diagonal: float | None = Field(description="difference over all images, a miss at the diagonal")
    low: float | None = Field(description="of the interval of that")
    high: float | None
    seeds: int


class Reliability(Frozen):
    """How often a network was right at each confidence, and how often pixels are foreground at each probability."""

    network: str
    part: str
    ece_positive: float | None = Field(default=None, description="of the foreground")
    positive_bins: tuple[tuple[float, float, float], ...] = Field(
        default=(),
        description="(mean probability of the foreground, share that is foreground, share of the pixels) by bin",
    )
    ece: float | None = Field(description="of the chosen class")
    bins: tuple[tuple[float, float, float], ...] = Field(
        description="(mean confidence, share right, share of the pixels) of each bin that has pixels"
    )


class Opening(Frozen):
    """Who opened the test rows."""

    who: str
    when: str
    purpose: str
    configurations: tuple[str, ...]


class Smallest(Frozen):
    """What a confirmation of one size is likely to show."""

    seeds: int
    groups: int
    gain: float


class Needed(Frozen):
    """The noise of a comparison, and what it takes to show a difference in spite of it."""

    claim: str
    seed: float = Field(description="standard deviation of the difference: what a seed changes on all images alike")
    group: float = Field(description="what is a patient's or sequence's own")
    both: float = Field(description="what belongs to one seed and one group")
    power: float
    claims: int = Field(description="that are corrected together")
    smallest: tuple[Smallest, ...] = Field(description="as it was, with twice the seeds, twice the groups, twice both")
    words: str


class ConfirmedPart(Frozen):
    """All of it."""

    networks: tuple[Network, ...]
    claims: tuple[Comparison, ...]
    class_claims: tuple[Comparison, ...] = Field(
        default=(),
        exclude_if=left_out,
        description="a second family: claims of single classes on test, corrected among themselves (Holm), and tested "
        "only where the claim of their mean is shown",
    )
    distances: tuple[Distances, ...] = ()
    scores: tuple[Scores, ...]
    class_scores: tuple[ClassScores, ...] = Field(
        default=(), exclude_if=left_out, description="by class, where there are several foreground classes"
    )
    reliability: tuple[Reliability, ...]
    thresholds: tuple[tuple[str, float], ...] = Field(
        description="(network, mean of its seeds' thresholds, and of its regions' where these have their own)"
    )
    threshold_rule: str = Field(default="", description="how each seed got its threshold")
    chosen: str | None = Field(description="the network to ship; None where none is near enough to the teacher")
    choice: str = Field(description="how it was chosen")
    margin: float
    margin_metric: str = Field(
        default="dice", exclude_if=lambda name: name == "dice", description="the score that the margin is of"
    )
    length_unit: str = Field(
        default="px", exclude_if=lambda unit: unit == "px", description="of every distance in the tables: px or mm"
    )
    scored: Scored = Field(
        default="image", exclude_if=lambda scored: scored == "image", description="what every count of images counts"
    )
    confidence: float
    openings: tuple[Opening, ...]
    missing: tuple[str, ...]
    needed: Needed | None
