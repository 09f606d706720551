"""A network that another program exported, in the place of a teacher: its own input and output brought to ours."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from models.config import ExportedTeacher
from models.output import Output, Segmenter
from trainer.data.stream import MEAN, STD
from trainer.errors import CheckpointError

LEAST = 1e-6
"""Probabilities nearer to 0 and 1 are brought there before their logarithm."""
LOOSE = 0.01
"""How far a pixel's class probabilities may be from 1 in sum."""


@dataclass(frozen=True)
class Program:
    """What a file offers once it is open."""

    call: Callable[[Tensor], Tensor]
    """Images (n, C, H, W) float32 on the teacher's device, contiguous, to its output (n, k, h, w) or (n, h, w)."""
    size: tuple[int, int] | None
    """Height and width that it takes; None: any."""
    least: int
    most: int | None
    """Images in one call; None: any number."""


class Exported(Segmenter):
    """Images normalised as for our networks to logits (N, classes, S, S), whatever the program takes and returns.

    The images get the program's own normalisation and, where its size is fixed, are resized to it; the output is
    resized back (bilinear, half-pixel centres). One channel z becomes the logits (0, z), whose softmax is sigmoid(z)
    exactly; probabilities become their logarithms, one channel p its logit. It always runs in the precision that it was
    exported in. Raises CheckpointError for an output that is not what the settings say.
    """

    stride = 1

    def __init__(self, program: Program, config: ExportedTeacher, *, channels: int, classes: int, where: str) -> None:
        super().__init__()
        self.tap_channels = {}
        self._program, self._config, self._classes, self._where = program, config, classes, where
        scale, shift = _normalisation(config, channels, where)
        self.register_buffer("scale", scale)
        self.register_buffer("shift", shift)
        self.scale: Tensor
        self.shift: Tensor

    def forward(self, images: Tensor) -> Output:
        """Normalised images (N, C, S, S) to logits; no taps."""
        size = (int(images.shape[-2]), int(images.shape[-1]))
        with torch.autocast(images.device.type, enabled=False):
            out = self._returned(images)
            if tuple(out.shape[-2:]) != size:
                out = functional.interpolate(out, size=size, mode="bilinear", align_corners=False)
            return Output(self._logits(out), {})

    def _returned(self, images: Tensor) -> Tensor:
        """What the program says of normalised images: (N, 1 or classes, h, w) float32."""
        x = images.float() * self.scale + self.shift
        x = x.flip(1) if self._config.colours == "bgr" else x
        if self._program.size not in (None, tuple(x.shape[-2:])):
            x = functional.interpolate(x, size=self._program.size, mode="bilinear", align_corners=False)
        out = torch.cat([self._called(part) for part in torch.split(x.contiguous(), self._program.most or len(x))])
        return self._checked(out[:, None] if out.ndim == 3 else out)

    def _called(self, images: Tensor) -> Tensor:
        """The program on one share, filled up with copies of its last image where the program takes more."""
        short = self._program.least - len(images)
        if short > 0:
            images = torch.cat([images, images[-1:].expand(short, -1, -1, -1)])
        try:
            out = self._program.call(images)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:
            # Whatever runs the program has errors of its own, of many lines.
            reason = " ".join(str(error).split())[:160]
            raise CheckpointError(
                f"{self._where}: does not take images {tuple(images.shape)}: {reason}; choose another data.size"
            ) from error
        return out[: len(out) - max(short, 0)].float()

    def _checked(self, out: Tensor) -> Tensor:
        if out.ndim != 4 or out.shape[1] not in (1, self._classes) or (out.shape[1] == 1 and self._classes != 2):
            wished = "1 or 2 channels" if self._classes == 2 else f"{self._classes} channels"
            raise CheckpointError(
                f"{self._where}: returns {tuple(out.shape)}, expected images, {wished}, height and width; export the "
                f"network with such an output, or name it with teacher.take"
            )
        return out

    def _logits(self, out: Tensor) -> Tensor:
        if self._config.output == "probabilities":
            out = out.clamp(LEAST, 1 - LEAST)
            out = torch.logit(out) if out.shape[1] == 1 else out.log()
        return torch.cat([torch.zeros_like(out), out], dim=1) if out.shape[1] == 1 else out

    @torch.no_grad()
    def probe(self, images: Tensor) -> str | None:
        """Run on a few normalised images; a doubt about `output` in words, or None. Raises CheckpointError."""
        out = self._returned(images)
        low, high, sums = float(out.min()), float(out.max()), out.sum(1)
        if not bool(torch.isfinite(out).all()):
            raise CheckpointError(f"{self._where}: returns values that are not finite on images of this data")
        proper = low >= 0.0 and high <= 1.0 and (out.shape[1] == 1 or float((sums - 1).abs().max()) < LOOSE)
        if self._config.output == "probabilities" and not proper:
            raise CheckpointError(
                f'teacher.output = "probabilities": {self._where} returns {low:.3g} to {high:.3g}; set it to "logits"'
                if not 0.0 <= low <= high <= 1.0
                else f'teacher.output = "probabilities": the classes of {self._where} do not add up to 1; export logits'
            )
        if self._config.output == "logits" and proper:
            return f"{self._where} returns {low:.3g} to {high:.3g}: if those are probabilities, set teacher.output so"
        return None


def _normalisation(config: ExportedTeacher, channels: int, where: str) -> tuple[Tensor, Tensor]:
    """Scale and shift (C, 1, 1) from images normalised as for our networks to those that the program takes."""
    byte = config.pixels == "0-255"
    ours_mean, ours_std = torch.tensor(MEAN), torch.tensor(STD)
    black = torch.zeros(channels)
    mean = _channels(config, "mean", black if byte else ours_mean, where)
    std = _channels(config, "std", black + 1 if byte else ours_std, where)
    top = 255.0 if byte else 1.0
    if not byte and torch.equal(mean, ours_mean) and torch.equal(std, ours_std):
        return torch.ones(channels, 1, 1), torch.zeros(channels, 1, 1)
    return (top * ours_std / std)[:, None, None], ((top * ours_mean - mean) / std)[:, None, None]


def _channels(config: ExportedTeacher, name: Literal["mean", "std"], other: Tensor, where: str) -> Tensor:
    """The values given, in the order of our channels, or the others."""
    given, channels = getattr(config, name), len(other)
    if given is None:
        return other
    if len(given) not in (1, channels):
        raise CheckpointError(f"teacher.{name} = {list(given)}: {where} is given {channels} channels; write as many")
    values = torch.tensor(given).expand(channels)
    # They stand in the order of its channels, and are applied before the channels are turned round.
    return values.flip(0) if config.colours == "bgr" else values
