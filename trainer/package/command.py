"""`python -m trainer package`: a folder with all that is needed to use a trained network elsewhere, checked."""

import os
import shutil
from argparse import Namespace
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from loguru import logger

from trainer.atomic_files import halves
from trainer.cli.progress import Counting, counted_items
from trainer.config import PictureData, RunConfig, VolumeData
from trainer.data.classes import (
    TWO_CLASSES,
    bits_of,
    classes_of,
    dims_of,
    hexadecimal,
    numbered,
    opening_work,
    size_of,
)
from trainer.data.dataset import Picture, by_threshold
from trainer.data.masks import regions_of
from trainer.data.volumes.prepare import made_case
from trainer.errors import UserError, refusal_text
from trainer.package.inference import (
    CARD,
    CHANNELS,
    DEFAULT_THRESHOLD,
    FILES,
    NETWORK,
    PARITY,
    PREPROCESSING,
    RUN,
    SUMS,
    WEIGHTS,
    Packed,
    Preprocessing,
    Source,
    document,
    labels,
    sums,
)
from trainer.package.model_card import Confirmation, PackageFacts, card, data_facts, describe_run
from trainer.package.onnx_runtime import Session, need
from trainer.package.openvino_runtime import need_openvino
from trainer.package.precision import MARGIN, LowPrecision
from trainer.package.volumes import PackedVolumes, VolumePreprocessing, codes_of, volume_preprocessing

if TYPE_CHECKING:
    from trainer.checkpoint import Ready
    from trainer.data import DataSet
    from trainer.data.sets.volumes import VolumeCases
    from trainer.data.volumes.case import PreparedCase
    from trainer.package.lower_precision import Judged, Lowered
    from trainer.package.onnx_runtime import Floats
    from trainer.package.parity import Parity
    from trainer.package.volume_parity import VolumeParity

MOST_PICTURES = 64
"""Validation pictures on which a package is compared with torch, spread evenly over all."""
MOST_CASES = 8
"""The same of volumes."""


@dataclass(frozen=True)
class Wish:
    """What is to be packed."""

    weights: Path
    folder: Path
    cache: Path
    thresholds: tuple[float, ...] = ()
    """One, or one a region; none: DEFAULT_THRESHOLD where there are two classes, or regions."""
    threshold_from: Source = "default"
    data: RunConfig | None = None
    """A run whose data counts; None: that of the weights."""
    confirmation: Confirmation | None = None
    precision: LowPrecision | None = None
    """None: float32."""
    margin: float | None = None
    """Dice that a lower precision may lose; None: the usual."""


def main(args: Namespace) -> int:
    """Write the package and say what was compared. Raises UserError, CheckpointError, DataError."""
    from trainer.run_file import read

    if args.set and args.data is None:
        raise UserError(f"--set {args.set[0]}: needs --data FILE, the study or run that it changes")
    wish = Wish(
        weights=args.weights,
        folder=args.folder,
        cache=args.cache,
        thresholds=() if args.threshold is None else (args.threshold,),
        threshold_from="default" if args.threshold is None else "given",
        data=None if args.data is None else read(args.data, sets=args.set).run,
        precision=None if args.precision == "fp32" else args.precision,
        margin=args.margin,
    )
    for line in package(wish):
        print(line)
    return 0


def package(wish: Wish) -> list[str]:
    """Write a package beside its place and rename it; returns what there is to say of it.

    Raises UserError where the folder is there already, the `onnx` extra is absent, or network and ONNX file disagree;
    CheckpointError and DataError for weights and data that cannot be used. Nothing is left behind then.
    """
    import torch

    from trainer.checkpoint import ready, refuse_other_data
    from trainer.data import open_data

    _refuse(wish)
    need("onnx", "onnxscript", "onnxruntime")
    if wish.precision == "bf16":
        need_openvino()
    made = ready(wish.weights, device=torch.device("cpu"))
    run = wish.data or made.run
    refuse_other_data(made, run.data)
    data = open_data(run.data, cache=wish.cache, progress=Counting(opening_work(run.data)))
    beside = wish.folder.with_name(f".{wish.folder.name}.{os.getpid()}.part")
    try:
        beside.mkdir(parents=True)
        lines = _fill(beside, wish, made, data)
        _settle(beside)
        # A folder that came meanwhile and holds anything is an error here.
        beside.rename(wish.folder)
    except OSError as error:
        why = refusal_text(error)
        raise UserError(f"{wish.folder}: cannot be written ({why}); nothing was left there") from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return [f"{wish.folder}  {' '.join((*FILES, SUMS))}", *lines]


