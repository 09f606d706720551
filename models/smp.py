"""Networks of segmentation-models-pytorch by encoder name (the `smp` extra)."""

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from types import ModuleType
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from models.blocks import check_size
from models.nearest import OptionError, nearest
from models.output import Output, Segmenter, Tap
from models.pretrained import hub_without_retries, is_unreachable
from models.torchvision_guard import make_importable


class _Architecture(NamedTuple):
    kind: str
    """The class in the package."""
    last: str
    """The tap of the decoder's last map."""
    paper: str
    depth: int = 5
    """Levels of the encoder."""


ARCHITECTURES: Mapping[str, _Architecture] = {
    "smp-unet": _Architecture("Unet", "dec1", "Ronneberger et al. 2015, arXiv 1505.04597"),
    "smp-unetplusplus": _Architecture("UnetPlusPlus", "dec1", "Zhou et al. 2018, arXiv 1807.10165"),
    "smp-manet": _Architecture("MAnet", "dec1", "Fan et al. 2020, IEEE Access 8:179656"),
    "smp-linknet": _Architecture("Linknet", "dec1", "Chaurasia and Culurciello 2017, arXiv 1707.03718"),
    "smp-fpn": _Architecture("FPN", "dec3", "Lin et al. 2016, arXiv 1612.03144"),
    "smp-pspnet": _Architecture("PSPNet", "dec4", "Zhao et al. 2016, arXiv 1612.01105", depth=3),
    "smp-pan": _Architecture("PAN", "dec3", "Li et al. 2018, arXiv 1805.10180"),
    "smp-deeplabv3": _Architecture("DeepLabV3", "dec4", "Chen et al. 2017, arXiv 1706.05587"),
    "smp-deeplabv3plus": _Architecture("DeepLabV3Plus", "dec3", "Chen et al. 2018, arXiv 1802.02611"),
    "smp-upernet": _Architecture("UPerNet", "dec3", "Xiao et al. 2018, arXiv 1807.10221"),
    "smp-segformer": _Architecture("Segformer", "dec3", "Xie et al. 2021, arXiv 2105.15203"),
}
"""Name in a study file -> what it is in the package. Depths are those for which its logits have the input's size."""


class _Parts(Protocol):
    """What is used of a network of the package, which ships no types."""

    encoder: Any
    decoder: nn.Module
    segmentation_head: Any
    requires_divisible_input_shape: bool

    def to(self, device: str) -> "_Parts": ...


class _Kind(Protocol):
    __name__: str

    def __call__(self, *, encoder_weights: str | bool | None, **options: str | int) -> _Parts: ...


class Smp(Segmenter):
    """Encoder, decoder and head of one network of the package.

    Taps: `enc2`..`enc5`, the encoder's maps at 1/2 .. 1/16 of the input, `mid`, its deepest, and the decoder's last.
    An encoder that has no map at a level (transformers start at 1/4) has no tap there. DeepLabV3's stays at 1/8:
    its last map but one is `enc4.dilated`. PSPNet's encoder ends at 1/8, and its later levels are never used.

    In training mode the pooled branch of smp-pan, smp-deeplabv3, smp-deeplabv3plus and smp-upernet normalises one value
    an image: a rank needs two images at least.
    """

    takes_size = True

    def __init__(
        self,
        *,
        architecture: str,
        encoder: str,
        weights: str | None,
        in_channels: int,
        classes: int,
        size: int | None = None,
    ) -> None:
        super().__init__()
        made = ARCHITECTURES[architecture]
        own = None if size is None or _takes(made, encoder, size) else size
        network = _create(made, encoder, weights, in_channels=in_channels, classes=classes, size=own)
        self.encoder: nn.Module = network.encoder
        self.decoder: nn.Module = network.decoder
        self.head: nn.Module = network.segmentation_head
        self.paper = made.paper
        deepest = int(network.encoder.output_stride)
        self.stride = deepest if network.requires_divisible_input_shape else 1
        counts = network.encoder.out_channels[1:]
        maps = zip(_names(made.depth, deepest), counts, strict=True)
        self.taps = {name: Tap(int(count), stride) for (name, stride), count in maps if count}
        self.taps[made.last] = Tap(int(network.segmentation_head[0].in_channels), 2 ** (int(made.last[3:]) - 1))

    def forward(self, images: Tensor) -> Output:
        """Images (N, in_channels, H, W), H and W multiples of `stride`, to logits of that size. Raises ValueError."""
        check_size(images, self.stride, self.name)
        features = self.encoder(images)
        decoded = self.decoder(features)
        maps = [feature for feature in features[1:] if feature.shape[1]]
        return Output(self.head(decoded), dict(zip(self.taps, [*maps, decoded], strict=True)))


