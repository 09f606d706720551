"""Networks by name. Free of torch until one is built.

A tap is named after its level: `enc<k>` and `dec<k>` lie at 1 / 2^(k-1) of the input's size in every network, `mid` is
what the bottleneck returns. So a name means the same resolution in student and teacher, except for `mid`. Further maps
of a level have a suffix, such as `dec2.residual`; attention maps are `gate<k>`.
"""

from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import TYPE_CHECKING

from models.config import NetworkConfig, NetworkTeacher, Teacher, names_for
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
    "residual-unet-3d": "models.residual_unet:ResidualUNet3d",
    "tiny-unet-3d": "models.residual_unet:ResidualUNet3d",
    "segresnet": "models.segresnet:SegResNet",
    "espnetv2-3d": "models.espnetv2:EspNetV2",
    "mobile-unet-3d": "models.mobile_unet:MobileUNet3d",
    "lcovnet": "models.lcovnet:LcovNet",
}
"""Name in a study file -> module:class. Built with the options of its configuration, `in_channels` and `classes`."""


def build(
    config: NetworkConfig | NetworkTeacher,
    *,
    in_channels: int,
    classes: int,
    size: int | Sequence[int] | None = None,
    normalisation: Normalisation | None = None,
    dims: int = 2,
) -> "Segmenter":
    """A network in training mode on torch's default device, its weights drawn from torch's global generator.

    size: the side of its images or patches, or one for each axis, for networks that are made for one size, and to
    refuse patches that a network for volumes does not take; None: the one that they are made for, and any. dims: axes
    of space, 2 for images and 3 for volumes. normalisation: how the data's pictures are normalised where `config` says
    nothing of it; None: as `normalisation_for` says.

    Weights of convolutions of images lie with their channels last, which is how they are fastest on CPU and GPU; those
    of volumes where the network says so (`Segmenter.voxels_last`).

    `config.checkpoint` is not read here; but where one is given, pretrained encoder weights are not fetched, because
    the checkpoint replaces them. On the meta device nothing is fetched either. Raises ValueError in one line that names
    the option.
    """
    if config.name not in MODELS:
        raise ValueError(f"{_role(config)}.name = {config.name!r}: unknown network{nearest(config.name, MODELS)}")
    if dims not in config.DIMS:
        others = ", ".join(names_for(dims))
        raise ValueError(
            f"{_role(config)}.name = {config.name!r}: has no form for {dims} axes of space; take one of {others}"
        )
    if in_channels < 1 or classes < 2:
        raise ValueError(f"{_role(config)}: needs 1 channel and 2 classes at least, got {in_channels} and {classes}")
    options = config.options()
    if config.checkpoint is not None:
        options |= dict.fromkeys(options.keys() & {*PRETRAINED})
    import torch

    from models.initialisation import draw_weights

    module, _, attribute = MODELS[config.name].partition(":")
    kind: type[Segmenter] = getattr(import_module(module), attribute)
    lengths = None if size is None else sides(size, dims)
    if kind.takes_size:
        options["size"] = None if lengths is None else _square(config, lengths)
    if kind.takes_dims:
        options["dims"] = dims
    try:
        network = kind(**options, in_channels=in_channels, classes=classes)
    except OptionError as error:
        raise OptionError(f"{_role(config)}.{error}") from error.__cause__
    if lengths is not None and dims == 3:
        _check_patch(config, network, lengths)
    draw_weights(network, getattr(config, "initialisation", "torch"))
    network.name = config.name
    network.normalisation = expects(config, normalisation or normalisation_for(in_channels))
    if dims == 2 or network.voxels_last:
        last = torch.channels_last if dims == 2 else torch.channels_last_3d
        network.to(memory_format=last)  # type: ignore[call-overload]  # torch's stubs lack it
    return network


def sides(size: int | Sequence[int], dims: int) -> tuple[int, ...]:
    """A length for each of `dims` axes, of one for all or one for each. Raises ValueError where there are others."""
    lengths = (size,) * dims if isinstance(size, int) else tuple(size)
    if len(lengths) != dims or min(lengths) < 1:
        raise ValueError(f"size = {size}: expected {dims} lengths of 1 at least, or one for all")
    return lengths


def _square(config: NetworkConfig | NetworkTeacher, lengths: tuple[int, ...]) -> int:
    if len(set(lengths)) > 1:
        shape = " x ".join(map(str, lengths))
        raise ValueError(f"data.size: {config.name} is made for images of one side, got {shape}; take another network")
    return lengths[0]


def _check_patch(config: NetworkConfig | NetworkTeacher, network: "Segmenter", lengths: tuple[int, ...]) -> None:
    """Raises ValueError where a patch is not divisible, too short, or leaves nothing to normalise at the bottom."""
    shape, stride = " x ".join(map(str, lengths)), network.stride
    if any(length % stride for length in lengths):
        near = " x ".join(str(max(round(length / stride), 1) * stride) for length in lengths)
        raise ValueError(
            f"data.patch = {shape}: the {_role(config)} {config.name} takes multiples of {stride}; try {near}"
        )
    if any(length < network.least for length in lengths):
        raise ValueError(
            f"data.patch = {shape}: the {_role(config)} {config.name} takes {network.least} along each axis at least"
        )
    if network.alone and all(length == stride for length in lengths):
        raise ValueError(
            f"data.patch = {shape}: the {_role(config)} {config.name} makes one voxel of it, which has no deviation; "
            f"take {2 * stride} along one axis at least"
        )


def expects(config: NetworkConfig | NetworkTeacher, data: Normalisation = IMAGENET) -> Normalisation:
    """How the images of a network are normalised: as the data says, unless its configuration says another way for
    pictures of so many channels."""
    own = config.expects
    return data if own == IMAGENET or len(own.mean) != len(data.mean) else own


def parameters(network: "Segmenter") -> int:
    """How many parameters a network has: weights and biases, running means and variances not counted."""
    return sum(parameter.numel() for parameter in network.parameters())


def live_parameters(
    config: NetworkConfig | NetworkTeacher, *, in_channels: int, classes: int, size: int | Sequence[int], dims: int = 2
) -> int:
    """How many of them a pass in training uses: some published networks have parameters that nothing ever reads, which
    are no part of what they cost. Counted on the meta device."""
    import torch

    from models.counting import parameters_in_use

    with torch.device("meta"):
        network = build(config, in_channels=in_channels, classes=classes, size=size, dims=dims)
        return parameters_in_use(network, torch.empty(2, in_channels, *sides(size, dims)))


def flops(
    config: NetworkConfig | NetworkTeacher,
    *,
    in_channels: int,
    classes: int,
    size: int | Sequence[int],
    dims: int = 2,
) -> int:
    """Floating-point operations of one forward pass over one image of size x size, or over one patch of that side or
    of these, counted on the meta device.

    The convention is that of `torch.utils.flop_counter`: two operations for each multiply-add of a convolution or a
    matrix product, none for normalisation, activation, pooling and interpolation; half of it is the number of
    multiply-adds.
    """
    import torch

    from models.counting import Flops

    with torch.device("meta"), torch.no_grad(), Flops() as counter:
        network = build(config, in_channels=in_channels, classes=classes, size=size, dims=dims).eval()
        network(torch.empty(1, in_channels, *sides(size, dims)))
    return int(counter.total)


def _role(config: NetworkConfig | NetworkTeacher) -> str:
    return "teacher" if isinstance(config, Teacher) else "student"
