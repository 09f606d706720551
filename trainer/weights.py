"""Weights that travel, of a teacher or a student, as a network that is ready to predict."""

from dataclasses import dataclass
from pathlib import Path

import torch
from pydantic import TypeAdapter, ValidationError

import models
from models.config import NetworkConfig
from models.output import Segmenter
from trainer import checkpoint
from trainer.checkpoint import Weights
from trainer.config import RunConfig
from trainer.errors import CheckpointError, explain

_NEEDED = ("network", "channels", "classes", "run")


@dataclass(frozen=True)
class Ready:
    """A network with its weights, and the run that made it."""

    path: Path
    network: Segmenter
    """Frozen, in evaluation mode, on the device."""
    run: RunConfig
    classes: int
    file: Weights


def ready(path: Path, *, device: torch.device) -> Ready:
    """The network in a file that `trainer fit -o`, `trainer teach` or a search wrote. Raises CheckpointError."""
    file = checkpoint.weights(path)
    absent = [name for name in _NEEDED if name not in file.words]
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
    classes = int(file.word("classes"))
    try:
        network = models.build(config, in_channels=int(file.word("channels")), classes=classes)
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}") from error
    checkpoint.fill(network, file.tensors, path)
    return Ready(path, network.requires_grad_(False).eval().to(device), run, classes, file)
