"""Where voxels go: other orders and directions of axes, other spacings, and the way back to the file's own grid."""

from fractions import Fraction
from itertools import permutations, product

import numpy as np
import pytest
from scipy import ndimage

from tests.trainer.native_grids import labels_back, reached
from trainer.data.volumes.geometry import (
    Grid,
    NativeGrid,
    directions,
    linear,
    nearest_labels,
    respaced_axis,
)

CORNER = (-31.5, 47.25, 12.0)
LENGTHS = (0.75, 1.25, 3.0)


def grid(shape=(7, 9, 5), lengths=LENGTHS, axes=(0, 1, 2), signs=(1, 1, 1), tilt=0.0) -> Grid:
    """A grid whose index axis i goes along the world axis axes[i]."""
    matrix = np.eye(4)
    matrix[:3, :3] = 0
    for at, (world, sign) in enumerate(zip(axes, signs, strict=True)):
        matrix[world, at] = sign * lengths[at]
    turn = np.array([[np.cos(tilt), -np.sin(tilt), 0], [np.sin(tilt), np.cos(tilt), 0], [0, 0, 1]])
    matrix[:3, :3] = turn @ matrix[:3, :3]
    matrix[:3, 3] = CORNER
    return Grid.of(shape, matrix)


@pytest.mark.parametrize("tilt", [0.0, 0.3])
def test_however_a_volume_is_stored_it_is_turned_to_right_front_and_head_and_every_voxel_keeps_its_place(tilt):
    rng = np.random.default_rng(1)
    volume = rng.normal(size=(7, 9, 5))
    for axes, signs in product(permutations(range(3)), product((1, -1), repeat=3)):
        native = grid(axes=axes, signs=signs, tilt=tilt)
        way = NativeGrid.unchanged(native).turned("RAS")
        turned = linear(volume, way)
        assert directions(way.grid.matrix) == ((0, 1), (1, 1), (2, 1))
        assert way.spacing == tuple(LENGTHS[axes.index(world)] for world in range(3))
        for place in ((0, 0, 0), (1, 2, 3), tuple(side - 1 for side in way.shape)):
            millimetres = way.grid.matrix @ [*place, 1]
            index = np.rint(np.linalg.solve(native.matrix, millimetres))[:3].astype(int)
            assert np.allclose(native.matrix @ [*index, 1], millimetres)
            assert turned[place] == volume[tuple(index)]


def test_axes_go_where_nibabel_says_also_where_they_are_oblique():
    nibabel = pytest.importorskip("nibabel")
    rng = np.random.default_rng(2)
    for _ in range(100):
        turn, _ = np.linalg.qr(rng.normal(size=(3, 3)))
        matrix = np.eye(4)
        matrix[:3, :3] = turn * rng.uniform(0.5, 4, 3)
        theirs = nibabel.io_orientation(matrix)
        ours = directions(matrix)
        assert [ours[int(world)] for world, _ in theirs] == [(at, int(sign)) for at, (_, sign) in enumerate(theirs)]


def test_left_is_low_or_high_as_the_orientation_says_and_a_stored_one_stays():
    native = NativeGrid.unchanged(grid(axes=(1, 2, 0), signs=(-1, 1, 1)))
    assert native.turned("stored") == native
    ras, lps = native.turned("RAS"), native.turned("LPS")
    volume = np.random.default_rng(3).normal(size=(7, 9, 5))
    assert np.array_equal(linear(volume, lps), linear(volume, ras)[::-1, ::-1])


@pytest.mark.parametrize(
    ("rule", "side", "before", "after", "count", "step", "first"),
    [
        ("first-centre", 100, 1.0, 1.5, 67, 1.5, 0.0),
        ("first-centre", 100, 0.8, 1.5, 54, 1.875, 0.0),
        ("first-centre", 100, 3.0, 1.0, 298, 1 / 3, 0.0),
        ("edge-to-edge", 100, 0.8, 1.5, 53, 100 / 53, (100 / 53 - 1) / 2),
        ("edge-to-edge", 100, 3.0, 1.0, 300, 1 / 3, -1 / 3),
        ("edge-to-edge", 12, 4.0, 5.0, 10, 1.2, 0.1),
        ("first-centre", 9, 0.7, 1.05, 6, 1.5, 0.0),
    ],
)
def test_two_rules_make_two_grids_of_one_spacing(rule, side, before, after, count, step, first):
    assert respaced_axis(side, before, after, rule) == (count, step, pytest.approx(first))


def test_an_edge_to_edge_grid_keeps_the_volumes_edges_and_states_its_true_spacing():
    native = Grid.of((12, 10, 10), np.diag([4.0, 1.0, 1.0, 1.0]))
    way = NativeGrid.unchanged(native).respaced((5.0, 1.0, 1.0), "edge-to-edge")
    assert way.shape == (10, 10, 10)
    assert way.spacing == pytest.approx((4.8, 1.0, 1.0))
    assert way.grid.matrix[0, 3] == pytest.approx(0.4)
    kept = NativeGrid.unchanged(native).respaced((5.0, 1.0, 1.0), "first-centre")
    assert kept.grid.matrix[0, 3] == 0
    assert kept.spacing == (5.0, 1.0, 1.0)


