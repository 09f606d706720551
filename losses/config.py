"""The options of every loss, free of torch. `losses.build` builds what is named here; each file has its formula."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from losses.presets import PairsPreset, Resize, fill
from models.config import Frozen


class Weighted(Frozen):
    """Any term: the total loss is the sum of weight times term."""

    weight: float = Field(
        default=1.0, ge=0.0, le=1e9, allow_inf_nan=False, description="factor of the term in the total loss"
    )


Temperature = Annotated[float, Field(gt=0.0, le=1e6, allow_inf_nan=False)]
Factor = Annotated[float, Field(ge=0.0, le=1e9, allow_inf_nan=False)]
"""Of a part of a term."""
TapPair = str | tuple[str, str]
"""A tap that both networks have, or one of the student and one of the teacher; "logits" are the logits."""
TapPairs = Annotated[tuple[TapPair, ...], Field(min_length=1)]
RESIZE = (
    "maps of unlike sizes: none refuses them; average: the larger is averaged down to the smaller; nearest-teacher: "
    "the teacher's takes the student's size by nearest neighbours; nearest-student: the other way round"
)
PAIRS = 'maps that are compared: a name of both, or a pair [student, teacher], such as ["enc2", ["mid", "enc5"]]'
OR_PRESET = "; or those that ACF-BCKD has with its teachers residual U-Net (t1) and SegResNet (t2)"

HeadWeight = Annotated[float, Field(ge=0.0, le=1e9, allow_inf_nan=False)]


class Paired(Weighted):
    """A term whose pairs of taps may be a preset of `losses.presets`, there under the name `loss`; it stands for
    `resize` and `residuals` too, where those are not given."""

    def __init_subclass__(cls, *, loss: str, **options: Any) -> None:
        cls._loss = loss
        super().__init_subclass__(**options)

    _loss: ClassVar[str]

    @model_validator(mode="after")
    def _preset_fills(self) -> Self:
        fill(self, self._loss)
        return self


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


ClassWeight = Annotated[float, Field(ge=0.0, le=1e9, allow_inf_nan=False)]


class Ce(Supervised):
    """Cross-entropy."""

    class_weights: Literal["balanced"] | tuple[ClassWeight, ...] | None = Field(
        default=None,
        exclude_if=lambda weights: weights is None,  # runs of before, and their hashes, have no such key
        description="what a voxel of each class counts, the background first; balanced: all voxels / (classes * voxels "
        "of the class), counted on the training part; none: all voxels alike",
    )

    @model_validator(mode="after")
    def _some_class_counts(self) -> Self:
        if isinstance(self.class_weights, tuple) and not any(self.class_weights):
            raise ValueError(f"class_weights = {list(self.class_weights)}: no class counts; give one above 0")
        return self


class Ohem(Supervised):
    """Cross-entropy over the hard voxels."""

    threshold: float = Field(
        default=0.7, gt=0.0, lt=1.0, description="voxels whose target probability is below it are hard"
    )
    min_share: float = Field(default=1 / 16, gt=0.0, le=1.0, description="least share of the valid voxels that is kept")


DiceForm = Literal["image", "batch", "batch-squared", "sigmoid"]
FORMS = (
    "image: per image and class, as MONAI has it; batch: sums over the batch, as Awesome U-Net; batch-squared: the "
    "same with squares in the denominator, as TransUNet and SelfReg; sigmoid: one sum over all foreground"
)


class Dice(Supervised):
    """Soft Dice."""

    form: DiceForm = Field(
        default="image",
        exclude_if=lambda form: form == "image",  # runs of before, and their hashes, have no such key
        description=FORMS,
    )


class CeDice(Supervised):
    """Cross-entropy and Dice, mixed; any number of classes."""

    ce: float = Field(default=0.5, ge=0.0, le=1.0, description="share of the cross-entropy; the rest is Dice")
    form: DiceForm = Field(default="image", description=f"the Dice: {FORMS}")


class Structure(Supervised):
    """Structure loss (Fan et al. 2020, PraNet); two classes or regions."""

    window: int = Field(
        default=31, ge=3, le=255, description="odd side of the window in which a voxel's label is compared with others"
    )
    bce: Literal["weighted", "plain"] = Field(
        default="weighted",
        description="weighted: as the paper has it; plain: the cross-entropy has no weights, as its code ran",
    )


class BceDice(Supervised):
    """Binary cross-entropy and Dice, mixed; two classes or regions."""

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


class At(Paired, loss="at"):
    """Attention transfer (Zagoruyko and Komodakis 2017) over named taps that student and teacher both have."""

    taps: TapPairs | PairsPreset = Field(description=PAIRS + OR_PRESET)
    resize: Resize = Field(
        default="average", exclude_if=lambda resize: resize == "average", description=RESIZE
    )  # runs of before, and their hashes, have no such key


class Mse(Weighted):
    """Squared difference of logits or of their sigmoids."""

    of: Literal["logits", "sigmoids"] = Field(default="logits", description="what is compared")


class DiceKl(Weighted):
    """Dice of the labels and soft labels, mixed."""

    alpha: float = Field(default=0.5, ge=0.0, le=1.0, description="share of the soft labels; the rest is Dice")
    temperature: Temperature = Field(default=4.0, description="softens the logits of both before they are compared")


class Nkd(Weighted):
    """Normalised distillation (Yang et al. 2023)."""

    temperature: Temperature = Field(default=1.0, description="softens the classes that are not the label")
    gamma: Factor = Field(default=1.5, description="weight of those classes; of two it teaches nothing")


class Dkd(Weighted):
    """Decoupled distillation (Zhao et al. 2022)."""

    temperature: Temperature = Field(default=4.0, description="softens the logits of both before they are compared")
    alpha: Factor = Field(default=1.0, description="weight of how sure the teacher is of the label")
    beta: Factor = Field(default=8.0, description="weight of the other classes; of two it teaches nothing")
    warmup: int = Field(
        default=0,
        ge=0,
        le=1_000_000,
        description="epochs over which the term grows to its weight; 0: at once",
    )


class SkdPixel(Weighted):
    """Structured distillation by voxel (Liu et al. 2019)."""

    weight: float = Field(default=10.0, ge=0.0, le=1e9, allow_inf_nan=False, description="factor of the term")
    reduction: Literal["voxel-mean", "batch-sum"] = Field(
        default="voxel-mean",
        description="what the cross-entropy is divided by: all valid voxels, or those of one image, as published",
    )


class SkdPair(Paired, loss="skd-pair"):
    """Structured distillation by pairs of places (Liu et al. 2019)."""

    taps: TapPairs | PairsPreset = Field(description=PAIRS + OR_PRESET)
    scale: float = Field(
        default=0.5, ge=1 / 64, le=1.0, description="side of a pooled window as a share of the map: 0.5 gives 2 an axis"
    )
    resize: Resize = Field(default="none", description=RESIZE)


class Ifvd(Paired, loss="ifvd"):
    """Variation of features within a class (Wang et al. 2020)."""

    weight: float = Field(default=200.0, ge=0.0, le=1e9, allow_inf_nan=False, description="factor of the term")
    taps: TapPairs | PairsPreset = Field(description=PAIRS + OR_PRESET)
    resize: Resize = Field(default="none", description=RESIZE)


class CwdFeatures(Weighted):
    """Channel-wise distillation (Shu et al. 2021) of feature maps."""

    weight: float = Field(default=50.0, ge=0.0, le=1e9, allow_inf_nan=False, description="factor of the term")
    taps: TapPairs = Field(description=PAIRS)
    temperature: Temperature = Field(
        default=4.0, description="softens each channel's map before it becomes a distribution over places"
    )
    resize: Resize = Field(default="none", description=RESIZE)
    adapter: Literal["none", "conv"] = Field(
        default="none",
        description="unlike channels: none refuses them; conv: a learned 1x1 convolution of the student's map, which "
        "trains with the student and is not exported",
    )


class Acfd(Paired, loss="acfd"):
    """Attention-corrected features (Yu et al. 2025, ACF-BCKD)."""

    taps: TapPairs | PairsPreset = Field(description=PAIRS + OR_PRESET)
    residuals: tuple[str, ...] | None = Field(
        default=None,
        description="for each pair the teacher's tap that the attention itself is compared with, the branch of a "
        "residual unit before it is added; none: that of the pair",
    )
    alpha: Factor = Field(default=25_000.0, description="weight of the corrected features")
    beta: Factor = Field(default=25_000.0, description="weight of the attention itself")
    resize: Resize = Field(default="none", description=RESIZE)


class Balanced(Weighted):
    """A term with a share that moves from epoch to epoch, from hard to soft boundaries."""

    floor: float = Field(
        default=0.5, ge=0.0, le=1.0, description="the hard boundaries' share in the end; it begins at 1"
    )
    gamma: float | None = Field(
        default=None,
        ge=0.0,
        le=1.0,
        description="by how much their share falls each epoch; none: evenly over the run, to the floor",
    )


class BoundaryHard(Balanced):
    """Hard boundaries (Yu et al. 2025, ACF-BCKD)."""

    reduction: Literal["image-mean", "batch-sum"] = Field(
        default="image-mean", description="whether images are averaged, or added up, as published"
    )


class BoundarySoft(Balanced):
    """Soft boundaries (Yu et al. 2025, ACF-BCKD)."""


class CirkdPixel(Paired, loss="cirkd"):
    """Relations between the voxels of a batch (Yang et al. 2022, CIRKD)."""

    taps: TapPairs | PairsPreset = Field(description=PAIRS + OR_PRESET)
    temperature: Temperature = Field(default=0.1, description="divides the cosines; ACF-BCKD has 1")
    grid: int = Field(
        default=16, ge=1, le=64, description="maps are averaged down to at most so many places an axis first"
    )
    images: Literal["all", "first"] = Field(default="all", description="of a rank's part of the batch")
    resize: Resize = Field(default="none", description=RESIZE)


class CirkdMemory(Paired, loss="cirkd"):
    """Relations to voxels or means of earlier steps (Yang et al. 2022, CIRKD)."""

    weight: float = Field(default=0.1, ge=0.0, le=1e9, allow_inf_nan=False, description="factor of the term")
    tap: TapPair = Field(description="a map: a name of both, a pair [student, teacher], acf-bckd-t1 or acf-bckd-t2")
    temperature: Temperature = Field(default=0.1, description="divides the cosines")
    grid: int = Field(
        default=16, ge=1, le=64, description="maps are averaged down to at most so many places an axis first"
    )
    queue: int | None = Field(
        default=None, ge=1, le=100_000, description="vectors that are kept of a class; none: 20000 voxels or 2000 means"
    )
    contrast: int | None = Field(
        default=None, ge=1, le=100_000, description="vectors of a step's sample over all classes; none: 4096 or 1024"
    )
    resize: Resize = Field(default="none", description=RESIZE)


class SelfReg(Weighted):
    """SelfReg-UNet (Zhu et al. 2024); needs no teacher. `weight` is the paper's lambda."""

    weight: float = Field(
        default=0.015,
        ge=0.0,
        le=1e9,
        allow_inf_nan=False,
        description="factor of the term in the total loss; the paper's lambda",
    )


