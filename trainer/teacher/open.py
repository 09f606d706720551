"""Teachers opened from what their settings name: a run of ours, another program's weights, network or maps, several."""

import hashlib
import math
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar, assert_never

import numpy as np
import torch
from loguru import logger
from torch import Tensor, nn
from torch.nn import functional

import models
from models.config import (
    EnsembleTeacher,
    ExportedTeacher,
    MapsTeacher,
    NetworkTeacher,
    NnunetTeacher,
    SmpTeacher,
    TeacherConfig,
)
from models.output import Output, Segmenter
from trainer import checkpoint
from trainer.checkpoint import Weights
from trainer.config import RunConfig
from trainer.data.classes import dims_of, normalisation_of, size_of
from trainer.data.dataset import DataSet
from trainer.data.sets.volumes import VolumeCases
from trainer.data.streams.batches import normalise, renormalised
from trainer.data.streams.examples import examples_of
from trainer.errors import CheckpointError, received
from trainer.repository import expand
from trainer.teacher import exported, nnunet, probability_maps, state_dict
from trainer.teacher.exported import Exported, open_export, open_onnx
from trainer.teacher.monai_keys import monai_pairs
from trainer.teacher.probability_maps import Maps
from trainer.teacher.volume_maps import VolumeMaps

Kind = TypeVar("Kind", bound=Segmenter)

TEACH = "python -m trainer teach STUDY.toml"
"""What trains a teacher, in messages of those who do not know the study file; `naming` puts it in."""
AGAIN = f"{TEACH} --again"
"""The same where the file is there already: without the flag it is left as it is."""
PROBES = 4
"""Images that an exported network is tried on before anything is asked of it."""
_TORCH = (".pt", ".pth", ".ckpt", ".bin", ".tar")
"""How files end that `torch.save` writes."""
_ELSEWHERE = frozenset({"checkpoint", "min_dice", "weights", "keys", "mean", "std", "initialisation"})
"""Options that say where a network's weights come from and how they were trained, not what the network is."""


@dataclass(frozen=True)
class OpenedTeacher:
    """A teacher that is ready to be asked."""

    network: Segmenter
    """Frozen, in evaluation mode, on the device."""
    sha256: str
    """Over all that it was read from, as `content` computes it."""
    files: tuple[Weights | None, ...]
    """What a run of ours says of itself, of each member; None where another program made it."""
    notes: tuple[str, ...] = ()
    """What a reader should know of how it was read."""


def wanted(run: RunConfig) -> TeacherConfig:
    """The teacher's settings. Raises CheckpointError where there are none."""
    if run.teacher is None:
        raise CheckpointError("teacher: missing; add [run.teacher] or set method to none")
    return run.teacher


@contextmanager
def naming(study: Path) -> Iterator[None]:
    """Inside, a message on the teacher tells to type TEACH with this study file."""
    try:
        yield
    except CheckpointError as error:
        text = str(error).replace(TEACH, f"{TEACH.rpartition(' ')[0]} {shlex.quote(str(study))}")
        raise CheckpointError(text) from error


def located(config: TeacherConfig | None) -> Path:
    """Where the teacher's file (or folder) lies; $VARIABLES and ~ are filled in. Raises CheckpointError where none is
    named, for a variable that is not set, and for an ensemble, which has several."""
    if config is None:
        raise CheckpointError("teacher: missing; add [run.teacher] or set method to none")
    if isinstance(config, EnsembleTeacher):
        raise CheckpointError('teacher.name = "ensemble": has no file of its own; name one of its members')
    if config.checkpoint is None:
        made = f"the file that `{TEACH}` writes" if isinstance(config, NetworkTeacher) else "where it lies"
        raise CheckpointError(f"teacher.checkpoint: missing; name {made}")
    return expand(config.checkpoint, "teacher.checkpoint", error=CheckpointError)


def called(config: TeacherConfig | None) -> str:
    """A teacher as messages name it: its path, or those of its members. Raises CheckpointError as `located` does."""
    if isinstance(config, EnsembleTeacher):
        return f"ensemble of {', '.join(str(located(member)) for member in config.members)}"
    return str(located(config))


