"""The options of every loss, free of torch. `losses.build` builds what is named here; each file has its formula."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from models.config import Frozen


class Weighted(Frozen):
    """Any term: the total loss is the sum of weight times term."""

    weight: float = Field(
        default=1.0, ge=0.0, le=1e9, allow_inf_nan=False, description="factor of the term in the total loss"
    )


HeadWeight = Annotated[float, Field(ge=0.0, le=1e9, allow_inf_nan=False)]


class Supervised(Weighted):
    """A term that compares with the labels; by name it does so at the heads of deep supervision as well."""

    heads: HeadWeight | tuple[HeadWeight, ...] | None = Field(
        default=None,
        exclude_if=lambda heads: heads is None,  # runs of before, and their hashes, have no such key
        description="deep supervision: the term's weight at the student's further heads, one for all, or a list with "
        "the shallowest first; none: it reads the logits alone",
    )
    main: float = Field(
        default=1.0,
        ge=0.0,
        le=1e9,
        allow_inf_nan=False,
        exclude_if=lambda main: main == 1.0,
        description="with heads: the term's weight at the logits that inference uses",
    )

    @model_validator(mode="after")
    def _something_is_learnt(self) -> Self:
        if self.heads is None and self.main != 1.0:
            raise ValueError(f"main = {self.main:g}: is for terms with heads; set weight, or name heads")
        weights = self.heads if isinstance(self.heads, tuple) else (self.heads or 0.0,)
        if self.heads is not None and self.main == 0.0 and not any(weights):
            raise ValueError("heads: all weights are 0, and main is too; give one above 0")
        return self


class Ohem(Supervised):
    """Cross-entropy over the hard voxels."""

    threshold: float = Field(
        default=0.7, gt=0.0, lt=1.0, description="voxels whose target probability is below it are hard"
    )
    min_share: float = Field(default=1 / 16, gt=0.0, le=1.0, description="least share of the valid voxels that is kept")


class BceDice(Supervised):
    """Binary cross-entropy and Dice, mixed; two classes only."""

    bce: float = Field(default=0.5, ge=0.0, le=1.0, description="share of the cross-entropy; the rest is Dice")


class Kl(Weighted):
    """Soft labels (Hinton et al. 2015)."""

    temperature: float = Field(
        default=4.0,
        gt=0.0,
        le=1e6,
        allow_inf_nan=False,
        description="softens the logits of both before they are compared; 1 leaves them as they are",
    )
    reduction: Literal["voxel-mean", "element-mean", "image-mean"] = Field(
        default="voxel-mean", description="what the divergence is averaged over: voxels, voxels and classes, or images"
    )


class Cwd(Weighted):
    """Channel-wise distillation (Shu et al. 2021) of the logits."""

    temperature: float = Field(
        default=4.0,
        gt=0.0,
        le=1e6,
        allow_inf_nan=False,
        description="softens each channel's map before it becomes a distribution over places",
    )


class Dist(Weighted):
    """Relations between and within classes (Huang et al. 2022)."""

    temperature: float = Field(
        default=1.0,
        gt=0.0,
        le=1e6,
        allow_inf_nan=False,
        description="softens the logits of both before they are compared",
    )
    beta: float = Field(
        default=1.0,
        ge=0.0,
        le=1e9,
        allow_inf_nan=False,
        description="weight of the relation between classes; of two it teaches nothing",
    )
    gamma: float = Field(
        default=1.0, ge=0.0, le=1e9, allow_inf_nan=False, description="weight of the relation within a class"
    )


class At(Weighted):
    """Attention transfer (Zagoruyko and Komodakis 2017) over named taps that student and teacher both have."""

    taps: tuple[str, ...] = Field(
        min_length=1, description='feature maps that are compared, such as ["enc2", "enc3", "mid"]'
    )


class SelfReg(Weighted):
    """SelfReg-UNet (Zhu et al. 2024); needs no teacher. `weight` is the paper's lambda."""

    weight: float = Field(
        default=0.015,
        ge=0.0,
        le=1e9,
        allow_inf_nan=False,
        description="factor of the term in the total loss; the paper's lambda",
    )


class LossTerms(Frozen):
    """The table `[run.losses]`: the terms that a run may use.

    Those that need a teacher are live only where `method` names them.
    """

    ce: Supervised | None = Field(default=None, description="cross-entropy")
    ohem: Ohem | None = Field(default=None, description="cross-entropy over the hard voxels")
    dice: Supervised | None = Field(default=None, description="soft Dice")
    bce_dice: BceDice | None = Field(
        default=None, alias="bce-dice", description="binary cross-entropy and Dice, mixed; two classes only"
    )
    kl: Kl | None = Field(default=None, description="distillation: soft labels")
    cwd: Cwd | None = Field(default=None, description="distillation: where in the image each class is likely")
    dist: Dist | None = Field(default=None, description="distillation: relations between and within classes")
    at: At | None = Field(default=None, description="distillation: attention over feature maps")
    selfreg: SelfReg | None = Field(
        default=None, description="a student learns from its own maps alone; needs no teacher"
    )

    def terms(self) -> dict[str, Weighted]:
        """The terms that the file lists, by the name that the file uses."""
        fields = type(self).model_fields
        fields_by_name = ((info.alias or name, getattr(self, name)) for name, info in fields.items())
        return {name: term for name, term in fields_by_name if term is not None}


NEEDS_TEACHER = frozenset({"kl", "cwd", "dist", "at"})
