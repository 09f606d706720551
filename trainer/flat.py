"""Parameters of a module as views of one tensor, their gradients of another: one reduction, one step, few kernels."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

ALIGN = 16
"""Elements: each parameter starts at a multiple of 64 bytes, as a tensor of its own would."""


def _laid(vector: Tensor, shape: torch.Size) -> Tensor:
    """A vector seen as a tensor of that shape; weights of convolutions have their channels last, as images do."""
    if len(shape) != 4:
        return vector.view(shape)
    filters, channels, height, width = shape
    return vector.view(filters, height, width, channels).permute(0, 3, 1, 2)


def flatten(parameters: Sequence[nn.Parameter]) -> tuple[Tensor, list[int]]:
    """Move parameters into one new tensor, as views of it. Returns it with the place where each one starts."""
    starts, length = [], 0
    for parameter in parameters:
        starts.append(length)
        length += -(-parameter.numel() // ALIGN) * ALIGN
    weights = torch.zeros(length, device=parameters[0].device if parameters else None)
    for parameter, start in zip(parameters, starts, strict=True):
        view = _laid(weights[start : start + parameter.numel()], parameter.shape)
        view.copy_(parameter.detach())
        parameter.data = view
    return weights, starts


class Flat:
    """The trainable parameters of a module, moved into `weights`; their gradients lie in `gradient`.

    sums: the gradient with two flags behind it, in one tensor, so that one reduction carries both.
    """

    def __init__(self, module: nn.Module) -> None:
        parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
        self.weights, starts = flatten(parameters)
        length = len(self.weights)
        self.sums = torch.zeros(length + ALIGN, device=self.weights.device)
        self.gradient = self.sums[:length]
        self.flags = self.sums[length : length + 2]
        for parameter, start in zip(parameters, starts, strict=True):
            parameter.grad = _laid(self.gradient[start : start + parameter.numel()], parameter.shape)

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
