"""Compiled passes over memory of batch normalisation with a ReLU behind it, forward and backward, by numba.

x is (rows, tiles, TILE): a map in channels-last order, tiles * TILE / channels pixels a row, so that `TILE` values lie
side by side however few channels there are. Values are fp32, or bf16 by their bits in uint16. Sums are taken
around a channel's first value, in fp32 over `BLOCK` rows and in double over those, so that they are exact enough
whatever a map's size and mean. One thread; the same bits for the same input.

Importing this module takes numba.
"""

from typing import Any

import numba as nb
import numpy as np
from llvmlite import ir
from numba.extending import intrinsic, overload

TILE = 32
BLOCK = 256
_jit: Any = nb.njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract", "reassoc", "nsz"})


@intrinsic
def _as_float(_context: Any, bits: Any) -> Any:  # noqa: ARG001 - numba's signature
    """The fp32 number that 32 bits are."""

    def generate(_target: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], ir.FloatType())

    return nb.float32(nb.uint32), generate


@intrinsic
def _as_bits(_context: Any, value: Any) -> Any:  # noqa: ARG001 - numba's signature
    """The 32 bits of an fp32 number."""

    def generate(_target: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], ir.IntType(32))

    return nb.uint32(nb.float32), generate


def _load(value: Any) -> Any:
    """A stored value as fp32."""
    raise NotImplementedError


@overload(_load)
def _overload_load(value: Any) -> Any:
    def widened(value: Any) -> Any:
        # numba shifts and adds in 64 bits, which would halve what one instruction holds.
        return _as_float(np.uint32(np.uint32(value) << np.uint32(16)))

    def same(value: Any) -> Any:
        return value

    return widened if isinstance(value, nb.types.Integer) else same


def _stored(value: Any, like: Any) -> Any:
    """fp32 as it is stored beside `like`; bf16 is rounded to the nearest, to even in the middle."""
    raise NotImplementedError


@overload(_stored)
def _overload_stored(value: Any, like: Any) -> Any:  # noqa: ARG001 - numba's signature
    def rounded(value: Any, like: Any) -> Any:  # noqa: ARG001
        bits = _as_bits(np.float32(value))
        odd = np.uint32(np.uint32(bits >> np.uint32(16)) & np.uint32(1))
        return np.uint16(np.uint32(np.uint32(bits + np.uint32(0x7FFF)) + odd) >> np.uint32(16))

    def same(value: Any, like: Any) -> Any:  # noqa: ARG001
        return np.float32(value)

    return rounded if isinstance(like, nb.types.Integer) else same


def _gated(grad: Any, y: Any) -> Any:
    """A stored gradient as fp32 where y is above 0, else 0."""
    raise NotImplementedError


@overload(_gated)
def _overload_gated(grad: Any, y: Any) -> Any:  # noqa: ARG001
    def by_bits(grad: Any, y: Any) -> Any:
        # By bits: a comparison of numbers would keep the loop from using wide instructions.
        kept = np.uint32(0xFFFF0000) if np.int16(y) > np.int16(0) else np.uint32(0)
        return _as_float(np.uint32(np.uint32(np.uint32(grad) << np.uint32(16)) & kept))

    def by_value(grad: Any, y: Any) -> Any:
        return grad if y > np.float32(0) else np.float32(0)

    return by_bits if isinstance(grad, nb.types.Integer) else by_value


@_jit
def _sums(x: Any, pivot: Any, total: Any, squares: Any) -> None:
    """Add, by channel, the sum of x - pivot and of its square."""
    rows, tiles, _ = x.shape
    around = _spread(pivot, tiles)
    one, two = np.empty(TILE, np.float32), np.empty(TILE, np.float32)
    for first in range(0, rows, BLOCK):
        for tile in range(tiles):
            one[:] = np.float32(0)
            two[:] = np.float32(0)
            for row in range(first, min(first + BLOCK, rows)):
                for lane in range(TILE):
                    value = _load(x[row, tile, lane]) - around[tile, lane]
                    one[lane] += value
                    two[lane] += value * value
            _add(total, one, tile)
            _add(squares, two, tile)


