"""Where windows lie and what their voxels weigh."""

import numpy as np
import pytest

from trainer.data.volumes.windows import WEIGHTS, padding, starts


@pytest.mark.parametrize(
    ("length", "tiling", "expected"),
    [
        (96, "clamped", [0]),
        (100, "clamped", [0, 4]),
        (148, "clamped", [0, 48, 52]),
        (200, "clamped", [0, 48, 96, 104]),
        (96, "spread", [0]),
        (148, "spread", [0, 26, 52]),
        (200, "spread", [0, 35, 69, 104]),
    ],
)
def test_windows_of_96_voxels_that_overlap_by_half(length, tiling, expected):
    assert starts(length, 96, 0.5, tiling) == expected


@pytest.mark.parametrize("tiling", ["clamped", "spread"])
@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.5, 0.9])
def test_windows_leave_no_voxel_out(tiling, overlap):
    for length in range(7, 60):
        covered = {at + step for at in starts(length, 7, overlap, tiling) for step in range(7)}
        assert covered == set(range(length))


def test_gaussian_weights_fall_from_the_middle_to_a_floor():
    weights = WEIGHTS["gaussian"]((9, 8, 16))
    assert weights.max() == weights[4, 3, 7] == weights[4, 4, 8]
    assert weights.min() == np.float32(1e-3)
    ratio = weights[4, 3, 8] / weights[4, 3, 9]
    assert ratio == pytest.approx(np.exp((1.5**2 - 0.5**2) / (2 * 2.0**2)), rel=1e-6)  # a deviation of 16 / 8
    assert (WEIGHTS["constant"]((2, 3, 4)) == 1).all()


def test_the_odd_voxel_of_a_padding_goes_behind():
    assert padding((5, 8, 20), (8, 8, 9)) == [(1, 2), (0, 0), (0, 0)]
