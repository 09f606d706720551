"""Operations counted as they are dispatched, by the formulas of `torch.utils.flop_counter`.

torch's own `FlopCounterMode` brings its compiler along at the first operation, a second of every process that counts;
a mode that is no business of the compiler's does not, as long as torch gets by without Python of its own.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

_LAST = {2: torch.channels_last, 3: torch.channels_last_3d}
"""By axes."""


def _normalised(image: torch.Tensor, *given: object) -> tuple[torch.Tensor, ...]:
    training = given[4]
    kept = image.shape[1] if training else 0
    return _empty(image.shape, image), image.new_empty(kept), image.new_empty(kept)


def _normalised_backward(gradient: torch.Tensor, image: torch.Tensor, *given: Any) -> tuple[torch.Tensor | None, ...]:
    wanted: Sequence[bool] = given[-1]
    sizes = (image.shape, image.shape[1:2], image.shape[1:2])
    return tuple(gradient.new_empty(size) if asked else None for size, asked in zip(sizes, wanted, strict=True))


def _joined(images: Sequence[torch.Tensor], dim: int = 0) -> torch.Tensor:
    size = list(images[0].shape)
    size[dim] = sum(image.shape[dim] for image in images)
    return images[0].new_empty(size)


def _convolved(
    image: torch.Tensor,
    weight: torch.Tensor,
    _bias: torch.Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    output_padding: Sequence[int],
    groups: int,
) -> torch.Tensor | None:
    """None for what does not fit, which torch refuses in its own words."""
    dims = weight.dim() - 2
    channels = weight.shape[0] if transposed else weight.shape[1] * groups
    if image.dim() != dims + 2 or image.shape[1] != channels:
        return None
    settings = (_of_each_axis(each, dims) for each in (stride, padding, dilation, output_padding))
    axes = zip(image.shape[2:], weight.shape[2:], *settings, strict=True)
    lengths = [
        (size - 1) * step - 2 * pad + apart * (kernel - 1) + more + 1
        if transposed
        else (size + 2 * pad - apart * (kernel - 1) - 1) // step + 1
        for size, kernel, step, pad, apart, more in axes
    ]
    if min(lengths) < 1:
        return None
    shape = (len(image), weight.shape[1] * groups if transposed else weight.shape[0], *lengths)
    return image.new_empty(shape)


def _pooled(
    image: torch.Tensor,
    kernel: Sequence[int],
    stride: Sequence[int] = (),
    padding: Sequence[int] = (0,),
    dilation: Sequence[int] = (1,),
    ceil_mode: bool = False,
) -> tuple[torch.Tensor, torch.Tensor] | None:
    """Maxima and where they are; None where torch has to decide."""
    if image.dim() != 4:
        return None
    settings = (_of_each_axis(each, 2) for each in (kernel, stride or kernel, padding, dilation))
    axes = list(zip(image.shape[2:], *settings, strict=True))
    lengths = [(size + 2 * pad - apart * (side - 1) - 1) // step + 1 for size, side, step, pad, apart in axes]
    if ceil_mode or min(lengths) < 1 or any(2 * pad > side for _, side, _, pad, _ in axes):
        return None
    shape = (*image.shape[:2], *lengths)
    return _empty(shape, image), _empty(shape, image, dtype=torch.int64)


def _empty(shape: Sequence[int], image: torch.Tensor, dtype: torch.dtype | None = None) -> torch.Tensor:
    """With channels last where the image has them so."""
    last = _LAST.get(len(shape) - 2, torch.contiguous_format)
    kept = not image.is_contiguous() and image.is_contiguous(memory_format=last)
    order = last if kept else torch.contiguous_format
    return torch.empty(shape, dtype=dtype or image.dtype, device=image.device, memory_format=order)


def _of_each_axis(setting: Sequence[int], dims: int) -> Sequence[int]:
    return list(setting) * dims if len(setting) == 1 else setting


_SIZES: Mapping[object, Callable[..., object | None]] = {
    torch.ops.aten.convolution: _convolved,
    torch.ops.aten.max_pool2d_with_indices: _pooled,
    torch.ops.aten.native_batch_norm: _normalised,
    torch.ops.aten.native_batch_norm_backward: _normalised_backward,
    torch.ops.aten.cat: _joined,
}
"""Operation -> an empty result: torch works out its size with code that brings sympy or the compiler, or takes its
time.

They suffice for the U-Net; other networks are counted alike, and with these packages.
"""


class Flops(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch leaves its modes untyped
    """Adds up the floating-point operations of what runs inside it on the meta device, outside of inference mode."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.total = 0

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Nothing is compiled in here: torch need not load its compiler to keep it out."""
        return False

    def __torch_dispatch__(
        self,
        func: torch._ops.OpOverload,
        types: object,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        given = dict(kwargs or {})
        sizes = _SIZES.get(func._overloadpacket)
        out = None if sizes is None else sizes(*args, **given)
        if out is None:
            out = func(*args, **given)
        formula: Callable[..., int] | None = flop_registry.get(func._overloadpacket)
        if formula is not None:
            self.total += formula(*args, **given, out_val=out)
        return out


class _Read(Flops):  # type: ignore[no-untyped-call]  # as above
    """Remembers which tensors operations were given, too."""

    def __init__(self) -> None:
        super().__init__()
        self.given: set[int] = set()

    def __torch_dispatch__(
        self,
        func: torch._ops.OpOverload,
        types: object,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        for each in (*args, *(kwargs or {}).values()):
            self.given |= {id(one) for one in (each if isinstance(each, list | tuple) else [each])}
        return super().__torch_dispatch__(func, types, args, kwargs)


def parameters_in_use(network: nn.Module, images: torch.Tensor) -> int:
    """Parameters that some operation of a pass over images is given, network and images on the meta device."""
    with torch.no_grad(), _Read() as read:
        network(images)
    return sum(parameter.numel() for parameter in network.parameters() if id(parameter) in read.given)
