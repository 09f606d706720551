"""A look into the file of a teacher that a person brings: what it is, what [run.teacher] says of it, what to check.

Nothing in a file is run: a state dict is read as tensors, ONNX holds data alone, and a program of torch.export is not
opened. Everything is refused in one line that says what would do.
"""

import json
import math
import textwrap
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

import models
from models.config import ExportedTeacher
from models.normalisation import normalisation_for, pretrained_input
from trainer import checkpoint
from trainer.cli.printable import printable
from trainer.data.dataset import Picture
from trainer.data.files import read_image
from trainer.data.letterbox import fit_image, place
from trainer.data.streams.batches import normalise
from trainer.errors import CheckpointError, nearest, one_line, received
from trainer.teacher import exported, state_dict
from trainer.teacher.candidates import SECONDS, Match, Tries, against, compare, configured, on_meta
from trainer.teacher.exported import Exported, as_prepared, fixed_patch, open_onnx

TENSORS = (".safetensors", ".pt", ".pth", ".ckpt", ".bin", ".tar")
ENDINGS = (*TENSORS, ".onnx", ".pt2")
PICTURES = 4
"""Pictures that an ONNX network is tried on."""
ANY_NETWORK = "export the network as ONNX (torch.onnx.export) and bring that file, which takes any network"
_STATE_DICT = b"X\x0a\x00\x00\x00state_dict"
"""How the key of Lightning's table stands in a pickle."""
_ELSEWHERE = frozenset({"checkpoint", "min_dice", "weights", "keys", "mean", "std", "initialisation"})
"""Options in a file of ours that do not say what the network is, or that are read from the file."""
_REASONS = {
    "name": "what the file is",
    "encoder": "by its keys and their shapes",
    "width": "by the shapes of its keys",
    "keys": "[theirs, ours]: beginnings of keys",
    "output": "logits | probabilities",
    "take": "which of its outputs",
}
"""What stands beside a value in a study file."""
_WIDTHS = {
    2: ("unet", ((8, 16, 24), (8, 12, 16), (4, 8, 12), (4, 6, 8), (2, 4, 6))),
    3: ("tiny-unet-3d", ((16, 32, 48), (8, 16, 24), (4, 8, 12), (2, 4, 6))),
}
"""By axes of space: the students that a study tries and their widths, the usual ones first."""
_SCORED = "`search validate` scores the teacher on the validation pictures"


Read = Callable[[Path], Picture]


@dataclass(frozen=True)
class _Examples:
    """What an ONNX network is tried on."""

    channels: int
    classes: int
    pictures: Sequence[Path]
    size: int
    read: Read
    regions: bool
    patch: tuple[int, ...] | None

    @property
    def dims(self) -> int:
        """Axes of space."""
        return 2 if self.patch is None else 3

    def images(self) -> Tensor:
        """Pictures as networks get them: (n, channels, size, size); of volumes, which were not prepared yet, a patch of
        noise. Raises DataError."""
        if self.patch is not None:
            return torch.randn(1, self.channels, *self.patch, generator=torch.Generator().manual_seed(0))
        if not self.pictures:
            return torch.zeros(1, self.channels, self.size, self.size)
        squares = []
        for path in self.pictures[:PICTURES]:
            pixels = self.read(path)
            height, width = pixels.shape[:2]
            squares.append(fit_image(pixels, place(height, width, self.size, "letterbox"), self.size))
        return normalise(torch.from_numpy(np.stack(squares)), normalisation_for(self.channels))


@dataclass(frozen=True)
class Inspection:
    """What a file turned out to be."""

    title: str
    """A few words: the network, or the kind of program."""
    settings: Mapping[str, Any]
    """The keys of [run.teacher] and their values, without `checkpoint` and `min_dice`."""
    remarks: tuple[str, ...]
    """What a person should know or check, a sentence or two each."""
    parameters: int | None
    """None where unknown."""

    def table(self) -> str:
        """The lines of [run.teacher], remarks first, for a file of TOML; `checkpoint` and `min_dice` left out."""
        lines = [
            line
            for remark in self.remarks
            for line in textwrap.wrap(
                printable(one_line(remark)), 118, initial_indent="# ", subsequent_indent="#   ", break_long_words=False
            )
        ]
        for key, value in self.settings.items():
            lines.append(f"{f'{key:<10} = {_toml(value)}':<28} # {_REASONS.get(key, 'of the network in the file')}")
        if self.settings["name"] == "export":
            lines.append("# trust    = true             # take the sign before it away where you trust whoever made it")
        return "\n".join(lines)


