"""The tables of a study file beside [run] and [space], as frozen values. Free of torch and optuna."""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveInt, field_validator, model_validator

from models.config import Frozen
from search.spec.strategies import (
    MOST_TRIALS,
    CmaesConfig,
    CurvesConfig,
    GpConfig,
    GridConfig,
    MedianConfig,
    NoOptions,
    Nsga2Config,
    PatientConfig,
    PercentileConfig,
    PromoteConfig,
    QmcConfig,
    ThresholdConfig,
    WarmStart,
    WilcoxonConfig,
)
from trainer.cli.durations import seconds
from trainer.config import LARGEST_SEED, MOST_EPOCHS
from trainer.data.splits.folders import pattern_from
from trainer.errors import DataError, nearest
from trainer.evaluation.score_names import SCORE_KINDS, confirmed_name, objective
from trainer.series import DeviceHours, Duration, SeriesTable

SCORE_NAMES = ("dice", "iou", "precision", "recall", "specificity", "accuracy", "mdice", "miou")
"""The validation scores that every epoch report has; mdice and miou are means over all classes of pooled pixels."""

MAIN = "kd"
"""The name of the main search among the arms."""

PUBLISHED_COLUMNS = ("data", "part", "method", "teacher", "student", "pretrained", "metric")
"""The columns of studies/published/*.csv that say what a number is of."""


class Objective(Frozen):
    """What a trial is worth: one validation score, at its best epoch."""

    maximize: str | None = Field(
        default=None,
        description="the validation score that a trial is worth, at its best epoch: a name of docs/scores.md, of one "
        "class as `dice.liver`; `dice_at_best_threshold` where small networks have no foreground at 0.5",
    )
    minimize: str | None = Field(
        default=None, description="the same, of a score that is better when lower, such as hd95_missed_as_diagonal"
    )

    @model_validator(mode="after")
    def _names_a_score(self) -> Self:
        if self.maximize is None and self.minimize is None:
            raise ValueError(f'name a score, such as maximize = "dice"; known: {_SCORES}')
        if self.maximize is not None and self.minimize is not None:
            raise ValueError(f"maximize = {self.maximize!r} and minimize = {self.minimize!r}: keep one")
        # Which classes there are is known with the data alone.
        label = self.metric.partition(".")[2]
        objective(self.metric, self.direction, [label] if label else [])
        return self

    @property
    def metric(self) -> str:
        """The score's name."""
        return self.maximize or self.minimize or "dice"

    @property
    def direction(self) -> Literal["maximize", "minimize"]:
        """Which way is better, in Optuna's words."""
        return "minimize" if self.maximize is None else "maximize"


_SCORES = ", ".join(name for name, kind in SCORE_KINDS.items() if not kind.refused)


class Front(Frozen):
    """Spread trials over the choices of one parameter, or over the combinations of several."""

    along: str | tuple[str, ...] = Field(
        description='the path of a parameter with choices, such as "student.width" or "method"; or a list of such '
        'paths, ["student.name", "student.width"]: each network with each of its widths is then one choice'
    )
    spread: Literal["equal", "open"] = Field(
        default="equal",
        description='"equal": every choice gets as many trials. "open": once each has begun `start` trials, the next '
        "one goes to the choice whose best it is expected to raise most; each gets at least half of an equal share",
    )
    start: PositiveInt = Field(
        default=5, le=MOST_TRIALS, description='with spread = "open": trials that each choice has begun before it'
    )
    per: Literal["trial", "hour"] = Field(
        default="trial",
        description='with spread = "open": what the expected gain is counted by; "hour" divides it by the median of '
        "the device seconds that trials of the choice took",
    )

    @model_validator(mode="after")
    def _says_nothing_without_effect(self) -> Self:
        for name in ("start", "per"):
            value = getattr(self, name)
            if self.spread == "equal" and value != type(self).model_fields[name].default:
                raise ValueError(
                    f'{name} = {value!r} changes nothing with spread = "equal", which gives every choice as many '
                    'trials; set spread = "open", or remove it'
                )
        return self

    @field_validator("along")
    @classmethod
    def _are_paths(cls, value: str | tuple[str, ...]) -> str | tuple[str, ...]:
        if isinstance(value, str):
            return value
        if not value:
            raise ValueError("[] names no path; write one, or remove [front]")
        twice = next((path for i, path in enumerate(value) if path in value[:i]), None)
        if twice is not None:
            raise ValueError(f"{twice!r} is listed twice; keep one")
        return value[0] if len(value) == 1 else value

    @property
    def paths(self) -> tuple[str, ...]:
        """The paths, one or several."""
        return (self.along,) if isinstance(self.along, str) else self.along


