"""DeepLabV3 (Chen et al. 2017, arXiv 1706.05587, figure 5) of torchvision (the `smp` extra brings it)."""

from collections.abc import Mapping
from importlib import import_module
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.nearest import OptionError
from models.output import Output, Segmenter, Tap
from models.torchvision_guard import make_importable


class _Backbone(NamedTuple):
    parts: Mapping[str, tuple[str, ...]]
    """Tap -> the children of the backbone that lead to it from the one before."""
    weights: str
    """The enumeration of its weights in torchvision."""
    first: str
    """The place of its first convolution."""


_RESNET = {
    "enc2": ("conv1", "bn1", "relu"),
    "enc3": ("maxpool", "layer1"),
    "enc4": ("layer2",),
    "enc4.dilated": ("layer3",),
    "mid": ("layer4",),
}
BACKBONES: Mapping[str, _Backbone] = {
    "resnet50": _Backbone(_RESNET, "ResNet50_Weights", "conv1"),
    "resnet101": _Backbone(_RESNET, "ResNet101_Weights", "conv1"),
}


class DeepLabV3(Segmenter):
    """A residual network whose last two stages are dilated in place of strided (output stride 8), a pyramid of dilated
    convolutions, and a head at 1/8 whose logits are brought to the input's size by bilinear interpolation.

    On resnet101, parameters for 3 channels: 58,626,114 for 2 classes, with the auxiliary head 60,986,436. That head
    (deep supervision) reads the third stage. Any size works; in training mode the pooled branch normalises one value an
    image: a rank needs two images at least.

    Taps: `enc2`, `enc3`, `enc4`, `enc4.dilated` (the third stage, at 1/8 as well), `mid` (the fourth), `dec4` (what the
    head reads).
    """

    stride = 1

    def __init__(
        self, *, backbone: str, weights: str | None, deep_supervision: bool, in_channels: int, classes: int
    ) -> None:
        super().__init__()
        made = BACKBONES[backbone]
        network = _create(backbone, made, weights, aux=deep_supervision, in_channels=in_channels, classes=classes)
        self.backbone: nn.Module = network.backbone
        *decoder, head = network.classifier
        self.decoder, self.head = nn.Sequential(*decoder), head
        self.deep_heads = int(deep_supervision)
        self.heads = nn.ModuleList([network.aux_classifier] if deep_supervision else [])
        self.parts = made.parts
        channels = {"enc2": 64, "enc3": 256, "enc4": 512, "enc4.dilated": 1024, "mid": 2048}
        strides = {"enc2": 2, "enc3": 4}
        self.taps = {name: Tap(channels[name], strides.get(name, 8)) for name in self.parts}
        self.taps["dec4"] = Tap(int(head.in_channels), 8)

    def forward(self, images: Tensor) -> Output:
        """Images (N, in_channels, H, W) of any size to logits (N, classes, H, W) and, in training mode with deep
        supervision, one head."""
        taps: dict[str, Tensor] = {}
        x = images
        for name, children in self.parts.items():
            for child in children:
                x = getattr(self.backbone, child)(x)
            taps[name] = x
        taps["dec4"] = self.decoder(x)
        size = images.shape[-2:]
        heads = [head(taps["enc4.dilated"]) for head in self.heads] if self.training else []
        logits, *others = (
            F.interpolate(each, size=size, mode="bilinear", align_corners=False)
            for each in (self.head(taps["dec4"]), *heads)
        )
        return Output(logits, taps, tuple(others))


def _create(backbone: str, made: _Backbone, weights: str | None, *, aux: bool, in_channels: int, classes: int) -> Any:
    package = _package()
    if weights is not None and in_channels != 3:
        raise OptionError(f"weights = {weights!r}: are for 3 channels, the data has {in_channels}; leave weights out")
    on_meta = torch.empty(0).device.type == "meta"
    chosen = None if weights is None or on_meta else package.models.get_weight(f"{made.weights}.IMAGENET1K_V1")
    try:
        network = getattr(package.models.segmentation, f"deeplabv3_{backbone}")(
            weights=None, weights_backbone=chosen, num_classes=classes, aux_loss=aux
        )
    except OSError as error:
        raise OptionError(
            f"weights = {weights!r}: the file for backbone {backbone!r} (torchvision's {chosen}) is neither in torch's "
            f"cache ({torch.hub.get_dir()}) nor can it be fetched; bring it into that cache (TORCH_HOME names "
            f"another), leave weights out, or give a checkpoint"
        ) from error
    if in_channels != 3:
        first = getattr(network.backbone, made.first)
        other = nn.Conv2d(in_channels, first.out_channels, first.kernel_size, first.stride, first.padding, bias=False)
        nn.init.kaiming_normal_(other.weight, mode="fan_out", nonlinearity="relu")
        setattr(network.backbone, made.first, other)
    return network


def _package() -> ModuleType:
    try:
        make_importable()
        import_module("torchvision.models.segmentation")
        return import_module("torchvision")
    except ImportError as error:
        raise OptionError(
            f'name: networks of torchvision need {error.name!r}, which is not installed; pip install ".[smp]"'
        ) from error
