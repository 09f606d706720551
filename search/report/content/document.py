"""report.json as values: everything that the page shows, and nothing that it has to look up elsewhere.

Scores are in the search's metric, shares in [0, 1], times in hours unless a name says otherwise. None: not known.
"""

from typing import Literal

from pydantic import Field

from models.config import Frozen
from search.answer.document import SEARCH_THRESHOLD, ConfirmedPart, left_out
from search.study.trial_attributes import Share
from trainer.data.splits.part_sizes import Nouns, Scored, nouns_for

Scalar = bool | int | float | str


class Dot(Frozen):
    """One trial that was trained to its end."""

    arm: str
    trial: int
    score: float
    choice: Scalar | None = Field(description="of the front's parameter")
    family: str | None = Field(
        default=None, exclude_if=left_out, description="of a front along several parameters: the choice of the first"
    )
    params_m: float | None = Field(description="millions of parameters of the student")
    gflops: float | None
    latency_ms: float | None = Field(description="of one image on the machine it was measured on")


class Best(Frozen):
    """The best trial of an arm and what it was trained with."""

    trial: int
    score: float
    epoch: int | None
    network: str
    params_m: float | None
    gflops: float | None
    share_of_teacher: float | None = Field(description="parameters over the teacher's")
    settings: dict[str, Scalar] = Field(description="what the search chose, by path")
    by_class: dict[str, float] = Field(
        default={}, exclude_if=left_out, description="its scores of single classes on validation, as dice.liver"
    )


class Expected(Frozen):
    """The best of n trials drawn from those that finished, on average over all draws."""

    n: int
    score: float


class Equal(Frozen):
    """The arms after the same number of finished trials."""

    n: int
    expected: dict[str, float] = Field(description="by arm, of those that finished so many")


class Importance(Frozen):
    """How much one parameter decides whether a trial is among the best, as a share of all parameters'."""

    parameter: str
    share: float
    low: float = Field(description="the middle eight tenths of redrawn sets of trials begin here")
    high: float


class Rung(Frozen):
    """How scores at an epoch order the trials that were trained to their end."""

    epoch: int
    trials: int
    correlation: float = Field(description="Spearman's, with the final score; within the front's choices")


class Edge(Frozen):
    """A range whose end the best trials hit."""

    parameter: str
    end: Scalar
    which: Literal["lowest", "highest"]
    hits: int
    of: int
    words: str


class Cost(Frozen):
    """Where the device hours went."""

    hours: float
    by_outcome: dict[str, float] = Field(description="hours by complete, pruned, failed, unfinished")
    outcome_shares: dict[str, float] = Field(description="of the hours; empty where there are none")
    by_part: dict[str, float] = Field(description="hours by data, teacher, student, ...; waiting is among them")
    part_shares: dict[str, float]


class Arm(Frozen):
    """One search among those of the study."""

    name: str
    study: str
    taught: bool = Field(description="whether any of its trials listens to a teacher")
    sets: dict[str, Scalar | None] = Field(description="where its fixed settings differ from the main search")
    of: int = Field(description="its budget of trials")
    complete: int
    pruned: int
    running: int
    waiting: int
    failed: int = Field(description="trials that did not count")
    failed_by_class: dict[str, int]
    best: Best | None
    expected: tuple[Expected, ...]
    importance: tuple[Importance, ...]
    importance_trials: int
    importance_unknown: str | None = Field(
        default=None, description="why nothing can be told of the importance; none where it can, or in older reports"
    )
    pruned_at: tuple[tuple[int, int], ...] = Field(description="(epoch, trials that were pruned there)")
    rungs: tuple[Rung, ...]
    edges: tuple[Edge, ...]
    shares: tuple[Share, ...]
    cost: Cost


class FrontLine(Frozen):
    """One choice of the front."""

    choice: Scalar | None
    params_m: float | None
    gflops: float | None
    complete: int
    best: dict[str, float] = Field(description="by arm")


class Family(Frozen):
    """One network of a search that was dealt over several, with what it is dealt over beside it, such as its widths."""

    name: str
    choices: int = Field(description="that were trained to their end")
    complete: int
    best: dict[str, float] = Field(description="by arm")
    choice: Scalar | None = Field(description="of the best trial of the main search")
    trial: int | None
    params_m: float | None
    gflops: float | None


