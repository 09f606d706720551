"""What stands in checkpoint files and how they get to disk: beside, fsynced, renamed, so no half file is ever seen.

Two kinds: all of a member's state, to be resumed (`save`, `load`), and weights that travel (`export`, `weights`) as
safetensors with words beside them. Neither runs code when read.
"""

import hashlib
import io
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import safetensors
import torch
from pydantic import TypeAdapter, ValidationError
from safetensors.torch import save as safetensors_bytes
from torch import Tensor, nn

import models
from models.config import NetworkConfig
from models.normalisation import IMAGENET, Normalisation
from models.output import Segmenter
from trainer import checkpoint
from trainer.atomic_files import whole_file
from trainer.config import DataConfig, RunConfig
from trainer.config.validation import explain
from trainer.data.classes import channels_of, classes_of, dims_of, normalisation_of, overlaps, size_of
from trainer.errors import CheckpointError, received
from trainer.reports import Saved

# A checkpoint's sha256 covers all of it, so the sums inside would only be computed a second time.
torch.serialization.set_crc32_options(False)

SHOWN = 3
"""Keys that a message lists before it counts the rest."""


@dataclass(frozen=True)
class Weights:
    """Weights that travel."""

    tensors: Mapping[str, Tensor]
    """The network's state dict, on the host."""
    metadata: Mapping[str, str]
    """The metadata: JSON text by name."""
    sha256: str
    path: Path
    """Where they were read."""

    def word(self, name: str) -> Any:
        """A piece of metadata, parsed; None where the file has none of that name. Raises CheckpointError."""
        try:
            return json.loads(self.metadata[name]) if name in self.metadata else None
        except ValueError as error:
            raise CheckpointError(
                f"{self.path}: its metadata {name!r} is no JSON ({error}); give a file that this program wrote"
            ) from error


