"""The options of every loss, free of torch. `losses.build` builds what is named here; each file has its formula."""

from typing import Literal

from pydantic import Field

from models.config import Frozen


class Weighted(Frozen):
    """Any term: the total loss is the sum of weight times term."""

    weight: float = Field(default=1.0, ge=0.0, allow_inf_nan=False)


class Ohem(Weighted):
    """Cross-entropy over the hard voxels."""

    threshold: float = Field(
        default=0.7, gt=0.0, lt=1.0, description="voxels whose target probability is below it are hard"
    )
    min_share: float = Field(default=1 / 16, gt=0.0, le=1.0, description="least share of the valid voxels that is kept")


class BceDice(Weighted):
    """Binary cross-entropy and Dice, mixed; two classes only."""

    bce: float = Field(default=0.5, ge=0.0, le=1.0, description="share of the cross-entropy; the rest is Dice")


class Kl(Weighted):
    """Soft labels (Hinton et al. 2015)."""

    temperature: float = Field(default=4.0, gt=0.0)
    reduction: Literal["voxel-mean", "element-mean", "image-mean"] = "voxel-mean"


class Cwd(Weighted):
    """Channel-wise distillation (Shu et al. 2021) of the logits."""

    temperature: float = Field(default=4.0, gt=0.0)


class Dist(Weighted):
    """Relations between and within classes (Huang et al. 2022)."""

    temperature: float = Field(default=1.0, gt=0.0)
    beta: float = Field(default=1.0, ge=0.0, description="weight of the relation between classes")
    gamma: float = Field(default=1.0, ge=0.0, description="weight of the relation within a class")


class At(Weighted):
    """Attention transfer (Zagoruyko and Komodakis 2017) over named taps that student and teacher both have."""

    taps: tuple[str, ...] = Field(min_length=1)


class SelfReg(Weighted):
    """SelfReg-UNet (Zhu et al. 2024); needs no teacher. `weight` is the paper's lambda."""

    weight: float = Field(default=0.015, ge=0.0, allow_inf_nan=False)


class LossTerms(Frozen):
    """The table `[run.losses]`: the terms that a run may use.

    Those that need a teacher are live only where `method` names them.
    """

    ce: Weighted | None = None
    ohem: Ohem | None = None
    dice: Weighted | None = None
    bce_dice: BceDice | None = Field(default=None, alias="bce-dice")
    kl: Kl | None = None
    cwd: Cwd | None = None
    dist: Dist | None = None
    at: At | None = None
    selfreg: SelfReg | None = None

    def terms(self) -> dict[str, Weighted]:
        """The terms that the file lists, by the name that the file uses."""
        fields = type(self).model_fields
        found = ((info.alias or name, getattr(self, name)) for name, info in fields.items())
        return {name: term for name, term in found if term is not None}


NEEDS_TEACHER = frozenset({"kl", "cwd", "dist", "at"})