class Method(Frozen):
    """One way of distilling, or none, of a search that was dealt over them."""

    name: str
    trials: int = Field(description="that finished or were pruned")
    complete: int
    best: float | None = Field(description="on validation, unconfirmed")
    trial: int | None
    params_m: float | None
    terms: tuple[Share, ...] = Field(description="its own, over its trials that were trained to their end")


class Teacher(Frozen):
    """What students are compared with."""

    network: str
    score: float | None
    params_m: float | None


class Fact(Frozen):
    """One line of a list of facts."""

    name: str
    value: Scalar | None


class ForegroundClass(Frozen):
    """A class of the data, of several."""

    name: str
    colour: str = Field(description="as #rrggbb: that of every picture")


class Search(Frozen):
    """What the search did, from its rows alone."""

    metric: str
    maximize: bool
    threshold: float | None = Field(
        default=SEARCH_THRESHOLD, description="of every score of the search; None: of each network its own best"
    )
    images: int | None = Field(default=None, description="of validation, which every score is of; None: not known here")
    scored: Scored = Field(
        default="image", exclude_if=lambda scored: scored == "image", description="what `images` counts"
    )
    epochs: int
    along: str | None
    state: Literal["ended", "running", "waits for workers"]
    closed: str | None
    simulated: bool = Field(description="nothing was trained: its scores are a formula's")
    teacher: Teacher | None
    margin: float | None = Field(description="how far below the teacher a student may be; known once confirmed")
    arms: tuple[Arm, ...]
    equal: tuple[Equal, ...]
    front: tuple[FrontLine, ...]
    dots: tuple[Dot, ...]
    failures: tuple[tuple[str, int, str, str], ...] = Field(description="(arm, trial, class, message), the newest")
    seconds_an_epoch: float | None
    cost: Cost
    data: tuple[Fact, ...]
    limits: tuple[Fact, ...]
    space: tuple[Fact, ...]
    families: tuple[Family, ...] = Field(
        default=(), exclude_if=left_out, description="by the first of a front's several parameters, the best first"
    )
    methods: tuple[Method, ...] = Field(
        default=(), exclude_if=left_out, description="where the search was dealt over methods and none, the best first"
    )
    classes: tuple[ForegroundClass, ...] = Field(
        default=(), exclude_if=left_out, description="foreground classes, or regions, where there are several"
    )
    regions: bool = Field(
        default=False, exclude_if=left_out, description="whether those are regions, which overlap and have a threshold"
    )

    tie: tuple[int, float, str] | None = Field(
        default=None,
        exclude_if=left_out,
        description="how many trials of different parameters have one score, that score, and the metric by which a "
        "study tells them apart",
    )
    volumes: bool = Field(
        default=False, exclude_if=left_out, description="whether data are volumes, so that what is scored are cases"
    )

    @property
    def nouns(self) -> Nouns:
        """What sentences call the things of this study's data."""
        return nouns_for(self.scored, volumes=self.volumes)

    @property
    def kind(self) -> str:
        """What `classes` are in words: class or region."""
        return "region" if self.regions else "class"

    @property
    def likeliest(self) -> bool:
        """Whether a pixel is of its likeliest class, without a threshold."""
        return bool(self.classes) and not self.regions


class Picture(Frozen):
    """One picture, inline."""

    title: str
    alt: str
    mimetype: Literal["image/png", "image/jpeg"]
    base64: str


class PublishedNumber(Frozen):
    """A number that somebody else printed, and beside it what was confirmed here of the same kind of network."""

    data: str
    part: str = Field(description="the images that it is of, there")
    method: str
    teacher: str
    student: str
    pretrained: str
    metric: str = Field(description="the score by its name in docs/scores.md")
    value: float | None
    deviation: float | None = Field(description="over runs, as printed")
    unit: str
    source: str
    blank: str = Field(description="why there is no value")
    ours: str | None = Field(description="the network that was confirmed here and compares best; none: there is none")
    our_metric: str | None
    our_value: float | None = Field(description="on test, mean over fresh seeds")
    our_deviation: float | None = Field(description="over seeds")
    our_unit: str


class PublishedPart(Frozen):
    """What others printed of the same; no number of it enters anything that is computed here."""

    file: str
    rows: tuple[PublishedNumber, ...]
    differs: tuple[str, ...] = Field(description="what was done otherwise there")
    missing: str | None = Field(default=None, description="why there are no rows")