def refuse_existing(folder: Path) -> None:
    """Raise UserError where a package would be written over something."""
    if folder.exists():
        raise UserError(f"{folder}: is there already, and a package is never written over; name another folder")


def _refuse(wish: Wish) -> None:
    refuse_existing(wish.folder)
    for rest in halves(wish.folder):
        logger.warning("{}: half a package, of a command that was killed or still runs; it may be removed", rest)
    wrong = [each for each in wish.thresholds if not 0 < each < 1]
    if wrong:
        raise UserError(f"--threshold {wrong[0]:g}: a probability between 0 and 1, without both")
    if wish.margin is not None and wish.precision is None:
        raise UserError(f"--margin {wish.margin:g}: has no effect without --precision int8, fp16 or bf16; leave it out")
    if wish.margin is not None and not 0 <= wish.margin <= 1:
        raise UserError(f"--margin {wish.margin:g}: Dice that may be lost, 0 to 1")


def _fill(folder: Path, wish: Wish, made: "Ready", data: "DataSet") -> list[str]:
    """All files; what is to be said of them."""
    from trainer.package.onnx_export import export

    shutil.copyfile(wish.weights, folder / WEIGHTS)
    _write(folder / RUN, made.run.model_dump_json(indent=1) + "\n")
    p = _preprocessing(wish, made, data.channels)
    _write(folder / PREPROCESSING, document(p.model_dump(mode="json")))
    logger.info("{}: writing the ONNX file", wish.folder)
    export(made.network, folder / NETWORK, channels=data.channels, size=size_of(made.run.data))
    if isinstance(p, Preprocessing):
        parity: Parity | VolumeParity = _compared(folder, made, data, p)
    else:
        parity = _compared_volumes(folder, made, data, p)
    lowered = None
    if wish.precision is not None:
        lowered = _lowered(folder, wish, wish.precision, data, p)
        p = computed_by(p, wish.precision)
        _write(folder / PREPROCESSING, document(p.model_dump(mode="json")))
    shipped = {"precision": "float32"} if lowered is None else lowered.facts()
    _write(folder / PARITY, document({**parity.facts(), **({} if lowered is None else {"shipped": shipped})}))
    _write(folder / CARD, card(replace(_facts(made, data, p, parity), lowered=lowered), wish.confirmation))
    _write(folder / SUMS, sums(folder, FILES))
    known = "confirmed" if wish.confirmation else "unconfirmed: its scores are of validation images"
    return [parity.sentence(), *([] if lowered is None else [lowered.sentence()]), known]


def computed_by(p: Preprocessing | VolumePreprocessing, precision: LowPrecision) -> Preprocessing | VolumePreprocessing:
    """The same for a network that another engine than onnxruntime computes."""
    if precision != "bf16":
        return p
    schema = 8 if isinstance(p, Preprocessing) else 9
    return type(p).model_validate({**p.model_dump(mode="json"), "schema": schema, "computes": "openvino-bf16"})


