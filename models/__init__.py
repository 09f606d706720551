"""Networks by name. Free of torch until one is built.

A tap is named after its level: `enc<k>` and `dec<k>` lie at 1 / 2^(k-1) of the input's size in every network, `mid` is
what the bottleneck returns. So a name means the same resolution in student and teacher, except for `mid`. Further maps
of a level have a suffix, such as `dec2.residual`; attention maps are `gate<k>`.
"""

from collections.abc import Mapping
from importlib import import_module
from typing import TYPE_CHECKING

from models.config import NetworkConfig, NetworkTeacher, Teacher
from models.config.network import PRETRAINED
from models.nearest import OptionError, nearest
from models.normalisation import IMAGENET, Normalisation, normalisation_for

if TYPE_CHECKING:
    from models.output import Segmenter

MODELS: Mapping[str, str] = {
    "unet": "models.unet:UNet",
    "unet-awesome": "models.unet:UNet",
    "unet-selfreg": "models.unet:UNet",
    "unet-selfreg-transposed": "models.unet:UNet",
    "attention-unet": "models.attention_unet:AttentionUNet",
    "unetplusplus": "models.unetplusplus:UNetPlusPlus",
    "unetplusplus-awesome": "models.unetplusplus:UNetPlusPlus",
    "multiresunet": "models.multiresunet:MultiResUNet",
    "multiresunet-awesome": "models.multiresunet:MultiResUNet",
    "resunet": "models.resunet:ResUNet",
    "resunet-awesome": "models.resunet:ResUNet",
    "resunetplusplus": "models.resunetplusplus:ResUNetPlusPlus",
    "resunetplusplus-author": "models.resunetplusplus_author:ResUNetPlusPlusAuthor",
    "ducknet": "models.ducknet:DuckNet",
    "ducknet-17": "models.ducknet:DuckNet",
    "ducknet-34": "models.ducknet:DuckNet",
    "small-double": "models.small_unet:SmallUNet",
    "small-tail-attention": "models.small_unet:SmallUNet",
    "small-tail-wide": "models.small_unet:SmallUNet",
    "small-tail-residual": "models.small_unet:SmallUNet",
    "small-skips": "models.small_unet:SmallUNet",
    "deeplabv3": "models.deeplabv3:DeepLabV3",
    "transunet": "models.transunet:TransUNet",
    "uctransnet": "models.uctransnet:UCTransNet",
    "missformer": "models.missformer:MISSFormer",
    "swin-unet": "models.swinunet:SwinUnet",
    "hiformer-s": "models.hiformer:HiFormer",
    "hiformer-b": "models.hiformer:HiFormer",
    "hiformer-l": "models.hiformer:HiFormer",
    "cascade-pvt": "models.cascade:CascadePvt",
    "cascade-transunet": "models.cascade:CascadeTransUNet",
    "smp-unet": "models.smp:Smp",
    "smp-unetplusplus": "models.smp:Smp",
    "smp-manet": "models.smp:Smp",
    "smp-linknet": "models.smp:Smp",
    "smp-fpn": "models.smp:Smp",
    "smp-pspnet": "models.smp:Smp",
    "smp-pan": "models.smp:Smp",
    "smp-deeplabv3": "models.smp:Smp",
    "smp-deeplabv3plus": "models.smp:Smp",
    "smp-upernet": "models.smp:Smp",
    "smp-segformer": "models.smp:Smp",
}
"""Name in a study file -> module:class. Built with the options of its configuration, `in_channels` and `classes`."""


def build(
    config: NetworkConfig | NetworkTeacher,
    *,
    in_channels: int,
    classes: int,
    size: int | None = None,
    normalisation: Normalisation | None = None,
) -> "Segmenter":
    """A network in training mode on torch's default device, its weights drawn from torch's global generator.

    size: the side of its images, for networks that are made for one size; None: the one that they are made for.
    normalisation: how the data's pictures are normalised where `config` says nothing of it; None: as
    `normalisation_for` says.

    Weights of convolutions lie with their channels last, which is how they are fastest on CPU and GPU.

    `config.checkpoint` is not read here; but where one is given, pretrained encoder weights are not fetched, because
    the checkpoint replaces them. On the meta device nothing is fetched either. Raises ValueError in one line that names
    the option.
    """
    if config.name not in MODELS:
        raise ValueError(f"{_role(config)}.name = {config.name!r}: unknown network{nearest(config.name, MODELS)}")
    if in_channels < 1 or classes < 2:
        raise ValueError(f"{_role(config)}: needs 1 channel and 2 classes at least, got {in_channels} and {classes}")
    options = config.options()
    if config.checkpoint is not None:
        options |= dict.fromkeys(options.keys() & {*PRETRAINED})
    import torch

    module, _, attribute = MODELS[config.name].partition(":")
    kind: type[Segmenter] = getattr(import_module(module), attribute)
    if kind.takes_size:
        options["size"] = size
    try:
        network = kind(**options, in_channels=in_channels, classes=classes)
    except OptionError as error:
        raise OptionError(f"{_role(config)}.{error}") from error.__cause__
    network.name = config.name
    network.normalisation = expects(config, normalisation or normalisation_for(in_channels))
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stubs lack it
    return network


def expects(config: NetworkConfig | NetworkTeacher, data: Normalisation = IMAGENET) -> Normalisation:
    """How the images of a network are normalised: as the data says, unless its configuration says another way for
    pictures of so many channels."""
    own = config.expects
    return data if own == IMAGENET or len(own.mean) != len(data.mean) else own


def parameters(network: "Segmenter") -> int:
    """How many parameters a network has: weights and biases, running means and variances not counted."""
    return sum(parameter.numel() for parameter in network.parameters())


def flops(config: NetworkConfig | NetworkTeacher, *, in_channels: int, classes: int, size: int) -> int:
    """Floating-point operations of one forward pass over one image of size x size, counted on the meta device.

    The convention is that of `torch.utils.flop_counter`: two operations for each multiply-add of a convolution or a
    matrix product, none for normalisation, activation, pooling and interpolation; half of it is the number of
    multiply-adds.
    """
    import torch

    from models.counting import Flops

    with torch.device("meta"), torch.no_grad(), Flops() as counter:
        network = build(config, in_channels=in_channels, classes=classes, size=size).eval()
        network(torch.empty(1, in_channels, size, size))
    return int(counter.total)


def _role(config: NetworkConfig | NetworkTeacher) -> str:
    return "teacher" if isinstance(config, Teacher) else "student"
