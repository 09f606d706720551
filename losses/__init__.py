"""Losses by name. Free of torch until one is built."""

from collections.abc import Collection, Mapping
from importlib import import_module
from typing import TYPE_CHECKING

from losses.config import Supervised, Weighted
from models.nearest import nearest

if TYPE_CHECKING:
    from losses.term import Loss
    from models.output import Taps

LOSSES: Mapping[str, str] = {
    "ce": "losses.ce:CrossEntropy",
    "ohem": "losses.ohem:HardCrossEntropy",
    "dice": "losses.dice:Dice",
    "ce-dice": "losses.ce_dice:CeDice",
    "bce-dice": "losses.bce_dice:BceDice",
    "structure": "losses.structure:StructureLoss",
    "kl": "losses.kl:SoftLabels",
    "cwd": "losses.cwd:ChannelWise",
    "dist": "losses.dist:Relations",
    "at": "losses.at:AttentionTransfer",
    "mse": "losses.mse:SquaredDifference",
    "dice-kl": "losses.dice_kl:DiceAndSoftLabels",
    "nkd": "losses.nkd:NormalisedDistillation",
    "dkd": "losses.dkd:DecoupledDistillation",
    "skd-pixel": "losses.skd_pixel:PixelCrossEntropy",
    "skd-pair": "losses.skd_pair:PairwiseSimilarity",
    "ifvd": "losses.ifvd:FeatureVariation",
    "cwd-features": "losses.cwd_features:ChannelWiseFeatures",
    "acfd": "losses.acfd:AttentionCorrected",
    "boundary-hard": "losses.boundary_hard:HardBoundary",
    "boundary-soft": "losses.boundary_soft:SoftBoundary",
    "cirkd-pixel": "losses.cirkd_pixel:PixelRelations",
    "cirkd-memory": "losses.cirkd_memory:PixelMemory",
    "cirkd-region": "losses.cirkd_memory:RegionMemory",
    "selfreg": "losses.selfreg:SelfRegularisation",
}
"""Name in a study file -> module:class. Every class has the constructor of `losses.term.Loss`."""


def build(
    name: str,
    config: Weighted,
    *,
    student: "Taps",
    teacher: "Taps | None",
    classes: int,
    regions: bool = False,
    dims: int = 2,
    heads: int = 0,
) -> "Loss":
    """The loss `name` between a student and a teacher with these taps (no teacher: None).

    classes, regions, dims: as `losses.term.Loss` has them. heads: how many heads of deep supervision the student has;
    a loss reads them where its configuration says so, else the logits alone. `config.weight` is the caller's to apply.
    Raises ValueError in one line where the loss cannot work with these networks or with this kind of target.
    """
    if name not in LOSSES:
        raise ValueError(f"losses.{name}: unknown loss{nearest(name, LOSSES)}")
    module, _, attribute = LOSSES[name].partition(":")
    kind: type[Loss] = getattr(import_module(module), attribute)
    if kind.needs_teacher and teacher is None:
        raise ValueError(
            f"losses.{name}: compares with a teacher, and there is none; add [run.teacher] or drop the term"
        )
    if regions and not kind.handles_regions:
        remedy = "drop it" if kind.needs_teacher else "use bce-dice or dice"
        raise ValueError(f"losses.{name}: compares one label a voxel, and the data has regions that overlap; {remedy}")
    if dims not in kind.handles_dims:
        known = ", ".join(map(str, sorted(kind.handles_dims)))
        raise ValueError(f"losses.{name}: dims = {dims}: works in {known} dimensions; drop the term")
    loss = kind(config, student=student, teacher=teacher, classes=classes, regions=regions, dims=dims)
    _check_taps(name, "student", loss.student_taps(), student)
    _check_taps(name, "teacher", loss.teacher_taps(), teacher or {})
    if isinstance(config, Supervised) and config.heads is not None:
        from losses.deep_supervision import DeepSupervision

        return DeepSupervision(loss, heads=_head_weights(name, config.heads, heads), main=config.main)
    return loss


def _head_weights(name: str, given: "float | tuple[float, ...]", heads: int) -> tuple[float, ...]:
    """A weight for each head. Raises ValueError where the student has none, or another number."""
    place = f"losses.{name}.heads = {given if isinstance(given, float) else list(given)}"
    if heads == 0:
        raise ValueError(
            f"{place}: the student has no heads of deep supervision; set its deep_supervision, choose a network that "
            f"has them, or drop heads"
        )
    if isinstance(given, float):
        return (given,) * heads
    if len(given) != heads:
        raise ValueError(f"{place}: {len(given)} weights for {heads} heads; give as many, or one number for all")
    return given


def _check_taps(name: str, role: str, wanted: Collection[str], taps: "Taps") -> None:
    for tap in sorted(wanted):
        if tap not in taps:
            raise ValueError(f"losses.{name}.taps: the {role} has no tap {tap!r}{nearest(tap, taps)}")
