"""Another program's state dict in a network of ours: keys renamed, and a strict report of what fits."""

import hashlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor, nn

from trainer.checkpoint import SHOWN
from trainer.errors import CheckpointError

COUNTER = "num_batches_tracked"
"""A counter of batch normalisation: old files lack it, and a frozen network never reads it."""


@dataclass(frozen=True)
class Report:
    """How the keys of a file meet those of a network; names are the network's unless said otherwise."""

    matched: int
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    """Renamed keys of the file that the network has not."""
    shapes: tuple[str, ...]
    """`name is (..), expected (..)`."""
    twice: tuple[str, ...]
    """Names that several keys of the file would take."""
    widened: tuple[str, ...]
    """Tensors of a head with one channel (sigmoid), which became two: that of the background is 0."""

    @property
    def covered(self) -> bool:
        """Whether every parameter and statistic of the network is given, once and in its shape."""
        return not (self.missing or self.shapes or self.twice)

    def summary(self, most: int = SHOWN) -> str:
        """One line; of each kind the first `most` names."""
        kinds = {
            "missing": self.missing,
            "of another shape": self.shapes,
            "given twice": self.twice,
            "unexpected": self.unexpected,
            "one channel read as sigmoid": self.widened,
        }
        parts = [_listed(what, names, most) for what, names in kinds.items() if names]
        return "; ".join([f"{self.matched} keys match", *parts])


def state_dict(path: Path) -> tuple[dict[str, Tensor], str]:
    """The tensors of a file by their own keys, and its sha256. No code in the file is run.

    Tensors may lie one table deep (`state_dict`, `model`, ...), where only one table holds nothing but tensors. Raises
    CheckpointError.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror}); give a file that exists") from error
    try:
        if path.suffix == ".safetensors":
            held: object = safetensors.torch.load(content)
        else:
            held = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:
        # A damaged file, or one that holds objects, fails in any way; the reader's own message spans many lines.
        raise CheckpointError(
            f"{path}: holds more than weights, or is cut short ({type(error).__name__}); save the network's "
            f"state_dict() alone"
        ) from error
    return _tensors(held, path), hashlib.sha256(content).hexdigest()


def fit(network: nn.Module, theirs: Mapping[str, Tensor], pairs: Sequence[tuple[str, str]]) -> Report:
    """Load renamed tensors into a network where they cover all of it; without that the network stays as it is."""
    named: dict[str, Tensor] = {}
    twice = []
    for key, tensor in theirs.items():
        name = renamed(key, pairs)
        if name in named:
            twice.append(name)
        named[name] = tensor
    own = dict(network.state_dict())
    widened = [name for name in own if name in named and _one_channel(named[name], own[name])]
    for name in widened:
        named[name] = torch.cat([torch.zeros_like(named[name]), named[name]])
    shared = [name for name in own if name in named]
    wrong = [name for name in shared if named[name].shape != own[name].shape]
    report = Report(
        matched=len(shared) - len(wrong),
        missing=tuple(name for name in own if name not in named and not name.endswith(COUNTER)),
        unexpected=tuple(name for name in named if name not in own),
        shapes=tuple(f"{name} is {tuple(named[name].shape)}, expected {tuple(own[name].shape)}" for name in wrong),
        twice=tuple(twice),
        widened=tuple(widened),
    )
    if report.covered:
        network.load_state_dict({name: named.get(name, value) for name, value in own.items()})
    return report


def renamed(key: str, pairs: Sequence[tuple[str, str]]) -> str:
    """A key after each pair in turn."""
    for theirs, ours in pairs:
        if key.startswith(theirs):
            key = ours + key[len(theirs) :]
    return key


def _one_channel(tensor: Tensor, own: Tensor) -> bool:
    """Whether a tensor is that of a sigmoid head where the network has two classes; exactly the same probabilities."""
    return own.ndim > 0 and own.shape[0] == 2 and tensor.shape == (1, *own.shape[1:])


def _tensors(held: object, path: Path) -> dict[str, Tensor]:
    if not isinstance(held, Mapping):
        raise CheckpointError(f"{path}: holds a {type(held).__name__}, expected a state dict")
    if _is_state(held):
        return dict(held)
    inside = [str(name) for name, value in held.items() if _is_state(value)]
    if len(inside) != 1:
        tables = ", ".join(inside) or f"none in {', '.join(map(str, list(held)[:SHOWN])) or 'an empty file'}"
        raise CheckpointError(f"{path}: tables of tensors: {tables}; expected one; save that alone")
    return dict(held[inside[0]])


def _is_state(value: object) -> bool:
    return isinstance(value, Mapping) and bool(value) and all(isinstance(each, Tensor) for each in value.values())


def _listed(what: str, names: Sequence[str], most: int) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return f"{what}: {', '.join(names[:most])}{more}"
