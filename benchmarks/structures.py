"""Every network that a study can name, once a structure, as small as a CPU likes it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

import models
from models.config import NetworkConfig, NetworkTeacher, network_config, teacher_config
from models.output import Segmenter, Taps

CHANNELS = 3
LIGHT = "tu-mobilenetv3_small_050"
"""An encoder for networks of segmentation-models-pytorch that take it."""


@dataclass(frozen=True)
class Structure:
    """A network at a small size."""

    options: Mapping[str, Any] = field(default_factory=dict)
    size: int = 64
    """Side of its images in pixels."""


_WIDE = {"width": 4}
_HYBRID = {"width": 8, "layers": 1, "units": (1, 1, 1)}
_HIFORMER = {"width": 12, "depths": (1, 1, 1)}
_LIGHT, _R18 = {"encoder": LIGHT}, {"encoder": "resnet18"}

STRUCTURES: Mapping[str, Structure] = {
    "unet": Structure(_WIDE),
    "unet-awesome": Structure(_WIDE),
    "unet-selfreg": Structure(_WIDE),
    "unet-selfreg-transposed": Structure(_WIDE),
    "attention-unet": Structure(_WIDE),
    "unetplusplus": Structure({**_WIDE, "deep_supervision": True}),
    "unetplusplus-awesome": Structure({**_WIDE, "deep_supervision": True}),
    "multiresunet": Structure(_WIDE),
    "multiresunet-awesome": Structure(_WIDE),
    "resunet": Structure(_WIDE),
    "resunet-awesome": Structure(_WIDE),
    "resunetplusplus": Structure(_WIDE),
    "resunetplusplus-author": Structure(_WIDE),
    "ducknet": Structure(_WIDE),
    "small-double": Structure(_WIDE),
    "small-tail-attention": Structure(_WIDE),
    "small-tail-wide": Structure(_WIDE),
    "small-tail-residual": Structure(_WIDE),
    "small-skips": Structure(_WIDE),
    "deeplabv3": Structure({"backbone": "resnet50", "deep_supervision": True}),
    "transunet": Structure(_HYBRID),
    "uctransnet": Structure({"width": 4, "layers": 1}),
    "missformer": Structure({"width": 8, "depths": (1, 1, 1, 1), "bridges": 1}),
    "swin-unet": Structure({"width": 12}),
    "hiformer-s": Structure({**_HIFORMER, "encoder": "resnet18"}),
    "hiformer-b": Structure({**_HIFORMER, "encoder": "resnet50"}),
    "hiformer-l": Structure({**_HIFORMER, "encoder": "resnet18"}),
    "cascade-pvt": Structure({"encoder": "pvt_v2_b0"}),
    "cascade-transunet": Structure(_HYBRID),
    "smp-unet": Structure(_LIGHT),
    "smp-unetplusplus": Structure(_LIGHT),
    "smp-manet": Structure(_LIGHT),
    "smp-linknet": Structure(_LIGHT),
    "smp-fpn": Structure(_LIGHT),
    "smp-pspnet": Structure(_LIGHT),
    "smp-pan": Structure(_R18, size=128),
    "smp-deeplabv3": Structure(_R18),
    "smp-deeplabv3plus": Structure(_R18),
    "smp-upernet": Structure(_LIGHT),
    "smp-segformer": Structure(_LIGHT),
}
"""Names that differ in nothing but a width (ducknet-17, ducknet-34) are not listed."""


def student(name: str, **more: Any) -> NetworkConfig:
    """The network as a student; `more` goes over its small options."""
    return network_config(name, **{**STRUCTURES[name].options, **more})


def teacher(name: str) -> NetworkTeacher:
    """The same as a teacher, which has no heads of deep supervision."""
    return teacher_config(name, **{key: value for key, value in STRUCTURES[name].options.items() if key not in _HEADS})


_HEADS = frozenset({"deep_supervision"})


def network(config: NetworkConfig | NetworkTeacher, size: int, classes: int = 2) -> Segmenter:
    """A network with the weights of seed 0."""
    torch.manual_seed(0)
    return models.build(config, in_channels=CHANNELS, classes=classes, size=size)


def pairs(ours: Taps, theirs: Taps, most: int = 1) -> tuple[list[tuple[str, str]], str]:
    """Pairs of taps (student, teacher) of one stride, those at a quarter of the image first, decoders before encoders;
    and the `resize` that they need: where no stride is shared it is the deepest of both, averaged."""
    at_stride: list[tuple[str, str]] = []
    for stride in (4, 8, 2, 16, 1, 32):
        mine = [name for name, tap in ours.items() if tap.stride == stride and "gate" not in name]
        other = [name for name, tap in theirs.items() if tap.stride == stride and "gate" not in name]
        if mine and other:
            at_stride.append((mine[-1], other[-1]))
    return (at_stride[:most], "none") if at_stride else ([("mid", "mid")], "average")
