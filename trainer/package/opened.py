"""A package in a folder, opened: of pictures or of volumes, its sums checked, and all that it says of itself."""

import json
from dataclasses import replace
from pathlib import Path

from pydantic import ValidationError

from trainer.config.validation import explain
from trainer.errors import UserError
from trainer.package.inference import NETWORK, PREPROCESSING, Packed, Preprocessing, check_sums
from trainer.package.onnx_runtime import Session
from trainer.package.openvino_runtime import BFloat16Session
from trainer.package.volumes import PackedVolumes, VolumePreprocessing

OF_VOLUMES = (4, 6, 7, 9)
"""Schemas that are of volumes."""
NEWEST = 9


def open_package(folder: Path, *, device: str | None = None, threads: int | None = None) -> Packed | PackedVolumes:
    """The package in a folder, its sums checked. Raises UserError where it is none, or is not as it was written."""
    check_sums(folder)
    preprocessing = preprocessing_of(folder)
    session = _session(folder / NETWORK, preprocessing, device, threads)
    if isinstance(preprocessing, VolumePreprocessing):
        _refuse_other(folder, session, preprocessing, (preprocessing.channel_count, *preprocessing.patch))
        return PackedVolumes(preprocessing, session)
    side = preprocessing.size
    _refuse_other(folder, session, preprocessing, (preprocessing.channel_count, side, side))
    return Packed(preprocessing, session)


def _session(
    path: Path, preprocessing: Preprocessing | VolumePreprocessing, device: str | None, threads: int | None
) -> Session | BFloat16Session:
    """What computes the network. Raises UserError."""
    if preprocessing.computes is None:
        return Session(path, device=device, threads=threads)
    if device not in (None, "cpu"):
        raise UserError(f"--device {device}: the package computes in OpenVINO on the CPU; leave it out")
    session = BFloat16Session(path, threads=threads)
    session.note()
    return session


def preprocessing_of(folder: Path) -> Preprocessing | VolumePreprocessing:
    """What a package says of itself. Raises UserError."""
    path = folder / PREPROCESSING
    text = path.read_bytes()
    schema = _schema(text)
    if schema > NEWEST:
        raise UserError(f"{path}: schema = {schema}: newer than this program knows (1 to {NEWEST}); update kd-search")
    model = VolumePreprocessing if schema in OF_VOLUMES else Preprocessing
    try:
        return model.model_validate_json(text)
    except ValidationError as error:
        raise UserError(explain(error, str(path), model=model)) from error


def _schema(text: bytes) -> int:
    """The number that a document gives as its schema; 0 where it gives none."""
    try:
        document = json.loads(text)
    except ValueError:
        return 0
    schema = document.get("schema") if isinstance(document, dict) else None
    return schema if isinstance(schema, int) else 0


def _refuse_other(
    folder: Path,
    session: Session | BFloat16Session,
    preprocessing: Preprocessing | VolumePreprocessing,
    expected: tuple[int, ...],
) -> None:
    """Raise UserError where network and preprocessing do not fit."""
    if session.shape != expected:
        raise UserError(f"{folder}: the network takes {session.shape}, {PREPROCESSING} says {expected}")
    if session.classes not in (None, len(preprocessing.classes)):
        raise UserError(
            f"{folder}: the network gives {session.classes} classes, {PREPROCESSING} names "
            f"{len(preprocessing.classes)}; the package is not as `trainer package` writes it"
        )


def with_threshold(packed: Packed | PackedVolumes, threshold: float) -> Packed | PackedVolumes:
    """The same with another threshold. Raises UserError where there are more than two classes."""
    if not packed.preprocessing.least:
        count = len(packed.preprocessing.classes)
        raise UserError(f"--threshold {threshold:g}: the package has {count} classes; leave it out")
    change: dict[str, object] = {"threshold": threshold, "threshold_from": "given", "thresholds": None}
    if isinstance(packed, PackedVolumes):
        return replace(packed, preprocessing=packed.preprocessing.model_copy(update=change))
    return replace(packed, preprocessing=packed.preprocessing.model_copy(update=change))