def ours(config: TeacherConfig) -> bool:
    """Whether `trainer teach` trains it, from its settings alone."""
    return isinstance(config, NetworkTeacher) and not _foreign(config)


def refuse_absent(config: TeacherConfig | None) -> None:
    """Raise CheckpointError in one line, beginning with the field, where a file that the teacher needs is not there."""
    if isinstance(config, EnsembleTeacher):
        for member in config.members:
            refuse_absent(member)
        return
    path = located(config)
    folder = isinstance(config, MapsTeacher | NnunetTeacher)
    there = path.is_dir() if folder else path.is_file()
    if not there:
        what = "folder" if folder else "file"
        remedy = f"train it: {TEACH}" if config is not None and ours(config) else "give the path of one that exists"
        raise CheckpointError(f"teacher.checkpoint = {str(path)!r}: no such {what}; {remedy}")


def content(config: TeacherConfig) -> str:
    """sha256 over all that the teacher is read from. Raises CheckpointError where something is missing."""
    refuse_absent(config)
    if isinstance(config, EnsembleTeacher):
        return _hash_of_members(content(member) for member in config.members)
    path = located(config)
    if isinstance(config, MapsTeacher):
        return probability_maps.maps_hash(path)
    if isinstance(config, NnunetTeacher):
        return nnunet.folder_hash(path)
    if isinstance(config, ExportedTeacher) and config.name == "onnx":
        return exported.content(path)
    return checkpoint.digest(path)


def _hash_of_members(hashes: Iterable[str]) -> str:
    """sha256 of an ensemble, from those of its members in their order."""
    return hashlib.sha256("\n".join(hashes).encode()).hexdigest()


def opened(run: RunConfig, data: DataSet, *, device: torch.device) -> OpenedTeacher:
    """The teacher of a run on the device. Raises CheckpointError in one line where a file is missing, or was made for
    another network, other images or other classes."""
    return _opened(wanted(run), data, device)


def _opened(config: TeacherConfig, data: DataSet, device: torch.device) -> OpenedTeacher:
    refuse_absent(config)
    if isinstance(config, EnsembleTeacher):
        members = [_opened(member, data, device) for member in config.members]
        sha256 = _hash_of_members(member.sha256 for member in members)
        regions = data.regions is not None
        ensemble = _still(Ensemble([member.network for member in members], regions=regions), device)
        files = tuple(file for member in members for file in member.files)
        return OpenedTeacher(ensemble, sha256, files, tuple(note for member in members for note in member.notes))
    if isinstance(config, MapsTeacher):
        kept = VolumeMaps(located(config), data) if isinstance(data, VolumeCases) else Maps(located(config), data)
        return OpenedTeacher(kept.eval(), content(config), (None,))
    if isinstance(config, NnunetTeacher):
        network, notes = nnunet.teacher_from(config, located(config), data)
        _refuse_ruins(network, located(config))
        return OpenedTeacher(_still(network, device), content(config), (None,), notes)
    if isinstance(config, ExportedTeacher):
        return _exported(config, data, device)
    if isinstance(config, NetworkTeacher):
        return _renamed(config, data, device) if _foreign(config) else _own(config, data, device)
    assert_never(config)


def _own(config: NetworkTeacher, data: DataSet, device: torch.device) -> OpenedTeacher:
    """A run of ours, or a safetensors file with our keys that says nothing of itself."""
    path = located(config)
    file = checkpoint.weights(path)
    _same(path, "network", _options(config.model_dump(mode="json")), _options(file.word("network")))
    _same(path, "classes", data.classes, file.word("classes"))
    _same(path, "channels", data.channels, file.word("channels"))
    _same_regions(path, file, data)
    network = _built(_normalised_as_trained(config, file, path), data)
    checkpoint.fill(network, file.tensors, path)
    _refuse_ruins(network, path)
    # The network holds the weights from here on; what is kept of the file is what it says of itself.
    return OpenedTeacher(_still(network, device), file.sha256, (replace(file, tensors={}),))


