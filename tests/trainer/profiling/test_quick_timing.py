"""What the forecast of time measures."""

import torch

from tests.trainer.volume_files import drawn_cases, run
from trainer.data import open_data
from trainer.profiling.quick_timing import measure_quickly


def test_validation_of_volumes_is_as_many_passes_as_windows_cover_its_cases(tmp_path):
    """Two cases of 18 x 16 x 12 voxels, windows of 16 x 16 x 8 that overlap by half: 2 x 1 x 2 each, and not 12 slices
    of full images."""
    own = run(tmp_path, drawn_cases(tmp_path))
    data = open_data(own.data, cache=tmp_path / "cache")
    timings = measure_quickly(own, own, None, data, device=torch.device("cpu"), seconds=0.05)
    assert timings.validation_images == 8
    assert timings.steps == 3
    low, high = timings.epoch_seconds(1)
    assert 0 < low <= high
