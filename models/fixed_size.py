"""Networks that are built for images of one size, such as those with tables of positions."""

import torch
from torch import Tensor


def square_side(size: int | None, published: int, stride: int, name: str) -> int:
    """The side of the images that a network is built for: `size`, or the published one where that is None.

    Raises ValueError in one line where it is no multiple of the network's stride.
    """
    side = published if size is None else size
    if side % stride or side < stride:
        below = side // stride * stride
        fits = f"{below} or {below + stride}" if below > 0 else f"{stride}"
        raise ValueError(f"data.size = {side}: {name} takes multiples of {stride}; choose {fits}")
    return side


def check_side(images: Tensor, side: int, name: str) -> None:
    """Raises ValueError where images (N, C, H, W) are not of the size that a network was built for."""
    # A traced network has its size fixed, and comparing traced sizes would warn.
    if torch.jit.is_tracing():  # type: ignore[attr-defined,no-untyped-call]  # torch leaves its jit untyped
        return
    height, width = images.shape[-2:]
    if (height, width) != (side, side):
        raise ValueError(
            f"data.size: this {name} was built for images of {side} x {side}, got {height} x {width}; build another"
        )
