"""A sliding window gives the weighted mean of all windows, piece by piece, along whichever axis."""

import numpy as np
import pytest
import torch

from trainer.data.volumes.windows import WEIGHTS, padding, starts
from trainer.evaluation.sliding_window import SlidingWindow

CPU = torch.device("cpu")


def predict(windows):
    """Two classes that depend on the value and on the place within the window."""
    place = torch.arange(windows[0, 0].numel()).view(windows.shape[2:]) / 100
    return torch.stack([windows[:, 0] + place, windows[:, 0] * place], dim=1)


def slow(volume, window):
    """The same as one loop over all windows."""
    around = padding(volume.shape[1:], window.size)
    padded = np.pad(volume, [(0, 0), *around])
    sums, total = np.zeros((2, *padded.shape[1:])), np.zeros(padded.shape[1:])
    weights = WEIGHTS[window.weights](window.size)
    axes = [
        starts(length, side, window.overlap, window.tiling)
        for length, side in zip(padded.shape[1:], window.size, strict=True)
    ]
    for corner in np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 3):
        own = tuple(slice(first, first + side) for first, side in zip(corner, window.size, strict=True))
        logits = predict(torch.from_numpy(padded[(slice(None), *own)][None])).numpy()[0]
        sums[(slice(None), *own)] += logits * weights
        total[own] += weights
    inner = tuple(slice(low, side - high) for (low, high), side in zip(around, padded.shape[1:], strict=True))
    return (sums / total)[(slice(None), *inner)]


@pytest.mark.parametrize("weights", ["constant", "gaussian"])
@pytest.mark.parametrize("shape", [(20, 11, 9), (8, 8, 8), (5, 13, 30)])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_pieces_make_up_the_weighted_mean(weights, shape, axis):
    volume = np.random.default_rng(0).normal(size=(1, *shape)).astype(np.float32)
    window = SlidingWindow((8, 6, 8), 0.5, weights, batch=3)
    pieces = list(window.planes(torch.from_numpy(volume), predict, CPU, axis=axis))
    ends = np.cumsum([piece.shape[1] for _, piece in pieces])
    assert [first for first, _ in pieces] == [0, *ends[:-1]]
    whole = torch.cat([piece for _, piece in pieces], dim=1).movedim(1, 1 + axis).numpy()
    np.testing.assert_allclose(whole, slow(volume, window), atol=1e-5)


def test_pieces_are_handed_on_before_the_whole_volume_was_seen():
    seen = []

    def watched(windows):
        seen.append(len(windows))
        return predict(windows)

    pieces = SlidingWindow((8, 8, 8), 0.5).planes(torch.zeros(1, 80, 8, 8), watched, CPU)
    next(pieces)
    assert len(seen) == 1
    assert len(list(pieces)) == len(seen) - 1 == 18
