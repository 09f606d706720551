"""What a network costs to train and to use, computed on the meta device: nothing is drawn or calculated."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

import models
from models.config import NetworkConfig, NetworkTeacher
from models.counting import Flops
from models.output import Segmenter
from models.recompute import recomputing

IMAGES = 2
"""In a batch: batch normalisation of a map of one pixel needs two."""


@dataclass(frozen=True)
class CostAtSize:
    """Of images of size x size, or of patches of that side, in fp32."""

    size: int
    flops: int
    """Floating-point operations of a forward pass over one image, as `models.flops` counts them."""
    activations: int
    """Bytes an image that the forward pass of a training step keeps for its backward pass, weights not counted."""
    recomputed: int
    """Those of them that are left where the maps of normalisations are computed again."""


@dataclass(frozen=True)
class Costs:
    """A network beside what it costs."""

    network: Segmenter
    """On the meta device, for the first size."""
    dead: int
    """Parameters that no gradient of logits and heads reaches."""
    by_size: tuple[CostAtSize, ...]


def costs(
    config: NetworkConfig | NetworkTeacher, *, in_channels: int, classes: int, sizes: Sequence[int], dims: int = 2
) -> Costs:
    """A network for images (dims = 2) or patches (3) of each size, built anew for each; sizes that it does not take are
    left out.

    Raises ValueError where it takes none of them, and OptionError where a package is missing.
    """
    measured: list[CostAtSize] = []
    first: Segmenter | None = None
    dead = 0
    reason: ValueError | None = None
    for size in sizes:
        try:
            with torch.device("meta"):
                network = models.build(config, in_channels=in_channels, classes=classes, size=size, dims=dims)
                cost, outputs = _at(network, torch.empty(IMAGES, in_channels, *[size] * dims))
        except ValueError as error:
            reason = error
            continue
        measured.append(cost)
        if first is None:
            first = network
            with Flops():
                dead = _unreached(network, outputs)
    if first is None:
        raise reason or ValueError("sizes: empty; name one at least")
    return Costs(first, dead, tuple(measured))


def _at(network: Segmenter, images: Tensor) -> tuple[CostAtSize, tuple[Tensor, ...]]:
    """What images cost, and the outputs of a training step, from which gradients start."""
    with Flops():
        recomputed, _ = kept_bytes(network.train(), images, "normalisation")
    with Flops() as counter:
        activations, outputs = kept_bytes(network, images)
    if network.deep_heads:  # which inference has not
        with torch.no_grad(), Flops() as counter:
            network.eval()(images)
    each = (total // len(images) for total in (counter.total, activations, recomputed))
    return CostAtSize(images.shape[-1], *each), outputs


def kept_bytes(network: Segmenter, images: Tensor, recompute: str = "none") -> tuple[int, tuple[Tensor, ...]]:
    """Bytes that a forward pass keeps for its backward pass, and what that starts from: logits and heads.

    Each memory counts once; weights, running means and the images themselves do not. recompute: of a run.
    """
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage._cdata] = storage
        return tensor

    plain = torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor)
    with plain if recompute == "none" else recomputing(recompute, keep):
        output = network(images)
    own = {each.untyped_storage()._cdata for each in (*network.parameters(), *network.buffers(), images)}
    total = sum(storage.nbytes() for key, storage in kept.items() if key not in own)
    return total, (output.logits, *output.heads)


def _unreached(network: Segmenter, outputs: tuple[Tensor, ...]) -> int:
    weights = list(network.parameters())
    gradients = torch.autograd.grad([each.sum() for each in outputs], weights, allow_unused=True)
    return sum(weight.numel() for weight, each in zip(weights, gradients, strict=True) if each is None)