def _normalised_as_trained(config: NetworkTeacher, file: Weights, path: Path) -> NetworkTeacher:
    """The settings with the mean and deviation that a file of ours was trained with: its weights fit no others. Raises
    CheckpointError where the settings name others."""
    known = file.word("network")
    if known is None or not isinstance(config, SmpTeacher):
        return config
    trained = config.model_copy(update={"mean": known.get("mean"), "std": known.get("std")})
    if config.mean is not None and config.expects != trained.expects:
        raise CheckpointError(
            f"{path}: was trained with mean {list(trained.expects.mean)} and std {list(trained.expects.std)}, but "
            f"teacher.mean = {list(config.mean)} and teacher.std = {received(config.std)}; leave them out, or train it "
            f"anew: {AGAIN}"
        )
    return trained


def _renamed(config: NetworkTeacher, data: DataSet, device: torch.device) -> OpenedTeacher:
    """Another program's state dict. Refused unless it covers every parameter and statistic."""
    path = located(config)
    tensors, sha256 = state_dict.state_dict(path)
    network = _built(config, data)
    pairs = monai_pairs(config) if config.keys == "monai" else config.keys
    report = state_dict.fit(network, tensors, pairs)
    if not report.covered:
        raise CheckpointError(f"{path}: does not cover {config.name}: {report.summary()}; change teacher.keys")
    _refuse_ruins(network, path)
    return OpenedTeacher(_still(network, device), sha256, (None,), (f"{path}: {report.summary()}",))


def _exported(config: ExportedTeacher, data: DataSet, device: torch.device) -> OpenedTeacher:
    path = located(config)
    if config.name == "export" and not config.trust:
        raise CheckpointError(
            f"teacher.trust: missing; opening {path} may run code that is in it: set trust = true in [run.teacher] for "
            "a file whose maker you trust, or bring the network as ONNX or safetensors weights, which hold data alone"
        )
    opener = open_onnx if config.name == "onnx" else open_export
    dims = dims_of(data.config)
    program = opener(path, config.take, channels=data.channels, device=device, dims=dims)
    ours = normalisation_of(data.config) if dims == 2 else exported.as_prepared(data.channels)
    regions = data.regions is not None
    network = Exported(program, config, ours, classes=data.classes, where=str(path), regions=regions, dims=dims)
    network = _still(network, device)
    sha256 = content(config)
    images = _probes(data)
    if not len(images):
        return OpenedTeacher(network, sha256, (None,))
    doubt = network.probe(normalise(images.to(device), network.normalisation))
    if doubt is not None:
        logger.warning("{}", doubt)
    size = data.config.size
    other = program.size if dims == 2 and program.size != (size, size) else None
    sizes = "" if other is None else f"{path}: images are resized from {size} x {size} to its {other[0]} x {other[1]}"
    return OpenedTeacher(network, sha256, (None,), tuple(filter(None, (doubt, sizes))))


def _probes(data: DataSet) -> Tensor:
    """A few images to try a network on, as batches have them: of validation, or patches of training volumes."""
    if dims_of(data.config) == 2:
        count = min(PROBES, len(data.samples("validation")))
        pictures = [data.fitted("validation", index)[0] for index in range(count)]
        return torch.from_numpy(np.stack(pictures)) if pictures else torch.empty(0)
    examples = examples_of(data)
    patches = np.zeros((min(PROBES, examples.count), *examples.image_shape), np.float32)
    for index, patch in enumerate(patches):
        examples.make(index, index, patch, np.zeros(examples.mask_shape, np.uint8))
    return torch.from_numpy(patches)


def _built(config: NetworkTeacher, data: DataSet) -> Segmenter:
    try:
        return models.build(
            config,
            in_channels=data.channels,
            classes=data.classes,
            size=size_of(data.config),
            dims=dims_of(data.config),
            normalisation=normalisation_of(data.config),
        )
    except ValueError as error:
        raise CheckpointError(str(error)) from error


