"""The teacher that a run names: loaded frozen, and judged before anything listens to it."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import models
from models.config import TeacherConfig
from models.output import Segmenter
from trainer import checkpoint
from trainer.checkpoint import CheckpointError, Weights
from trainer.config import RunConfig
from trainer.data.dataset import DataSet, Part
from trainer.errors import received
from trainer.ranks import Ranks
from trainer.scores import validate

TEACH = "python -m trainer teach FILE"
_UNSEEN: tuple[Part, ...] = ("validation", "test")
_ELSEWHERE = frozenset({"checkpoint", "min_dice", "weights"})
"""Options that say where a network's weights come from, not what the network is."""


@dataclass(frozen=True)
class Facts:
    """What is known of a teacher on some data."""

    path: Path
    sha256: str
    dice: float
    """Foreground Dice on validation."""
    measured: bool
    """Whether the Dice was measured just now; else it is the one recorded with the file for the same data."""
    train_dice: float | None
    """Dice on its own training images as recorded; None where unknown."""
    seen: Mapping[str, int] | None
    """How many validation and test images it was trained on; None where the file does not say."""

    def seen_words(self) -> str:
        """One phrase on the images that must be new to it."""
        if self.seen is None:
            return "unknown which images it was trained on"
        return "trained on no validation or test image"


def located(config: TeacherConfig | None) -> Path:
    """Where the teacher's file lies; $VARIABLES and ~ are filled in. Raises CheckpointError where none is named."""
    if config is None:
        raise CheckpointError("teacher: missing; add [run.teacher] or set method to none")
    if config.checkpoint is None:
        raise CheckpointError(f"teacher.checkpoint: missing; name the file that `{TEACH}` writes")
    return Path(os.path.expandvars(config.checkpoint)).expanduser()


def fingerprint(path: Path) -> str:
    """sha256 of the file. Raises CheckpointError where there is none."""
    return checkpoint.digest(path)


def load(run: RunConfig, data: DataSet, *, device: torch.device) -> Segmenter:
    """The teacher of a run: frozen, in evaluation mode, on the device.

    Raises CheckpointError in one line where its file is missing or was made for another network or other classes.
    """
    return _network(run, _weights(run), data, device)


def facts(run: RunConfig, data: DataSet, *, ranks: Ranks | None = None) -> Facts:
    """What is known of the run's teacher on the data; its Dice is measured where the file has none for the same data,
    size and fit. Every rank calls it. Raises CheckpointError, also where the file does not fit the network."""
    file, group = _weights(run), ranks or Ranks()
    network = _network(run, file, data, group.device)
    recorded = _recorded_dice(file, run, data)
    dice = recorded if recorded is not None else _measure(run, network, data, group)
    train = (file.word("train") or {}).get("dice")
    return Facts(
        path=located(run.teacher),
        sha256=file.sha256,
        dice=dice,
        measured=recorded is None,
        train_dice=float(train) if train is not None else None,
        seen=seen(file, data),
    )


def floor(run: RunConfig, data: DataSet, *, ranks: Ranks | None = None) -> Facts:
    """The facts of a teacher that may be used. Every rank calls it.

    Raises CheckpointError where its validation Dice is below `min_dice`, or where it was trained on validation or test
    images of the data.
    """
    known = facts(run, data, ranks=ranks)
    if known.seen is not None and any(known.seen.values()):
        counts = " and ".join(f"{count} {part}" for part, count in known.seen.items() if count)
        raise CheckpointError(
            f"{known.path}: was trained on {counts} images of this data, so its scores there mean nothing; "
            f"train one on this split: {TEACH}"
        )
    least = run.teacher.min_dice if run.teacher else 0.0
    if known.dice < least:
        how = "measured" if known.measured else "recorded"
        raise CheckpointError(
            f"teacher.min_dice = {least:g}: {known.path} has validation Dice {known.dice:.4f} ({how}); "
            f"train a better one: {TEACH}, or lower min_dice"
        )
    return known


def _weights(run: RunConfig) -> Weights:
    path = located(run.teacher)
    if not path.is_file():
        raise CheckpointError(f"teacher.checkpoint = {str(path)!r}: no such file; train it: {TEACH}")
    return checkpoint.weights(path)


def _network(run: RunConfig, file: Weights, data: DataSet, device: torch.device) -> Segmenter:
    config, path = run.teacher, located(run.teacher)
    if config is None:
        raise CheckpointError("teacher: missing; add [run.teacher] or set method to none")
    _same(path, "network", _options(config.model_dump(mode="json")), _options(file.word("network")))
    _same(path, "classes", data.classes, file.word("classes"))
    _same(path, "channels", data.channels, file.word("channels"))
    try:
        network = models.build(config, in_channels=data.channels, classes=data.classes)
    except ValueError as error:
        raise CheckpointError(str(error)) from error
    checkpoint.fill(network, file.tensors, path)
    return network.requires_grad_(False).eval().to(device)


def _options(network: Mapping[str, Any] | None) -> dict[str, Any] | None:
    if network is None:
        return None
    return {name: value for name, value in network.items() if name not in _ELSEWHERE}


def _same(path: Path, what: str, expected: object, found: object) -> None:
    """Raise CheckpointError where the file says something else; a file that says nothing is judged by its tensors."""
    if found is not None and found != expected:
        raise CheckpointError(
            f"{path}: {what} is {received(found)}, but the run has {received(expected)}; "
            f"change [run.teacher] or train it anew: {TEACH}"
        )


def _recorded_dice(file: Weights, run: RunConfig, data: DataSet) -> float | None:
    """The validation Dice in the file, where it was taken on the same images at the same size and fit."""
    settings = (file.word("run") or {}).get("data", {})
    same = (settings.get("size"), settings.get("fit")) == (run.data.size, run.data.fit)
    dice = (file.word("scores") or {}).get("dice")
    return float(dice) if dice is not None and same and file.word("data") == data.content_hash else None


def _measure(run: RunConfig, network: Segmenter, data: DataSet, ranks: Ranks) -> float:
    return validate(network, data, "validation", ranks=ranks, precision=run.precision).means["dice"]


def seen(file: Weights, data: DataSet) -> dict[str, int] | None:
    """How many validation and test images of the data the weights were trained on; None where the file does not say."""
    trained = file.word("train_images")
    if trained is None:
        return None
    known = set(trained)
    return {part: sum(image in known for image in data.image_hashes(part)) for part in _UNSEEN}
