"""Logits of prepared volumes on the grid of their files."""

import numpy as np
import pytest

from tests.trainer.native_grids import native_scores, reached, scores_back
from trainer.data.volumes.geometry import Grid, NativeGrid, nearest_labels
from trainer.evaluation.native_slices import SURELY_NOT


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
def test_slices_are_those_of_the_whole_volume_as_scipy_interpolates_it(way):
    scores = np.random.default_rng(1).normal(size=(3, *way.shape)).astype(np.float32)
    beyond = np.array([0.0, SURELY_NOT, SURELY_NOT]).reshape(3, 1, 1, 1)
    expected = np.where(reached(way), scores_back(scores, way), beyond)
    np.testing.assert_allclose(native_scores(scores, way, (4, 4, 4)), expected, atol=1e-5)


@pytest.mark.parametrize("rule", ["first-centre", "edge-to-edge"])
def test_resampled_labels_come_back_nearly(rule):
    side = 64
    labels = np.zeros((side, side, side), np.uint8)
    x, y, z = np.ogrid[:side, :side, :side]
    labels[(x - 30) ** 2 + (y - 28) ** 2 + (z - 33) ** 2 < 26**2] = 1
    labels[(x - 30) ** 2 + (y - 20) ** 2 + (z - 30) ** 2 < 16**2] = 2
    native = Grid.of(labels.shape, np.diag([-0.8, 0.8, 1.0, 1.0]))
    way = NativeGrid.unchanged(native).turned("RAS").respaced((0.7, 0.7, 0.9), rule)
    prepared = nearest_labels(labels, way)
    back = native_scores(np.stack([prepared == label for label in range(3)]).astype(np.float32), way).argmax(axis=0)
    for label in (1, 2):
        both = 2 * ((back == label) & (labels == label)).sum()
        assert both / ((back == label).sum() + (labels == label).sum()) > 0.99