@dataclass(frozen=True)
class Students:
    """Plain U-Nets, of volumes tiny ones, that are small beside a teacher."""

    widths: tuple[int, int, int]
    millions: tuple[float, float, float]
    """Their parameters."""
    limit: float
    """Millions of parameters: a quarter of the teacher's, or the largest of them where that is more."""


def students_below(parameters: int, *, channels: int, classes: int, dims: int = 2) -> Students:
    """Students for a teacher of so many parameters: the usual widths, or smaller ones below a small teacher."""
    quarter = parameters / 4e6
    name, tried = _WIDTHS[dims]
    for widths in tried:
        first, middle, last = (
            models.parameters(on_meta(configured({"name": name, "width": width}), channels, classes, dims=dims)) / 1e6
            for width in widths
        )
        if last <= 1.1 * quarter:
            break
    limit = max(quarter, last)
    step = 10 if limit >= 1 else 1000
    return Students(widths, (first, middle, last), math.ceil(limit * step) / step)


def _toml(value: object) -> str:
    """A value as TOML has it, which takes JSON's texts, numbers and lists."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def inspect(
    path: Path,
    *,
    channels: int,
    classes: int,
    pictures: Sequence[Path] = (),
    size: int = 352,
    seconds: float = SECONDS,
    read: Read = read_image,
    regions: bool = False,
    patch: tuple[int, ...] | None = None,
) -> Inspection:
    """Look into a teacher's file, for pictures or volumes of so many channels and masks of so many classes.

    pictures: a few of the data; the network of an ONNX file is run on them. size: the side of the network's input, for
    networks that take any, and for encoders that are made for one. seconds: after so long no further network is
    compared with a state dict. read: how a picture's file becomes (H, W, channels). regions: whether the classes are
    regions, which overlap. patch: of volumes, the sides of what a network sees; an ONNX network is tried on noise then.
    Raises CheckpointError in one line.
    """
    if path.is_dir():
        raise CheckpointError(f"{path}: a folder; name the file in it: {', '.join(ENDINGS)}")
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file; give the path of one that exists")
    ending = path.suffix.lower()
    if ending not in ENDINGS:
        raise CheckpointError(f"{path}: unknown ending {received(ending)}{nearest(ending, ENDINGS)}; {ANY_NETWORK}")
    if ending == ".onnx":
        return _onnx(path, _Examples(channels, classes, pictures, size, read, regions, patch))
    if ending == ".pt2":
        return _program(path)
    dims = 2 if patch is None else 3
    own = _own(path, channels, classes, dims) if ending == ".safetensors" else None
    return own or _state_dict(path, channels, classes, None if patch else size, seconds)


def _own(path: Path, channels: int, classes: int, dims: int) -> Inspection | None:
    """A file of `trainer teach` or `trainer fit`, by its metadata; None where it says nothing of a network."""
    file = checkpoint.weights(path)
    try:
        network = file.word("network")
        known = {name: file.word(name) for name in ("classes", "channels", "scores", "train_images")}
    except ValueError:  # another program's metadata is any text
        return None
    if not isinstance(network, Mapping) or "name" not in network:
        return None
    for name, expected, what in (("classes", classes, "masks"), ("channels", channels, _THINGS[dims])):
        if known[name] not in (None, expected):
            raise CheckpointError(f"{path}: was trained for {known[name]} {name}; these {what} have {expected}")
    settings = {key: value for key, value in network.items() if key not in _ELSEWHERE and value is not None}
    try:
        match = against(settings, file.tensors, channels=channels, classes=classes, dims=dims)
    except ValueError as error:
        raise CheckpointError(
            f"{path}: says it is {settings['name']}, which cannot be built: {one_line(error)}"
        ) from error
    if not match.fits:
        raise CheckpointError(f"{path}: says it is {match.title}, and does not fit it: {match.report.summary()}")
    seen = known["train_images"]
    remark = (
        f"trained by this program on {len(seen)} {_THINGS[dims]}; where some of them validate or test here, "
        "`search validate` refuses it: bring its split, too (--split FILE)"
        if seen
        else f"trained by this program; on which {_THINGS[dims]} it does not say"
    )
    return Inspection(f"a teacher of this program, {match.title}", settings, (remark,), match.parameters)


_THINGS = {2: "pictures", 3: "volumes"}
"""What is looked at, by axes of space."""


def _state_dict(path: Path, channels: int, classes: int, size: int | None, seconds: float) -> Inspection:
    """Another program's weights. size: None for volumes."""
    dims = 2 if size is not None else 3
    tensors = _tensors(path)
    tries = compare(tensors, _hint(path), channels=channels, classes=classes, seconds=seconds, dims=dims)
    fits = tries.fits
    if not fits:
        raise CheckpointError(f"{path}: {_misfit(tries, list(tensors), channels, classes)}")
    best = fits[0]
    plain = {key: value for key, value in best.settings.items() if key != "keys"}
    try:
        sized = against(plain, tensors, best.prefix, channels=channels, classes=classes, size=size, dims=dims)
    except ValueError as error:
        raise CheckpointError(f"{path}: a state dict of {best.title}; {one_line(error)}") from error
    if not sized.fits:
        raise CheckpointError(
            f"{path}: a state dict of {best.title}, which is made for images of one size, and its weights not for "
            f"{size} x {size}; give the size that it was trained at with --size"
        )
    return Inspection(
        f"a state dict of {best.title}",
        _loadable(path, best, tensors),
        _remarks(tries, best, dims),
        best.parameters,
    )


