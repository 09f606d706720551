"""The samplers and pruners of a study file beside the oldest ones, as frozen values. Free of torch and optuna."""

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveInt, model_validator

from models.config import Frozen
from trainer.config import MOST_EPOCHS

MOST_TRIALS = 1_000_000
MOST_POPULATION = 10_000
Seed = Annotated[NonNegativeInt, Field(lt=2**32, description="of the draws")]


class NoOptions(Frozen):
    """A sampler without options."""


class GpConfig(Frozen):
    """Gaussian process with expected improvement (Ament et al. 2023), over the parameters that every trial has."""

    name: Literal["gp"]
    seed: Seed = 0
    startup: PositiveInt = Field(
        default=10,
        le=MOST_TRIALS,
        description="complete trials before the model is used; pruned ones tell it nothing",
    )
    options: NoOptions = Field(default=NoOptions(), description="it has none")


class CmaesOptions(Frozen):
    """Arguments of the covariance matrix adaptation."""

    population_size: int | None = Field(
        default=None,
        ge=4,
        le=MOST_POPULATION,
        description="complete trials of a generation; default: 4 + 3 ln of how many numbers there are, rounded down",
    )


class CmaesConfig(Frozen):
    """Covariance matrix adaptation (Hansen 2016), over numbers; choices are drawn at random."""

    name: Literal["cmaes"]
    seed: Seed = 0
    options: CmaesOptions = Field(default=CmaesOptions(), description="further arguments of the sampler")
    startup: ClassVar[int] = 0


class Nsga2Options(Frozen):
    """Arguments of the genetic algorithm."""

    population_size: int = Field(
        default=20, ge=2, le=MOST_POPULATION, description="complete trials of a generation; the first one is random"
    )


class Nsga2Config(Frozen):
    """Genetic algorithm that crosses the best trials of former generations (Deb et al. 2002)."""

    name: Literal["nsga2"]
    seed: Seed = 0
    options: Nsga2Options = Field(default=Nsga2Options(), description="further arguments of the sampler")
    startup: ClassVar[int] = 0


class QmcConfig(Frozen):
    """Quasi-random search: a scrambled Sobol sequence, spread more evenly than random draws."""

    name: Literal["qmc"]
    seed: Seed = 0
    options: NoOptions = Field(default=NoOptions(), description="it has none")
    startup: ClassVar[int] = 0


class GridConfig(Frozen):
    """Every combination of choices, whole numbers and steps once, in an order that is drawn."""

    name: Literal["grid"]
    seed: Seed = 0
    options: NoOptions = Field(default=NoOptions(), description="it has none")
    startup: ClassVar[int] = 0


class WarmStart(Frozen):
    """Trials of an older study inform the sampler."""

    source: str = Field(
        alias="from",
        min_length=1,
        max_length=128,
        description="the name of the older study; its main search or the arm of the same name",
    )
    weight: float = Field(
        default=0.3,
        gt=0.0,
        le=1.0,
        description="what an older trial counts beside one of this study; it falls as this study's own trials come",
    )
    storage: str | None = Field(
        default=None,
        pattern=r"^[A-Za-z_][A-Za-z0-9_]*$",
        description="the name of an environment variable that holds the URL of the older study's database; default: "
        "this study's database",
    )


class FinishedTrialsRule(Frozen):
    """What the pruners share that compare a trial with the finished ones at the same epoch."""

    startup: NonNegativeInt = Field(
        default=5,
        le=MOST_TRIALS,
        description="complete trials, of the same choice of [front] if there is one, before any is pruned",
    )
    warmup_epochs: NonNegativeInt | None = Field(
        default=None,
        le=MOST_EPOCHS,
        description="epochs, from 1, in which no trial is pruned; default: a tenth of the run's",
    )

    def warmup(self, epochs: int) -> int:
        """The epochs without verdicts of runs of so many epochs (`benchmarks/RESULTS.md`, time to an answer)."""
        return epochs // 10 if self.warmup_epochs is None else self.warmup_epochs


class MedianConfig(FinishedTrialsRule):
    """Stop a trial that is worse than the median of finished trials at the same epoch."""

    name: Literal["median"]


class PercentileConfig(FinishedTrialsRule):
    """Stop a trial whose best score so far is not among the best `percentile` percent of finished trials at the same
    epoch (Golovin et al. 2017, section 3.2.1)."""

    name: Literal["percentile"]
    percentile: float = Field(
        default=25.0, gt=0.0, lt=100.0, description="the share that goes on, in percent; the median's is 50"
    )


