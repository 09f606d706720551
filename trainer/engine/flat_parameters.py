"""Parameters of a module as views of one tensor, their gradients of another: one reduction, one step, few kernels."""

import copy
from collections.abc import Mapping, Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn

ALIGN = 16
"""Elements: each parameter starts at a multiple of 64 bytes, as a tensor of its own would."""

FAILED, NOT_FINITE = 0, 1
"""Places in `Flat.flags`: the member failed on some rank; its loss was not finite there."""
COUNTS, ANY_FAILED, STOP = slice(None, -2), -2, -1
"""Places in what the ranks sum before a backward pass: the count of each loss term, how many ranks failed, and how many
wish to stop."""

M = TypeVar("M", bound=nn.Module)


def _laid(vector: Tensor, shape: torch.Size) -> Tensor:
    """A vector seen as a tensor of that shape; weights of convolutions have their channels last, as images do."""
    if len(shape) != 4:
        return vector.view(shape)
    filters, channels, height, width = shape
    return vector.view(filters, height, width, channels).permute(0, 3, 1, 2)


def _starts(parameters: Sequence[nn.Parameter]) -> tuple[list[int], int]:
    """The place where each parameter starts, and the length of all."""
    starts, length = [], 0
    for parameter in parameters:
        starts.append(length)
        length += -(-parameter.numel() // ALIGN) * ALIGN
    return starts, length


class Flat:
    """The trainable parameters of a module, moved into `weights`; their gradients lie in `gradient`.

    sums: the gradient with two flags behind it, in one tensor, so that one reduction carries both. Nobody has written
    to it before the first `clear`.
    """

    def __init__(self, module: nn.Module) -> None:
        parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
        starts, length = _starts(parameters)
        # Memory is not filled before it is written: for a wide network that is much of what its start costs.
        self.weights = torch.empty(length, device=parameters[0].device if parameters else None)
        self.sums = torch.empty(length + ALIGN, device=self.weights.device)
        self.gradient = self.sums[:length]
        self.flags = self.sums[length : length + len((FAILED, NOT_FINITE))]
        for parameter, start in zip(parameters, starts, strict=True):
            end = start + parameter.numel()
            view = _laid(self.weights[start:end], parameter.shape)
            view.copy_(parameter.detach())
            parameter.data = view
            parameter.grad = _laid(self.gradient[start:end], parameter.shape)
            self.weights[end : end + -end % ALIGN].zero_()

    def copied(self, module: M) -> tuple[M, Tensor]:
        """A frozen copy of a module whose parameters are the first of these, and the one tensor that its own lie in."""
        parameters = list(module.parameters())
        starts, length = _starts(parameters)
        weights = self.weights[:length].clone()
        # What deepcopy finds in its memo it takes as it is: the weights are copied once, not twice.
        memo = {
            id(parameter): nn.Parameter(
                _laid(weights[start : start + parameter.numel()], parameter.shape), requires_grad=False
            )
            for parameter, start in zip(parameters, starts, strict=True)
        }
        return copy.deepcopy(module, memo), weights

    def clear(self) -> None:
        """Gradient and flags to zero; autograd then adds to the views in place."""
        self.sums.zero_()


def pack(tensors: list[Tensor]) -> Tensor:
    """Tensors of any kind as one float64 vector."""
    return torch.cat([tensor.detach().reshape(-1).double() for tensor in tensors])


def unpack(vector: Tensor, tensors: list[Tensor]) -> None:
    """Write a vector that `pack` made back into its tensors; whole numbers are rounded."""
    start = 0
    for tensor in tensors:
        part = vector[start : start + tensor.numel()].view(tensor.shape)
        tensor.detach().copy_(part if tensor.is_floating_point() else part.round())
        start += tensor.numel()


class Room:
    """Memory on the host that copies are made into again and again: fresh memory can cost more than the copying."""

    def __init__(self) -> None:
        self._kept: dict[tuple[str, str], Tensor] = {}

    def copies(self, part: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Copies, each with a storage of its own; they overwrite those that were made of the same part before."""
        return {name: self._copy((part, name), tensor.detach()) for name, tensor in tensors.items()}

    def _copy(self, place: tuple[str, str], tensor: Tensor) -> Tensor:
        kept = self._kept.get(place)
        if kept is None:
            kept = torch.empty_like(tensor, device="cpu", pin_memory=tensor.is_cuda)
            self._kept[place] = kept
        return kept.copy_(tensor)


def host(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copies on the host, each with a storage of its own."""
    return {name: tensor.detach().to("cpu", copy=True) for name, tensor in tensors.items()}