def _tensors(path: Path) -> Mapping[str, Tensor]:
    """The tensors of a file. Raises CheckpointError, which names the objects that stand in the way."""
    try:
        return state_dict.state_dict(path)[0]
    except CheckpointError as error:
        held = _objects(path)
        if held is None:
            raise
        raise CheckpointError(f"{path}: {held}") from error


def _objects(path: Path) -> str | None:
    """What a file of torch holds beside tensors, and the remedy; None where it cannot be seen without running it."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            if any(name.endswith("archive_format") for name in names):
                return "a program of torch.export; give it the ending .pt2"
            if any("/code/" in name for name in names):
                return f"a program of TorchScript, which can hold code; {ANY_NETWORK}"
        unsafe = torch.serialization.get_unsafe_globals_in_checkpoint(path)
        inside = '["state_dict"]' if _STATE_DICT in path.read_bytes() else ".state_dict()"
    except (OSError, RuntimeError, ValueError, zipfile.BadZipFile, UnpicklingError):
        return None
    if not unsafe:
        return None
    more = f" and {len(unsafe) - 2} more" if len(unsafe) > 2 else ""
    return (
        f"holds Python objects ({', '.join(sorted(unsafe)[:2])}{more}), which run code when they are read; where you "
        f"trust whoever made it, write its weights alone: "
        f'torch.save(torch.load("{path.name}", weights_only=False){inside}, "weights.pt")'
    )


def _hint(path: Path) -> str:
    """What may name the encoder: the file's name, and a `config.json` beside it, as the package saves one."""
    try:
        config = json.loads((path.parent / "config.json").read_text())
    except (OSError, ValueError):
        config = None
    encoder = config.get("encoder_name", "") if isinstance(config, dict) else ""
    return f"{encoder} {path.stem}"


def _misfit(tries: Tries, keys: Sequence[str], channels: int, classes: int) -> str:
    """Why nothing fits, and how near the nearest came."""
    match = tries.nearest
    if match is None:
        first = ", ".join(dict.fromkeys(key.partition(".")[0] for key in keys[:200]))
        left = f" ({tries.left} encoders were left out after {SECONDS:g} s)" if tries.left else ""
        return (
            f"a state dict of {len(keys)} keys, of no network that this program knows{left}: they begin with "
            f"{first[:120]}; {ANY_NETWORK}"
        )
    other = _other_numbers(match, channels, classes)
    if other is not None:
        return f"a state dict of {match.title}, but {other}"
    return (
        f"a state dict of {len(keys)} keys that fits none of {_tried(tries)}; nearest is {match.title}: "
        f"{match.report.summary()}; {ANY_NETWORK}"
    )


