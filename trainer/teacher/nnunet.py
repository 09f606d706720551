"""A converted results folder of nnU-Net v2 as a teacher: its networks, and what a study under it must say of its data.

`trainer.teacher.nnunet_folder` writes the folder: safetensors by fold, and `teacher.json`, the `Description`. Networks
are built by nnU-Net's own `get_network_from_plans`, which the extra `nnunet` brings.
"""

import json
import math
import os
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Set
from contextlib import contextmanager, redirect_stdout
from itertools import combinations
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal, Self

import torch
from pydantic import Field, NonNegativeInt, StrictInt, ValidationError, model_validator
from torch import Tensor, nn

from models.config import Frozen, NnunetTeacher
from models.normalisation import normalisation_for
from models.output import Output, Segmenter
from trainer import checkpoint
from trainer.config import ChannelScheme, DataConfig, VolumeData
from trainer.config.validation import explain
from trainer.config.volumes import Millimetres, Side
from trainer.data.dataset import DataSet, Part
from trainer.data.masks import is_grey, values_from
from trainer.errors import CheckpointError, counted, received
from trainer.teacher.inspection import Inspection

DESCRIPTION = "teacher.json"
FORMAT = 1
"""Goes up with every change of what the description means."""
CONVERT = "python -m trainer teacher convert FOLDER -o TEACHER"
OVERLAP = 0.5
"""nnU-Net's tile_step_size."""

_FILE = re.compile(r"(.+?)(?:_\d{4}|_\{channel\})?\.nii")
_PARTS: tuple[Part, ...] = ("train", "validation")
_FIXED = ("recipe", "spacing", "schemes")
"""What a study may not set otherwise."""
ROOM = 32
"""By less than so many voxels a side of a patch may be longer than that of the plans."""
Value = Annotated[StrictInt, Field(ge=0, le=254)]
Three = tuple[Literal[0, 1, 2], Literal[0, 1, 2], Literal[0, 1, 2]]


class Architecture(Frozen):
    """What `get_network_from_plans` is given."""

    network: str = Field(pattern=r"^dynamic_network_architectures\.[A-Za-z0-9_.]+$")
    arguments: dict[str, Any]
    imports: tuple[str, ...]
    """Arguments that name a class of torch."""

    @model_validator(mode="after")
    def _imports_torch_alone(self) -> Self:
        for name in self.imports:
            value = self.arguments.get(name)
            if value is not None and not (isinstance(value, str) and value.startswith("torch.nn.")):
                raise ValueError(f"architecture: {name} = {received(value)}: expected a class of torch.nn")
        return self


class Fold(Frozen):
    """The network of one fold."""

    fold: str
    file: str = Field(pattern=r"^fold_[a-z0-9]+\.safetensors$")
    sha256: str
    epoch: NonNegativeInt
    train: tuple[str, ...] = ()
    val: tuple[str, ...] = ()
    """Cases of splits_final.json; none: it was trained on all."""


