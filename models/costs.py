"""What a network costs to train and to use, computed on the meta device: nothing is drawn or calculated."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

import models
from models.config import NetworkConfig, NetworkTeacher
from models.counting import Flops
from models.output import Segmenter

IMAGES = 2
"""In a batch: batch normalisation of a map of one pixel needs two."""


@dataclass(frozen=True)
class Cost:
    """Of images of size x size, in fp32."""

    size: int
    flops: int
    """Floating-point operations of a forward pass over one image, as `models.flops` counts them."""
    activations: int
    """Bytes an image that the forward pass of a training step keeps for its backward pass, weights not counted."""


@dataclass(frozen=True)
class Costs:
    """A network beside what it costs."""

    network: Segmenter
    """On the meta device, for the first size."""
    dead: int
    """Parameters that no gradient of logits and heads reaches."""
    by_size: tuple[Cost, ...]


def costs(config: NetworkConfig | NetworkTeacher, *, in_channels: int, classes: int, sizes: Sequence[int]) -> Costs:
    """A network for images of each size, built anew where its weights depend on it. Raises ValueError where it does not
    take one of them."""
    measured: list[Cost] = []
    network: Segmenter | None = None
    first: Segmenter | None = None
    dead = 0
    with torch.device("meta"):
        for size in sizes:
            if network is None or network.takes_size:
                network = models.build(config, in_channels=in_channels, classes=classes, size=size)
            images = torch.empty(IMAGES, in_channels, size, size)
            with Flops() as counter:
                activations, outputs = _forward(network.train(), images)
            if first is None:
                with Flops():
                    first, dead = network, _unreached(network, outputs)
            if network.deep_heads:  # which inference has not
                with torch.no_grad(), Flops() as counter:
                    network.eval()(images)
            measured.append(Cost(size, counter.total // IMAGES, activations))
    if first is None:
        raise ValueError("sizes: empty; name one at least")
    return Costs(first, dead, tuple(measured))


def _forward(network: Segmenter, images: Tensor) -> tuple[int, tuple[Tensor, ...]]:
    """Bytes an image that are kept for the backward pass, and what it starts from."""
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage._cdata] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        output = network(images)
    own = {each.untyped_storage()._cdata for each in (*network.parameters(), *network.buffers(), images)}
    total = sum(storage.nbytes() for key, storage in kept.items() if key not in own)
    return total // len(images), (output.logits, *output.heads)


def _unreached(network: Segmenter, outputs: tuple[Tensor, ...]) -> int:
    weights = list(network.parameters())
    gradients = torch.autograd.grad([each.sum() for each in outputs], weights, allow_unused=True)
    return sum(weight.numel() for weight, each in zip(weights, gradients, strict=True) if each is None)