def _other_numbers(match: Match, channels: int, classes: int) -> str | None:
    """Where nothing but the number of classes or channels is another: which."""
    if match.report.missing or match.report.twice or match.odd or not match.wrong:
        return None
    heads = [(name, theirs, ours) for name, theirs, ours in match.wrong if name.startswith("head.")]
    inputs = [entry for entry in match.wrong if entry not in heads]
    if any(theirs[1:] != ours[1:] for _, theirs, ours in heads):
        return None
    if any(theirs[2:] != ours[2:] or theirs[:1] != ours[:1] for _, theirs, ours in inputs) or len(inputs) > 1:
        return None
    if heads:
        return f"it knows {heads[0][1][0]} classes; these masks have {classes} (one channel, sigmoid, does as well)"
    return f"it takes {inputs[0][1][1]} channel(s); these pictures have {channels}"


def _tried(tries: Tries) -> str:
    counted = "1 network" if tries.tried == 1 else f"{tries.tried} networks"
    left = f" ({tries.left} more were left out after {SECONDS:g} s; name the encoder in the file's name)"
    return f"{counted}{left if tries.left else ''}"


def _loadable(path: Path, match: Match, tensors: Mapping[str, Tensor]) -> Mapping[str, Any]:
    """The settings with which the file is read as another program's, not as one of ours that must fit key by key."""
    bare = len(match.report.widened) + len(match.beside) == 0 and match.report.matched == len(tensors)
    if "keys" in match.settings or path.suffix.lower() != ".safetensors" or bare:
        return match.settings
    return {**match.settings, "keys": [["head.", "head."]]}


def _remarks(tries: Tries, best: Match, dims: int) -> tuple[str, ...]:
    remarks = [f"{best.report.matched} keys fit; it was compared with {_tried(tries)}"]
    others = [match for match in tries.fits if match is not best]
    if others:
        named = ", ".join(dict.fromkeys(match.title for match in others if match.title != best.title))
        prefixes = [f"the keys that begin with {match.prefix!r}" for match in others if match.title == best.title]
        remarks.append(
            f"as well fit: {', '.join([*([named] if named else []), *prefixes])}. Keys and shapes cannot tell them "
            f"apart: where the Dice is low, try them. {_SCORED}"
        )
    if best.report.widened:
        remarks.append("its head has one channel (sigmoid), which becomes two with exactly the same probabilities")
    if best.beside:
        shown = ", ".join(best.beside[:3])
        remarks.append(f"{len(best.beside)} keys beside the network are left out: {shown}")
    return (*remarks, _PREPARED if dims == 3 else _normalisation(best.settings.get("encoder")))


_PREPARED = (
    "how its volumes were prepared stands in no file: it gets patches as data.recipe makes them (orientation, spacing, "
    f"window, z-score), which are to be its own. {_SCORED}"
)


def _normalisation(encoder: str | None) -> str:
    """What to check of a network whose file says nothing of its input."""
    other = None if encoder is None else pretrained_input(encoder, "imagenet")
    advice = (
        "this is the first suspect"
        if other is None
        else f"try mean = {[round(value, 6) for value in other.mean]} and std = "
        f"{[round(value, 6) for value in other.std]}, which its encoder's pretrained weights expect"
    )
    return (
        "how its input was normalised stands in no state dict: it gets ImageNet's mean and deviation of red, green and "
        f"blue. {_SCORED}: where the Dice is low, {advice}"
    )


@dataclass(frozen=True)
class _Output:
    """What one output of an ONNX network gave on pictures."""

    name: str
    kind: str
    """`logits` or `probabilities`."""
    channels: int
    extent: int
    """Pixels or voxels of its map."""
    low: float
    high: float
    size: tuple[int, ...] | None
    """That the network's input is fixed to."""