class Latency(Frozen):
    """A bound on the median time of one image on the target, looked up in a measured table. The table's name is part
    of the study, what it holds is not."""

    max: float = Field(gt=0.0, le=1e9, allow_inf_nan=False, description="milliseconds")
    table: str = Field(
        description="CSV with the measured times, which `python -m search profile` writes; it holds every student of "
        "the space, once; $VARIABLES come from the environment"
    )


class Limits(Frozen):
    """What a student may cost; checked on the meta device before anything is trained."""

    params_m: float | None = Field(
        default=None, gt=0.0, le=1e9, allow_inf_nan=False, description="millions of parameters that training uses"
    )
    gflops: float | None = Field(default=None, gt=0.0, le=1e9, allow_inf_nan=False, description="GFLOP of one image")
    latency_ms: Latency | None = Field(default=None, description="time of one image on the target, as measured there")


class TpeOptions(Frozen):
    """Arguments of Optuna's TPESampler that a study may change, under Optuna's names."""

    n_ei_candidates: PositiveInt = Field(default=24, le=100_000, description="draws among which the model chooses")


class TpeConfig(Frozen):
    """Tree-structured Parzen estimator (Bergstra et al. 2011), over groups of parameters that appear together."""

    name: Literal["tpe"]
    seed: NonNegativeInt = Field(default=0, lt=2**32, description="of the draws")
    startup: NonNegativeInt = Field(default=10, le=MOST_TRIALS, description="finished trials before the model is used")
    options: TpeOptions = Field(default=TpeOptions(), description="further arguments of the sampler")


class RandomConfig(Frozen):
    """Independent draws."""

    name: Literal["random"]
    seed: NonNegativeInt = Field(default=0, lt=2**32, description="of the draws")
    startup: NonNegativeInt = Field(default=0, le=MOST_TRIALS, description="without effect: every draw is random")
    options: NoOptions = Field(default=NoOptions(), description="it has none")


SamplerConfig = Annotated[
    TpeConfig | RandomConfig | GpConfig | CmaesConfig | Nsga2Config | QmcConfig | GridConfig,
    Field(discriminator="name"),
]


class RungsConfig(Frozen):
    """Verdicts at rungs: epochs that lie further and further apart, up to the run's last."""

    name: Literal["halving", "hyperband"]
    min_epochs: PositiveInt = Field(default=1, le=MOST_EPOCHS, description="epochs up to the first rung")
    warmup_epochs: NonNegativeInt = Field(
        default=0, le=MOST_EPOCHS, description="epochs, from 1, in which no trial is pruned"
    )
    reduction: int = Field(default=3, ge=2, le=MOST_EPOCHS, description="one in so many trials passes a rung")

    @property
    def first_rung(self) -> int:
        """The epoch of the first verdict."""
        return max(self.min_epochs, self.warmup_epochs + 1)


class HalvingConfig(RungsConfig):
    """Asynchronous successive halving (Li et al. 2020): at each rung one trial in `reduction` goes on."""

    name: Literal["halving"]


class HyperbandConfig(RungsConfig):
    """Halving in several brackets, of which the more patient have their first rung later (Li et al. 2018). There are as
    many as there are rungs within the run's epochs; a study that was begun before that was exact keeps its number."""

    name: Literal["hyperband"]


class NoPruning(Frozen):
    """Every trial runs to its last epoch."""

    name: Literal["none"]