class _Hashed:
    """A file that is being written, and the sha256 of what went into it, so that neither needs a second copy of it."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.sha256 = hashlib.sha256()
        self.size = 0
        self.refused: OSError | None = None
        """What the disk answered; torch hides it behind an error of its own."""

    def write(self, content: bytes) -> int:
        """Write all of it."""
        self.sha256.update(content)
        self.size += len(content)
        try:
            return self._file.write(content)
        except OSError as error:
            self.refused = error
            raise

    def flush(self) -> None:
        """Torch asks for it; `_write_with` does it once, at the end."""


def write(path: Path, content: bytes) -> Saved:
    """Put `content` at `path` so that a reader sees all of it or the file that was there before.

    Raises OSError where the disk refuses; then what was there stands, or the whole of `content` where the disk refused
    no more than to make the new name last.
    """
    return _write_with(path, lambda file: file.write(content))


def _write_with(path: Path, fill_in: Callable[[_Hashed], object]) -> Saved:
    with whole_file(path) as file:
        hashed = _Hashed(file)
        try:
            fill_in(hashed)
        except RuntimeError:
            if hashed.refused is None:
                raise
            raise hashed.refused from None
    return Saved(path, hashed.sha256.hexdigest(), hashed.size)


def save(path: Path, state: Mapping[str, Any]) -> Saved:
    """Write a state of tensors, numbers, texts, lists and dicts, to be read by `load`. Raises OSError like `write`."""
    return _write_with(path, partial(torch.save, dict(state)))


def load(path: Path, *, sha256: str | None = None) -> dict[str, Any]:
    """A state that `save` wrote, on the host. Raises CheckpointError where the file is missing, cut short, changed, or
    holds more than tensors and plain values."""
    content = _read(path, sha256)
    try:
        state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:
        # A damaged or hostile file makes the reader fail in any way; its own message spans many lines.
        raise CheckpointError(f"{path}: not a checkpoint of this program, or cut short ({_first(error)})") from error
    if not isinstance(state, dict):
        raise CheckpointError(f"{path}: holds a {type(state).__name__}, expected the state of a run")
    return state


def export(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, object]) -> Saved:
    """Write weights as safetensors; `metadata` (network, scores, hashes, ...) are stored beside them as JSON texts."""
    ready = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    texts = {name: json.dumps(word, sort_keys=True) for name, word in metadata.items()}
    return write(path, safetensors_bytes(ready, metadata=texts))


def weights(path: Path, *, sha256: str | None = None) -> Weights:
    """What `export` wrote. Raises CheckpointError where the file is missing, cut short, changed, or of another kind."""
    content = _read(path, sha256)
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no mapping
    except (safetensors.SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: not a safetensors file, or cut short ({_first(error)})") from error
    return Weights(tensors, metadata, hashlib.sha256(content).hexdigest(), path)


def fill(module: nn.Module, tensors: Mapping[str, Tensor], path: Path | str) -> None:
    """Load weights into a network, strictly. Raises CheckpointError with the first keys and shapes that do not fit."""
    _check_fit(module, tensors, path)
    module.load_state_dict(dict(tensors))


def _check_fit(module: nn.Module, tensors: Mapping[str, Tensor], path: Path | str) -> None:
    """Compare names and shapes; the network may lie on the meta device, where it takes no memory."""
    own = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    given = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    shapes = [
        f"{name} is {given[name]}, expected {own[name]}" for name in own if given.get(name, own[name]) != own[name]
    ]
    wrong = [
        _list("missing", [name for name in own if name not in given]),
        _list("unexpected", [name for name in given if name not in own]),
        _list("of another shape", shapes),
    ]
    if any(wrong):
        mistakes = "; ".join(filter(None, wrong))
        raise CheckpointError(
            f"{path}: weights of another network: {mistakes}; give the network that the file was made with"
        )


def refuse_other_normalisation(file: Weights, own: Normalisation, path: Path) -> None:
    """Raise CheckpointError where weights that a student starts from were trained on images normalised another way; a
    file that says nothing of its network is taken as it is."""
    network = file.word("network")
    if network is None:
        return
    run = file.word("run")
    base = IMAGENET if run is None else normalisation_of(RunConfig.model_validate(run).data)
    trained = Normalisation(*(tuple(network.get(name) or getattr(base, name)) for name in Normalisation._fields))
    if trained != own:
        raise CheckpointError(
            f"{path}: was trained with mean {list(trained.mean)} and std {list(trained.std)}, and this student has "
            f"mean {list(own.mean)} and std {list(own.std)}; set student.mean and student.std to those of the file"
        )


def digest(path: Path) -> str:
    """sha256 of a file. Raises CheckpointError where there is none."""
    return hashlib.sha256(_read(path, None)).hexdigest()


def _read(path: Path, sha256: str | None) -> bytes:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise CheckpointError(
            f"{path}: cannot be read ({error.strerror}); give the path of a file that exists"
        ) from error
    digest_read = hashlib.sha256(content).hexdigest()
    if sha256 is not None and digest_read != sha256:
        raise CheckpointError(
            f"{path}: sha256 is {digest_read[:12]}..., expected {sha256[:12]}...; the file was changed"
        )
    return content


def _list(what: str, names: list[str]) -> str:
    if not names:
        return ""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return f"{what}: {', '.join(names[:SHOWN])}{more}"


def _first(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:120] if lines else type(error).__name__


_NEEDED = ("network", "channels", "classes", "run")


@dataclass(frozen=True)
class Ready:
    """A network with its weights, and the run that made it."""

    path: Path
    network: Segmenter
    """Frozen, in evaluation mode, on the device."""
    run: RunConfig
    classes: int
    """Or regions."""
    file: Weights


def ready(path: Path, *, device: torch.device) -> Ready:
    """The network in a file that `trainer fit -o`, `trainer teach` or a search wrote. Raises CheckpointError."""
    file = checkpoint.weights(path)
    absent = [name for name in _NEEDED if name not in file.metadata]
    if absent:
        raise CheckpointError(
            f"{path}: says nothing of its {', '.join(absent)}; give a file of `trainer fit -o` or `trainer teach`"
        )
    try:
        network_config: NetworkConfig = TypeAdapter(NetworkConfig).validate_python(file.word("network"))
        run = RunConfig.model_validate(file.word("run"))
    except ValidationError as error:
        raise CheckpointError(explain(error, str(path), model=RunConfig)) from error
    # The file holds all weights: none are to be fetched for the encoder first.
    config = network_config.model_copy(update={"checkpoint": str(path)})
    channels, classes = _count(file, "channels"), _count(file, "classes")
    try:
        # What the file says of itself is compared with what it holds before a network of that size is made.
        with torch.device("meta"):
            _check_fit(
                models.build(
                    config, in_channels=channels, classes=classes, size=size_of(run.data), dims=dims_of(run.data)
                ),
                file.tensors,
                path,
            )
        network = models.build(
            config,
            in_channels=channels,
            classes=classes,
            size=size_of(run.data),
            dims=dims_of(run.data),
            normalisation=normalisation_of(run.data) if channels == channels_of(run.data) else None,
        )
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}") from error
    checkpoint.fill(network, file.tensors, path)
    return Ready(path, network.requires_grad_(False).eval().to(device), run, classes, file)


def refuse_other_data(made: Ready, pictures: DataConfig) -> None:
    """Raise CheckpointError in one line where a trained network has other classes or channels than the data, or its
    classes in another order."""
    known, own = classes_of(pictures), classes_of(made.run.data)
    channels = made.file.word("channels")
    if (len(known), channels_of(pictures)) != (made.classes, channels):
        raise CheckpointError(
            f"{made.path}: made for {made.classes} classes and {channels} channels, but the data has {len(known)} and "
            f"{channels_of(pictures)}; give --data a study or run whose data fits"
        )
    if overlaps(pictures) != overlaps(made.run.data):
        have, had = ("regions" if overlaps(each) else "classes" for each in (pictures, made.run.data))
        raise CheckpointError(
            f"{made.path}: was trained on {had}, and the data has {have}; give --data a study or run whose data fits"
        )
    names, trained = ([each.name for each in classes] for classes in (known, own))
    if names != trained and sorted(names) == sorted(trained):
        field = "regions" if overlaps(pictures) else "classes"
        raise CheckpointError(
            f"data.{field} = {', '.join(names)}: {made.path} was trained on {', '.join(trained)}, in this order; order "
            f"the {field} as it has them"
        )


def _count(file: Weights, name: str) -> int:
    """A whole number above 0 that the file says of itself. Raises CheckpointError."""
    value = file.word(name)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise CheckpointError(
            f"{file.path}: its metadata {name!r} is {received(value)}, expected a whole number above 0"
        )
    return value