def _is_absent(term: Weighted | None) -> bool:
    """Of terms that came later: runs of before, and their hashes, have no key of them, not even a null."""
    return term is None


class LossTerms(Frozen):
    """The table `[run.losses]`: the terms that a run may use.

    Those that need a teacher are live only where `method` names them.
    """

    ce: Ce | None = Field(default=None, description="cross-entropy")
    ohem: Ohem | None = Field(default=None, description="cross-entropy over the hard voxels")
    dice: Dice | None = Field(default=None, description="soft Dice")
    ce_dice: CeDice | None = Field(
        default=None, exclude_if=_is_absent, alias="ce-dice", description="cross-entropy and Dice, mixed"
    )
    structure: Structure | None = Field(
        default=None,
        exclude_if=_is_absent,
        description="cross-entropy and intersection over union, weighted near borders; two classes or regions",
    )
    bce_dice: BceDice | None = Field(
        default=None, alias="bce-dice", description="binary cross-entropy and Dice, mixed; two classes or regions"
    )
    kl: Kl | None = Field(default=None, description="distillation: soft labels")
    cwd: Cwd | None = Field(default=None, description="distillation: where in the image each class is likely")
    dist: Dist | None = Field(default=None, description="distillation: relations between and within classes")
    at: At | None = Field(default=None, description="distillation: attention over feature maps")
    mse: Mse | None = Field(
        default=None, exclude_if=_is_absent, description="distillation: squared difference of logits or sigmoids"
    )
    dice_kl: DiceKl | None = Field(
        default=None,
        exclude_if=_is_absent,
        alias="dice-kl",
        description="distillation: Dice of the labels and soft labels, mixed",
    )
    nkd: Nkd | None = Field(
        default=None, exclude_if=_is_absent, description="distillation: the label's class apart from the others"
    )
    dkd: Dkd | None = Field(
        default=None,
        exclude_if=_is_absent,
        description="distillation: how sure the teacher is of the label, apart from the other classes",
    )
    skd_pixel: SkdPixel | None = Field(
        default=None,
        exclude_if=_is_absent,
        alias="skd-pixel",
        description="distillation: soft cross-entropy of each voxel",
    )
    skd_pair: SkdPair | None = Field(
        default=None,
        exclude_if=_is_absent,
        alias="skd-pair",
        description="distillation: how alike places of a feature map are",
    )
    ifvd: Ifvd | None = Field(
        default=None,
        exclude_if=_is_absent,
        description="distillation: how far a voxel's features are from the mean of its class",
    )
    cwd_features: CwdFeatures | None = Field(
        default=None,
        exclude_if=_is_absent,
        alias="cwd-features",
        description="distillation: where in the image each feature is strong",
    )
    acfd: Acfd | None = Field(
        default=None, exclude_if=_is_absent, description="distillation: feature maps, corrected by a learned attention"
    )
    boundary_hard: BoundaryHard | None = Field(
        default=None,
        exclude_if=_is_absent,
        alias="boundary-hard",
        description="distillation: soft labels along the labels' boundaries; weighs less from epoch to epoch",
    )
    boundary_soft: BoundarySoft | None = Field(
        default=None,
        exclude_if=_is_absent,
        alias="boundary-soft",
        description="distillation: how far the student's boundaries are from the teacher's; weighs more each epoch",
    )
    cirkd_pixel: CirkdPixel | None = Field(
        default=None,
        exclude_if=_is_absent,
        alias="cirkd-pixel",
        description="distillation: how alike the voxels of a batch's images are",
    )
    cirkd_memory: CirkdMemory | None = Field(
        default=None,
        exclude_if=_is_absent,
        alias="cirkd-memory",
        description="distillation: how alike voxels are to the teacher's of earlier steps",
    )
    cirkd_region: CirkdMemory | None = Field(
        default=None,
        exclude_if=_is_absent,
        alias="cirkd-region",
        description="distillation: how alike voxels are to the teacher's means of a class in earlier steps",
    )
    selfreg: SelfReg | None = Field(
        default=None, description="a student learns from its own maps alone; needs no teacher"
    )

    def terms(self) -> dict[str, Weighted]:
        """The terms that the file lists, by the name that the file uses."""
        fields = type(self).model_fields
        fields_by_name = ((info.alias or name, getattr(self, name)) for name, info in fields.items())
        return {name: term for name, term in fields_by_name if term is not None}


IDLE_WITH_TWO_CLASSES: Mapping[str, str] = {
    "dist": "with two classes only the relation within a class teaches",
    "nkd": "with two classes there is no other class to compare: gamma and temperature have no effect, and what is "
    "left is a cross-entropy that weighs each voxel by the teacher's probability of its label",
    "dkd": "with two classes there is no other class to compare: beta has no effect, what is left is alpha times kl",
}
"""Term -> what of it teaches nothing where there are two classes."""
ONE_LABEL = frozenset({"ce", "ohem", "ce-dice", "nkd", "dkd", "ifvd", "cirkd-memory", "cirkd-region"})
"""Terms that compare one label a voxel, with a softmax or a mean of each class. All others take regions, which overlap,
too: where they read logits, as a sigmoid each."""
NEEDS_TEACHER = frozenset(
    {
        *("kl", "cwd", "dist", "at", "mse", "dice-kl", "nkd", "dkd"),
        *("skd-pixel", "skd-pair", "ifvd", "cwd-features", "acfd", "boundary-hard", "boundary-soft"),
        *("cirkd-pixel", "cirkd-memory", "cirkd-region"),
    }
)