def _names(depth: int, deepest: int) -> list[tuple[str, int]]:
    """Name and stride of the maps of an encoder whose last one lies at 1 / deepest of the input."""
    levels = [
        (f"enc{level}", 2 ** (level - 1))
        if 2 ** (level - 1) <= deepest
        else (f"enc{deepest.bit_length()}.dilated", deepest)
        for level in range(2, depth + 1)
    ]
    return [*levels, ("mid", deepest)]


def _create(
    made: _Architecture, encoder: str, weights: str | None, *, in_channels: int, classes: int, size: int | None
) -> _Parts:
    """size: the side of images that the encoder is made for; None: what it is made for by itself."""
    package = _package()
    chosen = _weights(package, encoder, weights)
    options: dict[str, str | int] = {
        "encoder_name": encoder,
        "in_channels": in_channels,
        "classes": classes,
        "encoder_depth": made.depth,
    }
    if size is not None:
        options["img_size"] = size
    with _old_names_allowed(), hub_without_retries():
        kind: _Kind = getattr(package, made.kind)
        if torch.empty(0).device.type == "meta":
            return _create_on_meta(kind, encoder, options)
        try:
            return kind(encoder_weights=chosen, **options)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:
            if chosen is not None and is_unreachable(error):
                raise _out_of_reach(package, encoder, weights) from error
            if isinstance(error, _UNFIT):
                raise _unfit(encoder, made.kind, error) from error
            raise


def _out_of_reach(package: ModuleType, encoder: str, weights: str | None) -> OptionError:
    from huggingface_hub import constants

    repository = _repository(package, encoder, weights)
    asked = f"{repository} of huggingface.co" if repository else "of timm"
    bring = f"on a machine with a network: hf download {repository}; " if repository else ""
    return OptionError(
        f"weights = {weights!r}: the file for encoder {encoder!r} ({asked}) is neither in the hub's cache "
        f"({constants.HF_HUB_CACHE}) nor can it be fetched; {bring}bring it into that cache (HF_HOME names another), "
        f"leave weights out, or give a checkpoint"
    )


def _repository(package: ModuleType, encoder: str, weights: str | None) -> str | None:
    """Where on the hub pretrained weights lie."""
    name = _timm_name(package, encoder)
    if name is None:
        return str(package.encoders.encoders[encoder]["pretrained_settings"][weights]["repo_id"])
    settings = _settings(name)
    return None if settings is None else settings.hf_hub_id