class PausingConfig(Frozen):
    """What the rules share that pause trials at rungs."""

    min_epochs: PositiveInt | None = Field(
        default=None,
        le=MOST_EPOCHS,
        description="epochs up to the first rung; default: a third of the run's with `promote`, a tenth with `curves`",
    )
    keep_paused: bool = Field(
        default=False, description="leave paused trials as they are in the end, to `search close` or a larger budget"
    )

    share: ClassVar[int] = 3
    """The first rung lies at one in so many of a run's epochs (`benchmarks/RESULTS.md`, pauses)."""

    def first_rung(self, epochs: int) -> int:
        """The epoch at which trials of runs of so many epochs are paused first."""
        return max(round(epochs / self.share), 1) if self.min_epochs is None else self.min_epochs


class PromoteConfig(PausingConfig):
    """Pause a trial at each rung, and go on with the most promising of its choice, by the best score up to the rung,
    when a slot is free (as asynchronous successive halving, Li et al. 2020, which ends them). Paused trials count
    against `budget.trials`, and are PRUNED once all are admitted and none is worth more epochs, or time or device hours
    are over."""

    name: Literal["promote"]
    reduction: int = Field(
        default=3, ge=2, le=MOST_EPOCHS, description="one in so many trials of a choice passes a rung"
    )


class CurvesConfig(PausingConfig):
    """Pause a trial at each rung, and give free slots to the trials with the most probability to be the best of their
    choice, by the epochs that they still take. The probability is that of a model of learning curves over rungs (their
    ends predicted from parts of curves as in Baker et al. 2017, decided by the probability to beat the best as in
    Domhan et al. 2015). What is left for good at rungs are the least likely of each choice, which hold its best with
    a probability of 2 % together. Paused trials count and end as with `promote`."""

    share: ClassVar[int] = 10

    name: Literal["curves"]
    factor: float = Field(
        default=1.5, ge=1.1, le=100.0, allow_inf_nan=False, description="each rung is so many times the one before"
    )
    startup: PositiveInt = Field(
        default=5,
        le=MOST_TRIALS,
        description="trials of each choice of [front], or of all, begun before a paused one goes on",
    )
    idle_below: NonNegativeFloat = Field(
        default=0.0,
        le=100.0,
        allow_inf_nan=False,
        description="a slot is left empty where a further trial promises less, by what it costs, than so many times "
        "what those beside it do, whom it slows down; 0: every slot is filled",
    )


_Warmup = Annotated[NonNegativeInt, Field(le=MOST_EPOCHS, description="epochs, from 1, in which no trial is pruned")]


class PatientConfig(Frozen):
    """Stop a trial that stands still: whose best of the last `patience` epochs is not better than its best before by
    more than `min_delta` (Prechelt 1998). It looks at no other trial, so it ends good trials too, as pruned."""

    name: Literal["patient"]
    patience: PositiveInt = Field(default=5, le=MOST_EPOCHS, description="epochs without a better score")
    min_delta: NonNegativeFloat = Field(
        default=0.0, le=1e9, allow_inf_nan=False, description="how much better counts as better"
    )
    warmup_epochs: _Warmup = 0


class ThresholdConfig(Frozen):
    """Stop a trial whose newest score is below `lower`, above `upper`, or no number."""

    name: Literal["threshold"]
    lower: float | None = Field(default=None, ge=-1e9, le=1e9, allow_inf_nan=False, description="a trial below it ends")
    upper: float | None = Field(default=None, ge=-1e9, le=1e9, allow_inf_nan=False, description="a trial above it ends")
    warmup_epochs: _Warmup = 0

    @model_validator(mode="after")
    def _has_a_bound(self) -> Self:
        if self.lower is None and self.upper is None:
            raise ValueError("neither lower nor upper is given; write one, such as lower = 0.3")
        if self.lower is not None and self.upper is not None and self.lower >= self.upper:
            raise ValueError(f"lower = {self.lower}: not below upper = {self.upper}; every score would end its trial")
        return self


WILCOXON = (
    "its test compares scores of the same samples (images, folds) at the same step, and a trial reports epochs: it "
    "ends 0.4999 against 0.5 at the fourth one; take median or percentile"
)


class WilcoxonConfig(Frozen):
    """Refused: a signed-rank test over scores of the same samples, which the epochs of a training are not."""

    name: Literal["wilcoxon"]

    @model_validator(mode="after")
    def _is_refused(self) -> Self:
        raise ValueError(WILCOXON)