class Description(Frozen):
    """What a results folder says of its networks and of their data. Axes are nnU-Net's, after transpose_forward, where
    not said otherwise."""

    format: Literal[1]
    dataset: str
    trainer: str
    configuration: str
    architecture: Architecture
    patch: tuple[Side, Side, Side]
    spacing: tuple[Millimetres, Millimetres, Millimetres]
    transpose: Three
    """transpose_forward: which axis of (z, y, x) each is."""
    schemes: tuple[ChannelScheme, ...] = Field(min_length=1)
    channels: tuple[str, ...]
    """By name; nnU-Net's files have their numbers, of four digits."""
    classes: tuple[tuple[str, tuple[Value, ...]], ...] = Field(min_length=1)
    """In the order of the outputs: each with its values in label files; of regions without the background."""
    regions: bool
    ignore: Value | None
    mirroring: tuple[Literal[0, 1, 2], ...]
    """inference_allowed_mirroring_axes."""
    folds: tuple[Fold, ...] = Field(min_length=1)
    shared: dict[str, str]
    """Names that share the memory of another tensor, which the files hold once."""

    @property
    def turned(self) -> tuple[int, int, int]:
        """The axis of (x, y, z) that each of nnU-Net's is."""
        first, second, third = (2 - axis for axis in self.transpose)
        return first, second, third

    def spatial(self, values: tuple[Any, Any, Any]) -> tuple[Any, Any, Any]:
        """Values by nnU-Net's axes in the order x, y, z."""
        x, y, z = (values[self.turned.index(axis)] for axis in range(3))
        return x, y, z

    @property
    def strides(self) -> tuple[int, int, int]:
        """What a patch's sides x, y, z must be multiples of."""
        stages = self.architecture.arguments.get("strides")
        if not isinstance(stages, list) or not all(isinstance(stage, list) and len(stage) == 3 for stage in stages):
            x, y, z = self.spatial(self.patch)
            return x, y, z
        first, second, third = (math.prod(int(stage[axis]) for stage in stages) for axis in range(3))
        return self.spatial((first, second, third))

    def patch_of(self, multiple: int) -> list[int]:
        """The sides x, y, z of the plans' patch, each rounded up to what a student's stride divides, too."""
        both = [math.lcm(multiple, stride) for stride in self.strides]
        return [-(-side // step) * step for side, step in zip(self.spatial(self.patch), both, strict=True)]

    def data_settings(self) -> dict[str, Any]:
        """What [run.data] of a study under this teacher says, without root, split and names of classes."""
        return {
            "recipe": "nnunet",
            "spacing": list(self.spatial(self.spacing)),
            "schemes": [scheme.model_dump() for scheme in self.schemes],
            "patch": list(self.spatial(self.patch)),
            "overlap": OVERLAP,
            "weights": "nnunet",
            "tiling": "spread",
        }


def described(folder: Path) -> Description:
    """The description in a converted folder. Raises CheckpointError."""
    path = folder / DESCRIPTION
    try:
        text = path.read_bytes()
    except OSError as error:
        results = (folder / "plans.json").is_file()
        remedy = f"convert it first: {CONVERT}" if results else f"give a folder that `{CONVERT}` wrote"
        raise CheckpointError(f"{path}: cannot be read ({error.strerror}); {remedy}") from error
    try:
        return Description.model_validate_json(text)
    except ValidationError as error:
        raise CheckpointError(f"{explain(error, str(path))}; convert the results folder again: {CONVERT}") from error


def folder_hash(folder: Path) -> str:
    """sha256 over the description and the weights. Raises CheckpointError where they do not belong together."""
    for fold in described(folder).folds:
        if checkpoint.digest(folder / fold.file) != fold.sha256:
            raise CheckpointError(
                f"{folder / fold.file}: was changed since it was converted; convert the results folder again: {CONVERT}"
            )
    return checkpoint.digest(folder / DESCRIPTION)


class NnunetNetwork(Segmenter):
    """nnU-Net's network, or the mean of the logits of those of several folds, which is what nnU-Net averages.

    Images (N, C, X, Y, Z) as recipe "nnunet" prepares them; no taps. mirrored: also the mean over all flips along
    `Description.mirroring`, as nnU-Net's predictor does unless it is told --disable_tta.
    """

    stride = 1
    dims = 3

    def __init__(self, description: Description, networks: list[nn.Module], *, mirrored: bool = False) -> None:
        super().__init__()
        self.members = nn.ModuleList(networks)
        self.taps = {}
        self.normalisation = normalisation_for(len(description.channels))
        self._there = [0, 1, *(2 + axis for axis in description.turned)]
        self._back = [0, 1, *(2 + description.turned.index(axis) for axis in range(3))]
        axes = [2 + axis for axis in description.mirroring] if mirrored else []
        self._flips = [flip for count in range(len(axes) + 1) for flip in combinations(axes, count)]

    def forward(self, images: Tensor) -> Output:
        """Prepared images to logits (N, classes, X, Y, Z)."""
        x = images.permute(self._there).contiguous()
        total: Tensor | None = None
        for member in self.members:
            for flip in self._flips:
                logits = member(torch.flip(x, flip)).flip(flip).float()
                total = logits if total is None else total + logits
        if total is None:
            raise RuntimeError("a teacher has one fold at least")
        mean = total / (len(self.members) * len(self._flips))
        return Output(mean.permute(self._back).contiguous(), {})


def network(description: Description, tensors: Mapping[str, Tensor], where: str) -> nn.Module:
    """nnU-Net's network with these weights, every one of them. Raises CheckpointError."""
    build = _builder()
    kind = description.architecture
    try:
        with _quiet():
            made: nn.Module = build(
                kind.network,
                kind.arguments,
                kind.imports,
                len(description.channels),
                len(description.classes),
                allow_init=False,
                deep_supervision=False,
            )
    except Exception as error:
        # Arguments of any network of any version: each has an error of its own.
        raise CheckpointError(
            f"{where}: nnU-Net cannot build {kind.network.rpartition('.')[2]} here ({_short(error)}); install the "
            "version of nnunetv2 that trained it"
        ) from error
    whole = {**tensors, **{name: tensors[kept] for name, kept in description.shared.items() if kept in tensors}}
    own = made.state_dict()
    lacking, more = sorted(own.keys() - whole.keys()), sorted(whole.keys() - own.keys())
    other = [name for name in own if name in whole and own[name].shape != whole[name].shape]
    if lacking or more or other:
        first = (lacking or more or other)[0]
        raise CheckpointError(
            f"{where}: its weights do not fit {kind.network.rpartition('.')[2]} of the plans: {len(lacking)} missing, "
            f"{len(more)} unexpected, {len(other)} of another shape, such as {first}; trainers that build a network of "
            f"their own ({description.trainer}) cannot be converted"
        )
    made.load_state_dict(whole)
    return made


def _builder() -> Callable[..., nn.Module]:
    try:
        with _quiet():
            from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
    except ModuleNotFoundError as error:
        package = str(error.name).partition(".")[0]
        raise CheckpointError(
            f'teacher.name = "nnunet": needs {package!r}, which is not installed; pip install "kd-search[nnunet]"'
        ) from error
    build: Callable[..., nn.Module] = get_network_from_plans
    return build


@contextmanager
def _quiet() -> Iterator[None]:
    """Inside, nnU-Net prints and warns nothing: of folders that are not set, and of deprecated names."""
    with warnings.catch_warnings(), Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere):
        warnings.simplefilter("ignore")
        yield


def teacher_from(config: NnunetTeacher, folder: Path, data: DataSet) -> tuple[NnunetNetwork, tuple[str, ...]]:
    """The teacher, and what a reader should know of it. Raises CheckpointError where the data is not that of the plans,
    or the folder is not whole."""
    description = described(folder)
    refuse_other_data(description, folder, data.config)
    networks = []
    for fold in description.folds:
        file = checkpoint.weights(folder / fold.file, sha256=fold.sha256)
        networks.append(network(description, file.tensors, str(folder / fold.file)))
    parts: dict[str, set[str]] = {part: {_case(sample.image) for sample in data.samples(part)} for part in _PARTS}
    split = data.config.split if isinstance(data.config, VolumeData) else ""
    notes = (*_splits(description, folder, split, parts), _mirroring(description, mirrored=config.mirror))
    return NnunetNetwork(description, networks, mirrored=config.mirror), notes


def _mirroring(description: Description, *, mirrored: bool) -> str:
    if not description.mirroring:
        return "nnU-Net was trained without mirroring, and nothing is mirrored"
    passes = 2 ** len(description.mirroring)
    if mirrored:
        return f"its logits are the mean over {passes} mirrored passes, as in nnUNetv2_predict"
    return f"it is asked once a patch, as nnUNetv2_predict --disable_tta; mirror = true takes {passes} passes"


def refuse_other_data(description: Description, folder: Path, data: DataConfig) -> None:
    """Raise CheckpointError, which names the field, both values and the remedy, where [run.data] is not what the plans
    fix."""
    if not isinstance(data, VolumeData):
        raise CheckpointError(f'{folder}: is a teacher of volumes; data.name = {data.name!r}: set it to "volumes"')
    settings = description.data_settings()
    for field in _FIXED:
        given, wanted = _plain(getattr(data, field)), settings[field]
        if not _alike(given, wanted):
            raise CheckpointError(
                f"data.{field} = {received(given)}: {folder} fixes it to {received(wanted)}; set it so in [run.data]"
            )
    _refuse_other_patch(description, folder, data)
    channels = len(description.channels)
    count = data.channels if isinstance(data.channels, int) else len(data.channels)
    if count != channels:
        raise CheckpointError(f"data.channels = {received(_plain(data.channels))}: {folder} was trained on {channels}")
    _refuse_other_labels(description, folder, data)


def _refuse_other_patch(description: Description, folder: Path, data: VolumeData) -> None:
    """A side may be rounded up to what the student's stride divides: nnU-Net's networks take such patches, too."""
    own = description.spatial(description.patch)
    sides = list(zip(data.patch, own, description.strides, strict=True))
    if not all(
        side == planned or (planned < side < planned + ROOM and side % step == 0) for side, planned, step in sides
    ):
        raise CheckpointError(
            f"data.patch = {list(data.patch)}: {folder} fixes it to {list(own)}; set it so, or round a side up to a "
            f"multiple of {' x '.join(map(str, description.strides))} that the student takes"
        )


def _refuse_other_labels(description: Description, folder: Path, data: VolumeData) -> None:
    kind = "regions" if description.regions else "classes"
    if bool(data.regions) != description.regions:
        raise CheckpointError(f"data.regions: {folder} was trained on {kind}; name {kind} in [run.data] alone")
    entries = data.regions if description.regions else data.classes
    names: dict[Any, set[int]] = {known.name: _values(known.value) for known in data.classes} if data.regions else {}
    given = []
    for known in entries:
        value = known.value
        parts = value if isinstance(value, tuple) else (value,)
        given.append(set[int]().union(*(names[part] if part in names else _values(part) for part in parts)))
    wanted = [set(values) for _, values in description.classes]
    if given != wanted:
        raise CheckpointError(
            f"data.{kind} have the values {_listed(given)}: the outputs of {folder} are of {_listed(wanted)} "
            f"({', '.join(name for name, _ in description.classes)}); name them in that order"
        )
    ignored = _values(data.ignore)
    if description.ignore is not None and ignored != {description.ignore}:
        raise CheckpointError(
            f"data.ignore = {received(_plain(data.ignore))}: {folder} ignores {description.ignore}; set it so"
        )


def _values(value: Any) -> set[int]:
    """The grey values that a study file names."""
    return {each & 0xFF if is_grey(each) else -1 for each in values_from(value, "data")}


def _listed(values: list[set[int]]) -> str:
    return ", ".join("+".join(map(str, sorted(each))) for each in values)


def _splits(description: Description, folder: Path, name: str, parts: Mapping[str, Set[str]]) -> tuple[str, ...]:
    """Raise CheckpointError where train and validation are not those of one of the folds; what is to be known of it."""
    split = [fold for fold in description.folds if fold.train]
    if not split:
        return ("it was trained on all cases, also on those that validate its students",)
    same = [fold for fold in split if set(fold.train) == parts["train"] and set(fold.val) == parts["validation"]]
    if not same:
        first = split[0]
        seen = sorted(parts["validation"] - set(first.val))
        other = seen or sorted(parts["train"] - set(first.train)) or sorted(set(first.train) - parts["train"])
        raise CheckpointError(
            f"data.split = {name!r}: {', '.join(other[:3]) or 'a case'}: not in the part that fold "
            f"{first.fold} of {folder} has it in ({len(first.train)} train, {len(first.val)} validate); draw the split "
            "anew from the raw folder with its splits_final.json"
        )
    others = [fold.fold for fold in description.folds if fold not in same]
    if not others:
        return (f"split as fold {same[0].fold}: no validation case is one of those that it was trained on",)
    return (f"split as fold {same[0].fold}; folds {', '.join(others)} were trained on its validation cases, too",)


def _case(image: str) -> str:
    """The name that nnU-Net gives a case, of the path of its image."""
    match = _FILE.match(PurePosixPath(image).name)
    return match[1] if match else image


def _plain(value: Any) -> Any:
    """A value of a configuration as JSON has it."""
    if isinstance(value, ChannelScheme):
        return value.model_dump()
    return [_plain(each) for each in value] if isinstance(value, tuple | list) else value


def _alike(given: Any, wanted: Any) -> bool:
    """Equal, numbers to a millionth."""
    if isinstance(wanted, list):
        return isinstance(given, list) and len(given) == len(wanted) and all(map(_alike, given, wanted))
    if isinstance(wanted, dict):
        same = isinstance(given, dict) and given.keys() == wanted.keys()
        return same and all(_alike(given[key], wanted[key]) for key in wanted)
    if isinstance(wanted, float) and isinstance(given, int | float):
        return abs(given - wanted) <= 1e-6 * max(1.0, abs(wanted))
    return bool(given == wanted)


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:160]


def inspection(folder: Path, data: VolumeData, parts: Mapping[str, str]) -> Inspection:
    """What a new study says of a converted folder. parts: of each image, where the study has
    it. Raises CheckpointError where data or parts are not those of the plans."""
    description = described(folder)
    refuse_other_data(description, folder, data)
    notes = _splits(description, folder, data.split, {part: _cases(parts, part) for part in _PARTS})
    kind, folds = description.architecture.network.rpartition(".")[2], len(description.folds)
    title = f"nnU-Net's {kind}, {description.configuration} of {description.dataset}, {counted(folds, 'fold')}"
    settings = {"name": "nnunet", "mirror": False}
    first = checkpoint.weights(folder / description.folds[0].file).tensors
    count = sum(tensor.numel() for tensor in first.values())
    return Inspection(title, settings, (*notes, _mirroring(description, mirrored=False)), count)


def _cases(parts: Mapping[str, str], wanted: str) -> set[str]:
    return {_case(image) for image, part in parts.items() if part == wanted}


def written(description: Description) -> str:
    """The description as its file has it."""
    return json.dumps(description.model_dump(mode="json"), indent=1) + "\n"