PrunerConfig = Annotated[
    MedianConfig
    | PercentileConfig
    | HalvingConfig
    | HyperbandConfig
    | PromoteConfig
    | CurvesConfig
    | PatientConfig
    | ThresholdConfig
    | WilcoxonConfig
    | NoPruning,
    Field(discriminator="name"),
]


class Budget(Frozen):
    """What the search may use. Trials count when COMPLETE or PRUNED; the bounds below them hold over all arms."""

    trials: PositiveInt = Field(
        le=MOST_TRIALS, description="trials of an arm that COMPLETE or PRUNED; failed ones do not count"
    )
    max_failed: PositiveInt = Field(
        default=16, le=MOST_TRIALS, description="failed trials over all arms that end the search"
    )
    in_flight: PositiveInt | None = Field(
        default=None,
        le=MOST_TRIALS,
        description="trials of an arm that run at a time, over all workers; default: an eighth of them, at least 8",
    )
    gpu_hours: DeviceHours | None = Field(
        default=None, description="hours of devices, summed over all ranks, after which nothing begins"
    )
    wall: Duration | None = Field(
        default=None, description='time from the first trial, such as "12h" or "90m", at most "36500d"'
    )

    @property
    def wall_seconds(self) -> float | None:
        """`wall` in seconds."""
        return None if self.wall is None else seconds(self.wall)


class ArmEntry(Frozen):
    """One entry of [[arms]]: a control search. What it leaves out is as in the main search."""

    name: str = Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_-]{0,63}$", description="letters, digits, - and _")
    set: dict[str, Any] = Field(default={}, description="dotted paths into [run] and their values")
    trials: PositiveInt | None = Field(
        default=None, le=MOST_TRIALS, description="a budget of its own; else that of [budget]"
    )
    in_flight: PositiveInt | None = Field(
        default=None, le=MOST_TRIALS, description="trials of the arm that run at a time; else that of [budget]"
    )
    sampler: SamplerConfig | None = Field(default=None, description="a sampler of its own; else [sampler]")
    pruner: PrunerConfig | None = Field(default=None, description="a pruner of its own; else [pruner]")

    @field_validator("name")
    @classmethod
    def _is_free(cls, value: str) -> str:
        if value in (MAIN, "confirm"):
            raise ValueError(f"{value!r} is the program's own name for a part of the study; choose another")
        return value


class Choose(Frozen):
    """Which confirmed student is taken home."""

    smallest: Literal["params", "gflops"] = Field(
        default="params", description="what the smallest student has least of"
    )
    not_below: Literal["teacher"] = Field(default="teacher", description="what its score is compared with")
    metric: str = Field(default="dice", description="the score that is compared; higher is better")
    margin: NonNegativeFloat = Field(default=0.02, lt=1.0, description="how far below it may be")
    confidence: float = Field(default=0.95, gt=0.5, lt=1.0, description="of the interval that must lie above that")

    @field_validator("metric")
    @classmethod
    def _is_a_score(cls, value: str) -> str:
        label = value.partition(".")[2]
        objective(value, "maximize", [label] if label else [])
        if confirmed_name(value) != value:
            raise ValueError(
                f"{value!r}: a confirmation chooses a threshold for each seed; write {confirmed_name(value)}"
            )
        return value


