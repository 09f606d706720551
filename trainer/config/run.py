"""One complete training run as a value. Free of torch; `trainer.dry_run` builds what it names on the meta device."""

from typing import Annotated, Literal, Self

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from losses.config import NEEDS_TEACHER, LossTerms, Weighted
from models.config import EnsembleTeacher, Frozen, MapsTeacher, NetworkConfig, TeacherConfig, UNetNetwork
from trainer.config.optim import MOST_EPOCHS, OptimConfig, Plateau
from trainer.config.pictures import LARGEST_SEED, BlobsData, PictureData, PolypData
from trainer.config.volumes import VolumeData

Precision = Literal["fp32", "bf16", "fp16"]
Recompute = Literal["none", "normalisation"]
Replay = tuple[tuple[int, int], ...]
"""(own epoch, from 1; stream epoch, from 0) at each place where the run joined the stream."""

DataConfig = Annotated[BlobsData | PolypData | PictureData | VolumeData, Field(discriminator="name")]


class ValidateConfig(Frozen):
    """Which epochs are scored: `from`, then each `every`-th after it, and always the last."""

    from_: PositiveInt = Field(default=1, le=MOST_EPOCHS, alias="from", description="first epoch that is scored")
    every: PositiveInt = Field(default=1, le=MOST_EPOCHS, description="epochs from one score to the next")

    def due(self, epoch: int, epochs: int) -> bool:
        """Whether epoch (from 1) of epochs is scored."""
        return epoch == epochs or (epoch >= self.from_ and (epoch - self.from_) % self.every == 0)


def _is_stored(teacher: TeacherConfig | None) -> bool:
    members = teacher.members if isinstance(teacher, EnsembleTeacher) else (teacher,)
    return any(isinstance(member, MapsTeacher) for member in members)


class RunConfig(Frozen):
    """One training run, complete: shared with all ranks, stored with the trial, exported, trained again."""

    method: str = Field(default="none", description='the KD term that is live: a key of losses, "a+b", or "none"')
    epochs: PositiveInt = Field(le=MOST_EPOCHS, description="passes over the training images")
    batch_size: PositiveInt = Field(default=16, le=1_000_000, description="over all ranks of the trial")
    seed: NonNegativeInt = Field(
        default=1, le=LARGEST_SEED, description="of all draws of the run: weights, order, augmentation"
    )
    precision: Precision = Field(default="fp32", description="of the networks' passes; weights and scores stay fp32")
    recompute: Recompute = Field(
        default="none",
        exclude_if=lambda maps: maps == "none",  # runs of before, and their hashes, have no such key
        description="maps that a student's backward pass computes again in place of keeping them: less memory for a "
        "little time, and the same numbers",
    )
    validation: ValidateConfig = Field(
        default=ValidateConfig(), alias="validate", description="which epochs are scored"
    )
    data: DataConfig = Field(description="the images")
    teacher: TeacherConfig | None = Field(default=None, description="the frozen network that a KD term learns from")
    student: NetworkConfig = Field(default=UNetNetwork(name="unet"), description="the network that is trained")
    losses: LossTerms = Field(
        description="the terms that a run may use; those that need a teacher are live where `method` names them"
    )
    optim: OptimConfig = Field(default=OptimConfig(), description="how the student's weights move")

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
        if isinstance(self.optim.schedule, Plateau) and self.optim.schedule.by == "loss":
            self._has_a_validation_loss()
        if self.validation.from_ > self.epochs:
            raise ValueError(
                f"validate.from: {self.validation.from_} is after the last epoch {self.epochs}; "
                f"set it to 1..{self.epochs}, or raise epochs"
            )
        return self

    def _has_a_validation_loss(self) -> None:
        """Raises ValueError where the loss cannot be taken on validation data."""
        if self.methods() and _is_stored(self.teacher):
            raise ValueError(
                'optim.schedule.by = "loss": stored maps of a teacher are of training images, and cannot be compared '
                'with on validation images; set by = "score", or method = "none"'
            )
        if isinstance(self.data, VolumeData):
            raise ValueError(
                'optim.schedule.by = "loss": volumes are validated whole, and losses are of patches; set by = "score"'
            )
