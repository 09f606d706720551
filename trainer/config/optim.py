"""Optimizers and schedules of the learning rate, as a study file describes them."""

from typing import Annotated, Literal

from pydantic import Field, NonNegativeInt

from models.config import Frozen

MOST_EPOCHS = 1_000_000


class OneCycle(Frozen):
    """Cosine rise over `warmup_epochs` from lr / start_div, cosine fall to lr / end_div (Smith and Topin 2018)."""

    name: Literal["one-cycle"]
    warmup_epochs: NonNegativeInt = Field(default=3, le=MOST_EPOCHS, description="epochs in which the rate rises")
    start_div: float = Field(
        default=25.0, gt=0.0, le=1e12, allow_inf_nan=False, description="the first rate is lr divided by it"
    )
    end_div: float = Field(
        default=1e4, gt=0.0, le=1e12, allow_inf_nan=False, description="the last rate is lr divided by it"
    )


class Cosine(Frozen):
    """Linear rise over `warmup_epochs`, cosine fall to `end` times lr."""

    name: Literal["cosine"]
    warmup_epochs: NonNegativeInt = Field(default=0, le=MOST_EPOCHS, description="epochs in which the rate rises")
    end: float = Field(default=0.0, ge=0.0, le=1.0, description="the last rate is lr times it")


class Poly(Frozen):
    """Linear rise over `warmup_epochs`, then (1 - progress)^power."""

    name: Literal["poly"]
    warmup_epochs: NonNegativeInt = Field(default=0, le=MOST_EPOCHS, description="epochs in which the rate rises")
    power: float = Field(
        default=0.9, gt=0.0, le=1000.0, allow_inf_nan=False, description="of the fall; 1 is a straight line"
    )


class Plateau(Frozen):
    """lr times `factor` after `patience` validations without a better score, or without a smaller loss."""

    name: Literal["plateau"]
    warmup_epochs: NonNegativeInt = Field(default=0, le=MOST_EPOCHS, description="epochs in which the rate rises")
    factor: float = Field(default=0.1, gt=0.0, lt=1.0, description="what the rate is multiplied with")
    patience: NonNegativeInt = Field(
        default=10, le=MOST_EPOCHS, description="validations without a better score before the rate falls"
    )
    by: Literal["score", "loss"] = Field(
        default="score",
        exclude_if=lambda by: by == "score",  # runs of before, and their hashes, have no such key
        description="what has to get better: the score that is searched, or the loss on the validation images, the "
        "teacher's terms included",
    )


class Constant(Frozen):
    """lr stays, after a linear rise over `warmup_epochs`."""

    name: Literal["constant"]
    warmup_epochs: NonNegativeInt = Field(default=0, le=MOST_EPOCHS, description="epochs in which the rate rises")


ScheduleConfig = Annotated[OneCycle | Cosine | Poly | Plateau | Constant, Field(discriminator="name")]


class OptimConfig(Frozen):
    """How a student's weights move. `lr` is the rate as used: never scaled by ranks or batch."""

    name: Literal["sgd", "adam", "adamw"] = Field(default="adamw", description="the optimizer")
    lr: float = Field(
        default=1e-3,
        gt=0.0,
        le=1e6,
        allow_inf_nan=False,
        description="the highest learning rate, as used: never scaled by ranks or batch",
    )
    weight_decay: float = Field(
        default=0.0, ge=0.0, le=1e6, allow_inf_nan=False, description="decoupled for adamw, else added to the gradient"
    )
    momentum: float = Field(default=0.9, ge=0.0, lt=1.0, description="of sgd")
    clip: float | None = Field(
        default=None, gt=0.0, le=1e12, allow_inf_nan=False, description="greatest norm of the gradient"
    )
    schedule: ScheduleConfig = Field(
        default=OneCycle(name="one-cycle"), description="how the learning rate moves over the run"
    )
    ema: bool = Field(
        default=False, description="score an average of the weights; its memory grows from 0 to 1 over the run"
    )