@contextmanager
def _old_names_allowed() -> Iterator[None]:
    """Old names still resolve to the same networks, and study files and stored runs go on using them."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="`timm-` encoders are deprecated", category=DeprecationWarning)
        yield


@cache
def _takes(made: _Architecture, encoder: str, size: int) -> bool:
    """Whether an encoder as it is made by itself takes images of this side; no for one of a fixed size, such as a Swin
    transformer, which has to be told it. One that cannot be told either is as good as one that takes it."""
    package = _package()
    name = _timm_name(package, encoder)
    settings = None if name is None else _settings(name)
    if settings is None or not settings.fixed_input_size or size in settings.input_size[1:]:
        return True
    return _passes(package, made, encoder, size) or not _passes(package, made, encoder, size, img_size=size)


def _passes(package: ModuleType, made: _Architecture, encoder: str, size: int, **options: int) -> bool:
    """Whether images of this side go through; nothing is drawn or computed."""
    kind: _Kind = getattr(package, made.kind)
    plain: dict[str, str | int] = {"encoder_name": encoder, "in_channels": 3, "classes": 2, "encoder_depth": made.depth}
    try:
        with _old_names_allowed(), torch.random.fork_rng(devices=[]), torch.device("meta"), torch.no_grad():
            network: Any = _create_on_meta(kind, encoder, {**plain, **options})
            network.eval()(torch.empty(1, 3, size, size))
    except (*_UNFIT, OptionError):
        return False
    return True


_UNFIT = (RuntimeError, ValueError, TypeError, AttributeError, IndexError, AssertionError)
"""What the package and timm raise for an encoder that has no pyramid of five levels."""


def _create_on_meta(kind: _Kind, encoder: str, options: dict[str, str | int]) -> _Parts:
    try:
        return kind(encoder_weights=None, **options)
    except _UNFIT:
        # Some encoders compute with tensor values while they are built, which have no values on the meta device.
        try:
            with torch.random.fork_rng(devices=[]), torch.device("cpu"):
                return kind(encoder_weights=None, **options).to("meta")
        except _UNFIT as error:
            raise _unfit(encoder, kind.__name__, error) from error


def _unfit(encoder: str, architecture: str, error: Exception) -> OptionError:
    reason = " ".join(str(error).split())[:200]
    return OptionError(f"encoder = {encoder!r}: cannot carry {architecture}: {reason}; choose another encoder")


def _package() -> ModuleType:
    try:
        make_importable()
        return import_module("segmentation_models_pytorch")
    except ImportError as error:
        raise OptionError(
            f"name: networks of segmentation-models-pytorch need {error.name!r}, which is not installed; "
            f'pip install ".[smp]"'
        ) from error


def _weights(package: ModuleType, encoder: str, weights: str | None) -> str | bool | None:
    """What the package takes as `encoder_weights`. Raises OptionError for an unknown encoder or unknown weights."""
    own = package.encoders.encoders
    timm = import_module("timm")
    name = _timm_name(package, encoder)
    if encoder not in own and not (name and timm.is_model(name)):
        known = [*own, *(f"tu-{model}" for model in timm.list_models())]
        raise OptionError(f"encoder = {encoder!r}: unknown encoder{nearest(encoder, known)}")
    if weights is None:
        return None
    if name is None:
        settings = own[encoder]["pretrained_settings"]
        known = list(settings)
    else:
        known = ["imagenet"] if timm.models.is_model_pretrained(name) else []
    if weights not in known:
        advice = nearest(weights, known) if known else "; leave weights out"
        raise OptionError(f"weights = {weights!r}: unknown for encoder {encoder!r}{advice}")
    return weights if name is None else True


def _settings(name: str) -> Any:
    """timm's `pretrained_cfg` of a model, whether there are weights or not; None where it has none."""
    try:
        return import_module("timm").models.get_pretrained_cfg(name)
    except RuntimeError:  # a tag that it does not know, which building the model refuses
        return None


def pretrained_settings(encoder: str) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    """Mean and deviation of RGB in [0, 1] in timm's `pretrained_cfg` of an encoder; None for one that has no pretrained
    weights, or that timm does not know. Raises ValueError in one line where a package is missing."""
    name, timm = _timm_name(_package(), encoder), import_module("timm")
    if name is None or not timm.models.is_model_pretrained(name):
        return None
    config = timm.models.get_pretrained_cfg(name)
    return tuple(config.mean), tuple(config.std)


def _timm_name(package: ModuleType, encoder: str) -> str | None:
    """timm's name of an encoder that the package takes from timm, None for its own; the package rewrites old names."""
    if encoder.startswith("tu-"):
        return encoder[3:]
    if package.encoders.is_equivalent_to_timm_universal(encoder):
        name = encoder.removeprefix("timm-")
        return f"tf_{name}" if "mobilenetv3" in name else name
    return None
