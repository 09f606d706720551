"""What the tests of packages share: two packages for volumes, which take seconds to make, and their command line."""

import pytest

from tests.trainer.dicom_series import draw_series
from tests.trainer.package.drawn_packages import RECIPE, VALUED, oblique, weights
from tests.trainer.volume_files import REGIONS, drawn_cases, run, volume, write
from trainer.__main__ import main
from trainer.cli.entry import guard


@pytest.fixture(scope="session")
def place(tmp_path_factory):
    """A folder with weights of classes and of regions, their packages, and a new case in `new`."""
    pytest.importorskip("nibabel")
    folder = tmp_path_factory.mktemp("volumes")
    split = drawn_cases(folder / "data", train=1, validation=2, test=1)
    data = RECIPE | {"classes": VALUED}
    weights(folder / "classes.safetensors", run(split.parent, split, data=data))
    regions = {"classes": [], "regions": REGIONS, "recipe": "msd", "weights": "gaussian"}
    settings = run(split.parent, split, data=regions, losses={"bce-dice": {}})
    weights(folder / "regions.safetensors", settings)
    write(folder / "new/a.nii.gz", volume(60, (31, 26, 9))[0], oblique())
    for name in ("classes", "regions"):
        words = ("package", folder / f"{name}.safetensors", folder / name, "--cache", folder / "cache")
        assert guard(lambda words=words: main(list(map(str, words)))) == 0
    return folder


@pytest.fixture(scope="session")
def series(place):
    """A folder with a DICOM series in p1/ct; the same voxels are a NIfTI file in `twin`."""
    held = draw_series(place / "series/p1/ct", volume(61, (27, 22, 9))[0], oblique())
    write(place / "twin/p1.nii.gz", held, oblique())
    return place / "series"


@pytest.fixture
def trainer(capsys):
    """Runs `python -m trainer` in this process: exit code, stdout and stderr."""

    def trainer(*words):
        capsys.readouterr()
        code = guard(lambda: main(list(map(str, words))))
        return code, *capsys.readouterr()

    return trainer
