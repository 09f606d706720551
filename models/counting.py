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


def _normalised(image: torch.Tensor, *given: object) -> tuple[torch.Tensor, ...]:
    training = given[4]
    kept = image.shape[1] if training else 0
    return torch.empty_like(image), image.new_empty(kept), image.new_empty(kept)


def _normalised_backward(gradient: torch.Tensor, image: torch.Tensor, *given: Any) -> tuple[torch.Tensor | None, ...]:
    wanted: Sequence[bool] = given[-1]
    sizes = (image.shape, image.shape[1:2], image.shape[1:2])
    return tuple(gradient.new_empty(size) if asked else None for size, asked in zip(sizes, wanted, strict=True))


def _joined(images: Sequence[torch.Tensor], dim: int = 0) -> torch.Tensor:
    size = list(images[0].shape)
    size[dim] = sum(image.shape[dim] for image in images)
    return images[0].new_empty(size)


_SIZES: Mapping[object, Callable[..., object]] = {
    torch.ops.aten.native_batch_norm: _normalised,
    torch.ops.aten.native_batch_norm_backward: _normalised_backward,
    torch.ops.aten.cat: _joined,
}
"""Operation that counts nothing -> an empty result: torch works out its size with code that brings the compiler, or
takes its time.

They suffice for the U-Net; other networks are counted alike, and with the compiler.
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
        if sizes is not None:
            return sizes(*args, **given)
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