def ball(side: int, radius: float = 6.0) -> np.ndarray:
    x, y, z = np.ogrid[:side, :side, :side]
    return ((x - 20) ** 2 + (y - 20) ** 2 + (z - 20) ** 2 <= radius**2).astype(np.uint8)


@pytest.mark.parametrize("spacing", ["1.5", "0.5", "2.5"])
def test_labels_follow_one_rule_whatever_the_extent_and_however_the_file_runs(spacing):
    counts = set()
    for side, sign in product((40, 41, 42, 43), (1, -1)):
        native = Grid.of((side,) * 3, np.diag([sign, 1.0, -1.0, 1.0]))
        labels = ball(side)[::sign, :, ::-1]
        way = NativeGrid.unchanged(native).turned("RAS").respaced((float(spacing),) * 3, "first-centre")
        made = nearest_labels(labels, way)
        half = Fraction(1, 2)
        taken = [min(int((Fraction(spacing) * at + half) // 1), side - 1) for at in range(way.shape[0])]
        assert np.array_equal(made, ball(side)[np.ix_(taken, taken, taken)])
        counts.add(int(made.sum()))
    assert len(counts) == 1


def test_a_spacing_in_single_precision_moves_no_label_that_lies_half_way():
    saved = float(np.float32(0.8))
    assert saved != 0.8
    ways = [
        NativeGrid.unchanged(Grid.of((40,) * 3, np.diag([length, 1, 1, 1]))).respaced((1.5, 1, 1), "first-centre")
        for length in (0.8, saved)
    ]
    first, second = (nearest_labels(ball(40), way) for way in ways)
    assert np.array_equal(first, second)


SPACINGS = [(1.5, 1.5, 2.0), (0.5, 1.0, 4.0), (1.0, 1.0, 1.0)]


@pytest.mark.parametrize("spacing", SPACINGS)
def test_images_are_interpolated_as_scipy_does_in_float64(spacing):
    volume = np.random.default_rng(4).normal(size=(13, 11, 9)).astype(np.float32)
    way = NativeGrid.unchanged(grid((13, 11, 9), axes=(1, 0, 2), signs=(-1, 1, -1))).turned("RAS")
    for rule in ("first-centre", "edge-to-edge"):
        made = way.respaced(spacing, rule)
        there = [np.clip(axis.offset + axis.scale * np.arange(n), 0, volume.shape[axis.native] - 1)
                 for axis, n in zip(made.axes, made.shape, strict=True)]  # fmt: skip
        native = np.meshgrid(*there, indexing="ij")
        places = [native[[axis.native for axis in made.axes].index(at)] for at in range(3)]
        expected = ndimage.map_coordinates(volume.astype(np.float64), places, order=1)
        assert np.allclose(linear(volume, made), expected, atol=1e-12)


@pytest.mark.parametrize("spacing", SPACINGS)
def test_images_and_grids_are_those_of_monai(spacing):
    transforms = pytest.importorskip("monai.transforms")
    data = pytest.importorskip("monai.data")
    native = grid((24, 21, 9), axes=(0, 1, 2), signs=(-1, 1, 1))
    volume = np.random.default_rng(5).normal(size=(1, 24, 21, 9)).astype(np.float32)
    tensor = data.MetaTensor(volume, affine=native.matrix)
    turned = transforms.Orientation(axcodes="RAS", labels=None)(tensor)
    theirs = transforms.Spacing(pixdim=spacing, mode="bilinear")(turned)
    ours = NativeGrid.unchanged(native).turned("RAS").respaced(spacing, "first-centre")
    assert theirs.shape[1:] == ours.shape
    assert np.allclose(theirs.affine.numpy(), ours.grid.matrix, atol=1e-6)
    assert np.abs(theirs.numpy()[0] - linear(volume[0], ours)).max() < 1e-5


def test_labels_come_back_exactly_where_the_spacing_is_kept():
    rng = np.random.default_rng(6)
    for axes, signs in (((2, 0, 1), (1, -1, -1)), ((1, 0, 2), (-1, 1, 1))):
        labels = rng.integers(0, 4, (7, 9, 5)).astype(np.uint8)
        way = NativeGrid.unchanged(grid(axes=axes, signs=signs)).turned("RAS")
        prepared = nearest_labels(labels, way)
        assert np.array_equal(labels_back(prepared, way), labels)
        inner = way.cut((1, -2, 1), (3, 12, 2))
        inside = reached(inner)
        assert 0 < inside.sum() < labels.size
        part = nearest_labels(labels, inner)
        assert np.array_equal(labels_back(part, inner), labels * inside)
