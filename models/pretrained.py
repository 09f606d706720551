"""Pretrained encoder weights of timm (the `smp` extra holds it), from the hub's cache, the hub, or a local file."""

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from types import ModuleType

from torch import Tensor, nn

from models.nearest import OptionError
from models.torchvision_guard import make_importable

Renaming = Callable[[Mapping[str, Tensor], nn.Module], Mapping[str, Tensor]]
"""Takes a file's tensors and the encoder; returns those of the encoder by its own names."""


def timm_module(name: str) -> ModuleType:
    """A module of timm, such as `models.resnet`. Raises OptionError in one line where timm is not installed."""
    try:
        make_importable()
        return import_module(f"timm.{name}")
    except ImportError as error:
        raise OptionError(
            f'name: networks on encoders of timm need {error.name!r}, which is not installed; pip install ".[smp]"'
        ) from error


def load_pretrained(
    encoder: nn.Module,
    weights: str,
    *,
    known_as: str,
    first: str | None = None,
    rename: Renaming,
    option: str = "weights",
) -> None:
    """Give an encoder its pretrained weights.

    weights: `imagenet`, which means the file `known_as` of timm's hub; or the path of such a file (safetensors, or one
    that `torch.load` reads without running code). first: name of the weight of the first convolution, whose input
    channels are adapted as timm does, by repeating them. Every tensor of the encoder has to be in the file, in its
    shape. On the meta device nothing is read. Raises OptionError in one line.
    """
    path = Path(weights)
    if weights != "imagenet" and not path.is_file():
        raise OptionError(f"{option} = {weights!r}: neither 'imagenet' nor a file; give one of them, or leave it out")
    own = encoder.state_dict()
    if next(iter(own.values())).device.type == "meta":
        return
    builder = timm_module("models")
    state = _from_hub(builder, weights, known_as, option) if weights == "imagenet" else _read(builder, path, option)
    given = dict(rename(state, encoder))
    if first in given and first is not None and given[first].shape[1] != own[first].shape[1]:
        given[first] = builder.adapt_input_conv(own[first].shape[1], given[first])
    missing = [name for name in own if name not in given]
    if missing:
        raise OptionError(
            f"{option} = {weights!r}: has {len(own) - len(missing)} of the encoder's {len(own)} tensors, and not "
            f"{missing[0]!r}; bring a file of timm's {known_as!r}"
        )
    other = next((name for name in own if given[name].shape != own[name].shape), None)
    if other is not None:
        raise OptionError(
            f"{option} = {weights!r}: {other!r} is {list(given[other].shape)} in the file and "
            f"{list(own[other].shape)} in the encoder; its width, depths and heads have to be those of {known_as!r}"
        )
    encoder.load_state_dict({name: given[name] for name in own})


def _read(builder: ModuleType, path: Path, option: str) -> Mapping[str, Tensor]:
    try:
        state: Mapping[str, Tensor] = builder.load_state_dict(str(path))
    except Exception as error:
        raise OptionError(
            f"{option} = {str(path)!r}: not a file of weights: {' '.join(str(error).split())[:200]}; give a "
            f"safetensors file, or a state dict that torch.save wrote"
        ) from error
    return state


def _from_hub(builder: ModuleType, weights: str, known_as: str, option: str) -> Mapping[str, Tensor]:
    repository = f"timm/{known_as}"
    try:
        with hub_without_retries():
            state: Mapping[str, Tensor] = builder.load_state_dict_from_hf(repository, weights_only=True)
    except Exception as error:
        if not is_unreachable(error):
            raise
        from huggingface_hub import constants

        raise OptionError(
            f"{option} = {weights!r}: the file {repository} of huggingface.co is neither in the hub's cache "
            f"({constants.HF_HUB_CACHE}) nor can it be fetched; on a machine with a network: hf download {repository}; "
            f"bring it into that cache (HF_HOME names another), name the file here, leave {option} out, or give a "
            f"checkpoint"
        ) from error
    return state


def is_unreachable(error: Exception) -> bool:
    """Whether a file could not be had: an error of the system, of the network, or of one of the clients for it."""
    client = type(error).__module__.partition(".")[0]
    return isinstance(error, OSError) or client in ("huggingface_hub", "httpx", "requests", "urllib3")


@contextmanager
def hub_without_retries() -> Iterator[None]:
    """Without the lines that the hub's client writes of each attempt: the last one ends in an error of ours."""
    logger = logging.getLogger("huggingface_hub")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
