"""The teacher that a run names: loaded frozen, and judged before any student learns from it.

How good it is on some data, and how well it knows that: Dice, calibration, and what it saw in its own training.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from loguru import logger

from models.output import Segmenter
from trainer.checkpoint import Weights
from trainer.cli.progress import InsideEpoch
from trainer.config import PictureData, PolypData, RunConfig, VolumeData
from trainer.data.dataset import DataSet, Part, cases_of, foreground_names
from trainer.data.perceptual_hash import alike as alike_pairs
from trainer.data.splits.near_duplicates import unpacked
from trainer.distributed.ranks import Ranks
from trainer.errors import CheckpointError
from trainer.evaluation.calibration import Calibration
from trainer.evaluation.metrics import Keep, counted, score, validate
from trainer.evaluation.per_image import scored_units
from trainer.teacher.open import AGAIN, OpenedTeacher, called, opened, ours, wanted
from trainer.teacher.probability_maps import StoredMaps


@dataclass(frozen=True)
class Judgement:
    """How good a teacher is on one part of the data, at native size."""

    dice: float
    """Foreground Dice, mean over images."""
    calibration: float | None
    """Expected calibration error of the chosen class, 0 to 1; None where it was not recorded."""
    entropy: float | None
    """Mean over pixels, nats; None where it was not recorded."""
    calibration_positive: float | None = None
    """Expected calibration error of the foreground, 0 to 1; None where it was not recorded."""


def judge(network: Segmenter, run: RunConfig, data: DataSet, ranks: Ranks) -> Judgement:
    """A teacher on validation. Every rank calls it."""
    calibration = Calibration(data, "validation", ranks)
    if isinstance(network, StoredMaps):
        dice = stored_dice(network, data, "validation", keep=calibration.hear, ranks=ranks)
    else:
        scores = validate(
            network,
            data,
            "validation",
            ranks=ranks,
            precision=run.precision,
            keep=calibration.hear,
            progress=_progress_lines(ranks, "validation", data),
        )
        dice = scores.means["dice"]
    return Judgement(dice, calibration.error(), calibration.entropy(), calibration.positive_error())


def train_dice(network: Segmenter, run: RunConfig, data: DataSet, ranks: Ranks) -> float:
    """Its Dice on the training images. Every rank calls it."""
    if isinstance(network, StoredMaps):
        return stored_dice(network, data, "train", keep=None, ranks=ranks)
    hears = _progress_lines(ranks, "training part", data)
    return validate(network, data, "train", ranks=ranks, precision=run.precision, progress=hears).means["dice"]


def _progress_lines(ranks: Ranks, what: str, data: DataSet) -> Callable[[int, int], None] | None:
    """The lead says how far the teacher is, where that takes long."""
    pulse = InsideEpoch(lambda line: logger.info("{}", line), about=lambda: "scoring the teacher")
    return scored_units(pulse, what, data.config) if ranks.leads else None


def stored_dice(network: StoredMaps, data: DataSet, part: Part, *, keep: Keep | None, ranks: Ranks) -> float:
    """The same of stored maps; the ranks take images or cases in turn."""
    samples = data.samples(part)
    counts = torch.zeros(len(samples), data.classes, 4, dtype=torch.int64, device=ranks.device)
    for index, logits in network.scored(part, ranks):
        truth = torch.from_numpy(data.native_mask(part, index).copy()).to(ranks.device)
        counts[index] = counted(logits[None], truth[None], data.regions)[0]
        if keep is not None:
            keep(index, logits)
    host = np.array(ranks.to_host(ranks.all_reduce(counts)).get()).reshape(counts.shape)
    return score(host, cases=cases_of(samples), regions=data.regions is not None).means["dice"]


_UNSEEN: tuple[Part, ...] = ("validation", "test")


@dataclass(frozen=True)
class Facts:
    """What is known of a teacher on some data."""

    name: str
    """Its file, or those of its members."""
    sha256: str
    """Over all that it is read from."""
    dice: float
    """Foreground Dice on validation."""
    measured: bool
    """Whether the Dice was measured just now; else it is the one recorded with the file for the same data."""
    train_dice: float | None
    """Dice on its own training images as recorded, or on those of the data; None where unknown."""
    trained_on: frozenset[str]
    """sha256 of the images that its files say it was trained on."""
    seen: Mapping[str, int] | None
    """How many validation and test images it was trained on; None where the file does not say."""
    alike: Mapping[str, int] | None
    """How many others are near-identical to one it was trained on; None where the file does not say."""
    calibration: float | None
    """Expected calibration error of the chosen class on validation; None where the file has a Dice without it."""
    calibration_positive: float | None
    """That of the foreground; None where the file has none."""
    entropy: float | None
    """Entropy of its class probabilities on validation, nats, mean over pixels; None as above."""
    notes: tuple[str, ...] = ()
    """What a reader should know of how its files were read."""

    def overlap_text(self) -> str:
        """One phrase on the images that must be new to it."""
        return overlap_text(self.seen, self.alike)


def load(run: RunConfig, data: DataSet, *, device: torch.device) -> Segmenter:
    """The teacher of a run: frozen, in evaluation mode, on the device.

    Raises CheckpointError in one line where its file is missing or was made for another network or other classes.
    """
    return opened(run, data, device=device).network


def facts(
    run: RunConfig,
    data: DataSet,
    *,
    ranks: Ranks | None = None,
    whole: bool = False,
    teacher: OpenedTeacher | None = None,
) -> Facts:
    """What is known of the run's teacher on the data; its Dice is measured where the file has none for the same data,
    size and fit. Every rank calls it. Raises CheckpointError, also where the file does not fit the network.

    whole: measure what is not recorded of the training images and of its confidence, too. teacher: the run's teacher
    where it is open already.
    """
    group = ranks or Ranks()
    teacher = teacher or opened(run, data, device=group.device)
    file = teacher.files[0] if len(teacher.files) == 1 else None
    recorded = None if file is None else _recorded(file, run, data)
    known = recorded
    if known is None or (whole and None in (known.entropy, known.calibration_positive)):
        known = judge(teacher.network, run, data, group)
    trained = None if file is None else (file.word("train") or {}).get("dice")
    if trained is None and whole:
        trained = train_dice(teacher.network, run, data, group)
    return Facts(
        name=called(wanted(run)),
        sha256=teacher.sha256,
        dice=known.dice,
        measured=known is not recorded,
        calibration=known.calibration,
        calibration_positive=known.calibration_positive,
        entropy=known.entropy,
        train_dice=float(trained) if trained is not None else None,
        trained_on=frozenset(image for file in teacher.files if file for image in file.word("train_images") or ()),
        seen=_together([None if file is None else seen(file, data) for file in teacher.files]),
        alike=_together([None if file is None else alike(file, data) for file in teacher.files]),
        notes=teacher.notes,
    )


def _together(members: Sequence[dict[str, int] | None]) -> dict[str, int] | None:
    """Images that some member was trained on, at least; None where none is known and some member does not say."""
    known = [counts for counts in members if counts is not None]
    most: dict[str, int] = {part: max((counts[part] for counts in known), default=0) for part in _UNSEEN}
    return most if any(most.values()) or len(known) == len(members) else None


def floor(
    run: RunConfig,
    data: DataSet,
    *,
    ranks: Ranks | None = None,
    whole: bool = False,
    teacher: OpenedTeacher | None = None,
) -> Facts:
    """The facts of a teacher that may be used, as `facts` finds them. Every rank calls it.

    Raises CheckpointError where its validation Dice is below `min_dice`, or where it was trained on validation or test
    images of the data, or on near-identical ones that the data's settings do not accept.
    """
    teacher = teacher or opened(run, data, device=(ranks or Ranks()).device)
    known = facts(run, data, ranks=ranks, whole=whole, teacher=teacher)
    if known.seen is not None and any(known.seen.values()):
        raise CheckpointError(
            f"{known.name}: was trained on {_counts(known.seen)} images of this data, so its scores there mean "
            f"nothing; train one on this split, in another file or over it: {AGAIN}"
        )
    accepted = isinstance(run.data, PolypData | PictureData) and run.data.near_duplicates == "accept"
    if known.alike is not None and any(known.alike.values()) and not accepted:
        raise CheckpointError(
            f"{known.name}: was trained on pictures near-identical to {_counts(known.alike)} images of this data, so "
            f"its scores there mean little; train one on this split, in another file or over it: {AGAIN}"
        )
    least = run.teacher.min_dice if run.teacher else 0.0
    if known.dice < least:
        how = "measured" if known.measured else "recorded"
        several = len(foreground_names(data))
        raise CheckpointError(
            f"teacher.min_dice = {least:g}: {known.name} has validation Dice {known.dice:.4f} ({how}); "
            f"{_remedy(several, _longer(run, teacher))}"
        )
    return known


def _remedy(several: int, longer: str) -> str:
    """What to do about a teacher below the floor. several: how many classes or regions its Dice is the mean of."""
    if several == 1:
        return f"{longer}, or lower min_dice"
    return f"lower min_dice (the mean over {several}, of which rare and small ones are learned late), or {longer}"


def _longer(run: RunConfig, teacher: OpenedTeacher | None) -> str:
    """How to get a better teacher. Its recipe trained again gives the same weights, so that more epochs are named."""
    if not ours(wanted(run)):
        return "choose a better one"
    file = None if teacher is None else teacher.files[0]
    epochs = None if file is None else (file.word("run") or {}).get("epochs")
    if epochs is None:
        return f"raise epochs in [teach] and train it: {AGAIN}"
    return f"train it longer than {epochs} epochs (epochs in [teach]): {AGAIN} --set teach.epochs={2 * int(epochs)}"


def _recorded(file: Weights, run: RunConfig, data: DataSet) -> Judgement | None:
    """What the file says of validation, where that was taken on the same images as now: pictures at the same size and
    fit, volumes by the same windows."""
    settings = (file.word("run") or {}).get("data", {})
    names = ("patch", "overlap", "weights") if isinstance(run.data, VolumeData) else ("size", "fit")
    own = run.data.model_dump(mode="json", include=set(names))
    same = all(settings.get(name) == own[name] for name in names)
    dice = (file.word("scores") or {}).get("dice")
    if dice is None or not same or file.word("data") != data.content_hash:
        return None
    known = (file.word(name) for name in ("calibration", "entropy", "calibration_positive"))
    return Judgement(float(dice), *known)


def overlap_text(seen: Mapping[str, int] | None, alike: Mapping[str, int] | None) -> str:
    """One phrase on how many validation and test images weights were trained on, or near-identical ones."""
    if seen is None:
        return "unknown which images it was trained on"
    if any(seen.values()):
        return f"trained on {_counts(seen)} images"
    if alike is None:
        return "trained on no validation or test image, unknown whether on near-identical ones"
    if any(alike.values()):
        return f"trained on no validation or test image, but on near-identical ones of {_counts(alike)}"
    return "trained on no validation or test image, nor on near-identical ones"


def _counts(images: Mapping[str, int]) -> str:
    return " and ".join(f"{count} {part}" for part, count in images.items() if count)


def seen(file: Weights, data: DataSet) -> dict[str, int] | None:
    """How many validation and test images of the data the weights were trained on; None where the file does not say."""
    trained = file.word("train_images")
    if trained is None:
        return None
    known = set(trained)
    return {part: sum(image in known for image in data.image_hashes(part)) for part in _UNSEEN}


def alike(file: Weights, data: DataSet) -> dict[str, int] | None:
    """How many validation and test images of the data are near-identical to one that the weights were trained on,
    without being the same file; None where the file does not say. Raises CheckpointError where it says nonsense.

    Slices of two bodies at one height are alike. Those of the data's own split were compared as volumes when it was
    opened (`trainer.data.splits.near_duplicates.twins`), and are left out.
    """
    trained = file.word("train_sketches")
    if trained is None:
        return None
    try:
        sketches = unpacked(trained)
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"train_sketches: damaged ({error}); train it anew: {AGAIN}") from error
    names = file.word("train_images") or ()
    known = set(names)
    if cases_of(data.samples("train")) is not None and len(names) == len(sketches):
        own = set(data.image_hashes("train"))
        sketches = [sketch for name, sketch in zip(names, sketches, strict=True) if name not in own]
    images: dict[str, int] = {}
    for part in _UNSEEN:
        new = [
            sketch
            for sketch, image in zip(data.sketches(part), data.image_hashes(part), strict=True)
            if image not in known
        ]
        images[part] = len({pair.second for pair in alike_pairs(sketches, new)})
    return images
