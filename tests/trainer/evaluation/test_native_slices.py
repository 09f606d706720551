"""Logits of prepared volumes on the grid of their files."""

import numpy as np
import pytest
import torch

from trainer.data.volumes import geometry
from trainer.data.volumes.geometry import Grid, NativeGrid
from trainer.evaluation.native_slices import SURELY_NOT, native_slices
from trainer.evaluation.sliding_window import SlidingWindow


def way_of(shape, spacing, wanted, toward, cut=None):
    """A prepared grid of a native one that lies L, then A, then S, off centre."""
    matrix = np.array([[0, spacing[1], 0, -40.0], [-spacing[0], 0, 0, 12.5], [0, 0, spacing[2], 7.0], [0, 0, 0, 1]])
    way = NativeGrid.unchanged(Grid.of(shape, matrix)).turned(toward)
    way = way if wanted is None else way.respaced(wanted, "first-centre")
    return way if cut is None else way.cut(*cut)


@pytest.mark.parametrize(
    "way",
    [
        way_of((9, 11, 7), (1, 1, 1), None, "stored"),
        way_of((9, 11, 7), (1, 2, 3), None, "RAS"),
        way_of((9, 11, 7), (0.8, 0.8, 5), (1.5, 1.5, 2.0), "RAS"),
        way_of((9, 11, 7), (1.5, 1, 3), (1.0, 1.0, 1.0), "LPS", ((2, 1, 3), (5, 6, 8))),
    ],
)
def test_slices_are_those_of_the_whole_volume(way):
    scores = np.random.default_rng(1).normal(size=(3, *way.shape)).astype(np.float32)
    expected = np.full((3, *way.native.shape), SURELY_NOT, np.float32)
    expected[0] = 0.0
    for where, plane in geometry.native_slices(scores, way):
        expected[(slice(None), *where)] = plane
    # A network that hands on its input: three channels, three classes.
    window = SlidingWindow((4, 4, 4), 0.5)
    slices = dict(native_slices(scores, way, window, lambda windows: windows, torch.device("cpu")))
    assert sorted(slices) == list(range(way.native.shape[2]))
    whole = torch.stack([slices[depth] for depth in sorted(slices)], dim=-1).numpy()
    np.testing.assert_allclose(whole, expected, atol=1e-5)
