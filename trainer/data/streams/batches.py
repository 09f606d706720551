"""A training batch as it comes from the CPU, and its images as a network takes them."""

from typing import NamedTuple

import torch
from torch import Tensor

from models.normalisation import IMAGENET, Normalisation
from trainer.data.masks import Regions


class Batch(NamedTuple):
    """This rank's share of a training batch."""

    images: Tensor
    """Pictures (n, S, S, C) uint8 or uint16; patches of volumes (n, C, X, Y, Z) float32, normalised already."""
    masks: Tensor
    """(n, S, S) or (n, X, Y, Z) uint8 labels, 255 ignored."""
    indices: tuple[int, ...]
    """Of the examples (`trainer.data.streams.examples`): of pictures those of the training part."""
    regions: Regions | None = None
    """What the labels are where data has regions."""

    def target(self, device: torch.device) -> Tensor:
        """What losses compare with, on the device: labels (n, *S) int64; of regions (n, regions, *S) uint8, 1 inside, 0
        outside. 255 is ignored."""
        labels = self.masks.to(device, non_blocking=True)
        return labels.long() if self.regions is None else self.regions.targets(labels)


def normalise(images: Tensor, how: Normalisation = IMAGENET) -> Tensor:
    """(n, S, S, C) uint8 or uint16 on any device to (n, C, S, S) float32, less the mean, over the deviation.

    Patches of volumes are float32 and stay as they are: their preparation normalised them. What was padded in a picture
    is black, as augmentation fills it, and so is normalised like any black pixel. Channels stay last in memory, which
    is how convolutions are fastest. No constant is sent to the device, so nothing waits for it.
    """
    if images.is_floating_point():
        return images
    top = 65535 if images.dtype == torch.uint16 else 255
    out = images.permute(0, 3, 1, 2).to(torch.float32, memory_format=torch.channels_last)
    for channel, (mean, std) in enumerate(zip(how.mean, how.std, strict=True)):
        out[:, channel].sub_(top * mean).div_(top * std)
    return out


def renormalised(images: Tensor, given: Normalisation, wanted: Normalisation) -> Tensor:
    """Images (N, C, H, W) that were normalised one way in another, but for rounding in float32."""
    channels = zip(given.mean, given.std, wanted.mean, wanted.std, strict=True)
    rows = [
        images[:, channel] * (std / other_std) + (mean - other_mean) / other_std
        for channel, (mean, std, other_mean, other_std) in enumerate(channels)
    ]
    return torch.stack(rows, dim=1)


class BatchImages:
    """The images of a batch where the networks are: each normalisation is computed once, for all who ask for it."""

    def __init__(self, pixels: Tensor) -> None:
        """pixels: as `Batch.images` has them, on the networks' device."""
        self._pixels = pixels
        self._normalised: dict[Normalisation, Tensor] = {}

    def __len__(self) -> int:
        return len(self._pixels)

    def normalised(self, how: Normalisation) -> Tensor:
        """(n, C, *S) float32; nobody may change it."""
        if how not in self._normalised:
            self._normalised[how] = normalise(self._pixels, how)
        return self._normalised[how]