@_jit
def _gradient_sums(x: Any, y: Any, grad: Any, mean: Any, total: Any, products: Any, relu: bool) -> None:
    """Add, by channel, the sum of the gradient and that of its product with x - mean."""
    rows, tiles, _ = x.shape
    around = _spread(mean, tiles)
    one, two = np.empty(TILE, np.float32), np.empty(TILE, np.float32)
    for first in range(0, rows, BLOCK):
        for tile in range(tiles):
            one[:] = np.float32(0)
            two[:] = np.float32(0)
            for row in range(first, min(first + BLOCK, rows)):
                for lane in range(TILE):
                    value = _gated(grad[row, tile, lane], y[row, tile, lane]) if relu else _load(grad[row, tile, lane])
                    one[lane] += value
                    two[lane] += value * (_load(x[row, tile, lane]) - around[tile, lane])
            _add(total, one, tile)
            _add(products, two, tile)


@_jit
def _spread(values: Any, tiles: int) -> Any:
    """The values of channels, one a lane: (tiles, TILE)."""
    lanes = np.empty((tiles, TILE), np.float32)
    for tile in range(tiles):
        for lane in range(TILE):
            lanes[tile, lane] = values[(tile * TILE + lane) % values.size]
    return lanes


@_jit
def _add(sums: Any, lanes: Any, tile: int) -> None:
    for lane in range(TILE):
        sums[(tile * TILE + lane) % sums.size] += lanes[lane]


@_jit
def forward(
    x: Any,
    y: Any,
    weight: Any,
    bias: Any,
    running: Any,
    variances: Any,
    momentum: float,
    taken: Any,
    eps: float,
    relu: bool,
) -> None:
    """Normalise x into y. taken, (2, channels): the mean of each channel and 1 / sqrt(its variance + eps) are written.

    running and variances move towards the mean and the variance without bias by `momentum`, as torch's do.
    """
    mean, inverse = taken[0], taken[1]
    rows, tiles, _ = x.shape
    channels = weight.size
    pivot, scale = np.empty(channels, np.float32), np.empty(channels, np.float32)
    shift = np.empty(channels, np.float32)
    for channel in range(channels):
        pivot[channel] = _load(x[0, channel // TILE, channel % TILE])
    total, squares = np.zeros(channels), np.zeros(channels)
    _sums(x, pivot, total, squares)
    count = rows * tiles * TILE // channels
    for channel in range(channels):
        offset = total[channel] / count
        mean[channel] = pivot[channel] + offset
        variance = max(squares[channel] / count - offset * offset, 0.0)
        inverse[channel] = 1.0 / np.sqrt(variance + eps)
        running[channel] += momentum * (mean[channel] - running[channel])
        variances[channel] += momentum * (variance * count / (count - 1) - variances[channel])
        scale[channel] = weight[channel] * inverse[channel]
        shift[channel] = bias[channel] - mean[channel] * scale[channel]
    least = np.float32(0) if relu else np.float32(-np.inf)
    factors, offsets = _spread(scale, tiles), _spread(shift, tiles)
    for row in range(rows):
        for tile in range(tiles):
            for lane in range(TILE):
                value = _load(x[row, tile, lane]) * factors[tile, lane] + offsets[tile, lane]
                if value < least:
                    value = least
                y[row, tile, lane] = _stored(value, x[row, tile, lane])


@_jit
def backward(x: Any, y: Any, grad: Any, out: Any, weight: Any, taken: Any, moved: Any, relu: bool) -> None:
    """The gradients of x (into out), of weight and of bias (into moved, (2, channels)).

    y is what `forward` gave, and is read with a ReLU alone; taken: as `forward` wrote it.
    """
    mean, inverse = taken[0], taken[1]
    rows, tiles, _ = x.shape
    channels = weight.size
    total, products = np.zeros(channels), np.zeros(channels)
    _gradient_sums(x, y, grad, mean, total, products, relu)
    count = rows * tiles * TILE // channels
    of_grad, of_x = np.empty(channels, np.float32), np.empty(channels, np.float32)
    constant = np.empty(channels, np.float32)
    for channel in range(channels):
        moved[0, channel] = products[channel] * inverse[channel]
        moved[1, channel] = total[channel]
        of_grad[channel] = weight[channel] * inverse[channel]
        of_x[channel] = -of_grad[channel] * inverse[channel] * inverse[channel] * products[channel] / count
        constant[channel] = -of_grad[channel] * total[channel] / count - of_x[channel] * mean[channel]
    factors, slopes, offsets = _spread(of_grad, tiles), _spread(of_x, tiles), _spread(constant, tiles)
    for row in range(rows):
        for tile in range(tiles):
            for lane in range(TILE):
                value = _gated(grad[row, tile, lane], y[row, tile, lane]) if relu else _load(grad[row, tile, lane])
                line = slopes[tile, lane] * _load(x[row, tile, lane]) + offsets[tile, lane]
                out[row, tile, lane] = _stored(factors[tile, lane] * value + line, x[row, tile, lane])
