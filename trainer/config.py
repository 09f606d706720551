"""One complete training run as a value. Free of torch; `trainer.check` builds what it names on the meta device."""

from typing import Annotated, Literal, Self

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from losses.config import NEEDS_TEACHER, LossTerms, Weighted
from models.config import Frozen, NetworkConfig, PlainNetwork, TeacherConfig

Precision = Literal["fp32", "bf16", "fp16"]
Replay = tuple[tuple[int, int], ...]
"""(own epoch, from 1; stream epoch, from 0) at each place where the run joined the stream."""


class Pictures(Frozen):
    """What every data set has. Images are brought to size x size for the network; scores are taken at native size."""

    size: PositiveInt = 352
    fit: Literal["letterbox", "stretch"] = "letterbox"
    augment: str = Field(default="standard", description="a named preset of trainer.data.augment")


class BlobsData(Pictures):
    """Drawn ellipses on noise; no files. A share of the images has no ellipse at all."""

    name: Literal["blobs"]
    size: PositiveInt = 64
    train: PositiveInt = 96
    validation: PositiveInt = 32
    test: PositiveInt = 32
    seed: NonNegativeInt = 0


class PolypData(Pictures):
    """Polyp images with masks, chosen by a split file `source,image,mask,group,split`."""

    name: Literal["polyp"]
    root: str = Field(description="folder that the split file's paths start from; $VARIABLES come from the environment")
    split: str = Field(description="the split file, written by `trainer data split`")


DataConfig = Annotated[BlobsData | PolypData, Field(discriminator="name")]


class OneCycle(Frozen):
    """Cosine rise over `warmup_epochs` from lr / start_div, cosine fall to lr / end_div (Smith and Topin 2018)."""

    name: Literal["one-cycle"]
    warmup_epochs: NonNegativeInt = 3
    start_div: float = Field(default=25.0, gt=0.0)
    end_div: float = Field(default=1e4, gt=0.0)


class Cosine(Frozen):
    """Linear rise over `warmup_epochs`, cosine fall to `end` times lr."""

    name: Literal["cosine"]
    warmup_epochs: NonNegativeInt = 0
    end: float = Field(default=0.0, ge=0.0, le=1.0)


class Poly(Frozen):
    """Linear rise over `warmup_epochs`, then (1 - progress)^power."""

    name: Literal["poly"]
    warmup_epochs: NonNegativeInt = 0
    power: float = Field(default=0.9, gt=0.0)


class Plateau(Frozen):
    """lr times `factor` after `patience` validations without a better score."""

    name: Literal["plateau"]
    warmup_epochs: NonNegativeInt = 0
    factor: float = Field(default=0.1, gt=0.0, lt=1.0)
    patience: NonNegativeInt = 10


class Constant(Frozen):
    """lr stays, after a linear rise over `warmup_epochs`."""

    name: Literal["constant"]
    warmup_epochs: NonNegativeInt = 0


ScheduleConfig = Annotated[OneCycle | Cosine | Poly | Plateau | Constant, Field(discriminator="name")]


class OptimConfig(Frozen):
    """How a student's weights move. `lr` is the rate as used: never scaled by ranks or batch."""

    name: Literal["sgd", "adam", "adamw"] = "adamw"
    lr: float = Field(default=1e-3, gt=0.0, allow_inf_nan=False)
    weight_decay: float = Field(default=0.0, ge=0.0, allow_inf_nan=False)
    momentum: float = Field(default=0.9, ge=0.0, lt=1.0, description="of sgd")
    clip: float | None = Field(default=None, gt=0.0, description="greatest norm of the gradient")
    schedule: ScheduleConfig = OneCycle(name="one-cycle")
    ema: bool = Field(
        default=False, description="score an average of the weights; its memory grows from 0 to 1 over the run"
    )


class ValidateConfig(Frozen):
    """Which epochs are scored: `from`, then each `every`-th after it, and always the last."""

    from_: PositiveInt = Field(default=1, alias="from")
    every: PositiveInt = 1

    def due(self, epoch: int, epochs: int) -> bool:
        """Whether epoch (from 1) of epochs is scored."""
        return epoch == epochs or (epoch >= self.from_ and (epoch - self.from_) % self.every == 0)


class RunConfig(Frozen):
    """One training run, complete: shared with all ranks, stored with the trial, exported, trained again."""

    method: str = Field(default="none", description='the KD term that is live: a key of losses, "a+b", or "none"')
    epochs: PositiveInt
    batch_size: PositiveInt = Field(default=16, description="over all ranks of the trial")
    seed: NonNegativeInt = 1
    precision: Precision = "fp32"
    validation: ValidateConfig = Field(default=ValidateConfig(), alias="validate")
    data: DataConfig
    teacher: TeacherConfig | None = None
    student: NetworkConfig = PlainNetwork(name="unet")
    losses: LossTerms
    optim: OptimConfig = OptimConfig()

    def methods(self) -> tuple[str, ...]:
        """The live KD terms; empty for "none"."""
        return () if self.method == "none" else tuple(self.method.split("+"))

    def live_terms(self) -> dict[str, Weighted]:
        """The terms that train this run: all that need no teacher, and the KD terms that `method` names."""
        methods = self.methods()
        terms = self.losses.terms()
        return {name: term for name, term in terms.items() if name not in NEEDS_TEACHER or name in methods}

    @model_validator(mode="after")
    def _method_is_listed(self) -> Self:
        listed = self.losses.terms()
        known = sorted(NEEDS_TEACHER & set(listed))
        for name in self.methods():
            if name not in known:
                names = ", ".join(["none", *known])
                raise ValueError(f"method: {name!r} is no KD term of [run.losses]; known: {names}")
        if self.methods() and self.teacher is None:
            raise ValueError(f"method: {self.method!r} needs a teacher; add [run.teacher] or set method to none")
        if not any(term.weight > 0 for term in self.live_terms().values()):
            raise ValueError("losses: no term with a weight above 0 is live; add ce or dice")
        if self.validation.from_ > self.epochs:
            raise ValueError(f"validate.from: {self.validation.from_} is after the last epoch {self.epochs}")
        return self