class Confirm(Frozen):
    """Fresh seeds for winners and arms, and the one opening of the test rows."""

    seeds: tuple[Annotated[NonNegativeInt, Field(le=LARGEST_SEED)], ...] = Field(
        default=(11, 12, 13, 14, 15),
        min_length=1,
        max_length=1000,
        description="fresh seeds with which winners and controls are trained again",
    )
    top: PositiveInt = Field(
        default=6,
        le=MOST_TRIALS,
        description="winners that are confirmed: the best, the best of each value of [front], then what is next best",
    )
    choose: Choose = Field(default=Choose(), description="which of them is taken home")
    unseen: tuple[str, ...] = Field(
        default=(),
        description="sources that no part of the search has seen: folders of images and masks below `data.root`; "
        "a CSV image,group of the name groups.csv in such a folder names its patients or sequences",
    )
    masks_pattern: str | None = Field(
        default=None,
        exclude_if=lambda pattern: pattern is None,  # confirmations of before, and their hashes, have no such key
        description="how masks of unseen sources are named, as --masks-pattern of `search init`; none: an equal name, "
        "or one with _mask or the like behind it",
    )

    @field_validator("masks_pattern")
    @classmethod
    def _is_a_pattern(cls, value: str | None) -> str | None:
        try:
            return None if value is None else str(pattern_from(value))
        except DataError as error:
            raise ValueError(str(error).partition(": ")[2]) from error

    @field_validator("seeds")
    @classmethod
    def _are_different(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if len(set(value)) < len(value):
            raise ValueError(f"{list(value)} has a seed twice; give each seed once")
        return value


class Dashboard(Frozen):
    """What optuna-dashboard may show."""

    images: Literal["off", "validation"] = Field(
        default="off",
        description="validation only for data that may be seen by all who see the dashboard: each trial that completes "
        "brings a picture of its worst and median validation images; pruned ones have none",
    )


class Published(Frozen):
    """Numbers that others printed, out of a file of `studies/published/`; nothing that is computed here reads them."""

    file: str = Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$",
        description="its name without .csv, of a file in `studies/published/` here or beside the program",
    )
    rows: dict[str, str | tuple[str, ...]] = Field(
        default={},
        description="which of its rows belong to this study: columns with the value or values they have, such as "
        '{ data = "isic2018", student = ["unet-awesome", "small-double"] }; none: all rows',
    )
    methods: dict[str, str] = Field(
        default={},
        description='what their methods are called here: { "ACF-BCKD" = "acfd+boundary-hard" }; others keep '
        "their names",
    )
    differs: tuple[Annotated[str, Field(min_length=1, max_length=400)], ...] = Field(
        default=(), description="what was done otherwise there, a sentence each"
    )

    @field_validator("rows")
    @classmethod
    def _are_columns(cls, value: dict[str, str | tuple[str, ...]]) -> dict[str, str | tuple[str, ...]]:
        for column, wanted in value.items():
            if column not in PUBLISHED_COLUMNS:
                raise ValueError(f"{column}: no column of such a file{nearest(column, PUBLISHED_COLUMNS)}")
            if not wanted:
                raise ValueError(f"{column} = {wanted!r}: names no value; take it away for all rows")
        return value


class StudyTables(Frozen):
    """A study file as it is written."""

    objective: Objective = Field(description="what a trial is worth")
    front: Front | None = Field(
        default=None,
        description="spread trials over the choices of one parameter, such as the width, or of several together",
    )
    limits: Limits = Field(default=Limits(), description="what a student may cost, checked before anything is trained")
    run: dict[str, Any] = Field(description="one complete training run; [space] replaces single values of it")
    teach: dict[str, Any] = Field(
        default={}, description="the teacher's own recipe: values of [run] that are others while it is trained"
    )
    space: dict[str, Any] = Field(description="what the search varies: dotted paths into [run] with ranges or choices")
    sampler: SamplerConfig = Field(default=TpeConfig(name="tpe"), description="how new trials are proposed")
    warm_start: WarmStart | None = Field(
        default=None, description="an older study whose trials inform the sampler, and count nowhere else"
    )
    pruner: PrunerConfig = Field(default=NoPruning(name="none"), description="how weak trials are ended early")
    budget: Budget = Field(description="what the search may use")
    enqueue: tuple[dict[str, Any], ...] = Field(
        default=(), description="parameters of trials that are wanted first; what is left out is sampled"
    )
    arms: tuple[ArmEntry, ...] = Field(default=(), description="control searches beside the main one")
    confirm: Confirm = Field(
        default=Confirm(),
        description="what becomes of the winners: `search confirm` trains them again and opens the test rows",
    )
    dashboard: Dashboard = Field(default=Dashboard(), description="what optuna-dashboard may show")
    published: Published | None = Field(
        default=None, description="what others published of the same, shown in the report in columns of its own"
    )
    series: SeriesTable | None = Field(
        default=None, description="several studies in one file, NAME.1, NAME.2 and so on: what differs between them"
    )