def _refuse_ruins(network: nn.Module, path: Path) -> None:
    """Raise CheckpointError for weights that can teach nothing, whatever Dice is recorded with them."""
    for name, tensor in network.state_dict().items():
        if not bool(torch.isfinite(tensor).all()):
            raise CheckpointError(
                f"{path}: {name} holds numbers that are not finite; take an earlier file, or: {AGAIN}"
            )
    if not any(bool(weight.any()) for weight in network.parameters()):
        raise CheckpointError(f"{path}: every weight is 0; take another file, or: {AGAIN}")


def _still(network: Kind, device: torch.device) -> Kind:
    return network.requires_grad_(False).eval().to(device)


def _foreign(config: NetworkTeacher) -> bool:
    """Whether its file is another program's: keys to rename, or a kind of file that torch writes."""
    return bool(config.keys) or (config.checkpoint is not None and located(config).suffix.lower() in _TORCH)


def _options(network: Mapping[str, Any] | None) -> dict[str, Any] | None:
    if network is None:
        return None
    return {name: value for name, value in network.items() if name not in _ELSEWHERE}


def _same(path: Path, what: str, expected: object, recorded: object) -> None:
    """Raise CheckpointError where the file says something else; a file that says nothing is judged by its tensors."""
    if recorded is not None and recorded != expected:
        raise CheckpointError(
            f"{path}: {what} is {received(recorded)}, but the run has {received(expected)}; "
            f"change [run.teacher] or train it anew: {AGAIN}"
        )


def _same_regions(path: Path, file: Weights, data: DataSet) -> None:
    """Raise CheckpointError where a file of ours was trained on classes and the data has regions, the other way round,
    or on other regions."""
    trained = (file.word("run") or {}).get("data")
    if trained is None:
        return
    names = [known["name"] for known in trained.get("regions", ())]
    own = list(data.regions.names) if data.regions else []
    if names != own:
        raise CheckpointError(
            f"{path}: was trained on {_listed(names)}, and the data has {_listed(own)}; train it anew: {AGAIN}"
        )


def _listed(regions: Sequence[str]) -> str:
    return f"the regions {', '.join(regions)}" if regions else "classes"


def knows(files: Sequence[Weights | None]) -> bool:
    """Whether every member says which images it was trained on."""
    return all(file is not None and "train_images" in file.metadata for file in files)


class Ensemble(Segmenter):
    """The arithmetic mean of the members' probabilities at temperature 1 (Hinton, Vinyals and Dean 2015,
    arXiv 1503.02531), given as its logarithm, so that softmax of these logits is that mean; of regions as its log-odds,
    whose sigmoid it is. No taps.

    A temperature of a loss softens the mean, not the members. Images come in the first member's normalisation, and are
    brought to that of a member that has another.
    """

    def __init__(self, members: Sequence[Segmenter], *, regions: bool = False) -> None:
        super().__init__()
        self._regions = regions
        self.members = nn.ModuleList(members)
        self._segmenters = tuple(members)
        self.stride = math.lcm(*(member.stride for member in members))
        self.taps = {}
        self.normalisation = members[0].normalisation

    def forward(self, images: Tensor) -> Output:
        """Normalised images (N, C, S, S) to logits (N, classes, S, S) float32."""
        if self._regions:
            each = torch.stack([self._logits(member, images) for member in self._segmenters])
            inside, outside = (functional.logsigmoid(odds).logsumexp(0) for odds in (each, -each))
            return Output(inside - outside, {})
        logs = torch.stack([self._logits(member, images).log_softmax(1) for member in self._segmenters])
        return Output(logs.logsumexp(0) - math.log(len(self.members)), {})

    def _logits(self, member: Segmenter, images: Tensor) -> Tensor:
        own, wanted = self.normalisation, member.normalisation
        x = images if own == wanted else renormalised(images, own, wanted)
        logits: Tensor = member(x).logits
        return logits.float()