class Study(Frozen):
    """One study of the report."""

    name: str
    identity: str
    headline: str
    answer: tuple[str, str, str, str]
    following: str = Field(default="", description="what to do next, with its command")
    verdict: Literal["shown", "not_shown", "worse", "not estimable"]
    search: Search
    confirmed: ConfirmedPart | None
    limits: tuple[str, ...] = Field(description="what the numbers do not say")
    pictures: tuple[Picture, ...]
    without_pictures: str | None = Field(description="why there are none")
    commands: tuple[str, ...] = Field(description="what reproduces it")
    published: PublishedPart | None = Field(
        default=None, exclude_if=left_out, description="what others printed of the same, where the study names it"
    )

    @property
    def distillation(self) -> str:
        """The verdict on it in words; a search without it did not ask."""
        return self.verdict.replace("_", " ") if self.search.arms[0].taught else "not asked"


class Side(Frozen):
    """One study beside the others: the same network on several sets, or several networks on one."""

    study: str
    data: str | None
    network: str | None
    params_m: float | None
    share_of_teacher: float | None
    teacher: float | None
    without_kd: float | None
    with_kd: float | None
    difference: float | None = Field(description="with minus without KD")
    low: float | None = Field(description="the interval of the difference; confirmed studies alone have one")
    high: float | None
    verdict: str
    part: str = Field(description="validation (unconfirmed) or test")


class SeriesMember(Frozen):
    """One study of a series."""

    study: str
    label: str = Field(description="what makes it this member")
    choices: dict[str, str] = Field(description="axis -> choice, of a product")
    panel: str = Field(description="the choice of the axis that sets the data; empty where there is none")
    state: Literal["running", "waits for workers", "ended", "confirmed"]
    method: str | None = Field(description="of [run]; a study may search over several")
    teacher: str | None
    teacher_params_m: float | None
    teacher_gflops: float | None
    teacher_score: float | None
    network: str | None
    params_m: float | None
    gflops: float | None
    part: Literal["test", "validation, unconfirmed"]
    score: float | None
    low: float | None
    high: float | None
    deviation: float | None = Field(description="over the fresh seeds")
    seeds: int


class ClassMean(Frozen):
    """Scores of one class, over images and seeds."""

    label: str
    dice: float | None
    dice_deviation: float | None
    hd95: float | None
    hd95_deviation: float | None


class MethodScore(Frozen):
    """What one way of distilling reached in one group of members, by the network that its search ranked first."""

    method: str
    group: str = Field(description="what the members share beside the method")
    study: str
    configuration: str
    dice: float | None = Field(description="on test, mean over images and seeds")
    dice_deviation: float | None = Field(description="of the seeds' means")
    hd95: float | None = Field(description="the same of the distance over all images, a miss as the diagonal")
    hd95_deviation: float | None
    seeds: int
    images: int
    rank: int | None = Field(description="by Dice, within the group")
    classes: tuple[ClassMean, ...] = Field(default=(), exclude_if=left_out)


class SeriesDifference(Frozen):
    """A way of distilling less none, of one group; paired by image and seed."""

    method: str
    group: str
    minuend: str
    subtrahend: str
    metric: str
    estimate: float | None
    low: float | None
    high: float | None
    p: float | None
    p_holm: float | None = Field(description="corrected over all differences of the series (Holm)")
    images: int
    groups: int
    seeds: int
    verdict: Literal["shown", "not_shown", "worse", "not estimable"]
    reason: str | None


class SeriesPart(Frozen):
    """All members of a series beside each other."""

    name: str
    axes: dict[str, tuple[str, ...]] = Field(description="axis -> its choices that were begun; none of a list")
    of: int = Field(description="members that the file names; `members` are those that were begun")
    metric: str
    length_unit: str
    members: tuple[SeriesMember, ...]
    groups: tuple[str, ...]
    methods: tuple[str, ...] = Field(description="by their mean rank over the groups, the best first")
    mean_ranks: dict[str, float] = Field(description="of the methods that were confirmed in every group")
    scores: tuple[MethodScore, ...]
    differences: tuple[SeriesDifference, ...]
    missing: tuple[str, ...] = Field(description="what is not there yet")


class Report(Frozen):
    """report.json."""

    schema_: Literal[1] = Field(default=1, alias="schema")
    written: str
    program: str
    studies: tuple[Study, ...] = Field(min_length=1)
    sides: tuple[Side, ...] = Field(description="one a study; empty where there is one study")
    refresh: int | None = Field(description="seconds after which the page is read again; None: it stays")
    series: tuple[SeriesPart, ...] = Field(
        default=(), exclude_if=left_out, description="one a series that was named; its members are among the studies"
    )