def _onnx(path: Path, data: _Examples) -> Inspection:
    exported.content(path)
    graph = import_module("onnx").load(str(path), load_external_data=False).graph
    names = [str(entry.name) for entry in graph.output]
    outputs, refused = [], []
    for name in names:
        try:
            outputs.append(_output(path, name, data))
        except CheckpointError as error:
            refused.append(error)
    if not outputs:
        if len(names) == 1:
            raise refused[0]
        raise CheckpointError(f"{path}: none of its outputs {', '.join(names)} will do; {refused[0]}") from refused[0]
    best = max(outputs, key=lambda output: output.extent)
    settings = {"name": "onnx", "output": best.kind, **({"take": best.name} if len(names) > 1 else {})}
    count = sum(int(np.prod(tensor.dims)) for tensor in graph.initializer if tensor.data_type in (1, 10, 11, 16))
    return Inspection("an ONNX network", settings, _notes(best, names, data), count or None)


def _output(path: Path, name: str, data: _Examples) -> _Output:
    """Run the network for one of its outputs. Raises CheckpointError, DataError for a picture that cannot be read."""
    channels, dims = data.channels, data.dims
    program = open_onnx(path, name, channels=channels, device=torch.device("cpu"), dims=dims)
    if data.patch is not None and program.size not in (None, data.patch):
        cube = f"give --size {program.size[0]}" if len({*program.size}) == 1 else "name it in [run.teacher] of a study"
        raise CheckpointError(f"{path}: {fixed_patch(program.size, data.patch)} ({cube})")
    config = ExportedTeacher(name="onnx", checkpoint=str(path), output="logits", take=name)
    ours = normalisation_for(channels) if dims == 2 else as_prepared(channels)
    where, regions = str(path), data.regions
    network = Exported(program, config, ours, classes=data.classes, where=where, regions=regions, dims=dims).eval()
    images = data.images()
    kind = "logits" if network.probe(images) is None else "probabilities"
    one = functional.interpolate(images[:1], size=program.size or tuple(images.shape[2:]))
    with torch.no_grad():
        shape = tuple(program.call(one.repeat(program.least, *[1] * (dims + 1))).shape)
        logits = network(images).logits
    returned = 1 if len(shape) == dims + 1 else shape[1]
    values = logits[:, 1:] if returned == 1 and not regions else logits
    extent = math.prod(shape[-dims:])
    return _Output(name, kind, returned, extent, float(values.min()), float(values.max()), program.size)


def _notes(best: _Output, names: Sequence[str], data: _Examples) -> tuple[str, ...]:
    tried = f"{min(len(data.pictures), PICTURES)} of these pictures" if data.dims == 2 else "a patch of noise"
    notes = [
        f"returns {best.channels} {'channel' if best.channels == 1 else 'channels'} from {best.low:.3g} to "
        f"{best.high:.3g} on {tried}: taken as {best.kind}"
    ]
    if len(names) > 1:
        notes.append(f"has the outputs {', '.join(names)}; the one with the largest maps is taken: {best.name}")
    if data.dims == 3:
        return (*notes, f"{_PREPARED}; mean and std beside it are taken from patches before they enter it")
    if best.size is not None and best.size != (data.size, data.size):
        height, width = best.size
        notes.append(f"takes {height} x {width} pixels alone: pictures are resized to it, and its output back")
    notes.append(
        "how its input was normalised cannot be seen: ImageNet's mean and deviation, red first, is the default. "
        f'{_SCORED}: where the Dice is low, try pixels = "0-1" with mean = [0.0] and std = [1.0], then '
        'pixels = "0-255", then colours = "bgr"'
    )
    return tuple(notes)


def _program(path: Path) -> Inspection:
    """A program of torch.export, which is not opened."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (OSError, zipfile.BadZipFile) as error:
        raise CheckpointError(f"{path}: no program of torch.export, or cut short") from error
    if not any(name.endswith(("archive_format", "serialized_exported_program.json")) for name in names):
        raise CheckpointError(f"{path}: an archive, but no program of torch.export; write one with torch.export.save")
    remarks = (
        "a program may run any code while it is opened, so it was not: where you trust whoever made it, write "
        "trust = true below; ONNX holds data alone: better, where you have the choice",
        'whether it returns logits or probabilities is not known here: set output; with several outputs, take = "0" or '
        "another number",
        "its normalisation is not known either: ImageNet's mean and deviation, red first, is the default (pixels, "
        f"mean, std, colours). {_SCORED}",
    )
    return Inspection("a program of torch.export", {"name": "export", "output": "logits"}, remarks, None)
