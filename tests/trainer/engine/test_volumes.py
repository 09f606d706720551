"""Volumes go through training as pictures do: they are learned, scored by case, and the same on any number of ranks."""

import numpy as np
import pytest

import models
from tests.trainer.volume_files import REGIONS, drawn_cases, run
from trainer.data import open_data
from trainer.distributed.ranks import Ranks
from trainer.engine.fit import fit
from trainer.evaluation.metrics import validate
from trainer.evaluation.native_slices import volume_slices
from trainer.figures.volumes import worst_place, worst_volumes


@pytest.fixture(scope="module")
def split(tmp_path_factory):
    return drawn_cases(tmp_path_factory.mktemp("volumes"))


@pytest.mark.parametrize(
    ("changes", "losses", "names"),
    [
        ({}, {"ce": {}, "dice": {}}, ("ball", "core")),
        ({"classes": [], "regions": REGIONS}, {"bce-dice": {}}, ("whole", "core")),
    ],
    ids=["classes", "regions"],
)
def test_a_ball_is_learned_and_scored_by_case(split, tmp_path, changes, losses, names):
    settings = run(split.parent, split, data=changes, losses=losses, epochs=14, optim={"lr": 0.02})
    first, *_, last = (report.scores for report in fit(settings, cache=tmp_path))
    assert last[f"dice.{names[0]}"] > max(0.5, first[f"dice.{names[0]}"])
    assert f"dice.{names[1]}" in last


def test_distances_are_millimetres_of_whole_cases(split, tmp_path):
    settings = run(split.parent, split, epochs=1)
    (report,) = fit(settings, cache=tmp_path, monitor="hd95_missed_as_diagonal")
    diagonal = np.sqrt((18 * 1) ** 2 + (16 * 1) ** 2 + (12 * 2) ** 2)
    assert 2 < report.scores["hd95_missed_as_diagonal"] <= diagonal


class _Alone(Ranks):
    """One rank of two, that is not joined to the other."""

    def __init__(self, rank):
        super().__init__()
        self.rank, self.world = rank, 2


def test_two_ranks_share_the_cases_and_leave_none_out(split, tmp_path):
    settings = run(split.parent, split)
    data = open_data(settings.data, cache=tmp_path)
    predict = lambda windows: windows.repeat(1, 3, 1, 1, 1)  # noqa: E731  a network of three classes
    shares = [{index for index, _ in volume_slices(predict, data, "validation", _Alone(rank), None)} for rank in (0, 1)]
    assert shares == [set(range(12)), set(range(12, 24))]


def test_the_planes_of_a_figure_go_through_the_worst_error(split, tmp_path):
    truth = np.zeros((6, 7, 8), np.uint8)
    truth[2:4, 2:5, 3:6] = 1
    predicted = truth.copy()
    predicted[5, 1:4, 7] = 1
    assert worst_place(predicted, truth)[0] == 5
    assert worst_place(truth, truth) == (2, 2, 3)
    assert worst_place(np.zeros_like(truth), np.zeros_like(truth)) == (3, 3, 4)
    settings = run(split.parent, split)
    data = open_data(settings.data, cache=tmp_path)
    network = models.build(settings.student, in_channels=1, classes=3, size=(16, 16, 8), dims=3).eval()
    scores = validate(network, data, "validation", ranks=Ranks(), precision="fp32")
    picture = worst_volumes(
        "title", data, scores.images["dice"], {"student": network}, each=1, device=Ranks().device, precision="fp32"
    )
    assert picture.height > 6 * 200
    assert np.asarray(picture).std() > 10