def _preprocessing(wish: Wish, made: "Ready", channels: int) -> Preprocessing | VolumePreprocessing:
    trained = made.run.data
    regions = regions_of(trained)
    thresholded = by_threshold(made.classes, regions=regions is not None)
    if not thresholded and wish.thresholds:
        raise UserError(f"--threshold {wish.thresholds[0]:g}: {wish.weights} has {made.classes} classes; leave it out")
    if isinstance(trained, VolumeData):
        return volume_preprocessing(
            trained, thresholds=wish.thresholds, threshold_from=wish.threshold_from, codes=codes_of(wish.data, trained)
        )
    classes = numbered(classes_of(trained), made.classes)
    colours = tuple(hexadecimal(known.colour) for known in classes)
    plain = colours == tuple(hexadecimal(known.colour) for known in TWO_CLASSES)
    window = trained.window if isinstance(trained, PictureData) else None
    simple = plain and channels == 3 and bits_of(trained) == 8 and window is None
    several = len(wish.thresholds) > 1
    order = None if regions is None or len(regions.names) == 1 else regions.order
    return Preprocessing(
        schema=5 if several else 3 if regions else 1 if simple else 2,
        size=trained.size,
        fit=trained.fit,
        channels=CHANNELS[channels],
        bits=bits_of(trained),
        window=window,
        mean=made.network.normalisation.mean,
        std=made.network.normalisation.std,
        classes=tuple(known.name for known in classes),
        colours=None if simple else colours,
        regions=regions is not None,
        painted=None if order is None or regions is None else tuple(regions.names[at] for at in order),
        threshold=(wish.thresholds or (DEFAULT_THRESHOLD,))[0] if thresholded and not several else None,
        thresholds=wish.thresholds if several else None,
        threshold_from=wish.threshold_from,
    )


def _compared(folder: Path, made: "Ready", data: "DataSet", p: Preprocessing) -> "Parity":
    from trainer.package.parity import compare

    session = Session(folder / NETWORK)
    few = min(len(data.samples("validation")), MOST_PICTURES)
    return compare(
        made.network,
        Packed(p, session),
        counted_items("comparing with torch", _pictures(data, few), few),
        where="validation pictures at native size",
        threads=session.threads,
        onnxruntime=session.version,
    )


