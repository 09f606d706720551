"""Batch normalisation and the ReLU behind it as one compiled step on a CPU: a trial, which students do not use.

torch goes over a map five times forward and back, in channels-last bf16 by a handful of channels at a time; the kernels
of `norm_kernels` go over it twice each way. Same function, parameters, running means and keys of the state dict; sums
are taken in another order, so the bits differ. Evaluation, other devices and layouts, small maps and those whose pixels
do not fill whole tiles go torch's way.
"""

import functools
import importlib
import itertools
import math
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from trainer.errors import UserError

_BITS = {torch.bfloat16: (torch.int16, np.uint16), torch.float32: (torch.float32, np.float32)}
_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}
_ORDER = {4: (0, 2, 3, 1), 5: (0, 2, 3, 4, 1)}
LEAST = 2**17
"""Values of a map below which calling the kernels takes longer than they save."""
_NO_NUMBA = "numba is not installed, which is no part of this program; pip install numba"


class FusedNorm2d(nn.BatchNorm2d):
    """Batch normalisation of pictures, with a ReLU behind it where `relu` is set."""

    relu = False

    def forward(self, input: Tensor) -> Tensor:  # torch's name
        """(N, C, H, W) to the same shape."""
        return _forward(self, input, super().forward)


class FusedNorm3d(nn.BatchNorm3d):
    """Batch normalisation of volumes, with a ReLU behind it where `relu` is set."""

    relu = False

    def forward(self, input: Tensor) -> Tensor:  # torch's name
        """(N, C, D, H, W) to the same shape."""
        return _forward(self, input, super().forward)


_FUSED: dict[type[nn.Module], type[FusedNorm2d] | type[FusedNorm3d]] = {
    nn.BatchNorm2d: FusedNorm2d,
    nn.BatchNorm3d: FusedNorm3d,
}


def fuse(network: nn.Module) -> None:
    """Let a network's batch normalisations train by the compiled kernels, in place.

    A ReLU that follows one in an `nn.Sequential` becomes part of it, and an `nn.Identity` stands in its place. Raises
    UserError where numba is not installed.
    """
    _kernels()
    homes: dict[int, int] = {}
    for module in network.modules():
        if isinstance(module, nn.Sequential):
            for child in module:
                homes[id(child)] = homes.get(id(child), 0) + 1
    for module in network.modules():
        if isinstance(module, nn.Sequential):
            _join(module, homes)
    for module in network.modules():
        if type(module) in _FUSED:
            module.__class__ = _FUSED[type(module)]


def _join(sequence: nn.Sequential, homes: dict[int, int]) -> None:
    children = list(sequence)
    for place, (norm, after) in enumerate(itertools.pairwise(children)):
        if type(norm) in _FUSED and type(after) is nn.ReLU and homes[id(norm)] == 1:
            norm.__class__ = _FUSED[type(norm)]
            norm.relu = True  # type: ignore[assignment]
            sequence[place + 1] = nn.Identity()


@functools.cache
def _kernels() -> Any:
    """The compiled kernels, which a plain start of the program does without."""
    try:
        return importlib.import_module("benchmarks.norm_kernels")
    except ModuleNotFoundError as error:
        if error.name is not None and error.name.partition(".")[0] in ("numba", "llvmlite"):
            raise UserError(_NO_NUMBA) from None
        raise


def _forward(module: Any, images: Tensor, plain: Any) -> Tensor:
    if not (module.training and _fits(module, images)):
        out: Tensor = plain(images)
        return functional.relu(out) if module.relu else out
    fused: Tensor = _Fused.apply(images, module.weight, module.bias, module)  # type: ignore[no-untyped-call]
    return fused


def _fits(module: Any, images: Tensor) -> bool:
    values, channels = images.numel(), images.shape[1]
    return (
        images.dtype in _BITS
        and images.device.type == "cpu"
        and images.is_contiguous(memory_format=_LAST[images.ndim])
        and values >= LEAST
        and values % _lanes(channels) == 0
        and module.affine
        and module.track_running_stats
        and module.momentum is not None
        and module.weight.dtype == torch.float32
        and not torch.compiler.is_compiling()
    )


@functools.cache
def _lanes(channels: int) -> int:
    """The least number of values that are whole pixels and whole tiles."""
    return math.lcm(channels, _kernels().TILE)


def _rows(maps: Tensor) -> Any:
    """The same memory as a numpy array (rows, tiles, TILE)."""
    bits, kind = _BITS[maps.dtype]
    tile = _kernels().TILE
    last = maps.permute(_ORDER[maps.ndim]).view(-1, _lanes(maps.shape[1]) // tile, tile).view(bits)
    return last.numpy().view(kind)


class _Fused(torch.autograd.Function):
    """y = relu((x - mean) / sqrt(variance + eps) * weight + bias), the mean and variance over all but the channels."""

    @staticmethod
    def forward(ctx: Any, images: Tensor, weight: Tensor, bias: Tensor, module: Any) -> Tensor:
        y, taken = torch.empty_like(images), weight.new_empty(2, len(weight))
        module.num_batches_tracked += 1
        of_norm = [weight.detach().numpy(), bias.detach().numpy(), module.running_mean.numpy()]
        of_norm += [module.running_var.numpy(), module.momentum, taken.numpy(), module.eps]
        _kernels().forward(_rows(images.detach()), _rows(y), *of_norm, module.relu)
        ctx.relu = module.relu
        ctx.save_for_backward(images, y if module.relu else images, weight, taken)
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        images, y, weight, taken = ctx.saved_tensors
        grad = grads[0].to(images.dtype).contiguous(memory_format=_LAST[images.ndim])
        out, moved = torch.empty_like(images), torch.empty_like(taken)
        maps = [_rows(each.detach()) for each in (images, y, grad, out)]
        _kernels().backward(*maps, weight.detach().numpy(), taken.numpy(), moved.numpy(), ctx.relu)
        return out, moved[0], moved[1], None
