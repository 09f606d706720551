"""`predict --grid` of a network for volumes."""

import numpy as np
import pytest
from PIL import Image

from tests.trainer.volume_files import REGIONS, drawn_cases, run, volume, write
from trainer.__main__ import main
from trainer.engine.fit import fit

pytest.importorskip("nibabel")


def test_a_grid_of_volumes_of_two_channels_shows_three_planes_a_case(tmp_path, capsys):
    split = drawn_cases(tmp_path)
    for number in range(6):
        image, _ = volume(number)
        affine = np.array([[-1.0, 0, 0, 30], [0, -1.0, 0, 20], [0, 0, 2.0, -7], [0, 0, 0, 1]])
        write(tmp_path / f"images/case_{number}.nii.gz", np.stack([image, -image], axis=-1), affine)
    own = run(tmp_path, split, data={"channels": 2, "classes": [], "regions": REGIONS}, epochs=1, losses={"dice": {}})
    weights, grid = tmp_path / "student.safetensors", tmp_path / "grid.png"
    for _ in fit(own, cache=tmp_path / "cache", export=weights):
        pass
    assert main(["predict", str(weights), "--grid", "-o", str(grid), "--cache", str(tmp_path / "cache")]) == 0
    assert "2 worst, 0 median: image, truth, student" in capsys.readouterr().out
    with Image.open(grid) as picture:
        assert picture.height > 6 * 100, "three planes of two cases"