def _pictures(data: "DataSet", few: int) -> Iterator[Picture]:
    count = len(data.samples("validation"))
    for number in range(few):
        yield data.native("validation", number * count // few)[0]


def _compared_volumes(folder: Path, made: "Ready", data: "DataSet", p: VolumePreprocessing) -> "VolumeParity":
    from trainer.data.sets.volumes import VolumeCases
    from trainer.package.volume_parity import compare_volumes

    trained = made.run.data
    if not isinstance(data, VolumeCases) or not isinstance(trained, VolumeData):
        raise TypeError(f"{data.config.name}: is no data set of volumes")
    session = Session(folder / NETWORK)
    few = min(len(data.cases("validation")), MOST_CASES)
    return compare_volumes(
        made.network,
        PackedVolumes(p, session),
        trained,
        counted_items("comparing with torch", _cases(data, few, p), few),
        threads=session.threads,
        onnxruntime=session.version,
    )


def _cases(data: "VolumeCases", few: int, p: VolumePreprocessing) -> "Iterator[tuple[PreparedCase, PreparedCase]]":
    """Validation cases as they were prepared for training, and as the package prepares them."""
    cases = data.cases("validation")
    for number in range(few):
        at = number * len(cases) // few
        yield cases[at], made_case(cases[at].name, data.image_files("validation", at), p.recipe, p.channels)


def _lowered(
    folder: Path, wish: Wish, precision: LowPrecision, data: "DataSet", p: Preprocessing | VolumePreprocessing
) -> "Lowered":
    """Put a network of lower precision in the place of the file in float32. Raises UserError."""
    from trainer.data.sets.volumes import VolumeCases
    from trainer.package.lower_precision import INPUTS, Judged, lower, weighed

    source, target = folder / NETWORK, folder / f".{NETWORK}.{precision}"
    logger.info("{}: writing the network in {}", wish.folder, precision)
    float32 = Session(source, threads=1)
    judged = Judged(len(p.classes), data.regions)
    few = INPUTS if precision == "int8" else 1
    if isinstance(p, Preprocessing):
        inputs = _inputs_of_pictures(data, p, float32, few)
        network = lower(source, target, precision, inputs)
        _judge_pictures(judged, data, Packed(p, float32), Packed(p, network))
    else:
        if not isinstance(data, VolumeCases):
            raise TypeError(f"{data.config.name}: is no data set of volumes")
        inputs = _inputs_of_volumes(data, p, float32, few)
        network = lower(source, target, precision, inputs)
        _judge_volumes(judged, data, PackedVolumes(p, float32), PackedVolumes(p, network))
    unit: Literal["image", "case"] = "image" if isinstance(p, Preprocessing) else "case"
    margin = MARGIN if wish.margin is None else wish.margin
    lowered = weighed(precision, unit, judged, (source, target), (float32, network), inputs, margin)
    target.rename(source)
    return lowered


def _inputs_of_pictures(data: "DataSet", p: Preprocessing, network: Session, few: int) -> "list[Floats]":
    """Training pictures, spread evenly, as the network gets them."""
    from trainer.package.lower_precision import Recorder

    recorder = Recorder(network)
    count = len(data.samples("train"))
    for number in range(min(few, count)):
        Packed(p, recorder).logits([data.native("train", number * count // min(few, count))[0]])
    return recorder.inputs


def _inputs_of_volumes(data: "VolumeCases", p: VolumePreprocessing, network: Session, few: int) -> "list[Floats]":
    """Windows of training cases, spread evenly."""
    from trainer.package.lower_precision import Recorder

    cases = data.cases("train")
    taken = min(len(cases), MOST_CASES, few)
    recorders = []
    for number in range(taken):
        at = number * len(cases) // taken
        case = made_case(cases[at].name, data.image_files("train", at), p.recipe, p.channels)
        recorders.append(Recorder(network, every=-(-p.sliding.count(case.way.shape) * taken // few)))
        for _ in PackedVolumes(p, recorders[-1]).slices(case):
            pass
    return [each for recorder in recorders for each in recorder.inputs][:few]


def _judge_pictures(judged: "Judged", data: "DataSet", float32: Packed, lower: Packed) -> None:
    count = len(data.samples("validation"))
    few = min(count, MOST_PICTURES)
    for number in counted_items("scoring both", range(few), few):
        picture, truth = data.native("validation", number * count // few)
        judged.begin()
        judged.add(float32.masks([picture])[0], lower.masks([picture])[0], truth)


def _judge_volumes(judged: "Judged", data: "VolumeCases", float32: PackedVolumes, lower: PackedVolumes) -> None:
    p, cases = float32.preprocessing, data.cases("validation")
    few = min(len(cases), MOST_CASES)
    for trained, prepared in counted_items("scoring both", _cases(data, few, p), few):
        judged.begin()
        for (depth, ours), (_, theirs) in zip(float32.slices(prepared), lower.slices(prepared), strict=True):
            one, other = (labels(each, p.least, regions=p.regions) for each in (ours, theirs))
            judged.add(one, other, trained.native_label[:, :, depth])


def _facts(
    made: "Ready", data: "DataSet", p: Preprocessing | VolumePreprocessing, parity: "Parity | VolumeParity"
) -> PackageFacts:
    import models

    kind, sides, dims = made.run.student, size_of(made.run.data), dims_of(made.run.data)
    params = models.live_parameters(kind, in_channels=data.channels, classes=made.classes, size=sides, dims=dims)
    operations = models.flops(kind, in_channels=data.channels, classes=made.classes, size=sides, dims=dims)
    return PackageFacts(
        title=f"{describe_run(made.run)}: segmentation of {_kind(made.run)}",
        run=made.run,
        params=params,
        gflops=operations / 1e9,
        sha256=made.file.sha256,
        epoch=int(made.file.word("epoch") or 0),
        scores=made.file.word("scores") or {},
        data=data_facts(data),
        preprocessing=p,
        parity=parity,
    )


def _kind(run: RunConfig) -> str:
    if isinstance(run.data, VolumeData):
        return "volumes"
    return "pictures" if isinstance(run.data, PictureData) else f"{run.data.name} pictures"


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


def _settle(folder: Path) -> None:
    """Bring every file onto the disk before the folder gets its name."""
    from trainer.atomic_files import sync_folder

    for name in (*FILES, SUMS):
        with (folder / name).open("rb") as file:
            os.fsync(file.fileno())
    sync_folder(folder)
